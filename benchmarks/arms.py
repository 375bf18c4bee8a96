"""The arms of the experiment: what is trained, and with which settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.methods.dreambooth_lora import DreamboothLoraConfig
from detex_pack.detex.methods.textual_inversion import TextualInversionConfig
from detex_pack.detex.prompt.words import Attributes
from detex_pack.detex.training.config import TrainConfig, as_json


@dataclass(frozen=True)
class Tuned:
    """What the little world needs in place of the paper's values: rates that were chosen with
    Custom Diffusion and DETEX on subjects that no report uses.
    """

    learning_rate: float = 2.5e-4  # per sample, as in TrainConfig
    token_rate: float = 4.0
    mapper_rate: float = 0.4
    priors: int = 24  # prior images of the class


TUNED = Tuned()
# How cells of methods other than DETEX are named: by what differs from DETEX's paper.
_OTHERS: dict[type, dict[str, Any]] = {
    CustomDiffusionConfig: {"attributes": "none", "gamma": 0, "attention_weight": 0},
    TextualInversionConfig: {"method": "Textual Inversion"},
    DreamboothLoraConfig: {"method": "DreamBooth LoRA"},
}


@dataclass(frozen=True)
class Arm:
    """One way to learn a subject. `config` is None for the base model itself.

    Scaled copies are off but where they are tried: they move the position, which is the pose in
    this world, and their captions have no words in it.
    """

    name: str
    title: str
    config: Any  # the settings of a method, or None
    train: dict[str, Any] = field(default_factory=dict)  # settings beside TUNED's
    blank: str = "white"
    scaled_copies: int = 0
    places: bool = False  # composites on places in place of blanks

    @property
    def words(self) -> bool:
        """Whether the arm learns [P_i] and [B_j]."""
        return isinstance(self.config, DetexConfig)

    def train_config(self, steps: int, seed: int) -> TrainConfig:
        """The optimisation of one cell."""
        settings = {name: getattr(TUNED, name) for name in _RATES} | self.train
        return TrainConfig(steps=steps, seed=seed, **settings)

    def settings(self, steps: int, seed: int) -> dict[str, Any]:
        """Everything in which the training differs from the paper's, as JSON values; nothing for
        the base. So a setting that comes to the pack later, and is off, leaves cells as they are.
        """
        if self.config is None:
            return {}
        paper = as_json(TrainConfig(), DetexConfig())
        named = as_json(self.train_config(steps, seed), self.config) | _OTHERS.get(
            type(self.config), {}
        )
        changed = {name: value for name, value in named.items() if value != paper.get(name)}
        subject: dict[str, Any] = {"blank": self.blank, "scaled_copies": self.scaled_copies}
        if self.places:
            subject = {"places": True, "scaled_copies": self.scaled_copies}
        return changed | subject | {"priors": TUNED.priors}


_RATES = ("learning_rate", "token_rate", "mapper_rate")
_SUBJECT = ("blank", "scaled_copies", "places")  # settings of an arm itself
_TRAIN = tuple(one.name for one in fields(TrainConfig))


def _changed(plain: Arm, name: str, title: str, **changes: Any) -> Arm:
    """The arm with other settings of its method, its training or its photos."""
    subject = {key: changes.pop(key) for key in _SUBJECT if key in changes}
    train = {key: changes.pop(key) for key in _TRAIN if key in changes}
    config = replace(plain.config, **changes)
    train = plain.train | train
    return replace(plain, name=name, title=title, config=config, train=train, **subject)


_FREE = {"attributes": Attributes.VECTORS, "mapper_rate": TUNED.token_rate}  # at the rate of [V]
_FREE_100 = _FREE | {"mapper_rate": 100 * TUNED.token_rate}
_CUSTOM = Arm("custom_diffusion", "Custom Diffusion", CustomDiffusionConfig())
_DETEX = Arm("detex", "DETEX", DetexConfig())
_IMPROVED = _changed(  # what the nodes did without places, but for relative_speed
    _DETEX,
    "improved",
    "DETEX, improved mode",
    subject_attention=True,
    center_poses=True,
    blank="random",
)
_WORD = Arm(  # at the rate that TUNED has for [V], so that arms differ in what is learned alone
    "textual_inversion_word",
    "Textual Inversion, the method",
    TextualInversionConfig(rate=1.0),
    {"token_rate": TUNED.token_rate},
)
_HELD = {"subject_attention": True}
_COPIES = {"scaled_copies": 12}


def _rate(factor: float) -> dict[str, float]:
    return {"learning_rate": TUNED.learning_rate * factor}


_MAIN = (
    Arm("base", "base model", None),
    _CUSTOM,
    _DETEX,
    _changed(_DETEX, "no_attention", "DETEX without attention loss", attention_weight=0),
    _changed(_DETEX, "no_joint", "DETEX without joint training", gamma=0),
    _changed(_DETEX, "no_mapper", "DETEX without mappers", **_FREE),
    _changed(_DETEX, "held", "DETEX, [V] held to the subject", **_HELD),
    _IMPROVED,
    _changed(_CUSTOM, "textual_inversion", "Textual Inversion", kv_rate=0),
    _WORD,
    Arm("dreambooth_lora", "DreamBooth LoRA, rank 16", DreamboothLoraConfig()),
    _changed(_DETEX, "no_mapper_100", "DETEX without mappers, vectors 100 x", **_FREE_100),
    _changed(_DETEX, "gamma_1", "DETEX, gamma 1", gamma=1),
    _changed(_DETEX, "masked_loss", "DETEX, masked diffusion loss", masked_loss=True),
    _changed(_CUSTOM, "custom_diffusion_copies", "Custom Diffusion, 12 scaled copies", **_COPIES),
)
_DEVIATIONS = {  # from DETEX, one each: the open questions of the paper (docs/science.md)
    "centered_poses": ("[P] words centered", {"center_poses": True}),
    "l1": ("attention norm l1", {"attention_norm": "l1"}),
    "fro": ("attention norm fro", {"attention_norm": "fro"}),
    "raw": ("raw attention maps", {"attention_map": "raw"}),
    "minmax": ("min-max attention maps", {"attention_map": "minmax"}),
    "lambda_low": ("lambda_CA 0.0025", {"attention_weight": 0.0025}),
    "lambda_high": ("lambda_CA 0.04", {"attention_weight": 0.04}),
    "lambda_1": ("lambda_CA 1", {"attention_weight": 1.0}),
    "masked_pose": ("no [P] term where blanked", {"masked_pose": False}),
    "rate_half": ("learning rate x 0.5", _rate(0.5)),
    "rate_double": ("learning rate x 2", _rate(2.0)),
    "mapper_1": ("mapper rate as all others", {"mapper_rate": 1.0}),
    "plain_mapper": ("mapper without norm and anchor", {"plain_mapper": True}),
    "centered": ("centered features", {"center_features": True}),
    "stratified": ("stratified timesteps", {"stratified_timesteps": True}),
    "start_token": ("start token not detached", {"detach_start_token": False}),
    "adobe": ("Adobe's reduction", {"reduction": "adobe"}),
    "grey": ("blank grey", {"blank": "grey"}),
    "black": ("blank black", {"blank": "black"}),
    "random": ("blank random", {"blank": "random"}),
    "copies": ("12 scaled copies", _COPIES),
}
_VARIANTS = {  # from improved mode, one each
    "uncentered": ("[P] free", {"center_poses": False}),
    "improved_mapper_1": ("mapper rate as all others", {"mapper_rate": 1.0}),
    "improved_half": ("learning rate x 0.5", _rate(0.5)),
    "improved_kv_half": ("K/V rate x 0.5", {"kv_rate": 0.5}),
    "improved_kv_quarter": ("K/V rate x 0.25", {"kv_rate": 0.25}),
    "improved_kv_tenth": ("K/V rate x 0.1", {"kv_rate": 0.1}),
    "improved_copies": ("12 scaled copies", _COPIES),
}
_PLACES_FIRST = _changed(
    _IMPROVED,
    "places_first",
    "DETEX on places, first recipe",
    places=True,
    center_poses=False,
    relative_speed=True,
    mapper_rate=1.0,
)
_SLOWER = {"token_rate": 4.0, "mapper_rate": 1.0}
_ON_PLACES = _changed(  # what the nodes do where they have places
    _PLACES_FIRST,
    "places",
    "DETEX on places",
    center_features=True,
    layout_noise=True,
    keep_weight=0.1,
    token_rate=8.0,
    mapper_rate=2.0,
    averaged_steps=50,
)
_ABSOLUTE = {"center_poses": True, "relative_speed": False}
_PLACES = {  # from that, one each
    "not_kept": ("K, V not kept", {"keep_weight": 0.0}),
    "any_noise": ("every noise as often", {"layout_noise": False}),
    "last_step": ("the last step's weights, not their average", {"averaged_steps": None}),
    "features_as_they_are": ("features not centered", {"center_features": False}),
    "slower": ("[V] half, mappers a quarter as fast", _SLOWER),
}
_FIRST = {  # from the first recipe: what its settings were chosen among
    "on_places_centered": (
        "[P] words centered, the rates of improved mode",
        _ABSOLUTE | {"mapper_rate": TUNED.mapper_rate},
    ),
    "on_places_centered_faster": (
        "the same, [V] and the mappers 2.5 times as fast",
        _ABSOLUTE | {"token_rate": 10.0, "mapper_rate": 1.0},
    ),
}


def _register(plain: Arm, rows: dict[str, tuple[str, dict[str, Any]]]) -> tuple[Arm, ...]:
    named = ((f"register_{name}", *row) for name, row in rows.items())
    return tuple(_changed(plain, name, title, **changes) for name, title, changes in named)


_DEVIATING, _VARYING = _register(_DETEX, _DEVIATIONS), _register(_IMPROVED, _VARIANTS)
_FIRST_TRIED = _register(_PLACES_FIRST, _FIRST)
_TRIED = (_ON_PLACES, *_register(_ON_PLACES, _PLACES), _PLACES_FIRST, *_FIRST_TRIED)
ARMS = {arm.name: arm for arm in (*_MAIN, *_DEVIATING, *_VARYING, *_TRIED)}
MAIN = tuple(arm.name for arm in _MAIN)
COMPARED = MAIN[: MAIN.index("no_mapper") + 1]  # what the predeclared hypotheses need
REGISTER = ("held", "improved", *(arm.name for arm in _DEVIATING))  # run beside "detex"
VARIANTS = tuple(arm.name for arm in _VARYING)  # run beside "improved"
PLACES = tuple(arm.name for arm in _TRIED)  # run beside "improved"
FIRST_PLACES = tuple(arm.name for arm in _FIRST_TRIED)  # run beside "places_first"


def arm_named(name: str) -> Arm:
    """The arm. Raises ValueError, listing the names, for one that does not exist."""
    if name not in ARMS:
        raise ValueError(f"There is no arm {name!r}. Choose from: {', '.join(ARMS)}.")
    return ARMS[name]


def tuned_values() -> dict[str, Any]:
    """TUNED for the report."""
    return asdict(TUNED)
