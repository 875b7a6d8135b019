"""What the commands pass on and print; the service itself is tested against a server."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from humanpref.cli import kaggle_service
from humanpref.kaggle.bundle.checkout import find_project
from humanpref.kaggle.service import accept, client, fetch, push, submit


@pytest.fixture
def calls(monkeypatch):
    """Every call of the service, and what it answers."""
    seen = []

    class Records(dict):
        latest = dict.keys

        def __missing__(self, name):
            return {}

    records = Records(data={"ref": "me/data", "version": 3, "state": "ready"})
    records["train"] = {"ref": "me/train", "state": "sent"}
    monkeypatch.setattr(kaggle_service, "service", lambda options: ("client", records))

    def answers(module, name, answer):
        monkeypatch.setattr(module, name, lambda *given: seen.append((name, *given[1:])) or answer)

    answers(fetch, "fetch_data", ["train.csv", "test.csv"])
    answers(fetch, "fetch_output", ["submission.csv"])
    answers(fetch, "fetch_log", "a line")
    answers(push, "push", None)
    answers(push, "wait", ["one", "two"])
    answers(accept, "accept", "| a |\n\nFAIL: 0 passed, 1 failed, 0 not judged\n")
    answers(submit, "status", ["quota"])
    answers(submit, "submit", SimpleNamespace(ref=7, public_score=""))
    return SimpleNamespace(seen=seen, records=records)


def test_data(run, calls):
    assert run("kaggle", "data")[:2] == (0, "data: train.csv, test.csv\n")
    assert calls.seen == [("fetch_data", "llm-classification-finetuning", Path("data"))]


def test_push_sends_the_chosen_parts(run, calls):
    code, out, _ = run("kaggle", "push", "--user", "me", "--train", "--dataset", "--bundle", "B")
    assert (code, out) == (0, "me/data: version 3, ready\nme/train: version -, sent\n")
    run("kaggle", "push", "--user", "me", "--anyway")
    records, parts = calls.records, ["dataset", "train"]
    assert calls.seen == [
        ("push", records, Path("B"), "me", parts, False),
        ("push", records, Path("bundle"), "me", [], True),
    ]


def test_wait_and_status_print_lines(run, calls):
    assert run("kaggle", "wait", "--anyway")[:2] == (0, "one\ntwo\n")
    assert run("kaggle", "status", "--competition", "other")[:2] == (0, "quota\n")
    records = calls.records
    assert calls.seen == [("wait", records, True), ("status", records, "other")]


def test_output_is_the_inference_kernels_unless_asked(run, calls):
    assert run("kaggle", "output")[:2] == (0, "output: submission.csv\n")
    assert run("kaggle", "output", "--train", "--out", "T")[:2] == (0, "T: submission.csv\n")
    kernels = [call[2:] for call in calls.seen]
    assert kernels == [("infer", Path("output")), ("train", Path("T"))]
    assert run("kaggle", "output", "--name", "wide")[:2] == (0, "output-wide: submission.csv\n")
    assert run("kaggle", "output", "--train", "--log")[:2] == (0, "a line\n")
    assert calls.seen[-1] == ("fetch_log", calls.records, "train")


def test_submit_prints_the_score_or_that_it_is_unknown(run, calls):
    code, out, _ = run("kaggle", "submit", "--message", "first")
    assert (code, out) == (0, "submission 7: public score unknown\n")
    slug = "llm-classification-finetuning"
    assert calls.seen == [("submit", calls.records, slug, "first", False)]
    # What was pushed from here says which competition it is for.
    calls.records["infer"] = {"competition": "lmsys-chatbot-arena", "ref": "me/infer"}
    run("kaggle", "submit", "--message", "second")
    run("kaggle", "submit", "--message", "third", "--competition", "other")
    assert [call[2] for call in calls.seen[1:]] == ["lmsys-chatbot-arena", "other"]


@pytest.mark.parametrize(
    ("given", "known", "owner"),
    [([], "Some-User", "some-user"), (["--user", "me"], "", "me"), ([], "", None)],
)
def test_the_user_is_that_of_the_credentials_unless_named(
    run, monkeypatch, tmp_path, given, known, owner
):
    monkeypatch.setattr(client, "Client", lambda: SimpleNamespace(user=known))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, _, told = run("kaggle", "wait", "--name", "wide", *given)
    assert code == 2
    if owner:
        assert f"humanpref/{owner}/wide/pushes.json: nothing has been pushed" in told
    else:
        assert "--user: expected your Kaggle user name" in told


def test_accept_prints_the_table_and_its_last_line_decides(run, calls):
    code, out, _ = run("kaggle", "accept", "--user", "me", "--out", "folder")
    assert (code, out.splitlines()[-1]) == (1, "FAIL: 0 passed, 1 failed, 0 not judged")
    assert calls.seen == [("accept", calls.records, find_project(), "me", Path("folder"))]
