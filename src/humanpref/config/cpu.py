"""The options of the families that need no gradient descent, and what every family's `[training]`
section holds."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from humanpref.config.bounds import (
    Bound,
    Count,
    Name,
    NonNegative,
    Options,
    Penalties,
    at_least,
    whole,
)

Preprocessing = Literal["none", "nltk", "nltk-no-spaces"]
Mean = Literal["arithmetic", "geometric"]
Precision = Literal["auto", "bf16", "fp16", "no"]


def _is_part(fraction: float) -> bool:
    return fraction == 0 or (
        1e-6 <= fraction <= 0.5 and abs(1 / fraction - round(1 / fraction)) < 0.01
    )


Part = Annotated[float, Bound("0, or 1/k for a whole number k from 2 to a million", _is_part)]
TreeShare = Annotated[float, Bound("a number in [1e-6, 1]", lambda value: 1e-6 <= value <= 1)]
# XGBoost reads float32 and refuses a value that underflows or overflows there.
Float32Penalty = Annotated[
    float, Bound("0, or a number in [1e-9, 1e9]", lambda value: value == 0 or 1e-9 <= value <= 1e9)
]


@dataclass(frozen=True)
class NoOptions(Options):
    """A section without options."""


@dataclass(frozen=True)
class HoldOut(Options):
    """The options that every family's `[training]` section holds."""

    section: ClassVar[str] = "training"

    validation_fraction: Part = 0.2
    """Share of the rows that `train` holds out without `--folds`, grouped by prompt: 0 trains on
    every row; otherwise 1/2, 1/3, 0.25, 0.2 …"""
    seeds: Count = 1
    """Train this many models instead of one, with seeds `seed`, `seed + 1` …, and average their
    probabilities. The split and the folds stay those of `seed`."""


@dataclass(frozen=True)
class PriorOptions(Options):
    """Class rates of the training rows for every row: the score to beat."""


@dataclass(frozen=True)
class SparseOptions(Options):
    """TF-IDF differences and structural features into a Davidson regression
    (`humanpref.models.sparse`)."""

    preprocess: Preprocessing = "none"
    """Applied to a text before its words are counted: `none`; `nltk`, the report's preprocessing
    (`humanpref.text.clean`); `nltk-no-spaces`, the same with the report's mistake, which joins a
    text into one long word. Structural features see the original text."""
    word_ngrams: Annotated[int, whole(1, 5)] = 2
    """Longest word n-gram."""
    min_rows: Count = 3
    """A term must occur in at least this many texts (responses, or prompts for the tie score)."""
    max_terms: Annotated[int, at_least(0)] = 50_000
    """Keep at most this many response terms, the most frequent; the prompt's vocabulary is capped
    at a fifth of it. 0 leaves structure alone."""
    term_penalties: Penalties = (100.0, 30.0, 10.0, 3.0, 1.0)
    """L2 penalties on a TF-IDF weight, in rows; inner grouped folds of the training rows choose the
    best (a single value is used as it is)."""
    structure_penalties: Penalties = (1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
    """The same for the weight of a standardized structural feature."""


@dataclass(frozen=True)
class BoostedOptions(Options):
    """Structural features and text similarities into gradient-boosted trees
    (`humanpref.models.boosted`)."""

    rounds: Count | None = None
    """Trees per class. None: early stopping on inner grouped folds of the training rows finds the
    number."""
    max_rounds: Count = 2_000
    """Most trees per class that early stopping tries."""
    patience: Count = 50
    """Early stopping ends when the inner log loss has not fallen for this many rounds."""
    learning_rate: TreeShare = 0.04
    """Share of each tree that is added."""
    leaves: Annotated[int, whole(2, 1_000_000)] = 7
    """Most leaves of a tree."""
    min_child_weight: Float32Penalty = 5.0
    """Least hessian in a leaf; a row brings about 0.44."""
    l2: Float32Penalty = 10.0
    """L2 penalty on a leaf's score, in the same unit."""
    row_share: TreeShare = 0.7
    """Share of the rows that each tree learns from."""
    column_share: TreeShare = 0.3
    """Share of the columns that each tree may split."""
    seeds: Count = 5
    """Number of models that differ only in their draws of rows and columns; their scores are
    averaged."""
    selection: Literal["none", "forward", "backward"] = "none"
    """Wrapper selection of columns by the inner log loss: `forward` from none, `backward` from all
    candidates, or `none`."""
    candidates: Count = 24
    """Selection considers this many columns, those that LightGBM ranks highest; its cost grows with
    the square."""


@dataclass(frozen=True)
class EmbeddingOptions(Options):
    """Frozen embeddings and structural features into a Davidson regression
    (`humanpref.models.embedding`)."""

    backbone: Name = "sentence-transformers/all-MiniLM-L6-v2"
    """Folder or hub name of a sentence-transformer or another encoder that transformers' AutoModel
    loads. It is not trained."""
    max_length: Annotated[int, whole(8, 32_768, "tokens")] | None = None
    """Tokens per window, special tokens included. None: the sentence-transformer's own limit, or up
    to 512."""
    max_windows: Annotated[int, whole(1, 1_000)] = 4
    """Most windows of one text; a longer text keeps its head and its tail."""
    components: Count = 32
    """Principal components of the embeddings that the head reads. A thousand rows support no more;
    tens of thousands may."""
    keep_backbone: bool = True
    """Save the backbone in the artifact, which then predicts anywhere. Otherwise `backbone` must be
    present with the same weights to predict."""
    embedding_penalties: Penalties = (10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0)
    """L2 penalties on the weight of a component, cosine or attention score, in rows; inner grouped
    folds of the training rows choose the best (a single value is used as it is)."""
    structure_penalties: Penalties = (1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
    """The same for the weight of a standardized structural feature."""


@dataclass(frozen=True)
class ForwardOptions(Options):
    """How a network runs over rows without learning from them: the `[inference]` section of the
    frozen embeddings, and a part of that of every neural family."""

    section: ClassVar[str] = "inference"

    batch_tokens: Count = 16_384
    """Tokens in one forward pass, padding included."""
    precision: Precision = "auto"
    """`bf16`, `fp16`, `no`, or `auto`: bf16 where the GPU has it in hardware, else fp16 on a GPU,
    else no."""


@dataclass(frozen=True)
class BlendOptions(Options):
    """Several models and the weights between them (`humanpref.models.blend`)."""

    members: Annotated[
        tuple[str, ...],
        Bound("names of presets", lambda texts: all(text.strip() for text in texts)),
    ] = ()
    """Presets, each with optional settings after it, quoted as in a shell: `["sparse", "tiny
    training.epochs=2"]`. They share the run's seed. Empty in the artifacts that `humanpref blend`
    makes of others."""
    backbone: str = ""
    """Folder or hub name of the sentence encoder for members of family `embedding` that name none;
    without it they are left out."""
    folds: Annotated[int, at_least(2)] = 5
    """Inner grouped folds of the training rows, on which the members' out-of-fold predictions are
    made."""
    mean: Mean = "arithmetic"
    """Mean of the members' probabilities: `arithmetic` or `geometric`."""
    shrinkage: NonNegative = 10.0
    """Pull towards equal weights and no correction: `fit_blend` (in nats over all rows),
    `humanpref.models.blend_correction`."""
    min_gain: NonNegative = 1.0
    """Drop a member that lowers the log loss by less, in nats over all rows; special cases
    must gain as much, out of fold."""
