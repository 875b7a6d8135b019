"""Shards on a local Ray cluster, in processes of their own: Ray connects to the machine's address,
which the tests' process must not."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from humanpref.interfaces.shards import judge_shards
from humanpref.schema import InputError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs ray")


@pytest.fixture
def source(tmp_path):
    """Forty shards of 150 rows."""
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(40):
        rows = [
            {"prompt": f"Why {shard}?", "response_a": "So. " * n, "response_b": f"- one\n- {n}"}
            for n in range(150)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"part-{shard}.jsonl").write_text(text)
    return folder


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def started(source, out, **environment):
    command = [sys.executable, "-m", "humanpref.cli", "score", "--in", source, "--out", out]
    return subprocess.Popen(
        [*command, "--engine", "ray", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for(out, shards, process):
    while len(list(out.glob("part-*"))) < shards:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def family(pid):
    """The processes that a process started, directly or not."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


def is_actor(pid):
    return b"ShardJudge" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_command_says_how_to_install_it(source, tmp_path):
    with pytest.raises(InputError, match=r"Ray is not installed; run pip install .*\[ray\]"):
        judge_shards(source, tmp_path / "out", engine="ray")


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_and_a_killed_run_change_nothing(source, tmp_path):
    judge_shards(source, tmp_path / "expected")
    expected = contents(tmp_path / "expected")

    out = tmp_path / "worker"
    process = started(source, out)
    wait_for(out, 5, process)
    os.kill(next(pid for pid in family(process.pid) if is_actor(pid)), signal.SIGKILL)
    printed, told = process.communicate()
    assert process.returncode == 0, told
    # Ray also prints there that a worker died.
    assert printed.splitlines()[-1] == f"{out}: 40 shards, 6000 rows"
    assert contents(out) == expected
    assert f"{out}: 40 of 40 shards, 6000 rows" in told

    out = tmp_path / "run"
    process = started(source, out)
    wait_for(out, 5, process)
    children = family(process.pid)
    for pid in [process.pid, *children]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "Ray outlived the run"
        time.sleep(0.1)
    finished = len(list(out.glob("part-*")))
    assert 5 <= finished < 40
    printed, told = started(source, out).communicate()
    assert printed == f"{out}: 40 shards ({finished} already finished), 6000 rows\n", told
    assert contents(out) == expected


@needs_ray
@pytest.mark.slow
def test_a_bad_shard_does_not_stop_the_others(source, tmp_path):
    (source / "part-3.jsonl").write_text("{")
    process = started(source, tmp_path / "out")
    _, told = process.communicate()
    assert process.returncode == 2, told
    assert "part-3.jsonl: not valid JSON" in told
    assert "(1 of 40 shards could not be judged" in told.splitlines()[-1]
    assert len(list((tmp_path / "out").glob("part-*"))) == 39
