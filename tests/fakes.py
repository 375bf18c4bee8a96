"""A denoiser and a text encoder of a few lines, which train in a second without ComfyUI."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detex_pack.detex.concept.file import BaseModel, Concept
from detex_pack.detex.photos.concepts import make_concepts, make_scene, named_concepts
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.photos.varied import make_varied
from detex_pack.detex.prompt.grammar import PLACEHOLDER, Named, PromptTokens
from detex_pack.detex.unet.attention import AttentionTap, attend, attention_probs
from detex_pack.detex.unet.coded import RowCodes
from detex_pack.detex.unet.condition import Condition
from detex_pack.detex.unet.deltas import Layer, LayerDeltas, add_delta
from detex_pack.detex.unet.features import FeatureTap
from detex_pack.detex.unet.interfaces import Tap
from detex_pack.detex.unet.schedules import EpsSchedule

WIDTH, TOKENS, STEPS, SIDE = 12, 24, 50, 8  # SIDE: latent cells; the tapped grid is half of it


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class FakeUNet(nn.Module):
    """One self-attention and one cross-attention at half the latents' side."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(4, WIDTH, bias=False), nn.Linear(WIDTH, 4, bias=False)
        for name in ("attn1", "attn2"):
            parts = {p: nn.Linear(WIDTH, WIDTH, bias=False) for p in ("to_q", "to_k", "to_v")}
            parts["to_out"] = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False))
            self.add_module(name, nn.ModuleDict(parts))
        for seed, parameter in enumerate(self.parameters()):
            with torch.no_grad():
                parameter.normal_(0, WIDTH**-0.5, generator=rng(seed))
        self.requires_grad_(requires_grad=False)

    def forward(self, noisy: Tensor, context: Tensor, taps: Mapping[tuple, Tap]) -> Tensor:
        small = F.avg_pool2d(noisy, 2)
        grid, hidden = tuple(small.shape[-2:]), self.enter(small.flatten(2).mT)  # [B, L, D]
        tap = taps.get(grid)
        maps = tap if isinstance(tap, AttentionTap) else None
        hidden = hidden + self.attend(self.attn1, hidden, hidden, None)
        hidden = hidden + self.attend(self.attn2, hidden, context, maps)
        if isinstance(tap, FeatureTap):
            tap.add(hidden.mT.unflatten(2, grid))
        answer = self.leave(hidden).mT.unflatten(2, grid)
        return noisy + F.interpolate(answer, scale_factor=2)

    @staticmethod
    def attend(block, hidden: Tensor, context: Tensor, tap: AttentionTap | None) -> Tensor:
        probs = attention_probs(block["to_q"](hidden), block["to_k"](context), heads=2)
        if tap is not None:
            tap.add(probs[: tap.rows])
        return block["to_out"](attend(probs, block["to_v"](context)))


class FakeDenoiser:
    device, rank = "cpu", None

    def __init__(self):
        self.unet, self.gradient_checkpointing = FakeUNet(), False
        self.codes = RowCodes()
        self.schedule = EpsSchedule(torch.linspace(0.05, 8, STEPS))
        self.layers = tuple(
            Layer(f"{block}.{part}", WIDTH, WIDTH, block == "attn2" and part in ("to_k", "to_v"))
            for block in ("attn1", "attn2")
            for part in ("to_q", "to_k", "to_v", "to_out.0")
        )

    @contextmanager
    def with_deltas(self, deltas: LayerDeltas, *, detach_start_token: bool) -> Iterator[None]:
        def hook_of(layer, delta):
            cut = detach_start_token and layer.text
            return lambda _, x, y: add_delta(y, x[0], delta, detach_start_token=cut)

        handles = [
            self.unet.get_submodule(layer.path).register_forward_hook(hook_of(layer, delta))
            for layer, delta in deltas.of_layers()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def predict(
        self, noisy: Tensor, timesteps: Tensor, cond: Condition, taps: Sequence[Tap] = ()
    ) -> Tensor:
        self.codes.set(cond.codes, noisy.device)
        answer = self.unet(noisy, cond.context, {tap.grid: tap for tap in taps})
        for tap in taps:
            tap.close()
        return answer

    def grad_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", enabled=False)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def free_memory(self) -> None:
        pass


class FakeText:
    """Words by their letters; each token sees those before it, as in CLIP."""

    def __init__(self):
        self.table = 0.3 * torch.randn(977, WIDTH, generator=rng(90))
        self.mix = torch.randn(WIDTH, WIDTH, generator=rng(91)) * WIDTH**-0.5

    def tokenize(self, text: str) -> PromptTokens:
        found = re.findall(PLACEHOLDER.pattern + r"|(\w+)", text)
        ids = [0, *(sum(map(ord, placeholder + word)) % 976 + 1 for placeholder, word in found)]
        slots = tuple((i, word) for i, (word, _) in enumerate(found, start=1) if word)
        return PromptTokens((tuple(ids + [0] * (TOKENS - len(ids))),), slots)

    def encode(
        self, prompts: Sequence[PromptTokens], words: Sequence[Mapping[str, Tensor]]
    ) -> Condition:
        rows = []
        for prompt, own in zip(prompts, words, strict=True):
            vectors, seen = list(self.table[list(prompt.ids[0])]), dict.fromkeys(own, 0)
            for position, word in prompt.slots:
                given = own[word].reshape(-1, WIDTH)
                vectors[position] = given[seen[word] % len(given)]
                seen[word] += 1
            rows.append(torch.stack(vectors))
        hidden = torch.stack(rows) @ self.mix  # [B, T, C]
        counts = torch.arange(1, TOKENS + 1)[:, None]
        context = 4 * hidden + 4 * hidden.cumsum(1) / counts
        return Condition(context, context[:, 0, :0])

    def embedding_row(self, token_id: int) -> Tensor:
        return self.table[token_id % 977].clone()

    def embedding_rms(self) -> Tensor:
        return torch.full((WIDTH,), 0.3, dtype=torch.float64)


def encode(images: Tensor) -> Tensor:
    """Pixels [B, S, S, 3] -> latents [B, 4, S / 4, S / 4]: the pixels, pooled."""
    pooled = F.avg_pool2d(images.movedim(-1, 1), 4) * 2 - 1
    return torch.cat([pooled, pooled[:, :1]], dim=1)


def fake_photos(count: int = 3, *, masks: bool = True, features: bool = True) -> Photos:
    """A bright square that stands elsewhere in each photo; latents are the pixels, pooled."""
    pixels, planes = 4 * SIDE, []
    pictures = [torch.rand(pixels, pixels, 3, generator=rng(i)) * 0.4 for i in range(count)]
    for i, picture in enumerate(pictures):
        plane = torch.zeros(pixels, pixels)
        plane[4 : 4 + pixels // 2, 4 * i : 4 * i + pixels // 2] = 1
        picture += plane[..., None] * torch.tensor([0.6, 0.1, 0.5])
        planes.append(plane)

    def features_of(images: Tensor) -> Tensor:
        return F.avg_pool2d(images.movedim(-1, 1), 8).flatten(1)

    return make_photos(
        pictures,
        planes if masks else None,
        features_of if features else None,
        encode,
        "ball",
        resolution=pixels,
    )


def fake_varied(count: int = 5, *, masks: bool = True, features: bool = True) -> Photos:
    """Squares of different colours, each elsewhere, on a ground of noise."""
    pixels, planes, pictures = 4 * SIDE, [], []
    for i in range(count):
        plane, colour = torch.zeros(pixels, pixels), torch.rand(3, generator=rng(20 + i))
        plane[8 : 8 + pixels // 2, 2 * i : 2 * i + pixels // 2] = 1
        ground = torch.rand(pixels, pixels, 3, generator=rng(i)) * 0.4
        pictures.append(ground + plane[..., None] * 0.6 * colour)
        planes.append(plane)

    def features_of(images: Tensor) -> Tensor:
        return F.avg_pool2d(images.movedim(-1, 1), 8).flatten(1)

    return make_varied(
        pictures,
        planes if masks else None,
        features_of if features else None,
        encode,
        "ball",
        resolution=pixels,
    )


def fake_concepts(
    class_words: str = "red ball, cup", *, masks: bool = True, scaled_copies: int = 0
) -> Photos:
    """One photo of things side by side, each of a colour of its own."""
    named, pixels = named_concepts(class_words), 4 * SIDE
    picture, planes = torch.rand(pixels, pixels, 3, generator=rng(0)) * 0.4, []
    width = pixels // len(named)
    for i in range(len(named)):
        plane = torch.zeros(pixels, pixels)
        plane[8:24, i * width + 1 : (i + 1) * width - 1] = 1
        picture += plane[..., None] * 0.6 * torch.rand(3, generator=rng(10 + i))
        planes.append(plane)
    scene = make_scene(picture, planes if masks else None, named, pixels)
    return make_concepts(picture, scene, named, encode, scaled_copies=scaled_copies)


BASE = BaseModel(
    family="Stable Diffusion 1.x",
    fingerprint="0123456789abcdef",
    tower="l",
    prediction="eps",
    unet={"channel_mult": [1, 2]},
)


def make_concept(photos: int = 2, **changes) -> Concept:
    """What a file is made of; nothing of it was learned."""
    numbers = range(1, photos + 1)
    names = ["V", *(f"P{i}" for i in numbers), *(f"B{i}" for i in numbers)]
    fields = {
        "words": {name: {"l": torch.full((1, 4), float(i))} for i, name in enumerate(names)},
        "deltas": {
            f"middle_block.1.transformer_blocks.0.attn2.{kind}": torch.rand(3, 4)
            for kind in ("to_k", "to_v")
        },
        "named": (Named("V", "dog", "pose", tuple(numbers)),),
        "method": "DETEX",
        "base": BASE,
        "config": {"steps": 600, "gamma": 0.5},
        "report": {"losses": {"diffusion": [0.2, 0.1]}},
        "photo_hashes": ("aa", "bb"),
        "thumbnails": torch.full((2, 8, 8, 3), 7, dtype=torch.uint8),
    }
    return Concept(**(fields | changes))
