import os
import signal
import subprocess
import sys
import time

import pytest

from humanpref import __version__
from humanpref.files import folder_whole
from humanpref.schema import InputError


def raising(error):
    def write_arena(*arguments):
        raise error

    return write_arena


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("rows.csv: row 1\n is odd"), 2, "humanpref: rows.csv: row 1 is odd\n"),
        (FileNotFoundError(2, "No such file", "a.csv"), 2, "humanpref: a.csv: No such file\n"),
        (KeyboardInterrupt(), 130, "humanpref: interrupted\n"),
        (MemoryError("9 GiB"), 2, "humanpref: out of memory (9 GiB)\n"),
        (
            OSError(5, "Input/output error"),
            2,
            "humanpref: cannot read or write (Input/output error)\n",
        ),
    ],
)
def test_errors_end_in_one_line(run, monkeypatch, error, code, line):
    monkeypatch.setattr("humanpref.arena.write_arena", raising(error))
    assert run("sample", "--out", "arena") == (code, "", line)


@pytest.mark.parametrize("error", [InputError("odd"), OSError(2, "gone", "a.csv")])
def test_a_traceback_on_request(run, monkeypatch, error):
    monkeypatch.setattr("humanpref.arena.write_arena", raising(error))
    with pytest.raises(type(error)):
        run("--traceback", "sample", "--out", "arena")


def test_an_error_of_the_system_without_a_file_is_a_defect(run, monkeypatch):
    monkeypatch.setattr("humanpref.arena.write_arena", raising(OSError("odd")))
    with pytest.raises(OSError, match="odd"):
        run("sample", "--out", "arena")


def test_version(run):
    assert run("--version") == (0, f"humanpref {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("train", "--train", "a.csv", "--outt", "X"),
            "unknown option --outt; did you mean --out?",
        ),
        (("train", "--train", "a.csv", "--outt=X"), "unknown option --outt; did you mean --out?"),
        (("kaggle", "push", "--quick"), "unknown option --quick"),
        (("train", "--train", "a.csv"), "the following arguments are required: --out"),
        (("train", "--train", "--out", "X"), "argument --train: expected one argument"),
    ],
)
def test_an_option_that_is_mistyped_is_not_told_as_a_missing_one(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].partition(": error: ")[2] == reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("trian", "--train", "a.csv"), "argument COMMAND: unknown 'trian'; did you mean train?"),
        (("kaggle", "dryrun"), "argument COMMAND: unknown 'dryrun'; did you mean dry-run?"),
        (
            ("blend", "A", "--out", "B", "--mean", "geometrical"),
            "argument --mean: unknown 'geometrical'; did you mean geometric?",
        ),
        (
            ("ablate", "nothing"),
            "argument COMMAND: unknown 'nothing'; expected one of softmax, preprocessing, "
            "system-prompt",
        ),
        (
            ("train", "--preset", "deberta-v3-smal", "--train", "a.csv", "--out", "X"),
            "unknown preset 'deberta-v3-smal' (did you mean 'deberta-v3-small'?); the presets are ",
        ),
    ],
)
def test_what_a_mistyped_name_resembles(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in err.splitlines()[-1]


def test_values_are_no_options(run):
    """A negative number, a value with a space and what follows `--` are values."""
    for given in (("--rows", "-5"), ("--out", "-not an option"), ("--", "--x")):
        assert "unknown option" not in run("sample", *given)[2]


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_cleans_up_and_the_next_command_can_be_stopped_as_well(
    run, monkeypatch, number, code, tmp_path
):
    """A second signal during the cleanup does not interrupt it."""

    def write_arena(folder, rows, seed):
        with folder_whole(folder) as unfinished:
            (unfinished / "rows.csv").touch()
            try:
                os.kill(os.getpid(), getattr(signal, number))
                time.sleep(5)
            finally:
                os.kill(os.getpid(), getattr(signal, number))

    monkeypatch.setattr("humanpref.arena.write_arena", write_arena)
    # As in a shell; `nohup` starts a process that ignores SIGHUP.
    before = signal.signal(getattr(signal, number), signal.SIG_DFL)
    for _ in range(2):
        line = f"humanpref: stopped by {number}\n"
        assert run("sample", "--out", "arena") == (code, "", line)
        assert not list(tmp_path.iterdir())
    assert signal.signal(getattr(signal, number), before) is signal.SIG_DFL


def test_a_full_disk_is_told_where_standard_output_is():
    """Python would report it a second time at its exit."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "humanpref.cli", "presets"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "humanpref: cannot write (No space left on device)\n"


def test_without_a_command_the_commands_are_listed(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "usage: humanpref" in err
    assert "train a model on labeled rows" in err
