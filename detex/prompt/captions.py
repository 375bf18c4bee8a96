"""Plain captions that a merge of concepts should leave as they are."""

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

NEUTRAL = tuple(f"photo of {thing} {place}".strip() for thing in THINGS for place in PLACES)
