"""The exact reader of toyland finds, from pixels alone, the parts that no caption names."""

import torch

from detex_pack.benchmarks.toyland_reader import read_parts
from detex_pack.detex.toyland import world
from detex_pack.detex.toyland.render import render
from detex_pack.pretraining.judge import degrade


def shares(images: torch.Tensor, toys) -> dict[str, float]:
    """Of toys [N], how often each part is read right; colours where there is a hat or feet."""
    named = {name: getattr(toys, name) for name in ("shape", "main", "second", "pattern")}
    rng = torch.Generator().manual_seed(2)
    near = toys.centre + (torch.rand(len(images), 2, generator=rng) * 2 - 1) * 3
    read = read_parts(images, named, near)
    right = {n: getattr(read, n) == getattr(toys, n) for n in ("eyes", "mouth", "look")}
    for part in ("hat", "feet"):
        colour = getattr(read, f"{part}_colour") == getattr(toys, f"{part}_colour")
        right[part] = getattr(read, part) == getattr(toys, part)
        right[f"{part}_colour"] = (right[part] & colour)[getattr(toys, part) > 0]
    return {name: float(hits.float().mean()) for name, hits in right.items()}


def test_faces_hats_and_feet_are_read_from_new_renders():
    scenes = world.any_scenes(16, torch.Generator().manual_seed(1))
    read = shares(render(scenes)[0], scenes.toys.rows((slice(None), 0)))
    assert min(read["eyes"], read["mouth"], read["look"]) >= 0.9
    assert min(read["hat"], read["feet"]) >= 0.8


def test_blur_and_noise_cost_little():
    scenes = world.any_scenes(8, torch.Generator().manual_seed(3))
    images = degrade(render(scenes)[0], torch.Generator().manual_seed(4))
    read = shares(images, scenes.toys.rows((slice(None), 0)))
    assert min(read["eyes"], read["hat"]) >= 0.75
