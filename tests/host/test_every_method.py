"""Every method of the register through the nodes' own code: train, resume, save, load, compose,
export; and a made-up seventh one, of which nothing outside the register knows.
"""

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import nodes
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from graphs import graph_of_method, messages, run
from safetensors.torch import load_file

from detex_pack.detex.concept.file import Concept, load_concept
from detex_pack.detex.concept.individuals import drawn_codes, individual
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.export import Export, plan, write
from detex_pack.detex.host.text import compose
from detex_pack.detex.methods import METHODS
from detex_pack.detex.methods.base import SubjectMethod
from detex_pack.detex.methods.dreambooth_lora import DreamboothLora, DreamboothLoraConfig
from detex_pack.detex.methods.textual_inversion import TextualInversion, TextualInversionConfig
from detex_pack.detex.training.loop import Run
from detex_pack.detex.unet.deltas import as_matrix
from detex_pack.nodes.concept import LoadEmbeddings
from detex_pack.nodes.merge import MergeConcepts


@dataclass(frozen=True, kw_only=True)
class SeventhConfig:
    prior_weight: float = 1.0

    @classmethod
    def recommended(cls, **settings) -> "SeventhConfig":
        return cls(**settings)


class Seventh(SubjectMethod):
    """Nearest to its start: the loss also keeps [V] near the word it began as."""

    name = "Seventh"
    Config = SeventhConfig

    def __init__(self, *given):
        super().__init__(*given)
        self.start = self.words.subject.detach().clone()
        self.weights["nearness"] = 0.1

    def losses(self, batch, predict, turn):
        away = (self.words.subject - self.start).square().mean()
        return {**super().losses(batch, predict, turn), "nearness": away}


@pytest.fixture(params=[*METHODS, "Seventh"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(METHODS, "Seventh", Seventh)
    return request.param


def sampled_weights(patched: ModelPatcher, concept: Concept) -> dict[str, torch.Tensor]:
    """What the sampler would multiply with, ComfyUI's patches loaded."""
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    unet = patched.model.diffusion_model
    found = {name: unet.get_submodule(name).weight.detach().clone() for name in concept.deltas}
    comfy.model_management.unload_all_models()
    return found


def usable(learned: Concept) -> Concept:
    """What can be applied: of a distribution one individual."""
    if learned.codes is None:
        return learned
    return individual(learned, drawn_codes(learned, 1, 1.0, 0)[0])


def saved(folder: Path) -> Concept:
    return load_concept(folder / "detex" / "toy.safetensors")


def test_node_trains_and_saves_it_under_its_name(executor, model_folders: Path, method: str):
    run(executor, graph_of_method("TinyModels", method))
    assert executor.success, executor.status_messages
    concept = saved(model_folders)
    assert concept.method == method
    text = "\n".join(executor.history_result["outputs"]["train"]["text"])
    assert text.startswith(f"{method}: 2 steps\nsteady loss ")


def test_cancelled_run_goes_on_to_the_bytes_of_a_whole_one(
    executor, model_folders: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    graph = graph_of_method("TinyModels", method, steps=4, snapshot_every=0)
    take_step = Run.take_step

    def stopping(self: Run) -> None:
        if self.step == 2:
            raise comfy.model_management.InterruptProcessingException
        take_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "take_step", stopping)
        run(executor, graph)
    assert "execution_interrupted" in messages(executor)
    run(executor, graph)
    assert executor.success, executor.status_messages
    resumed = (model_folders / "detex" / "toy.safetensors").read_bytes()
    graph["train"]["inputs"]["resume"] = "start over"
    graph["save"]["inputs"]["name"] = "whole"
    run(executor, graph)
    assert (model_folders / "detex" / "whole.safetensors").read_bytes() == resumed


@pytest.mark.parametrize("kind", ["SD15", "SDXL"])
def test_it_loads_composes_and_exports(train, model_folders: Path, method: str, kind: str):
    wide = kind == "SDXL"
    family = getattr(comfy.supported_models, kind)
    model, clip = tiny.tiny_model(family), (tiny.tiny_sdxl_clip if wide else tiny.tiny_clip)()
    concept = usable(train(METHODS[method].Config.recommended(), on=(model, clip))[0])
    write(plan(concept, "toy", [Export.STOCK, Export.DIFFUSERS]))
    loaded = LoadEmbeddings.execute(model, "toy.safetensors", 1.0)
    patched, same = loaded.args[0], loaded.args[1]
    assert same.words.keys() == concept.words.keys()
    words = same.vectors(same.base.tower)
    composed = compose(clip, "photo of a [V] ball", words)[0][0][0]
    assert torch.isfinite(composed).all()
    lora = model_folders / "loras" / "toy_lora.safetensors"
    assert lora.exists() is bool(concept.deltas)
    if concept.deltas:
        stock = nodes.LoraLoader().load_lora(model, clip, lora.name, 1.0, 1.0)[0]
        ours, theirs = (sampled_weights(one, concept) for one in (patched, stock))
        for name in concept.deltas:
            riding = concept.varied.get(name)  # on the conditioning; within a stock LoRA
            whole = ours[name] if riding is None else ours[name] + as_matrix(riding)
            torch.testing.assert_close(whole, theirs[name], atol=1e-5, rtol=0)
    word = load_file(model_folders / "embeddings" / "toy_v.safetensors")
    assert torch.equal(word["clip_l"], concept.words["V"]["l"])


def test_textual_inversion_is_kilobytes_and_leaves_the_model_alone(
    train, model: ModelPatcher, model_folders: Path
):
    concept = train(TextualInversionConfig())[0]
    assert not concept.deltas
    assert apply_concept(model, concept, 1.0) is model
    file = plan(concept, "toy")[0]
    assert len(file.content) - concept.thumbnails.numel() < 4000  # one vector and a header


def test_word_of_three_vectors_takes_three_tokens_here_and_in_stock_prompts(
    train, model_folders: Path
):
    concept = train(TextualInversionConfig(vectors=3), steps=3)[0]
    vectors = concept.vectors("l")
    assert vectors["V"].shape == (3, tiny.WIDTH)
    assert not torch.equal(vectors["V"][0], vectors["V"][1])
    write(plan(concept, "toy", [Export.STOCK]))
    clip = tiny.tiny_clip([str(model_folders / "embeddings")])
    ours = compose(clip, "photo of a [V] ball", vectors)[0][0][0]
    tokens = clip.tokenize("photo of a embedding:toy_v ball")
    stock = clip.encode_from_tokens_scheduled(tokens)[0][0][0]
    assert torch.equal(ours, stock)


def test_dreambooth_lora_changes_all_attention_at_its_rank(train):
    concept = train(DreamboothLoraConfig(), rank=4)[0]
    kinds = {name.split(".attn")[1] for name in concept.deltas}
    assert kinds == {f"{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    assert all(len(delta.down) == 4 and delta.up.any() for delta in concept.deltas.values())


def test_dreambooth_without_a_learned_word_keeps_the_rare_token(train, clip: comfy.sd.CLIP):
    concept = train(DreamboothLoraConfig(learn_word=False))[0]
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    assert torch.equal(concept.words["V"]["l"][0], table[42170])
    assert any(delta.up.any() for delta in concept.deltas.values())


@pytest.mark.parametrize("config", [DreamboothLoraConfig(), TextualInversionConfig()])
def test_concept_without_k_and_v_alone_is_not_merged_and_says_why(train, clip, config):
    detex, other = train()[0], train(config)[0]
    with pytest.raises(ValueError, match="Concept 2 was learned with .*Apply Decoupled"):
        MergeConcepts.execute(clip, concept_1=detex, concept_2=other)


@pytest.mark.parametrize("kind", [TextualInversion, DreamboothLora])
def test_methods_name_is_told_by_its_settings(kind: type):
    assert METHODS[kind.name] is kind
