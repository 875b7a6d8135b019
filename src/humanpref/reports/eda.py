"""`humanpref eda`: describe a file of pairs on a page, with figures and tables."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import Fault, digest_of, has_ties, prompt_keys, read_faulty, read_pairs
from humanpref.evaluation.axes import loading
from humanpref.evaluation.intervals import share_interval
from humanpref.evaluation.strengths import model_strengths
from humanpref.files import folder_whole, write_json
from humanpref.reports import charts, tables
from humanpref.reports.faults import fault_table, row_faults
from humanpref.reports.page import write_page, write_tables

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"
BARS = 15
"""Maximum number of bars in a figure, for the most frequent items. The tables list all items."""
DRAWN_MODELS = 100
"""Maximum number of models in a figure. If there are more, the most compared ones are shown. The
competition's 64 models all fit."""
ENDS = 10
"""Number of models shown from each end of the ranking by win/loss ratio."""
LEADERS = 5
"""Number of names that the summary lists from the top of each ranking."""
RANKED_ROWS = 20
"""A warning says how many models have fewer rows than this, since their ranks are mostly due to
chance."""
_LEFT_OUT = ("fields", "id", "label", "weight", "equal")
"""Kinds of faults because of which `read_faulty` omits a row."""
_INPUTS = {"dual": "prompt + A, prompt + B", "joint": "prompt + A + B"}

Tables = dict[str, pd.DataFrame]


def explore(
    data_csv: str | Path,
    out: str | Path,
    tokenizer: str | Path | None = None,
    format: str | None = None,
    test: Any = None,
) -> dict[str, Any]:
    """Explore a file of pairs and write a report into `out`: `index.html`, `summary.json`,
    `figures/*.png` and `tables/*.csv`.

    Parameters
    ----------
    data_csv : path
        Rows that `humanpref.data.read_pairs` reads. Faulty rows are reported instead of raising an
        error. If the file has no labels or names no models, the tables that need them are omitted.
    out : path
        The folder to create.
    tokenizer : path, optional
        A folder with a tokenizer. If it is given, truncation is measured with this tokenizer.
    format : str, optional
        The format of the rows. By default, it is detected.
    test : path or object, optional
        Rows to predict, as any source that `humanpref.data.read_pairs` reads. If they are given,
        the page shows both files side by side: lengths, turns, languages, and the prompts that they
        share.

    Returns
    -------
    dict
        The content of `summary.json`.

    Raises
    ------
    InputError
        If no row of the file can be read, a row of `test` cannot be read, `out` already exists, or
        the tokenizer cannot be loaded.
    """
    loaded = None if tokenizer is None else _load_tokenizer(Path(tokenizer))
    with folder_whole(out) as folder:
        pairs, faults = read_faulty(data_csv, format)
        summary, counted = _count(pairs, faults, loaded)
        if test is not None:
            rows = read_pairs(test, labels=False)
            counted |= tables.against_test(pairs, rows)
            summary["test_rows"] = len(rows)
        (folder / "figures").mkdir()
        _draw(counted, folder / "figures")
        write_json(folder / SUMMARY_FILE, summary)
        write_tables(folder, counted)
        write_page(
            folder,
            "eda.html.j2",
            title=f"What is in {Path(data_csv).name}",
            digest=digest_of(pairs),
            summary=summary,
            tables=counted,
            drawn=DRAWN_MODELS,
            tokenizer=tokenizer and Path(tokenizer).name,
        )
    return summary


def _count(
    pairs: pd.DataFrame, faults: list[Fault], tokenizer: Any
) -> tuple[dict[str, Any], Tables]:
    """Compute the summary and the tables, with their names as keys. Empty tables are omitted."""
    named = pairs[tables.names_models(pairs)].reset_index(drop=True)
    labels, models = tables.has_labels(pairs), len(named) > 0
    characters = tables.characters_of(pairs)
    left_out = {fault.row for fault in faults if fault.kind in _LEFT_OUT}
    summary: dict[str, Any] = {
        "rows": len(pairs),
        "rows_left_out": len(left_out),
        "prompts": len(set(prompt_keys(pairs))),
    }
    if models:
        summary["models"] = len(set(named["model_a"]) | set(named["model_b"]))
        summary["rows_without_model"] = len(pairs) - len(named)
    overview = {"what": [key.replace("_", " ") for key in summary], "number": summary.values()}
    counted = {"overview": pd.DataFrame(overview), "sizes": tables.sizes(pairs, characters)}
    if labels:
        counted["labels"] = tables.label_balance(pairs)
        counted["length_bias"] = tables.length_bias(pairs, characters)
        if has_ties(pairs):
            counted["ties_by_length"] = tables.ties_by_length(pairs, characters)
            counted["ties_by_turns"] = tables.ties_by_turns(pairs)
        summary["longer_wins"] = tables.longer_wins(counted["length_bias"])
        summary["label_shares"] = counted["labels"].set_index("label")["share"].to_dict()
    if labels and models:
        counted["models"], counted["pairs"] = tables.model_table(named), tables.pair_table(named)
        by_ratio = _ranked(counted["models"], "win_loss_ratio")
        from_end = np.minimum(by_ratio.index, by_ratio.index[::-1])
        counted["win_loss"] = by_ratio[from_end < ENDS].drop(columns=["as_a", "win_share"])
        counted["strengths"], summary["bradley_terry"] = model_strengths(named)
        summary["models_under_20_rows"] = few = int((counted["models"]["rows"] < RANKED_ROWS).sum())
        if few:
            text = "%d of %d models have fewer than %d rows, so their ranks say little"
            logger.warning(text, few, len(counted["models"]), RANKED_ROWS)
        summary |= _leaders(counted)
    counted["prompt_groups"], counted["largest_prompt_groups"] = tables.prompt_groups(pairs)
    by_size = counted["prompt_groups"]
    summary["rows_sharing_a_prompt"] = int(by_size["rows"][by_size["rows_per_prompt"] > 1].sum())
    counted["languages"] = tables.languages(pairs)
    counted["special_answers"] = tables.special_answers(pairs)
    if tokenizer is not None:
        counted["truncation"] = tables.truncation(pairs, tokenizer)
    # Omitted rows are missing from the frame, but they still count in the file's row numbers.
    numbers = [row for row in range(1, len(pairs) + len(left_out) + 1) if row not in left_out]
    faults = [*faults, *row_faults(pairs, numbers)]
    summary["rows_with_faults"] = len({fault.row for fault in faults})
    counted["fault_kinds"] = fault_table(faults)
    listed = pd.DataFrame(faults, columns=["row", "id", "kind", "fault"])
    counted["faults"] = listed.sort_values("row", kind="stable")
    missing = {
        "balance, wins, strengths, length bias and ties (the file has no labels)": not labels,
        "wins and strengths (no row names both models)": labels and not models,
        "pairs (no row compares two models)": summary.get("most_compared_pairs") == [],
        "truncation (no tokenizer given: --tokenizer FOLDER)": tokenizer is None,
    }
    summary["left_out"] = [reason for reason, is_missing in missing.items() if is_missing]
    return summary, {name: table for name, table in counted.items() if len(table)}


def _ranked(models: pd.DataFrame, column: str) -> pd.DataFrame:
    return models.sort_values(column, ascending=False, kind="stable", ignore_index=True)


def _of_two_models(met: pd.DataFrame) -> pd.DataFrame:
    return met[met["model_1"] != met["model_2"]]


def _leaders(counted: Tables) -> dict[str, list]:
    """Return the names at the top of each ranking of models or pairs."""
    models, met = counted["models"], _of_two_models(counted["pairs"])
    ratios = _ranked(models, "win_loss_ratio")["model"]
    return {
        "most_compared_models": models["model"].head(LEADERS).tolist(),
        "most_compared_pairs": met[["model_1", "model_2"]].head(LEADERS).to_numpy().tolist(),
        "most_wins": _ranked(models, "wins")["model"].head(LEADERS).tolist(),
        "best_ratios": ratios.head(LEADERS).tolist(),
        "worst_ratios": ratios.tail(LEADERS).tolist()[::-1],
        "strongest": counted["strengths"]["model"].head(LEADERS).tolist(),
    }


def _draw(counted: Tables, figures: Path) -> None:
    """Draw every figure whose table exists."""
    if "labels" in counted:
        table = counted["labels"]
        shares = {"share": table[["share", "low", "high"]]}
        even = 1 / len(table)
        charts.points(figures / "labels.png", table["label"], shares, even, xlabel="share of rows")
        _draw_lengths_and_ties(counted, figures)
    if "models" in counted:
        _draw_models(counted, figures)
        _draw_pairs(counted, figures)
    if "test_shares" in counted:
        _draw_against_test(counted, figures / "test_shares.png")
    table = tables.rows_by_group_size(counted["prompt_groups"])
    label = "rows (vertical axis: rows that share the prompt)"
    charts.bars(figures / "prompt_groups.png", table.index, table, label)
    top = counted["languages"].head(BARS)
    label = "rows, by the prompt's language"
    charts.bars(figures / "languages.png", top["language"], top[["rows"]], label)
    if "truncation" in counted:
        by_inputs = counted["truncation"].groupby("inputs", sort=False)
        series = {_INPUTS[inputs]: rows[["cut", "low", "high"]] for inputs, rows in by_inputs}
        charts.curves(
            figures / "truncation.png",
            [str(length) for length in tables.LENGTHS],
            series,
            xlabel="tokens that a model reads",
            ylabel="share of rows that are cut",
        )


def _draw_against_test(counted: Tables, path: Path) -> None:
    """Draw the shares of turns, characters and the most frequent languages in both files."""
    table = counted["test_shares"].set_index("what")
    groups = table[table.index.str.match("turns: |characters: ")]
    spoken = table[table.index.str.startswith("prompt language: ")]
    top = spoken.max(axis=1).nlargest(BARS, keep="first").index
    drawn = pd.concat([groups, spoken[spoken.index.isin(top)]])
    rows = counted["test_sizes"].set_index("what").loc["rows"]
    series = {}
    for name in ("train", "test"):
        low, high = share_interval(drawn[name] * rows[name], rows[name])
        series[name] = pd.DataFrame({"share": drawn[name], "low": low, "high": high})
    names = drawn.index.str.removeprefix("prompt ")
    charts.points(path, names, series, xlabel="share of rows")


def _draw_lengths_and_ties(counted: Tables, figures: Path) -> None:
    if "length_bias" in counted:
        bias = counted["length_bias"]
        shares = {"longer answer wins (of decided)": bias[["longer_wins", "low", "high"]]}
        if "ties_by_length" in counted:
            shares["tie"] = bias[["tie_share"]]
        charts.curves(
            figures / "length_bias.png",
            bias["longer_by"].tolist(),
            shares,
            0.5,
            xlabel="characters of the longer answer / of the shorter",
            ylabel="share of rows",
        )
    if "ties_by_length" not in counted:
        return
    length, turns = counted["ties_by_length"], counted["ties_by_turns"]
    charts.curves(
        figures / "ties_by_length.png",
        length["characters"].clip(lower=1),
        {"tie": length[tables.SHARE]},
        xlabel="mean characters of the two answers (log scale)",
        ylabel="share of ties",
        xscale="log",
    )
    charts.curves(
        figures / "ties_by_turns.png",
        turns["slice"].tolist(),
        {"tie": turns[tables.SHARE]},
        xlabel="turns of the conversation",
        ylabel="share of ties",
    )


def _draw_models(counted: Tables, figures: Path) -> None:
    models, strengths = counted["models"], counted["strengths"]
    top, drawn = models.head(BARS), models["model"].head(DRAWN_MODELS)
    label = "rows in which the model answered"
    parts = top[["wins", "losses", "ties"]]
    charts.bars(figures / "most_compared_models.png", top["model"], parts, label)
    top = _ranked(models, "wins").head(BARS)
    charts.bars(figures / "most_wins.png", top["model"], top[["wins"]], "rows won")
    by_ratio = _ranked(models[models["model"].isin(drawn)], "win_loss_ratio")
    for name, table in (("win_loss_ends", counted["win_loss"]), ("win_loss", by_ratio)):
        ratios = {"ratio": table[["win_loss_ratio", "ratio_low", "ratio_high"]]}
        label = "wins / losses (log scale)"
        path = figures / f"{name}.png"
        charts.points(path, table["model"], ratios, 1.0, xlabel=label, xscale="log")
    table = strengths[strengths["model"].isin(drawn)]
    series = {"strength": table[["strength", "low", "high"]]}
    label = "strength (log-odds against the mean)"
    charts.points(figures / "strengths.png", table["model"], series, 0.0, xlabel=label)


def _draw_pairs(counted: Tables, figures: Path) -> None:
    met, drawn = _of_two_models(counted["pairs"]), counted["models"]["model"].head(DRAWN_MODELS)
    if met.empty:
        return
    label = "rows with these two models"
    top = met.head(BARS)
    names = top["model_1"] + "\nvs " + top["model_2"]
    parts = top[["wins_1", "wins_2", "ties"]].set_axis(["first wins", "second wins", "tie"], axis=1)
    charts.bars(figures / "most_compared_pairs.png", names, parts, label, height=0.4)
    inside = met[met["model_1"].isin(drawn) & met["model_2"].isin(drawn)]
    counts = inside.pivot(index="model_1", columns="model_2", values="rows")
    counts = counts.reindex(index=drawn, columns=drawn).fillna(0).to_numpy(dtype=np.float64)
    charts.matrix(figures / "compared_pairs.png", drawn, counts + counts.T, f"{label} (log scale)")


def _load_tokenizer(folder: Path) -> Any:
    with loading("--tokenizer", folder):
        from humanpref.models.pretrained import load_tokenizer

        return load_tokenizer(str(folder))
