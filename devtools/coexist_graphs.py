"""Graphs in which other packs' nodes and ours patch one MODEL, in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .coexist_files import CHECKPOINT, CONCEPT, EMBEDS, IP_ADAPTER, MOTION, T2I
from .graphs import DEMO_SIDE, Graph, Wire, node, sampled

STEPS = 2  # of the sampler
PROMPT = "photo of a [V] dog"
Patch = Callable[[Wire], Graph]  # a MODEL -> nodes, of which "theirs" has the patched MODEL


@dataclass(frozen=True)
class Trial:
    """What a graph has of another pack."""

    name: str
    patch: Patch | None = None
    control: Graph | None = None  # nodes, of which "control" has the positive and the negative
    count: int = 1  # pictures

    def nodes(self, model: Wire) -> Graph:
        return {} if self.patch is None else self.patch(model)


def ip_adapter(model: Wire) -> Graph:
    loaded = {"ipadapter": ["ip adapter", 0], "pos_embed": ["image", 0], "neg_embed": ["none", 0]}
    settings = {"weight": 0.8, "weight_type": "linear", "start_at": 0.0, "end_at": 1.0}
    return {
        "ip adapter": node("IPAdapterModelLoader", ipadapter_file=IP_ADAPTER),
        "image": node("IPAdapterLoadEmbeds", embeds=EMBEDS[0]),
        "none": node("IPAdapterLoadEmbeds", embeds=EMBEDS[1]),
        "theirs": node(
            "IPAdapterEmbeds", model=model, **loaded, **settings, embeds_scaling="V only"
        ),
    }


def evolved(context: Graph | None = None) -> Patch:
    """AnimateDiff-Evolved's sampling with a motion module. context: a node "context", or none."""

    def patch(model: Wire) -> Graph:
        wires = {"m_models": ["motion models", 0]} | (
            {"context_options": ["context", 0]} if context else {}
        )
        return {
            "motion": node("ADE_LoadAnimateDiffModel", model_name=MOTION),
            "motion models": node("ADE_ApplyAnimateDiffModelSimple", motion_model=["motion", 0]),
            **(context or {}),
            "theirs": node(
                "ADE_UseEvolvedSampling", model=model, beta_schedule="autoselect", **wires
            ),
        }

    return patch


def kj_nodes(model: Wire) -> Graph:
    """What KJNodes has for Stable Diffusion 1.5: another guidance, and a guess of the memory."""
    zero = {"use_zero_init": False, "zero_init_steps": 0}
    memory = {"memory_usage_factor": 1.5}
    return {
        "guidance": node("CFGZeroStarAndInit", model=model, **zero),
        "theirs": node("ModelMemoryUsageFactorOverride", model=["guidance", 0], **memory),
    }


def chained(*patches: Patch) -> Patch:
    """One pack's nodes behind another's; what both would load is loaded once."""

    def patch(model: Wire) -> Graph:
        graph: Graph = {}
        for number, one in enumerate(patches):
            last, nodes = f"theirs {number}", one(model)
            graph |= {last if name == "theirs" else name: entry for name, entry in nodes.items()}
            model = [last, 0]
        graph["theirs"] = graph.pop(f"theirs {len(patches) - 1}")
        return graph

    return patch


def applied(net: Wire, image: Wire) -> Graph:
    wires = {"positive": ["positive", 0], "negative": ["negative", 0], "control_net": net}
    times = {"strength": 0.8, "start_percent": 0.0, "end_percent": 1.0}
    return {"control": node("ACN_AdvancedControlNetApply_v2", **wires, image=image, **times)}


HINT = {"hint": node("EmptyImage", width=DEMO_SIDE, height=DEMO_SIDE, batch_size=1, color=0x40A0F0)}
ADAPTER = {
    **HINT,
    "net": node("ACN_ControlNetLoaderAdvanced", cnet=T2I),
    **applied(["net", 0], ["hint", 0]),
}
REFERENCE = {
    **HINT,
    "net": node(
        "ACN_ReferenceControlNet",
        reference_type="reference_attn+adain",
        style_fidelity=0.5,
        ref_weight=1.0,
    ),
    "seen": node(
        "ACN_ReferencePreprocessor",
        image=["hint", 0],
        vae=["base", 2],
        latent_size=["trial latent", 0],
    ),
    **applied(["net", 0], ["seen", 0]),
}
WINDOWS = {"context": node("ADE_StandardStaticContextOptions", context_length=3, context_overlap=1)}
PLAIN = Trial("no other pack's node")
ONCE = Trial("IPAdapter_plus", ip_adapter)
TWICE = Trial("IPAdapter_plus, twice in a row", chained(ip_adapter, ip_adapter))
TRIALS = (
    ONCE,
    Trial("AnimateDiff-Evolved, four frames", evolved(), count=4),
    Trial("AnimateDiff-Evolved, windows of three frames", evolved(WINDOWS), count=4),
    Trial("Advanced-ControlNet, T2I-Adapter", control=ADAPTER),
    Trial("Advanced-ControlNet, reference", control=REFERENCE),
    Trial("KJNodes", kj_nodes),
    Trial("all four", chained(ip_adapter, evolved(), kj_nodes), ADAPTER, count=4),
)


def ours(step: str, model: Wire) -> Graph:
    """Load or Capture behind this MODEL, under that name, and what belongs to it."""
    if step == "load":
        words = {"text": PROMPT, "pose": 0, "background": 0}
        return {
            "load": node("DETEXLoadEmbeddings", model=model, file=CONCEPT, strength=1.0),
            "positive": node("DETEXComposePrompt", clip=["base", 1], concept=["load", 1], **words),
        }
    words = {"text": ["positive", 1], "words": "[V], dog"}
    wires = {"attention": ["capture", 1], "image": ["trial pixels", 0]}
    return {
        "capture": node("DETEXCaptureAttention", model=model, clip=["base", 1], **words),
        "preview": node("DETEXAttentionPreview", **wires),
        "planes": node("MaskToImage", mask=["preview", 1]),
        "masks": node("SaveImage", images=["planes", 0], filename_prefix="masks"),
    }


def trial_graph(trial: Trial, order: Sequence[str] = ("theirs",)) -> Graph:
    """order: of "load", "capture" and "theirs", as they patch the MODEL; "load" for our nodes.

    "latents" and "picture" save what was sampled, "masks" the captured maps.
    """
    plain = PROMPT.replace("[V] ", "")
    graph: Graph = {
        "base": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "positive": node("CLIPTextEncode", clip=["base", 1], text=plain),
        "negative": node("CLIPTextEncode", clip=["base", 1], text=""),
    }
    model: Wire = ["base", 0]
    for step in order:
        nodes = trial.nodes(model) if step == "theirs" else ours(step, model)
        graph |= nodes
        model = [step, 0] if step in nodes else model
    positive, negative = ["positive", 0], ["negative", 0]
    if trial.control:
        positive, negative = ["control", 0], ["control", 1]
    settings = {"seed": 1, "count": trial.count, "steps": STEPS}
    graph |= sampled("trial", model, positive, **settings, negative=negative, base="base")
    return {
        **graph,
        **(trial.control or {}),
        "latents": node("SaveLatent", samples=["trial sample", 0], filename_prefix="latents"),
        "picture": node("SaveImage", images=["trial pixels", 0], filename_prefix="picture"),
    }
