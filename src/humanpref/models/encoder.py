"""Encoders: a backbone reads the prompt with each response separately, or with both, and a head
compares the responses."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from torch import Tensor, nn
from transformers import AutoModel

from humanpref.config.neural import SCRATCH, EncoderOptions
from humanpref.data import grouped_folds, prompt_keys
from humanpref.logloss import clipped_log
from humanpref.models import load_model
from humanpref.models.backbone import check_encoder, load_backbone
from humanpref.models.base import Model, Validation
from humanpref.models.deberta_attention import fuse_attention
from humanpref.models.heads import EQUIVARIANT_HEADS, build_head, encoded_dual, encoded_joint
from humanpref.models.hidden import hidden_states
from humanpref.models.inner_folds import Labelled
from humanpref.models.neural import BACKBONE_FOLDER, STATE_FILE, NeuralModel, with_swapped
from humanpref.models.pretrained import (
    backbone_facts,
    load_backbone_config,
    load_state_strictly,
    load_tokenizer,
    loading,
)
from humanpref.models.scratch import scratch_config, train_tokenizer
from humanpref.models.sparse import SparseModel
from humanpref.schema import SWAPPED_CLASSES, TEXT_COLUMNS
from humanpref.text.format import dual, joint, pairs_in
from humanpref.training.inputs import TokenRows
from humanpref.training.losses import both_orders, loss_of

OFFSET_FOLDER = "offset"
OFFSET_FOLDS = 5


class PairEncoder(nn.Module):
    """A backbone reads each row's sequences; a head compares the two answers' vectors.

    With dual inputs and the linear head, this is the report's model (M3): one backbone encodes
    both sequences, each is averaged over its real tokens, and a linear layer turns the two
    concatenated means into 3 logits.
    """

    def __init__(self, backbone: nn.Module, options: EncoderOptions) -> None:
        super().__init__()
        # This model does not use the pooler (tanh over the first token), so it would stay
        # untrained.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        config = backbone.config
        fused = options.attention == "fused" and fuse_attention(backbone)
        self.attention = "fused" if fused else config._attn_implementation
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

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        lengths: np.ndarray,
        parts: Tensor,
        offset: Tensor | None = None,
        both_orders: bool = False,
        **types: Tensor,
    ) -> Tensor:
        """Compute logits, (n, 3), from right-padded inputs, (n, sequences, length), and add
        `offset`, (n, 3), to them. `lengths`, (n, sequences), counts the tokens of each sequence.

        With `both_orders`, the logits are (n, 2, 3): `[:, 0]` for the row as given, `[:, 1]` for
        the row with A and B exchanged. Dual inputs yield both answers' vectors in one pass, so only
        the head runs twice.
        """
        rows, sequences, length = input_ids.shape
        flat = {"input_ids": input_ids, "attention_mask": attention_mask, **types}
        flat = {name: tensor.reshape(rows * sequences, length) for name, tensor in flat.items()}
        hidden = hidden_states(self._read, flat, lengths.reshape(-1)).reshape(
            rows, sequences, length, -1
        )
        # The head is cheap, and half precision would leave its logits only three digits.
        with torch.autocast(hidden.device.type, enabled=False):
            encoded = self.encoded(hidden, attention_mask, parts)
            logits = self.head(encoded)
            if both_orders:
                logits = torch.stack([logits, self.head(encoded.swapped())], dim=1)
            if offset is not None:
                if both_orders:
                    offset = torch.stack([offset, offset[:, SWAPPED_CLASSES]], dim=1)
                logits = logits + offset
            return self.scores(logits)

    def _read(self, **inputs: Tensor) -> Tensor:
        return self.backbone(**inputs).last_hidden_state


class EncoderModel(NeuralModel, family="encoder"):
    """Any Hugging Face encoder, fine-tuned as a `PairEncoder`. `fit` also sets `offset_`: a model
    of structural features whose logits are added to those of the head, or None."""

    offset_: Model | None = None

    @property
    def swap_equivariant(self) -> bool:
        options: EncoderOptions = self.config.model
        return self.config.inference.swap_average or (
            self.is_dual and options.head in EQUIVARIANT_HEADS
        )

    @property
    def is_dual(self) -> bool:
        """Whether each answer is encoded in a sequence of its own, so that one pass serves both
        orders of A and B."""
        return self.config.model.inputs == "dual"

    @property
    def swap_averaged(self) -> bool:
        return self.config.inference.swap_average and not self.is_dual

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
        self.tokenizer_, backbone = saved_backbone(folder)
        self.module_ = PairEncoder(backbone, self.config.model)
        load_state_strictly(self.module_, folder / STATE_FILE)
        self.offset_ = None
        if self.config.model.offset != "none":
            self.offset_ = load_model(folder / OFFSET_FOLDER)

    def build(self, pairs: pd.DataFrame) -> None:
        options: EncoderOptions = self.config.model
        if self.start is not None:
            self.tokenizer_, backbone = saved_backbone(self.start)
        elif options.backbone == SCRATCH:
            texts = [text for column in TEXT_COLUMNS for turns in pairs[column] for text in turns]
            self.tokenizer_ = train_tokenizer(texts, options.scratch_vocabulary)
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

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        training, loss = self.config.training, loss_of(self.config.training)
        if training.swap_augmentation and not self.is_dual:
            rows = with_swapped(rows)
        self.begin(rows.pairs)
        self.offset_ = None
        inputs = self.inputs(rows.pairs)
        if self.config.model.offset != "none":
            structural = SparseModel(max_terms=0, classes=training.classes, seed=self.seed)
            self.offset_ = structural.fit(*rows)
            inputs = with_offset(inputs, out_of_fold_logits(structural, rows))
        if training.swap_augmentation and self.is_dual:
            inputs, loss = replace(inputs, flags={"both_orders": True}), both_orders(loss)
        self.optimize(rows, inputs, loss, validation, checkpoint)

    def predictor(self, pairs: pd.DataFrame) -> Callable[[], np.ndarray]:
        averaged = self.config.inference.swap_average and self.is_dual
        if not averaged or self.module_.head.equivariant:
            return super().predictor(pairs)
        inputs = replace(self.inputs(pairs), flags={"both_orders": True})

        def predict() -> np.ndarray:
            first, second = self.scores(inputs).swapaxes(0, 1)
            return (first + second[:, SWAPPED_CLASSES]) / 2

        return predict

    def inputs(self, pairs: pd.DataFrame) -> TokenRows:
        formatter = dual if self.is_dual else joint
        sequences = self.tokenised([formatter(pair) for pair in pairs_in(pairs)])
        columns = {"parts": attrgetter("parts")}
        if getattr(self.module_.backbone.config, "type_vocab_size", 0) > 1:
            columns["token_type_ids"] = attrgetter("types")
        inputs = TokenRows(sequences, self.tokenizer_.pad_token_id, columns)
        if self.offset_ is None:
            return inputs
        return with_offset(inputs, centred_logits(self.offset_, pairs))

    def backbone_facts(self) -> dict[str, Any]:
        facts = backbone_facts(self.config.model.backbone, self.module_.backbone)
        return {**facts, "attention": self.module_.attention}


def saved_backbone(folder: Path) -> tuple[Any, nn.Module]:
    """Return the tokenizer of a saved model, and its backbone with random weights.

    Raises
    ------
    InputError
        If the folder is damaged.
    """
    name = str(folder / BACKBONE_FOLDER)
    tokenizer, config = load_tokenizer(name), load_backbone_config(name)
    options = {"dtype": torch.float32, "trust_remote_code": False}
    with loading(name, "configuration"):
        # Build the model without allocating memory first, to refuse sizes that do not match the
        # weights before they fill the memory.
        planned = 0
        with contextlib.suppress(Exception), torch.device("meta"):
            model = AutoModel.from_config(config, **options)
            planned = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        if planned > 2 * (folder / STATE_FILE).stat().st_size + 2**20:
            raise ValueError(
                f"config.json describes a model of {planned} bytes, too large for {STATE_FILE}"
            )
        backbone = AutoModel.from_config(config, **options)
    return tokenizer, backbone


def with_offset(inputs: TokenRows, offset: np.ndarray) -> TokenRows:
    """Return the inputs together with each row's offset, (n, 3), which is added to the logits."""
    return replace(inputs, per_row={"offset": offset.astype(np.float32)})


def centred_logits(model: Model, pairs: pd.DataFrame) -> np.ndarray:
    """Predict log-probabilities (n, 3), each row shifted to a mean of 0."""
    logs = clipped_log(model.predict_proba(pairs))
    return logs - logs.mean(axis=1, keepdims=True)


def out_of_fold_logits(model: Model, rows: Labelled) -> np.ndarray:
    """Predict each row's logits, (n, 3), with a copy of the model that was not fitted on the row's
    prompt. If there is only one prompt, return zeros.

    If the offsets came from a model that was fitted on the same rows, they would be too confident,
    and the encoder would learn to dampen them.
    """
    offset = np.zeros((len(rows.pairs), 3))
    folds = min(OFFSET_FOLDS, len(set(prompt_keys(rows.pairs))))
    if folds < 2:
        return offset
    fold = grouped_folds(rows.pairs, folds, model.seed, rows.labels)
    for held in (fold == number for number in range(folds)):
        fitted = clone(model).fit(*rows.part(~held))
        offset[held] = centred_logits(fitted, rows.part(held).pairs)
    return offset
