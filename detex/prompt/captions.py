"""Plain captions that learning and merging concepts should leave as they are."""

from collections.abc import Sequence

from .grammar import training_prompt

THINGS = (
    "a man", "a woman", "two children", "a dog", "a cat", "a horse", "a bird", "a car", "a bicycle",
    "a boat", "a house", "an old bridge", "a chair", "a table", "a cup of tea", "a bowl of fruit",
    "a red flower", "a tall tree", "a mountain", "a robot", "a toy", "a castle", "a pair of shoes",
    "a blue vase",
)  # fmt: skip
PLACES = (
    "", "on the beach", "in the snow", "in a forest", "in the city at night", "on a wooden floor",
    "in front of a white wall", "in the garden", "under a cloudy sky",
)  # fmt: skip

VIEWS = ("front", "side", "back", "left", "right", "top", "bottom", "center")

NEUTRAL = tuple(f"photo of {thing} {place}".strip() for thing in THINGS for place in PLACES)


def neutral_captions(class_word: str, attribute: str, places: Sequence[str]) -> list[str]:
    """What is asked of a class: each place by name, and views there: "photo of a dog with left pose
    in sandy beach background".
    """
    captions = [training_prompt(class_word, attribute, (), place=place) for place in places]
    for i in range(max(len(VIEWS), len(places))):
        for place in (places[i % len(places)], places[(i + 1) % len(places)]):
            posed = training_prompt(class_word, attribute, "P", place=place)
            captions.append(posed.replace("[P]", VIEWS[i % len(VIEWS)]))
    return captions
