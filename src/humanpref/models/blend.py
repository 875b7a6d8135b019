"""A blend of models of any families, and the folder in which it is saved. The weights of the blend
are fitted on the models' out-of-fold predictions for the training rows.

`humanpref.models.blend_weights` fits the weights; `humanpref.models.blend_correction` fits the
temperature, and the class rates for rows with empty or identical answers.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.config import Config, load_config
from humanpref.config.cpu import BlendOptions, HoldOut
from humanpref.config.loading import member_words
from humanpref.data import inner_splits
from humanpref.files import folder_whole, is_main_process, read_json, remove, write_json
from humanpref.logloss import log_loss
from humanpref.models import build_model, load_model
from humanpref.models.arrays import STATE_FILE, load_arrays, save_arrays
from humanpref.models.base import CONFIG_FILE, Model, Validation
from humanpref.models.bases import public_config
from humanpref.models.blend_correction import Correction, HeldOutRows, describe_correction
from humanpref.models.blend_weights import Blend, equal_blend, fit_blend
from humanpref.models.inner_folds import Labelled, Splits
from humanpref.schema import InputError
from humanpref.text.cases import CASES, answer_cases

logger = logging.getLogger(__name__)

REPORT_FILE = "report.json"
FROZEN = "embedding"
"""Members of this family use the blend's `model.backbone` unless they set their own. The family's
default is not used, because it is a hub name and would need a network."""
FIXED = {
    "classes": HoldOut.classes,
    "keep_best_epoch": False,
    "patience": None,
    "seeds": HoldOut.seeds,
    "validation_fraction": HoldOut.validation_fraction,
}
"""Training options that a member must not change. Otherwise, it could tune itself on the rows on
which the weights are fitted, hold out further rows, or have classes that differ from those of the
blend."""


class BlendModel(Model, family="blend"):
    """A blend of models of any families, which are called its members. The weights are fitted on
    the members' out-of-fold predictions; the members are then trained again on all rows.

    The parameters are the options of `humanpref.config.cpu.BlendOptions`, and `seed`.

    Attributes
    ----------
    members_ : list of Model
        The members that were not dropped.
    blend_ : Blend
        Combines their predictions.
    """

    @property
    def swap_equivariant(self) -> bool:
        return all(member.swap_equivariant for member in self.members_)

    def check(self) -> None:
        self._member_configs()

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        options: BlendOptions = self.config.model
        members, progress = self._member_configs(), _Progress(checkpoint)
        facts: list[dict[str, Any]] = [{"member": public_config(name)} for name, _ in members]
        splits = inner_splits(rows.pairs, options.folds, self.config.seed, rows.labels)
        if splits:
            probabilities, held_out = _out_of_fold(self._unfitted, members, rows, splits, progress)
            for fact, own in zip(facts, probabilities, strict=True):
                fact["log_loss"] = log_loss(held_out.labels, own, held_out.weights)
            blend, dropped, cases = fit_blend(probabilities, held_out, options, self.ties)
        else:
            logger.warning("blend: fewer prompts than inner folds, so members get equal weights")
            blend = equal_blend(options.mean, len(members), self.ties)
            dropped, cases = {}, []
        self.members_ = []
        for number, (fact, (name, config)) in enumerate(zip(facts, members, strict=True)):
            fact["weight"] = float(blend.weights[number])
            if number in dropped:
                fact["dropped"] = dropped[number]
            logger.info("blend: %s", describe_member(fact))
            if number in dropped:
                continue
            logger.info("blend: training %s on all rows (%d)", name, len(rows.pairs))
            fit = partial(self._unfitted(config).fit, *rows, validation)
            model = progress.piece(f"member-{number}", fit, _write_model, _read_model)
            fact["report"] = model.report_
            self.members_.append(model)
        kept = [number for number in range(len(members)) if number not in dropped]
        self.blend_ = dataclasses.replace(blend, weights=blend.weights[kept])
        for correction in cases:
            logger.info("blend: %s", describe_correction(correction))
        used = dict(members)
        left_out = [public_config(text) for text in options.members if text not in used]
        self.report_ = {
            "blend": {**blend.facts(), "corrections": cases, "members": facts, "left_out": left_out}
        }

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        probabilities = np.stack([member.predict_proba(pairs) for member in self.members_])
        return self.blend_(probabilities, answer_cases(pairs))

    def cut_rows(self, pairs: pd.DataFrame) -> np.ndarray:
        return np.any([member.cut_rows(pairs) for member in self.members_], axis=0)

    def _unfitted(self, config: Config) -> Model:
        model = build_model(config)
        model.memos = self.memos
        return model

    def save_state(self, folder: Path) -> None:
        write_state(folder, self.blend_, [member.save for member in self.members_])

    def load_state(self, folder: Path) -> None:
        self.blend_, folders = read_state(folder, self.config)
        self.members_ = [load_model(member) for member in folders]

    def _member_configs(self) -> list[tuple[str, Config]]:
        """Return each member as it is written in `model.members`, and its configuration. Members
        that lack a backbone are left out."""
        options: BlendOptions = self.config.model
        members, backbone_used = [], False
        for text in options.members:
            preset, _, overrides = member_words(text)
            config = load_config(preset, None, [f"seed={self.config.seed}", *overrides])
            if config.family == FROZEN and "model.backbone=" not in text:
                if not options.backbone:
                    needs = "it needs a model folder (model.backbone=FOLDER)"
                    logger.warning("blend: %s is left out: %s", text, needs)
                    continue
                model = dataclasses.replace(config.model, backbone=options.backbone)
                config, backbone_used = dataclasses.replace(config, model=model), True
            for name, fixed in FIXED.items():
                value = getattr(config.training, name, fixed)
                if value != fixed:
                    raise InputError(
                        f"option model.members: {text!r}: training.{name}: expected {fixed} in a "
                        f"member of a blend, got {value}"
                    )
            shared = dataclasses.replace(config.training, classes=self.config.training.classes)
            config = dataclasses.replace(config, training=shared)
            # Find a missing library or a wrong folder now, not after hours of training other
            # members.
            build_model(config).check()
            members.append((text, config))
        if not members:
            raise InputError("option model.members: no members to blend")
        if options.backbone and not backbone_used:
            raise InputError(
                "option model.backbone: no member of this blend uses it; set it in model.members"
            )
        return members


def mean_of(models: list[Model]) -> BlendModel:
    """Return one model that averages the predictions of fitted models, such as those that a run
    trained on its folds or with its seeds."""
    mean = BlendModel()
    mean.members_, mean.blend_ = models, equal_blend("arithmetic", len(models), models[0].ties)
    return mean


def _out_of_fold(
    unfitted: Callable[[Config], Model],
    members: list[tuple[str, Config]],
    rows: Labelled,
    splits: Splits,
    progress: "_Progress",
) -> tuple[np.ndarray, HeldOutRows]:
    """Return the m members' out-of-fold predictions, (m, n, 3), and the n rows that they are for:
    those that at least one split holds out."""
    own = np.any([judged for _, judged in splits], axis=0)
    probabilities = np.empty((len(members), len(rows.pairs), 3))
    for number, (name, config) in enumerate(members):
        for fold, (learned, judged) in enumerate(splits):
            text = "blend: %s (%d of %d), inner fold %d of %d"
            logger.info(text, name, number + 1, len(members), fold + 1, len(splits))
            work = partial(
                _fit_and_predict, unfitted(config), rows.part(learned), rows.part(judged)
            )
            probabilities[number][judged] = progress.piece(
                f"member-{number}-fold-{fold}", work, _write_probabilities, _read_probabilities
            )
    out = rows.part(own)
    return probabilities[:, own], HeldOutRows(out.labels, out.weights, answer_cases(out.pairs))


def _fit_and_predict(
    model: Model, learned: Labelled, judged: Labelled, checkpoint: Path | None
) -> np.ndarray:
    """Fit a member on the `learned` rows, without validation rows, and return its predictions for
    the `judged` rows."""
    return model.fit(*learned, None, checkpoint).predict_proba(judged.pairs)


class _Progress:
    """The saved intermediate results of a fit, from which an interrupted fit resumes. Each result
    is written to the folder atomically; if the folder is None, nothing is saved."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.main = folder, is_main_process()
        if folder is not None and self.main:
            folder.mkdir(exist_ok=True)

    def piece(self, name: str, work: Callable, write: Callable, read: Callable) -> Any:
        """Return the result with this name, read from the folder if it is saved. Otherwise, compute
        it with `work`, which takes a path for its own checkpoint, and save it."""
        if self.folder is None:
            return work(None)
        path, running = self.folder / name, self.folder / f"{name}.running"
        if path.is_dir():
            logger.info("blend: already done, skipped")
            return read(path)
        piece = work(running)
        if self.main:
            with folder_whole(path) as unfinished:
                write(unfinished, piece)
            remove(running)
        return piece


def _write_probabilities(folder: Path, probabilities: np.ndarray) -> None:
    save_arrays(folder / STATE_FILE, {"probabilities": probabilities})


def _read_probabilities(folder: Path) -> np.ndarray:
    return load_arrays(folder / STATE_FILE, {"probabilities": (None, 3)})["probabilities"]


def _write_model(folder: Path, model: Model) -> None:
    model.save(folder)
    write_json(folder / REPORT_FILE, model.report_)


def _read_model(folder: Path) -> Model:
    model = load_model(folder)
    model.report_ = read_json(folder / REPORT_FILE)
    return model


def write_state(folder: Path, blend: Blend, members: Sequence[Callable[[Path], Any]]) -> None:
    """Write a blend's weights, correction and members to a folder. Each of `members` is a function
    that writes one member to the folder that it is given."""
    arrays = {
        "weights": blend.weights,
        "temperature": np.array([blend.correction.temperature]),
        "rates": blend.correction.rates,
    }
    save_arrays(folder / STATE_FILE, arrays)
    for number, write in enumerate(members):
        write(folder / f"member-{number}")


def read_state(folder: Path, config: Config) -> tuple[Blend, list[Path]]:
    """Read what `write_state` wrote for a model of this configuration. Return the blend and its
    members' folders; no member is loaded.

    Raises
    ------
    InputError
        If the weights or the correction are missing or invalid.
    """
    path = folder / STATE_FILE
    shapes = {"weights": (None,), "temperature": (1,), "rates": (len(CASES), 3)}
    arrays = load_arrays(path, shapes)
    weights, rates = arrays["weights"], arrays["rates"]
    (temperature,) = arrays["temperature"].tolist()
    if (weights < 0).any() or abs(weights.sum() - 1) >= 1e-6 or temperature <= 0:
        raise InputError(f"{path}: expected weights >= 0 that sum to 1 and a positive temperature")
    if (rates < 0).any() or not np.isin(rates.sum(axis=1).round(6), (0, 1)).all():
        raise InputError(f"{path}: expected rates >= 0 that sum to 1, or to 0, in each row")
    correction = Correction(temperature, rates)
    blend = Blend(config.model.mean, weights, correction, config.training.classes != 2)
    return blend, [folder / f"member-{number}" for number in range(len(weights))]


def write_blend(
    folder: Path, config: Config, blend: Blend, members: Sequence[Callable[[Path], Any]]
) -> None:
    """Write a `BlendModel` to a new folder without loading its members; for `members`, see
    `write_state`."""
    folder.mkdir()
    write_json(folder / CONFIG_FILE, public_config(config.to_dict()))
    write_state(folder, blend, members)


def describe_member(fact: dict[str, Any]) -> str:
    """Return one line about a member: its weight, its log loss and, if it was dropped, the
    reason."""
    line = f"{fact['member']}: weight {fact['weight']:.3f}"
    if "log_loss" in fact:
        line += f", log loss {fact['log_loss']:.4f}"
    if "dropped" in fact:
        line += f"; dropped: {fact['dropped']}"
    return line
