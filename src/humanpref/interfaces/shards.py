"""Judge a folder of shards: one output shard for each input shard, in one process or on a cluster.

::

    OUT/
      part-0.parquet …   the rows and columns of each input shard, and the four added columns
      _run.json          digest of the model, version of humanpref, format
      _done/part-0.json  for each finished shard: digests of its input and output, number of rows
      _unfinished/       shards that are being written

Most readers of shards, including ours, ignore names that start with an underscore.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from humanpref.files import check_new, folder_sha256, locked, read_json, write_json
from humanpref.interfaces.linear import PACKAGED
from humanpref.interfaces.ray_engine import outcomes_of
from humanpref.interfaces.shard import DONE, OUTPUTS, UNFINISHED, Outcome, ShardJudge, stem_of
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError
from humanpref.version import __version__

ENGINES = LOCAL, RAY = "local", "ray"
RUN_FILE = "_run.json"
NAME_BYTES = 255
"""Maximum length of a file's name, in bytes."""

logger = logging.getLogger(__name__)


class Total(NamedTuple):
    """The number of shards and rows of a run, and how many shards were already finished."""

    shards: int
    rows: int
    skipped: int


def judge_shards(
    source: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    engine: str = LOCAL,
    workers: int | None = None,
    format: str | None = None,
) -> Total:
    """Add `p_a`, `p_b`, `p_tie` and `margin` to the rows of all shards in a folder.

    Each output shard has the rows of its input shard, in the same order, and is written atomically.
    If the run is interrupted, the same call skips the finished shards: those whose input and output
    have the digests that were recorded. A shard that cannot be judged does not keep the others from
    being judged.

    Parameters
    ----------
    source : path
        A folder of shards, in any form that `humanpref.data.read_pairs` reads. Files whose names
        start with `.` or `_` are ignored. Parquet shards are written as Parquet, all others as JSON
        lines. A process holds one shard in memory at a time.
    out : path
        A new folder, or that of an interrupted run with the same model.
    model : path, optional
        An artifact's folder; by default, the packaged judge.
    engine : str
        `local` judges one shard at a time in this process; `ray`, several on a Ray cluster, whose
        machines must all be able to read and write the paths.
    workers : int, optional
        Number of processes of the Ray engine, each with its own copy of the model. By default, one
        for each GPU if the model can use one and the cluster has any, otherwise one for each CPU.
    format : str, optional
        The format of all shards, one of `humanpref.schema.FORMATS`. By default, that of each shard
        is detected.

    Returns
    -------
    Total
        The number of shards and rows, and how many shards were already finished.

    Raises
    ------
    InputError
        If a folder cannot be used, or if `out` belongs to a different run or has shards that
        `source` does not have. If a shard cannot be judged, this is raised after all others are
        finished.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "in").mkdir()
    >>> row = {"prompt": "Why?", "response_a": "Because.", "response_b": "Because."}
    >>> _ = (folder / "in" / "part-0.jsonl").write_text(json.dumps(row))
    >>> judge_shards(folder / "in", folder / "out")
    Total(shards=1, rows=1, skipped=0)
    >>> json.loads((folder / "out" / "part-0.jsonl").read_text())["margin"]
    0.0
    """
    source, out = Path(source), Path(out)
    if engine not in ENGINES:
        raise InputError(f"option --engine: expected {' or '.join(ENGINES)}, got {engine!r}")
    if workers is not None and (engine != RAY or workers < 1):
        expected = "at least 1" if engine == RAY else "none without --engine ray"
        raise InputError(f"option --workers: expected {expected}, got {workers}")
    shards = _shards(source)
    with _opened(out, source, model, shards, format) as finished:
        if engine == RAY:
            outcomes = outcomes_of(model, out, shards, workers, format)
        else:
            outcomes = map(ShardJudge(model, out, format).judge, shards)
        return _told(outcomes, finished, out, len(shards))


def _told(outcomes: Iterable[Outcome], finished: set[str], out: Path, shards: int) -> Total:
    """Log the progress of a run and return its total. `finished` has the stems of the shards that
    were finished before the run. Raises InputError if a shard failed."""
    started, rows, skipped, errors = time.monotonic(), 0, 0, []
    for number, outcome in zip(range(1, shards + 1), outcomes, strict=True):
        rows += outcome.rows
        # A cluster retries a shard if its worker died, even right after finishing the shard. Such a
        # shard was judged in this run, so it does not count as skipped.
        skipped += outcome.skipped and stem_of(Path(outcome.shard)) in finished
        if outcome.error:
            errors.append(outcome.error)
            logger.warning("%s", outcome.error)
        judged = number - skipped
        left = (time.monotonic() - started) / judged * (shards - number) if judged else 0
        progress = f"{number} of {shards} shards, {rows} rows"
        logger.info("%s: %s%s", out, progress, f", {left:.0f} s left" if left else "")
    if errors:
        raise InputError(
            f"{errors[0]} ({len(errors)} of {shards} shards could not be judged; the others are "
            f"finished in {out})"
        )
    return Total(shards, rows, skipped)


def _shards(source: Path) -> list[Path]:
    """Return the shards of a folder, sorted by name."""
    if not source.is_dir():
        raise InputError(f"{source}: expected a folder of shards")
    paths = sorted(path for path in source.iterdir() if path.name[0] not in "._")
    stems: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: expected a file; each folder of shards is judged separately")
        stem = stem_of(path)
        if (other := stems.setdefault(stem, path)) != path:
            raise InputError(f"{path}: its output would have the same name as that of {other.name}")
        if len(os.fsencode(stem + OUTPUTS[0])) > NAME_BYTES:
            raise InputError(f"{path}: its output's name would have over {NAME_BYTES} bytes")
    if not paths:
        raise InputError(f"{source}: cannot be read (a folder without files)")
    return paths


@contextlib.contextmanager
def _opened(
    out: Path, source: Path, model: str | Path | None, shards: list[Path], format: str | None
) -> Iterator[set[str]]:
    """Create the output folder, or check that it belongs to the same run, and lock it. Yields the
    stems of the finished shards."""
    run = {"humanpref": __version__, "model_sha256": _model_digest(model), "format": format}
    for folder in filter(None, (source, model)):
        if out.resolve().is_relative_to(Path(folder).resolve()):
            raise InputError(f"{out}: is inside {folder}, an input; name a path outside it")
    if not (out / RUN_FILE).is_file() and not (out.is_dir() and {*os.listdir(out)} <= {DONE}):
        check_new(out)
    (out / DONE).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(out / DONE))
        except BlockingIOError:
            raise InputError(f"{out}: is being written by another process") from None
        if finished := {path.stem for path in (out / DONE).glob("*.json")}:
            _check_same_run(out, run)
            if gone := finished - set(map(stem_of, shards)):
                raise InputError(
                    f"{out}: has shard {min(gone)!r}, which {source} does not have; name a new "
                    "folder"
                )
        outputs = {stem_of(path) + suffix for path in shards for suffix in OUTPUTS}
        if foreign := {name for name in os.listdir(out) if name[0] not in "._"} - outputs:
            raise InputError(
                f"{out}: has {min(foreign)!r}, which is not the output of a shard in {source}; "
                "readers of the folder would mistake it for one, so remove it"
            )
        write_json(out / RUN_FILE, run)
        # Only a killed run leaves anything here.
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        (out / UNFINISHED).mkdir()
        held.callback(shutil.rmtree, out / UNFINISHED, ignore_errors=True)
        yield finished
        if _model_digest(model) != run["model_sha256"]:
            raise InputError(
                f"{model}: was changed during the run, so the shards in {out} may be from two "
                "different models; name a new folder"
            )


def _check_same_run(out: Path, run: dict[str, str | None]) -> None:
    """Raise InputError if an output folder was written with a different model, version of humanpref
    or format."""
    found = read_json(out / RUN_FILE)
    reasons = {
        "model_sha256": "with a different model",
        "humanpref": "by a different version of humanpref",
        "format": "with a different --format",
    }
    for key, reason in reasons.items():
        if found.get(key) != run[key]:
            raise InputError(f"{out}: was judged {reason}; name a new folder")


def _model_digest(model: str | Path | None) -> str:
    return folder_sha256(Artifact.load(model).folder if model else PACKAGED)
