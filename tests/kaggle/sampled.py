"""A part of many cases for `make test`; `make check` runs them all."""

import pytest


def sampled(cases: list, every: int, first: int = 0) -> list:
    """Mark all cases as slow except every `every`-th, starting with `first`."""
    return [case if number % every == first else _slow(case) for number, case in enumerate(cases)]


def _slow(case):
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
