"""The options of the neural families: encoder, decoder and DPO."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from humanpref.config.bounds import (
    Bound,
    Count,
    Name,
    NonNegative,
    OpenShare,
    Options,
    Positive,
    Share,
    at_least,
    whole,
)
from humanpref.config.cpu import ForwardOptions, HoldOut, Part, Precision

Head = Literal["linear", "interaction", "attention", "davidson", "rao-kupper"]

LORA = ("lora", "rslora", "dora")
"""The methods for which `lora_r`, `lora_alpha` and `lora_dropout` have an effect."""
REFERENCED = (*LORA, "ia3", "layernorm")
"""The methods that peft can disable. Disabling one turns DPO's policy into its reference model."""
SYSTEM_PROMPT = (
    "You see a prompt and two answers. Would a human who asked this like them, and which one "
    "better?"
)
"""The report's system prompt in our own words. It asks whether a human would like the response."""

SCRATCH = "scratch"
"""The value of `model.backbone` for a backbone that is built from options. It never names a folder,
even if a folder with this name exists."""


@dataclass(frozen=True)
class EncoderOptions(Options):
    """A classifier on top of an encoder (`humanpref.models.encoder`)."""

    used_with: ClassVar = dict.fromkeys(
        ("scratch_vocabulary", "scratch_hidden_size", "scratch_layers", "scratch_dropout"),
        ("backbone", (SCRATCH,)),
    )

    backbone: Name = SCRATCH
    """Folder or hub name of an encoder that can be loaded with transformers' AutoModel. `scratch`
    builds a small DeBERTa-v2 from the `scratch_*` options, with a tokenizer trained on the training
    rows."""
    attention: Literal["fused", "eager"] = "fused"
    """Code that computes the attention of a DeBERTa-v2 or -v3 backbone (and of `scratch`): `fused`,
    which causes less memory traffic, or `eager`, which is transformers' own. The results are the
    same up to rounding, but dropout draws different random numbers. Other backbones use
    transformers' default, whatever the value."""
    inputs: Literal["dual", "joint"] = "dual"
    """`dual`: two sequences, prompt + A and prompt + B; `joint`: one sequence with prompt, A and
    B."""
    max_length: Annotated[int, whole(8, 32_768, "tokens")] = 512
    """Maximum tokens per sequence, including special tokens."""
    prompt_share: OpenShare = 0.3
    """Share of a sequence that the prompt keeps when not everything fits. The responses share the
    rest, and tokens that one part does not need are given to the other parts."""
    truncation: Literal["parts", "end"] = "parts"
    """`parts`: each part keeps its share and is cut in the middle; `end`: the end of the sequence,
    which includes answer B, is cut off."""
    head: Head = "linear"
    """`linear` (as in the report), `interaction` ([a, b, a-b, a*b]), `attention` (the answers
    attend to each other), or the tie-aware `davidson` and `rao-kupper`, which with dual inputs are
    exactly symmetric in A and B."""
    zero_start: bool = False
    """Initialize the head's last layer to zero, so that initial predictions are 1/3 for each class
    rather than random; with few rows, that randomness dominates the trained head."""
    offset: Literal["none", "structure"] = "none"
    """`structure`: first fit the `sparse` model on structural features only, and add its logits to
    the head's. The encoder then learns only what these logits leave unexplained. Each training
    row's logits come from a model that was not trained on the row. The offset restores the length
    and formatting of an answer, which mean pooling discards. `none`: no offset."""
    layer_norm: bool = False
    """Apply LayerNorm before the head's first layer."""
    dropout: Share = 0.0
    """Dropout before the head's first layer."""
    scores: Literal["logits", "softmax", "log-softmax"] = "logits"
    """Input to the loss and to inference: the head's `logits`, or their `softmax` or `log-softmax`
    (the report's ablation)."""
    scratch_vocabulary: Annotated[int, at_least(300)] = 1_500
    """Vocabulary size of the `scratch` backbone's tokenizer."""
    scratch_hidden_size: Annotated[
        int, Bound("a multiple of 8", lambda value: value >= 8 and value % 8 == 0)
    ] = 48
    """Width of the `scratch` backbone."""
    scratch_layers: Count = 1
    """Number of layers of the `scratch` backbone."""
    scratch_dropout: Share = 0.1
    """Dropout inside the `scratch` backbone. A pretrained backbone uses the dropout in its
    configuration."""


@dataclass(frozen=True)
class AdaptedOptions(Options):
    """A pretrained decoder, most of whose weights are frozen: its backbone, its inputs and its
    trained weights (`humanpref.models.adapters`)."""

    used_with: ClassVar = {
        **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout"), ("peft", LORA)),
        "target_modules": ("peft", (*LORA, "ia3")),
    }

    backbone: Name = "meta-llama/Llama-3.2-1B"
    """Folder or hub name of a decoder that transformers can load: Llama, Qwen, Gemma, SmolLM …"""
    max_length: Annotated[int, whole(16, 131_072, "tokens")] = 1_024
    """Maximum tokens per sequence, including all fixed text."""
    prompt_share: OpenShare = 0.2
    """Share of a sequence's tokens, fixed text excluded, that the prompt keeps when not everything
    fits. The responses share the rest, and tokens that one part does not need are given to the
    other parts."""
    system_prompt: str = SYSTEM_PROMPT
    """Instructions before the conversation; empty for none. If the model's chat template has no
    system role, they are put at the start of the user's message."""
    peft: Literal["lora", "rslora", "dora", "ia3", "layernorm", "bias", "head", "none"] = "lora"
    """Weights to train: `lora`, `rslora` (LoRA scaled by alpha / sqrt r), `dora` (separate
    direction and magnitude), `ia3` (one factor for each key, value and feed-forward channel),
    `layernorm` (the gains of all norms), `bias` (the backbone's existing biases), `head` (only the
    head) or `none` (all weights, without such a method)."""
    lora_r: Count = 16
    """Rank of `lora`, `rslora` and `dora`. `lora_r`, `lora_alpha` and `lora_dropout` have no effect
    with other methods."""
    lora_alpha: Positive = 32.0
    """Scale of `lora`, `rslora` and `dora`: the update is multiplied by alpha / r (by alpha /
    sqrt r for `rslora`)."""
    lora_dropout: Share = 0.05
    """Dropout before the first matrix of `lora`, `rslora` and `dora`."""
    target_modules: Annotated[str, Bound("names", lambda text: text.strip(" ,") != "")] = (
        "all-linear"
    )
    """Layers to which `lora`, `rslora`, `dora` and `ia3` are applied: `all-linear`, or names
    separated by commas (`q_proj,v_proj`). For `ia3`, `all-linear` means peft's default for the
    model."""
    base_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights: `float32`, `bfloat16`, `float16` or `auto`. On a GPU, `auto`
    means `bfloat16` if the GPU supports it in hardware, otherwise `float16`; on a CPU, it means
    `float32`. `bfloat16` is refused on a GPU that only emulates it. Trained weights are always
    float32."""
    quantisation: Literal["none", "8bit", "4bit"] = "none"
    """Quantize the frozen weights to `8bit` or `4bit` (NF4) with bitsandbytes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.quantisation == "none"
        # bitsandbytes casts a layer's bias to the type of its input, so trained biases would no
        # longer be float32.
        fits = plain or self.peft not in ("none", "bias")
        self.require(fits, "quantisation", f"none with peft={self.peft}")
        whole = self.base_dtype in ("auto", "float32")
        self.require(
            whole or self.peft != "none",
            "base_dtype",
            "float32 with peft=none (trained weights are float32)",
        )


def answer_words(answers: str) -> list[str]:
    """Return the words in the option `model.answers`, which are separated by commas."""
    return [word.strip() for word in answers.split(",")]


def _are_answers(answers: str) -> bool:
    words = answer_words(answers)
    return len(words) == len(set(words)) == 3 and all(words)


@dataclass(frozen=True)
class DecoderOptions(AdaptedOptions):
    """A decoder that reads prompt, A and B in one sequence and predicts scores from its last token
    (`humanpref.models.decoder`)."""

    used_with: ClassVar = AdaptedOptions.used_with | {"answers": ("head", ("tokens",))}

    question: str = "Which response would a human prefer: A, B, or neither (a tie)?"
    """The last text that the model reads. With `head=tokens`, it is followed by a sentence that
    names the `answers`."""
    head: Literal["linear", "mlp", "tokens"] = "linear"
    """Maps the last token's vector to three scores: `linear`, `mlp` (linear, GELU, linear), or
    `tokens`: the model's own scores for the words in `answers`, without new weights."""
    answers: Annotated[str, Bound("three different words, separated by commas", _are_answers)] = (
        "A,B,tie"
    )
    """The words for response A, response B and a tie, with `head=tokens`. Each must be a single
    token at the position where the model's answer begins. With two classes, the third word is not
    offered to the model."""
    head_bias: bool = False
    """Add a bias to each of the three scores; not available with `head=tokens`. Without it,
    `humanpref export` can write the model as a plain classifier of transformers, whose last layer
    has no bias."""
    dropout: Share = 0.0
    """Dropout before the head; not available with `head=tokens`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        new = self.head != "tokens"
        self.require(new or not self.dropout, "dropout", "0 with head=tokens")
        self.require(new or not self.head_bias, "head_bias", "false with head=tokens")


@dataclass(frozen=True)
class DpoOptions(AdaptedOptions):
    """A language model that rewards a response. The reward grows with the ratio of the response's
    probability to its probability under a frozen reference model (`humanpref.models.dpo`)."""

    system_prompt: str = ""
    """Instructions before the conversation that both responses continue; empty for none."""
    link: Literal["davidson", "rao-kupper"] = "davidson"
    """Maps the difference of the rewards to three probabilities: `davidson` or `rao-kupper`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.peft in REFERENCED, "peft", f"one of {', '.join(REFERENCED)}")


@dataclass(frozen=True)
class LoopOptions(HoldOut):
    """The options of the training loop (`humanpref.training.loop`), for any loss."""

    epochs: Count = 1
    """Passes over the training rows."""
    batch_size: Count = 16
    """Rows per batch."""
    accumulation: Count = 1
    """Batches per optimizer step; the effective batch is `batch_size * accumulation` rows."""
    forward_tokens: Count = 4_096
    """Maximum tokens in one forward pass, including padding. A larger batch goes through the model
    in parts, each with rows of similar length; this bounds the memory and changes nothing else. The
    value is halved for the rest of the run whenever memory runs out."""
    learning_rate: OpenShare = 2e-5
    """Peak learning rate of AdamW; it falls linearly to 0 over the run."""
    head_learning_rate: OpenShare | None = None
    """Peak learning rate of the head; if `none`, `learning_rate`. Not available for `dpo`, which
    has no head."""
    layer_decay: Annotated[float, Bound("a number in (0, 1]", lambda value: 0 < value <= 1)] = 1.0
    """The learning rate of each backbone layer is this factor times the learning rate of the layer
    above it."""
    warmup: Share = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: NonNegative = 0.01
    """AdamW's decoupled weight decay, applied only to matrices (not to biases and norms)."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's global norm to this value. If `none`, it is not clipped."""
    gradient_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass, which saves memory and takes a
    third more time."""
    freeze_embeddings: bool = False
    """Do not train the backbone's token embeddings, which are half of DeBERTa-v3-base's weights.
    This saves the memory of their gradients and of AdamW's moments, and the time to exchange the
    gradients between processes. Peft methods freeze the embeddings anyway."""
    precision: Precision = "auto"
    """`bf16`, `fp16` (with gradient scaling), `no`, or `auto`: `bf16` if the GPU supports it in
    hardware, `fp16` on any other GPU, `no` on a CPU. `bf16` is refused on a GPU that only emulates
    it, such as a T4."""
    seconds: Positive | None = None
    """Stop training after this many seconds of wall-clock time, then validate and keep the weights,
    although the learning rate has not yet reached 0. A resumed run restarts the clock. If `none`,
    there is no limit."""
    patience: Count | None = None
    """Stop when the validation log loss has not fallen for this many epochs, and keep the weights
    of the best epoch; see `keep_best_epoch`. If `none`, train for all epochs."""
    checkpoint_minutes: Positive = 10.0
    """Number of minutes between checkpoints, which allow an interrupted run to resume. A checkpoint
    is also written after every epoch."""
    keep_best_epoch: bool = False
    """Keep the weights of the epoch with the lowest validation log loss instead of those of the
    last epoch. The validation metrics are then reported on the same rows that were used to choose
    the epoch, and every report says so."""


@dataclass(frozen=True)
class GradientTraining(LoopOptions):
    """The `[training]` section of the classifiers that are trained by gradient descent."""

    used_with: ClassVar = {
        "beta": ("loss", ("dpo-like",)),
        "temperature": ("loss", ("distillation",)),
    }

    loss: Literal["cross-entropy", "dpo-like", "distillation"] = "cross-entropy"
    """`cross-entropy`; `dpo-like`: the report's Bradley-Terry term, with cross-entropy for ties;
    `distillation`: for labels that are a teacher's probabilities."""
    label_smoothing: Share = 0.0
    """Mix the labels with this share of the uniform distribution."""
    beta: Positive = 1.0
    """Sharpness of the `dpo-like` loss."""
    temperature: Positive = 1.0
    """Temperature of the `distillation` loss, which softens both teacher and student."""
    swap_augmentation: bool = False
    """Train on every row in both orders of A and B, which doubles the rows and leaves the model no
    reason to favor one side. Dual inputs give both orders in one pass at no extra cost."""


@dataclass(frozen=True)
class DecoderTraining(GradientTraining):
    """The `[training]` section of the decoders."""

    epochs: Annotated[int, at_least(0)] = 1
    """Passes over the training rows. With 0, which needs `model.head=tokens`, the model's weights
    are not trained. Only a temperature and three biases are fitted on the training rows, which are
    read in both orders of A and B. The options of the training loop then have no effect."""


@dataclass(frozen=True)
class DpoTraining(LoopOptions):
    """The `[training]` section of Direct Preference Optimization (`humanpref.models.dpo`)."""

    beta: Positive = 0.1
    """The factor beta in the implicit reward, beta (log pi - log pi_ref)."""
    label_smoothing: Annotated[
        float, Bound("a number in [0, 0.5)", lambda value: 0 <= value < 0.5)
    ] = 0.0
    """Conservative DPO: the share of labels assumed to be flipped. Only available with
    ties=drop."""
    length_normalisation: bool = False
    """Use log-probabilities per response token instead of per response."""
    ties: Literal["drop", "davidson", "rao-kupper"] = "drop"
    """`drop`: train only on rows that are not ties; `davidson` or `rao-kupper`: train on all rows
    through that link."""
    tie_at_zero: OpenShare = 0.5
    """The link's probability of a tie at equal rewards during training (1/2 in the paper); at
    inference, a fitted probability is used."""
    link_fraction: Part = 0.1
    """Share of the training rows reserved for fitting the scale and the tie parameter of the link
    from rewards to probabilities; rows with the same prompt stay together. With 0, the link is
    fitted on the rows on which the policy was trained, where the rewards look better than they
    are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.label_smoothing == 0 or self.ties == "drop"
        self.require(plain, "label_smoothing", f"0 with ties={self.ties}")
        self.require(self.head_learning_rate is None, "head_learning_rate", "none: dpo has no head")


@dataclass(frozen=True)
class DpoInference(ForwardOptions):
    """The `[inference]` section of `dpo`."""

    seconds: Positive | None = None
    """Default time limit of `humanpref predict` for the artifact, in seconds of wall-clock time;
    `--seconds` overrides it. To stay within it, prediction skips, in this order: the second order
    of A and B, the middle of long inputs, and the remaining rows, which get the class rates of the
    training rows. The limit does not apply to metrics, soft labels and scores (`train`, `evaluate`,
    `predict --labels`, `--teacher`, `score`), and Kaggle's kernel has a separate limit (`bundle
    --infer-hours`). If `none`, there is no limit."""


@dataclass(frozen=True)
class EncoderInference(DpoInference):
    """The `[inference]` section of the encoders and decoders."""

    normalise: Literal["softmax", "clip"] = "softmax"
    """How scores become probabilities: `softmax`, or `clip`, which omits the softmax, clips scores
    to [1e-15, 1] and divides them by their sum, as the metric does (the report's ablation)."""
    swap_average: bool = False
    """Average the predictions for both orders of A and B. This is free for dual inputs; joint
    inputs are read twice."""


def check_sections(model: DecoderOptions, training: DecoderTraining) -> None:
    """Raise InputError if a decoder's `model` and `training` options contradict each other."""
    if model.head != "tokens":
        training.require(training.epochs > 0, "epochs", "at least 1 without model.head=tokens")
        return
    rate = training.head_learning_rate
    training.require(rate is None, "head_learning_rate", "none with model.head=tokens")
    trained = model.peft != "head" or training.epochs == 0
    model.require(trained, "peft", "another method with head=tokens, which has no new weights")
