"""The box that kernels run in: what it keeps out, in each mode that this machine allows."""

import dataclasses
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.sandbox import MODES, Probe, make_box, make_environment
from humanpref.training.device import DRY_RUN

# Whether the machine allows a mode is asked without our own code: a defect of it must not look like
# a forbidden mode.
ALLOWED = {"bwrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], "none": ["true"]}


@pytest.fixture(params=MODES)
def box(request, tmp_path):
    command = ALLOWED[request.param]
    if (
        shutil.which(command[0]) is None
        or subprocess.run(command, capture_output=True).returncode != 0
    ):
        pytest.skip(f"mode {request.param} is not to be had on this machine: {' '.join(command)}")
    environment = make_environment(tmp_path / "environment", block_sockets=request.param == "none")
    box = make_box(request.param, tmp_path / "root", environment)
    (box.root / "input" / "there").write_text("seen")
    return box


def python(box, code: str) -> tuple[int, list[str]]:
    lines = []
    return sandbox.run(box, [box.python, "-c", code], lines.append), lines


def test_nothing_gets_out_or_into_the_inputs(box):
    probe = sandbox.probe(box)
    assert not probe.connected
    assert not probe.resolved
    assert not probe.package
    assert probe.faults == []
    if box.mode == "none":
        assert not probe.offline  # a hook in Python is no proof
        assert "blocked by the dry run" in probe.connection
    else:
        assert probe.offline
        assert probe.interfaces == ("lo",)
        assert not probe.input_writable
        assert "Read-only file system" in probe.input_write
        assert "Operation not permitted" in probe.input_remount


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


def test_a_time_limit_ends_the_children_too(box):
    started = time.monotonic()
    lines = []
    child = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; "
        "time.sleep(60)'])"
    )
    code = sandbox.run(box, [box.python, "-c", child], lines.append, timeout=2)
    assert code != 0
    assert time.monotonic() - started < 20  # it would wait for the child that holds the pipe open


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('192.0.2.1', 80), 5)",
        "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
        "socket.socket().connect_ex(('192.0.2.1', 80))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
        "socket.gethostbyname('example.com')",
        "socket.getaddrinfo('127.0.0.1.example.com', 80)",
        "__import__('_socket').socket().connect(('192.0.2.1', 80))",
        "__import__('urllib.request').request.urlopen('http://192.0.2.1/', timeout=5)",
        "__import__('asyncio').run(__import__('asyncio').open_connection('192.0.2.1', 80))",
    ],
)
def test_python_cannot_leave_the_machine_in_mode_none(blocked, attempt):
    done = subprocess.run(
        [blocked, "-c", f"import socket; {attempt}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "blocked by the dry run" in done.stderr


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    return (
        make_environment(tmp_path_factory.mktemp("blocked") / "environment", block_sockets=True)
        / "bin"
        / "python"
    )


def test_mode_none_reaches_a_server_of_this_machine(blocked):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        code = (
            f"import urllib.request as r; "
            f"print(r.urlopen('http://localhost:{server.server_port}/').status)"
        )
        done = subprocess.run([blocked, "-c", code], capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert done.stdout == "200\n", done.stderr


# -------------------------------------------------------------------------------------------------
# the verdict on it

OFFLINE = Probe(
    mode="bwrap",
    connection="failed (Network is unreachable)",
    connected=False,
    unreachable=True,
    lookup="failed",
    resolved=False,
    interfaces=("lo",),
    input_remount="failed",
    input_write="failed",
    input_writable=False,
    package=False,
)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({"connected": True, "unreachable": False}, "no proof"),
        ({"unreachable": False, "connection": "failed (timed out)"}, "no proof"),
        ({"resolved": True}, "no proof"),
        ({"interfaces": ("lo", "eth0")}, "no proof"),
        ({"input_writable": True}, "the input folder can be written"),
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
        sandbox.probe(box)


# -------------------------------------------------------------------------------------------------
# choosing a mode


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


# -------------------------------------------------------------------------------------------------
# environments


def test_an_environment_leaves_out_what_the_kernels_bring(monkeypatch, tmp_path):
    """A distribution is left out file by file; what shares its folders stays; a path to our sources
    is dropped."""
    packages = tmp_path / "site-packages"
    ours = tmp_path / "checkout" / "src"
    (ours / "humanpref").mkdir(parents=True)
    files = {
        "shared/vendored.py": "",
        "shared/other.py": "there = True",
        "vendored/__init__.py": "",
        "vendored-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vendored\nVersion: 1.0\n",
        "vendored-1.0.dist-info/RECORD": "shared/vendored.py,,\nvendored/__init__.py,,\n"
        "vendored-1.0.dist-info/METADATA,,\nvendored-1.0.dist-info/RECORD,,\n",
        "humanpref/__init__.py": "",
        "whole/__init__.py": "",
        "paths.pth": f"{ours}\nimport sys\n{tmp_path}\n",
    }
    for name, text in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    monkeypatch.setattr(sandbox, "_site_packages", lambda: [packages])
    monkeypatch.syspath_prepend(str(packages))
    environment = make_environment(tmp_path / "environment", without=["vendored"])
    target = next(environment.glob("lib/python*/site-packages"))
    assert {
        path.name for path in target.iterdir() if not path.name.startswith(("pip", "setuptools"))
    } == {"shared", "whole", "paths.pth"}
    assert (target / "whole").is_symlink()
    assert [path.name for path in (target / "shared").iterdir()] == ["other.py"]
    assert (target / "paths.pth").read_text().splitlines() == ["import sys", str(tmp_path)]


def test_an_environment_runs_the_same_python(tmp_path):
    environment = make_environment(tmp_path / "environment")
    code = "import sys; print(sys.version, sys.base_prefix)"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{sys.version} {sys.base_prefix}"
