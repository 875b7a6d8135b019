"""Compute the tables of `humanpref eda` with pure functions of a pairs frame.

Soft labels count fractionally: a row labeled (0.5, 0.5, 0) is half a win for each model.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import has_ties, labels_of, prompt_keys, swap_pairs
from humanpref.evaluation.intervals import ratio_interval, share_interval
from humanpref.evaluation.slices import characters_of, ranges
from humanpref.schema import CLASSES, ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, IDENTICAL, answer_cases
from humanpref.text.languages import language_of
from humanpref.text.tokens import text_ids

LENGTHS = (512, 1024, 2048)
"""Sequence lengths at which truncation is counted, in tokens."""
TRUNCATION_ROWS = 5_000
"""Maximum number of rows whose tokens are counted. This many rows are enough to estimate a share to
within 1.4 percentage points, and take only seconds."""
SHARE = ["tie_share", "low", "high"]
"""The names of the columns with the share of ties and its interval."""
_RATIOS = {
    1: "1-1.1",
    1.1: "1.1-1.25",
    1.25: "1.25-1.5",
    1.5: "1.5-2",
    2: "2-3",
    3: "3-5",
    5: "over 5",
}
_TURNS = {0: "1", 2: "2", 3: "3", 4: "4", 5: "5 or more"}
_CHARACTERS = {
    0: "under 500",
    500: "500-999",
    1_000: "1,000-1,999",
    2_000: "2,000-3,999",
    4_000: "4,000-7,999",
    8_000: "8,000-15,999",
    16_000: "16,000 or more",
}
_GROUP_SIZES = {1: "1", 2: "2", 3: "3", 4: "4", 5: "5-9", 10: "10 or more"}
_CASES = {
    A_EMPTY: "only A is empty",
    B_EMPTY: "only B is empty",
    BOTH_EMPTY: "both are empty",
    IDENTICAL: "identical, not empty",
}


def has_labels(pairs: pd.DataFrame) -> bool:
    """Return whether the rows have labels."""
    return set(LABEL_COLUMNS[:2]) <= set(pairs)


def names_models(pairs: pd.DataFrame) -> np.ndarray:
    """Return a mask (n,) of the rows that name both models. A blank name counts as missing."""
    if not set(MODEL_COLUMNS) <= set(pairs):
        return np.zeros(len(pairs), dtype=bool)
    return np.all([pairs[column].str.strip() != "" for column in MODEL_COLUMNS], axis=0)


def sizes(pairs: pd.DataFrame, characters: pd.DataFrame) -> pd.DataFrame:
    """Return quantiles of the number of turns per row and of the characters of its texts. The
    columns are `what`, `median`, `p90`, `p99` and `largest`."""
    columns = characters.add_prefix("characters of ")
    columns.insert(0, "turns", pairs["prompt"].map(len))
    table = columns.quantile([0.5, 0.9, 0.99, 1], interpolation="higher").T
    table.columns = ["median", "p90", "p99", "largest"]
    return table.rename_axis("what").reset_index()


def label_balance(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the labels A, B and, if the rows' format has ties, tie. The columns are `label`,
    `rows`, and `share` with its interval, `low` and `high`."""
    table = pd.DataFrame({"label": CLASSES, "rows": labels_of(pairs).sum(axis=0)})
    table = table if has_ties(pairs) else table[:2]
    return _with_share(table, "share", table["rows"], len(pairs))


def model_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the rows and outcomes of each model; the model with the most rows comes first.

    Returns
    -------
    DataFrame
        `model`, `rows`, `as_a` (rows in which it is model A), `wins`, `losses`, `ties`, `win_share`
        (wins plus half the ties, divided by all rows), `win_loss_ratio` with its interval,
        `ratio_low` and `ratio_high`. The ratio is (wins + 1/2) / (losses + 1/2), which is always
        finite.
    """
    sides = []
    for side, as_a in ((pairs, 1), (swap_pairs(pairs), 0)):
        rows = pd.DataFrame({"model": side["model_a"], "rows": 1, "as_a": as_a})
        rows[["wins", "losses", "ties"]] = labels_of(side)
        sides.append(rows)
    table = _most_rows_first(pd.concat(sides).groupby("model").sum())
    table["win_share"] = (table["wins"] + table["ties"] / 2) / table["rows"]
    table["win_loss_ratio"] = (table["wins"] + 0.5) / (table["losses"] + 0.5)
    table["ratio_low"], table["ratio_high"] = ratio_interval(table["wins"], table["losses"])
    return table


def pair_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the rows and outcomes of each pair of models; the pair with the most rows comes first.

    Returns
    -------
    DataFrame
        `model_1` and `model_2` (in alphabetical order), `rows`, `wins_1`, `wins_2`, `ties`.
    """
    swapped = pairs["model_a"] > pairs["model_b"]
    ordered = pd.concat([pairs[~swapped], swap_pairs(pairs[swapped])])
    rows = ordered[[*MODEL_COLUMNS]].set_axis(["model_1", "model_2"], axis=1).assign(rows=1)
    rows[["wins_1", "wins_2", "ties"]] = labels_of(ordered)
    return _most_rows_first(rows.groupby(["model_1", "model_2"]).sum())


def length_bias(pairs: pd.DataFrame, characters: pd.DataFrame) -> pd.DataFrame:
    """Count how often the longer answer wins, depending on how much longer it is. Rows with answers
    of equal length are left out.

    Returns
    -------
    DataFrame
        `longer_by` (a range of ratios: characters of the longer answer over those of the shorter),
        `rows`, `longer_wins` (share of the rows that are not ties) with `low` and `high`, and
        `tie_share`.
    """
    a, b = characters["response_a"] + 1, characters["response_b"] + 1
    labels = labels_of(pairs)
    rows = pd.DataFrame({"longer_by": ranges(np.maximum(a, b) / np.minimum(a, b), _RATIOS)})
    rows = rows.assign(rows=1, wins=np.where(a > b, labels[:, 0], labels[:, 1]), ties=labels[:, 2])
    table = rows[a != b].groupby("longer_by", observed=True).sum().reset_index()
    wins, ties = table.pop("wins"), table.pop("ties")
    table = _with_share(table, "longer_wins", wins, table["rows"] - ties)
    return table.assign(tie_share=ties / table["rows"])


def longer_wins(bias: pd.DataFrame) -> float | None:
    """Return the share of decided rows that the longer answer wins, from the table of
    `length_bias`; None if no row is decided."""
    decided = bias["rows"] * (1 - bias["tie_share"])
    return float(bias["longer_wins"].fillna(0) @ decided / decided.sum()) if decided.sum() else None


def ties_by_length(pairs: pd.DataFrame, characters: pd.DataFrame) -> pd.DataFrame:
    """Sort the rows by the mean length of their two answers, shortest first, and return the share
    of ties in each tenth. The columns are `slice`, `characters` (the median of the mean lengths),
    `rows`, `tie_share`, `low` and `high`."""
    mean = (characters["response_a"] + characters["response_b"]) / 2
    tenth = np.digitize(mean, np.unique(np.quantile(mean, np.linspace(0.1, 0.9, 9))))
    lengths = mean.groupby(tenth).agg(["min", "max", "median"]).reset_index()
    table = _tie_shares(pairs, tenth)
    low, high = (lengths[end].map("{:,.0f}".format) for end in ("min", "max"))
    table["slice"] = low + "-" + high
    table.insert(1, "characters", lengths["median"])
    return table


def ties_by_turns(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the share of ties by number of turns. The columns are `slice`, `rows`, `tie_share`,
    `low` and `high`."""
    return _tie_shares(pairs, ranges(pairs["prompt"].map(len), _TURNS))


def prompt_groups(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Group the rows that share a prompt (`humanpref.data.prompt_keys`).

    Returns
    -------
    by_size : DataFrame
        One row per size of a group: `rows_per_prompt` (the size), `prompts`, `rows`.
    largest : DataFrame
        The ten largest groups of more than one row: `rows`, `prompt` (its beginning), `first_id`.
    """
    groups = pairs.groupby(prompt_keys(pairs), sort=False)
    rows = groups.size()
    by_size = rows.value_counts().sort_index().rename_axis("rows_per_prompt")
    table = by_size.reset_index(name="prompts")
    table["rows"] = table["rows_per_prompt"] * table["prompts"]
    first = pd.DataFrame({"rows": rows.to_numpy()}, index=groups.head(1).index)
    largest = first[first["rows"] > 1].nlargest(10, "rows").join(pairs[["prompt", ID]])
    largest["prompt"] = [beginning(turns, 80, "…") for turns in largest["prompt"]]
    return table, largest.rename(columns={ID: "first_id"}).reset_index(drop=True)


def rows_by_group_size(by_size: pd.DataFrame) -> pd.DataFrame:
    """Sum the column `rows` of `by_size`, which `prompt_groups` returns, over ranges of
    `rows_per_prompt`. The ranges become the index."""
    sizes = ranges(by_size["rows_per_prompt"], _GROUP_SIZES)
    return by_size.groupby(sizes, observed=False)[["rows"]].sum()


def languages(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the languages and scripts of the prompts (`humanpref.text.languages.language_of`).

    Returns
    -------
    DataFrame
        `language` (most rows first), `rows`, `share`, `another` (the share of these rows in which
        an answer is in a different language) and, if the rows' format has ties, `tie_share`.
    """
    spoken = pairs[[*TEXT_COLUMNS]].map(lambda turns: language_of(turns) or "unknown").to_numpy()
    known, prompt = spoken != "unknown", spoken[:, :1]
    another = (known & known[:, :1] & (spoken != prompt)).any(axis=1)
    rows = pd.DataFrame({"language": prompt[:, 0], "rows": 1, "another": another})
    if has_labels(pairs) and has_ties(pairs):
        rows["tie_share"] = labels_of(pairs)[:, 2]
    means = dict.fromkeys(rows.columns[2:], "mean")
    table = _most_rows_first(rows.groupby("language").agg({"rows": "sum", **means}))
    table.insert(2, "share", table["rows"] / len(pairs))
    return table


def special_answers(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count rows with empty or identical answers. The columns are `case`, `rows` and, if the rows
    have labels, the shares of the labels: `A`, `B` and `tie`."""
    cases = pd.Series(answer_cases(pairs)).map(_CASES)
    table = pd.DataFrame({"rows": cases.value_counts()})
    if has_labels(pairs):
        table = table.join(pd.DataFrame(labels_of(pairs), columns=CLASSES).groupby(cases).mean())
    table = table.reindex(_CASES.values()).fillna({"rows": 0}).astype({"rows": int})
    return table.rename_axis("case").reset_index()


def truncation(pairs: pd.DataFrame, tokenizer: Any) -> pd.DataFrame:
    """Estimate the share of rows that a model with a length limit would truncate, if it reads the
    two answers in separate sequences (`dual`) or in one (`joint`).

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame; at most `TRUNCATION_ROWS` rows, drawn at random, are counted.
    tokenizer : tokenizer
        A fast tokenizer from transformers.

    Returns
    -------
    DataFrame
        `inputs`, `max_length` (tokens, including special tokens), `rows`, `cut` (the share of rows
        that are truncated), `low` and `high` (the bounds of its interval), `median` and `p99`
        (quantiles of the number of tokens in a row's longest sequence). `inputs` is `dual` for two
        sequences, prompt + A and prompt + B, or `joint` for one sequence, prompt + A + B. With
        `dual`, a row is cut if either sequence is.
    """
    drawn = pairs.sample(min(len(pairs), TRUNCATION_ROWS), random_state=np.random.default_rng(0))
    prompt, a, b = (
        np.fromiter(_token_counts(tokenizer, drawn[column]), dtype=np.int64)
        for column in TEXT_COLUMNS
    )
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = {"dual": prompt + np.maximum(a, b) + special, "joint": prompt + a + b + special + 1}
    records = [
        (inputs, limit, len(drawn), (length > limit).sum(), *np.quantile(length, [0.5, 0.99]))
        for inputs, length in lengths.items()
        for limit in LENGTHS
    ]
    columns = ["inputs", "max_length", "rows", "cut", "median", "p99"]
    table = pd.DataFrame(records, columns=columns)
    table = _with_share(table, "cut", table["cut"], table["rows"])
    return table[[*columns[:4], "low", "high", *columns[4:]]]


def against_test(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Count training rows and test rows side by side.

    Returns
    -------
    dict
        Two tables with the columns `what`, `train` and `test`. `test_sizes`: rows, distinct
        prompts, and quantiles of turns and characters. `test_shares`: the shares of rows whose
        prompt is also in another row, whose prompt is also in the other file, whose prompt is
        empty, and whose answers are empty or identical; then the shares of rows by number of turns,
        by characters (of the prompt and both answers), and by language.
    """
    counts, shares = {}, {}
    keys = {"train": pd.Series(prompt_keys(train)), "test": pd.Series(prompt_keys(test))}
    for name, other, pairs in (("train", "test", train), ("test", "train", test)):
        own = keys[name]
        counts[name] = {"rows": len(pairs), "prompts": own.nunique()}
        characters, turns = characters_of(pairs), pairs["prompt"].map(len)
        for row in sizes(pairs, characters).to_dict("records"):
            what = row.pop("what")
            counts[name] |= {f"{what}, {quantile}": value for quantile, value in row.items()}
        groups = {
            "turns": ranges(turns, _TURNS).value_counts(normalize=True, sort=False),
            "characters": ranges(characters.sum(axis=1), _CHARACTERS).value_counts(
                normalize=True, sort=False
            ),
            "prompt language": languages(pairs).set_index("language")["share"],
        }
        shares[name] = {
            "prompt also in another row": own.duplicated(keep=False).mean(),
            "prompt also in the other file": own.isin(keys[other]).mean(),
            "empty prompt": pairs["prompt"].map(_is_empty).mean(),
            "empty or identical answers": (answer_cases(pairs) != "").mean(),
        }
        for what, parts in groups.items():
            shares[name] |= {f"{what}: {part}": share for part, share in parts.items()}
    return {"test_sizes": _side_by_side(counts), "test_shares": _side_by_side(shares).fillna(0.0)}


def beginning(turns: tuple[str, ...], limit: int, mark: str = "") -> str:
    """Return the first `limit` characters of a conversation on one line, followed by `mark` if text
    was cut off."""
    text = " ".join(" ".join(turns).split())
    return text if len(text) <= limit else text[:limit] + mark


def _token_counts(tokenizer: Any, conversations: pd.Series) -> Iterable[int]:
    # Work in batches: the encodings of all texts together would take gigabytes.
    for start in range(0, len(conversations), 500):
        texts = conversations.iloc[start : start + 500].map("\n".join).tolist()
        yield from map(len, text_ids(texts, tokenizer))


def _is_empty(turns: tuple[str, ...]) -> bool:
    return not any(map(str.strip, turns))


def _side_by_side(values: dict[str, dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(values).rename_axis("what").reset_index()


def _tie_shares(pairs: pd.DataFrame, slices: np.ndarray | pd.Series) -> pd.DataFrame:
    frame = pd.DataFrame({"slice": slices, "rows": 1, "ties": labels_of(pairs)[:, 2]})
    table = frame.groupby("slice", observed=True).sum().reset_index()
    return _with_share(table, "tie_share", table.pop("ties"), table["rows"])


def _most_rows_first(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("rows", ascending=False, kind="stable").reset_index()


def _with_share(table: pd.DataFrame, name: str, part: Any, whole: Any) -> pd.DataFrame:
    low, high = share_interval(part, whole)
    return table.assign(**{name: part / whole}, low=low, high=high)
