"""The memory and the hours that a run takes on Kaggle, and the verdict on whether it fits."""

import itertools
from dataclasses import dataclass, field

from humanpref.training.memory import T4_GIB

TRAIN_HOURS, SUBMISSION_HOURS = 12, 9
"""Kaggle's limits for a run with a GPU and for a submission."""
SLOWER = 2
"""A real run takes at least the time that `humanpref.training.roofline` estimates, and at most this
many times as long."""


@dataclass(frozen=True)
class Estimate:
    """The memory (in GiB) and the time (in hours) that a run takes.

    Attributes
    ----------
    name : str
        The run's name.
    gib, least_gib : float
        Memory of training: with the run's options, and with one row at a time.
    changes : list of str
        Options to change so that training fits into a T4.
    train : dict
        Hours of training, by number of GPUs; empty if nothing is trained.
    predict : tuple
        Hours of inference on two GPUs: for one order of A and B, and for both orders.
    assumptions : list of str
        The assumptions of the estimate, one line each.
    """

    name: str
    gib: float = 0.0
    least_gib: float = 0.0
    changes: list[str] = field(default_factory=list)
    train: dict[int, float] = field(default_factory=dict)
    predict: tuple[float, float] = (0.0, 0.0)
    assumptions: list[str] = field(default_factory=list)

    @property
    def impossible(self) -> str:
        """Why the training cannot succeed on Kaggle; empty if it can."""
        if self.least_gib > T4_GIB:
            return f"training needs {self.least_gib:.1f} GiB, and a T4 has {T4_GIB:.0f}"
        if self.train and min(self.train.values()) > TRAIN_HOURS:
            hours = _range(min(self.train.values()))
            return f"training takes {hours} h, and Kaggle allows {TRAIN_HOURS}"
        return ""

    def verdict(self) -> str:
        """Return one line with the memory, the hours, and whether the run fits into Kaggle's
        limits."""
        parts = []
        if self.train:
            best = min(self.train, key=self.train.__getitem__)
            where = "one T4" if best == 1 else "two T4"
            parts += [f"training {self.gib:.1f} GiB, {_range(self.train[best])} h on {where}"]
        parts += [f"inference {_range(self.predict[0])} h (both orders {_range(self.predict[1])})"]
        return f"estimate: {', '.join(parts)}: {self._judged()}"

    def _judged(self) -> str:
        if self.impossible:
            return f"cannot fit: {self.impossible}"
        one, both = (SLOWER * hours > SUBMISSION_HOURS for hours in self.predict)
        doubts = {
            "training runs out of memory": self.gib > T4_GIB,
            "training runs out of time": SLOWER * min(self.train.values(), default=0) > TRAIN_HOURS,
            "inference reads shortened inputs": one,
            "only part of the rows is read in both orders": both and not one,
        }
        named = "; ".join(itertools.compress(doubts, doubts.values()))
        return f"may not fit: {named}" if named else "fits"

    def lines(self) -> list[str]:
        """Return the lines of the report that `humanpref kaggle estimate` prints."""
        lines = [self.name]
        if self.train:
            lines += [f"  memory     {self.gib:.1f} GiB of the {T4_GIB:.0f} of a T4"]
            lines += [f"             to reduce it: {change}" for change in self.changes]
            hours = ", ".join(
                f"{_range(hours)} h on {'one T4' if gpus == 1 else 'two'}"
                for gpus, hours in self.train.items()
            )
            lines += [f"  training   {hours}; Kaggle allows {TRAIN_HOURS} h"]
        one, both = map(_range, self.predict)
        lines += [
            f"  inference  {one} h on two T4, {both} h in both orders of A and B; Kaggle allows "
            f"{SUBMISSION_HOURS} h",
            f"  verdict    {self._judged()}",
            *(f"  assumed    {assumption}" for assumption in self.assumptions),
        ]
        return lines


def _range(hours: float) -> str:
    """Format the range from a time to `SLOWER` times that time.

    >>> _range(0.0312), _range(35.2)
    ('0.031-0.062', '35-70')
    """
    return "-".join(f"{h:.0f}" if h >= 10 else f"{h:.2g}" for h in (hours, SLOWER * hours))
