"""A weighted mean of several models, with weights and a temperature fitted on predictions for rows
that they did not see.

    arithmetic   p = sum_m w_m p_m
    geometric    p ∝ exp(sum_m w_m ln p_m)

with w_m >= 0, sum_m w_m = 1; then corrected (`humanpref.models.blend_correction`).

Both weight problems are convex, and so is that of 1/T once the weights are known: the fit does not
depend on a start.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from humanpref.config import Config, from_dict, load_config
from humanpref.config.cpu import BlendOptions, HoldOut
from humanpref.config.loading import member_words
from humanpref.data import inner_splits
from humanpref.files import folder_whole, read_json, remove, write_json
from humanpref.models import build_model, load_model
from humanpref.models.arrays import load_arrays, save_arrays
from humanpref.models.base import CLIP, CONFIG_FILE, Model, Validation, mean_log_loss
from humanpref.models.blend_correction import (
    Correction,
    describe_correction,
    fit_correction,
    fit_temperature,
)
from humanpref.schema import InputError
from humanpref.text.cases import CASES, answer_cases

logger = logging.getLogger(__name__)

STATE_FILE = "model.safetensors"
FROZEN = "embedding"
"""The family whose members take `model.backbone` of the blend: its default is a hub name, which
takes a network."""
GAP = 1e-6
"""The weights' mean log loss is at most so many nats above the least possible one, or a warning
says so."""
COPY = 1e-9
"""Two members whose probabilities differ nowhere by more are one."""


@dataclass(frozen=True)
class Blend:
    """How m members' probabilities become one: a pure function with its parameters."""

    mean: str
    """`arithmetic` or `geometric`."""
    weights: np.ndarray
    """(m,), at least 0, summing to 1; 0: dropped."""
    correction: Correction = field(default_factory=Correction)
    """Of the mean."""

    def __call__(self, probabilities: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """(n, 3) from the members' (m, n, 3), and the rows' cases (`humanpref.text.cases`), where
        they are known."""
        return np.exp(self.correction(self.mixed(probabilities), cases))

    def mixed(self, probabilities: np.ndarray) -> np.ndarray:
        """The mean's log probabilities (n, 3), not corrected."""
        probabilities = np.maximum(probabilities, CLIP)
        if self.mean == "geometric":
            return log_softmax(np.tensordot(self.weights, np.log(probabilities), axes=1), axis=1)
        return np.log(np.tensordot(self.weights, probabilities, axes=1))

    def facts(self) -> dict[str, Any]:
        """How it is made, the weights apart, as plain JSON types."""
        own = self.correction
        return {
            "mean": self.mean,
            "temperature": own.temperature,
            "tie_scale": own.tie_scale,
            "tie_bias": own.tie_bias,
            "offsets": {
                case: offset.tolist()
                for case, offset in zip(CASES, own.offsets, strict=True)
                if offset.any()
            },
        }


def mix(blend: Blend, told: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Blend (m, n, 3) into (n, 3), each row by the weights of the members that are not NaN; NaN
    where there is none.

    `cases` (n,) are the rows' (`humanpref.text.cases`).
    """
    there = ~np.isnan(told[:, :, 0].transpose())  # (n, m)
    mixed = np.full(told.shape[1:], np.nan)
    for pattern in np.unique(there, axis=0):
        weights = blend.weights[pattern]
        if weights.sum() > 0:
            rows = (there == pattern).all(axis=1)
            mixed[rows] = dataclasses.replace(blend, weights=weights / weights.sum())(
                told[pattern][:, rows], cases[rows]
            )
    return mixed


def equal_blend(mean: str, members: int) -> Blend:
    """Equal weights, no correction."""
    return Blend(mean, np.full(members, 1 / members))


def fit_blend(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    mean: str = "arithmetic",
    shrinkage: float = 10.0,
    min_gain: float = 1.0,
) -> tuple[Blend, dict[int, str]]:
    """The blend of least log loss, without the members that it does not need.

    Parameters
    ----------
    probabilities : ndarray
        (m, n, 3): what each member says of rows that it did not learn from.
    labels : ndarray
        (n, 3), hard or soft.
    weights : ndarray, optional
        (n,) the rows' weights; 2 equals the row twice.
    mean : str
        `arithmetic` or `geometric`.
    shrinkage : float
        s in the penalties s/2 |w - 1/m|² and s/2 (1/T - 1)², in nats over all rows. It is a
        Gaussian prior of standard deviation 1/sqrt(s) around the plain mean, 0.3 for s = 10: felt
        with a thousand rows, whose weights would else follow noise, and not with fifty thousand.
    min_gain : float
        A member whose removal costs less than so many nats over all rows is dropped, the cheapest
        first, and the others are fitted again. One nat is Akaike's price of one parameter.

    Returns
    -------
    (Blend, dict)
        The blend of all m members, and why members were dropped (weight 0), by their number. A copy
        of an earlier member is dropped before anything is fitted, so that it changes nothing.

    Source: Breiman (1996), "Stacked regressions", with log loss for squares; Genest and Zidek
    (1986) on both means.
    """
    row_weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    probabilities = np.maximum(np.asarray(probabilities, dtype=np.float64), CLIP)
    dropped: dict[int, str] = {}
    kept: list[int] = []
    for member, own in enumerate(probabilities):
        twin = next(
            (other for other in kept if np.abs(own - probabilities[other]).max() <= COPY), None
        )
        if twin is None:
            kept.append(member)
        else:
            dropped[member] = f"the same as member {twin + 1}"

    def fit(members: list[int]) -> tuple[Blend, float]:
        return _fit_all(probabilities[members], labels, row_weights, mean, shrinkage)

    best, loss = fit(kept)
    while len(kept) > 1:
        trials = {member: fit([other for other in kept if other != member]) for member in kept}
        cheapest = min(trials, key=lambda member: trials[member][1])
        cost = trials[cheapest][1] - loss
        if cost >= min_gain:
            break
        change = (
            f"raises the log loss by {cost:.2g}"
            if cost > 0
            else f"lowers the log loss by {-cost:.2g}"
        )
        dropped[cheapest] = (
            f"leaving it out {change} nats over all rows (kept from {min_gain:g} on)"
        )
        kept.remove(cheapest)
        best, loss = trials[cheapest]
    all_weights = np.zeros(len(probabilities))
    all_weights[kept] = best.weights
    return dataclasses.replace(best, weights=all_weights), dropped


def fit_corrected_blend(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    options: BlendOptions,
    folds: np.ndarray,
    cases: np.ndarray | None,
) -> tuple[Blend, dict[int, str], list[dict[str, Any]]]:
    """The blend of `fit_blend` with the correction of `fit_correction`: the blend, why members were
    dropped, what was tried."""
    blend, dropped = fit_blend(
        probabilities, labels, weights, options.mean, options.shrinkage, options.min_gain
    )
    counts = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    correction, tried = fit_correction(
        blend.mixed(probabilities),
        labels,
        counts,
        options.shrinkage,
        options.min_gain,
        folds,
        cases,
    )
    return dataclasses.replace(blend, correction=correction), dropped, tried


def _fit_all(
    probabilities: np.ndarray,
    labels: np.ndarray,
    row_weights: np.ndarray,
    mean: str,
    shrinkage: float,
) -> tuple[Blend, float]:
    """A blend that keeps every member, and its log loss summed over the rows, the penalties
    apart."""
    weights = _fit_weights(probabilities, labels, row_weights, mean, shrinkage)
    blend = Blend(mean, weights)
    mixed = blend.mixed(probabilities)
    correction = fit_temperature(mixed, labels, row_weights, shrinkage)
    loss = -(row_weights @ (labels * correction(mixed)).sum(axis=1))
    return dataclasses.replace(blend, correction=correction), float(loss)


def _fit_weights(
    probabilities: np.ndarray,
    labels: np.ndarray,
    row_weights: np.ndarray,
    mean: str,
    shrinkage: float,
) -> np.ndarray:
    """The weights (m,) on the simplex."""
    members, total = len(probabilities), row_weights.sum()
    equal = np.full(members, 1 / members)
    if members == 1:
        return equal
    logs = np.log(probabilities)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        if mean == "geometric":
            scores = np.tensordot(weights, logs, axes=1)
            log_sum = logsumexp(scores, axis=1, keepdims=True)
            loss = row_weights @ (log_sum[:, 0] - (labels * scores).sum(axis=1))
            gradient = np.tensordot(
                logs, (np.exp(scores - log_sum) - labels) * row_weights[:, None], axes=2
            )
        else:
            mixed = np.maximum(np.tensordot(weights, probabilities, axes=1), CLIP)
            loss = -(row_weights @ (labels * np.log(mixed)).sum(axis=1))
            gradient = -np.tensordot(probabilities, labels / mixed * row_weights[:, None], axes=2)
        away = weights - equal
        return (loss + shrinkage * away @ away / 2) / total, (gradient + shrinkage * away) / total

    on_simplex = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-13, "maxiter": 500}
    found = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints=on_simplex,
        options=options,
    )
    weights = np.clip(found.x, 0, None)
    weights /= weights.sum()
    # A convex function lies above its tangents: w · g - min g bounds how far the loss is above the
    # least one on the simplex.
    gradient = objective(weights)[1]
    gap = weights @ gradient - gradient.min()
    if not gap <= GAP:
        logger.warning(
            "blend: the weights' log loss may be %.2g above the least possible (%s)",
            gap,
            found.message,
        )
    return weights


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
            told = np.empty((len(members), len(pairs), 3))
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
                    told[number][judged] = progress.probabilities(
                        f"member-{number}-fold-{fold}", work
                    )
                    fold_of[judged] = fold
            own = fold_of >= 0
            told, seen, counts = told[:, own], labels[own], weights[own]
            for fact, probabilities in zip(facts, told, strict=True):
                fact["log_loss"] = mean_log_loss(seen, probabilities, counts)
            cases = answer_cases(pairs)[own]
            blend, dropped, tried = fit_corrected_blend(
                told, seen, counts, options, fold_of[own], cases
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
        told = np.stack([member.predict_proba(pairs) for member in self.members_])
        return self.blend_(told, answer_cases(pairs))

    def submodels(self) -> list[Model]:
        return self.members_

    def mix(self, told: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
        return mix(self.blend_, told, answer_cases(pairs))

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
            # A missing library or a wrong folder is said now, not after the other members' hours.
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
    """What a member fitted on some rows says of others. It gets no validation rows: there is
    nothing to choose on them."""
    kept, out = pairs[learned].reset_index(drop=True), pairs[judged].reset_index(drop=True)
    model = build_model(config).fit(kept, labels[learned], weights[learned], None, checkpoint)
    return model.predict_proba(out)


def mean_of(models: list[Model]) -> BlendModel:
    """The plain mean of fitted models, the folds or seeds of one run, as one model."""
    mean = BlendModel()
    mean.members_, mean.blend_ = models, equal_blend("arithmetic", len(models))
    return mean


class _Progress:
    """What an interrupted fit had done, kept in a folder: predictions and models, each written
    whole. Without a folder: nothing.

    Each piece of work gets a path of its own to keep a checkpoint at.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.main = os.environ.get("RANK", "0") == "0"
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
    own = blend.correction
    scaling = np.array([own.temperature, own.tie_scale, own.tie_bias], dtype=np.float64)
    save_arrays(
        folder / STATE_FILE, {"weights": blend.weights, "scaling": scaling, "offsets": own.offsets}
    )
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
    arrays = load_arrays(path, {"weights": (None,), "scaling": (3,), "offsets": (len(CASES), 3)})
    correction = Correction(*map(float, arrays["scaling"]), arrays["offsets"])
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


def leaves(folder: Path) -> Iterator[Config]:
    """The configurations of a saved model's parts that predict by themselves: its own, or those of
    a blend's members."""
    path = folder / CONFIG_FILE
    config = from_dict(read_json(path), str(path))
    if config.family != "blend":
        yield config
        return
    for member in read_state(folder, config.model.mean)[1]:
        yield from leaves(member)


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
