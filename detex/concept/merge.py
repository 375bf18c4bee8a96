"""Several concepts of one base model in one set of K, V deltas, in closed form.

Custom Diffusion (arXiv 2212.04488, section 3.2): keys and values of "[V] dog" are those of its own
concept exactly, and under this constraint neutral captions change least. We add that each
concept's longer captions, with places, poses and backgrounds, come as near to its own as they can:
the paper leaves these to chance. Of concepts that are alike the constraint asks for different
things at nearly one point, and the deltas blow up; for them it is a term of the sum, of weight 100.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..prompt.captions import NEUTRAL, PLACES
from ..prompt.grammar import Named, with_article
from ..unet.deltas import Delta, LowRank, as_matrix
from .compress import common_basis
from .file import Concept
from .overlap import Alike, alike

RIDGE = 1e-2  # of the captions' covariance, relative to its mean eigenvalue: bounds the deltas
EXACT_RIDGE = 1e-10  # of the constraints' system: near-duplicate tokens must not break it
WEIGHT = 100  # of short captions, where concepts are alike
MERGED = "Merge of"  # in place of a method's name
LEAD = 3  # "photo of a": the same for all subjects, so no constraint

Features = Callable[[Sequence[str], Mapping[str, Tensor]], list[Tensor]]  # texts, words -> [t, C]


class Renamed(NamedTuple):
    """One subject of the merged concept."""

    concept: int  # which one it comes from
    own: str  # its word there, "V"
    word: str  # and here, "V2"
    class_word: str
    attribute: str
    photos: tuple[int, ...]  # numbers of its photos in its own concept
    offset: int  # added to these numbers here


@dataclass(frozen=True)
class Quality:
    """What a merge keeps and what it costs."""

    kept: tuple[float, ...]  # of each concept's change of its longer captions, 1 = all
    spill: float  # change of neutral captions, 1 = as much as the concepts alone on average
    alike: tuple[Alike, ...] = ()  # concepts that can hardly be told apart


def renamed_subjects(concepts: Sequence[Concept]) -> list[Renamed]:
    """[V], [V2], ... in the order of the concepts; the photo numbers go on counting."""
    subjects: list[Renamed] = []
    photos = 0
    for i, concept in enumerate(concepts):
        for own in concept.named:
            number = len(subjects) + 1
            word = "V" if number == 1 else f"V{number}"
            subjects.append(
                Renamed(i, own.word, word, own.class_word, own.attribute, own.photos, photos)
            )
        photos += concept.photo_count
    return subjects


def check_mergeable(concepts: Sequence[Concept]) -> None:
    """Raise ValueError for fewer than two concepts, or for those of different base models."""
    if len(concepts) < 2:
        raise ValueError("Only one concept is wired. Wire two or more to merge them.")
    for number, concept in enumerate(concepts, start=1):
        if not only_reads_text(concept):
            raise ValueError(
                f"Concept {number} was learned with {concept.method}, which does not change just K "
                "and V of the cross-attention: the merge is computed from what captions make of "
                "these. Use the concepts one after the other with Apply Decoupled Embeddings."
            )
    first = concepts[0]
    for number, other in enumerate(concepts[1:], start=2):
        if other.base.family != first.base.family:
            raise ValueError(
                f"Concept {number} was trained on {other.base.family}, the first on "
                f"{first.base.family}. Only concepts of one checkpoint can be merged."
            )
        if other.base.fingerprint != first.base.fingerprint:
            raise ValueError(
                f"Concept {number} was trained on another checkpoint than the first "
                f"({other.base.fingerprint}, {first.base.fingerprint}). Train both on one "
                "checkpoint, or put them one after the other with Apply Decoupled Embeddings."
            )
        if other.base.prediction != first.base.prediction:
            raise ValueError(
                f"Concept {number} was trained on a model that predicts {other.base.prediction}, "
                f"the first on one that predicts {first.base.prediction}. Train both on one "
                "checkpoint, without Model Sampling nodes or with the same."
            )
        check_another_subject(number, other, concepts[: number - 1])


def check_another_subject(number: int, concept: Concept, before: Sequence[Concept]) -> None:
    """Raise ValueError for a class of the same photos as an earlier concept; one photo may show two
    subjects.
    """
    for other_number, other in enumerate(before, start=1):
        for word in shown_in(concept) & shown_in(other):
            raise ValueError(
                f"Concept {number} was learned from photos of concept {other_number}, of the same "
                f"{word[0]}: it is one subject twice. Wire concepts of two subjects."
            )


def shown_in(concept: Concept) -> set[tuple[str, str]]:
    """(class word, hash of a photo) of all that the concept's photos show."""
    hashes = concept.photo_hashes
    return {
        (one.class_word, hashes[number - 1])
        for one in concept.named
        for number in one.photos or range(1, len(hashes) + 1)
        if number <= len(hashes)
    }


def only_reads_text(concept: Concept) -> bool:
    """Whether it has deltas, and those of K and V of cross-attention alone."""
    others = (".attn1." in path or path.endswith(("to_q", "to_out.0")) for path in concept.deltas)
    return bool(concept.deltas) and not any(others)


def short_captions(subject: Renamed) -> list[str]:
    """The captions that a subject keeps exactly, or before all others."""
    name = f"[{subject.own}] {subject.class_word}"
    return [name, f"photo of a {name}"]


def long_captions(subject: Renamed) -> list[str]:
    """The subject in places, poses and backgrounds: kept as nearly as can be."""
    stem = f"photo of a [{subject.own}] {subject.class_word}"
    poses = ["", *(f" with [P{i}] {subject.attribute}" for i in subject.photos)]
    places = [*PLACES, *(f"in [B{i}] background" for i in subject.photos)]
    return [f"{stem}{pose} {place}".rstrip() for pose in poses for place in places]


def merge_concepts(concepts: Sequence[Concept], features: Features) -> tuple[Concept, Quality]:
    """One concept with all words; `features` are CLIP's, of the checkpoint of the concepts.

    Raises ValueError where the concepts do not belong together.
    """
    check_mergeable(concepts)
    tower = concepts[0].base.tower
    subjects = renamed_subjects(concepts)

    def rows(i: int, captions: Callable[[Renamed], list[str]]) -> Tensor:
        """Distinct features [k, C] of concept i's captions, without the lead."""
        texts = [text for s in subjects if s.concept == i for text in captions(s)]
        found = features(texts, concepts[i].vectors(tower))
        leads = [LEAD if text.startswith("photo of a ") else 0 for text in texts]
        kept = [row[lead:] for row, lead in zip(found, leads, strict=True)]
        return torch.cat(kept).double().unique(dim=0)

    exact = [rows(i, short_captions) for i in range(len(concepts))]
    near = [rows(i, long_captions) for i in range(len(concepts))]
    classes = dict.fromkeys(f"photo of {with_article(s.class_word)}" for s in subjects)
    neutral = torch.cat(features([*classes, *NEUTRAL], {})).double()
    bases, own = in_bases([concept.deltas for concept in concepts])
    similar = alike(exact, neutral)
    deltas = (softly_merged_deltas if similar else merged_deltas)(own, exact, near, neutral)
    quality = replace(merge_quality(own, deltas, near, neutral), alike=similar)
    learned = {n: LowRank(bases[n].float(), d) if n in bases else d for n, d in deltas.items()}
    return _merged(concepts, subjects, learned, quality), quality


def in_bases(
    own: Sequence[Mapping[str, Delta]],
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Where all deltas of a name are of low rank, a basis [out, n] by that name that they share,
    and their coordinates [n, in] in it; all others as matrices [out, in].

    The merge treats each row of a delta alone and linearly, so it can be solved in coordinates; the
    basis is orthonormal, so the norms of `merge_quality` are the same in it.
    """
    bases: dict[str, Tensor] = {}
    plain: list[dict[str, Tensor]] = [{} for _ in own]
    for name in own[0]:
        deltas = [of[name] for of in own]
        narrow = [delta for delta in deltas if isinstance(delta, LowRank)]
        if len(narrow) == len(deltas):
            bases[name], matrices = common_basis(narrow)
        else:
            matrices = [as_matrix(delta) for delta in deltas]
        for of, matrix in zip(plain, matrices, strict=True):
            of[name] = matrix
    return bases, plain


def merged_deltas(
    own: Sequence[Mapping[str, Tensor]],
    exact: Sequence[Tensor],
    near: Sequence[Tensor],
    neutral: Tensor,
) -> dict[str, Tensor]:
    """min ||D C^T||^2 + sum_j ||(D - D_j) S_j^T||^2  subject to  D T_j^T = D_j T_j^T, each matrix.

    With A the rows of C and all S_j, G = (A^T A)^-1, T the rows of all T_j, and D' the minimum
    without the constraint: D = D' + ([D_j T_j^T] - D' T^T) (T G T^T)^-1 T G.
    own: D_j [out, in] by name; exact: T_j [k_j, in]; near: S_j [m_j, in]; neutral: C [n, in].
    -> D, float32
    """
    fixed, width = torch.cat(list(exact)).double(), neutral.shape[1]
    every = torch.cat([neutral.double(), *(rows.double() for rows in near)])
    gram = _ridged(every.mT @ every, RIDGE)
    weighted = torch.linalg.solve(gram, fixed.mT).mT  # T G, [k, in]
    system = _ridged(weighted @ fixed.mT, EXACT_RIDGE)
    project = torch.linalg.solve(system, weighted)  # (T G T^T)^-1 T G
    factors = torch.linalg.lu_factor(gram)  # once for all matrices
    merged = {}
    for name, first in own[0].items():
        pull = torch.zeros(first.shape[0], width, dtype=torch.float64)
        for delta, rows in zip(own, near, strict=True):
            pull += delta[name].double() @ rows.double().mT @ rows.double()
        free = torch.linalg.lu_solve(*factors, pull.mT).mT  # D'
        wanted = [d[name].double() @ t.double().mT for d, t in zip(own, exact, strict=True)]
        merged[name] = (free + (torch.cat(wanted, dim=1) - free @ fixed.mT) @ project).float()
    return merged


def softly_merged_deltas(
    own: Sequence[Mapping[str, Tensor]],
    exact: Sequence[Tensor],
    near: Sequence[Tensor],
    neutral: Tensor,
) -> dict[str, Tensor]:
    """min ||D C^T||^2 + sum_j ||(D - D_j) S_j^T||^2 + w sum_j ||(D - D_j) T_j^T||^2, each matrix.

    With A the rows of C and all S_j, M_j = S_j^T S_j + w T_j^T T_j and w = 100:
    D = (sum_j D_j M_j) (A^T A + w sum_j T_j^T T_j)^-1.
    Arguments and answer as those of `merged_deltas`.
    """
    every = torch.cat([neutral.double(), *(rows.double() for rows in near)])
    fixed = torch.cat(list(exact)).double()
    gram = _ridged(every.mT @ every, RIDGE) + WEIGHT * fixed.mT @ fixed
    factors = torch.linalg.lu_factor(gram)  # once for all matrices
    pulls = [
        long.double().mT @ long.double() + WEIGHT * short.double().mT @ short.double()
        for long, short in zip(near, exact, strict=True)
    ]
    merged = {}
    for name in own[0]:
        pairs = zip(own, pulls, strict=True)
        pull = torch.stack([delta[name].double() @ of for delta, of in pairs]).sum(0)
        merged[name] = torch.linalg.lu_solve(*factors, pull.mT).mT.float()
    return merged


def _ridged(square: Tensor, share: float) -> Tensor:
    """square [n, n] + share of its mean eigenvalue on the diagonal."""
    ridge = share * square.trace() / max(len(square), 1)
    return square + ridge * torch.eye(len(square), dtype=square.dtype)


def merge_quality(
    own: Sequence[Mapping[str, Tensor]],
    merged: Mapping[str, Tensor],
    near: Sequence[Tensor],
    neutral: Tensor,
) -> Quality:
    """How near the merged deltas come to each concept's own on its captions, and their spill."""

    def size(of: Mapping[str, Tensor], rows: Tensor) -> float:
        squares = [(of[name].double() @ rows.double().mT).square().sum() for name in merged]
        return torch.stack(squares).sum().sqrt().item()

    kept = []
    for deltas, rows in zip(own, near, strict=True):
        missed = size({name: merged[name] - deltas[name] for name in merged}, rows)
        kept.append(max(0.0, 1 - missed / max(size(deltas, rows), 1e-30)))
    alone = sum(size(deltas, neutral) for deltas in own) / len(own)
    return Quality(tuple(kept), size(merged, neutral) / max(alone, 1e-30))


def _merged(
    concepts: Sequence[Concept],
    subjects: Sequence[Renamed],
    deltas: Mapping[str, Delta],
    quality: Quality,
) -> Concept:
    words = {}
    for subject in subjects:
        own = concepts[subject.concept].words
        words[subject.word] = own[subject.own]
        for role in ("P", "B"):
            words |= {f"{role}{i + subject.offset}": own[f"{role}{i}"] for i in subject.photos}
    numbered = [c for c in concepts if c.photo_count] or list(concepts)
    return Concept(
        words=words,
        deltas=deltas,
        named=tuple(
            Named(s.word, s.class_word, s.attribute, tuple(i + s.offset for i in s.photos))
            for s in subjects
        ),
        method=f"{MERGED} {len(subjects)} concepts",
        base=concepts[0].base,
        report={"merge": {"kept": list(quality.kept), "spill": quality.spill}},
        photo_hashes=tuple(photo for c in numbered for photo in c.photo_hashes),
        thumbnails=torch.cat([c.thumbnails for c in numbered]),
    )
