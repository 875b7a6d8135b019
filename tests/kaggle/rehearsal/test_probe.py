"""What a box keeps in, and the verdict on it."""

import dataclasses

import pytest

from humanpref.kaggle.rehearsal.probe import Probe, probe
from humanpref.kaggle.rehearsal.sandbox import make_box

OFFLINE = Probe(
    mode="bwrap",
    connection="failed (Network is unreachable)",
    unreachable=True,
    lookup="failed",
    interfaces=("lo",),
    input_remount="failed",
    input_write="failed",
    package=False,
)


def test_nothing_gets_out_or_into_the_inputs(box, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    found = probe(box)
    assert "succeeded" not in (found.connection, found.lookup)
    assert not found.package
    assert found.faults == []
    if box.mode == "none":
        assert not found.offline  # a hook in Python is no proof
        assert "blocked by the dry run" in found.connection
        assert {"the environment of other processes", "the home folder"} <= {*found.readable}
    else:
        assert found.offline
        assert found.interfaces == ("lo",)
        assert found.readable == ()
        assert "Read-only file system" in found.input_write
        assert "Operation not permitted" in found.input_remount


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({"unreachable": False, "connection": "succeeded"}, "no proof"),
        ({"unreachable": False, "connection": "failed (timed out)"}, "no proof"),
        ({"lookup": "succeeded"}, "no proof"),
        ({"interfaces": ("lo", "eth0")}, "no proof"),
        ({"input_write": "succeeded"}, "the input folder can be written"),
        ({"readable": ("the home folder",)}, "credentials could be read from the home folder"),
        ({"package": True}, "humanpref can be imported before"),
    ],
)
def test_what_is_held_against_a_box(found, fault):
    assert OFFLINE.faults == []
    faults = dataclasses.replace(OFFLINE, **found).faults
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_probe_that_does_not_run_is_no_proof(tmp_path):
    box = make_box("none", tmp_path / "root", tmp_path / "environment")
    (box.environment / "bin").mkdir(parents=True)
    (box.environment / "bin" / "python").symlink_to("/bin/false")
    with pytest.raises(RuntimeError, match="the probe ended with 1"):
        probe(box)


def test_failed_attempts_do_not_read_as_errors():
    told = "isolated, as it should be: a connection to the outside failed"
    assert str(OFFLINE).startswith(told)
    for other in ({"mode": "none"}, {"input_write": "succeeded"}, {"readable": ("a key",)}):
        assert "isolated" not in str(dataclasses.replace(OFFLINE, **other))
