"""Random checkpoints of real size: their keys, shapes and numbers, without writing gigabytes."""

import comfy.supported_models
import pytest
import torch
from comfy.model_base import ModelType

from devtools.checkpoints import LAYOUTS, shapes_of, tensor_of

NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.mark.parametrize(
    ("name", "keys", "unet"),
    [
        ("sd15", 1131, 859_520_964),  # as in v1-5-pruned-emaonly.safetensors
        ("sd21", 1228, 865_910_724),
        ("sdxl", 2515, 2_567_463_684),  # as in sd_xl_base_1.0.safetensors
        ("sdxl_short", 1735, 1_286_238_084),
    ],
)
def test_layout_has_the_published_number_of_tensors_and_parameters(name: str, keys: int, unet: int):
    shapes = shapes_of(LAYOUTS[name])
    ours = [s.numel() for key, s in shapes.items() if key.startswith("model.diffusion_model.")]
    assert (len(shapes), sum(ours)) == (keys, unet)


def test_layout_takes_no_memory():
    assert all(isinstance(shape, torch.Size) for shape in shapes_of(LAYOUTS["sdxl"]).values())


@pytest.mark.parametrize(("name", "kind"), [("sd21", "V_PREDICTION"), ("sd15", "EPS")])
def test_comfyui_sees_v_prediction_where_it_is(name: str, kind: str):
    layout = LAYOUTS[name]
    bias = tensor_of(NORM, torch.Size([320]), layout, 0)
    config = comfy.supported_models.SD20(dict(layout.unet))
    assert config.model_type({NORM: bias}, "model.diffusion_model.") is ModelType[kind]


def test_weights_are_of_their_seed_and_key_alone():
    shape, layout = torch.Size([8, 8]), LAYOUTS["sd15"]
    one, again = (tensor_of("a.weight", shape, layout, 3) for _ in range(2))
    assert torch.equal(one, again)
    others = tensor_of("b.weight", shape, layout, 3), tensor_of("a.weight", shape, layout, 4)
    assert not any(torch.equal(one, other) for other in others)


def test_weights_keep_the_size_of_what_passes_through():
    drawn = tensor_of("a.to_q.weight", torch.Size([512, 512]), LAYOUTS["sd15"], 0).float()
    assert drawn.std().item() == pytest.approx(512**-0.5, rel=0.01)
    assert tensor_of("a.norm.weight", torch.Size([4]), LAYOUTS["sd15"], 0).tolist() == [1.0] * 4
    assert tensor_of(POSITIONS, torch.Size([1, 77]), LAYOUTS["sd15"], 0)[0, 76] == 76
