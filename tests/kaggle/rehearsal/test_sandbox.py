"""The box that kernels run in: what it keeps out, in each mode that this machine allows."""

import json
from pathlib import Path

import pytest

from humanpref.kaggle.rehearsal import sandbox
from humanpref.training.device import DRY_RUN


def python(box, code: str) -> tuple[int, list[str]]:
    lines = []
    return sandbox.run(box, [box.python, "-c", code], lines.append), lines


@pytest.mark.parametrize(
    "first", ["", "unshare --mount ", "unshare --user --map-root-user --mount "]
)
def test_a_kernel_cannot_mount_its_inputs_writable(box, first):
    """Not by remounting, not by unmounting what covers them, not from a namespace of its own; root
    or not."""
    if box.mode == "none":
        pytest.skip("mode none protects no file")
    inputs = f"{box.kaggle}/input"
    script = (
        f"{first}sh -c 'mount -o remount,rw,bind {inputs}; umount {inputs}; touch {inputs}/there'"
    )
    lines = []
    assert sandbox.run(box, ["sh", "-c", script], lines.append) != 0, lines
    assert (box.root / "input" / "there").read_text() == "seen"
    assert [path.name for path in (box.root / "input").iterdir()] == ["there"]


def test_a_variable_reaches_the_kernel(box):
    lines = []
    code = "import os; print(os.environ['KAGGLE_IS_COMPETITION_RERUN'])"
    assert (
        sandbox.run(
            box,
            [box.python, "-c", code],
            lines.append,
            variables={"KAGGLE_IS_COMPETITION_RERUN": "1"},
        )
        == 0
    )
    assert lines == ["1"]


def test_what_a_kernel_sees(box, monkeypatch):
    monkeypatch.setenv("SECRET", "of the user's")
    monkeypatch.setenv("PYTHONPATH", str(Path(sandbox.__file__).parents[3]))
    code, lines = python(
        box,
        "import json, os, sys, importlib.util, pandas, sklearn, pip;"
        "print(json.dumps([os.getcwd(), sys.prefix, dict(os.environ), pandas.__version__,"
        "importlib.util.find_spec('humanpref') is None, open(os.path.join('..', 'input', "
        "'there')).read()]));"
        "open('result', 'w').write('kept'); open(os.path.join('..', 'temp', 'x'), 'w').close()",
    )
    assert code == 0, lines
    folder, prefix, variables, version, without_ours, there = json.loads(lines[-1])
    assert folder == f"{box.kaggle}/working"
    assert prefix == str(box.environment)
    assert variables["KAGGLE_KERNEL_RUN_TYPE"] == "Batch"
    assert variables[DRY_RUN] == "1"  # what tells it from Kaggle
    assert "SECRET" not in variables
    assert variables.get("HUMANPREF_KAGGLE_ROOT") == (
        None if box.mode == "bwrap" else str(box.root)
    )
    assert version == pytest.importorskip("pandas").__version__
    assert without_ours
    assert there == "seen"
    assert (box.root / "working" / "result").read_text() == "kept"


def test_the_interpreters_own_packages_cannot_be_written(box):
    if box.mode == "none":
        pytest.skip("mode none protects no file")
    import pandas

    code, lines = python(box, f"open({str(Path(pandas.__file__).with_name('dropping'))!r}, 'w')")
    assert code == 1
    assert "Read-only file system" in lines[-1]


def test_the_loopback_works(box):
    code, lines = python(
        box,
        "import socket, threading\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "threading.Thread(target=lambda: server.accept()[0].sendall(b'hello'), "
        "daemon=True).start()\n"
        "print(socket.create_connection(('localhost', server.getsockname()[1])).recv(9))\n"
        "a, b = socket.socketpair(); a.sendall(b'x'); print(b.recv(1))",
    )
    assert (code, lines) == (0, ["b'hello'", "b'x'"])


def test_an_exit_code_and_a_line_come_through(box):
    code, lines = python(
        box, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    )
    assert code == 3
    assert sorted(lines) == ["err", "out"]


@pytest.mark.parametrize(("limit", "expected"), [(2**26, "-9"), (2**30, "0")])
def test_a_process_that_holds_too_much_memory_is_killed(box, limit, expected):
    child = "import time; x = bytearray(100 * 2**20); time.sleep(1)"
    code = f"import subprocess, sys; print(subprocess.call([sys.executable, '-c', {child!r}]))"
    lines = []
    assert sandbox.run(box, [box.python, "-c", code], lines.append, memory=limit) == 0
    assert lines == [expected]


def test_the_youngest_process_of_that_name_is_killed_once(box):
    """One that is called otherwise, and one that comes later, live on."""
    code = """
import subprocess, sys
start = lambda name: subprocess.Popen([sys.executable, "-c", "import sys; input()", name],
                                      stdin=subprocess.PIPE)
children = [start(name) for name in ("worker", "worker", "other")]
print("loaded", flush=True)
children[1].wait()
children.append(start("worker"))
print("loaded", flush=True)
for child in children:
    child.communicate(b"go on")
print([child.returncode for child in children])
"""
    kill, lines = sandbox.Kill("^loaded$", "input()\0worker"), []
    assert sandbox.run(box, [box.python, "-c", code], lines.append, kill=kill) == 0
    assert lines == ["loaded", "loaded", "[0, -9, 0, 0]"]
    assert kill.done


def test_a_process_that_is_not_there_is_not_killed(box):
    kill, lines = sandbox.Kill("^loaded$", "worker"), []
    assert sandbox.run(box, [box.python, "-c", "print('loaded')"], lines.append, kill=kill) == 0
    assert not kill.done


def test_bubblewrap_is_used_where_it_works(monkeypatch, caplog):
    assert sandbox.detect() == ("bwrap" if sandbox.why_no_bubblewrap() is None else "none")
    caplog.clear()
    monkeypatch.setattr(sandbox, "why_no_bubblewrap", lambda: None)
    assert sandbox.detect() == "bwrap"
    assert not caplog.text
    monkeypatch.setattr(sandbox, "why_no_bubblewrap", lambda: "forbidden")
    assert sandbox.detect() == "none"
    assert "NO ISOLATION: bubblewrap does not work here (forbidden)" in caplog.text


def test_a_bubblewrap_that_is_there_but_may_not_does_not_count(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'Operation not permitted' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert sandbox.why_no_bubblewrap() == "Operation not permitted"
    assert sandbox.detect() == "none"


def test_without_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sandbox.why_no_bubblewrap() == "bwrap is not installed"


def test_what_is_left_running_ends_with_an_interruption(box):
    """The children, too, which hold the pipe open."""
    child = "import subprocess, sys; print('on', flush=True); subprocess.run(['sleep', '60'])"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="on"):
        sandbox.run(box, [box.python, "-c", child], interrupt)
