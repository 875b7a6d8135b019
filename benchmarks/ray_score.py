"""Judge 100,000 pairs in 50 shards with the packaged judge: in one process; on a local Ray cluster
of two workers; there with a worker killed; and with the whole run killed and started again. The
outputs of all four must have the same bytes.

It needs Ray, which the project's own environment does not have:

    python3.11 -m venv ray
    ray/bin/pip install -c constraints.txt -e '.[ray]'
    ray/bin/python benchmarks/ray_score.py [--rows 100000] [--shards 50] [--workers 2]

The rows are of the synthetic arena, the shards in turn Parquet and JSON lines.

seconds   of the whole command, with the start of Python and of the cluster.
rows/s    of the shards that were finished after the first one, by the times of their records: how
          fast a longer run is.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from humanpref.arena import write_arena
from humanpref.data import read_pairs
from humanpref.data.writing import write_pairs
from humanpref.files import sha256
from humanpref.interfaces.shard import DONE, UNFINISHED

ACTOR = b"ShardJudge"
"""What Ray calls its actors, in their command lines."""


def write_shards(folder: Path, rows: int, shards: int) -> None:
    """Write an arena as shards of equal size."""
    with tempfile.TemporaryDirectory() as parent:
        write_arena(Path(parent) / "arena", rows, seed=0)
        pairs = read_pairs(Path(parent) / "arena" / "train.csv", labels=False)
    folder.mkdir()
    for number in range(shards):
        part = pairs[number * rows // shards : (number + 1) * rows // shards]
        if number % 2:
            write_pairs(folder / f"part-{number:05d}.jsonl", part)
        else:
            part.to_parquet(folder / f"part-{number:05d}.parquet", index=False)


def start(source: Path, out: Path, *options: str) -> subprocess.Popen:
    """Start `humanpref score` as a process of its own."""
    command = [sys.executable, "-m", "humanpref.cli", "--quiet", "score"]
    paths = ["--in", str(source), "--out", str(out)]
    return subprocess.Popen([*command, *paths, *options], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    """Wait for a run and return its last line, which is its own; Ray also prints."""
    line = process.communicate()[0].splitlines()[-1]
    if process.returncode:
        raise SystemExit(f"humanpref score ended with {process.returncode}")
    return line


def wait_for(out: Path, shards: int, process: subprocess.Popen) -> None:
    """Wait until some shards are finished."""
    while len(list((out / DONE).glob("*.json"))) < shards:
        if process.poll() is not None:
            raise SystemExit("humanpref score ended too early to be killed")
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, their children and so on."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of a process, in parentheses, may have spaces.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended in the meantime
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


def actors(pid: int) -> list[int]:
    """Return the ids of the actors of a run."""
    paths = [Path(f"/proc/{child}/cmdline") for child in descendants(pid)]
    return [int(path.parent.name) for path in paths if path.exists() and ACTOR in path.read_bytes()]


def digests(out: Path) -> dict[str, str]:
    """Return the digest of every output shard."""
    return {path.name: sha256(path) for path in sorted(out.glob("part-*"))}


def rate(out: Path, rows_of_shard: float) -> float:
    """Return the rows per second of all shards but the first."""
    times = sorted(path.stat().st_mtime for path in (out / DONE).glob("*.json"))
    return (len(times) - 1) * rows_of_shard / (times[-1] - times[0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="of the two runs that are timed")
    options = parser.parse_args(arguments)
    ray = ("--engine", "ray", "--workers", str(options.workers))
    third = options.shards // 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in"
        write_shards(source, options.rows, options.shards)
        expected: dict[str, str] = {}

        def told(kind: str, out: Path, note: str) -> None:
            own = digests(out)
            same = own == (expected or own)
            expected.update(own)
            kept = "the same bytes" if same else "OTHER BYTES"
            print(f"{kind:16} {note}; {len(own)} shards, {kept}", flush=True)

        for repeat in range(options.repeats):
            for kind, more in (("one process", ()), (f"{options.workers} workers", ray)):
                out, started = folder / f"{kind[0]}{repeat}", time.perf_counter()
                finish(start(source, out, *more))
                seconds = time.perf_counter() - started
                speed = rate(out, options.rows / options.shards)
                load = os.getloadavg()[0]
                told(kind, out, f"{seconds:.1f} s, {speed:.0f} rows/s, load {load:.1f}")

        out = folder / "worker"
        process = start(source, out, *ray)
        wait_for(out, third, process)
        victim = actors(process.pid)[0]
        begun = len(list((out / UNFINISHED).glob("*.tries")))
        os.kill(victim, signal.SIGKILL)
        finish(process)
        told("a worker killed", out, f"after {third} shards, {begun} in progress")

        out = folder / "run"
        process = start(source, out, *ray)
        wait_for(out, third, process)
        family = [process.pid, *descendants(process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
        while any(Path(f"/proc/{pid}").exists() for pid in family):
            time.sleep(0.2)
        done, left = len(list(out.glob("part-*"))), len(list((out / UNFINISHED).glob("*.tries")))
        line = finish(start(source, out, *ray)).partition(": ")[2]
        told("the run killed", out, f"after {done} shards, {left} in progress; then {line}")


if __name__ == "__main__":
    main()
