"""Exploratory analysis: a CSV in the competition's schema in; a page, figures and tables out."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import digest_of, prompt_keys, read_faulty
from humanpref.evaluation.strengths import model_strengths
from humanpref.files import folder_whole, write_json, write_whole
from humanpref.reports import charts, tables
from humanpref.reports.page import Picture, Section, write_page
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

PAGE_FILE = "index.html"
SUMMARY_FILE = "summary.json"
_SHOWN = 15
"""Bars of a figure: the most frequent; the tables have all."""
_DRAWN = 100
"""Models of a figure that has all of them, the most compared: the competition's 64 fit in, an open list of names does not."""
_LEFT_OUT = ("fields", "id", "label", "weight")
"""Faults whose rows `read_faulty` leaves out."""


class _Report:
    """The folder that the report grows in, and the sections of its page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections: list[Section] = []
        for name in ("figures", "tables"):
            (folder / name).mkdir()

    def section(self, title: str, text: str = "") -> Section:
        self.sections.append(Section(title, text))
        return self.sections[-1]

    def figure(self, name: str) -> Path:
        return self.folder / "figures" / f"{name}.png"

    def table(self, section: Section, name: str, caption: str, table: pd.DataFrame) -> None:
        with write_whole(self.folder / "tables" / f"{name}.csv") as file:
            table.to_csv(file, index=False, lineterminator="\n")
        section.tables[caption] = table


def explore(data_csv: str | Path, out: str | Path, tokenizer: str | Path | None = None) -> dict[str, Any]:
    """Look at a file of pairs and write `index.html`, `summary.json`, `figures/*.png` and `tables/*.csv`.

    Parameters
    ----------
    data_csv : path
        Rows in the competition's schema. Without labels or models what needs them is left out. It is read leniently: faults
        are reported, not refused.
    out : path
        A new folder.
    tokenizer : path, optional
        A folder with a tokenizer: truncation is counted in its tokens.

    Returns
    -------
    dict
        The content of `summary.json`.

    Raises
    ------
    InputError
        For a file in which no row can be read, a folder that is there already, or a tokenizer that cannot be loaded.
    """
    loaded = None if tokenizer is None else _tokenizer(Path(tokenizer))
    with folder_whole(out) as folder:
        pairs, faults = read_faulty(data_csv)
        report = _Report(folder)
        characters = tables.characters_of(pairs)
        labels, models = tables.has_labels(pairs), tables.has_models(pairs)
        summary = _overview(report, pairs, faults, characters)
        if labels:
            _labels(report, pairs, summary)
        if labels and models:
            _models(report, pairs, summary)
        if labels:
            _length(report, pairs, characters)
        _prompts(report, pairs)
        _texts(report, pairs)
        if loaded is not None:
            _truncation(report, pairs, loaded, Path(tokenizer).name)
        _faults(report, pairs, faults)
        summary["left_out"] = [
            reason
            for missing, reason in (
                (not labels, "no labels in the file: balance, wins, strengths, length bias and ties"),
                (labels and not models, "no model names in the file: wins and strengths"),
                (labels and models and not summary.get("most_compared_pairs"), "no row compares two models: pairs"),
                (loaded is None, "no tokenizer given (--tokenizer FOLDER): truncation"),
            )
            if missing
        ]
        if summary["left_out"]:
            report.section("Left out", "; ".join(summary["left_out"]) + ".")
        name = Path(data_csv).name
        intro = f"{len(pairs):,} rows, SHA-256 of their content {digest_of(pairs)[:16]}. "
        intro += "Intervals are 95 % and take rows as independent. The numbers are in tables/ as CSV, the figures in figures/."
        write_json(folder / SUMMARY_FILE, summary)
        write_page(folder / PAGE_FILE, f"What is in {name}", intro, report.sections)
    return summary


def _overview(report: _Report, pairs: pd.DataFrame, faults: list, characters: pd.DataFrame) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "rows": len(pairs),
        "rows_left_out": len({fault.row for fault in faults if fault.kind in _LEFT_OUT}),
        "prompts": len(set(prompt_keys(pairs))),
    }
    if tables.has_models(pairs):
        summary["models"] = len(set(pairs["model_a"]) | set(pairs["model_b"]))
    section = report.section("At a glance", "A prompt counts once whatever its case and white space.")
    shown = pd.DataFrame({"what": [key.replace("_", " ") for key in summary], "number": list(summary.values())})
    report.table(section, "overview", "Rows, prompts, models", shown)
    report.table(section, "sizes", "Sizes of the conversations", tables.sizes(pairs, characters))
    return summary


def _labels(report: _Report, pairs: pd.DataFrame, summary: dict[str, Any]) -> None:
    table = tables.label_balance(pairs)
    summary["label_shares"] = dict(zip(table["label"], table["share"], strict=True))
    section = report.section("Labels")
    path = report.figure("labels")
    charts.points(path, table["label"], table["share"], table["low"], table["high"], "share of rows", 1 / 3)
    see = "How often each label was given. A and B should be alike, since their places were drawn; the dashed line is a third."
    section.pictures.append(Picture(path, "Label balance", see))
    report.table(section, "labels", "Label balance", table)


def _models(report: _Report, pairs: pd.DataFrame, summary: dict[str, Any]) -> None:
    table, meetings = tables.model_table(pairs), tables.pair_table(pairs)
    met = meetings[meetings["model_1"] != meetings["model_2"]]
    parts = ["wins", "losses", "ties"]

    section = report.section("Which models were compared")
    top, path = table.head(_SHOWN), report.figure("most_compared_models")
    charts.bars(path, top["model"], {part: top[part] for part in parts}, "rows in which the model answered")
    see = "The models that answered most often. What is learned from the file is learned mostly about them."
    section.pictures.append(Picture(path, "Most compared models", see))
    order = table["model"].tolist()
    drawn = order[:_DRAWN]
    part = f" Only the {_DRAWN} most compared of {len(order):,} models; the tables have all." if drawn != order else ""
    if len(met):
        _pairs(report, section, met, drawn, part)
    report.table(section, "models", "All models, most compared first", table)
    report.table(section, "pairs", "All pairs, most compared first", meetings)

    section = report.section(
        "Who wins",
        "The ratio is (wins + 1/2) / (losses + 1/2); its interval is taken on the log scale. It does not ask whom the model met: "
        "the ranking below does.",
    )
    top, path = table.sort_values("wins", ascending=False, kind="stable").head(_SHOWN), report.figure("most_wins")
    charts.bars(path, top["model"], {"wins": top["wins"]}, "rows won")
    section.pictures.append(Picture(path, "Most wins", "Rows won: good models, and models that were asked often."))
    by_ratio = table.sort_values("win_loss_ratio", ascending=False, ignore_index=True, kind="stable")
    ends = by_ratio if len(by_ratio) <= 20 else pd.concat([by_ratio.head(10), by_ratio.tail(10)])
    path = report.figure("win_loss_ends")
    _ratios(path, ends)
    few = len(ends) == len(by_ratio)
    see = f"{'All models' if few else 'The ten best and the ten worst'}; the dashed line is as many wins as losses."
    section.pictures.append(Picture(path, "Best and worst win/loss ratios", see))
    columns = ["model", "rows", "wins", "losses", "ties", "win_loss_ratio", "ratio_low", "ratio_high"]
    report.table(section, "win_loss", "Best and worst win/loss ratios", ends[columns])

    ranking, figures = model_strengths(pairs)
    apart = f" The models fall into {figures['groups']} groups that never met: strengths compare within a group."
    section = report.section(
        "How strong each model is",
        "Bradley-Terry with ties (Davidson), fitted to all comparisons at once, so that beating a strong model counts more. A "
        "weak normal prior keeps models that always won or lost finite, and intervals come from the curvature of the likelihood. "
        f"Being answer A is worth {figures['first']:+.3f} log-odds [{figures['first_low']:+.3f}, {figures['first_high']:+.3f}]."
        + (apart if figures["groups"] > 1 else ""),
    )
    path = report.figure("strengths")
    shown = ranking[ranking["model"].isin(drawn)]
    columns = (shown[column].to_numpy() for column in ("strength", "low", "high"))
    charts.points(path, shown["model"], *columns, "strength (log-odds against the mean)", 0.0)
    see = "One unit is a factor of 2.7 in wins against losses." + part
    section.pictures.append(Picture(path, "Bradley-Terry ranking", see))
    path = report.figure("win_loss")
    _ratios(path, by_ratio[by_ratio["model"].isin(drawn)])
    see = "The same models by wins against losses alone. Where intervals overlap, the order of two models is not known."
    section.pictures.append(Picture(path, "Win/loss ratios", see + part))
    report.table(section, "strengths", "Bradley-Terry ranking with 95 % intervals", ranking)

    summary["bradley_terry"] = figures
    summary["most_compared_models"] = order[:5]
    summary["most_compared_pairs"] = met[["model_1", "model_2"]].head(5).to_numpy().tolist()
    summary["most_wins"] = table.sort_values("wins", ascending=False, kind="stable")["model"].head(5).tolist()
    summary["best_ratios"] = by_ratio["model"].head(5).tolist()
    summary["worst_ratios"] = by_ratio["model"].tail(5).tolist()[::-1]
    summary["strongest"] = ranking["model"].head(5).tolist()


def _pairs(report: _Report, section: Section, met: pd.DataFrame, drawn: list[str], part: str) -> None:
    top, path = met.head(_SHOWN), report.figure("most_compared_pairs")
    names = (top["model_1"] + "\nvs " + top["model_2"]).tolist()
    charts.bars(
        path,
        names,
        {"first wins": top["wins_1"], "second wins": top["wins_2"], "tie": top["ties"]},
        "rows with these two models",
        height=0.4,
    )
    see = "The pairs that met most often, and how they ended."
    section.pictures.append(Picture(path, "Most compared pairs", see))
    place = {model: i for i, model in enumerate(drawn)}
    counts = np.zeros((len(drawn), len(drawn)), dtype=np.int64)
    for one, two, rows in zip(met["model_1"], met["model_2"], met["rows"], strict=True):
        if one in place and two in place:
            counts[place[one], place[two]] = counts[place[two], place[one]] = rows
    path = report.figure("compared_pairs")
    charts.matrix(path, drawn, counts, "rows with these two models (log scale)")
    see = "How often each two models met, the most compared first. White: never, so that a ranking can only infer it."
    section.pictures.append(Picture(path, "Matrix of compared pairs", see + part, wide=len(drawn) > 20))


def _ratios(path: Path, table: pd.DataFrame) -> None:
    columns = (table[column].to_numpy() for column in ("win_loss_ratio", "ratio_low", "ratio_high"))
    charts.points(path, table["model"], *columns, "wins / losses (log scale)", 1.0, log=True)


def _length(report: _Report, pairs: pd.DataFrame, characters: pd.DataFrame) -> None:
    section = report.section("Length and ties")
    bias = tables.length_bias(pairs, characters)
    if len(bias):
        path = report.figure("length_bias")
        charts.curves(
            path,
            bias["longer_by"].tolist(),
            {
                "longer answer wins (of decided)": (bias["longer_wins"], bias["low"], bias["high"]),
                "tie": (bias["tie_share"], None, None),
            },
            "characters of the longer answer / of the shorter",
            "share of rows",
            0.5,
        )
        see = "The dotted line is no preference for length. A rising curve: the longer, the likelier to be preferred."
        section.pictures.append(Picture(path, "Length bias", see))
        report.table(section, "length_bias", "Length bias", bias)
    ties = tables.ties_by_length(pairs, characters)
    path = report.figure("ties_by_length")
    x, xlabel = ties["characters"].clip(lower=1).to_numpy(), "mean characters of the two answers (log scale)"
    charts.curves(path, x, {"tie": (ties["tie_share"], ties["low"], ties["high"])}, xlabel, "share of ties", log=True)
    see = "Each point is a tenth of the rows. Where the intervals of two points are apart, ties go with length."
    section.pictures.append(Picture(path, "Ties by length", see))
    turns = tables.ties_by_turns(pairs)
    path = report.figure("ties_by_turns")
    values = (turns["tie_share"], turns["low"], turns["high"])
    charts.curves(path, turns["slice"].tolist(), {"tie": values}, "turns of the conversation", "share of ties")
    see = "Intervals grow with the turns, since few conversations are long."
    section.pictures.append(Picture(path, "Ties by turns", see))
    report.table(section, "ties_by_length", "Ties by mean characters of the answers", ties)
    report.table(section, "ties_by_turns", "Ties by turns", turns)


def _prompts(report: _Report, pairs: pd.DataFrame) -> None:
    by_size, largest = tables.prompt_groups(pairs)
    section = report.section(
        "Prompts that several rows share",
        "Rows of one prompt must stand on the same side of a split, or a model is tested on what it has learned.",
    )
    names = ["1", "2", "3", "4", "5-9", "10 or more"]
    places = np.digitize(by_size["rows_per_prompt"], [2, 3, 4, 5, 10])
    path = report.figure("prompt_groups")
    rows = np.bincount(places, weights=by_size["rows"], minlength=6)
    charts.bars(path, names, {"rows": rows}, "rows (vertical axis: rows that share the prompt)")
    section.pictures.append(
        Picture(path, "Rows by the size of their prompt group", "All but the first bar need grouped folds.")
    )
    report.table(section, "prompt_groups", "Prompt groups", by_size)
    if len(largest):
        report.table(section, "largest_prompt_groups", "Largest prompt groups", largest)


def _texts(report: _Report, pairs: pd.DataFrame) -> None:
    section = report.section(
        "Languages, empty and identical answers",
        "Languages are told by script and commonest words alone, and only seven by name: take small rows with care.",
    )
    table = tables.languages(pairs)
    path = report.figure("languages")
    charts.bars(
        path, table["language"].head(_SHOWN), {"rows": table["rows"].head(_SHOWN)}, "rows, by the prompt's language"
    )
    section.pictures.append(
        Picture(path, "Languages and scripts", "What a tokenizer and a backbone must be able to read.")
    )
    report.table(
        section, "languages", "By the prompt's language; `another`: share of rows with an answer in another", table
    )
    report.table(section, "special_answers", "Empty and identical answers", tables.special_answers(pairs))


def _truncation(report: _Report, pairs: pd.DataFrame, tokenizer: Any, name: str) -> None:
    table = tables.truncation(pairs, tokenizer)
    rows = int(table["rows"].iat[0])
    section = report.section("Truncation", f"Tokens of the tokenizer {name}, over {rows:,} rows.")
    path = report.figure("truncation")
    series = {
        {"dual": "prompt + A, prompt + B", "joint": "prompt + A + B"}[inputs]: (of["cut"], of["low"], of["high"])
        for inputs, of in table.groupby("inputs", sort=False)
    }
    charts.curves(
        path, [str(n) for n in tables.LENGTHS], series, "tokens that a model reads", "share of rows that are cut"
    )
    section.pictures.append(Picture(path, "Rows that are cut", "How many rows lose text at each length limit."))
    report.table(section, "truncation", "Truncation", table)


def _faults(report: _Report, pairs: pd.DataFrame, faults: list) -> None:
    left_out = [fault.row for fault in faults if fault.kind in _LEFT_OUT]
    numbers = np.setdiff1d(np.arange(1, len(pairs) + len(set(left_out)) + 1), left_out)
    found = [*faults, *tables.row_faults(pairs, numbers)]
    listed = pd.DataFrame(found, columns=["row", "id", "kind", "fault"]).sort_values("row", kind="stable")
    table = tables.fault_table(found)
    text = (
        "Rows are counted from 1 below the header; tables/faults.csv lists every one." if found else "None were found."
    )
    section = report.section("Data faults", text)
    if found:
        report.table(section, "fault_kinds", "Kinds of faults", table)
        with write_whole(report.folder / "tables" / "faults.csv") as file:
            listed.to_csv(file, index=False, lineterminator="\n")


def _tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"--tokenizer {folder}: expected a folder with a tokenizer")
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise InputError("--tokenizer needs transformers: pip install 'humanpref[torch]'") from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"--tokenizer {folder}: no tokenizer that can be loaded ({error})") from None
