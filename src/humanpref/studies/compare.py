"""Several configurations on the same rows and folds: one artifact each, one table, one figure."""

import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.config import Config, load_config
from humanpref.data import digest_of, read_pairs
from humanpref.files import read_json, write_json, write_whole
from humanpref.models import build_model, module_of
from humanpref.models.base import CONFIG_FILE
from humanpref.reports.charts import interval_figure
from humanpref.runs.artifact import Artifact
from humanpref.runs.train import train
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True)
class Contender:
    """One configuration to compare, by the name that the table gives it."""

    name: str
    preset: str
    overrides: tuple[str, ...] = ()

    def config(self) -> Config:
        return load_config(self.preset, None, self.overrides)


def contenders(
    presets: Sequence[str],
    backbones: Mapping[str, str],
    methods: Sequence[str | None],
    overrides: tuple[str, ...],
) -> list[Contender]:
    """Every preset with every method.

    Parameters
    ----------
    presets, methods
        Names of presets; values of `model.peft`, or None for the preset's own.
    backbones : mapping
        `model.backbone` by preset, for those that need another.
    overrides : tuple of str
        Settings of them all.

    Raises
    ------
    InputError
        If a backbone is for none of the presets.
    """
    if unused := backbones.keys() - set(presets):
        names = ", ".join(sorted(unused))
        raise InputError(f"--backbone: {names} is not among --presets {','.join(presets)}")
    made = []
    for preset in presets:
        own = [f"model.backbone={backbones[preset]}"] if preset in backbones else []
        for peft in methods:
            name = preset if peft is None else f"{preset}-{peft}"
            method = [] if peft is None else [f"model.peft={peft}"]
            made.append(Contender(name, preset, (*overrides, *own, *method)))
    return made


def compare(
    contenders: list[Contender], train_csv: Path, out: Path, folds: int | None
) -> pd.DataFrame:
    """Train every contender on the same rows and folds, and tabulate them.

    Each runs in a process of its own, so that memory is measured for it alone (but for the
    libraries, which all share) and given back; a script that calls this needs `if __name__ ==
    "__main__":`. What would end one and can be known beforehand is said before the first is
    trained. What is done already stays: started again, the comparison goes on.

    Parameters
    ----------
    contenders : list of Contender
        At least one; names differ.
    train_csv : Path
        Labelled rows.
    out : Path
        A folder for one artifact per contender, `table.csv`, `table.md` and `table.png`.
    folds : int, optional
        Grouped folds; without, one held-out fifth.

    Returns
    -------
    DataFrame
        One row per contender: `name`, `backbone`, `rows`, `log_loss` with `log_loss_low` and
        `log_loss_high`, `accuracy`, `parameters`, `trainable_parameters`, `tokens_per_second`
        (training, real tokens), `peak_memory_gib`, `seconds`.

    Raises
    ------
    InputError
        For rows, options or a folder that cannot be used, or a contender that fails.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise InputError(f"compare: a name stands twice in {', '.join(names)}")
    seeds = {contender.config().seed for contender in contenders}
    if len(seeds) > 1:
        raise InputError(
            f"compare: the contenders' seeds differ ({sorted(seeds)}), and so would their folds; "
            "set one for all"
        )
    for contender in contenders:
        if folds is None and contender.config().training.validation_fraction == 0:
            raise InputError(
                f"{contender.name}: option training.validation_fraction: expected more than 0 "
                "without --folds: nothing would be "
                "held out, so that there would be nothing to compare"
            )
    digest = digest_of(read_pairs(train_csv, labels=True))
    claim = {"data_sha256": digest, "folds": folds}
    _check_claim(out, claim)
    done = {
        contender.name: _record(contender, Artifact.load(out / contender.name), digest)
        for contender in contenders
        if (out / contender.name).is_dir()
    }
    waiting = [contender for contender in contenders if contender.name not in done]
    with fresh_processes(waiting) as fresh:
        for contender in waiting:
            result_of(contender, fresh, _check, contender.config())
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / COMPARISON_FILE, claim)
        for contender in waiting:
            folder = out / contender.name
            logger.info("%s: training", contender.name)
            arguments = contender.config(), train_csv, folder, folds
            if failed := result_of(contender, fresh, run_training, *arguments):
                raise InputError(f"{contender.name}: {failed}")
            done[contender.name] = _record(contender, Artifact.load(folder), digest)
    table = pd.DataFrame([done[name] for name in names])
    write_table(table, out / "table")
    prior = Artifact.load(out / names[0]).metrics["prior_log_loss"]
    title = f"{len(table)} models, {table['rows'][0]:,} held-out rows of {train_csv.name}"
    interval_figure(table, out / "table.png", title, prior)
    return table


def write_table(table: pd.DataFrame, stem: Path) -> None:
    """Write a table as `stem.csv` and, rounded, as `stem.md`."""
    with write_whole(stem.with_suffix(".csv")) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    with write_whole(stem.with_suffix(".md")) as file:
        file.write(markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; numbers below 100 with four digits behind the point, larger ones with
    thousands' commas."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return (
                "–"
                if pd.isna(value)
                else (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}")
            )
        return "–" if value is None else (f"{value:,}" if isinstance(value, int) else str(value))

    rows = [
        list(table.columns),
        ["---"] * len(table.columns),
        *([cell(v) for v in row] for row in table.itertuples(index=False)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _check_claim(out: Path, claim: dict[str, Any]) -> None:
    """Raise InputError for a folder that is neither new nor of the same comparison, unless nothing
    has been trained in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    path = out / COMPARISON_FILE
    found = read_json(path) if path.is_file() else None
    if not (isinstance(found, dict) and found.keys() == claim.keys()):
        raise InputError(f"{out}: exists and is not a comparison of humanpref; name another folder")
    if found != claim and {*out.iterdir()} != {path}:
        raise InputError(
            f"{out}: holds a comparison on other rows, the same in another order, or other folds; "
            "name another folder"
        )


def _check(config: Config) -> None:
    build_model(config).check()


def run_training(config: Config, train_csv: Path, folder: Path, folds: int | None) -> str:
    """Train in this process; an error of ours as text, since not every exception can be sent to
    another process."""
    try:
        train(config, train_csv, folder, folds)
    except InputError:
        raise
    except Exception as error:
        traceback.print_exc()
        return f"its training failed with {type(error).__name__} (the traceback is above)"
    return ""


def result_of(contender: Contender, fresh: Executor, call: Callable, *arguments: Any) -> Any:
    """What a call in a process of its own gives."""
    try:
        return fresh.submit(call, *arguments).result()
    except InputError as error:
        raise InputError(f"{contender.name}: {error}") from None
    except BrokenProcessPool:
        raise InputError(
            f"{contender.name}: its process ended at once: killed (for its memory?), or this is a "
            "script that does not call "
            'compare under `if __name__ == "__main__":`'
        ) from None


def fresh_processes(contenders: list[Contender]) -> ProcessPoolExecutor:
    """A process of its own for every call, forked from one that has imported what the models need
    and done nothing else.

    A child of this process would count as its own what this one has taken at its most; and
    importing torch and transformers takes longer than a small training.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        sorted({module_of(contender.config()) for contender in contenders})
    )
    # The server lives as long as this process, with the environment of its first day.
    return ProcessPoolExecutor(
        1,
        context,
        initializer=_take,
        initargs=(dict(os.environ), sys.argv, logging.getLogger().getEffectiveLevel()),
        max_tasks_per_child=1,
    )


def _take(environment: dict[str, str], command: list[str], level: int) -> None:
    """Give a fresh process the environment, the command (which artifacts note) and the log level of
    the one that asked for it."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)


def _record(contender: Contender, artifact: Artifact, digest: str) -> dict[str, Any]:
    trained = read_json(artifact.folder / artifact.facts["members"][0] / CONFIG_FILE)
    if contender.config().to_dict() != trained or artifact.facts["data_sha256"] != digest:
        raise InputError(
            f"{artifact.folder}: trained with other options or rows, or the same in another order; "
            "remove it to train it again"
        )
    metrics = artifact.metrics
    if "log_loss" not in metrics:
        raise InputError(f"{artifact.folder}: nothing was held out, so there is nothing to compare")
    trainings = [
        member["training"] for member in metrics["members"].values() if "training" in member
    ]
    seconds = sum(training["seconds"] for training in trainings)
    backbone = artifact.facts["backbone"]
    return {
        "name": contender.name,
        "backbone": backbone["name"] if backbone else artifact.facts["family"],
        "rows": metrics["rows"],
        **{
            name: metrics[name]
            for name in ("log_loss", "log_loss_low", "log_loss_high", "accuracy")
        },
        "parameters": backbone["parameters"] if backbone else None,
        "trainable_parameters": trainings[0].get("trainable_parameters") if trainings else None,
        "tokens_per_second": sum(t["tokens"] for t in trainings) / seconds
        if seconds
        else float("nan"),
        "peak_memory_gib": max((t["peak_memory_bytes"] for t in trainings), default=float("nan"))
        / 2**30,
        "seconds": metrics["seconds"],
    }
