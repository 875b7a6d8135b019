"""How far a training run has come: steps, losses and epochs, but not weights."""

from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far a run has come; part of every checkpoint."""

    epoch: int = 0
    step: int = 0
    """Number of steps done in this epoch."""
    summed: float = 0.0
    """Sum of the losses of the rows seen in this epoch."""
    seen: int = 0
    """Number of rows in `summed`."""
    seconds: float = 0.0
    """Time spent on steps, without validation, over all sessions."""
    steps: int = 0
    skipped: int = 0
    """Number of steps that the gradient scaler skipped, over the entire run."""
    skipped_last: int = 0
    """Number of steps that the gradient scaler has just skipped in a row; 0 after any other
    step."""
    tokens: int = 0
    """Number of tokens, without padding, that the module has read in all processes."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
