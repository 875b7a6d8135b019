"""Divide the rows into slices, on some of which a model may do much better than on others."""

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


_CHARACTERS = {0: "under 500", 500: "500-1,500", 1_500: "1,500-3,000", 3_000: "3,000 and more"}
_RATIOS = {0: "under 1.25 times", 1.25: "1.25-2 times", 2: "2-4 times", 4: "4 times and more"}
_TURNS = {0: "1", 2: "2", 3: "3 and more"}


def slices(pairs: pd.DataFrame) -> dict[str, pd.Series | pd.Categorical]:
    """Divide the n rows into slices in several ways. For each way, return a categorical (n,) that
    names the slice of each row; its categories are in display order."""
    characters = characters_of(pairs)[["response_a", "response_b"]]
    ratio = (characters.max(axis=1) + 1) / (characters.min(axis=1) + 1)
    languages = [language_of(prompt) or "unknown" for prompt in pairs["prompt"]]
    languages = [name if name in ("english", "unknown") else "another" for name in languages]
    texts = pairs[[*TEXT_COLUMNS]]
    code = texts.map(lambda turns: any("```" in turn for turn in turns)).any(axis=1)
    answers = [_ANSWERS[case] for case in answer_cases(pairs)]
    return {
        "mean characters of the answers": ranges(characters.mean(axis=1), _CHARACTERS),
        "longer answer is longer by": ranges(ratio, _RATIOS),
        "turns": ranges(pairs["prompt"].map(len), _TURNS),
        "language of the prompt": pd.Categorical(languages, ["english", "another", "unknown"]),
        "code": pd.Categorical.from_codes(code.astype(int), ["none", "a code block"]),
        "answers": pd.Categorical(answers, dict.fromkeys(_ANSWERS.values())),
    }


def characters_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the characters of the prompt and of each response, summed over all turns."""
    return pairs[[*TEXT_COLUMNS]].map(lambda turns: sum(map(len, turns)))


def ranges(values: pd.Series, names: dict[float, str]) -> pd.Series:
    """Return, for each value, the name of the range that contains it, as a categorical. The keys of
    `names` are the lower ends of the ranges."""
    return pd.cut(values, [*names, np.inf], right=False, labels=[*names.values()])
