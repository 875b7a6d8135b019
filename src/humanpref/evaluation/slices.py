"""Slices: ways to cut the rows into parts that a model may be good or bad at."""

import numpy as np
import pandas as pd

from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, IDENTICAL, answer_cases
from humanpref.text.languages import language_of


def slices(pairs: pd.DataFrame) -> dict[str, pd.Categorical]:
    """Each way to cut the n rows, as every row's part; the categories are in a sensible order."""
    a, b = (
        np.array([sum(map(len, turns)) for turns in pairs[column]])
        for column in ("response_a", "response_b")
    )
    ratio = (np.maximum(a, b) + 1) / (np.minimum(a, b) + 1)
    turns = np.array([len(prompt) for prompt in pairs["prompt"]])
    place_of = {"": 0, A_EMPTY: 1, B_EMPTY: 1, BOTH_EMPTY: 2, IDENTICAL: 3}
    cases = np.array([place_of[case] for case in answer_cases(pairs)])
    texts = zip(pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True)
    code = np.array([any("```" in turn for text in row for turn in text) for row in texts])
    language = np.array([language_of(prompt) or "unknown" for prompt in pairs["prompt"]])
    lengths = ("under 500", "500-1,500", "1,500-3,000", "3,000 and more")
    differences = ("under 1.25 times", "1.25-2 times", "2-4 times", "4 times and more")
    of_language = np.select([language == "english", language != "unknown"], [0, 1], 2)
    of_answers = "different, not empty", "one is empty", "both are empty", "identical"
    return {
        "mean characters of the answers": _parts(
            np.digitize((a + b) / 2, [500, 1_500, 3_000]), *lengths
        ),
        "longer answer is longer by": _parts(np.digitize(ratio, [1.25, 2, 4]), *differences),
        "turns": _parts(np.digitize(turns, [2, 3]), "1", "2", "3 and more"),
        "language of the prompt": _parts(of_language, "english", "another", "unknown"),
        "code": _parts(code.astype(np.int64), "none", "a code block"),
        "answers": _parts(cases, *of_answers),
    }


def _parts(places: np.ndarray, *names: str) -> pd.Categorical:
    return pd.Categorical.from_codes(places, names)
