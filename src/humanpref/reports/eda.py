"""`humanpref eda`: what is in a file of pairs, as a page, figures and tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import Fault, digest_of, prompt_keys, read_faulty
from humanpref.evaluation.strengths import model_strengths
from humanpref.files import folder_whole, write_json
from humanpref.reports import charts, tables
from humanpref.reports.faults import fault_table, row_faults
from humanpref.reports.page import write_page, write_tables
from humanpref.schema import InputError

SUMMARY_FILE = "summary.json"
BARS = 15
"""Most bars of a figure: the most frequent; the tables have all."""
DRAWN_MODELS = 100
"""Most models of a figure: the most compared. The competition's 64 fit in, open lists do not."""
_LEFT_OUT = ("fields", "id", "label", "weight")
"""Faults whose rows `read_faulty` leaves out."""

Tables = dict[str, pd.DataFrame]


def explore(
    data_csv: str | Path, out: str | Path, tokenizer: str | Path | None = None
) -> dict[str, Any]:
    """Explore a file of pairs: `index.html`, `summary.json`, `figures/*.png` and `tables/*.csv`.

    Parameters
    ----------
    data_csv : path
        Rows in the competition's schema, read leniently: faults are reported, not refused. Without
        labels or models what needs them is left out.
    out : path
        A new folder.
    tokenizer : path, optional
        A folder with a tokenizer, in whose tokens truncation is counted.

    Returns
    -------
    dict
        The content of `summary.json`.

    Raises
    ------
    InputError
        For a file in which no row can be read, a folder that exists, or a tokenizer that cannot be
        loaded.
    """
    loaded = None if tokenizer is None else _load_tokenizer(Path(tokenizer))
    with folder_whole(out) as folder:
        pairs, faults = read_faulty(data_csv)
        figures = folder / "figures"
        figures.mkdir()
        labels, models = tables.has_labels(pairs), tables.has_models(pairs)
        characters = tables.characters_of(pairs)
        summary: dict[str, Any] = {
            "rows": len(pairs),
            "rows_left_out": len({fault.row for fault in faults if fault.kind in _LEFT_OUT}),
            "prompts": len(set(prompt_keys(pairs))),
        }
        if models:
            named = pairs[tables.names_models(pairs)].reset_index(drop=True)
            summary["models"] = len(set(named["model_a"]) | set(named["model_b"]))
            summary["rows_without_model"] = len(pairs) - len(named)
        overview = {"what": [key.replace("_", " ") for key in summary], "number": summary.values()}
        found = {"overview": pd.DataFrame(overview), "sizes": tables.sizes(pairs, characters)}
        if labels:
            found |= _labels(pairs, figures) | _lengths_and_ties(pairs, characters, figures)
            shares = found["labels"].set_index("label")["share"]
            summary["label_shares"] = shares.to_dict()
        if labels and models:
            found |= _models(named, figures)
            found["strengths"], summary["bradley_terry"] = _strengths(named, found, figures)
            summary |= _leaders(found)
        found |= _prompts(pairs, figures) | _texts(pairs, figures)
        if loaded is not None:
            found |= _truncation(pairs, loaded, figures)
        found |= _faults(pairs, faults)
        missing = {
            "no labels in the file: balance, wins, strengths, length bias and ties": not labels,
            "no row names both models: wins and strengths": labels and not models,
            "no row compares two models: pairs": summary.get("most_compared_pairs") == [],
            "no tokenizer given (--tokenizer FOLDER): truncation": loaded is None,
        }
        summary["left_out"] = [reason for reason, is_missing in missing.items() if is_missing]
        write_json(folder / SUMMARY_FILE, summary)
        write_tables(folder, found)
        write_page(
            folder,
            "eda.html.j2",
            title=f"What is in {Path(data_csv).name}",
            digest=digest_of(pairs),
            summary=summary,
            tables=found,
            drawn=DRAWN_MODELS,
            tokenizer=tokenizer and Path(tokenizer).name,
        )
    return summary


def _labels(pairs: pd.DataFrame, figures: Path) -> Tables:
    table = tables.label_balance(pairs)
    shares = {"share": table[["share", "low", "high"]]}
    charts.points(figures / "labels.png", table["label"], shares, "share of rows", 1 / 3)
    return {"labels": table}


def _models(pairs: pd.DataFrame, figures: Path) -> Tables:
    table, met = tables.model_table(pairs), tables.pair_table(pairs)
    top = table.head(BARS)
    parts, label = top[["wins", "losses", "ties"]], "rows in which the model answered"
    charts.bars(figures / "most_compared_models.png", top["model"], parts, label)
    top = table.sort_values("wins", ascending=False, kind="stable").head(BARS)
    charts.bars(figures / "most_wins.png", top["model"], top[["wins"]], "rows won")
    by_ratio = table.sort_values("win_loss_ratio", ascending=False, kind="stable")
    ends = by_ratio if len(by_ratio) <= 20 else pd.concat([by_ratio[:10], by_ratio[-10:]])
    _draw_ratios(figures / "win_loss_ends.png", ends)
    drawn = table["model"].head(DRAWN_MODELS)
    _draw_ratios(figures / "win_loss.png", by_ratio[by_ratio["model"].isin(drawn)])
    _draw_pairs(met[met["model_1"] != met["model_2"]], drawn, figures)
    columns = ["rows", "wins", "losses", "ties", "win_loss_ratio", "ratio_low", "ratio_high"]
    return {"models": table, "pairs": met, "win_loss": ends[["model", *columns]]}


def _draw_ratios(path: Path, table: pd.DataFrame) -> None:
    ratios = {"ratio": table[["win_loss_ratio", "ratio_low", "ratio_high"]]}
    charts.points(path, table["model"], ratios, "wins / losses (log scale)", 1.0, log=True)


def _draw_pairs(met: pd.DataFrame, drawn: pd.Series, figures: Path) -> None:
    if met.empty:
        return
    top = met.head(BARS)
    parts = {"first wins": top["wins_1"], "second wins": top["wins_2"], "tie": top["ties"]}
    names = top["model_1"] + "\nvs " + top["model_2"]
    path, label = figures / "most_compared_pairs.png", "rows with these two models"
    charts.bars(path, names, parts, label, height=0.4)
    inside = met[met["model_1"].isin(drawn) & met["model_2"].isin(drawn)]
    counts = inside.pivot(index="model_1", columns="model_2", values="rows")
    counts = counts.reindex(index=drawn, columns=drawn).fillna(0).to_numpy(dtype=np.float64)
    charts.matrix(figures / "compared_pairs.png", drawn, counts + counts.T, f"{label} (log scale)")


def _strengths(
    pairs: pd.DataFrame, found: Tables, figures: Path
) -> tuple[pd.DataFrame, dict[str, float]]:
    ranking, metrics = model_strengths(pairs)
    shown = ranking[ranking["model"].isin(found["models"]["model"].head(DRAWN_MODELS))]
    strengths = {"strength": shown[["strength", "low", "high"]]}
    label = "strength (log-odds against the mean)"
    charts.points(figures / "strengths.png", shown["model"], strengths, label, 0.0)
    return ranking, metrics


def _leaders(found: Tables, count: int = 5) -> dict[str, list]:
    """The names that head each ranking of the models."""
    models, met = found["models"], found["pairs"]
    met = met[met["model_1"] != met["model_2"]][["model_1", "model_2"]]
    by_wins = models.sort_values("wins", ascending=False, kind="stable")
    by_ratio = models.sort_values("win_loss_ratio", ascending=False, kind="stable")
    return {
        "most_compared_models": models["model"].head(count).tolist(),
        "most_compared_pairs": met.head(count).to_numpy().tolist(),
        "most_wins": by_wins["model"].head(count).tolist(),
        "best_ratios": by_ratio["model"].head(count).tolist(),
        "worst_ratios": by_ratio["model"].tail(count).tolist()[::-1],
        "strongest": found["strengths"]["model"].head(count).tolist(),
    }


def _lengths_and_ties(pairs: pd.DataFrame, characters: pd.DataFrame, figures: Path) -> Tables:
    found = {
        "ties_by_length": tables.ties_by_length(pairs, characters),
        "ties_by_turns": tables.ties_by_turns(pairs),
    }
    bias = tables.length_bias(pairs, characters)
    if len(bias):
        found["length_bias"] = bias
        series = {
            "longer answer wins (of decided)": bias[["longer_wins", "low", "high"]],
            "tie": bias[["tie_share"]],
        }
        xlabel = "characters of the longer answer / of the shorter"
        path, x = figures / "length_bias.png", bias["longer_by"].tolist()
        charts.curves(path, x, series, xlabel, "share of rows", 0.5)
    for name, column, xlabel in (
        ("ties_by_length", "characters", "mean characters of the two answers (log scale)"),
        ("ties_by_turns", "slice", "turns of the conversation"),
    ):
        x, ties = found[name][column], found[name][["tie_share", "low", "high"]]
        x = x.clip(lower=1) if column == "characters" else x
        path, log = figures / f"{name}.png", column == "characters"
        charts.curves(path, x.tolist(), {"tie": ties}, xlabel, "share of ties", log=log)
    return found


def _prompts(pairs: pd.DataFrame, figures: Path) -> Tables:
    by_size, largest = tables.prompt_groups(pairs)
    names = ["1", "2", "3", "4", "5-9", "10 or more"]
    places = np.digitize(by_size["rows_per_prompt"], [2, 3, 4, 5, 10])
    rows = {"rows": np.bincount(places, weights=by_size["rows"], minlength=len(names))}
    label = "rows (vertical axis: rows that share the prompt)"
    charts.bars(figures / "prompt_groups.png", names, rows, label)
    found = {"prompt_groups": by_size, "largest_prompt_groups": largest}
    return {name: table for name, table in found.items() if len(table)}


def _texts(pairs: pd.DataFrame, figures: Path) -> Tables:
    table = tables.languages(pairs)
    top, path = table.head(BARS), figures / "languages.png"
    charts.bars(path, top["language"], top[["rows"]], "rows, by the prompt's language")
    return {"languages": table, "special_answers": tables.special_answers(pairs)}


def _truncation(pairs: pd.DataFrame, tokenizer: Any, figures: Path) -> Tables:
    table = tables.truncation(pairs, tokenizer)
    names = {"dual": "prompt + A, prompt + B", "joint": "prompt + A + B"}
    series = {names[inputs]: rows for inputs, rows in table.groupby("inputs", sort=False)}
    series = {name: rows[["cut", "low", "high"]] for name, rows in series.items()}
    lengths = [str(length) for length in tables.LENGTHS]
    labels = "tokens that a model reads", "share of rows that are cut"
    charts.curves(figures / "truncation.png", lengths, series, *labels)
    return {"truncation": table}


def _faults(pairs: pd.DataFrame, faults: list[Fault]) -> Tables:
    left_out = {fault.row for fault in faults if fault.kind in _LEFT_OUT}
    numbers = [row for row in range(1, len(pairs) + len(left_out) + 1) if row not in left_out]
    found = [*faults, *row_faults(pairs, numbers)]
    if not found:
        return {}
    listed = pd.DataFrame(found, columns=["row", "id", "kind", "fault"])
    listed = listed.sort_values("row", kind="stable")
    return {"fault_kinds": fault_table(found), "faults": listed}


def _load_tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"--tokenizer {folder}: expected a folder with a tokenizer")
    try:
        from humanpref.models.pretrained import load_tokenizer
    except ModuleNotFoundError:
        raise InputError("--tokenizer needs transformers: pip install 'humanpref[torch]'") from None
    return load_tokenizer(str(folder))
