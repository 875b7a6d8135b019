"""Encoders: a backbone reads the prompt with each response (or with both), a head compares what it made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel

from humanpref.config import EncoderOptions
from humanpref.models.disentangled import fuse_attention
from humanpref.models.gradient import BACKBONE_FOLDER, STATE_FILE, GradientModel
from humanpref.models.heads import EQUIVARIANT_HEADS, build_head, encoded_dual, encoded_joint
from humanpref.models.pretrained import (
    LOADING_ERRORS,
    backbone_facts,
    load_backbone_config,
    load_state_strictly,
    load_tokenizer,
    not_loaded,
)
from humanpref.models.scratch import scratch_config, train_tokenizer
from humanpref.schema import SWAPPED_CLASSES, TEXT_COLUMNS, InputError
from humanpref.text.format import dual, joint
from humanpref.text.tokens import tokenise

SCRATCH = "scratch"


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
        if options.attention == "fused":
            fuse_attention(backbone)
        config = backbone.config
        self.backbone = backbone
        self.encoded = {"dual": encoded_dual, "joint": encoded_joint}[options.inputs]
        self.head = build_head(
            options.head, config.hidden_size, options.dropout, options.layer_norm, config.num_attention_heads
        )
        self.scores = {
            "logits": nn.Identity(),
            "softmax": nn.Softmax(dim=-1),
            "log-softmax": nn.LogSoftmax(dim=-1),
        }[options.scores]
        self.both_orders = False
        """Return (n, 2, 3): the head's logits for both orders of A and B, the second as the exchanged row would have them."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, parts: Tensor, **types: Tensor) -> Tensor:
        """Logits (n, 3) from inputs of shape (n, sequences, length); all sequences go through the backbone in one call."""
        rows, sequences, length = input_ids.shape
        flat = {"input_ids": input_ids, "attention_mask": attention_mask, **types}
        flat = {name: tensor.reshape(rows * sequences, length) for name, tensor in flat.items()}
        hidden = self.backbone(**flat).last_hidden_state.reshape(rows, sequences, length, -1)
        # The head costs nothing; in half precision its logits would be good to three digits only.
        with torch.autocast(hidden.device.type, enabled=False):
            encoded = self.encoded(hidden, attention_mask, parts)
            logits = self.head(encoded)
            if self.both_orders:
                logits = torch.stack([logits, self.head(encoded.swapped())], dim=1)
            return self.scores(logits)


class EncoderModel(GradientModel):
    """Any Hugging Face encoder, fine-tuned as a `PairEncoder`."""

    @property
    def swap_equivariant(self) -> bool:
        options: EncoderOptions = self.config.model
        return self.config.inference.swap_average or (options.inputs == "dual" and options.head in EQUIVARIANT_HEADS)

    def save_state(self, folder: Path) -> None:
        self.module_.backbone.config.save_pretrained(folder / BACKBONE_FOLDER)
        super().save_state(folder)

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

    def _build(self, pairs: pd.DataFrame) -> None:
        options: EncoderOptions = self.config.model
        if options.backbone == SCRATCH:
            self.tokenizer_ = train_tokenizer(_texts(pairs), options.scratch_vocabulary)
            backbone = AutoModel.from_config(scratch_config(options, self.tokenizer_))
        else:
            self.tokenizer_ = load_tokenizer(options.backbone)
            backbone = load_backbone(options.backbone)
        _check_fit(backbone, self.tokenizer_, options)
        if self.config.training.gradient_checkpointing:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.module_ = PairEncoder(backbone, options)

    def _collate(self, pairs: pd.DataFrame) -> "PairCollate":
        return PairCollate(pairs, self.tokenizer_, self.module_.backbone.config, self.config.model)

    def _probabilities(self, collate: "PairCollate", pairs: pd.DataFrame) -> np.ndarray:
        """Dual inputs have both answers' vectors after one pass, whatever their order: only the head runs twice. Joint inputs
        are read in the other order as well."""
        dual_inputs = self.config.model.inputs == "dual"
        if not (dual_inputs and self.config.inference.swap_average):
            return super()._probabilities(collate, pairs)
        if self.module_.head.equivariant:
            return self._scores(collate)
        self.module_.both_orders = True
        try:
            both = self._scores(collate)
        finally:
            self.module_.both_orders = False
        return (both[:, 0] + both[:, 1][:, SWAPPED_CLASSES]) / 2

    def _backbone_facts(self) -> dict[str, Any]:
        return backbone_facts(self.config.model.backbone, self.module_.backbone)


class PairCollate:
    """From row numbers to the encoder's inputs, each (n, sequences, length) int64, padded to the longest sequence of the batch.

    `lengths` is (n,): what a row costs in tokens, its longest sequence times their number.
    """

    def __init__(self, pairs: pd.DataFrame, tokenizer: Any, config: Any, options: EncoderOptions) -> None:
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
        return {name: torch.from_numpy(array) for name, array in batch.items()}


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


def _check_fit(backbone: nn.Module, tokenizer: Any, options: EncoderOptions) -> None:
    """Try the longest input before training: every token needs an embedding, every place a position, and the first token must
    see the last one, which a decoder's does not."""
    name, embeddings = options.backbone, backbone.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is None:
        raise InputError(f"backbone {name}: its tokenizer has no padding token; is this an encoder?")
    if len(tokenizer) > embeddings:
        raise InputError(
            f"backbone {name}: its tokenizer has {len(tokenizer)} tokens, its model {embeddings} embeddings"
        )
    ids = torch.full((2, options.max_length), len(tokenizer) - 1)
    ids[1, -1] = len(tokenizer) - 2
    try:
        with torch.inference_mode():
            first = backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    except (IndexError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"option model.max_length: backbone {name} cannot read {options.max_length} tokens ({reason})"
        ) from None
    if torch.equal(first[0], first[1]):
        raise InputError(f"backbone {name}: not an encoder, its first token does not see the last one")


def _texts(pairs: pd.DataFrame) -> list[str]:
    return [text for column in ("prompt", "response_a", "response_b") for turns in pairs[column] for text in turns]
