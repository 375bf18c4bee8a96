"""What each score says, and which of them stand for a concept: likeness, text, leak and drift."""

from typing import NamedTuple

from .evaluation import Evaluation, Score


class Measure(NamedTuple):
    """The part of a score's name after the encoder's kind, in words."""

    better: int  # 1: more is better; -1: less is; 0: neither
    says: str
    claim: str  # "A ... than B" of the better one


LIKE = "looks more like the subject"
MEASURES = {
    "T": Measure(1, "picture and prompt agree", "follows the prompts better"),
    "I": Measure(1, "like the photos", "looks more like the photos"),
    "I fg_ref": Measure(1, "like the subject without its background", LIKE),
    "I fg_both": Measure(1, "subject like subject, both without background", LIKE),
    "leak": Measure(-1, "the photos' backgrounds come along", "brings less of the photos along"),
    "drift": Measure(-1, "the class without [V] has moved", "changes the class less"),
    "diversity": Measure(0, "pictures of one prompt differ", "draws pictures that differ more"),
}
LIKENESS = ("I fg_ref", "I")  # the first that is there stands for it


def measure_of(score: Score) -> Measure:
    return MEASURES[measure_name(score)]


def measure_name(score: Score) -> str:
    """ "CLIP-I fg_ref" -> "I fg_ref"; "DINO drift" -> "drift"."""
    return next(name for name in MEASURES if score.name.endswith(name))


def likeness(evaluation: Evaluation) -> Score:
    """The score that says how well the subject is kept: with masked photos where there are masks,
    by the first encoder.
    """
    names = {measure_name(score): score for score in reversed([*evaluation.scores])}
    return next(names[name] for name in LIKENESS if name in names)


def agreement(evaluation: Evaluation) -> Score | None:
    """The score that says how well the prompts are followed; None without a text encoder."""
    return next((score for score in evaluation.scores if measure_name(score) == "T"), None)


def headline(evaluation: Evaluation) -> list[Score]:
    """What is compared: of each encoder likeness, text, leak and drift. Scores that say the same
    in another way would only make it harder to be sure of anything.
    """
    names = [measure_name(score) for score in evaluation.scores]
    left_out = {"diversity", "I fg_both"} | ({"I"} if "I fg_ref" in names else set())
    pairs = zip(evaluation.scores, names, strict=True)
    return [score for score, name in pairs if name not in left_out]
