"""Encoders: a backbone reads the prompt with each response (or with both), a head compares what it made of them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from humanpref.config import EncoderInference, EncoderOptions, GradientTraining, from_dict, load_config
from humanpref.data import grouped_folds, prompt_keys, swap_pairs
from humanpref.files import read_json
from humanpref.models.base import CONFIG_FILE, Model, Validation, as_probabilities, check_names
from humanpref.models.heads import EQUIVARIANT_HEADS, build_head, encoded_dual, encoded_joint
from humanpref.models.scratch import scratch_config, train_tokenizer
from humanpref.models.sparse import SparseModel
from humanpref.schema import LABEL_COLUMNS, SWAPPED_CLASSES, TEXT_COLUMNS, InputError
from humanpref.text.format import dual, joint
from humanpref.text.tokens import tokenise
from humanpref.training.batching import token_batches
from humanpref.training.loop import train
from humanpref.training.losses import loss_of
from humanpref.training.predict import normalised, predict_logits

logger = logging.getLogger(__name__)

# transformers draws a bar over the weights that it loads, one line for each of them where the output is a file.
disable_progress_bar()

STATE_FILE = "model.safetensors"
BACKBONE_FOLDER = "backbone"
OFFSET_FOLDER = "offset"
OFFSET_FOLDS = 5
SCRATCH = "scratch"
BACKBONE_TOKENS = {True: 16_384, False: 1_024}
"""Tokens that the backbone reads in one call, on a GPU and on a CPU. A CPU is as fast with few; a GPU needs many to be busy."""


class PairEncoder(nn.Module):
    """A backbone reads each row's sequences; a head compares what it made of the two answers.

    Source: with dual inputs and the linear head, the report's model (M3): shared backbone, mean pooling of each branch over the
    real tokens, concatenation, one linear layer to 3 logits.
    """

    def __init__(self, backbone: nn.Module, options: EncoderOptions) -> None:
        super().__init__()
        # The pooler (tanh over the first token) is not part of this model: its weights would be trained by nothing.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        config = backbone.config
        self.backbone = backbone
        self.encoded = {"dual": encoded_dual, "joint": encoded_joint}[options.inputs]
        self.head = build_head(
            options.head,
            config.hidden_size,
            options.dropout,
            options.layer_norm,
            config.num_attention_heads,
            options.zero_start,
        )
        self.scores = {
            "logits": nn.Identity(),
            "softmax": nn.Softmax(dim=-1),
            "log-softmax": nn.LogSoftmax(dim=-1),
        }[options.scores]
        self.both_orders = False
        """Return (n, 2, 3): the head's logits for both orders of A and B, the second as the exchanged row would have them."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        parts: Tensor,
        offset: Tensor | None = None,
        **types: Tensor,
    ) -> Tensor:
        """Logits (n, 3) from inputs (n, sequences, length), padded on the right, and what is added to the logits (n, 3)."""
        rows, sequences, length = input_ids.shape
        flat = {"input_ids": input_ids, "attention_mask": attention_mask, **types}
        flat = {name: tensor.reshape(rows * sequences, length) for name, tensor in flat.items()}
        hidden = hidden_states(self.backbone, flat).reshape(rows, sequences, length, -1)
        # The head costs nothing; in half precision its logits would be good to three digits only.
        with torch.autocast(hidden.device.type, enabled=False):
            encoded = self.encoded(hidden, attention_mask, parts)
            logits = self.head(encoded)
            if self.both_orders:
                logits = torch.stack([logits, self.head(encoded.swapped())], dim=1)
            if offset is not None:
                logits = logits + (
                    torch.stack([offset, offset[:, SWAPPED_CLASSES]], dim=1) if self.both_orders else offset
                )
            return self.scores(logits)


def hidden_states(backbone: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The backbone's last hidden states, (m, length, width), zeros at the padding that it did not have to read.

    Sequences of similar length go through the backbone together, without the padding that the longest of all would cost them
    (the two branches of a row differ, too). Inputs are (m, length), padded on the right.
    """
    mask = inputs["attention_mask"]
    lengths = mask.sum(dim=1).cpu().numpy()
    length = mask.shape[1]
    batches = token_batches(lengths, BACKBONE_TOKENS[mask.device.type == "cuda"])
    made = []
    for rows in batches:
        longest = max(1, int(lengths[rows].max()))
        part = {name: tensor[torch.from_numpy(rows).to(tensor.device), :longest] for name, tensor in inputs.items()}
        made.append(nn.functional.pad(backbone(**part).last_hidden_state, (0, 0, 0, length - longest)))
    order = np.argsort(np.concatenate(batches))
    return torch.cat(made)[torch.from_numpy(order).to(mask.device)]


class EncoderModel(Model):
    """Any Hugging Face encoder, fine-tuned as a `PairEncoder`. After `fit`: `module_` and `tokenizer_`."""

    @property
    def swap_equivariant(self) -> bool:
        options: EncoderOptions = self.config.model
        return self.config.inference.swap_average or (options.inputs == "dual" and options.head in EQUIVARIANT_HEADS)

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "EncoderModel":
        options: EncoderOptions = self.config.model
        training: GradientTraining = self.config.training
        labels = as_probabilities(labels)
        offset = self._fit_offset(pairs, labels, weights)
        if training.swap_augmentation:
            pairs = pd.concat([pairs, swap_pairs(pairs)], ignore_index=True)
            labels = np.concatenate([labels, labels[:, SWAPPED_CLASSES]])
            weights = None if weights is None else np.concatenate([weights, weights])
            offset = None if offset is None else np.concatenate([offset, offset[:, SWAPPED_CLASSES]])
        torch.manual_seed(self.config.seed)
        if options.backbone == SCRATCH:
            self.tokenizer_ = train_tokenizer(_texts(pairs), options.scratch_vocabulary)
            backbone = AutoModel.from_config(scratch_config(options, self.tokenizer_))
        else:
            self.tokenizer_ = load_tokenizer(options.backbone)
            backbone = load_backbone(options.backbone)
        check_fit(backbone, self.tokenizer_, options.backbone, options.max_length)
        if training.gradient_checkpointing:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.module_ = PairEncoder(backbone, options)
        collate = self._collate(pairs, offset)
        validate = self._validator(validation) if validation is not None else None
        report = train(
            self.module_,
            collate,
            labels,
            weights,
            loss_of(training),
            training,
            self.config.seed,
            lengths=collate.lengths,
            validate=validate,
            checkpoint=checkpoint,
        )
        self.report_ = {"backbone": self._backbone_facts(), "training": report}
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return self._probabilities(self._collate(pairs), pairs)

    def save_state(self, folder: Path) -> None:
        self.module_.backbone.config.save_pretrained(folder / BACKBONE_FOLDER)
        self.tokenizer_.save_pretrained(folder / BACKBONE_FOLDER)
        if self.offset_ is not None:
            self.offset_.save(folder / OFFSET_FOLDER)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module_.state_dict().items()}
        save_file(state, folder / STATE_FILE)

    def load_state(self, folder: Path) -> None:
        self.tokenizer_ = load_tokenizer(str(folder / BACKBONE_FOLDER))
        name = str(folder / BACKBONE_FOLDER)
        config = load_backbone_config(name)
        try:
            backbone = AutoModel.from_config(config, dtype=torch.float32)
        except LOADING_ERRORS as error:
            raise InputError(not_loaded(name, "configuration", error)) from None
        self.module_ = PairEncoder(backbone, self.config.model)
        load_state_strictly(self.module_, folder / STATE_FILE)
        self.offset_ = None
        if self.config.model.offset != "none":
            self.offset_ = SparseModel(from_dict(read_json(folder / OFFSET_FOLDER / CONFIG_FILE), str(folder)))
            self.offset_.load_state(folder / OFFSET_FOLDER)

    def _collate(self, pairs: pd.DataFrame, offset: np.ndarray | None = None) -> "PairCollate":
        """The inputs of these rows; their offset is the fitted one unless another is given."""
        if offset is None and self.offset_ is not None:
            offset = _logits(self.offset_, pairs)
        return PairCollate(pairs, self.tokenizer_, self.module_.backbone.config, self.config.model, offset)

    def _fit_offset(self, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray | None:
        """Fit `offset_`, and give its logits (n, 3) of the training rows, each from a model that did not see the row's prompt.

        What a model says of the rows that it was fitted on is bolder than what it says of others: the encoder would learn to
        hold it back.
        """
        self.offset_ = None
        if self.config.model.offset == "none":
            return None
        config = load_config("sparse", None, ("model.max_terms=0", f"seed={self.config.seed}"))
        self.offset_ = SparseModel(config).fit(pairs, labels, weights)
        labelled = pairs[["id", "prompt"]].assign(**dict(zip(LABEL_COLUMNS, labels.T, strict=True)))
        folds = min(OFFSET_FOLDS, len(set(prompt_keys(pairs))))
        if folds < 2:
            return np.zeros((len(pairs), 3))
        offset = np.empty((len(pairs), 3))
        fold = grouped_folds(labelled, folds, self.config.seed)
        for held in (fold == number for number in range(folds)):
            kept, out = pairs[~held].reset_index(drop=True), pairs[held].reset_index(drop=True)
            own = SparseModel(config).fit(kept, labels[~held], None if weights is None else weights[~held])
            offset[held] = _logits(own, out)
        return offset

    def _probabilities(self, collate: "PairCollate", pairs: pd.DataFrame) -> np.ndarray:
        """Probabilities (n, 3); with swap averaging the mean over both orders of A and B.

        Dual inputs have both answers' vectors after one pass, whatever their order: only the head runs twice. Joint inputs
        are read in the other order as well.
        """
        options: EncoderInference = self.config.inference
        if not options.swap_average or self._equivariant_head():
            return self._scores(collate)
        if self.config.model.inputs == "dual":
            self.module_.both_orders = True
            try:
                both = self._scores(collate)
            finally:
                self.module_.both_orders = False
            own, other = both[:, 0], both[:, 1]
        else:
            own, other = self._scores(collate), self._scores(self._collate(swap_pairs(pairs)))
        return (own + other[:, SWAPPED_CLASSES]) / 2

    def _equivariant_head(self) -> bool:
        return self.config.model.inputs == "dual" and self.module_.head.equivariant

    def _scores(self, collate: "PairCollate") -> np.ndarray:
        """The module's outputs for every row as probabilities, (n, 3), or (n, 2, 3) with both orders."""
        options: EncoderInference = self.config.inference
        scores = predict_logits(self.module_, collate, collate.lengths, options.batch_tokens, options.precision)
        return normalised(scores, options.normalise)

    def _validator(self, validation: Validation) -> Callable[[], float]:
        """A function that gives the validation log loss of the module as it stands, in nats."""
        pairs, labels = validation
        collate, targets = self._collate(pairs), as_probabilities(labels)
        return lambda: float(
            -(targets * np.log(np.maximum(self._probabilities(collate, pairs), 1e-15))).sum(axis=1).mean()
        )

    def _backbone_facts(self) -> dict[str, Any]:
        """What was really used, whatever the preset is called."""
        config = self.module_.backbone.config
        name = self.config.model.backbone
        return {
            "name": name if name == SCRATCH or not Path(name).is_dir() else Path(name).resolve().name,
            "model_type": config.model_type,
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "vocabulary": config.vocab_size,
            "parameters": sum(p.numel() for p in self.module_.backbone.parameters()),
        }


class PairCollate:
    """From row numbers to the encoder's inputs, each (n, sequences, length) int64, padded to the longest sequence of the batch;
    `offset`, where there is one, is (n, 3) float32.

    `lengths` is (n,): what a row costs in tokens, its longest sequence times their number.
    """

    def __init__(
        self,
        pairs: pd.DataFrame,
        tokenizer: Any,
        config: Any,
        options: EncoderOptions,
        offset: np.ndarray | None = None,
    ) -> None:
        formatter = {"dual": dual, "joint": joint}[options.inputs]
        sequences = [formatter(*row) for row in zip(*(pairs[column] for column in TEXT_COLUMNS), strict=True)]
        flat = [sequence for row in sequences for sequence in row]
        made = tokenise(flat, tokenizer, options.max_length, options.prompt_share, options.truncation)
        self.sequences = {"dual": 2, "joint": 1}[options.inputs]
        self.rows = [made[start : start + self.sequences] for start in range(0, len(made), self.sequences)]
        longest = [max(len(sequence.ids) for sequence in row) for row in self.rows]
        self.lengths = self.sequences * np.array(longest, dtype=np.int64)
        self.pad = tokenizer.pad_token_id
        self.has_types = getattr(config, "type_vocab_size", 0) > 1
        self.offset = None if offset is None else offset.astype(np.float32)

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        shape = (len(rows), self.sequences, int(self.lengths[rows].max()) // self.sequences)
        batch = {"input_ids": np.full(shape, self.pad, dtype=np.int64)}
        batch |= {name: np.zeros(shape, dtype=np.int64) for name in ("attention_mask", "parts", "token_type_ids")}
        for i, row in enumerate(rows):
            for j, sequence in enumerate(self.rows[row]):
                end = len(sequence.ids)
                batch["input_ids"][i, j, :end] = sequence.ids
                batch["attention_mask"][i, j, :end] = 1
                batch["parts"][i, j, :end] = sequence.parts
                batch["token_type_ids"][i, j, :end] = sequence.types
        if not self.has_types:
            del batch["token_type_ids"]
        if self.offset is not None:
            batch["offset"] = self.offset[rows]
        return {name: torch.from_numpy(array) for name, array in batch.items()}


# What transformers raises for a folder that is not what it should be.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def load_tokenizer(name: str) -> Any:
    """A tokenizer by folder or hub name.

    Raises
    ------
    InputError
        If it cannot be loaded, has no padding token, or knows no words: transformers makes up an empty one where a folder
        holds a model's configuration but no tokenizer, and every text is then the same unknown token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except LOADING_ERRORS as error:
        raise InputError(not_loaded(name, "tokenizer", error)) from None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"backbone {name}: its tokenizer knows no words; are the tokenizer's files in the folder?")
    if tokenizer.pad_token_id is None:
        raise InputError(f"backbone {name}: its tokenizer has no padding token; is this an encoder?")
    return tokenizer


def load_backbone_config(name: str) -> Any:
    """A backbone's configuration by folder or hub name.

    Raises
    ------
    InputError
        If it cannot be loaded, or has a decoder beside the encoder.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except LOADING_ERRORS as error:
        raise InputError(not_loaded(name, "configuration", error)) from None
    if config.is_encoder_decoder:
        raise InputError(f"backbone {name}: a {config.model_type} model is not an encoder")
    return config


def load_backbone(name: str) -> nn.Module:
    """A pretrained encoder without its task head, in float32.

    Raises
    ------
    InputError
        If it cannot be loaded, or if the checkpoint lacks weights, which would otherwise start at random without a word.
    """
    load_backbone_config(name)
    try:
        backbone, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except LOADING_ERRORS as error:
        raise InputError(not_loaded(name, "weights", error)) from None
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"backbone {name}: the checkpoint lacks {len(missing)} weights of the model, e.g. {', '.join(missing[:3])}"
        )
    return backbone


def load_state_strictly(module: nn.Module, path: Path) -> None:
    """Fill a module's weights from a safetensors file.

    Raises
    ------
    InputError
        If the file cannot be read, or a weight is missing, too many, or of another shape.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
    expected = module.state_dict()
    check_names(path, set(expected), set(state))
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{path}: weight {name}: expected shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            )
    module.load_state_dict(state)


def _logits(model: Model, pairs: pd.DataFrame) -> np.ndarray:
    """Centred log-probabilities (n, 3)."""
    logs = np.log(model.predict_proba(pairs))
    return logs - logs.mean(axis=1, keepdims=True)


def check_fit(backbone: nn.Module, tokenizer: Any, name: str, max_length: int) -> None:
    """Try the longest input beforehand: every token needs an embedding, every place a position, and the first token must see
    the last one, which a decoder's does not.

    Raises
    ------
    InputError
        If one of these fails; `name` is the backbone's.
    """
    embeddings = backbone.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise InputError(
            f"backbone {name}: its tokenizer has {len(tokenizer)} tokens, its model {embeddings} embeddings"
        )
    ids = torch.full((2, max_length), len(tokenizer) - 1)
    ids[1, -1] = len(tokenizer) - 2
    try:
        with torch.inference_mode():
            first = backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    except (IndexError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"option model.max_length: backbone {name} cannot read {max_length} tokens ({reason})"
        ) from None
    if torch.equal(first[0], first[1]):
        raise InputError(f"backbone {name}: not an encoder, its first token does not see the last one")


def _texts(pairs: pd.DataFrame) -> list[str]:
    return [text for column in ("prompt", "response_a", "response_b") for turns in pairs[column] for text in turns]


def not_loaded(name: str, what: str, error: Exception) -> str:
    """One line about a backbone whose tokenizer, configuration or weights (`what`) transformers could not load."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"backbone {name}: its {what} cannot be loaded; set model.backbone to a folder that holds it ({first[:200]})"
