"""What is in a file of pairs, as tables: pure functions from a pairs frame. Nothing is drawn or written here.

Soft labels count by their shares: a row of (0.5, 0.5, 0) is half a win for each model.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import Fault, labels_of, prompt_keys
from humanpref.evaluation.intervals import ratio_interval, share_interval
from humanpref.schema import CLASSES, ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, IDENTICAL, answer_cases
from humanpref.text.features import language_of

LENGTHS = (512, 1024, 2048)
"""Sequence lengths at which truncation is counted, in tokens."""
TRUNCATION_ROWS = 5_000
"""Token counts are taken of so many rows, drawn at random: enough to know a share to 1.4 points, and done in seconds."""
_BINS = 10
_RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, np.inf)
_TURN_BINS = (1, 2, 3, 4, 5)


def has_labels(pairs: pd.DataFrame) -> bool:
    """Whether the rows have labels."""
    return set(LABEL_COLUMNS) <= set(pairs)


def has_models(pairs: pd.DataFrame) -> bool:
    """Whether the rows name the models that answered."""
    return set(MODEL_COLUMNS) <= set(pairs)


def characters_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """Characters of the prompt and of the two responses, all turns together; one int64 column each."""
    return pd.DataFrame({column: [sum(map(len, turns)) for turns in pairs[column]] for column in TEXT_COLUMNS})


def label_balance(pairs: pd.DataFrame) -> pd.DataFrame:
    """How often A, B and the tie were chosen: `label`, `rows`, `share` with its interval."""
    rows = labels_of(pairs).sum(axis=0)
    low, high = share_interval(rows, len(pairs))
    return pd.DataFrame({"label": CLASSES, "rows": rows, "share": rows / len(pairs), "low": low, "high": high})


def model_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each model's battles, most first: `rows`, `as_a`, `wins`, `losses`, `ties`, `win_loss_ratio` with its interval.

    The ratio is (wins + 1/2) / (losses + 1/2), so that it is finite; with many battles the halves do not show.
    `win_share` is that of wins and half the ties among all battles.
    """
    labels = labels_of(pairs)
    sides = []
    for column, won, lost in (("model_a", 0, 1), ("model_b", 1, 0)):
        side = pd.DataFrame({"model": pairs[column], "as_a": int(column == "model_a"), "rows": 1})
        side[["wins", "losses", "ties"]] = labels[:, [won, lost, 2]]
        sides.append(side)
    table = pd.concat(sides).groupby("model", sort=True, as_index=False).sum()
    table = table.sort_values(["rows", "model"], ascending=[False, True], ignore_index=True)
    table["win_share"] = (table["wins"] + table["ties"] / 2) / table["rows"]
    low, high = ratio_interval(table["wins"], table["losses"])
    table["win_loss_ratio"] = (table["wins"] + 0.5) / (table["losses"] + 0.5)
    table["ratio_low"], table["ratio_high"] = low, high
    return table[["model", "rows", "as_a", *table.columns[3:]]]


def pair_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each two models that met, most often first: `model_1` < `model_2`, `rows`, `wins_1`, `wins_2`, `ties`."""
    names = pairs[list(MODEL_COLUMNS)].to_numpy(dtype=object)
    turned = names[:, 0] > names[:, 1]
    labels = labels_of(pairs)
    table = pd.DataFrame(
        {
            "model_1": np.where(turned, names[:, 1], names[:, 0]),
            "model_2": np.where(turned, names[:, 0], names[:, 1]),
            "rows": 1,
            "wins_1": np.where(turned, labels[:, 1], labels[:, 0]),
            "wins_2": np.where(turned, labels[:, 0], labels[:, 1]),
            "ties": labels[:, 2],
        }
    )
    table = table.groupby(["model_1", "model_2"], sort=True, as_index=False).sum()
    return table.sort_values("rows", ascending=False, ignore_index=True, kind="stable")


def length_bias(pairs: pd.DataFrame, characters: pd.DataFrame) -> pd.DataFrame:
    """How often the longer answer wins, by how much longer it is.

    Columns: `longer_by` (a range of the ratio of the characters), `rows`, `longer_wins` (the share among decided rows) with
    `low` and `high`, `tie_share`. Answers of the same length are left out.
    """
    labels = labels_of(pairs)
    a, b = characters["response_a"].to_numpy() + 1.0, characters["response_b"].to_numpy() + 1.0
    ratio = np.maximum(a, b) / np.minimum(a, b)
    wins = np.where(a > b, labels[:, 0], labels[:, 1])
    names = [f"{low:g}-{high:g}" if high < np.inf else f"over {low:g}" for low, high in itertools.pairwise(_RATIOS)]
    place = np.digitize(ratio, _RATIOS[1:-1])
    records = []
    for number, name in enumerate(names):
        rows = (place == number) & (a != b)
        if not rows.any():
            continue
        decided = float(1 - labels[rows, 2].mean()) * rows.sum()
        low, high = share_interval(wins[rows].sum(), decided)
        records.append((name, int(rows.sum()), _share(wins[rows].sum(), decided), low, high, labels[rows, 2].mean()))
    return pd.DataFrame(records, columns=["longer_by", "rows", "longer_wins", "low", "high", "tie_share"]).astype(
        {"low": float, "high": float}
    )


def ties_by_length(pairs: pd.DataFrame, characters: pd.DataFrame) -> pd.DataFrame:
    """The share of ties by the mean length of the two answers, in tenths of the rows: as `_ties`; `characters` is the median."""
    mean = (characters["response_a"] + characters["response_b"]).to_numpy() / 2
    edges = np.unique(np.quantile(mean, np.linspace(0, 1, _BINS + 1)[1:-1]))
    place = np.digitize(mean, edges)
    table = _ties(pairs, place, lambda rows: f"{mean[rows].min():,.0f}-{mean[rows].max():,.0f}")
    table.insert(1, "characters", [float(np.median(mean[place == i])) for i in np.unique(place)])
    return table


def ties_by_turns(pairs: pd.DataFrame) -> pd.DataFrame:
    """The share of ties by the turns of the conversation: see `_ties`."""
    turns = np.array([len(prompt) for prompt in pairs["prompt"]])
    place = np.clip(turns, _TURN_BINS[0], _TURN_BINS[-1])
    return _ties(pairs, place, lambda rows: f"{place[rows][0]}{' or more' if place[rows][0] == _TURN_BINS[-1] else ''}")


def _ties(pairs: pd.DataFrame, place: np.ndarray, name: Callable[[np.ndarray], str]) -> pd.DataFrame:
    """One row per value of `place`: `slice`, `rows`, `tie_share`, `low`, `high`."""
    ties = labels_of(pairs)[:, 2]
    records = []
    for value in np.unique(place):
        rows = place == value
        low, high = share_interval(ties[rows].sum(), rows.sum())
        records.append((name(rows), int(rows.sum()), float(ties[rows].mean()), float(low), float(high)))
    return pd.DataFrame(records, columns=["slice", "rows", "tie_share", "low", "high"])


def sizes(pairs: pd.DataFrame, characters: pd.DataFrame) -> pd.DataFrame:
    """Quantiles of the turns and of the characters of each text: `what`, `median`, `p90`, `p99`, `largest`."""
    turns = [len(prompt) for prompt in pairs["prompt"]]
    columns = {"turns": turns} | {f"characters of {name}": characters[name] for name in TEXT_COLUMNS}
    records = [
        (what, *np.quantile(values, [0.5, 0.9, 0.99, 1], method="higher").tolist()) for what, values in columns.items()
    ]
    return pd.DataFrame(records, columns=["what", "median", "p90", "p99", "largest"])


def prompt_groups(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows that share their prompt (`humanpref.data.prompt_keys`).

    Returns
    -------
    by_size : DataFrame
        `rows_per_prompt`, `prompts`, `rows`.
    largest : DataFrame
        The ten largest groups of more than one row: `rows`, `prompt` (its beginning), `first_id`.
    """
    keys = pd.Series(prompt_keys(pairs))
    groups = keys.value_counts(sort=False)
    by_size = groups.value_counts().sort_index()
    table = pd.DataFrame({"rows_per_prompt": by_size.index, "prompts": by_size.to_numpy()})
    table["rows"] = table["rows_per_prompt"] * table["prompts"]
    first = keys.drop_duplicates()
    largest = groups[groups > 1].sort_values(ascending=False, kind="stable")[:10]
    position = dict(zip(first.to_numpy(), first.index, strict=True))
    found = [pairs.iloc[position[key]] for key in largest.index]
    return table, pd.DataFrame(
        {
            "rows": largest.to_numpy(),
            "prompt": [_beginning(row["prompt"]) for row in found],
            "first_id": [row[ID] for row in found],
        }
    )


def languages(pairs: pd.DataFrame) -> pd.DataFrame:
    """Languages and scripts by cheap hints (`humanpref.text.features.language_of`), by the prompt's.

    Columns: `language`, `rows`, `share`, `another` (share of rows in which an answer is in another language), and where there
    are labels `tie_share`.
    """
    of = {column: np.array([language_of(turns) or "not told" for turns in pairs[column]]) for column in TEXT_COLUMNS}
    prompt = of["prompt"]
    told = prompt != "not told"
    other = np.any([(of[c] != prompt) & (of[c] != "not told") & told for c in TEXT_COLUMNS[1:]], axis=0)
    frame = pd.DataFrame({"language": prompt, "rows": 1, "another": other})
    if has_labels(pairs):
        frame["tie_share"] = labels_of(pairs)[:, 2]
    table = frame.groupby("language", as_index=False).agg({"rows": "sum", **dict.fromkeys(frame.columns[2:], "mean")})
    table.insert(2, "share", table["rows"] / len(pairs))
    return table.sort_values("rows", ascending=False, ignore_index=True, kind="stable")


def special_answers(pairs: pd.DataFrame) -> pd.DataFrame:
    """Rows with empty or identical answers: `case`, `rows`, and where there are labels `A`, `B` and `tie`, their shares."""
    found = answer_cases(pairs)
    names = {"only A is empty": A_EMPTY, "only B is empty": B_EMPTY}
    names |= {"both are empty": BOTH_EMPTY, "identical, not empty": IDENTICAL}
    cases = {name: found == case for name, case in names.items()}
    table = pd.DataFrame({"case": list(cases), "rows": [int(rows.sum()) for rows in cases.values()]})
    if has_labels(pairs):
        labels = labels_of(pairs)
        shares = [labels[rows].mean(axis=0) if rows.any() else [np.nan] * 3 for rows in cases.values()]
        table[list(CLASSES)] = np.array(shares, dtype=np.float64)
    return table


def truncation(pairs: pd.DataFrame, tokenizer: Any, seed: int = 0) -> pd.DataFrame:
    """How many rows a model with a length limit would see cut, for both ways to read a row.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame; at most `TRUNCATION_ROWS` rows of it, drawn by the seed, are counted.
    tokenizer : tokenizer
        A fast one of transformers.
    seed : int
        Of the draw.

    Returns
    -------
    DataFrame
        `inputs` (`dual`: prompt + A and prompt + B, cut if either is; `joint`: prompt + A + B), `max_length` (tokens, special
        ones included), `rows`, `cut` (a share) with `low` and `high`, `median` and `p99` (tokens of the longest sequence).
    """
    drawn = pairs
    if len(pairs) > TRUNCATION_ROWS:
        drawn = pairs.iloc[np.sort(np.random.default_rng(seed).choice(len(pairs), TRUNCATION_ROWS, replace=False))]
    prompt, a, b = (
        np.array([len(ids) for ids in _token_ids(tokenizer, ["\n".join(turns) for turns in drawn[column]])])
        for column in TEXT_COLUMNS
    )
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = {"dual": prompt + np.maximum(a, b) + special, "joint": prompt + a + b + special + 1}
    records = []
    for (inputs, length), limit in itertools.product(lengths.items(), LENGTHS):
        low, high = share_interval((length > limit).sum(), len(drawn))
        share = float((length > limit).mean())
        median, p99 = np.quantile(length, [0.5, 0.99]).tolist()
        records.append((inputs, limit, len(drawn), share, float(low), float(high), median, p99))
    return pd.DataFrame(records, columns=["inputs", "max_length", "rows", "cut", "low", "high", "median", "p99"])


def _token_ids(tokenizer: Any, texts: list[str]) -> Iterable[list[int]]:
    # In portions: the encodings of all texts at once take gigabytes.
    for start in range(0, len(texts), 500):
        yield from tokenizer(texts[start : start + 500], add_special_tokens=False, verbose=False)["input_ids"]


FAULT_MEANINGS = {
    "fields": "wrong number of fields; row left out",
    "id": "missing, repeated or unprintable id; row left out",
    "label": "labels that are no probabilities; row left out",
    "weight": "weight that cannot be used; row left out",
    "text": "text that is no JSON list; taken as one turn",
    "null": "null turn; taken as empty",
    "surrogate": "lone surrogate; taken as U+FFFD",
    "turns": "an answer has another number of turns than the prompt",
    "copy": "prompt and both answers are those of an earlier row",
    "mirror": "an earlier row with its answers exchanged",
    "contradiction": "same texts as an earlier row, another label",
    "same model": "both answers are by the same model",
    "decided, identical": "identical answers, and yet a winner",
}
"""Kinds of data faults, and what they mean."""


def row_faults(pairs: pd.DataFrame, rows: np.ndarray) -> list[Fault]:
    """What is odd about rows that could be read, the last kinds of `FAULT_MEANINGS`; `rows`: (n,) their numbers in the file."""
    labels = labels_of(pairs).argmax(axis=1).tolist() if has_labels(pairs) else None
    same_model = (pairs["model_a"] == pairs["model_b"]).tolist() if has_models(pairs) else None
    found: list[Fault] = []
    seen: dict[tuple, int] = {}
    ids = pairs[ID].tolist()
    for i, texts in enumerate(zip(*(pairs[column] for column in TEXT_COLUMNS), strict=True)):
        prompt, a, b = texts

        def add(kind: str, text: str, i: int = i) -> None:
            found.append(Fault(int(rows[i]), ids[i], kind, text))

        if not len(prompt) == len(a) == len(b):
            add("turns", f"turns of prompt, A and B: {len(prompt)}, {len(a)}, {len(b)}")
        if same_model and same_model[i]:
            add("same model", pairs["model_a"].iat[i])
        if labels and a == b and labels[i] != 2:
            add("decided, identical", f"label {CLASSES[labels[i]]}")
        # Digests of the texts would save memory; the tuples are there already, and Python hashes them.
        earlier, mirrored = seen.get(texts), seen.get((prompt, b, a)) if a != b else None
        for kind, other, turned in (("copy", earlier, False), ("mirror", mirrored, True)):
            if other is None:
                continue
            add(kind, f"id {ids[other]}")
            if labels:
                expected = (1, 0, 2)[labels[other]] if turned else labels[other]
                if labels[i] != expected:
                    add("contradiction", f"id {ids[other]}")
        seen.setdefault(texts, i)
    return found


def fault_table(faults: list[Fault]) -> pd.DataFrame:
    """Each kind of fault that occurs: `kind`, `what`, `times`, `rows`, `first_ids` (up to ten)."""
    records = []
    for kind, what in FAULT_MEANINGS.items():
        of_kind = [fault for fault in faults if fault.kind == kind]
        if of_kind:
            ids = list(dict.fromkeys(fault.id or f"row {fault.row}" for fault in of_kind))
            shown = ", ".join(ids[:10]) + (" …" if len(ids) > 10 else "")
            records.append((kind, what, len(of_kind), len({fault.row for fault in of_kind}), shown))
    return pd.DataFrame(records, columns=["kind", "what", "times", "rows", "first_ids"])


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _beginning(turns: tuple[str, ...], limit: int = 80) -> str:
    text = " ".join(" ".join(turns).split())
    return text if len(text) <= limit else text[:limit] + "…"
