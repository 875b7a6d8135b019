"""A part of many cases for `make test`; `make check` runs them all."""

import pytest


def sampled(cases: list[tuple], every: int, first: int = 0) -> list:
    """The cases, all but every `every`-th from `first` on marked as slow."""
    return [
        case if number % every == first else pytest.param(*case, marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]
