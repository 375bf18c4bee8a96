"""The methods that the protocols compare, as settings of the train nodes, each from its paper.

Where DETEX's supplement gives the baselines' recipes they are followed; what is left open is told
in docs/evaluation.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..methods.detex import DetexConfig
from ..training.config import TrainConfig

# Every widget of DETEX Train, so that a change of a default there changes nothing here. The method
# is DETEX as in its paper (section 4.1): one rate, none of the additions.
PAPER: dict[str, Any] = {
    "method": "DETEX",
    "steps": 600,
    "batch_size": 4,
    "learning_rate": 1e-5,
    "gamma": 0.5,
    "lambda_ca": 0.01,
    "lambda_pr": 1.0,
    "seed": 0,
    "kv_rate": 1.0,
    "token_rate": 1.0,
    "mapper_rate": 1.0,
    "stratified_timesteps": False,
    "attributes": "mappers",
    "attention_norm": "mse",
    "attention_map": "max",
    "masked_loss": False,
    "detach_start_token": True,
    "center_features": False,
    "reduction": "mean",
    "resume": "auto",
    "snapshot_every": 50,
    "preview_every": 0,
    "rank": 0,
    "subject_attention": False,
    "center_poses": False,
    "vectors": 1,
    "learn_word": True,
    "relative_speed": False,
    "keep_every": 0,
    "layout_noise": False,
    "lambda_keep": 0.0,
    "averaged_steps": 0,
}
COPIES = 12


def additions() -> dict[str, Any]:
    """What DETEX Train does by itself and the paper does not, as its widgets."""
    found: dict[str, Any] = {}
    for kind in (DetexConfig, TrainConfig):
        paper, nodes = vars(kind()), vars(kind.recommended())
        found |= {name: value for name, value in nodes.items() if value != paper[name]}
    return {{"keep_weight": "lambda_keep"}.get(name, name): value for name, value in found.items()}


NODES = additions()
# Every widget of DisenDiff Train: the released code, whose captions keep no order.
RELEASED: dict[str, Any] = {
    "steps": 250,
    "batch_size": 4,
    "learning_rate": 2e-5,
    "lambda_bind": 0.0025,
    "lambda_separate": 0.0025,
    "lambda_pr": 1.0,
    "seed": 0,
    "kv_rate": 1.0,
    "token_rate": 1.0,
    "stratified_timesteps": False,
    "use_masks": False,
    "suppress": True,
    "random_order": True,
    "detach_start_token": True,
    "rank": 0,
    "resume": "auto",
    "snapshot_every": 50,
    "preview_every": 0,
}
SCENE_COPIES = 24  # of the photo


@dataclass(frozen=True)
class Recipe:
    """One method of a protocol. changes: of the widgets of its train node."""

    title: str  # in the tables
    changes: Mapping[str, Any] = field(default_factory=dict)

    widgets: ClassVar[Mapping[str, Any]]  # all of the train node

    @property
    def graph(self) -> str:
        """Which of the training workflows it takes."""
        return "plain"

    @property
    def needs_masks(self) -> bool:
        return False


@dataclass(frozen=True)
class SubjectRecipe(Recipe):
    """By DETEX Train. blank, copies: of Subject Images."""

    blank: str = "white"
    copies: int = 0  # scaled ones of each photo, in place of Custom Diffusion's augmentation
    places: bool = False  # the cut-out subject trains on Place Pictures

    widgets = PAPER

    @property
    def needs_masks(self) -> bool:
        """DETEX does, which is the node's own choice of a method."""
        return "method" not in self.changes

    @property
    def graph(self) -> str:
        return "places" if self.places else "features" if self.needs_masks else "plain"


@dataclass(frozen=True)
class SceneRecipe(Recipe):
    """By DisenDiff Train, from one photo."""

    widgets = RELEASED

    @property
    def needs_masks(self) -> bool:
        return bool(self.changes.get("use_masks"))

    @property
    def graph(self) -> str:
        return "masks" if self.needs_masks else "plain"


RECIPES: dict[str, Recipe] = {
    "textual_inversion": SubjectRecipe(
        "Textual Inversion",
        {
            "method": "Textual Inversion",  # 5000 steps of 5e-3, one photo each
            "steps": 5000,
            "batch_size": 1,
            "learning_rate": 4e-5,  # of which the method takes 125 times as much
            "token_rate": 8.0,
        },
    ),
    "custom_diffusion": SubjectRecipe(
        "Custom Diffusion",
        {"method": "Custom Diffusion", "steps": 300, "batch_size": 8},
        copies=COPIES,
    ),
    "dreambooth_lora": SubjectRecipe(
        "DreamBooth LoRA", {"method": "DreamBooth LoRA", "learn_word": False}
    ),
    "detex": SubjectRecipe("DETEX", copies=COPIES),
    "detex_nodes": SubjectRecipe("DETEX, the nodes' defaults", NODES, "random"),
    "detex_places": SubjectRecipe(
        "DETEX, the nodes' defaults, on places", NODES, "random", places=True
    ),
    "detex_without_mapper": SubjectRecipe(
        "DETEX without mappers", {"attributes": "vectors"}, copies=COPIES
    ),
    "detex_without_attention": SubjectRecipe(
        "DETEX without attention loss", {"lambda_ca": 0.0}, copies=COPIES
    ),
    "detex_without_joint": SubjectRecipe(
        "DETEX without joint training", {"gamma": 0.0}, copies=COPIES
    ),
    "detex_masked_loss": SubjectRecipe(
        "DETEX with masked diffusion loss", {"masked_loss": True}, copies=COPIES
    ),
}
# The papers' tables (DETEX, arXiv 2312.11826v1) and the methods that each compares.
TABLES = {
    "Table 1: methods": (
        "textual_inversion",
        "custom_diffusion",
        "dreambooth_lora",
        "detex",
        "detex_nodes",
        "detex_places",
    ),
    "Table 3: DETEX's parts": (
        "detex_without_mapper",
        "detex_without_attention",
        "detex_without_joint",
        "detex",
    ),
    "Table 4: masked diffusion loss": ("detex", "detex_masked_loss"),
}
# DisenDiff (arXiv 2403.18551): its baseline of several words at once, its parts, and the masks.
SCENE_RECIPES: dict[str, Recipe] = {
    "custom_diffusion": SceneRecipe(
        "Custom Diffusion", {"lambda_bind": 0.0, "lambda_separate": 0.0}
    ),
    "disendiff": SceneRecipe("DisenDiff"),
    "disendiff_without_bind": SceneRecipe("DisenDiff without bind loss", {"lambda_bind": 0.0}),
    "disendiff_without_separate": SceneRecipe(
        "DisenDiff without separate-and-strengthen loss", {"lambda_separate": 0.0}
    ),
    "disendiff_without_suppression": SceneRecipe(
        "DisenDiff without suppression", {"suppress": False}
    ),
    "disendiff_masks": SceneRecipe("DisenDiff, held to masks", {"use_masks": True}),
}
SCENE_TABLES = {
    "methods": ("custom_diffusion", "disendiff", "disendiff_masks"),
    "DisenDiff's parts": (
        "disendiff_without_bind",
        "disendiff_without_separate",
        "disendiff_without_suppression",
        "disendiff",
    ),
}


def chosen_recipes(names: str, recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """ "detex,custom_diffusion" -> by name, in the order given. Raises ValueError for others."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in recipes]
    if unknown or not wanted:
        said = f"--methods has no {', '.join(unknown)}" if unknown else "--methods names none"
        raise ValueError(f"{said}. Choose of {', '.join(recipes)}, with commas between.")
    return {name: recipes[name] for name in wanted}


def settings_of(recipe: Recipe, steps: int | None, rate: float) -> dict[str, Any]:
    """The widgets of its train node. steps: in place of the recipe's; rate: multiplies its own."""
    values = {**recipe.widgets, **recipe.changes}
    values["learning_rate"] *= rate
    return {**values, "steps": steps or values["steps"]}
