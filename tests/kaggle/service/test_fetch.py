"""Fetching: whole, into a new folder, and nothing out of it."""

import importlib.util

import pytest

from humanpref.kaggle.competitions import DEFAULT

from ..loopback import USER, Reply
from ..sampled import sampled
from .bundles import IMPATIENT, PUSH, TRICKLE

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


def test_data(run, service, folder):
    service.data = {"train.csv": b"id\n" * 1000, "test.csv": b"id\n"}
    fetched = run("data")
    assert (fetched.code, fetched.out) == (0, "data: train.csv, test.csv\n")
    assert {path.name: path.read_bytes() for path in (folder / "data").iterdir()} == service.data
    again = run("data")
    assert again.code == 2
    assert "data: already exists" in again.err


def test_downloads_that_break_off_are_made_again(run, service, folder):
    service.data = {"train.csv": b"id\n" * 100_000}
    service.queue("GET /files/0/all.zip", None)
    service.queue("GET /files/1/all.zip", TRICKLE)
    fetched = run("data", limits=IMPATIENT)
    assert fetched.code == 0, fetched.err
    assert (folder / "data" / "train.csv").read_bytes() == service.data["train.csv"]
    assert len(service.received("CompetitionApiService/DownloadDataFiles")) >= 3
    assert run(*PUSH).code == 0
    first = f"GET /files/{len(service.files)}/output"
    service.queue(first, None, Reply(status=500), Reply(b"i", headers={"Content-Length": "9"}))
    fetched = run("output")
    assert fetched.code == 0, fetched.err
    assert (folder / "output" / "submission.csv").read_bytes() == service.outputs["submission.csv"]
    assert len(service.received(first)) == 4


def test_data_before_the_rules_are_accepted(run, service, folder):
    service.data = None
    refused = run("data")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert (
        f"sign in as {USER}, accept its rules at "
        f"https://www.kaggle.com/competitions/{DEFAULT}/rules" in line
    )
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    "name",
    sampled(
        [
            "../evil",
            "/tmp/evil",
            "a/../../evil",
            "C:\\evil",
            "a\\..\\evil",
            "",
            "submission.csv/x",
            "x" * 300,
        ],
        every=8,
    ),
)
def test_output_stays_in_its_folder(run, service, folder, name):
    assert run(*PUSH).code == 0
    service.outputs = {"submission.csv": b"id\n", name: b"evil"}
    before = sorted(folder.rglob("*"))
    failed = run("output")
    assert failed.code == 2, failed.err
    assert sorted(folder.rglob("*")) == before
