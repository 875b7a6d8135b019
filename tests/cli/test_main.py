import pytest

from humanpref import __version__
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
