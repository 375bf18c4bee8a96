"""Prompts with placeholders: [V] the subject, [P2] a pose, [B1] a background.

In training the photo's own words are plain [P] and [B]; in a finished concept they have numbers.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# a Chinese or Japanese keyboard types its brackets, letters and digits in full width
OPENED, CLOSED = r"[\[［【]\s*", r"\s*[\]］】]"
PLACEHOLDER = re.compile(rf"{OPENED}([VPBＶＰＢ]\d*){CLOSED}")
UNKNOWN = re.compile(rf"{OPENED}([A-Za-z]\d*){CLOSED}")  # a letter that no concept has

LIVING = frozenset(
    "person people man men woman women boy girl child children baby toddler kid animal pet dog "
    "puppy hound cat kitten horse pony foal donkey cow bull calf sheep lamb goat pig piglet "
    "rabbit bunny hare hamster gerbil rat squirrel hedgehog ferret chinchilla bird "
    "parrot parakeet budgie cockatiel canary pigeon crow owl eagle falcon hawk duck duckling "
    "goose geese swan chicken hen rooster chick turkey peacock penguin flamingo fish goldfish "
    "koi turtle tortoise lizard gecko iguana chameleon snake frog toad fox wolf wolves bear "
    "panda koala kangaroo lion tiger leopard cheetah lynx elephant giraffe zebra hippo rhino "
    "monkey ape gorilla chimpanzee deer reindeer moose camel llama alpaca otter beaver badger "
    "raccoon skunk dolphin whale shark octopus crab butterfly bee spider affenpinscher akita "
    "beagle bulldog chihuahua collie corgi dachshund dalmatian doberman greyhound husky "
    "labrador labradoodle malamute maltese mastiff mutt pekingese pinscher pitbull pomeranian "
    "poodle pug retriever rottweiler samoyed schnauzer setter sheepdog shepherd spaniel terrier "
    "vizsla weimaraner whippet calico coon persian ragdoll siamese sphynx tabby".split()
)
# beside a living word: no living thing
LIFELESS = frozenset(("toy", "plush", "plushie", "stuffed", "teddy", "rubber", "hot"))


SOUNDS_LIKE_YOU = r"uni(?![nm])|us[eu]|ut[ei]|uk|eu|ewe|one\b"
SILENT_H = r"hour|heir|honest|honou?r"
# of a prompt, what no caption has: learned clauses, emphasis, embeddings
CLAUSE = re.compile(
    rf"\s+(?:with {OPENED}[PＰ]\d*{CLOSED} \w+|in {OPENED}[BＢ]\d*{CLOSED} background)"
)
AFTER_ARTICLE = re.compile(rf"\ban? (?:{OPENED}[VＶ]\d*{CLOSED}\s*)+(\S+)", re.IGNORECASE)
WEIGHT = re.compile(r":\s*\d*\.?\d+\s*(?=\))|(?<!\\)[()]")
EMBEDDING = re.compile(r"\bembedding:[^\s,]+")
HEAD = re.compile(r"\s(?:with|wearing|in|on|at|of|from|and)\s.*")  # what follows the noun


class Named(NamedTuple):
    """One learned thing."""

    word: str  # "V", "V2"
    class_word: str
    attribute: str  # "pose" or "view": the word after [P]
    photos: tuple[int, ...] = ()  # numbers of the photos whose [P_i] and [B_i] belong to it


@dataclass(frozen=True)
class PromptTokens:
    """A tokenised prompt. ids [T] for each text tower, which pad differently; slots: (position,
    word) where a learned vector goes.
    """

    ids: tuple[tuple[int, ...], ...]
    slots: tuple[tuple[int, str], ...]

    def position(self, word: str) -> int | None:
        """Where `word` ("V", "P", "B2") stands first; None where it does not."""
        return next((position for position, name in self.slots if name == word), None)

    def length(self) -> int:
        """How many tokens of the first tower come before those that fill it up, of which the end
        token is the first where it fills up, too.
        """
        ids = self.ids[0]
        return max((i for i, token in enumerate(ids) if token != ids[-1]), default=0) + 1


def attribute_word(class_word: str) -> str:
    """ "pose" for living things, else "view" (DETEX section 3.2 and supplement B.1)."""
    plain = HEAD.sub("", class_word.lower()).replace("'s", "").replace("’s", "")
    words = re.findall(r"[^\W_]+", plain)
    last = words[-1] if words else ""
    singular = {last, last.removesuffix("s"), last.removesuffix("es"), re.sub("ies$", "y", last)}
    return "pose" if singular & LIVING and not LIFELESS.intersection(words) else "view"


def training_prompt(
    class_word: str, attribute: str, words: Collection[str], prefix: str = "", place: str = ""
) -> str:
    """y = "photo of a [V] dog with [P] pose in [B] background"; a word not in `words` and its
    clause are left out (DETEX section 3.2). `prefix` is the caption of a scaled copy; `place` names
    the background where [B] does not.
    """
    subject = f"a [V] {class_word}" if "V" in words else with_article(class_word)
    pose = f" with [P] {attribute}" if "P" in words else ""
    ground = "[B]" if "B" in words else place
    background = f" in {ground} background" if ground else ""
    return f"{prefix}photo of {subject}{pose}{background}"


def joint_prompt(named: Sequence[Named], prefix: str = "") -> str:
    """ "photo of a [V] cat and [V2] dog", in this order (DisenDiff section 3)."""
    said = listed([f"[{one.word}] {one.class_word}" for one in named])
    return f"{prefix}photo of a {said}"


def joint_class(named: Sequence[Named]) -> str:
    """ "a cat and a dog and a hat", without the learned words: a class word may hold no comma."""
    return " and ".join(with_article(one.class_word) for one in named)


def listed(parts: Sequence[str]) -> str:
    """ "a cat", "a cat and a dog", "a cat, a dog and a hat"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def with_article(class_word: str) -> str:
    """ "a dog", "an apple", "an hourglass", "a unicorn": by the sound that it begins with."""
    vowel = re.match(rf"(?!{SOUNDS_LIKE_YOU})[aeiou]|{SILENT_H}", class_word, re.IGNORECASE)
    return f"an {class_word}" if vowel else f"a {class_word}"


def with_clauses(text: str, attribute: str, pose: int, background: int) -> str:
    """`text` with the trained clauses in trained order; number 0 adds none."""
    if not pose and not background:
        return text
    text = text.rstrip().rstrip(",.")
    if pose:
        text += f" with [P{pose}] {attribute}"
    if background:
        text += f" in [B{background}] background"
    return text


def spelled_out(text: str, vectors: Mapping[str, int]) -> str:
    """A word of several vectors, written once, as the placeholders of all of them: with
    {"V": 2}, "a [V] dog" -> "a [V] [V] dog".
    """

    def repeated(match: re.Match) -> str:
        count = vectors.get(unicodedata.normalize("NFKC", match[1]), 1)
        return " ".join([match[0]] * count)

    return PLACEHOLDER.sub(repeated, text)


def split_placeholders(text: str) -> tuple[list[str], list[str]]:
    """ "a [V] dog" -> pieces ["a ", " dog"] and words ["V"]; len(pieces) == len(words) + 1.

    Full-width forms are read; what is no placeholder is text.
    """
    parts = PLACEHOLDER.split(text)
    return parts[0::2], [unicodedata.normalize("NFKC", word) for word in parts[1::2]]


def check_words(text: str, known: Sequence[str]) -> None:
    """Raise ValueError where `text` uses a placeholder that is not in `known`."""
    used = {*split_placeholders(text)[1], *UNKNOWN.findall(text)}
    unknown = sorted(word for word in used if word not in known)
    if unknown:
        raise ValueError(
            f"The prompt asks for {bracketed(unknown)}, but this concept has {bracketed(known)}. "
            'Use one of these; the contact sheet of "Load Decoupled Embeddings" shows which photo '
            "each number stands for."
        )


def bracketed(words: Iterable[str]) -> str:
    """ "[V], [P1]" """
    return ", ".join(f"[{word}]" for word in words)


def plain_caption(text: str) -> str:
    """What a picture of this prompt should show, in plain words: without learned words and their
    clauses, weights and embeddings. "photo of a [V] apple with [P1] view in [B2] background" ->
    "photo of an apple". Raises ValueError where nothing is left.
    """
    plain = re.sub(r"\\([()])", r"\1", WEIGHT.sub("", text))
    plain = EMBEDDING.sub("", CLAUSE.sub("", plain))
    plain = AFTER_ARTICLE.sub(lambda match: with_article(match[1]), plain)
    plain = re.sub(r"(?:\s*,)+", ",", PLACEHOLDER.sub("", plain))
    caption = " ".join(plain.split()).strip(" ,")
    if not re.search(r"\w", caption):
        raise ValueError(
            f'The prompt "{text}" has no plain word left that a picture could show. Write what '
            'it should show, such as "photo of a [V] dog on the beach".'
        )
    return caption
