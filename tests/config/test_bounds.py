from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest

from humanpref.config.bounds import Count, Options, Penalties, Positive, at_least, checked, whole
from humanpref.schema import InputError

Color = Literal["red", "none"]


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (bool, True, True),
        (Color, "red", "red"),
        (Color, "none", "none"),
        (Count | None, None, None),
        (Count | None, "none", None),
        (Positive | None, 2, 2.0),
        (Penalties, 5, (5.0,)),
        (Penalties, [1, 2.5], (1.0, 2.5)),
        (tuple[str, ...], "sparse", ("sparse",)),
        (Annotated[int, whole(8, 16)], 16, 16),
    ],
)
def test_values_that_fit(hint, value, expected):
    result = checked("section.option", hint, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, 2.5, "expected int, got 2.5"),
        (int, True, "expected int, got True"),
        (float, True, "expected float, got True"),
        (bool, 1, "expected bool, got 1"),
        (str, 1, "expected str, got 1"),
        (float, float("nan"), "expected a finite number, got nan"),
        (float, 10**400, "expected float, got 10"),
        (Count, 0, "expected at least 1, got 0"),
        (Count, "none", "expected int, got 'none'"),
        (Count, None, "expected int, got None"),
        (Count | None, "many", "expected int or none, got 'many'"),
        (Count | None, 0, "expected at least 1, got 0"),
        (Color, "blue", "expected one of red, none, got 'blue'"),
        (Color, ["red"], r"expected one of red, none, got \['red'\]"),
        (Penalties, [], r"expected positive numbers, got \(\)"),
        (Penalties, [1, 0], "expected positive numbers"),
        (Penalties, [1, "a"], "expected a list of numbers"),
        (Penalties, [1, float("inf")], "expected a finite number"),
        (tuple[str, ...], ["a", 1], "expected a list of texts"),
        (Annotated[int, whole(8, 16, "tokens")], 17, "expected 8 to 16 tokens, got 17"),
        (Annotated[float, at_least(0)], -0.5, "expected at least 0, got -0.5"),
    ],
)
def test_values_that_do_not_fit(hint, value, message):
    with pytest.raises(InputError, match=f"^option section.option: {message}"):
        checked("section.option", hint, value)


def test_a_section_converts_and_checks_its_values_when_it_is_built():
    @dataclass(frozen=True)
    class Paint(Options):
        section: ClassVar[str] = "training"
        coats: Count = 1
        share: Positive | None = None

        def __post_init__(self):
            super().__post_init__()
            self.require(self.share is None or self.coats > 1, "share", "none for a single coat")

    assert Paint(coats=2, share=3) == Paint(2, 3.0)
    with pytest.raises(InputError, match=r"option training.coats: expected at least 1, got 0"):
        Paint(coats=0)
    with pytest.raises(
        InputError, match=r"option training.share: expected none for a single coat, got 3.0"
    ):
        Paint(share=3)
