"""Do the tests notice a change? Mutates source files and runs the namesake tests of each.

    python benchmarks/mutants.py [--mutants 60] [--seed 8] [--jobs 2] [FILE ...]

A mutant changes one place: a comparison is turned around, a numeric constant is raised or lowered
by 1, a condition is negated, or a statement is dropped. `tests/a/test_b.py` alone judges
`src/humanpref/a/b.py`: a mutant is killed if that test fails or runs five times as long as without
it. Survivors are listed with their line and change.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    "runs/engine.py",
    "runs/schedule.py",
    "training/loop.py",
    "training/losses.py",
    "data/folds.py",
    "kaggle/service/client.py",
]
COMPARISONS = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


class Mutant(NamedTuple):
    """One changed file: its path under `src/humanpref`, the line, the change, the new source."""

    file: str
    line: int
    change: str
    source: str


def changes(node: ast.AST, draw: random.Random) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """Each change that this node allows: its description, and a function that makes it."""
    if isinstance(node, ast.Compare):
        old = type(node.ops[0])
        new = COMPARISONS[old]
        yield f"{old.__name__} -> {new.__name__}", lambda n: n.ops.__setitem__(0, new())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        step = draw.choice((-1, 1))
        yield (
            f"{node.value} -> {node.value + step}",
            lambda n: setattr(n, "value", n.value + step),
        )
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield ("negated condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)))
    for name in ("body", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        for place, statement in enumerate(statements if isinstance(statements, list) else []):
            if droppable(statement):
                yield (
                    f"dropped: {ast.unparse(statement).splitlines()[0][:70]}",
                    lambda n, name=name, place=place: getattr(n, name).__setitem__(
                        place, ast.Pass()
                    ),
                )


def droppable(statement: ast.stmt) -> bool:
    """A statement that does something: no docstring, definition or import."""
    kept = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass, ast.AnnAssign)
    text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return not isinstance(statement, kept) and not text


def mutants_of(file: str, draw: random.Random) -> list[Mutant]:
    """All mutants of a file, in the order of its syntax tree."""
    tree = ast.parse((ROOT / "src/humanpref" / file).read_text(encoding="utf-8"))
    found = []
    for number, node in enumerate(ast.walk(tree)):
        for description, change in changes(node, draw):
            changed = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(changed)) if i == number)
            change(target)
            source = ast.unparse(ast.fix_missing_locations(changed))
            found.append(Mutant(file, getattr(node, "lineno", 1), description, source))
    return found


def namesake(file: str) -> str:
    """The test of a source file."""
    path = Path(file)
    return str(Path("tests") / path.parent / f"test_{path.name}")


def seconds_to_fail(copied: Path, file: str, limit: float | None) -> float | None:
    """Run the namesake test in a copy of the project; the seconds it took, None where it failed or
    exceeded the limit."""
    environment = os.environ | {"PYTHONPATH": str(copied / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", namesake(file)]
    started = time.monotonic()
    try:
        run = subprocess.run(
            command, cwd=copied, env=environment, capture_output=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return None
    return time.monotonic() - started if run.returncode == 0 else None


def judge(copied: Path, mutant: Mutant, limit: float) -> bool:
    """Whether the namesake test kills the mutant."""
    path = copied / "src/humanpref" / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        return seconds_to_fail(copied, mutant.file, limit) is None
    finally:
        path.write_text(before, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=FILES, help="under src/humanpref")
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    everything = [mutant for file in options.files for mutant in mutants_of(file, draw)]
    drawn = draw.sample(everything, min(options.mutants, len(everything)))
    print(f"{len(drawn)} of {len(everything)} mutants of {len(options.files)} files")
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(scratch) / str(number) for number in range(options.jobs)]
        for copied in copies:
            ignore = shutil.ignore_patterns(".*", "__pycache__", "dry-run")
            shutil.copytree(ROOT, copied, ignore=ignore)
        limits = {}
        for file in options.files:
            seconds = seconds_to_fail(copies[0], file, None)
            if seconds is None:
                sys.exit(f"{namesake(file)} fails without any change")
            limits[file] = 30 + 5 * seconds
        free = list(copies)

        def run(mutant: Mutant) -> bool:
            copied = free.pop()
            try:
                return judge(copied, mutant, limits[mutant.file])
            finally:
                free.append(copied)

        with ThreadPoolExecutor(options.jobs) as pool:
            killed = list(pool.map(run, drawn))
    for file in options.files:
        own = [ok for ok, mutant in zip(killed, drawn, strict=True) if mutant.file == file]
        print(f"{file}: {sum(own)} of {len(own)} killed")
    for ok, mutant in zip(killed, drawn, strict=True):
        if not ok:
            print(f"survived: {mutant.file}:{mutant.line}: {mutant.change}")
    print(f"{sum(killed)} of {len(drawn)} killed ({sum(killed) / len(drawn):.0%})")


if __name__ == "__main__":
    main()
