"""The option classes of every family, and the configuration of one run."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from humanpref.config.bounds import Bound, Options, checked, hints_of
from humanpref.config.cpu import (
    BlendOptions,
    BoostedOptions,
    EmbeddingOptions,
    ForwardOptions,
    HoldOut,
    NoOptions,
    PriorOptions,
    SparseOptions,
)
from humanpref.config.neural import (
    DecoderOptions,
    DecoderTraining,
    DpoInference,
    DpoOptions,
    DpoTraining,
    EncoderInference,
    EncoderOptions,
    GradientTraining,
    check_sections,
)


class Family(NamedTuple):
    """The option classes of one family, by section of the configuration."""

    model: type[Options]
    training: type[HoldOut]
    inference: type[Options]


FAMILIES = {
    "prior": Family(PriorOptions, HoldOut, NoOptions),
    "sparse": Family(SparseOptions, HoldOut, NoOptions),
    "embedding": Family(EmbeddingOptions, HoldOut, ForwardOptions),
    "boosted": Family(BoostedOptions, HoldOut, NoOptions),
    "encoder": Family(EncoderOptions, GradientTraining, EncoderInference),
    "blend": Family(BlendOptions, HoldOut, NoOptions),
    "decoder": Family(DecoderOptions, DecoderTraining, EncoderInference),
    "dpo": Family(DpoOptions, DpoTraining, DpoInference),
}
SECTIONS = Family._fields


@dataclass(frozen=True)
class Config:
    """The configuration of one run: the family, the seed, and the family's three sections."""

    family: str
    """One of `FAMILIES`."""
    preset: str = ""
    """The name of the preset on which the run is based; empty if there is none."""
    seed: Annotated[
        int, Bound("a whole number from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)
    ] = 42
    """Seed for all random choices: split, shuffling, initial weights, dropout."""
    model: Any = field(default_factory=NoOptions)
    training: Any = field(default_factory=NoOptions)
    inference: Any = field(default_factory=NoOptions)

    def __post_init__(self) -> None:
        for name in ("preset", "seed"):
            checked(name, hints_of(Config)[name], getattr(self, name))
        if self.family == "decoder":
            check_sections(self.model, self.training)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types; `from_dict` reads it back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def valid_keys(family: str) -> list[str]:
    """Return every key that `--set` accepts for this family."""
    sections = zip(SECTIONS, FAMILIES[family], strict=True)
    return ["seed", *(f"{section}.{name}" for section, kind in sections for name in hints_of(kind))]
