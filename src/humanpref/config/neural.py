"""The options of the neural families: encoder, decoder and DPO."""

from dataclasses import dataclass
from typing import Annotated, Literal

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
"""The methods that `lora_r`, `lora_alpha` and `lora_dropout` belong to."""
REFERENCED = (*LORA, "ia3", "layernorm")
"""The methods that peft can switch off, which turns the policy into its reference."""
SYSTEM_PROMPT = (
    "You see a prompt and two answers. Would a human who asked this like them, and which one "
    "better?"
)
"""The report's idea of a system prompt (it asks whether a human would like the response), in our
words."""


@dataclass(frozen=True)
class EncoderOptions(Options):
    """The encoder (`humanpref.models.encoder`)."""

    backbone: Name = "scratch"
    """Folder or hub name that transformers' AutoModel loads; `scratch` builds a small DeBERTa-v2
    from the `scratch_*` options, with a tokenizer trained on the training rows."""
    inputs: Literal["dual", "joint"] = "dual"
    """`dual`: prompt + A and prompt + B, two sequences; `joint`: prompt, A and B in one."""
    max_length: Annotated[int, whole(8, 32_768, "tokens")] = 512
    """Tokens per sequence, special tokens included."""
    prompt_share: OpenShare = 0.3
    """Share of a sequence that the prompt keeps when not everything fits; the responses share the
    rest, and each part takes what another leaves over."""
    truncation: Literal["parts", "end"] = "parts"
    """`parts`: each part keeps its share and loses its middle; `end`: the sequence loses its end,
    answer B included."""
    head: Head = "linear"
    """`linear` (the report's), `interaction` ([a, b, a-b, a*b]), `attention` (the answers attend to
    each other), or the tie-aware `davidson` and `rao-kupper`, which exchange A and B exactly with
    dual inputs."""
    zero_start: bool = False
    """Start the head's last layer at zero, so that the first prediction is a third each and not
    chance; with few rows, chance is most of what a head ends with."""
    offset: Literal["none", "structure"] = "none"
    """`structure`: fit the `sparse` model without terms first and add its logits to the head's, so
    that the encoder learns what they leave unexplained (training rows get the logits of models that
    did not see them). Mean pooling forgets how long and how formatted an answer is; this restores
    it. `none`: no offset."""
    layer_norm: bool = False
    """LayerNorm before the head's first layer."""
    dropout: Share = 0.0
    """Dropout before the head's first layer."""
    scores: Literal["logits", "softmax", "log-softmax"] = "logits"
    """Input of the loss and of inference: the head's `logits`, or their `softmax` or `log-softmax`
    (the report's ablation)."""
    scratch_vocabulary: Annotated[int, at_least(300)] = 1_500
    """Tokenizer size of the `scratch` backbone."""
    scratch_hidden_size: Annotated[
        int, Bound("a multiple of 8", lambda value: value >= 8 and value % 8 == 0)
    ] = 48
    """Width of the `scratch` backbone."""
    scratch_layers: Count = 1
    """Layers of the `scratch` backbone."""
    scratch_dropout: Share = 0.1
    """Dropout inside the `scratch` backbone; pretrained ones have their own."""


@dataclass(frozen=True)
class AdaptedOptions(Options):
    """A pretrained decoder, mostly frozen: what to load, what it reads, which weights learn
    (`humanpref.models.adapters`)."""

    backbone: Name = "meta-llama/Llama-3.2-1B"
    """Folder or hub name of a decoder that transformers loads: Llama, Qwen, Gemma, SmolLM …"""
    max_length: Annotated[int, whole(16, 131_072, "tokens")] = 1_024
    """Tokens per sequence, all fixed text included."""
    prompt_share: OpenShare = 0.2
    """Share of the room for texts that the prompt keeps when not everything fits, as for the
    encoder."""
    system_prompt: str = SYSTEM_PROMPT
    """Instructions before the conversation; empty for none. Where the model's chat template has no
    system role, they start the user's message."""
    peft: Literal["lora", "rslora", "dora", "ia3", "layernorm", "bias", "head", "none"] = "lora"
    """Weights that learn: `lora`, `rslora` (LoRA scaled by alpha / sqrt r), `dora` (direction and
    magnitude apart), `ia3` (one factor for each key, value and feed-forward channel), `layernorm`
    (the gains of all norms), `bias` (the biases that the backbone has), `head` (only the head) or
    `none` (no such method: every weight)."""
    lora_r: Count = 16
    """Rank of `lora`, `rslora` and `dora`; it and the next two have no effect on other methods."""
    lora_alpha: Positive = 32.0
    """Their scale: the update is multiplied by alpha / r."""
    lora_dropout: Share = 0.05
    """Dropout before their first matrix."""
    target_modules: Annotated[str, Bound("names", lambda text: text.strip(" ,") != "")] = (
        "all-linear"
    )
    """Layers of `lora`, `rslora`, `dora` and `ia3`: `all-linear`, or names with commas
    (`q_proj,v_proj`). For `ia3` all-linear means peft's choice for the model."""
    base_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights: `float32`, `bfloat16`, `float16`, or `auto`: on a GPU the half
    precision that it has in hardware, else float32. Trained weights are always float32."""
    quantisation: Literal["none", "8bit", "4bit"] = "none"
    """`8bit` or `4bit` (NF4): the frozen weights by bitsandbytes, on a CUDA GPU only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.quantisation == "none"
        # bitsandbytes casts a layer's bias to the type of its input, so trained biases would not
        # stay float32.
        fits = plain or self.peft not in ("none", "bias")
        self.require(fits, "quantisation", f"none with peft={self.peft}")
        whole = self.base_dtype in ("auto", "float32")
        self.require(
            whole or self.peft != "none",
            "base_dtype",
            "float32 with peft=none (trained weights are float32)",
        )

    def idle(self) -> tuple[str, ...]:
        """The options that have no effect with this `peft`."""
        if self.peft in LORA:
            return ()
        own = ("lora_r", "lora_alpha", "lora_dropout")
        return own if self.peft == "ia3" else (*own, "target_modules")


@dataclass(frozen=True)
class DecoderOptions(AdaptedOptions):
    """A decoder that reads prompt, A and B at once and gives a score at its last token
    (`humanpref.models.decoder`)."""

    question: str = "Which response would a human prefer: A, B, or neither (a tie)?"
    """Last text that the model reads."""
    head: Literal["linear", "mlp"] = "linear"
    """From the last token's vector to three scores: `linear`, or `mlp` (linear, GELU, linear)."""
    dropout: Share = 0.0
    """Dropout before the head."""


@dataclass(frozen=True)
class DpoOptions(AdaptedOptions):
    """A language model whose log-probability of each response, relative to its frozen reference, is
    the reward (`humanpref.models.dpo`)."""

    system_prompt: str = ""
    """Instructions before the conversation that both responses continue; empty for none."""
    link: Literal["davidson", "rao-kupper"] = "davidson"
    """From the difference of the rewards to three probabilities: `davidson` or `rao-kupper`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.peft in REFERENCED, "peft", f"one of {', '.join(REFERENCED)}")


@dataclass(frozen=True)
class LoopOptions(HoldOut):
    """The options of the training loop (`humanpref.training.loop`), whatever the loss."""

    epochs: Count = 1
    """Passes over the training rows."""
    batch_size: Count = 16
    """Rows in one batch."""
    accumulation: Count = 1
    """Batches per optimizer step; the effective batch is `batch_size * accumulation` rows."""
    forward_tokens: Count = 4_096
    """Tokens in one forward pass, padding included: a larger batch goes through the model in parts
    of similar lengths, which bounds the memory and changes nothing else."""
    learning_rate: OpenShare = 2e-5
    """Peak learning rate of AdamW; it falls linearly to 0 over the run."""
    head_learning_rate: OpenShare | None = None
    """Peak learning rate of the head. None: `learning_rate`. Not for `dpo`, which has no head."""
    layer_decay: Annotated[float, Bound("a number in (0, 1]", lambda value: 0 < value <= 1)] = 1.0
    """Each layer of the backbone learns at this share of the rate of the layer above it."""
    warmup: Share = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: NonNegative = 0.01
    """AdamW's decoupled weight decay, on matrices only (not on biases and norms)."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's global norm to this. None: no clipping."""
    gradient_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass: less memory, a third more time."""
    precision: Precision = "auto"
    """`bf16`, `fp16` (with gradient scaling), `no`, or `auto`: bf16 where the GPU has it in
    hardware, else fp16 on a GPU, else no."""
    seconds: Positive | None = None
    """Stop after this many seconds of wall clock, validate and keep what was learned; the learning
    rate has then not reached 0. A resumed run starts the clock anew. None: no limit."""
    patience: Count | None = None
    """Stop when the validation log loss has not fallen for this many epochs, and keep the best one;
    see `keep_best_epoch`."""
    checkpoint_minutes: Positive = 10.0
    """Save the state of the run this often, and after every epoch, so that an interrupted run can
    resume."""
    keep_best_epoch: bool = False
    """Keep the epoch with the lowest validation log loss instead of the last one. The validation
    metrics are then chosen on the rows that they report, and every report says so."""


@dataclass(frozen=True)
class GradientTraining(LoopOptions):
    """The `[training]` section of the classifiers that are trained by gradient descent."""

    loss: Literal["cross-entropy", "dpo-like", "distillation"] = "cross-entropy"
    """`cross-entropy`; `dpo-like`, the report's Bradley-Terry term with cross-entropy for ties;
    `distillation`, for labels that are a teacher's probabilities."""
    label_smoothing: Share = 0.0
    """Mix the labels with this share of the uniform distribution."""
    beta: Positive = 1.0
    """Sharpness of the `dpo-like` loss."""
    temperature: Positive = 1.0
    """Temperature of the `distillation` loss, which softens teacher and student alike."""
    swap_augmentation: bool = False
    """Learn from every row in both orders of A and B: twice the rows, and no side to prefer. Dual
    inputs give both orders in one pass, at no extra cost."""


@dataclass(frozen=True)
class DpoTraining(LoopOptions):
    """The `[training]` section of Direct Preference Optimization (`humanpref.models.dpo`)."""

    beta: Positive = 0.1
    """Scale of the implicit reward beta (log pi - log pi_ref)."""
    label_smoothing: Annotated[float, Bound("in [0, 0.5)", lambda value: 0 <= value < 0.5)] = 0.0
    """Conservative DPO: the share of labels assumed to be flipped. With ties=drop only."""
    length_normalisation: bool = False
    """Log-probabilities per response token instead of per response."""
    ties: Literal["drop", "davidson", "rao-kupper"] = "drop"
    """`drop`: learn from decided rows alone; `davidson` or `rao-kupper`: from all, through that
    link."""
    tie_at_zero: OpenShare = 0.5
    """The link's probability of a tie at equal rewards while training (the paper's 1/2); inference
    has its own, fitted one."""
    link_fraction: Part = 0.1
    """Share of the training rows, grouped by prompt, kept for fitting the scale and the tie of the
    link from rewards to probabilities; 0 fits them on the rows that the policy learned from, which
    flatters the rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.label_smoothing == 0 or self.ties == "drop"
        self.require(plain, "label_smoothing", f"0 with ties={self.ties}")
        self.require(self.head_learning_rate is None, "head_learning_rate", "none: dpo has no head")


@dataclass(frozen=True)
class DpoInference(ForwardOptions):
    """The `[inference]` section of `dpo`."""

    seconds: Positive | None = None
    """Time limit of `humanpref predict` in seconds of wall clock, for the whole artifact, where
    `--seconds` sets no other. What does not fit is given up in this order: the second order of A
    and B, the middle of long inputs, and the remaining rows, which get the class rates of the
    training rows. Metrics, soft labels and scores never give anything up (`train`, `evaluate`,
    `predict --labels`, `--teacher`, `score`), and Kaggle's kernel has its own limit (`bundle
    --infer-hours`). None: no limit."""


@dataclass(frozen=True)
class EncoderInference(DpoInference):
    """The `[inference]` section of the encoders and decoders."""

    normalise: Literal["softmax", "clip"] = "softmax"
    """How scores become probabilities: `softmax`, or none: `clip` them to [1e-15, 1] and divide by
    their sum, as the metric does (the report's ablation)."""
    swap_average: bool = False
    """Average over both orders of A and B. Free for dual inputs; joint inputs are read twice."""
