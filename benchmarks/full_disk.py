"""Run commands on a full file system, kill each with SIGTERM in the middle, and list what they say
and leave behind.

    python benchmarks/full_disk.py [--kilobytes 24]

Needs root, to mount a tmpfs of that size for each command. A command passes if it ends with exit
code 2 (143 after SIGTERM) and one line on standard error, keeps the file that was there before, and
leaves nothing new except a run that `humanpref train` can resume. The exit status is 1 if one does
not. For SIGTERM, a command is stopped as soon as something appears in its folder.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = (sys.executable, "-m", "humanpref.cli", "--quiet")
FILL = "kept"
CODES = {"full": 2, "SIGTERM": 128 + signal.SIGTERM}


def commands(given: Path, out: Path) -> dict[str, list[str]]:
    """Return each command's arguments; what it writes is in `out`, what it reads in `given`."""
    rows = str(given / "train.csv")
    sparse, prior = str(given / "sparse"), str(given / "prior")
    train = ["train", "--train", rows, "--out", str(out / "artifact")]
    quick = ["--set", "model.term_penalties=10", "model.structure_penalties=100"]
    return {
        "sample": ["sample", "--out", str(out / "arena"), "--rows", "4000"],
        "convert": ["convert", rows, str(out / "rows.csv")],
        "eda": ["eda", rows, "--out", str(out / "page")],
        "train sparse": [*train, "--preset", "sparse", *quick],
        "train tiny": [*train, "--preset", "tiny", "--set", "model.max_length=64"],
        "train cpu-best": [*train, "--preset", "cpu-best", "--set", "model.members=['sparse']"],
        "predict": ["predict", sparse, "--test", rows, "--out", str(out / "submission.csv")],
        "score": ["score", sparse, "--in", str(given / "lines"), "--out", str(out / "lines")],
        "blend": ["blend", sparse, prior, "--out", str(out / "blend")],
        "evaluate": ["evaluate", sparse, "--data", rows, "--html", str(out / "page")],
        "compare": [
            *("compare", "--presets", "sparse,prior", "--train", rows),
            *("--out", str(out / "study")),
        ],
        "kaggle bundle": ["kaggle", "bundle", "--artifact", sparse, "--out", str(out / "bundle")],
        "kaggle dry-run": [
            *("kaggle", "dry-run", "--artifact", sparse, "--test", rows),
            *("--out", str(out / "dry-run")),
        ],
    }


def prepare(given: Path) -> None:
    """Write the rows and the artifacts that the commands read."""
    for arguments in (
        ["sample", "--out", str(given / "arena"), "--rows", "600"],
        *(
            [
                *("train", "--preset", preset, "--train", str(given / "arena" / "train.csv")),
                *("--out", str(given / preset), "--folds", "2"),
            ]
            for preset in ("prior", "sparse")
        ),
    ):
        subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(given / "arena" / "train.csv", given)
    line = '{"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}\n'
    (given / "lines").write_text(line * 3_000)


def left_in(*folders: Path) -> list[str]:
    """List what a command left, other than what a later one uses."""
    found = [path.name for folder in folders for path in sorted(folder.iterdir())]
    # torch's own cache is in the folder for temporary files.
    return [name for name in found if name != FILL and not name.startswith("torchinductor")]


def tried(arguments: list[str], out: Path, temporary: Path, kind: str) -> tuple[int, str]:
    """Run one command; return its exit code and standard error."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    while kind == "SIGTERM" and process.poll() is None:
        if left_in(out, temporary):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.002)
    _, told = process.communicate()
    return process.returncode, told


def main(arguments: list[str] | None = None) -> int:
    """Try every command in both ways, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kilobytes", type=int, default=24)
    parser.add_argument("--only", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    failed = 0
    print(
        "| command | ended by | exit code | standard error | left behind |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        given, out, temporary = (Path(folder, name) for name in ("given", "out", "temporary"))
        for made in (given, out, temporary):
            made.mkdir()
        prepare(given)
        for kind, expected in CODES.items():
            for name, own in commands(given, out).items():
                if options.only and name not in options.only:
                    continue
                size = f"size={options.kilobytes}k" if kind == "full" else "size=1g"
                subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", out], check=True)
                try:
                    (out / FILL).write_text("as it was")
                    code, told = tried(own, out, temporary, kind)
                    kept = (out / FILL).read_text() == "as it was"
                    left = left_in(out, temporary)
                finally:
                    subprocess.run(["umount", out], check=True)
                for path in temporary.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                resumable = [name for name in left if name == "artifact.partial"]
                lines = [line for line in told.splitlines() if line.startswith("humanpref: ")]
                told_once = len(lines) == 1 and "Traceback" not in told
                good = code == expected and told_once and kept and left == resumable
                failed += not good
                told = lines[0] if told_once else told.strip().replace("\n", " ⏎ ")[-400:]
                told = told.replace(str(out), "OUT").replace(folder, "TMP")
                print(
                    f"| {name} | {kind} | {code}{'' if good else ' ✗'} | {told} "
                    f"| {', '.join(left) or '–'} |",
                    flush=True,
                )
    print(f"\n{failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
