"""The progress of a training run, apart from its weights."""

from dataclasses import dataclass, field


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
