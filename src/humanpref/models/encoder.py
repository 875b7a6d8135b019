"""Encoders: a backbone reads the prompt with each response (or with both), a head compares what it
made of them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel

from humanpref.config import Config, from_dict, load_config
from humanpref.config.neural import EncoderOptions
from humanpref.data import grouped_folds, prompt_keys
from humanpref.files import read_json
from humanpref.logloss import clipped_log
from humanpref.models.backbone import check_encoder, load_backbone
from humanpref.models.base import CONFIG_FILE, Model
from humanpref.models.gradient import BACKBONE_FOLDER, STATE_FILE, GradientModel, RowCollate
from humanpref.models.heads import EQUIVARIANT_HEADS, build_head, encoded_dual, encoded_joint
from humanpref.models.hidden import hidden_states
from humanpref.models.pretrained import (
    LOADING_ERRORS,
    backbone_facts,
    load_backbone_config,
    load_state_strictly,
    load_tokenizer,
    not_loaded,
)
from humanpref.models.scratch import scratch_config, train_tokenizer
from humanpref.models.sparse import SparseModel
from humanpref.schema import SWAPPED_CLASSES, TEXT_COLUMNS, InputError
from humanpref.text.format import dual, joint
from humanpref.text.tokens import tokenise
from humanpref.training.losses import Loss, both_orders

SCRATCH = "scratch"
OFFSET_FOLDER = "offset"
OFFSET_FOLDS = 5


class PairEncoder(nn.Module):
    """A backbone reads each row's sequences; a head compares what it made of the two answers.

    Source: with dual inputs and the linear head, the report's model (M3): shared backbone, mean
    pooling of each branch over the real tokens, concatenation, one linear layer to 3 logits.
    """

    def __init__(self, backbone: nn.Module, options: EncoderOptions) -> None:
        super().__init__()
        # The pooler (tanh over the first token) is not part of this model: its weights would be
        # trained by nothing.
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

    @contextlib.contextmanager
    def giving(self, both_orders: bool) -> Iterator[None]:
        """With both orders of A and B the outputs are (n, 2, 3), the second as the exchanged row
        would have them: dual inputs have both answers' vectors after one pass, and only the head
        runs twice."""
        before, self.both_orders = self.both_orders, both_orders
        try:
            yield
        finally:
            self.both_orders = before

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        parts: Tensor,
        offset: Tensor | None = None,
        **types: Tensor,
    ) -> Tensor:
        """Logits (n, 3) from inputs (n, sequences, length), padded on the right, and what is added
        to the logits (n, 3)."""
        rows, sequences, length = input_ids.shape
        flat = {"input_ids": input_ids, "attention_mask": attention_mask, **types}
        flat = {name: tensor.reshape(rows * sequences, length) for name, tensor in flat.items()}
        hidden = hidden_states(self._read, flat).reshape(rows, sequences, length, -1)
        # The head costs nothing; in half precision its logits would be good to three digits only.
        with torch.autocast(hidden.device.type, enabled=False):
            encoded = self.encoded(hidden, attention_mask, parts)
            logits = self.head(encoded)
            if self.both_orders:
                logits = torch.stack([logits, self.head(encoded.swapped())], dim=1)
            if offset is not None:
                logits = logits + (
                    torch.stack([offset, offset[:, SWAPPED_CLASSES]], dim=1)
                    if self.both_orders
                    else offset
                )
            return self.scores(logits)

    def _read(self, **inputs: Tensor) -> Tensor:
        return self.backbone(**inputs).last_hidden_state


class EncoderModel(GradientModel, family="encoder"):
    """Any Hugging Face encoder, fine-tuned as a `PairEncoder`."""

    @property
    def swap_equivariant(self) -> bool:
        options: EncoderOptions = self.config.model
        return self.config.inference.swap_average or (
            options.inputs == "dual" and options.head in EQUIVARIANT_HEADS
        )

    def check(self) -> None:
        options: EncoderOptions = self.config.model
        if options.backbone != SCRATCH:
            check_encoder(
                load_backbone(options.backbone),
                load_tokenizer(options.backbone),
                options.backbone,
                options.max_length,
            )

    def save_state(self, folder: Path) -> None:
        self.module_.backbone.config.save_pretrained(folder / BACKBONE_FOLDER)
        super().save_state(folder)
        if self.offset_ is not None:
            self.offset_.save(folder / OFFSET_FOLDER)

    def load_state(self, folder: Path) -> None:
        self.tokenizer_ = load_tokenizer(str(folder / BACKBONE_FOLDER))
        name = str(folder / BACKBONE_FOLDER)
        config = load_backbone_config(name)
        try:
            backbone = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
        except LOADING_ERRORS as error:
            raise InputError(not_loaded(name, "configuration", error)) from None
        self.module_ = PairEncoder(backbone, self.config.model)
        load_state_strictly(self.module_, folder / STATE_FILE)
        self.offset_ = None
        if self.config.model.offset != "none":
            path = folder / OFFSET_FOLDER / CONFIG_FILE
            self.offset_ = SparseModel.from_config(from_dict(read_json(path), str(path)))
            self.offset_.load_state(folder / OFFSET_FOLDER)

    def _build(self, pairs: pd.DataFrame) -> None:
        options: EncoderOptions = self.config.model
        if options.backbone == SCRATCH:
            self.tokenizer_ = train_tokenizer(_texts(pairs), options.scratch_vocabulary)
            backbone = AutoModel.from_config(
                scratch_config(options, self.tokenizer_), trust_remote_code=False
            )
        else:
            self.tokenizer_ = load_tokenizer(options.backbone)
            backbone = load_backbone(options.backbone)
        check_encoder(backbone, self.tokenizer_, options.backbone, options.max_length)
        if self.config.training.gradient_checkpointing:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.module_ = PairEncoder(backbone, options)

    def _collate(self, pairs: pd.DataFrame) -> "PairCollate":
        return self._collate_with(
            pairs, None if self.offset_ is None else centred_logits(self.offset_, pairs)
        )

    def _training_collate(
        self, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray
    ) -> "PairCollate":
        self.offset_ = None
        if self.config.model.offset == "none":
            return self._collate(pairs)
        config = load_config("sparse", None, ("model.max_terms=0", f"seed={self.config.seed}"))
        self.offset_ = SparseModel.from_config(config).fit(pairs, labels, weights)
        return self._collate_with(pairs, out_of_fold_logits(config, pairs, labels, weights))

    def _collate_with(self, pairs: pd.DataFrame, offset: np.ndarray | None) -> "PairCollate":
        return PairCollate(
            pairs, self.tokenizer_, self.module_.backbone.config, self.config.model, offset
        )

    @property
    def _one_pass_for_both_orders(self) -> bool:
        return self.config.model.inputs == "dual"

    @property
    def _reads_both_orders(self) -> bool:
        return self.config.inference.swap_average and not self._one_pass_for_both_orders

    def _probabilities(self, collate: "PairCollate", pairs: pd.DataFrame) -> np.ndarray:
        averaged = self.config.inference.swap_average and self._one_pass_for_both_orders
        with self.module_.giving(both_orders=averaged and not self.module_.head.equivariant):
            if not self.module_.both_orders:
                return super()._probabilities(collate, pairs)
            both = self._scores(collate)
        return (both[:, 0] + both[:, 1][:, SWAPPED_CLASSES]) / 2

    def _train(
        self,
        collate: RowCollate,
        labels: np.ndarray,
        weights: np.ndarray | None,
        loss: Loss,
        *rest: Any,
    ) -> None:
        augmented = self.config.training.swap_augmentation and self._one_pass_for_both_orders
        with self.module_.giving(both_orders=augmented):
            super()._train(
                collate, labels, weights, both_orders(loss) if augmented else loss, *rest
            )

    def _backbone_facts(self) -> dict[str, Any]:
        return backbone_facts(self.config.model.backbone, self.module_.backbone)


class PairCollate:
    """From row numbers to the encoder's inputs, each (n, sequences, length) int64, padded to the
    longest sequence of the batch; `offset`, where there is one, is (n, 3) float32.

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
        sequences = [
            formatter(*row) for row in zip(*(pairs[column] for column in TEXT_COLUMNS), strict=True)
        ]
        flat = [sequence for row in sequences for sequence in row]
        made = tokenise(
            flat, tokenizer, options.max_length, options.prompt_share, options.truncation
        )
        self.sequences = {"dual": 2, "joint": 1}[options.inputs]
        self.rows = [
            made[start : start + self.sequences] for start in range(0, len(made), self.sequences)
        ]
        longest = [max(len(sequence.ids) for sequence in row) for row in self.rows]
        self.lengths = self.sequences * np.array(longest, dtype=np.int64)
        self.pad = tokenizer.pad_token_id
        self.has_types = getattr(config, "type_vocab_size", 0) > 1
        self.offset = None if offset is None else offset.astype(np.float32)

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        shape = (len(rows), self.sequences, int(self.lengths[rows].max()) // self.sequences)
        batch = {"input_ids": np.full(shape, self.pad, dtype=np.int64)}
        batch |= {
            name: np.zeros(shape, dtype=np.int64)
            for name in ("attention_mask", "parts", "token_type_ids")
        }
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


def centred_logits(model: Model, pairs: pd.DataFrame) -> np.ndarray:
    """The model's log-probabilities (n, 3), each row with a mean of 0."""
    logs = clipped_log(model.predict_proba(pairs))
    return logs - logs.mean(axis=1, keepdims=True)


def out_of_fold_logits(
    config: Config, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Logits (n, 3) of sparse models, each row's from one that did not see its prompt; zeros where
    there is one prompt only.

    What a model says of the rows that it was fitted on is bolder than what it says of others: an
    encoder that is to add to it would learn to hold it back.
    """
    offset = np.zeros((len(pairs), 3))
    folds = min(OFFSET_FOLDS, len(set(prompt_keys(pairs))))
    if folds < 2:
        return offset
    fold = grouped_folds(pairs, folds, config.seed, labels)
    for held in (fold == number for number in range(folds)):
        kept, out = pairs[~held].reset_index(drop=True), pairs[held].reset_index(drop=True)
        model = SparseModel.from_config(config).fit(kept, labels[~held], weights[~held])
        offset[held] = centred_logits(model, out)
    return offset


def _texts(pairs: pd.DataFrame) -> list[str]:
    return [
        text
        for column in ("prompt", "response_a", "response_b")
        for turns in pairs[column]
        for text in turns
    ]
