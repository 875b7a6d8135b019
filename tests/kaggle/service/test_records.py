"""The record of what was pushed."""

import pytest

from humanpref.kaggle.service.client import BusyError, RefusedError, UncertainError
from humanpref.kaggle.service.records import Records, describe, find_records, identity
from humanpref.schema import InputError


def test_records(tmp_path):
    records = Records(tmp_path)
    assert records["train"] == {}
    records.write("train", "sending", ref="me/a-kernel", digest="1", base=3)
    assert Records(tmp_path)["train"] == {
        "ref": "me/a-kernel",
        "digest": "1",
        "base": 3,
        "state": "sending",
    }
    with pytest.raises(
        InputError, match="the last one was sending; run humanpref kaggle push --train"
    ):
        Records(tmp_path).require("train", "push --train")
    records.update("train", state="done", version=4)
    assert Records(tmp_path).require("train", "push")["version"] == 4


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "train": {}}', '{"format": 1, "train": 1}'],
)
def test_records_of_another_kind(tmp_path, content):
    (tmp_path / "pushes.json").write_text(content)
    with pytest.raises(InputError, match=r"pushes\.json: "):
        Records(tmp_path)


@pytest.fixture
def records(tmp_path):
    """A dataset, a training kernel that mounts it, and an inference kernel that mounts both."""
    records = Records(tmp_path)
    common = {"manifest": "m"}
    records.write("dataset", "done", ref="me/d", marker="x.json", digest="m", version=2, **common)
    records.write("train", "done", ref="me/t", version=5, inputs={"me/d": "m"}, **common)
    records.write("infer", "done", ref="me/i", inputs={"me/d": "m", "me/t": 5}, **common)
    records.write("submission", "done", ref="me/i", number=7)
    return records


def test_the_latest_pushes(records):
    assert records.latest() == ["dataset", "train", "infer"]
    assert list(records.pushes()) == ["dataset", "train", "infer"]
    assert [records.outdated(name) for name in records.latest()] == ["", "", ""]


def test_a_kernel_is_out_of_date_when_its_source_was_pushed_again(records):
    records.update("train", version=6)
    assert records.outdated("infer") == "me/t"
    assert records.latest() == ["dataset", "train"]
    records.update("train", version=5, state="refused")
    assert records.outdated("infer") == "me/t"


def test_what_was_pushed_of_another_bundle_is_out_of_date(records):
    records.write("weights-a", "done", ref="me/w", marker="y.json", digest="w", manifest="m")
    records.update("dataset", digest="n", manifest="n")
    names = ("dataset", "train", "infer", "weights-a")
    assert [records.outdated(name) for name in names] == ["", "me/d", "me/d", "me/d"]
    assert records.latest() == ["dataset"]
    # What a kernel of this bundle mounts belongs to it, from whichever bundle it was pushed.
    records.write("infer", "done", ref="me/i", manifest="n", inputs={"me/d": "n", "me/w": "w"})
    assert records.latest() == ["dataset", "infer", "weights-a"]


def test_has(records):
    assert records.has("train", "done")
    assert records.has("train", "done", ref="me/t", inputs={"me/d": "m"})
    assert not records.has("train", "sending", ref="me/t")
    assert not records.has("train", "done", ref="me/d")
    assert not records.has("weights-a", "done")


@pytest.mark.parametrize(
    ("error", "state"),
    [(BusyError, "refused"), (RefusedError, "refused"), (UncertainError, "sending")],
)
def test_only_what_may_have_arrived_is_left_as_sending(tmp_path, error, state):
    records = Records(tmp_path)

    def fail():
        with records.sending("train", ref="me/t", base=3):
            assert Records(tmp_path).has("train", "sending", ref="me/t", base=3)
            raise error("x")

    with pytest.raises(error):
        fail()
    assert Records(tmp_path)["train"] == {"ref": "me/t", "base": 3, "state": state}


def test_one_command_at_a_time(tmp_path):
    first, second = Records(tmp_path), Records(tmp_path)
    with first.locked(), pytest.raises(InputError, match="another humanpref kaggle command"):
        second.locked().__enter__()
    with second.locked():
        pass


def test_the_records_of_the_nearest_project(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    inner = tmp_path / "project" / "notes" / "deeper"
    inner.mkdir(parents=True)
    # Without a project they are the owner's, whatever the current folder.
    for start in (inner, tmp_path):
        monkeypatch.chdir(start)
        assert find_records("me").path == tmp_path / "state" / "humanpref" / "me" / "pushes.json"
    assert not (tmp_path / "state").exists()
    find_records("me", "wide").write("train", "done", ref="me/t")
    assert find_records("me", "wide", tmp_path)["train"]["ref"] == "me/t"
    assert find_records("you", "wide", tmp_path)["train"] == {}
    assert find_records("me", "", tmp_path)["train"] == {}

    project = tmp_path / "project" / ".humanpref"
    project.mkdir()
    assert find_records("me", start=inner).path == project / "pushes.json"
    wide = find_records("me", "wide", inner)
    assert (wide.path, wide.name) == (project / "wide" / "pushes.json", "wide")
    with find_records("me").locked(), wide.locked():
        pass


@pytest.mark.parametrize("name", ["../x", "A", "a--b", "-a", "a b", "a" * 31, "accept"])
def test_a_name_that_is_no_part_of_a_slug(tmp_path, name):
    with pytest.raises(InputError, match="--name: expected at most 30 lower-case letters"):
        find_records("me", name, tmp_path)


def test_what_identifies_a_push(records):
    assert [identity(records[name]) for name in ("dataset", "train", "infer")] == ["m", 5, None]
    assert describe(records["train"]) == "me/t version 5"
    assert describe(records["infer"]) == "me/i"
