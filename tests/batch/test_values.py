"""Cells become values of the type that the input wants, or the message says what it accepts."""

import pytest

from detex_pack.detex.batch.values import to_value

SAMPLERS = {"options": ["euler", "ddim"]}


@pytest.mark.parametrize(
    ("text", "kind", "options", "value"),
    [
        ("7", "INT", {}, 7),
        (" 7 ", "INT", {"min": 0, "max": 2**64 - 1}, 7),
        ("18446744073709551615", "INT", {"max": 2**64 - 1}, 2**64 - 1),
        ("0.5", "FLOAT", {"min": 0.0, "max": 1.0}, 0.5),
        ("TRUE", "BOOLEAN", {}, True),
        ("no", "BOOLEAN", {}, False),
        (" a ball ", "STRING", {}, " a ball "),
        ('""', "STRING", {}, ""),
        ("ddim", "COMBO", SAMPLERS, "ddim"),
        ("ddim", ["euler", "ddim"], {}, "ddim"),
        ("2", [1, 2], {}, 2),
        ("new.png", ["old.png"], {"image_upload": True}, "new.png"),
        ("b", "COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "a"}, {"key": "b"}]}, "b"),
    ],
)
def test_the_value_has_the_type_of_the_input(text, kind, options, value):
    made = to_value(text, kind, options)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "options", "message"),
    [
        ("1E+15", "INT", {}, '"1E\\+15" is not a whole number'),
        ("0,5", "FLOAT", {}, '"0,5" is not a number with a decimal point'),
        ("nan", "FLOAT", {}, "is not a number"),
        ("200", "INT", {"min": 1, "max": 100}, "200 is not between 1 and 100"),
        ("maybe", "BOOLEAN", {}, '"maybe" is neither true nor false'),
        ("uler", "COMBO", SAMPLERS, 'offers no "uler"; it has "euler", "ddim"'),
        ("x", [str(n) for n in range(20)], {}, "and 8 more"),
        ("x", [], {}, 'offers no "x"; it has none'),
        ("x", "CURVE", {}, "type CURVE cannot be set from a table"),
    ],
)
def test_a_cell_that_does_not_fit_is_told(text, kind, options, message):
    with pytest.raises(ValueError, match=message):
        to_value(text, kind, options)
