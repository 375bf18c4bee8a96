"""Settings check themselves, and their defaults are the paper's."""

import json

import pytest

from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.methods.dreambooth_lora import DreamboothLoraConfig
from detex_pack.detex.methods.textual_inversion import TextualInversionConfig
from detex_pack.detex.training.config import TrainConfig, as_json


def test_default_rate_is_the_papers_times_the_batch():
    assert TrainConfig().effective_rate == pytest.approx(4e-5)


def test_defaults_are_the_paper_mode():
    config = DetexConfig()
    assert (config.gamma, config.attention_weight, config.prior_weight) == (0.5, 0.01, 1.0)
    assert not config.subject_attention
    assert not config.center_poses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must lie between 0 and 1, got 0.0"),
        ({"learning_rate": 1.5}, "got 1.5"),
        ({"rank": 0}, "rank must be at least 1, or None for the family's, got 0"),
        ({"kv_rate": -1}, "kv_rate multiplies the learning rate: 0 or more, got -1"),
        ({"token_rate": float("nan")}, "token_rate .* got nan"),
        ({"mapper_rate": float("inf")}, "mapper_rate .* got inf"),
        ({"kv_rate": 0, "token_rate": 0}, r"both 0: \[V\] would learn nothing"),
    ],
)
def test_senseless_training_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.1}, "gamma is a probability between 0 and 1, got 1.1"),
        ({"gamma": -0.1}, "got -0.1"),
        ({"attention_weight": -1}, "attention_weight must not be negative, got -1"),
        ({"prior_weight": -1}, "prior_weight must not be negative, got -1"),
        ({"attention_norm": "l2"}, "attention_norm must be one of .*mse.*got 'l2'"),
        ({"attention_map": "sum"}, "attention_map must be one of .*minmax.*got 'sum'"),
        ({"reduction": "sum"}, "reduction must be one of .*adobe.*got 'sum'"),
    ],
)
def test_senseless_method_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DetexConfig(**settings)


def test_nodes_defaults_are_the_papers_and_our_additions():
    paper, nodes = DetexConfig(), DetexConfig.recommended()
    changed = {name: v for name, v in vars(nodes).items() if v != getattr(paper, name)}
    ours = (
        "subject_attention",
        "center_poses",
        "relative_speed",
        "center_features",
        "layout_noise",
    )
    assert changed == dict.fromkeys(ours, True) | {"keep_weight": 0.1}
    paper, nodes = TrainConfig(), TrainConfig.recommended()
    changed = {name: v for name, v in vars(nodes).items() if v != getattr(paper, name)}
    assert changed == {"token_rate": 8.0, "mapper_rate": 2.0, "averaged_steps": 50}


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (CustomDiffusionConfig, {"prior_weight": -1}, "prior_weight must not be negative, got -1"),
        (CustomDiffusionConfig, {"reduction": "sum"}, "reduction must be one of .*got 'sum'"),
        (TextualInversionConfig, {"vectors": 0}, "1 to 32 vectors, got 0"),
        (TextualInversionConfig, {"rate": 0}, "above 0, got 0"),
        (DreamboothLoraConfig, {"lora_rank": 129}, "between 1 and 128, got 129"),
        (DreamboothLoraConfig, {"rate": -1}, "above 0, got -1"),
        (DreamboothLoraConfig, {"prior_weight": -2}, "prior_weight must not be negative, got -2"),
    ],
)
def test_senseless_settings_of_the_other_methods_are_refused(config, settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_rates_of_the_recipes_come_out_with_the_default_settings():
    rate = TrainConfig().effective_rate
    assert TextualInversionConfig().rate * rate == pytest.approx(5e-3)
    assert DreamboothLoraConfig().rate * rate == pytest.approx(1e-4)


def test_settings_become_plain_json():
    merged = json.loads(json.dumps(as_json(TrainConfig(), DetexConfig())))
    assert merged["attributes"] == "mappers"
    assert merged["steps"] == 600


def test_rank_of_the_family_is_not_filed_and_a_chosen_one_is():
    assert "rank" not in as_json(TrainConfig())
    assert as_json(TrainConfig(rank=8))["rank"] == 8
