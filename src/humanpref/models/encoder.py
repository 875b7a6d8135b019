"""The dual-branch encoder: one backbone reads prompt + response_a and prompt + response_b, a linear layer compares them."""

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

from humanpref.config import EncoderOptions
from humanpref.data import swap_pairs
from humanpref.models.base import Model, Validation, as_probabilities, check_names
from humanpref.models.scratch import scratch_config, train_tokenizer
from humanpref.schema import SWAPPED_CLASSES, InputError
from humanpref.text.format import branch
from humanpref.text.tokens import Tokenised, tokenise
from humanpref.training.loop import train
from humanpref.training.losses import cross_entropy
from humanpref.training.predict import predict_logits, softmax

logger = logging.getLogger(__name__)

# transformers draws a bar over the weights that it loads, one line for each of them where the output is a file.
disable_progress_bar()

STATE_FILE = "model.safetensors"
BACKBONE_FOLDER = "backbone"
SCRATCH = "scratch"


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens, in float32.

    Parameters
    ----------
    hidden : Tensor
        (n, length, width).
    mask : Tensor
        (n, length), 1 at real tokens, 0 at padding. A row without real tokens gives zeros.

    Returns
    -------
    Tensor
        (n, width) float32.
    """
    mask = mask.unsqueeze(-1).float()
    return (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


class DualEncoder(nn.Module):
    """Shared backbone, masked mean pooling of each branch, concatenation, one linear layer to 3 logits.

    Source: the report's model (M3). Both branches go through the backbone in one call, as 2n sequences.
    """

    def __init__(self, backbone: nn.Module, dropout: float) -> None:
        super().__init__()
        # The pooler (tanh over the first token) is not part of this model: its weights would be trained by nothing.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * backbone.config.hidden_size, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **types: Tensor) -> Tensor:
        """Logits (n, 3) from inputs of shape (n, 2, length): branch A, branch B."""
        rows, branches, length = input_ids.shape
        flat = {"input_ids": input_ids, "attention_mask": attention_mask, **types}
        flat = {name: tensor.reshape(rows * branches, length) for name, tensor in flat.items()}
        hidden = self.backbone(**flat).last_hidden_state
        pooled = masked_mean(hidden, flat["attention_mask"])  # (2n, width)
        # The head costs nothing; in half precision its logits would be good to three digits only.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(self.dropout(pooled.reshape(rows, -1)))  # (n, 2 width) -> (n, 3)


class EncoderModel(Model):
    """Any Hugging Face encoder, fine-tuned as a `DualEncoder`. After `fit`: `module_` and `tokenizer_`."""

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
    ) -> "EncoderModel":
        options: EncoderOptions = self.config.model
        labels = as_probabilities(labels)
        if self.config.training.swap_augmentation:
            pairs = pd.concat([pairs, swap_pairs(pairs)], ignore_index=True)
            labels = np.concatenate([labels, labels[:, SWAPPED_CLASSES]])
            weights = None if weights is None else np.concatenate([weights, weights])
        torch.manual_seed(self.config.seed)
        if options.backbone == SCRATCH:
            self.tokenizer_ = train_tokenizer(_texts(pairs), options.scratch_vocabulary)
            backbone = AutoModel.from_config(scratch_config(options, self.tokenizer_))
        else:
            self.tokenizer_ = load_tokenizer(options.backbone)
            backbone = load_backbone(options.backbone)
        _check_fit(backbone, self.tokenizer_, options)
        self.module_ = DualEncoder(backbone, options.dropout)
        collate = self._collate(pairs)
        validate = self._validator(validation) if validation is not None else None
        training, seed = self.config.training, self.config.seed
        report = train(self.module_, collate, labels, weights, cross_entropy, training, seed, collate.lengths, validate)
        self.report_ = {"backbone": self._backbone_facts(), "training": report}
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return softmax(self._logits(self._collate(pairs)))

    def save_state(self, folder: Path) -> None:
        self.module_.backbone.config.save_pretrained(folder / BACKBONE_FOLDER)
        self.tokenizer_.save_pretrained(folder / BACKBONE_FOLDER)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module_.state_dict().items()}
        save_file(state, folder / STATE_FILE)

    def load_state(self, folder: Path) -> None:
        self.tokenizer_ = load_tokenizer(str(folder / BACKBONE_FOLDER))
        name = str(folder / BACKBONE_FOLDER)
        config = load_backbone_config(name)
        try:
            backbone = AutoModel.from_config(config, dtype=torch.float32)
        except _LOADING_ERRORS as error:
            raise InputError(_not_loaded(name, "configuration", error)) from None
        self.module_ = DualEncoder(backbone, self.config.model.dropout)
        load_state_strictly(self.module_, folder / STATE_FILE)

    def _collate(self, pairs: pd.DataFrame) -> "DualCollate":
        return DualCollate(pairs, self.tokenizer_, self.module_.backbone.config, self.config.model)

    def _logits(self, collate: "DualCollate") -> np.ndarray:
        options = self.config.inference
        return predict_logits(self.module_, collate, collate.lengths, options.batch_tokens, options.precision)

    def _validator(self, validation: Validation) -> Callable[[], float]:
        """A function that gives the validation log loss of the module as it stands, in nats."""
        pairs, labels = validation
        collate, targets = self._collate(pairs), torch.as_tensor(as_probabilities(labels))
        return lambda: cross_entropy(torch.as_tensor(self._logits(collate)), targets).mean().item()

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


class DualCollate:
    """From row numbers to the encoder's inputs, (n, 2, length) int64, padded to the longest branch of the batch.

    `lengths` is (n,): what a row costs, twice its longer branch, in tokens.
    """

    def __init__(self, pairs: pd.DataFrame, tokenizer: Any, config: Any, options: EncoderOptions) -> None:
        branches = [
            branch(*cells)
            for side in ("response_a", "response_b")
            for cells in zip(pairs["prompt"], pairs[side], strict=True)
        ]
        made = tokenise(branches, tokenizer, options.max_length, options.prompt_share)
        self.rows: list[tuple[Tokenised, Tokenised]] = list(zip(made[: len(pairs)], made[len(pairs) :], strict=True))
        self.lengths = np.array([2 * max(len(side.ids) for side in row) for row in self.rows], dtype=np.int64)
        self.pad = tokenizer.pad_token_id
        self.has_types = getattr(config, "type_vocab_size", 0) > 1

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        length = int(self.lengths[rows].max()) // 2
        ids = np.full((len(rows), 2, length), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), 2, length), dtype=np.int64)
        types = np.zeros((len(rows), 2, length), dtype=np.int64)
        for i, row in enumerate(rows):
            for j, side in enumerate(self.rows[row]):
                ids[i, j, : len(side.ids)] = side.ids
                mask[i, j, : len(side.ids)] = 1
                types[i, j, : len(side.ids)] = side.types
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return batch | {"token_type_ids": torch.from_numpy(types)} if self.has_types else batch


# What transformers raises for a folder that is not what it should be.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


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
    except _LOADING_ERRORS as error:
        raise InputError(_not_loaded(name, "tokenizer", error)) from None
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
    except _LOADING_ERRORS as error:
        raise InputError(_not_loaded(name, "configuration", error)) from None
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
    except _LOADING_ERRORS as error:
        raise InputError(_not_loaded(name, "weights", error)) from None
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


def _check_fit(backbone: nn.Module, tokenizer: Any, options: EncoderOptions) -> None:
    """Try the longest input before training: every token needs an embedding, every place a position, and the first token must
    see the last one, which a decoder's does not."""
    name, embeddings = options.backbone, backbone.get_input_embeddings().num_embeddings
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


def _not_loaded(name: str, what: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"backbone {name}: its {what} cannot be loaded; set model.backbone to a folder that holds it ({first[:200]})"
