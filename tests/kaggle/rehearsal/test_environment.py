"""The environments that kernels run in."""

import http.server
import subprocess
import sys
import threading

import pytest

from humanpref.kaggle.rehearsal import environment as environments
from humanpref.kaggle.rehearsal.environment import make_environment


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


def test_an_environment_leaves_out_what_the_kernels_bring(monkeypatch, tmp_path):
    packages = tmp_path / "site-packages"
    files = {
        "vendored_too.py": "",
        "vendored/__init__.py": "",
        "vendored-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vendored\nVersion: 1.0\n",
        "vendored-1.0.dist-info/RECORD": "vendored_too.py,,\nvendored/__init__.py,,\n"
        "vendored-1.0.dist-info/METADATA,,\nvendored-1.0.dist-info/RECORD,,\n",
        "whole/__init__.py": "",
    }
    for name, text in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    monkeypatch.setattr(environments, "site_packages", lambda: [packages])
    monkeypatch.syspath_prepend(str(packages))
    environment = make_environment(tmp_path / "environment", without=["vendored"])
    target = next(environment.glob("lib/python*/site-packages"))
    assert {
        path.name for path in target.iterdir() if not path.name.startswith(("pip", "setuptools"))
    } == {"whole"}
    assert (target / "whole").is_symlink()


def test_an_environment_runs_the_same_python(tmp_path):
    environment = make_environment(tmp_path / "environment")
    code = "import sys; print(sys.version, sys.base_prefix)"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{sys.version} {sys.base_prefix}"


def test_an_empty_distribution_takes_the_place_of_another(tmp_path):
    environment = make_environment(tmp_path / "environment", without=["torchao"])
    environments.add_distribution(environment, "torchao", "0.10.0")
    code = (
        "import importlib.metadata as m, torchao; print(m.version('torchao'), torchao.__version__, "
        "torchao.__file__)"
    )
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.split()[:2] == ["0.10.0", "0.10.0"]
    assert str(environment) in done.stdout
