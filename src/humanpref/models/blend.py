"""A blend of models of any families, weighted on inner out-of-fold predictions, and the folder that
it is saved in.

The weights are in `humanpref.models.blend_weights`, the temperature and the special cases in
`humanpref.models.blend_correction`.
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
from humanpref.models.arrays import load_arrays, save_arrays
from humanpref.models.base import CONFIG_FILE, Model, Validation
from humanpref.models.blend_correction import Correction, describe_correction
from humanpref.models.blend_weights import Blend, equal_blend, fit_corrected_blend
from humanpref.schema import InputError
from humanpref.text.cases import CASES, answer_cases

logger = logging.getLogger(__name__)

STATE_FILE = "model.safetensors"
FROZEN = "embedding"
"""The family whose members take `model.backbone` of the blend: its default is a hub name, which
takes a network."""


class BlendModel(Model, family="blend"):
    """Members of any families, blended on inner out-of-fold predictions and then trained again on
    all rows.

    After `fit`: `members_`, the models that the blend kept, and `blend_` over them. The parameters
    are the options of `humanpref.config.cpu.BlendOptions`, and `seed`.
    """

    @property
    def swap_equivariant(self) -> bool:
        return all(member.swap_equivariant for member in self.members_)

    def check(self) -> None:
        self._member_configs()

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "BlendModel":
        options: BlendOptions = self.config.model
        members = self._member_configs()
        progress = _Progress(checkpoint)
        splits = inner_splits(pairs, options.folds, self.config.seed, labels)
        facts: list[dict[str, Any]] = [{"member": name} for name, _ in members]
        tried: list[dict[str, Any]] = []
        if not splits:
            logger.warning("blend: fewer prompts than inner folds, so the members weigh the same")
            blend, dropped = equal_blend(options.mean, len(members)), {}
        else:
            fold_of = np.full(len(pairs), -1)
            predicted = np.empty((len(members), len(pairs), 3))
            for number, (name, config) in enumerate(members):
                for fold, (learned, judged) in enumerate(splits):
                    logger.info(
                        "blend: %s (%d of %d), inner fold %d of %d",
                        name,
                        number + 1,
                        len(members),
                        fold + 1,
                        options.folds,
                    )
                    work = partial(
                        _fit_and_predict, config, pairs, labels, weights, learned, judged
                    )
                    predicted[number][judged] = progress.probabilities(
                        f"member-{number}-fold-{fold}", work
                    )
                    fold_of[judged] = fold
            own = fold_of >= 0
            predicted, seen, counts = predicted[:, own], labels[own], weights[own]
            for fact, probabilities in zip(facts, predicted, strict=True):
                fact["log_loss"] = log_loss(seen, probabilities, counts)
            cases = answer_cases(pairs)[own]
            blend, dropped, tried = fit_corrected_blend(
                predicted, seen, counts, options, fold_of[own], cases
            )
        kept = [number for number in range(len(members)) if number not in dropped]
        for number, fact in enumerate(facts):
            fact["weight"] = float(blend.weights[number])
            if number in dropped:
                fact["dropped"] = dropped[number]
            logger.info("blend: %s", describe_member(fact))
        self.members_ = []
        for number in kept:
            name, config = members[number]
            logger.info("blend: %s on all %d rows", name, len(pairs))
            fit = partial(build_model(config).fit, pairs, labels, weights, validation)
            model = progress.model(f"member-{number}", fit)
            facts[number]["report"] = model.report_
            self.members_.append(model)
        self.blend_ = dataclasses.replace(blend, weights=blend.weights[kept])
        for fact in tried:
            logger.info("blend: %s", describe_correction(fact))
        left_out = [text for text in options.members if text not in dict(members)]
        self.report_ = {
            "blend": {**blend.facts(), "corrections": tried, "members": facts, "left_out": left_out}
        }
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        probabilities = np.stack([member.predict_proba(pairs) for member in self.members_])
        return self.blend_(probabilities, answer_cases(pairs))

    def save_state(self, folder: Path) -> None:
        write_state(folder, self.blend_, [member.save for member in self.members_])

    def load_state(self, folder: Path) -> None:
        self.blend_, folders = read_state(folder, self.config.model.mean)
        self.members_ = [load_model(member) for member in folders]

    def _member_configs(self) -> list[tuple[str, Config]]:
        """Each member by the words that name it, and its configuration; without those that lack
        their backbone."""
        options: BlendOptions = self.config.model
        members, filled = [], False
        for text in options.members:
            preset, _, overrides = member_words(text)
            overrides.insert(0, f"seed={self.config.seed}")
            config = load_config(preset, None, overrides)
            if config.family == FROZEN and not any(
                setting.startswith("model.backbone=") for setting in overrides
            ):
                if not options.backbone:
                    logger.warning(
                        "blend: %s is left out: it needs a model folder (model.backbone=FOLDER)",
                        text,
                    )
                    continue
                config, filled = (
                    load_config(preset, None, [*overrides, f"model.backbone={options.backbone}"]),
                    True,
                )
            for option in ("keep_best_epoch", "patience"):
                if getattr(config.training, option, None):
                    raise InputError(
                        f"option model.members: {text!r}: training.{option} would choose on the "
                        "rows that the weights are "
                        "fitted on; set it off for a member of a blend"
                    )
            fields = ("seeds", "validation_fraction")
            if any(getattr(config.training, name) != getattr(HoldOut(), name) for name in fields):
                raise InputError(
                    f"option model.members: {text!r}: training.{fields[0]} and "
                    f"training.{fields[1]} are the blend's to set, not "
                    "a member's"
                )
            # A missing library or a wrong folder fails now, not after the other members' hours.
            build_model(config).check()
            members.append((text, config))
        if not members:
            raise InputError("option model.members: no member to blend")
        if options.backbone and not filled:
            raise InputError(
                "option model.backbone: no member of this blend takes it; set it in model.members"
            )
        return members


def _fit_and_predict(
    config: Config,
    pairs: pd.DataFrame,
    labels: np.ndarray,
    weights: np.ndarray,
    learned: np.ndarray,
    judged: np.ndarray,
    checkpoint: Path | None,
) -> np.ndarray:
    """Predict the `judged` rows with a member fitted on the `learned` ones. It gets no validation
    rows: there is nothing to choose on them."""
    kept, out = pairs[learned].reset_index(drop=True), pairs[judged].reset_index(drop=True)
    model = build_model(config).fit(kept, labels[learned], weights[learned], None, checkpoint)
    return model.predict_proba(out)


def mean_of(models: list[Model]) -> BlendModel:
    """The plain mean of fitted models, the folds or seeds of one run, as one model."""
    mean = BlendModel()
    mean.members_, mean.blend_ = models, equal_blend("arithmetic", len(models))
    return mean


class _Progress:
    """The finished predictions and models of an interrupted fit, each written whole into a folder;
    nothing is kept without one.

    Each piece of work gets a path of its own to keep a checkpoint at.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.main = is_main_process()
        if folder is not None and self.main:
            folder.mkdir(exist_ok=True)

    def probabilities(self, name: str, work: Callable[[Path | None], np.ndarray]) -> np.ndarray:
        def save(folder: Path, made: np.ndarray) -> None:
            save_arrays(folder / STATE_FILE, {"probabilities": made})

        def load(folder: Path) -> np.ndarray:
            return load_arrays(folder / STATE_FILE, {"probabilities": (None, 3)})["probabilities"]

        return self._piece(name, work, save, load)

    def model(self, name: str, work: Callable[[Path | None], Model]) -> Model:
        def save(folder: Path, made: Model) -> None:
            made.save(folder / "model")
            write_json(folder / "report.json", made.report_)

        def load(folder: Path) -> Model:
            model = load_model(folder / "model")
            model.report_ = read_json(folder / "report.json")
            return model

        return self._piece(name, work, save, load)

    def _piece(self, name: str, work: Callable, save: Callable, load: Callable) -> Any:
        if self.folder is None:
            return work(None)
        path, running = self.folder / name, self.folder / f"{name}.running"
        if path.is_dir():
            logger.info("blend: done before")
            return load(path)
        made = work(running)
        if self.main:
            with folder_whole(path) as unfinished:
                save(unfinished, made)
            remove(running)
        return made


def write_state(folder: Path, blend: Blend, members: Sequence[Callable[[Path], Any]]) -> None:
    """Write what `BlendModel.load_state` reads; each member is a function that writes it into the
    folder that it is given."""
    arrays = {
        "weights": blend.weights,
        "temperature": np.array([blend.correction.temperature]),
        "offsets": blend.correction.offsets,
    }
    save_arrays(folder / STATE_FILE, arrays)
    for number, write in enumerate(members):
        write(folder / _member_folder(number))


def read_state(folder: Path, mean: str) -> tuple[Blend, list[Path]]:
    """What `write_state` wrote: the blend, and the folders of its members, which are not loaded.

    Raises
    ------
    InputError
        If it is not whole.
    """
    path = folder / STATE_FILE
    arrays = load_arrays(
        path, {"weights": (None,), "temperature": (1,), "offsets": (len(CASES), 3)}
    )
    correction = Correction(float(arrays["temperature"][0]), arrays["offsets"])
    weights = arrays["weights"]
    if not (
        len(weights)
        and (weights >= 0).all()
        and abs(weights.sum() - 1) < 1e-6
        and correction.temperature > 0
    ):
        raise InputError(f"{path}: expected weights that sum to 1 and a positive temperature")
    expected = [_member_folder(number) for number in range(len(weights))]
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if sorted(expected) != found:
        raise InputError(
            f"{folder}: expected the folders {', '.join(expected)}, found "
            f"{', '.join(found) or 'none'}"
        )
    return Blend(mean, weights, correction), [folder / name for name in expected]


def write_blend(
    folder: Path, config: Config, blend: Blend, members: Sequence[Callable[[Path], Any]]
) -> None:
    """Write a `BlendModel` that was not fitted as one, from members that are on disk; see
    `write_state`."""
    folder.mkdir()
    write_json(folder / CONFIG_FILE, config.to_dict())
    write_state(folder, blend, members)


def describe_member(fact: dict[str, Any]) -> str:
    """One line on a member: its weight, its log loss, and why it was dropped."""
    loss = f", log loss {fact['log_loss']:.4f}" if "log_loss" in fact else ""
    return f"{fact['member']}: weight {fact['weight']:.3f}{loss}" + (
        f"; dropped: {fact['dropped']}" if "dropped" in fact else ""
    )


def _member_folder(number: int) -> str:
    return f"member-{number}"
