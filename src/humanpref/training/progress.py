"""The progress of a training run and its display: a bar on a terminal, ten log lines per epoch
elsewhere."""

import logging
import time
from dataclasses import dataclass, field

from tqdm import tqdm

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """The progress of a run, apart from its weights."""

    epoch: int = 0
    step: int = 0
    """Steps done in this epoch."""
    summed: float = 0.0
    """Sum of the losses of the rows seen in this epoch."""
    seen: int = 0
    """Rows in that sum."""
    seconds: float = 0.0
    """Time spent on steps, without validation, over all sessions."""
    steps: int = 0
    skipped: int = 0
    """Steps that the gradient scaler skipped."""
    skipped_last: int = 0
    """How many of the latest steps the gradient scaler skipped in a row."""
    tokens: int = 0
    """Tokens, without padding, that went through the module, in all processes."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None


class EpochBar:
    """Shows the steps of an epoch; silent in all processes but the main one.

    Parameters
    ----------
    name : str
        A label such as `epoch 1/3`.
    steps, done : int
        The number of steps in the epoch, and how many of them an earlier session took.
    main : bool
        Whether this is the main process.
    """

    def __init__(self, name: str, steps: int, done: int, main: bool) -> None:
        self.name, self.steps, self.main, self.first = name, steps, main, done
        self.bar = tqdm(
            total=steps, initial=done, desc=name, unit="step", disable=None if main else True
        )
        self.started = time.perf_counter()

    def update(self, step: int, mean_loss: float) -> None:
        """Show that `step` steps of the epoch are done."""
        self.bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
        self.bar.update()
        if self.bar.disable and self.main and step % max(1, self.steps // 10) == 0:
            per_step = (time.perf_counter() - self.started) / (step - self.first)
            logger.info(
                "%s, step %d/%d: mean loss %.4f, %.0f s left",
                self.name,
                step,
                self.steps,
                mean_loss,
                per_step * (self.steps - step),
            )

    def close(self) -> None:
        """Close the bar and leave it displayed."""
        self.bar.close()
