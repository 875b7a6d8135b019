"""Kinds of rows that a model may be good or bad at: each names every row's part."""

import numpy as np
import pandas as pd

from humanpref.text.features import language_of


def slices(pairs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Of each way to cut the rows, (n,) names of the part that each row is in; every row is in one part of each."""
    a, b = (np.array([sum(map(len, turns)) for turns in pairs[c]]) for c in ("response_a", "response_b"))
    ratio = (np.maximum(a, b) + 1) / (np.minimum(a, b) + 1)
    turns = np.array([len(prompt) for prompt in pairs["prompt"]])
    empty = np.array([not "".join(t).strip() for t in pairs["response_a"]]) | np.array(
        [not "".join(t).strip() for t in pairs["response_b"]]
    )
    same = np.array([x == y for x, y in zip(pairs["response_a"], pairs["response_b"], strict=True)])
    texts = zip(pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True)
    code = np.array([any("```" in turn for text in row for turn in text) for row in texts])
    language = np.array([language_of(prompt) or "not told" for prompt in pairs["prompt"]], dtype=object)
    lengths = np.array(["under 500", "500-1,500", "1,500-3,000", "3,000 and more"])
    differences = np.array(["under 1.25 times", "1.25-2 times", "2-4 times", "4 times and more"])
    return {
        "mean characters of the answers": lengths[np.digitize((a + b) / 2, [500, 1_500, 3_000])],
        "longer answer is longer by": differences[np.digitize(ratio, [1.25, 2, 4])],
        "turns": np.array(["1", "2", "3 and more"])[np.digitize(turns, [2, 3])],
        "language of the prompt": np.where(np.isin(language, ["english", "not told"]), language, "another"),
        "code": np.where(code, "a code block", "none"),
        "answers": np.select([same, empty], ["identical", "one is empty"], "different, not empty"),
    }
