"""The report of `humanpref eda`: complete, self-contained, readable in a browser, also when a file
lacks something."""

import functools
import json
import re

import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.data import read_faulty
from humanpref.evaluation.intervals import share_interval
from humanpref.reports import charts, eda

from .browser import browse, measured

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def report(arena, tmp_path_factory):
    out = tmp_path_factory.mktemp("eda") / "report"
    assert main(["--quiet", "eda", str(arena / "train.csv"), "--out", str(out)]) == 0
    return out


def test_the_report_is_whole(report):
    page = (report / "index.html").read_text()
    figures = sorted(report.glob("figures/*.png"))
    assert page.count('<img src="data:image/png;base64,') == len(figures) == 13
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)
    assert not re.search(r"<script|https?://|<link[^>]+href=\"(?!data:)|@import|url\(", page)
    summary = json.loads((report / "summary.json").read_text())
    models = pd.read_csv(report / "tables" / "models.csv")
    assert summary["rows"] == 120
    assert summary["models"] == len(models) == 15
    assert models["rows"].sum() == 240
    assert summary["most_compared_models"][0] == models["model"][0]
    assert models["wins"].sum() == models["losses"].sum()
    assert pd.read_csv(report / "tables" / "pairs.csv")["rows"].sum() == 120
    assert summary["left_out"] == ["truncation (no tokenizer given: --tokenizer FOLDER)"]


def test_a_test_file_has_neither_labels_nor_models(arena, tmp_path, capsys, undrawn):
    assert main(["--quiet", "eda", str(arena / "test.csv"), "--out", str(tmp_path / "out")]) == 0
    assert "(the file has no labels)" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").glob("figures/*.png")} == {
        "prompt_groups",
        "languages",
    }
    assert "(the file has no labels)" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.slow
def test_a_format_without_ties_has_none_to_show(arena, tmp_path, monkeypatch):
    def read_without_ties(path, format=None):
        pairs, faults = read_faulty(path, format)
        return pairs.drop(columns="winner_tie")[pairs["winner_tie"] == 0], faults

    monkeypatch.setattr(eda, "read_faulty", read_without_ties)
    assert main(["--quiet", "eda", str(arena / "train.csv"), "--out", str(tmp_path / "out")]) == 0
    names = {path.stem for path in (tmp_path / "out").glob("*/*")}
    assert {"labels", "length_bias", "strengths"} <= names
    assert not {"ties_by_length", "ties_by_turns"} & names
    assert pd.read_csv(tmp_path / "out" / "tables" / "labels.csv")["label"].tolist() == ["A", "B"]


def test_faults_are_listed_and_not_refused(write_csv, tmp_path, capsys, undrawn):
    rows = [
        (["p"], ["a"], ["b"], 0),
        ("oops", ["a"], ["b"], 1),
        (["p"], '[null, "\\ud83d"]', ["b"], 2),
        (["q"], ["a"], ["b"], 0),
    ]
    path = write_csv(rows)
    text = path.read_text().replace("103,", "102,") + "104,[],[]\n"
    path.write_text(text)
    pairs, faults = read_faulty(path)
    assert pairs["id"].tolist() == ["100", "101", "102"]
    kinds = [(fault.row, fault.id, fault.kind) for fault in faults]
    assert kinds == [
        (2, "101", "text"),
        (3, "102", "null"),
        (3, "102", "surrogate"),
        (4, "102", "id"),
        (5, "", "fields"),
    ]
    assert main(["--quiet", "eda", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "rows left out: 2; see tables/faults.csv for the reasons\n" in capsys.readouterr().out
    listed = pd.read_csv(tmp_path / "out" / "tables" / "faults.csv")
    assert listed["row"].tolist() == [2, 3, 3, 3, 4, 5]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows_left_out"] == 2


def test_models_that_met_only_themselves(write_csv, tmp_path, undrawn):
    rows = [([f"p{i}"], ["a"], ["b"], i % 3) for i in range(6)]
    path = write_csv(rows, model_a=["m", "k"] * 3, model_b=["m", "k"] * 3)
    assert main(["--quiet", "eda", str(path), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "pairs (no row compares two models)" in summary["left_out"]
    figures = {path.stem for path in (tmp_path / "out").glob("figures/*.png")}
    assert "most_compared_models" in figures
    assert not figures & {"most_compared_pairs", "compared_pairs"}


def test_an_empty_name_is_no_model(write_csv, tmp_path, undrawn):
    rows = [([f"p{i}"], ["a"], [f"b{i}"], i % 3) for i in range(8)]
    path = write_csv(rows, model_a=["m", "k"] * 3 + ["", " "], model_b=["k", "m"] * 3 + ["m", ""])
    summary = eda.explore(path, tmp_path / "out")
    assert (summary["models"], summary["rows_without_model"]) == (2, 2)
    tables = tmp_path / "out" / "tables"
    for name in ("models", "strengths", "win_loss"):
        assert sorted(pd.read_csv(tables / f"{name}.csv")["model"]) == ["k", "m"]
    assert pd.read_csv(tables / "models.csv")["rows"].sum() == 12
    faults = pd.read_csv(tables / "faults.csv")
    assert faults[["row", "kind", "fault"]].to_numpy().tolist() == [
        [7, "no model", "column 'model_a' is empty"],
        [8, "no model", "column 'model_a' is empty, column 'model_b' is empty"],
    ]
    nameless = eda.explore(write_csv(rows, model_a=[""] * 8, model_b=["m"] * 8), tmp_path / "none")
    assert "wins and strengths (no row names both models)" in nameless["left_out"]


@pytest.mark.parametrize("column", ["model_a", "model_b"])
def test_a_file_that_names_one_side_only_names_no_models(
    write_csv, tmp_path, column, caplog, undrawn
):
    path = write_csv(
        [([f"p{i}"], ["a"], [f"b{i}"], i % 3) for i in range(6)], **{column: ["m"] * 6}
    )
    summary = eda.explore(path, tmp_path / "out")
    assert "models" not in summary
    assert f"ignoring column {column!r} because" in caplog.text


def test_more_models_than_a_figure_has_room_for(arena, tmp_path, monkeypatch, undrawn):
    drawn = {}

    def record(draw, path, names, values, *rest, **options):
        drawn[path.stem] = (list(names), values)
        draw(path, names, values, *rest, **options)

    for name in ("matrix", "points"):
        monkeypatch.setattr(charts, name, functools.partial(record, getattr(charts, name)))
    monkeypatch.setattr(eda, "DRAWN_MODELS", 4)
    summary = eda.explore(arena / "train.csv", tmp_path / "out")
    assert summary["models"] == 15
    models = pd.read_csv(tmp_path / "out" / "tables" / "models.csv")
    assert len(models) == len(pd.read_csv(tmp_path / "out" / "tables" / "strengths.csv")) == 15
    most = models["model"].head(4).tolist()
    names, counts = drawn["compared_pairs"]
    assert names == most
    met = pd.read_csv(tmp_path / "out" / "tables" / "pairs.csv")
    inside = (
        met["model_1"].isin(most) & met["model_2"].isin(most) & (met["model_1"] != met["model_2"])
    )
    assert counts.sum() == 2 * met["rows"][inside].sum() > 0
    for figure in ("strengths", "win_loss"):
        names, series = drawn[figure]
        assert set(names) == set(most)
        assert [len(estimates) for estimates in series.values()] == [4]
    page = " ".join((tmp_path / "out" / "index.html").read_text().split())
    cropped = "Only the 4 most compared of 15 models are shown; the tables list all."
    captions = re.findall(r"<figcaption><b>(.*?)\.</b> (.*?)</figcaption>", page)
    assert [title for title, text in captions if cropped in text] == [
        "Matrix of compared pairs",
        "Bradley-Terry ranking",
        "Win/loss ratios",
    ]


def test_the_models_that_are_drawn_never_met(arena, tmp_path, monkeypatch, undrawn):
    monkeypatch.setattr(eda, "DRAWN_MODELS", 1)
    summary = eda.explore(arena / "train.csv", tmp_path / "out")
    assert summary["models"] == 15
    assert (tmp_path / "out" / "figures" / "compared_pairs.png").is_file()


def test_what_cannot_be_used(arena, report, tmp_path, capsys):
    data = str(arena / "train.csv")
    assert main(["--quiet", "eda", data, "--out", str(report)]) == 2
    assert (
        main(["--quiet", "eda", data, "--out", str(tmp_path / "out"), "--tokenizer", str(tmp_path)])
        == 2
    )
    assert main(["--quiet", "eda", "none.csv", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "already exists" in err
    assert "cannot be loaded; expected a folder" in err or "--tokenizer needs torch: pip" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_page_in_a_browser(report, tmp_path):
    for width in (1280, 400):
        shot = tmp_path / f"{width}.png"
        done = browse(
            tmp_path, report / "index.html", f"--window-size={width},2000", f"--screenshot={shot}"
        )
        assert ":CONSOLE" not in done.stderr, done.stderr
        assert shot.is_file(), done.stderr
        assert shot.stat().st_size > 30_000


@pytest.mark.slow
def test_the_page_does_not_scroll_sideways_on_a_phone(report, tmp_path):
    found = measured(tmp_path, (report / "index.html").read_text(), 400)
    assert (found["width"], found["fits"], found["images"]) == (400, True, 13)


@pytest.mark.slow
def test_no_table_is_cut_off_on_a_screen(report, tmp_path):
    found = measured(tmp_path, (report / "index.html").read_text(), 1280)
    assert (found["width"], found["fits"], found["wide"]) == (1280, True, [])
    assert found["opened"] == 0 < found["details"]


def test_train_against_test(arena, write_csv, tmp_path, undrawn):
    rows = [(["Who?", "And?"], ["a", "b"], ["c", "d"], 0), (["who? "], ["a"], ["b"], 1)]
    rows += [(["Где и что"], [""], ["b"], 2), ([" "], ["a"], ["b"], 2)]
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write_csv(rows[:2]).rename(train)
    write_csv(rows[1:]).rename(test)
    out = tmp_path / "out"
    assert eda.explore(train, out, test=test)["test_rows"] == 3
    sizes, shares = (
        pd.read_csv(out / "tables" / f"test_{name}.csv", index_col="what").T.to_dict()
        for name in ("sizes", "shares")
    )
    assert sizes["rows"] == {"train": 2, "test": 3}
    assert sizes["prompts"] == {"train": 2, "test": 3}
    assert sizes["turns, largest"] == {"train": 2, "test": 1}
    assert sizes["characters of prompt, largest"] == {"train": 8, "test": 9}
    third = pytest.approx(1 / 3)
    assert shares["turns: 2"] == {"train": 0.5, "test": 0}
    assert shares["turns: 5 or more"] == {"train": 0, "test": 0}
    assert shares["characters: under 500"] == {"train": 1, "test": 1}
    assert shares["prompt also in another row"] == {"train": 0, "test": 0}
    assert shares["prompt also in the other file"] == {"train": 0.5, "test": third}
    assert shares["empty prompt"] == {"train": 0, "test": third}
    assert shares["empty or identical answers"] == {"train": 0, "test": third}
    assert shares["prompt language: russian"] == {"train": 0, "test": third}
    assert "Train against test" in (out / "index.html").read_text()


def test_the_figure_of_train_against_test(write_csv, tmp_path, monkeypatch, undrawn):
    drawn = {}

    def points(path, names, series, *_, **__):
        path.touch()
        drawn[path.name] = list(names), series

    monkeypatch.setattr(eda.charts, "points", points)
    long = (["Who is it?"] * 2, ["a" * 300, ""], ["b" * 300, ""], 0)
    russian = (["Где и что"], ["a"], ["b"], 1)
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write_csv([long] * 4 + [russian]).rename(train)
    write_csv([russian] * 3 + [long]).rename(test)
    monkeypatch.setattr(eda, "BARS", 1)
    eda.explore(train, tmp_path / "out", test=test)
    names, series = drawn["test_shares.png"]
    assert names == [
        *(f"turns: {turns}" for turns in ("1", "2", "3", "4", "5 or more")),
        *("characters: under 500", "characters: 500-999", "characters: 1,000-1,999"),
        *("characters: 2,000-3,999", "characters: 4,000-7,999", "characters: 8,000-15,999"),
        *("characters: 16,000 or more", "language: english"),
    ]
    shares = pd.concat(series, axis=1).set_axis(names)
    (low, high), (test_low, test_high) = share_interval(4, 5), share_interval(1, 4)
    expected = [0.8, float(low), float(high), 0.25, float(test_low), float(test_high)]
    assert shares.loc["turns: 2"].tolist() == pytest.approx(expected)
    assert shares.loc["characters: 500-999"].tolist() == pytest.approx(expected)
    assert shares.loc["turns: 3"].tolist()[::3] == [0, 0]
    assert (
        'alt="Turns, lengths and languages of both files"'
        in (tmp_path / "out" / "index.html").read_text()
    )


def test_one_sentence_at_the_top(write_csv, tmp_path, caplog, undrawn):
    rows = [(["p"], ["aa"], ["b"], 0), (["p"], ["a"], ["bb"], 0), (["q"], ["a"], ["b"], 2)]
    rows += [([f"p{i}"], ["aa"], ["b"], 1) for i in range(21)]
    models = {"model_a": "m", "model_b": ["n"] * 20 + ["k"] * 4}
    summary = eda.explore(write_csv(rows, **models), tmp_path / "out")
    page = " ".join((tmp_path / "out" / "index.html").read_text().split())
    shown = re.search(r"<h1>.*?</h1> <p><b>(.*?)</b></p>", page)[1].replace("&nbsp;", " ")
    assert shown == (
        "24 labeled rows: A 8.3 %, B 87.5 %, tie 4.2 %, the longer answer wins 4 % of the decided "
        "rows, 2 share their prompt with another row, and none of the file&#39;s rows have faults."
    ).replace("&#39;", "'")
    assert summary["models_under_20_rows"] == 1
    assert "1 of 3 models have fewer than 20 rows, so their ranks say little" in caplog.messages
    assert "<b>1 of 3 models have fewer than 20 rows: their ranks" in page
    many = eda.explore(write_csv(rows * 5, model_a="m", model_b="n"), tmp_path / "many")
    assert many["models_under_20_rows"] == 0
    assert "fewer than 20 rows" not in (tmp_path / "many" / "index.html").read_text()
