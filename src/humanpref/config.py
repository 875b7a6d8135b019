"""The configuration of a run: frozen dataclasses, TOML presets, `section.key=value` overrides.

A run is described by one `Config`. Which options its sections hold depends on the model's family: an option of another family
is an unknown key, and an unknown key is an error. Each option is documented here, once.
"""

import dataclasses
import difflib
import json
import logging
import math
import shlex
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from humanpref.schema import InputError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "bf16", "fp16", "no")
INPUTS = ("dual", "joint")
TRUNCATIONS = ("parts", "end")
HEADS = ("linear", "interaction", "attention", "davidson", "rao-kupper")
LOSSES = ("cross-entropy", "dpo-like", "distillation")
OFFSETS = ("none", "structure")
SCORES = ("logits", "softmax", "log-softmax")
NORMALISATIONS = ("softmax", "clip")
MEANS = ("arithmetic", "geometric")
PEFT = ("lora", "rslora", "dora", "ia3", "layernorm", "bias", "head", "none")
BASE_DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTISATIONS = ("none", "8bit", "4bit")
LORA = ("lora", "rslora", "dora")
REFERENCED = (*LORA, "ia3", "layernorm")
LINKS = ("davidson", "rao-kupper")
TIES = ("drop", *LINKS)
DECODER_HEADS = ("linear", "mlp")
SYSTEM_PROMPT = "You see a prompt and two answers. Would a human who asked this like them, and which one better?"
"""The report's idea of a system prompt (it asks whether a human would like the response), in our words."""
PREPROCESSINGS = ("none", "nltk", "nltk-no-spaces")
FEATURES = ("plain", "all")
SELECTIONS = ("none", "forward", "backward")
SECTIONS = ("model", "training", "inference")


def _check(condition: bool, option: str, expected: str, value: object) -> None:
    if not condition:
        raise InputError(f"option {option}: expected {expected}, got {value!r}")


_PART = "0, or 1/k for a whole number k from 2 to a million"


def _is_part(fraction: float) -> bool:
    return fraction == 0 or (1e-6 <= fraction <= 0.5 and abs(1 / fraction - round(1 / fraction)) < 0.01)


@dataclass(frozen=True)
class HoldOut:
    """What every family's `[training]` section holds."""

    validation_fraction: float = 0.2
    """Share of the rows that `train` without `--folds` holds out, grouped by prompt: 0 (train on every row) or one part of
    several, 1/2, 1/3, 0.25, 0.2 …"""
    seeds: int = 1
    """Train so many models in place of each one, from the seeds `seed`, `seed + 1` …, and average their probabilities. The split
    and the folds stay those of `seed`."""

    def __post_init__(self) -> None:
        _check(self.seeds >= 1, "training.seeds", "at least 1", self.seeds)
        fraction = self.validation_fraction
        _check(_is_part(fraction), "training.validation_fraction", _PART, fraction)


@dataclass(frozen=True)
class PriorOptions:
    """The training rows' class rates for every row: the score to beat."""


@dataclass(frozen=True)
class SparseOptions:
    """TF-IDF differences and structural features into a Davidson regression (`humanpref.models.sparse`)."""

    preprocess: str = "none"
    """What happens to a text before its words are counted: `none`; `nltk`, the report's preprocessing
    (`humanpref.text.clean`); `nltk-no-spaces`, the same with the report's mistake, which makes one long word of a text.
    Structural features see the text as it is."""
    word_ngrams: int = 2
    """Longest word n-gram."""
    min_rows: int = 3
    """A term must stand in at least so many texts (responses, or prompts for the tie score)."""
    max_terms: int = 50_000
    """At most so many response terms, the most frequent; the prompt's vocabulary is capped at a fifth of it.
    0: structure alone."""
    term_penalties: tuple[float, ...] = (100.0, 30.0, 10.0, 3.0, 1.0)
    """L2 penalties on a TF-IDF weight, in rows; the best on inner grouped folds of the training rows is taken (one value: no
    choice)."""
    structure_penalties: tuple[float, ...] = (1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
    """The same for the weight of a standardised structural feature."""

    def __post_init__(self) -> None:
        _check(
            self.preprocess in PREPROCESSINGS,
            "model.preprocess",
            f"one of {', '.join(PREPROCESSINGS)}",
            self.preprocess,
        )
        _check(1 <= self.word_ngrams <= 5, "model.word_ngrams", "a whole number from 1 to 5", self.word_ngrams)
        _check(self.min_rows >= 1, "model.min_rows", "at least 1", self.min_rows)
        _check(self.max_terms >= 0, "model.max_terms", "at least 0", self.max_terms)
        for name in ("term_penalties", "structure_penalties"):
            values = getattr(self, name)
            _check(bool(values) and all(value > 0 for value in values), f"model.{name}", "positive numbers", values)


@dataclass(frozen=True)
class BoostedOptions:
    """Structural features and text similarities into gradient-boosted trees (`humanpref.models.boosted`)."""

    rounds: int | None = None
    """Trees per class. Unset: early stopping on inner grouped folds of the training rows finds it."""
    max_rounds: int = 2_000
    """Early stopping looks no further."""
    patience: int = 50
    """Early stopping ends when the inner log loss has not fallen for so many rounds."""
    learning_rate: float = 0.04
    """Share of each tree that is added."""
    leaves: int = 7
    """Leaves of a tree, at most."""
    min_child_weight: float = 5.0
    """A leaf holds at least so much hessian, of which a row brings about 0.44."""
    l2: float = 10.0
    """L2 penalty on a leaf's score, in the same unit."""
    row_share: float = 0.7
    """Share of the rows that each tree learns from."""
    column_share: float = 0.3
    """Share of the columns that each tree may split."""
    seeds: int = 5
    """Models that differ in the draws of rows and columns alone; their scores are averaged."""
    features: str = "plain"
    """Structural features beside the similarities: `plain`, those that `sparse` uses, or `all`, for which a thousand rows are too
    few."""
    selection: str = "none"
    """Wrapper selection of columns by the inner log loss: `forward` from none, `backward` from all candidates, or `none`."""
    candidates: int = 24
    """Selection chooses among so many columns, those that LightGBM finds most important; its cost grows with their square."""

    def __post_init__(self) -> None:
        for name in ("max_rounds", "patience", "seeds", "candidates"):
            _check(getattr(self, name) >= 1, f"model.{name}", "at least 1", getattr(self, name))
        _check(self.rounds is None or self.rounds >= 1, "model.rounds", "at least 1", self.rounds)
        _check(2 <= self.leaves <= 1_000_000, "model.leaves", "a whole number from 2 to 1000000", self.leaves)
        # XGBoost reads float32, and refuses what underflows or overflows there.
        for name in ("min_child_weight", "l2"):
            value = getattr(self, name)
            _check(value == 0 or 1e-9 <= value <= 1e9, f"model.{name}", "0, or a number in [1e-9, 1e9]", value)
        for name in ("learning_rate", "row_share", "column_share"):
            _check(1e-6 <= getattr(self, name) <= 1, f"model.{name}", "a number in [1e-6, 1]", getattr(self, name))
        _check(self.features in FEATURES, "model.features", f"one of {', '.join(FEATURES)}", self.features)
        _check(self.selection in SELECTIONS, "model.selection", f"one of {', '.join(SELECTIONS)}", self.selection)


@dataclass(frozen=True)
class EmbeddingOptions:
    """Frozen embeddings and structural features into a Davidson regression (`humanpref.models.embedding`)."""

    backbone: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A sentence-transformer or another encoder that transformers' AutoModel loads: a folder or hub name. It is not trained."""
    max_length: int | None = None
    """Tokens per window, special tokens included; unset: what the sentence-transformer says, or up to 512."""
    max_windows: int = 4
    """Windows of one text at most; a longer text keeps its head and its tail."""
    components: int = 32
    """Principal components of the embeddings that the head reads. A thousand rows have no use for more; tens of thousands may."""
    keep_backbone: bool = True
    """Save the backbone in the artifact, which then predicts anywhere. Without, `backbone` must be there with the same weights
    to predict."""
    embedding_penalties: tuple[float, ...] = (10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0)
    """L2 penalties on the weight of a component, cosine or attention score, in rows; the best on inner grouped folds of the
    training rows is taken (one value: no choice)."""
    structure_penalties: tuple[float, ...] = (1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
    """The same for the weight of a standardised structural feature."""

    def __post_init__(self) -> None:
        _check(self.backbone != "", "model.backbone", "a folder or a hub name", self.backbone)
        fits = self.max_length is None or 8 <= self.max_length <= 32_768
        _check(fits, "model.max_length", "8 to 32768 tokens, or unset", self.max_length)
        _check(self.components >= 1, "model.components", "at least 1", self.components)
        _check(1 <= self.max_windows <= 1_000, "model.max_windows", "a whole number from 1 to 1000", self.max_windows)
        for name in ("embedding_penalties", "structure_penalties"):
            values = getattr(self, name)
            _check(bool(values) and all(value > 0 for value in values), f"model.{name}", "positive numbers", values)


@dataclass(frozen=True)
class EncoderOptions:
    """The dual-branch encoder (`humanpref.models.encoder`)."""

    backbone: str = "scratch"
    """A folder or hub name that transformers' AutoModel loads; `scratch` builds a small DeBERTa-v2 from the `scratch_*` options,
    with a tokenizer trained on the training rows."""
    inputs: str = "dual"
    """`dual`: prompt + A and prompt + B, two sequences; `joint`: prompt, A and B in one."""
    max_length: int = 512
    """Tokens per sequence, special tokens included."""
    prompt_share: float = 0.3
    """Share of a sequence that the prompt keeps when not everything fits; the responses share the rest, and what one part leaves
    over the others take."""
    truncation: str = "parts"
    """`parts`: each part keeps its share and loses its middle; `end`: the sequence loses its end, answer B and all."""
    head: str = "linear"
    """`linear` (the report's), `interaction` ([a, b, a-b, a*b]), `attention` (the answers attend to each other), or the tie-aware
    `davidson` and `rao-kupper`, which exchange A and B exactly with dual inputs."""
    zero_start: bool = False
    """Let the head's last layer start at zero, so that the first prediction is a third each and not chance: with few rows, chance
    is most of what a head ends with."""
    offset: str = "none"
    """`structure`: fit the `sparse` model without terms first and let the encoder learn what its logits leave unexplained (they
    are added to the head's; for the training rows those of models that did not see the row). Mean pooling forgets how long
    and how formatted an answer is; this puts it back. `none`: start from nothing."""
    layer_norm: bool = False
    """LayerNorm before the head's first layer."""
    dropout: float = 0.0
    """Dropout before the head's first layer."""
    scores: str = "logits"
    """What the loss and the inference take for logits: the head's `logits`, or their `softmax` or `log-softmax` (the report's
    ablation)."""
    scratch_vocabulary: int = 1_500
    """Tokenizer size of the `scratch` backbone."""
    scratch_hidden_size: int = 48
    """Width of the `scratch` backbone."""
    scratch_layers: int = 1
    """Layers of the `scratch` backbone."""
    scratch_dropout: float = 0.1
    """Dropout inside the `scratch` backbone; pretrained ones have their own."""

    def __post_init__(self) -> None:
        _check(self.backbone != "", "model.backbone", "a folder, a hub name, or 'scratch'", self.backbone)
        _check(8 <= self.max_length <= 32_768, "model.max_length", "8 to 32768 tokens", self.max_length)
        _check(0 < self.prompt_share < 1, "model.prompt_share", "a number between 0 and 1", self.prompt_share)
        for name, known in (
            ("inputs", INPUTS),
            ("truncation", TRUNCATIONS),
            ("head", HEADS),
            ("scores", SCORES),
            ("offset", OFFSETS),
        ):
            _check(getattr(self, name) in known, f"model.{name}", f"one of {', '.join(known)}", getattr(self, name))
        _check(0 <= self.dropout < 1, "model.dropout", "a number in [0, 1)", self.dropout)
        _check(self.scratch_vocabulary >= 300, "model.scratch_vocabulary", "at least 300", self.scratch_vocabulary)
        _check(
            self.scratch_hidden_size >= 8 and self.scratch_hidden_size % 8 == 0,
            "model.scratch_hidden_size",
            "a multiple of 8",
            self.scratch_hidden_size,
        )
        _check(self.scratch_layers >= 1, "model.scratch_layers", "at least 1", self.scratch_layers)
        _check(0 <= self.scratch_dropout < 1, "model.scratch_dropout", "a number in [0, 1)", self.scratch_dropout)


@dataclass(frozen=True)
class BlendOptions:
    """Several models and the weights between them (`humanpref.models.blend`)."""

    members: tuple[str, ...] = ()
    """Each a preset, with settings of its own behind it if need be, quoted as in a shell: `["sparse", "tiny training.epochs=2"]`.
    The run's seed is theirs. Empty in the artifacts that `humanpref blend` makes of others."""
    backbone: str = ""
    """The folder or hub name of the sentence encoder for members of family `embedding` that name none; without it they are left
    out."""
    folds: int = 5
    """Inner grouped folds of the training rows, on which the members' out-of-fold predictions are made."""
    mean: str = "arithmetic"
    """Of the members' probabilities: `arithmetic` or `geometric`."""
    shrinkage: float = 10.0
    """Pull towards equal weights and no correction: `fit_blend` (in nats over all rows), `humanpref.models.correction`."""
    min_gain: float = 1.0
    """A member that lowers the log loss by less, in nats over all rows, is dropped; vector scaling and special cases are used
    from there on, out of fold."""

    def __post_init__(self) -> None:
        _check(all(text.strip() for text in self.members), "model.members", "names of presets", self.members)
        _check(self.folds >= 2, "model.folds", "at least 2", self.folds)
        _check(self.mean in MEANS, "model.mean", f"one of {', '.join(MEANS)}", self.mean)
        _check(self.shrinkage >= 0, "model.shrinkage", "at least 0", self.shrinkage)
        _check(self.min_gain >= 0, "model.min_gain", "at least 0", self.min_gain)


@dataclass(frozen=True)
class AdaptedOptions:
    """A pretrained decoder, mostly frozen: what to load, what it reads, which weights learn (`humanpref.models.adapters`)."""

    backbone: str = "meta-llama/Llama-3.2-1B"
    """A folder or hub name of a decoder that transformers loads: Llama, Qwen, Gemma, SmolLM …"""
    max_length: int = 1_024
    """Tokens per sequence, all fixed text included."""
    prompt_share: float = 0.2
    """Share of the room for texts that the prompt keeps when not everything fits; see the encoder's."""
    system_prompt: str = SYSTEM_PROMPT
    """Instructions before the conversation; empty for none. Where the model's chat template knows no system role, they stand at
    the start of the user's message."""
    peft: str = "lora"
    """Which weights learn: `lora`, `rslora` (LoRA scaled by alpha / sqrt r), `dora` (direction and magnitude apart), `ia3`
    (one factor for each key, value and feed-forward channel), `layernorm` (the gains of all norms), `bias` (the biases that the
    backbone has), `head` (nothing but the head) or `none` (no such method: every weight)."""
    lora_r: int = 16
    """Rank of `lora`, `rslora` and `dora`; it, like the next two, has no effect on the other methods."""
    lora_alpha: float = 32.0
    """Their scale: the update counts alpha / r times."""
    lora_dropout: float = 0.05
    """Dropout before their first matrix."""
    target_modules: str = "all-linear"
    """Where `lora`, `rslora`, `dora` and `ia3` sit: `all-linear`, or names with commas (`q_proj,v_proj`). For `ia3` all-linear
    means peft's choice for the model."""
    base_dtype: str = "auto"
    """Of the frozen weights: `float32`, `bfloat16`, `float16`, or `auto`: on a GPU the half precision that it really has, else
    float32. What learns is always float32."""
    quantisation: str = "none"
    """`8bit` or `4bit` (NF4): the frozen weights by bitsandbytes, on a CUDA GPU only."""

    def __post_init__(self) -> None:
        _check(self.backbone != "", "model.backbone", "a folder or a hub name", self.backbone)
        _check(16 <= self.max_length <= 131_072, "model.max_length", "16 to 131072 tokens", self.max_length)
        _check(0 < self.prompt_share < 1, "model.prompt_share", "a number between 0 and 1", self.prompt_share)
        for name, known in (("peft", PEFT), ("base_dtype", BASE_DTYPES), ("quantisation", QUANTISATIONS)):
            _check(getattr(self, name) in known, f"model.{name}", f"one of {', '.join(known)}", getattr(self, name))
        _check(self.lora_r >= 1, "model.lora_r", "at least 1", self.lora_r)
        _check(self.lora_alpha > 0, "model.lora_alpha", "above 0", self.lora_alpha)
        _check(0 <= self.lora_dropout < 1, "model.lora_dropout", "a number in [0, 1)", self.lora_dropout)
        _check(self.target_modules.strip(" ,") != "", "model.target_modules", "names", self.target_modules)
        whole = self.peft == "none"
        _check(not whole or self.quantisation == "none", "model.quantisation", "none with peft=none", self.quantisation)
        # bitsandbytes casts a layer's bias to the type of what comes in, so that it would not stay float32.
        biases = self.peft == "bias" and self.quantisation != "none"
        _check(not biases, "model.quantisation", "none with peft=bias", self.quantisation)
        _check(
            not whole or self.base_dtype in ("auto", "float32"),
            "model.base_dtype",
            "float32 with peft=none (what learns is float32)",
            self.base_dtype,
        )

    def idle(self) -> tuple[str, ...]:
        """The options that have no effect with this `peft`."""
        if self.peft in LORA:
            return ()
        own = ("lora_r", "lora_alpha", "lora_dropout")
        return own if self.peft == "ia3" else (*own, "target_modules")


@dataclass(frozen=True)
class DecoderOptions(AdaptedOptions):
    """A decoder that reads prompt, A and B at once and gives a score at its last token (`humanpref.models.decoder`)."""

    question: str = "Which response would a human prefer: A, B, or neither (a tie)?"
    """The last thing that the model reads."""
    head: str = "linear"
    """From the last token's vector to three scores: `linear`, or `mlp` (linear, GELU, linear)."""
    dropout: float = 0.0
    """Dropout before the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.head in DECODER_HEADS, "model.head", f"one of {', '.join(DECODER_HEADS)}", self.head)
        _check(0 <= self.dropout < 1, "model.dropout", "a number in [0, 1)", self.dropout)


@dataclass(frozen=True)
class DpoOptions(AdaptedOptions):
    """A language model whose probability of each response, against its frozen self's, is the reward (`humanpref.models.dpo`)."""

    system_prompt: str = ""
    """Instructions before the conversation that both responses continue; empty for none."""
    link: str = "davidson"
    """From the difference of the rewards to three probabilities: `davidson` or `rao-kupper`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.peft in REFERENCED, "model.peft", f"one of {', '.join(REFERENCED)}", self.peft)
        _check(self.link in LINKS, "model.link", f"one of {', '.join(LINKS)}", self.link)


@dataclass(frozen=True)
class LoopOptions(HoldOut):
    """What the training loop takes (`humanpref.training.loop`), whatever the loss."""

    epochs: int = 1
    """Passes over the training rows."""
    batch_size: int = 16
    """Rows in one batch."""
    accumulation: int = 1
    """Batches to one optimizer step; the effective batch is `batch_size * accumulation` rows."""
    forward_tokens: int = 4_096
    """Tokens in one forward pass, padding included: a batch that has more goes through the model in parts of similar lengths,
    which bounds the memory and changes nothing else."""
    learning_rate: float = 2e-5
    """Peak learning rate of AdamW; it falls linearly to 0 over the run."""
    head_learning_rate: float | None = None
    """The same for the head; unset: `learning_rate`. Not for `dpo`, which has no head."""
    layer_decay: float = 1.0
    """Each layer of the backbone learns at this share of the rate of the layer above it."""
    warmup: float = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, on matrices only (not on biases and norms)."""
    max_grad_norm: float | None = None
    """Clip the gradient's global norm to this; unset: no clipping."""
    gradient_checkpointing: bool = False
    """Compute the backbone's activations again in the backward pass: less memory, a third more time."""
    precision: str = "auto"
    """`bf16`, `fp16` (with gradient scaling), `no`, or `auto`: bf16 where the GPU really has it, else fp16 on a GPU, else no."""
    seconds: float | None = None
    """Stop after so many seconds of wall clock, validate and keep what was learned; the learning rate has then not reached 0.
    Started again, an interrupted run has the time anew. Unset: no limit."""
    patience: int | None = None
    """Stop when the validation log loss has not fallen for so many epochs, and keep the best one; see `keep_best_epoch`."""
    checkpoint_minutes: float = 10.0
    """Write the state of the run to disk this often, and after every epoch, for an interrupted run to go on from."""
    keep_best_epoch: bool = False
    """Keep the epoch with the lowest validation log loss instead of the last one. The validation figure is then chosen on the
    rows that it reports, and every report of it says so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.epochs >= 1, "training.epochs", "at least 1", self.epochs)
        _check(self.batch_size >= 1, "training.batch_size", "at least 1", self.batch_size)
        _check(self.accumulation >= 1, "training.accumulation", "at least 1", self.accumulation)
        _check(self.forward_tokens >= 1, "training.forward_tokens", "at least 1", self.forward_tokens)
        _check(0 < self.learning_rate < 1, "training.learning_rate", "a number between 0 and 1", self.learning_rate)
        _check(
            self.head_learning_rate is None or 0 < self.head_learning_rate < 1,
            "training.head_learning_rate",
            "a number between 0 and 1",
            self.head_learning_rate,
        )
        _check(0 < self.layer_decay <= 1, "training.layer_decay", "a number in (0, 1]", self.layer_decay)
        _check(0 <= self.warmup < 1, "training.warmup", "a number in [0, 1)", self.warmup)
        _check(self.weight_decay >= 0, "training.weight_decay", "at least 0", self.weight_decay)
        _check(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "training.max_grad_norm",
            "above 0",
            self.max_grad_norm,
        )
        _check(self.seconds is None or self.seconds > 0, "training.seconds", "above 0", self.seconds)
        _check(self.patience is None or self.patience >= 1, "training.patience", "at least 1", self.patience)
        _check(self.checkpoint_minutes > 0, "training.checkpoint_minutes", "above 0", self.checkpoint_minutes)
        _check(self.precision in PRECISIONS, "training.precision", f"one of {', '.join(PRECISIONS)}", self.precision)


@dataclass(frozen=True)
class GradientTraining(LoopOptions):
    """The `[training]` section of the classifiers that are trained by gradient descent."""

    loss: str = "cross-entropy"
    """`cross-entropy`; `dpo-like`, the report's Bradley-Terry term with cross-entropy for ties; `distillation`, for labels that
    are a teacher's probabilities."""
    label_smoothing: float = 0.0
    """Mix the labels with so much of the uniform distribution."""
    beta: float = 1.0
    """Sharpness of the `dpo-like` loss."""
    temperature: float = 1.0
    """Of the `distillation` loss: teacher and student are both softened by it."""
    swap_augmentation: bool = False
    """Learn from every row in both orders of A and B: twice the rows, and no side to prefer. Dual inputs give both orders in one
    pass: their epoch has as many rows as without, and costs no more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.loss in LOSSES, "training.loss", f"one of {', '.join(LOSSES)}", self.loss)
        _check(0 <= self.label_smoothing < 1, "training.label_smoothing", "a number in [0, 1)", self.label_smoothing)
        _check(self.beta > 0, "training.beta", "above 0", self.beta)
        _check(self.temperature > 0, "training.temperature", "above 0", self.temperature)


@dataclass(frozen=True)
class DpoTraining(LoopOptions):
    """The `[training]` section of Direct Preference Optimization (`humanpref.models.dpo`)."""

    beta: float = 0.1
    """Of the implicit reward beta (log pi - log pi_ref)."""
    label_smoothing: float = 0.0
    """Conservative DPO: the share of labels that are taken to be the wrong way round. With ties drop only."""
    length_normalisation: bool = False
    """Log-probabilities per response token instead of per response."""
    ties: str = "drop"
    """`drop`: learn from decided rows alone; `davidson` or `rao-kupper`: from all, through that link."""
    tie_at_zero: float = 0.5
    """The link's probability of a tie at equal rewards while training (the paper's 1/2); inference has its own, fitted one."""
    link_fraction: float = 0.1
    """Share of the training rows, grouped by prompt, that is kept for fitting the scale and the tie of the link from rewards to
    probabilities; 0 fits them on the rows that the policy learned from, which flatters the rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.beta > 0, "training.beta", "above 0", self.beta)
        _check(0 <= self.label_smoothing < 0.5, "training.label_smoothing", "in [0, 0.5)", self.label_smoothing)
        _check(
            self.label_smoothing == 0 or self.ties == "drop",
            "training.label_smoothing",
            f"0 with ties={self.ties}",
            self.label_smoothing,
        )
        _check(
            self.head_learning_rate is None,
            "training.head_learning_rate",
            "it unset: dpo has no head",
            self.head_learning_rate,
        )
        _check(self.ties in TIES, "training.ties", f"one of {', '.join(TIES)}", self.ties)
        _check(0 < self.tie_at_zero < 1, "training.tie_at_zero", "a number between 0 and 1", self.tie_at_zero)
        fraction = self.link_fraction
        _check(_is_part(fraction), "training.link_fraction", _PART, fraction)


@dataclass(frozen=True)
class NoOptions:
    """A section without options."""


@dataclass(frozen=True)
class EncoderInference:
    """The `[inference]` section of the neural families."""

    batch_tokens: int = 16_384
    """Tokens in one forward pass, padding included."""
    normalise: str = "softmax"
    """How scores become probabilities: `softmax`, or none: `clip` them to [1e-15, 1] and divide by their sum, as the metric does
    (the report's ablation)."""
    swap_average: bool = False
    """Average over both orders of A and B. Free for dual inputs; joint inputs are read twice."""
    precision: str = "auto"
    """As `training.precision`."""
    seconds: float | None = None
    """What `humanpref predict` may take, in seconds of wall clock, with the artifact, all its models together, where `--seconds`
    does not say otherwise. What will not fit is given up in this order: the second order of A and B, the middle of long inputs,
    and the rows that are left then, which get the training rows' class rates. Nothing is ever given up for figures, soft labels
    or scores (`train`, `evaluate`, `predict --labels`, `--teacher`, `score`), and Kaggle's kernel has a limit of its own (`bundle
    --infer-hours`). Unset: no limit."""

    def __post_init__(self) -> None:
        _check(self.batch_tokens >= 1, "inference.batch_tokens", "at least 1", self.batch_tokens)
        _check(
            self.normalise in NORMALISATIONS,
            "inference.normalise",
            f"one of {', '.join(NORMALISATIONS)}",
            self.normalise,
        )
        _check(self.precision in PRECISIONS, "inference.precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        _check(self.seconds is None or self.seconds > 0, "inference.seconds", "above 0", self.seconds)


@dataclass(frozen=True)
class EmbeddingInference:
    """The `[inference]` section of the frozen embeddings, which are inference in training as well."""

    batch_tokens: int = 16_384
    """As for the encoders."""
    precision: str = "auto"
    """As for the encoders."""

    def __post_init__(self) -> None:
        _check(self.batch_tokens >= 1, "inference.batch_tokens", "at least 1", self.batch_tokens)
        _check(self.precision in PRECISIONS, "inference.precision", f"one of {', '.join(PRECISIONS)}", self.precision)


@dataclass(frozen=True)
class DpoInference:
    """The `[inference]` section of `dpo`."""

    batch_tokens: int = 16_384
    """Tokens in one forward pass, padding included."""
    precision: str = "auto"
    """As `training.precision`."""
    seconds: float | None = None
    """As for the encoders."""

    def __post_init__(self) -> None:
        _check(self.batch_tokens >= 1, "inference.batch_tokens", "at least 1", self.batch_tokens)
        _check(self.precision in PRECISIONS, "inference.precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        _check(self.seconds is None or self.seconds > 0, "inference.seconds", "above 0", self.seconds)


@dataclass(frozen=True)
class _Family:
    model: type
    training: type
    inference: type


FAMILIES = {
    "prior": _Family(PriorOptions, HoldOut, NoOptions),
    "sparse": _Family(SparseOptions, HoldOut, NoOptions),
    "embedding": _Family(EmbeddingOptions, HoldOut, EmbeddingInference),
    "boosted": _Family(BoostedOptions, HoldOut, NoOptions),
    "encoder": _Family(EncoderOptions, GradientTraining, EncoderInference),
    "blend": _Family(BlendOptions, HoldOut, NoOptions),
    "decoder": _Family(DecoderOptions, GradientTraining, EncoderInference),
    "dpo": _Family(DpoOptions, DpoTraining, DpoInference),
}


@dataclass(frozen=True)
class Config:
    """One run: the family, the seed, and the family's three sections."""

    family: str
    """One of `FAMILIES`."""
    preset: str = ""
    """The preset that the run started from; empty for none."""
    seed: int = 42
    """Seed of every random choice: split, shuffling, initial weights, dropout."""
    model: Any = field(default_factory=NoOptions)
    training: Any = field(default_factory=NoOptions)
    inference: Any = field(default_factory=NoOptions)

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**32, "seed", "a whole number from 0 to 2^32 - 1", self.seed)

    @property
    def parts(self) -> list["Config"]:
        """The models that this one trains: those of a blend's members (as their presets have them), or itself."""
        if not isinstance(self.model, BlendOptions):
            return [self]
        return [load_config(*member_words(text)) for text in self.model.members]

    @property
    def uses_gpu(self) -> bool:
        """Whether some part of it computes on a GPU where there is one."""
        return any(not isinstance(part.inference, NoOptions) for part in self.parts)

    @property
    def needs_gpu(self) -> bool:
        """Whether it would take days without a GPU: some part of it trains pretrained weights by gradient descent.

        What is made from nothing, or stays frozen, is small. It follows from the options, so that it holds for overrides and
        for the configuration of an artifact, too; quantisation, which only a GPU can, goes with such weights alone.
        """
        return any(isinstance(part.training, LoopOptions) and part.model.backbone != "scratch" for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON types; `from_dict` reads it back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def from_dict(values: dict[str, Any], source: str) -> Config:
    """Build a configuration from nested plain values.

    Parameters
    ----------
    values : dict
        `family`, optionally `preset` and `seed`, and the sections `model`, `training`, `inference`; what is left out keeps
        its default.
    source : str
        Where the values come from, for messages.

    Raises
    ------
    InputError
        For an unknown key (the nearest valid one is named), a value of the wrong type or out of range.
    """
    family = _family(values.get("family"), source)
    sections = FAMILIES[family]
    valid = valid_keys(family)
    for key, value in values.items():
        if key in SECTIONS:
            if not isinstance(value, dict):
                raise InputError(f"{source}: [{key}] is a section, got {value!r}")
            for name in value:
                _known(f"{key}.{name}", valid, family, source)
        else:
            _known(key, valid, family, source)
    built = {name: _build(getattr(sections, name), values.get(name, {}), name, source) for name in SECTIONS}
    plain = {key: _typed(Config, key, values[key], key, source) for key in ("preset", "seed") if key in values}
    return Config(family=family, **plain, **built)


def load_config(
    preset: str | None = None, file: Path | None = None, overrides: tuple[str, ...] | list[str] = ()
) -> Config:
    """Resolve a configuration: the preset, then the file's values over it, then the overrides.

    Parameters
    ----------
    preset : str, optional
        A name from `preset_names()`. Without it the file must name a `preset` or a `family`.
    file : Path, optional
        A TOML file with the same keys as a preset.
    overrides : sequence of str
        `section.key=value` (or `seed=value`); the value is read as TOML, or taken as it stands where the option is a text.

    Raises
    ------
    InputError
        For an unknown preset or key, an unreadable file, or a value that does not fit.

    An option that is set here and has no effect with the `model.peft` is warned of. (It may be meant for other methods of the
    same comparison.)
    """
    from_file: dict[str, Any] = {}
    if file is not None:
        from_file = read_toml(Path(file))
        named = from_file.get("preset", preset)
        if not isinstance(named, str | None) or preset not in (None, named):
            raise InputError(f"{file}: option preset: expected {preset or 'a name'!r}, got {named!r}")
        preset = named
    if preset is None and "family" not in from_file:
        raise InputError("name a preset (--preset NAME), or a family in the configuration file")
    values: dict[str, Any] = _read_preset(preset) | {"preset": preset} if preset is not None else {}
    source = f"preset {preset}" if file is None else str(file)
    family = _family(values.get("family", from_file.get("family")), source)
    if from_file.get("family", family) != family:
        raise InputError(f"{file}: family {from_file['family']!r} does not fit preset {preset} (family {family!r})")
    for key, value in from_file.items():
        if key in SECTIONS and isinstance(value, dict):
            values[key] = {**values.get(key, {}), **value}
        elif key in SECTIONS:
            raise InputError(f"{file}: [{key}] is a section, got {value!r}")
        elif key != "preset":
            values[key] = value
    for override in overrides:
        _apply(override, values, family)
    config = from_dict(values, source if not overrides else f"{source} with --set")
    if isinstance(config.model, AdaptedOptions):
        named = {override.partition("=")[0].strip() for override in overrides}
        named |= {f"model.{name}" for name in from_file.get("model", {})}
        for name in config.model.idle():
            if f"model.{name}" in named:
                logger.warning("option model.%s: has no effect with model.peft=%s", name, config.model.peft)
    return config


def member_words(text: str) -> tuple[str, None, list[str]]:
    """What a blend's member says, as `load_config` takes it: a preset, no file, and overrides."""
    try:
        preset, *overrides = shlex.split(text)
    except ValueError as error:
        raise InputError(f"option model.members: {text!r}: expected a preset and its settings ({error})") from None
    return preset, None, overrides


def preset_names() -> list[str]:
    """The presets that come with the package, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _presets().iterdir() if entry.name.endswith(".toml"))


def valid_keys(family: str) -> list[str]:
    """Every key that `--set` and TOML files may name for this family."""
    sections = FAMILIES[family]
    keys = ["family", "preset", "seed"]
    for name in SECTIONS:
        keys += [f"{name}.{option.name}" for option in dataclasses.fields(getattr(sections, name))]
    return keys


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one line why not."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None


def _presets() -> Traversable:
    return resources.files("humanpref") / "presets"


def _read_preset(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise InputError(f"unknown preset {name!r}{_nearest(name, names)}; the presets are {', '.join(names)}")
    return tomllib.loads((_presets() / f"{name}.toml").read_text(encoding="utf-8"))


def _nearest(key: str, valid: list[str]) -> str:
    """A hint at the valid key that looks most like `key`, its section apart: the right option in a wrong section is found."""

    def likeness(name: str) -> tuple[float, float]:
        last = difflib.SequenceMatcher(None, key.rsplit(".", 1)[-1], name.rsplit(".", 1)[-1]).ratio()
        return last, difflib.SequenceMatcher(None, key, name).ratio()

    nearest = max(valid, key=likeness)
    # Of the section alone nothing is known: `model.x` is like every `model.y`.
    return f" (did you mean {nearest!r}?)" if likeness(nearest)[0] >= 0.6 else ""


def _known(key: str, valid: list[str], family: str, source: str) -> None:
    if key not in valid:
        raise InputError(f"{source}: unknown option {key!r} for family {family}{_nearest(key, valid)}")


def _family(name: Any, source: str) -> str:
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(f"{source}: option family: expected one of {', '.join(FAMILIES)}, got {name!r}")
    return name


def _apply(override: str, values: dict[str, Any], family: str) -> None:
    key, equals, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise InputError(f"--set {override!r}: expected section.key=value")
    _known(key, [name for name in valid_keys(family) if name not in ("family", "preset")], family, "--set")
    section, _, name = key.rpartition(".")
    owner = getattr(FAMILIES[family], section) if section else Config
    value: Any = text
    if str not in _accepted(typing.get_type_hints(owner)[name]):
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
    if section:
        values[section] = {**values.get(section, {}), name: value}
    else:
        values[name] = value


def _build(kind: type, values: dict[str, Any], section: str, source: str) -> Any:
    typed = {name: _typed(kind, name, value, f"{section}.{name}", source) for name, value in values.items()}
    try:
        return kind(**typed)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _accepted(hint: Any) -> tuple[type, ...]:
    """The plain types that a field's annotation admits."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(option) or option for option in options)


def _typed(kind: type, name: str, value: Any, option: str, source: str) -> Any:
    """`value` as the field's type; whole numbers pass as floats, lists as tuples, nothing else is bent."""
    hint = typing.get_type_hints(kind)[name]
    accepted = _accepted(hint)
    if float in accepted and type(value) is int and abs(value) < 1e300:
        value = float(value)
    texts = hint == tuple[str, ...]
    if tuple in accepted and (isinstance(value, str) if texts else type(value) in (int, float)):
        value = (value,)
    if tuple in accepted and isinstance(value, list | tuple):
        if texts and all(isinstance(item, str) for item in value):
            value = tuple(value)
        elif not texts and all(type(item) in (int, float) for item in value):
            value = tuple(float(item) for item in value)
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        raise InputError(f"{source}: option {option}: expected a finite number, got {value!r}")
    if type(value) not in accepted:
        items = "a list of texts" if texts else "a list of numbers"
        readable = " or ".join({"NoneType": "unset", "tuple": items}.get(t.__name__, t.__name__) for t in accepted)
        raise InputError(f"{source}: option {option}: expected {readable}, got {value!r}")
    return value
