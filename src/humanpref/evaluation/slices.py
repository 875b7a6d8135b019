"""Divide the rows into slices, on some of which a model may do much better than on others."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from humanpref.schema import TEXT_COLUMNS
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, IDENTICAL, answer_cases
from humanpref.text.languages import language_of

_ANSWERS = {
    "": "different, not empty",
    A_EMPTY: "one is empty",
    B_EMPTY: "one is empty",
    BOTH_EMPTY: "both are empty",
    IDENTICAL: "identical",
}


def slices(pairs: pd.DataFrame) -> dict[str, pd.Categorical]:
    """Divide the n rows into slices in several ways. For each way, return a categorical (n,) that
    names the slice of each row; its categories are in display order."""
    texts = pairs[[*TEXT_COLUMNS]]
    characters = texts[["response_a", "response_b"]].map(lambda turns: sum(map(len, turns)))
    ratio = (characters.max(axis=1) + 1) / (characters.min(axis=1) + 1)
    languages = [language_of(prompt) or "unknown" for prompt in pairs["prompt"]]
    languages = [name if name in ("english", "unknown") else "another" for name in languages]
    code = texts.map(lambda turns: any("```" in turn for turn in turns)).any(axis=1)
    answers = [_ANSWERS[case] for case in answer_cases(pairs)]
    return {
        "mean characters of the answers": _ranges(
            characters.mean(axis=1),
            [500, 1_500, 3_000],
            ["under 500", "500-1,500", "1,500-3,000", "3,000 and more"],
        ),
        "longer answer is longer by": _ranges(
            ratio,
            [1.25, 2, 4],
            ["under 1.25 times", "1.25-2 times", "2-4 times", "4 times and more"],
        ),
        "turns": _ranges(pairs["prompt"].map(len), [2, 3], ["1", "2", "3 and more"]),
        "language of the prompt": pd.Categorical(languages, ["english", "another", "unknown"]),
        "code": pd.Categorical.from_codes(code.astype(int), ["none", "a code block"]),
        "answers": pd.Categorical(answers, dict.fromkeys(_ANSWERS.values())),
    }


def _ranges(values: pd.Series, edges: Iterable[float], names: list[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(np.digitize(values, edges), names)
