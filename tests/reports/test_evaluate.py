"""Artifacts side by side on the same rows: the page, the JSON and the tables agree."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.data import labels_of, prompt_keys, read_pairs
from humanpref.evaluation.metrics import summarise
from humanpref.logloss import row_log_losses
from humanpref.models.prior import PriorModel
from humanpref.reports.evaluate import evaluate, write_evaluation
from humanpref.reports.table_text import columns
from humanpref.runs.train import train
from humanpref.schema import InputError

from .browser import measured


@pytest.fixture(scope="module")
def artifacts(arena, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    settings = ("model.term_penalties=10", "model.structure_penalties=100")
    return [
        train(load_config("prior"), arena / "train.csv", folder / "prior"),
        train(load_config("sparse", None, settings), arena / "train.csv", folder / "sparse"),
    ]


@pytest.fixture(scope="module")
def evaluated(artifacts, arena):
    return evaluate(artifacts, read_pairs(arena / "test_labels.csv", labels=True))


def test_metrics_of_two_artifacts(artifacts, arena):
    rows = read_pairs(arena / "test_labels.csv", labels=True)
    metrics, tables = evaluate(artifacts, rows)
    assert [name.rpartition("/")[2] for name in metrics["artifacts"]] == ["prior", "sparse"]
    prior, sparse = metrics["artifacts"].values()
    probabilities = artifacts[1].predict_proba(rows)
    alone = summarise(labels_of(rows), probabilities, artifacts[1].prior, prompt_keys(rows))
    assert {key: sparse[key] for key in alone} == pytest.approx(alone)
    assert sparse["swap_difference"] < 1e-9
    assert sparse["swap_flips"] == 0
    assert prior["swap_difference"] == pytest.approx(
        abs(artifacts[0].prior[0] - artifacts[0].prior[1]) * 2 / 3
    )
    (difference,) = metrics["differences"]
    assert difference["log_loss"] == pytest.approx(sparse["log_loss"] - prior["log_loss"])
    assert difference["low"] <= difference["log_loss"] <= difference["high"]
    # Each cut takes every row once, so that its parts' mean is the whole.
    for (name, _), cut in tables["slices"].groupby(["artifact", "slice"]):
        assert cut["rows"].sum() == len(rows)
        assert np.average(cut["log_loss"], weights=cut["rows"]) == pytest.approx(
            metrics["artifacts"][name]["log_loss"]
        )
    worst = tables["worst"][tables["worst"]["artifact"].str.endswith("sparse")]
    losses = row_log_losses(labels_of(rows), artifacts[1].predict_proba(rows))
    assert worst["id"].iloc[0] == rows["id"][losses.argmax()]
    assert worst["log_loss"].iloc[0] == pytest.approx(losses.max())
    with pytest.raises(InputError, match="expected different artifacts"):
        evaluate([artifacts[0]] * 2, rows)


def test_the_page_and_the_json_agree(artifacts, arena, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folders = [str(artifact.folder) for artifact in artifacts]
    out, file = tmp_path / "page", tmp_path / "metrics.json"
    data = ["--data", str(arena / "test_labels.csv")]
    assert (
        main(["--quiet", "evaluate", *folders, *data, "--json", str(file), "--html", str(out)]) == 0
    )
    printed = capsys.readouterr().out
    metrics = json.loads(file.read_text())
    assert metrics == json.loads((out / "metrics.json").read_text())
    page = (out / "index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 6
    for name, of in metrics["artifacts"].items():
        for key in ("log_loss", "brier", "calibration_error"):
            assert f">{of[key]:.3f}<" in page
        assert f"{name}: 24 rows, log loss {of['log_loss']:.4f}" in printed
    difference = metrics["differences"][0]["log_loss"]
    assert f"{folders[1]} against {folders[0]}: {difference:+.4f}" in printed
    assert len(pd.read_csv(out / "tables" / "worst.csv")) == 40
    axes = pd.read_csv(out / "tables" / "axes.csv")
    for name, of in metrics["artifacts"].items():
        rows = axes[axes["artifact"] == name].drop(columns="artifact")
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), pd.DataFrame(of["axes"]))
        shown = page.partition(f">{name}</h2>")[2].partition("</table>")[0]
        for axis in of["axes"]:
            for key in ("people", "model", "excess", "margin"):
                assert (
                    f">{axis[key]:.3f} [{axis[f'{key}_low']:.3f}, {axis[f'{key}_high']:.3f}]<"
                    in shown
                )
        for _, _, cells in columns(rows[["axis", "chosen", "passed_over"]]):
            assert all(f">{text}<" in shown for text in cells)


@pytest.mark.parametrize(("exact", "times"), [(False, 2), (True, 1)])
def test_no_second_prediction_where_swaps_are_exact(artifacts, arena, monkeypatch, exact, times):
    asked, plain = [], PriorModel.predict_proba
    monkeypatch.setattr(PriorModel, "swap_equivariant", exact)
    monkeypatch.setattr(
        PriorModel,
        "predict_proba",
        lambda own, pairs: asked.append(len(pairs)) or plain(own, pairs),
    )
    metrics, _ = evaluate(artifacts[:1], read_pairs(arena / "test_labels.csv", labels=True))
    (of,) = metrics["artifacts"].values()
    # A model that is loaded tries itself on one row.
    assert [rows for rows in asked if rows > 1] == [of["rows"]] * times
    assert of["swap_exact"] == (times == 1)


def test_rows_without_a_decision(artifacts, write_csv, tmp_path):
    pytest.importorskip("matplotlib")
    rows = read_pairs(write_csv([(["p"], ["a"], ["b"], 2), (["q"], [""], ["b"], 2)]), labels=True)
    metrics, tables = evaluate(artifacts[:1], rows)
    assert tables["axes"].empty
    write_evaluation(tmp_path / "page", "ties", metrics, tables)
    assert "Axes besides preference" not in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.slow
def test_a_model_with_ties_on_rows_without_any(artifacts, pairs, caplog):
    decided = pairs[labels_of(pairs)[:, 2] == 0].reset_index(drop=True)
    evaluate(artifacts[:1], decided)
    assert "P(tie)" not in caplog.text  # the format has ties
    evaluate(artifacts[:1], decided.drop(columns="winner_tie"))
    assert "which these rows lack; their P(tie) counts in their log loss" in caplog.text


@pytest.mark.slow
def test_folders_and_frames_as_well_as_files(artifacts, arena, pairs):
    folders = [artifact.folder for artifact in artifacts]
    by_file, _ = evaluate([str(folders[0])], arena / "train.csv")
    by_frame, tables = evaluate(artifacts[:1], pd.read_csv(arena / "train.csv"))
    assert by_frame == by_file
    assert set(tables) == {"slices", "reliability", "axes", "worst"}
    trained_on = by_frame["artifacts"][str(folders[0])]["rows_trained_on"]
    assert trained_on == artifacts[0].facts["training_rows"] < len(pairs)
    weighted = pairs.assign(weight=[1.0] * 50 + [0.0] * (len(pairs) - 50))
    some, _ = evaluate(artifacts[:1], weighted)
    assert some["artifacts"][str(folders[0])]["rows"] == 50


@pytest.mark.slow
def test_the_worst_rows_open_with_both_answers(artifacts, write_csv, tmp_path, undrawn):
    pytest.importorskip("matplotlib")
    rows = [(["Who <b>?"], ["first", "a" * 5_003], ["<i>second"], 0)]
    rows += [([f"p{i}"], ["a"], ["b"], 2) for i in range(24)]
    metrics, tables = evaluate(artifacts[:1], read_pairs(write_csv(rows), labels=True))
    worst = tables["worst"].set_index("id")
    assert len(worst) == 20
    assert worst["response_b"]["100"] == "<i>second"
    assert worst["response_a"]["100"].endswith("aaa… (10 more characters)")
    write_evaluation(tmp_path / "page", "worst", metrics, tables)
    page = (tmp_path / "page" / "index.html").read_text()
    texts = re.findall(r"<details class=\"row\">(.*?)</details>", page, re.DOTALL)
    (row,) = [text for text in texts if "<summary>100: log loss" in text]
    assert len(texts) == 20
    assert re.findall(r"<pre>(.*?)</pre>", row, re.DOTALL)[::2] == [
        "Who &lt;b&gt;?",
        "&lt;i&gt;second",
    ]
    assert "<pre>first\n\naaa" in row
    found = measured(tmp_path, page, 1280)
    # Closed at first; open, an answer without spaces wraps.
    assert (found["fits"], found["wide"], found["opened"], found["details"]) == (True, [], 0, 20)


@pytest.mark.slow
def test_long_names_and_many_artifacts_fit_on_a_screen(evaluated, tmp_path, undrawn):
    pytest.importorskip("matplotlib")
    metrics, tables = evaluated
    name, prior = next(iter(metrics["artifacts"].items()))
    names = [f"/a_folder/{'with_a_long_name_' * 4}{number}" for number in range(6)]
    several = dict.fromkeys(names, prior | {"rows_trained_on": 7})
    parts = {
        key: pd.concat([table[table["artifact"] == name].assign(artifact=own) for own in names])
        for key, table in tables.items()
    }
    write_evaluation(tmp_path / "page", "many", metrics | {"artifacts": several}, parts)
    page = (tmp_path / "page" / "index.html").read_text()
    assert f">{names[0]}</th>" in page  # a name keeps its underscores
    found = measured(tmp_path, page, 1280)
    assert (found["fits"], found["wide"]) == (True, [])


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            (-0.03, -0.05, -0.01),
            "A has the lowest log loss, 1.0600 nats per row, and is better than the prior (log "
            "loss -0.0300 [-0.0500, -0.0100])",
        ),
        ((-0.03, -0.05, 0.01), "cannot be told from the prior by these rows (log loss -0.0300"),
        ((0.01, -0.02, 0.04), "is no better than the prior as far as these rows can tell (log"),
        ((0.03, 0.01, 0.05), "is worse than the prior, which predicts the same probabilities for "),
    ],
)
def test_the_verdict(evaluated, tmp_path, undrawn, difference, sentence):
    pytest.importorskip("matplotlib")
    metrics, tables = evaluated
    keys = ("against_prior", "against_prior_low", "against_prior_high")
    changed = dict(zip(keys, difference, strict=True)) | {"log_loss": 1.06, "accuracy": 0.4321}
    names = dict(zip(metrics["artifacts"], "AB", strict=True))
    first, second = metrics["artifacts"].values()
    metrics = metrics | {"artifacts": {"A": first | changed, "B": second | {"log_loss": 1.5}}}
    tables = {key: table.replace({"artifact": names}) for key, table in tables.items()}
    write_evaluation(tmp_path / "page", "verdict", metrics, tables)
    page = " ".join((tmp_path / "page" / "index.html").read_text().split())
    shown = page.partition("<p><b>")[2].partition("</b>")[0]
    assert sentence in shown
    assert shown.endswith("; its likeliest class is right in 43.2&nbsp;% of the rows.")
