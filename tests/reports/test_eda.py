"""The exploration page: whole, self-contained, readable in a browser, and what it says when a file lacks something."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest

from humanpref.cli import main
from humanpref.data import read_faulty
from humanpref.reports import charts, eda
from humanpref.reports.page import Section, texts_of, write_page

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
    assert summary["left_out"] == ["no tokenizer given (--tokenizer FOLDER): truncation"]


def test_a_test_file_has_neither_labels_nor_models(arena, tmp_path, capsys):
    assert main(["--quiet", "eda", str(arena / "test.csv"), "--out", str(tmp_path / "out")]) == 0
    assert "left out: no labels" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").glob("figures/*.png")} == {"prompt_groups", "languages"}
    assert "no labels in the file" in (tmp_path / "out" / "index.html").read_text()


def test_faults_are_listed_and_not_refused(write_csv, tmp_path, capsys):
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
    assert "rows left out: 2; tables/faults.csv says why\n" in capsys.readouterr().out
    listed = pd.read_csv(tmp_path / "out" / "tables" / "faults.csv")
    assert listed["row"].tolist() == [2, 3, 3, 3, 4, 5]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows_left_out"] == 2


def test_models_that_met_only_themselves(write_csv, tmp_path):
    rows = [([f"p{i}"], ["a"], ["b"], i % 3) for i in range(6)]
    path = write_csv(rows, model_a=["m", "k"] * 3, model_b=["m", "k"] * 3)
    assert main(["--quiet", "eda", str(path), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "no row compares two models: pairs" in summary["left_out"]
    figures = {path.stem for path in (tmp_path / "out").glob("figures/*.png")}
    assert "most_compared_models" in figures
    assert not figures & {"most_compared_pairs", "compared_pairs"}


def test_more_models_than_a_figure_has_room_for(arena, tmp_path, monkeypatch):
    drawn = {}
    for name in ("matrix", "points"):
        monkeypatch.setattr(
            charts, name, lambda path, names, *rest, **look: drawn.update({path.stem: (list(names), rest)})
        )
    monkeypatch.setattr(eda, "write_page", lambda path, title, intro, sections: drawn.update(page=sections))
    monkeypatch.setattr(eda, "_DRAWN", 4)
    summary = eda.explore(arena / "train.csv", tmp_path / "out")
    assert summary["models"] == 15
    models = pd.read_csv(tmp_path / "out" / "tables" / "models.csv")
    assert len(models) == len(pd.read_csv(tmp_path / "out" / "tables" / "strengths.csv")) == 15
    most = models["model"].head(4).tolist()
    names, (counts, _) = drawn["compared_pairs"]
    assert names == most
    met = pd.read_csv(tmp_path / "out" / "tables" / "pairs.csv")
    inside = met["model_1"].isin(most) & met["model_2"].isin(most) & (met["model_1"] != met["model_2"])
    assert counts.sum() == 2 * met["rows"][inside].sum() > 0
    for figure in ("strengths", "win_loss"):
        assert set(drawn[figure][0]) == set(most)
        assert len(drawn[figure][1][0]) == 4
    said = [picture.title for section in drawn["page"] for picture in section.pictures if "4 most" in picture.see]
    assert said == ["Matrix of compared pairs", "Bradley-Terry ranking", "Win/loss ratios"]


def test_what_cannot_be_used(arena, report, tmp_path, capsys):
    data = str(arena / "train.csv")
    assert main(["--quiet", "eda", data, "--out", str(report)]) == 2
    assert main(["--quiet", "eda", data, "--out", str(tmp_path / "out"), "--tokenizer", str(tmp_path)]) == 2
    assert main(["--quiet", "eda", "none.csv", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "already exists" in err
    assert "no tokenizer that can be loaded" in err or "needs transformers" in err
    assert list(tmp_path.iterdir()) == []


def test_texts_are_escaped(tmp_path):
    table = pd.DataFrame({"text": ["<script>alert(1)</script>\x00"], "n": [1234.0]})
    write_page(tmp_path / "page.html", "<b>", "&", [Section("s", "", [], {"<i>": table})])
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert "\x00" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<td class=number>1,234</td>" in page


def test_numbers_as_tables_show_them():
    assert texts_of(pd.Series([1.0, 0.0, 3.0])) == ["1", "0", "3"]
    assert texts_of(pd.Series([0.5, None, 1234.5])) == ["0.500", "–", "1,234"]


def browse(tmp_path, page, *arguments):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
               *arguments, page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_the_page_in_a_browser(report, tmp_path):
    for width in (1280, 400):
        shot = tmp_path / f"{width}.png"
        done = browse(tmp_path, report / "index.html", f"--window-size={width},2000", f"--screenshot={shot}")
        assert ":CONSOLE" not in done.stderr, done.stderr
        assert shot.is_file(), done.stderr
        assert shot.stat().st_size > 30_000


def test_the_page_does_not_scroll_sideways_on_a_telephone(report, tmp_path):
    # A copy that may run one script, in a frame: the browser's own windows are at least 500 pixels wide.
    measure = """<script>
    const whole = [...document.images].filter(image => image.naturalWidth > 0).length;
    parent.postMessage(`${innerWidth} ${document.documentElement.scrollWidth <= innerWidth} ${whole}`, "*");
    </script></body>"""
    page = re.sub(r"<meta http-equiv=[^>]*>", "", (report / "index.html").read_text()).replace("</body>", measure)
    (tmp_path / "page.html").write_text(page)
    frame = '<iframe src="page.html" style="width: 400px; border: 0"></iframe>'
    (tmp_path / "frame.html").write_text(f"<script>onmessage = e => document.title = e.data</script>{frame}")
    done = browse(tmp_path, tmp_path / "frame.html", "--dump-dom", "--virtual-time-budget=10000")
    assert "<title>400 true 13</title>" in done.stdout, done.stdout[:500]
