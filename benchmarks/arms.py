"""The arms of the experiment: what is trained, and with which settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
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
_AT_4 = {"token_rate": TUNED.token_rate}
_FREE = {"mapper_rate": TUNED.token_rate}  # free vectors at the rate of [V]
_FREE_100 = {"mapper_rate": 100 * TUNED.token_rate}
_FASTER_MAPPER = {"mapper_rate": 1.0}


def _detex(name: str, title: str, train: dict[str, Any] | None = None, **settings: Any) -> Arm:
    return Arm(name, title, DetexConfig(**settings), train or {})


def _improved(name: str, title: str, train: dict[str, Any] | None = None, **settings: Any) -> Arm:
    """What the nodes do by default, but for `settings`."""
    chosen = {"subject_attention": True, "center_poses": True} | settings
    return replace(_detex(name, title, train, **chosen), blank="random")


def _inversion() -> TextualInversionConfig:
    """At the rate that TUNED has for [V], so that arms differ in what is learned alone."""
    return TextualInversionConfig(rate=1.0)


def _main_arms() -> list[Arm]:
    vectors = {"attributes": Attributes.VECTORS}
    custom = CustomDiffusionConfig()
    held = _detex("held", "DETEX, [V] held to the subject", subject_attention=True)
    return [
        Arm("base", "base model", None),
        Arm("custom_diffusion", "Custom Diffusion", custom),
        _detex("detex", "DETEX"),
        _detex("no_attention", "DETEX without attention loss", attention_weight=0),
        _detex("no_joint", "DETEX without joint training", gamma=0),
        _detex("no_mapper", "DETEX without mappers", _FREE, **vectors),
        held,
        _improved("improved", "DETEX, improved mode"),
        Arm("textual_inversion", "Textual Inversion", custom, {"kv_rate": 0}),
        Arm("textual_inversion_word", "Textual Inversion, the method", _inversion(), _AT_4),
        Arm("dreambooth_lora", "DreamBooth LoRA, rank 16", DreamboothLoraConfig()),
        _detex("no_mapper_100", "DETEX without mappers, vectors 100 x", _FREE_100, **vectors),
        _detex("gamma_1", "DETEX, gamma 1", gamma=1),
        _detex("masked_loss", "DETEX, masked diffusion loss", masked_loss=True),
        Arm(
            "custom_diffusion_copies",
            "Custom Diffusion, 12 scaled copies",
            custom,
            scaled_copies=12,
        ),
    ]


def _scaled_by(factor: float) -> dict[str, Any]:
    return {"learning_rate": TUNED.learning_rate * factor}


def _variant_arms() -> list[Arm]:
    """One deviation from improved mode each."""
    rates = (("half", 0.5), ("quarter", 0.25), ("tenth", 0.1))
    copied = _improved("register_improved_copies", "12 scaled copies")
    return [
        _improved("register_uncentered", "[P] free", center_poses=False),
        _improved("register_improved_mapper_1", "mapper rate as all others", _FASTER_MAPPER),
        _improved("register_improved_half", "learning rate x 0.5", _scaled_by(0.5)),
        *(
            _improved(f"register_improved_kv_{name}", f"K/V rate x {rate}", {"kv_rate": rate})
            for name, rate in rates
        ),
        replace(copied, scaled_copies=12),
    ]


def _places_arms() -> list[Arm]:
    """Composites on places in place of blanks, and the balance of [V] and the mappers with them."""
    even = {"token_rate": 10.0, "mapper_rate": 1.0}
    return [
        replace(_improved("places", "DETEX on places"), places=True),
        replace(_improved("places_faster", "DETEX on places, [V] faster", even), places=True),
    ]


def _register_arms() -> list[Arm]:
    """One deviation from DETEX each: the open questions of the paper (docs/science.md)."""
    detex = _detex("detex", "DETEX")
    return [
        _detex("register_centered_poses", "[P] words centered", center_poses=True),
        _detex("register_l1", "attention norm l1", attention_norm="l1"),
        _detex("register_fro", "attention norm fro", attention_norm="fro"),
        _detex("register_raw", "raw attention maps", attention_map="raw"),
        _detex("register_minmax", "min-max attention maps", attention_map="minmax"),
        _detex("register_lambda_low", "lambda_CA 0.0025", attention_weight=0.0025),
        _detex("register_lambda_high", "lambda_CA 0.04", attention_weight=0.04),
        _detex("register_lambda_1", "lambda_CA 1", attention_weight=1.0),
        _detex("register_masked_pose", "no [P] term where blanked", masked_pose=False),
        _detex("register_rate_half", "learning rate x 0.5", _scaled_by(0.5)),
        _detex("register_rate_double", "learning rate x 2", _scaled_by(2.0)),
        _detex("register_mapper_1", "mapper rate as all others", _FASTER_MAPPER),
        _detex("register_plain_mapper", "mapper without norm and anchor", plain_mapper=True),
        _detex("register_centered", "centered features", center_features=True),
        _detex("register_stratified", "stratified timesteps", {"stratified_timesteps": True}),
        _detex("register_start_token", "start token not detached", detach_start_token=False),
        _detex("register_adobe", "Adobe's reduction", reduction="adobe"),
        replace(detex, name="register_grey", title="blank grey", blank="grey"),
        replace(detex, name="register_black", title="blank black", blank="black"),
        replace(detex, name="register_random", title="blank random", blank="random"),
        replace(detex, name="register_copies", title="12 scaled copies", scaled_copies=12),
    ]


MAIN = tuple(arm.name for arm in _main_arms())
COMPARED = MAIN[: MAIN.index("no_mapper") + 1]  # what the predeclared hypotheses need
REGISTER = ("held", "improved", *(arm.name for arm in _register_arms()))  # run beside "detex"
VARIANTS = tuple(arm.name for arm in _variant_arms())  # run beside "improved"
PLACES = tuple(arm.name for arm in _places_arms())  # run beside "improved"
_ALL = (*_main_arms(), *_register_arms(), *_variant_arms(), *_places_arms())
ARMS = {arm.name: arm for arm in _ALL}


def arm_named(name: str) -> Arm:
    """The arm. Raises ValueError, listing the names, for one that does not exist."""
    if name not in ARMS:
        raise ValueError(f"There is no arm {name!r}. Choose from: {', '.join(ARMS)}.")
    return ARMS[name]


def tuned_values() -> dict[str, Any]:
    """TUNED for the report."""
    return asdict(TUNED)
