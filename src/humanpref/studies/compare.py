"""Train several variants on the same rows and folds. Write an artifact per training, and one table
and one figure for all."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.config import Config, load_config
from humanpref.config.loading import member_words
from humanpref.config.neural import SCRATCH
from humanpref.data import digest_of, labels_of, prompt_keys, read_pairs, with_tie_column
from humanpref.evaluation.metrics import accuracy, mean_and_interval
from humanpref.files import folder_sha256, read_json, write_csv, write_json, write_whole
from humanpref.logloss import row_log_losses
from humanpref.models import build_model, load_model, module_of
from humanpref.models.base import CONFIG_FILE
from humanpref.models.bases import public_config
from humanpref.reports.charts import interval_figure
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import FOLD
from humanpref.runs.train import train
from humanpref.schema import ID, LABEL_COLUMNS, InputError, counted
from humanpref.studies.listing import training_summary

logger = logging.getLogger(__name__)

COMPARISON_FILE = "comparison.json"
BASES = "bases"
"""The key of `COMPARISON_FILE` with the digests of the pretrained weights of each training."""


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: a preset, the options changed for training, and the options changed
    only for prediction.

    Attributes
    ----------
    name : str
        The name shown in the table.
    preset : str
        The preset to train.
    overrides : tuple of str
        Options changed for training, in the form that `--set` accepts.
    inference : tuple of str
        Options changed in the trained model before it predicts (neural families).
    training : str
        The folder of the artifact; by default, `name`. Variants that differ only at inference share
        a folder.

    Examples
    --------
    >>> Variant("short", "tiny", ("training.epochs=1",)).config().training.epochs
    1
    """

    name: str
    preset: str
    overrides: tuple[str, ...] = ()
    inference: tuple[str, ...] = ()
    training: str = ""

    @property
    def folder(self) -> str:
        return self.training or self.name

    def config(self) -> Config:
        return load_config(self.preset, None, self.overrides)

    def held_out_probabilities(self, artifact: Artifact, pairs: pd.DataFrame) -> np.ndarray:
        """Return the probabilities, (n, 3), of n rows that the artifact held out.

        Without `inference` options, these are the probabilities in the artifact's `oof.csv`. With
        them, each row is predicted again, by the model that was not trained on the row's fold.
        """
        oof = artifact.oof.set_index(ID).loc[pairs[ID]]
        if not self.inference:
            return oof[list(LABEL_COLUMNS)].to_numpy()
        changed = load_config(self.preset, None, (*self.overrides, *self.inference))
        probabilities = np.empty((len(pairs), 3))
        for fold, member in enumerate(artifact.members):
            rows = (oof[FOLD] == fold).to_numpy()
            model = load_model(member)
            model.set_params(inference=changed.inference)
            probabilities[rows] = model.predict_proba(pairs[rows])
        return probabilities


def variants_of(
    presets: Sequence[str],
    backbones: Mapping[str, str],
    methods: Sequence[str | None],
    overrides: tuple[str, ...],
) -> list[Variant]:
    """Return one variant per combination of a preset and a method.

    Parameters
    ----------
    presets, methods
        Names of presets, and values of `model.peft` (None keeps the preset's own value).
    backbones : mapping
        The value of `model.backbone` by preset, for the presets in which it is changed.
    overrides : tuple of str
        Options that apply to every variant.

    Raises
    ------
    InputError
        If a backbone belongs to none of the presets.
    """
    if unused := backbones.keys() - set(presets):
        names = ", ".join(sorted(unused))
        raise InputError(f"--backbone: expected one of --presets {','.join(presets)}, got {names}")
    variants = []
    for preset in presets:
        backbone = [f"model.backbone={backbones[preset]}"] if preset in backbones else []
        for method in methods:
            name = preset if method is None else f"{preset}-{method}"
            peft = [] if method is None else [f"model.peft={method}"]
            variants.append(Variant(name, preset, (*overrides, *backbone, *peft)))
    return variants


def compare(
    variants: Sequence[Variant],
    train_csv: Path,
    out: Path,
    folds: int | None,
    format: str | None = None,
) -> pd.DataFrame:
    """Train every variant on the same rows and folds, and tabulate the results.

    Each training runs in a separate process, so that its memory is measured separately and then
    freed. Therefore, a script that calls this function needs `if __name__ == "__main__":`. All
    checks that need no training are made before the first training. An interrupted comparison can
    be started again; it keeps finished trainings.

    Parameters
    ----------
    variants : sequence of Variant
        At least one; their names must differ.
    train_csv : Path
        Labeled rows.
    out : Path
        A folder for one artifact per training, `table.csv`, `table.md` and `table.png`.
    folds : int, optional
        Number of grouped folds; by default, `training.validation_fraction` of the rows is held out.
    format : str, optional
        The format of the rows. By default, it is detected.

    Returns
    -------
    DataFrame
        One row per variant: `name`, `backbone`, `rows`, `log_loss` with `log_loss_low` and
        `log_loss_high`, `accuracy`, `difference` (log loss minus that of the first variant, paired)
        with `difference_low` and `difference_high`, `prior_log_loss`, `parameters`,
        `trainable_parameters`, `tokens_per_second` (training, without padding), `peak_memory_gib`,
        `seconds`.

    Raises
    ------
    InputError
        If the rows, the options or the folder cannot be used, or a training fails.
    """
    _check_variants(variants, folds)
    pairs = read_pairs(train_csv, labels=True, format=format)
    claim = {"data_sha256": digest_of(pairs), "folds": folds}
    bases = _check_claim(out, claim)
    missing: dict[str, Config] = {}
    for variant in variants:
        own = bases_of(variant.config())
        if (out / variant.folder).is_dir():
            same_bases = bases.get(variant.folder, []) == own
            _check_trained(_trained(variant, out), pairs, folds, same_bases)
        else:
            missing.setdefault(variant.folder, variant.config())
        bases[variant.folder] = own
    for folder, config in missing.items():
        with _named(folder):
            build_model(config).check()
    out.mkdir(parents=True, exist_ok=True)
    try:
        write_json(out / COMPARISON_FILE, claim | {BASES: bases})
        with fresh_processes([*missing.values()]) as fresh, _ended_with_this_process():
            for folder, config in missing.items():
                logger.info("%s: training", folder)
                with _named(folder):
                    arguments = config, train_csv, out / folder, folds, format
                    fresh.submit(run_training, *arguments).result()
    finally:
        # A comparison that failed before it trained anything leaves nothing behind.
        if {path.name for path in out.iterdir()} <= {COMPARISON_FILE}:
            shutil.rmtree(out)
    artifacts = [_trained(variant, out) for variant in variants]
    # Training drops rows of weight 0, so look up in oof.csv which rows were held out.
    pairs = pairs[pairs[ID].isin(artifacts[0].oof[ID])].reset_index(drop=True)
    table = _tabulate(variants, artifacts, pairs)
    title = f"{counted(len(table), 'model')}, {len(pairs):,} held-out rows of {train_csv.name}"
    write_study(table, out / "table", title, table["prior_log_loss"][0])
    return table


def write_study(table: pd.DataFrame, stem: Path, title: str, prior: float) -> None:
    """Write a table of log losses as `stem.csv`, `stem.md` and, with the prior's log loss as a
    reference line, `stem.png`."""
    write_table(table, stem)
    interval_figure(table, stem.with_suffix(".png"), title, prior)


def write_table(table: pd.DataFrame, stem: Path) -> None:
    """Write a table as `stem.csv` and, with rounded numbers, as `stem.md`."""
    write_csv(stem.with_suffix(".csv"), table)
    with write_whole(stem.with_suffix(".md")) as file:
        file.write(markdown(table))


def _check_variants(variants: Sequence[Variant], folds: int | None) -> None:
    seeds = {variant.config().seed for variant in variants}
    if len(seeds) > 1:
        raise InputError(
            "compare: option seed: expected the same seed for all, so that folds are equal, got "
            f"{sorted(seeds)}"
        )
    for variant in variants:
        if folds is None and variant.config().training.validation_fraction == 0:
            raise InputError(
                f"{variant.folder}: option training.validation_fraction: expected more than 0 "
                "without --folds; otherwise no rows are held out for the comparison"
            )


def bases_of(config: Config) -> list[str]:
    """Return the digests of a run's pretrained weights, if those are in local folders."""
    backbone = getattr(config.model, "backbone", "")
    is_folder = backbone not in ("", SCRATCH) and Path(backbone).is_dir()
    digests = [folder_sha256(Path(backbone))] if is_folder else []
    for member in getattr(config.model, "members", ()):
        digests += bases_of(load_config(*member_words(member)))
    return digests


def _check_claim(out: Path, claim: dict[str, Any]) -> dict[str, list[str]]:
    """Check that the folder is new or holds this comparison; otherwise, raise InputError. Return,
    for each training in it, the digests of its initial weights (see `bases_of`).

    A comparison that has not trained anything yet may be replaced by any other.
    """
    path = out / COMPARISON_FILE
    if not out.exists() or not {*out.iterdir()} - {path}:
        return {}
    found = read_json(path) if path.is_file() else {}
    bases = found.pop(BASES, {})
    if found != claim:
        raise InputError(
            f"{out}: expected a new folder, or one with a comparison on the same rows, in the same "
            "order and with the same --folds; name a different folder"
        )
    return bases


def _trained(variant: Variant, out: Path) -> Artifact:
    """Load a variant's artifact. Raises InputError if its options are not the variant's."""
    artifact = Artifact.load(out / variant.folder)
    trained = read_json(artifact.folder / artifact.facts["members"][0] / CONFIG_FILE)
    wanted = public_config(variant.config().to_dict())
    if wanted["training"]["classes"] is None:  # the training file decided
        wanted["training"]["classes"] = trained["training"]["classes"]
    if wanted != trained:
        raise InputError(
            f"{artifact.folder}: its options differ from this comparison's; remove it to retrain"
        )
    return artifact


def _check_trained(
    artifact: Artifact, pairs: pd.DataFrame, folds: int | None, same_bases: bool
) -> None:
    """Raise InputError if an artifact's rows, folds or initial weights are not the comparison's."""
    differences = {
        "on different rows": artifact.facts["data_sha256"] != digest_of(with_tie_column(pairs)),
        "on different folds": artifact.oof[FOLD].nunique() != (folds or 1),
        "from the weights of a different backbone": not same_bases,
    }
    for what, differs in differences.items():
        if differs:
            raise InputError(f"{artifact.folder}: trained {what}; remove it to train it again")


def _tabulate(
    variants: Sequence[Variant], artifacts: Sequence[Artifact], pairs: pd.DataFrame
) -> pd.DataFrame:
    """Build the table of `compare` from the rows that all artifacts held out."""
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    losses: list[np.ndarray] = []
    records = []
    for variant, artifact in zip(variants, artifacts, strict=True):
        probabilities = variant.held_out_probabilities(artifact, pairs)
        losses.append(row_log_losses(labels, probabilities))
        training = training_summary(artifact)
        records.append(
            {
                "name": variant.name,
                "backbone": training.pop("backbone") or artifact.facts["family"],
                "rows": len(pairs),
                **mean_and_interval("log_loss", losses[-1], keys),
                "accuracy": accuracy(labels, probabilities),
                **mean_and_interval("difference", losses[-1] - losses[0], keys),
                "prior_log_loss": artifact.metrics["prior_log_loss"],
                **training,
                "seconds": artifact.metrics["seconds"],
            }
        )
    return pd.DataFrame(records)


def run_training(
    config: Config, train_csv: Path, folder: Path, folds: int | None, format: str | None = None
) -> None:
    """Train in this process, and re-raise any exception as an InputError.

    The traceback is printed here, since not every exception can be sent to another process.
    """
    try:
        train(config, train_csv, folder, folds, format=format)
    except InputError:
        raise
    except Exception as error:
        traceback.print_exc()
        name = type(error).__name__
        raise InputError(f"the training failed with {name} (the traceback is above)") from None


@contextlib.contextmanager
def _named(training: str) -> Iterator[None]:
    """Prefix each InputError raised in the block with the training's name. Raise an InputError if
    the training's process dies."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{training}: {error}") from None
    except BrokenProcessPool:
        raise InputError(
            f"{training}: its process ended abruptly; it may have been killed for using too much "
            'memory, or the script calls compare without `if __name__ == "__main__":`'
        ) from None


@contextlib.contextmanager
def _ended_with_this_process() -> Iterator[None]:
    """If this process is interrupted or told to end, also end its trainings. Without this, only
    Ctrl-C in a terminal would reach them; in all other cases, this process would wait for them."""
    try:
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def fresh_processes(configs: Sequence[Config]) -> ProcessPoolExecutor:
    """Return an executor that runs each call in a new process, with the models' modules imported.

    The processes are forked from a server that has only imported modules. If they were forked from
    this process, they would inherit its peak memory. Importing torch and transformers in each of
    them would take longer than a small training run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({*map(module_of, configs)}))
    # The server lives as long as this process and keeps the environment in which it was started, so
    # each new process is given the current environment.
    return ProcessPoolExecutor(
        1,
        context,
        initializer=_set_up,
        initargs=(dict(os.environ), logging.getLogger().getEffectiveLevel()),
        max_tasks_per_child=1,
    )


def _set_up(environment: dict[str, str], level: int) -> None:
    """Give a new process the environment and the log level of its caller, and have it clean up when
    it is told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    logging.basicConfig(level=level, format="%(message)s")
