"""The options of the families `prior`, `sparse`, `boosted`, `embedding` and `blend`, and the
`[training]` options that all families share."""

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
# XGBoost converts these values to float32 and rejects any that underflow or overflow.
Float32Penalty = Annotated[
    float, Bound("0, or a number in [1e-9, 1e9]", lambda value: value == 0 or 1e-9 <= value <= 1e9)
]


@dataclass(frozen=True)
class NoOptions(Options):
    """A section without options."""


@dataclass(frozen=True)
class HoldOut(Options):
    """The options that the `[training]` section of every family has."""

    section: ClassVar[str] = "training"

    validation_fraction: Part = 0.2
    """Share of the rows that `train` holds out for validation unless `--folds` is given; rows with
    the same prompt stay together. The share is 0 (train on every row) or 1/k for a whole number k:
    0.5, 0.333, 0.25, 0.2 …"""
    seeds: Count = 1
    """Number of models to train, with the seeds `seed`, `seed + 1` …; their probabilities are
    averaged. The split and the folds depend only on `seed`."""
    classes: Annotated[int, whole(2, 3)] | None = None
    """Number of classes. With 2, there are no ties: P(tie) is exactly 0, the loss covers A and B
    only, and rows labeled as ties are refused. If `none`, the training file decides: 2 if its
    format has no ties, otherwise 3."""


@dataclass(frozen=True)
class PriorOptions(Options):
    """No options. The family predicts the class rates of the training rows for every row; its log
    loss is the score to beat."""


@dataclass(frozen=True)
class SparseOptions(Options):
    """A Davidson regression on TF-IDF differences and structural features
    (`humanpref.models.sparse`)."""

    preprocess: Preprocessing = "none"
    """Preprocessing of each text before its words are counted: `none`; `nltk`, as the report
    intended it (`humanpref.text.clean`); or `nltk-no-spaces`, as the report actually ran it, with a
    bug that joins each text into one long word. Structural features use the original text."""
    word_ngrams: Annotated[int, whole(1, 5)] = 2
    """Maximum number of words in an n-gram."""
    min_rows: Count = 3
    """Minimum number of distinct texts in which a term must occur to be used. Response terms are
    counted in responses, and prompt terms in prompts."""
    max_terms: Annotated[int, at_least(0)] = 50_000
    """Maximum number of response terms; the most frequent ones are kept. The maximum for prompt
    terms is a fifth of this number. If 0, only structural features are used."""
    term_penalties: Penalties = (100.0, 30.0, 10.0, 3.0, 1.0)
    """Candidate penalties p: for the weight w of each term, the fit adds p w²/2 to the loss summed
    over the rows. The best candidate is chosen on inner grouped folds of the training rows; if
    there is only one, it is used without selection."""
    structure_penalties: Penalties = (1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
    """Candidate penalties for the weights of standardized structural features; they are used like
    `term_penalties`."""


@dataclass(frozen=True)
class BoostedOptions(Options):
    """Gradient-boosted trees on structural features and text similarities
    (`humanpref.models.boosted`)."""

    used_with: ClassVar = {
        "max_rounds": ("rounds", (None,)),
        "patience": ("rounds", (None,)),
        "candidates": ("selection", ("forward", "backward")),
    }

    rounds: Count | None = None
    """Number of trees per class. If `none`, it is found by early stopping on inner grouped folds of
    the training rows."""
    max_rounds: Count = 2_000
    """Maximum number of trees per class that early stopping tries."""
    patience: Count = 50
    """Stop adding trees once the log loss on the inner folds has not fallen for this many
    rounds."""
    learning_rate: TreeShare = 0.04
    """Factor by which each tree's output is multiplied before it is added."""
    leaves: Annotated[int, whole(2, 1_000_000)] = 7
    """Maximum number of leaves per tree."""
    min_child_weight: Float32Penalty = 5.0
    """Minimum sum of hessians (second derivatives of the loss) in a leaf; each row contributes
    about 0.44."""
    l2: Float32Penalty = 10.0
    """L2 penalty on a leaf's score, in the same unit as `min_child_weight`."""
    row_share: TreeShare = 0.7
    """Share of the rows on which each tree is trained."""
    column_share: TreeShare = 0.3
    """Share of the columns on which each tree may split."""
    seeds: Count = 5
    """Number of models, which differ only in the rows and columns that their trees draw; their
    scores are averaged."""
    selection: Literal["none", "forward", "backward"] = "none"
    """Wrapper selection of columns by the inner log loss: `forward` starts with no columns,
    `backward` with all candidates; `none` skips the selection and uses all columns."""
    candidates: Count = 24
    """Number of columns that the selection considers: those that LightGBM ranks highest. The cost
    grows with the square of this number."""


@dataclass(frozen=True)
class EmbeddingOptions(Options):
    """A linear or neural head on frozen embeddings and structural features
    (`humanpref.models.embedding`)."""

    used_with: ClassVar = {
        **dict.fromkeys(("hidden", "weight_penalty", "steps"), ("head", ("mlp",))),
        **dict.fromkeys(("embedding_penalties", "structure_penalties"), ("head", ("linear",))),
    }

    backbone: Name = "sentence-transformers/all-MiniLM-L6-v2"
    """Folder or hub name of a sentence-transformer, or of any other encoder that can be loaded with
    transformers' AutoModel. It is not trained."""
    max_length: Annotated[int, whole(8, 32_768, "tokens")] | None = None
    """Maximum number of tokens per window, including special tokens. If `none`, a
    sentence-transformer's own limit applies; any other encoder reads up to 512."""
    max_windows: Annotated[int, whole(1, 1_000)] = 4
    """Maximum number of windows per text. If a text needs more, only its beginning and its end are
    read."""
    prompt_instruction: str | None = None
    """Instruction that the encoder reads before every window of a prompt: either a name under
    `prompts` in the folder's config_sentence_transformers.json or the instruction itself, which
    must have more than one word. If `none`, the folder's default is used if it has one; if empty,
    there is no instruction. `--set` drops leading and trailing spaces; a configuration file keeps
    them."""
    response_instruction: str | None = None
    """Instruction that the encoder reads before every window of a response; see
    `prompt_instruction`."""
    head: Literal["linear", "mlp"] = "linear"
    """`linear`: a Davidson regression; `mlp`: a neural network with one hidden layer, which reads
    both answers' embeddings, their difference and their product, and is meant for tens of thousands
    of rows."""
    hidden: Count = 16
    """Number of hidden units with `head=mlp`."""
    weight_penalty: NonNegative = 100.0
    """Penalty p with `head=mlp`: for each weight w, the fit adds p w²/2 to the loss summed over the
    rows."""
    steps: Count | None = None
    """Number of optimizer steps with `head=mlp`. If `none`, it is found by early stopping on inner
    grouped folds of the training rows."""
    components: Count = 32
    """Number of principal components to which the embeddings are reduced. A thousand rows do not
    support more than 32; tens of thousands may."""
    keep_backbone: bool = True
    """Save the backbone in the artifact, so that the artifact can predict anywhere. Otherwise, the
    backbone must be available at prediction, with the same weights
    (`humanpref.models.bases.places`)."""
    embedding_penalties: Penalties = (10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0)
    """Candidate penalties p with `head=linear`: for the weight w of each component, cosine or
    attention score, the fit adds p w²/2 to the loss summed over the rows. The best candidate is
    chosen on inner grouped folds of the training rows; if there is only one, it is used without
    selection."""
    structure_penalties: Penalties = (1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
    """Candidate penalties for the weights of standardized structural features, with `head=linear`;
    they are used like `embedding_penalties`."""


@dataclass(frozen=True)
class ForwardOptions(Options):
    """Options for running a network without training it. They are the complete `[inference]`
    section of family `embedding`, and part of that section in every neural family."""

    section: ClassVar[str] = "inference"

    batch_tokens: Count = 16_384
    """Maximum number of tokens in one forward pass, including padding."""
    precision: Precision = "auto"
    """`bf16`, `fp16`, `no`, or `auto`. `auto` means `bf16` if the GPU supports it in hardware,
    `fp16` on any other GPU, and `no` on a CPU. `bf16` is refused on a GPU that only emulates it,
    such as a T4."""


@dataclass(frozen=True)
class BlendOptions(Options):
    """A weighted mean of several models (`humanpref.models.blend`)."""

    members: Annotated[
        tuple[str, ...],
        Bound("names of presets", lambda texts: all(text.strip() for text in texts)),
    ] = ()
    """Presets, each optionally followed by settings, quoted as in a shell: `["sparse", "tiny
    training.epochs=2"]`. All members use the run's seed. The list is empty in artifacts that
    `humanpref blend` makes from other artifacts."""
    backbone: str = ""
    """Folder or hub name of the sentence encoder for members of family `embedding` that do not set
    `model.backbone`. If empty, those members are left out."""
    folds: Annotated[int, at_least(2)] = 5
    """Number of inner grouped folds of the training rows, for the members' out-of-fold
    predictions."""
    mean: Mean = "arithmetic"
    """Kind of mean of the members' probabilities: `arithmetic` or `geometric`."""
    shrinkage: NonNegative = 10.0
    """Strength with which the weights are pulled toward equality, the temperature toward 1, and the
    class rates of special cases toward known rates. It is measured against the log loss summed over
    all rows (in nats); see `fit_blend` and `humanpref.models.blend_correction`."""
    min_gain: NonNegative = 1.0
    """Minimum amount, in nats, by which a member must reduce the log loss summed over all rows.
    Members that reduce it by less are dropped."""
