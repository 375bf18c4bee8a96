"""The exported folder, read by diffusers into a small pipeline with the weights of tiny.py."""

import dataclasses
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file
from test_deltas import assert_same, some_cond, trained_kv
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from detex_pack.detex.concept.compress import low_rank
from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.export import Export, plan, write
from detex_pack.detex.host.families import SDXL, attention_layers, unet_layout
from detex_pack.detex.host.text import compose
from detex_pack.detex.unet.deltas import LowRank, as_matrix, text_layers

diffusers = pytest.importorskip("diffusers")  # its pinned version needs Python 3.11

LAYOUTS = {
    "Stable Diffusion's four levels": {
        "channel_mult": [1, 2, 2, 2],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "several transformers in a block": {
        "channel_mult": [1, 2, 2],
        "num_res_blocks": [1, 1, 1],
        "transformer_depth": [0, 2, 3],
        "transformer_depth_middle": 3,
        "transformer_depth_output": [0, 0, 2, 2, 3, 3],
    },
}


def comfy_unet(family=comfy.supported_models.SD15, **layout) -> ModelPatcher:
    """A small MODEL of this family and layout, with random weights."""
    config = family({**tiny.UNET, **layout})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", torch.device("cpu"))
    tiny.seeded(model.diffusion_model, 1)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def names_in_diffusers(model: ModelPatcher) -> dict[str, str]:
    """ComfyUI's weight names -> those of diffusers, by ComfyUI's own table.

    It has two names for what Stable Diffusion XL is told beside the prompt.
    """
    table = comfy.utils.unet_to_diffusers(unet_layout(model))
    return {ours: theirs for theirs, ours in table.items() if "class_embedding" not in theirs}


def diffusers_unet(model: ModelPatcher) -> diffusers.UNet2DConditionModel:
    """The same UNet, of diffusers' classes and with the weights of `model`."""
    config = model.model.model_config.unet_config
    repeats, mult = config["num_res_blocks"][0], config["channel_mult"]
    depths = config["transformer_depth"][::repeats]
    widths = [config["model_channels"] * m for m in mult]
    heads, pooled = config["num_heads"], config["adm_in_channels"]
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths),
        up_block_types=tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]),
        block_out_channels=tuple(widths),
        layers_per_block=repeats,
        cross_attention_dim=config["context_dim"],
        transformer_layers_per_block=tuple(max(d, 1) for d in depths),
        # heads, in fact
        attention_head_dim=heads if heads > 0 else tuple(max(w // 64, 1) for w in widths),
        use_linear_projection=config["use_linear_in_transformer"],
        **(told | {"projection_class_embeddings_input_dim": pooled} if pooled else {}),
    )
    weights = model.model.diffusion_model.state_dict()
    names = names_in_diffusers(model)
    unet.load_state_dict({names[name]: tensor.clone() for name, tensor in weights.items()})
    return unet


def text_encoder(clip: comfy.sd.CLIP) -> CLIPTextModel:
    small = tiny.CLIP_OPTIONS[type(clip.cond_stage_model)]["clip_l_model_config"]
    encoder = CLIPTextModel(CLIPTextConfig(**small, max_position_embeddings=77)).eval()
    weights = clip.cond_stage_model.clip_l.transformer.text_model.state_dict()
    getattr(encoder, "text_model", encoder).load_state_dict(weights)
    return encoder


def second_text_encoder(clip: comfy.sd.CLIP) -> CLIPTextModelWithProjection:
    small = tiny.CLIP_OPTIONS[type(clip.cond_stage_model)]["clip_g_model_config"]
    config = CLIPTextConfig(
        **small, max_position_embeddings=77, hidden_act="gelu", projection_dim=small["hidden_size"]
    )
    encoder = CLIPTextModelWithProjection(config).eval()
    encoder.load_state_dict(clip.cond_stage_model.clip_g.transformer.state_dict())
    return encoder


def tokenizer(**options) -> CLIPTokenizer:
    """ComfyUI's vocabulary."""
    vocabulary = Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")
    return CLIPTokenizer.from_pretrained(vocabulary, model_max_length=77, **options)


def pipeline(model: ModelPatcher, clip: comfy.sd.CLIP) -> diffusers.StableDiffusionPipeline:
    """diffusers' pipeline with the weights of this MODEL and CLIP, and ComfyUI's vocabulary."""
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,)),
        text_encoder=text_encoder(clip),
        tokenizer=tokenizer(),
        unet=diffusers_unet(model),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline(model: ModelPatcher, clip: comfy.sd.CLIP) -> diffusers.StableDiffusionXLPipeline:
    """As `pipeline`, with both of Stable Diffusion XL's text encoders."""
    return diffusers.StableDiffusionXLPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,)),
        text_encoder=text_encoder(clip),
        text_encoder_2=second_text_encoder(clip),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(pad_token="!"),
        unet=diffusers_unet(model),
        scheduler=diffusers.DDIMScheduler(),
        add_watermarker=False,
    )


def exported(concept: Concept, models: Path, share: float = 1.0) -> Path:
    write(plan(concept, "toy", [Export.DIFFUSERS], share))
    return models / "diffusers" / "toy"


def word_files(folder: Path) -> list[str]:
    """As the folder's README.md has them."""
    return [str(path) for path in sorted(folder.glob("words/*.safetensors"))]


def load_as_the_readme_says(pipe: diffusers.DiffusionPipeline, folder: Path) -> None:
    """Run its lines of Python, without those that load the model and paint."""
    page = (folder / "README.md").read_text(encoding="utf-8")
    lines = page.partition("pipe.load_lora_weights")[2].partition("picture = ")[0]
    exec(  # noqa: S102
        f"pipe.load_lora_weights{lines}",
        {"pipe": pipe, "folder": folder, "load_file": load_file},
    )


def cond_for(concept: Concept) -> Tensor:
    """As `some_cond`, as wide as the concept's model takes it."""
    width = next(iter(concept.deltas.values())).shape[1]
    return torch.randn(2, 77, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def kv_in_diffusers(
    unet: diffusers.UNet2DConditionModel, model: ModelPatcher, concept: Concept
) -> dict[str, Tensor]:
    names = names_in_diffusers(model)
    return {
        name: unet.get_submodule(names[f"{name}.weight"].removesuffix(".weight"))(cond_for(concept))
        for name in concept.deltas
    }


@torch.no_grad()
def kv_by_hand(model: ModelPatcher, concept: Concept) -> dict[str, Tensor]:
    """W x + delta x of every layer."""
    unet, cond = model.model.diffusion_model, cond_for(concept)
    return {
        name: unet.get_submodule(name)(cond) + cond @ as_matrix(delta).mT
        for name, delta in concept.deltas.items()
    }


def with_random_deltas(concept: Concept, model: ModelPatcher) -> Concept:
    generator = torch.Generator().manual_seed(4)
    deltas = {
        layer.path: 0.05 * torch.randn(layer.out, layer.inp, generator=generator)
        for layer in text_layers(attention_layers(model))
    }
    base = dataclasses.replace(concept.base, unet=unet_layout(model))
    return dataclasses.replace(concept, deltas=deltas, base=base)


def sdxl_concept(concept: Concept, model: ModelPatcher) -> Concept:
    """The same words for Stable Diffusion XL, with random vectors and deltas of rank 16."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    words = {
        word: {tower: drawn(1, width) for tower, width in tiny.WIDTHS.items()}
        for word in concept.word_names
    }
    deltas = {
        layer.path: LowRank(drawn(layer.out, 16), drawn(16, layer.inp))
        for layer in text_layers(attention_layers(model))
    }
    base = dataclasses.replace(concept.base, family=SDXL.name, tower="l+g", unet=unet_layout(model))
    return dataclasses.replace(concept, words=words, deltas=deltas, base=base)


def test_load_lora_weights_gives_the_k_and_v_of_training(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    pipe = pipeline(model, clip)
    before = kv_in_diffusers(pipe.unet, model, concept)
    pipe.load_lora_weights(str(exported(concept, model_folders)))
    after = kv_in_diffusers(pipe.unet, model, concept)
    assert_same(after, trained_kv(model, concept))
    assert all((after[name] - before[name]).abs().max() > 1e-3 for name in after)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layers_of_every_layout_are_found(
    model_folders: Path, clip: comfy.sd.CLIP, concept: Concept, layout: dict
):
    model = comfy_unet(**layout)
    concept = with_random_deltas(concept, model)
    pipe = pipeline(model, clip)
    pipe.load_lora_weights(str(exported(concept, model_folders)))
    assert_same(kv_in_diffusers(pipe.unet, model, concept), kv_by_hand(model, concept))


def test_layers_of_stable_diffusion_2_are_found(
    model_folders: Path, clip: comfy.sd.CLIP, concept: Concept
):
    sd2 = {"model_channels": 64, "use_linear_in_transformer": True}
    model = comfy_unet(comfy.supported_models.SD20, **sd2)
    concept = with_random_deltas(concept, model)
    concept = dataclasses.replace(
        concept, base=dataclasses.replace(concept.base, family="Stable Diffusion 2.x")
    )
    pipe = pipeline(model, clip)
    pipe.load_lora_weights(str(exported(concept, model_folders)))
    assert_same(kv_in_diffusers(pipe.unet, model, concept), kv_by_hand(model, concept))


def test_low_rank_of_many_ranks_is_the_one_that_comfyui_adds(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    concept = with_random_deltas(concept, model)
    pipe = pipeline(model, clip)
    pipe.load_lora_weights(str(exported(concept, model_folders, share=0.6)))
    deltas, ranks = {}, set()
    for name, delta in concept.deltas.items():
        up, down = low_rank(delta, 0.6)
        deltas[name] = up @ down
        ranks.add(len(down))
    assert len(ranks) > 1
    smaller = dataclasses.replace(concept, deltas=deltas)
    assert_same(kv_in_diffusers(pipe.unet, model, concept), kv_by_hand(model, smaller))


def test_load_textual_inversion_gives_every_word_its_vector(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    pipe = pipeline(model, clip)
    pipe.load_textual_inversion(word_files(exported(concept, model_folders)))
    table = pipe.text_encoder.get_input_embeddings().weight
    for word in concept.word_names:
        place = pipe.tokenizer.convert_tokens_to_ids(f"<toy_{word.lower()}>")
        assert torch.equal(table[place], concept.words[word]["l"][0]), word


def test_prompt_of_the_readme_is_the_conditioning_of_compose(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    folder = exported(concept, model_folders)
    pipe = pipeline(model, clip)
    pipe.load_textual_inversion(word_files(folder))
    theirs = "photo of a <toy_v> ball with <toy_p1> view in <toy_b1> background"
    assert f'pipe("{theirs}")' in (folder / "README.md").read_text(encoding="utf-8")
    ours = compose(
        clip, "photo of a [V] ball with [P1] view in [B1] background", concept.vectors("l")
    )
    cond = pipe.encode_prompt(theirs, torch.device("cpu"), 1, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(cond, ours[0][0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pipeline_predicts_the_noise_that_comfyui_predicts(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    concept = with_random_deltas(concept, model)
    pipe = pipeline(model, clip)
    pipe.load_lora_weights(str(exported(concept, model_folders)))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    times = torch.tensor([500, 20])
    theirs = pipe.unet(latents, times, some_cond()).sample
    patched = apply_concept(model, concept, 1.0)
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    ours = patched.model.diffusion_model(latents, times, some_cond())
    comfy.model_management.unload_all_models()
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_pipeline_in_the_folder_of_that_name_is_left_alone(model_folders: Path, concept: Concept):
    theirs = model_folders / "diffusers" / "toy" / "model_index.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    files = plan(concept, "toy", [Export.DIFFUSERS])
    write(files)
    assert files[0].name == "toy_2.safetensors"
    assert [path.name for path in theirs.parent.iterdir()] == ["model_index.json"]
    assert (model_folders / "diffusers" / "toy_2" / "words" / "v.safetensors").is_file()


@pytest.fixture(scope="module")
def sdxl_model() -> ModelPatcher:
    return tiny.tiny_model(comfy.supported_models.SDXL)


def test_readme_of_stable_diffusion_xl_loads_words_and_deltas(
    model_folders: Path, sdxl_model: ModelPatcher, concept: Concept
):
    concept, clip = sdxl_concept(concept, sdxl_model), tiny.tiny_sdxl_clip()
    pipe = sdxl_pipeline(sdxl_model, clip)
    load_as_the_readme_says(pipe, exported(concept, model_folders))
    towers = {
        "l": (pipe.text_encoder, pipe.tokenizer),
        "g": (pipe.text_encoder_2, pipe.tokenizer_2),
    }
    for word in concept.word_names:
        for tower, (encoder, vocabulary) in towers.items():
            place = vocabulary.convert_tokens_to_ids(f"<toy_{word.lower()}>")
            vector = encoder.get_input_embeddings().weight[place]
            assert torch.equal(vector, concept.words[word][tower][0]), (word, tower)
    assert_same(kv_in_diffusers(pipe.unet, sdxl_model, concept), kv_by_hand(sdxl_model, concept))


@torch.no_grad()
def test_prompt_of_stable_diffusion_xls_readme_is_the_conditioning_of_compose(
    model_folders: Path, sdxl_model: ModelPatcher, concept: Concept
):
    concept, clip = sdxl_concept(concept, sdxl_model), tiny.tiny_sdxl_clip()
    pipe = sdxl_pipeline(sdxl_model, clip)
    load_as_the_readme_says(pipe, exported(concept, model_folders))
    theirs = "photo of a <toy_v> ball with <toy_p1> view in <toy_b1> background"
    ours = "photo of a [V] ball with [P1] view in [B1] background"
    (cond, more), *_ = compose(clip, ours, concept.vectors("l+g"))
    encoded = pipe.encode_prompt(
        theirs, device=torch.device("cpu"), do_classifier_free_guidance=False
    )
    torch.testing.assert_close(encoded[0], cond, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded[2], more["pooled_output"], atol=1e-5, rtol=1e-5)
