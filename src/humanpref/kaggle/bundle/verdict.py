"""Judge, before a bundle is pushed, whether its training can succeed on Kaggle's GPUs."""

import logging

from humanpref.kaggle.contract import KernelRun
from humanpref.runs.demand import Estimate
from humanpref.runs.estimate import estimate
from humanpref.schema import InputError

logger = logging.getLogger(__name__)


def verdict(run: KernelRun) -> str:
    """Return the estimate of a run's training and inference in one line. Return an empty string if
    nothing is trained, if no GPU is needed, or if there is no estimate."""
    found = _estimate(run)
    return found.verdict() if found else ""


def impossible(run: KernelRun) -> str:
    """Return the reason why a run's training cannot succeed; empty if there is no known reason."""
    found = _estimate(run)
    return found.impossible if found else ""


def _estimate(run: KernelRun) -> Estimate | None:
    config = run.config
    if config is None:
        return None
    try:
        return estimate(config, run.preset, folds=run.folds)
    except InputError as error:
        logger.warning("no estimate: %s", error)
        return None
