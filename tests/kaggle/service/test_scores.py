"""The table of all submissions, and its figure."""

import importlib.util
from types import SimpleNamespace

import pytest

from humanpref.kaggle.service.records import Records
from humanpref.kaggle.service.scores import note, scores

from .bundles import PUSH, left_whole, stage
from .played import answering

CLIENT = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


def left(loss, **values):
    return lambda code: left_whole(code, artifacts=[{"rows": 3, "log_loss": loss}], **values)


@CLIENT
@pytest.mark.slow
def test_every_submission_with_its_two_losses(run, service, folder):
    assert "no submissions yet" in run("scores").err
    by_hand = {"ref": 7, "description": "by hand", "fileName": "x", "states": ["ERROR"]}
    service.submissions.append(by_hand)
    service.outputs["status.json"] = left(0.98765)
    assert run(*PUSH).code == 0
    # The first number is taken by the submission that was made by hand.
    assert run("submit", "--message", "plain").out.startswith("submission 1002: ")
    stage(folder / "bundle", b"another wheel")
    service.outputs["status.json"] = left(None, degraded=["2 of 3 rows have the prior"])
    assert run(*PUSH, "--name", "wide").code == 0
    assert run("submit", "--message", "wide one", "--name", "wide", "--anyway").code == 0

    told = run("scores", "--figure", "scores.svg")
    assert told.code == 0, told.err
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in
                      told.out.strip().splitlines()]  # fmt: skip
    assert head == [
        "submission", "experiment", "status", "log loss", "public score", "degraded", "description"
    ]  # fmt: skip
    reasons = "2 of 3 rows have the prior"
    assert rows[0] == ["1003", "wide", "COMPLETE", "–", "1.0123", reasons, "wide one"]
    assert rows[1] == ["1002", "default", "COMPLETE", "0.9877", "1.0123", "", "plain"]
    assert rows[2][:4] == ["7", "", "ERROR Notebook Timeout", "–"]
    assert rows[2][5:] == ["", "by hand"]
    assert "default" in (folder / "scores.svg").read_text()


@pytest.mark.parametrize("status", [{}, {"artifacts": [1]}, {"artifacts": [{}, {}]}])
def test_a_run_of_which_no_log_loss_is_known(tmp_path, status):
    records = Records(tmp_path, "wide")
    records.write("submission", "done")
    note(records, 7, "m", status)
    note(records, 8, "n", status)
    text = (tmp_path / "submissions.json").read_text()
    assert text.count('"log_loss": null') == 2


def test_the_table(client, tmp_path):
    for name, number, loss in (("", 1, 0.98), ("wide", 2, 0.97)):
        records = Records(tmp_path / name, name)
        records.write("submission", "done")
        status = {"artifacts": [{"log_loss": loss}], "degraded": ["no GPU"] * (number - 1)}
        note(records, number, f"run {number}", status)
    shown = [
        SimpleNamespace(
            ref=number,
            status=SimpleNamespace(name=state),
            description="[tag] told",
            public_score=score,
            error_description=None,
        )
        for number, state, score in (
            (3, "COMPLETE", "1.1"),
            (2, "PENDING", ""),
            (1, "COMPLETE", "1"),
        )
    ]
    page = SimpleNamespace(submissions=shown, next_page_token="")
    client.competitions = SimpleNamespace(list_submissions=answering(page))
    table = scores(client, tmp_path, "a-competition")
    assert table.fillna(0).to_numpy().tolist() == [
        ["3", "", "COMPLETE", 0, 1.1, "", "[tag] told"],
        ["2", "wide", "PENDING", 0.97, 0, "no GPU", "run 2"],
        ["1", "default", "COMPLETE", 0.98, 1.0, "", "run 1"],
    ]
