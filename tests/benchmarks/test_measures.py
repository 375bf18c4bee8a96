"""The measures on inputs whose value is known by hand."""

import numpy as np
import pytest

from detex_pack.benchmarks import measures
from detex_pack.benchmarks.cells import Cell
from detex_pack.benchmarks.prompts import requests
from detex_pack.benchmarks.references import reference_scenes, reported_identities
from detex_pack.detex.toys.scene import BACKGROUNDS

IDENTITY = {"shape": 1, "main": 2, "second": 3, "pattern": 0}


def seen(**factors: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in factors.items()}


def test_fidelity_counts_colours_and_pattern_only_on_the_right_shape():
    pictures = seen(
        shape=[1, 1, 0, 1], main=[2, 2, 2, 0], second=[3, 0, 3, 0], pattern=[0, 0, 0, 0]
    )
    assert measures.subject_fidelity(pictures, IDENTITY) == pytest.approx(
        (1 + 2 / 3 + 0 + 1 / 3) / 4
    )


def test_background_leak_is_what_the_base_model_does_not_do_by_itself():
    neutral, base = np.array([4, 4, 5, 0]), np.array([4, 0, 1, 2])
    assert measures.background_leak(neutral, base, [4, 5]) == pytest.approx(3 / 4 - 1 / 4)


def test_conflict_leak_is_the_share_of_edits_that_show_a_photos_background():
    assert measures.conflict_leak(np.array([4, 0, 0, 5, 1]), [4, 5]) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("neutral", "base", "leak"),
    [([0, 1, 2, 3], [3, 2, 1, 0], 0.0), ([0, 0], [1, 2], 1.0), ([0, 0, 0, 1], [0, 1], 0.25)],
)
def test_pose_leak_is_the_total_variation_of_two_distributions(neutral, base, leak):
    assert measures.pose_leak(np.array(neutral), np.array(base), 5) == pytest.approx(leak)


def test_editability_averages_over_the_named_factors_only():
    named = seen(background=[3, 3, -1, 3], position=[-1, 2, 2, 2])
    pictures = seen(background=[3, 3, 7, 0], position=[0, 0, 2, 0])
    assert measures.editability(pictures, named) == pytest.approx((1 + 1 / 2 + 1 + 0) / 4)


def test_each_named_factor_alone_counts_the_pictures_that_name_it():
    named, seen_there = np.array([3, 3, -1, 3]), np.array([3, 3, 3, 0])
    assert measures.obeyed(seen_there, named) == pytest.approx(2 / 3)


def test_pale_grounds_are_sand_and_snow_in_neutral_pictures():
    cell = Cell("custom_diffusion", reported_identities(1)[0])
    result, base = perfect(cell, words=False), perfect(cell.base, words=False)
    sand, snow, grass = (str(BACKGROUNDS.index(name)) for name in ("sand", "snow", "grass"))
    rest = result["judge"]["background"][32:]
    for ground, pale in ((sand, 1), (snow, 1), (grass, 0)):
        result["judge"]["background"] = ground * 32 + rest
        assert measures.measure(cell, result, base)["pale"] == pale


def test_retention_of_both_needs_both():
    pictures = seen(background=[1, 1, 0], position=[2, 0, 2])
    wanted = seen(background=[1, 1, 1], position=[2, 2, 2])
    assert measures.retention(pictures, wanted) == pytest.approx(1 / 3)
    assert measures.retention(pictures, {"position": wanted["position"]}) == pytest.approx(2 / 3)


def test_purity_is_one_where_words_bring_no_more_of_the_other_than_chance():
    base = seen(background=[0, 1, 2, 3], position=[0, 1, 2, 3])
    photos = seen(background=[0, 0, 0, 0], position=[1, 1, 1, 1])
    chance = measures.purity(np.array([0, 5, 6, 7]), np.array([1, 0, 0, 0]), base, photos, photos)
    assert chance == pytest.approx(1)
    leaky = measures.purity(np.zeros(4, int), np.ones(4, int), base, photos, photos)
    assert leaky == pytest.approx(1 - (0.75 + 0.75) / 2)


def perfect(cell: Cell, *, words: bool) -> dict:
    """A result in which every picture shows exactly what was asked for."""
    scenes = reference_scenes(cell.identity, cell.photos, cell.rho, cell.seed)
    asked = requests(scenes, cell.identity[0], words=words)
    own = {name: str(index) * len(asked) for name, index in measures.indices(cell.identity).items()}
    calm = {"background": 7, "position": 4}
    for name, usual in calm.items():
        values = [getattr(request, name) for request in asked]
        own[name] = "".join(str(usual if v < 0 else v) for v in values)
    kinds = dict.fromkeys((r.kind for r in asked), 0.5)
    return {"judge": own, "plain": "0" * len(asked), "similarity": kinds}


def test_a_perfect_cell_scores_full_marks():
    cell = Cell("detex", reported_identities(1)[0])
    values = measures.measure(cell, perfect(cell, words=True), perfect(cell.base, words=False))
    for name in ("S", "S_P", "E", "E_b", "E_p", "R_P", "R_B", "R_PB"):
        assert values[name] == 1, name
    for name in ("L_b", "L_b'", "L_p", "plain"):
        assert values[name] == 0, name
    assert values["Q"] == 0.5


def test_arms_without_words_have_no_word_measures():
    cell = Cell("custom_diffusion", reported_identities(1)[0])
    result = perfect(cell, words=False)
    values = measures.measure(cell, result, perfect(cell.base, words=False))
    assert not {"S_P", "R_P", "R_B", "R_PB", "D", "R_P+D"} & set(values)


def test_one_photo_has_no_mixed_words():
    cell = Cell("detex", reported_identities(1)[0], photos=1)
    values = measures.measure(cell, perfect(cell, words=True), perfect(cell.base, words=False))
    assert "R_PB" not in values
    assert values["R_P"] == 1
