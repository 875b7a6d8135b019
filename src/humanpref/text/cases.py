"""Find rows with degenerate answers: one is empty, both are empty, or both are identical."""

import numpy as np
import pandas as pd

IDENTICAL, BOTH_EMPTY, A_EMPTY, B_EMPTY = "identical", "both empty", "A empty", "B empty"
CASES = (IDENTICAL, BOTH_EMPTY, A_EMPTY, B_EMPTY)


def answer_cases(pairs: pd.DataFrame) -> np.ndarray:
    """Return each row's case, (n,) of str: one of `CASES`, or an empty string if none applies.
    White space at the ends of a turn is ignored."""
    a, b = (
        [tuple(map(str.strip, turns)) for turns in pairs[column]]
        for column in ("response_a", "response_b")
    )
    return np.array([_case(*answers) for answers in zip(a, b, strict=True)], dtype=object)


def _case(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    if any(a) and any(b):
        return IDENTICAL if a == b else ""
    return B_EMPTY if any(a) else A_EMPTY if any(b) else BOTH_EMPTY
