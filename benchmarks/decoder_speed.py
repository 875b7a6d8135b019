"""The speed of training and inference of a decoder with LoRA: transformers' Trainer with fixed
padding and with length grouping, and ours.

    python benchmarks/decoder_speed.py --train CSV --backbone FOLDER --rows 128 [--max-length N]
    [--json FILE] [--threads N]

Three arms on the same rows, weights, adapter and precision, side by side in one process:

fixed     transformers' Trainer, every row padded to max_length.
grouped   the same with length grouping and padding to the longest of a batch; for inference
          the rows are sorted by length first.
ours      `humanpref.training`: windows drawn at random; what goes through the model together is of
          similar length.

What is measured, and how, is told in `encoder_speed.py`. The head, which starts at zero in
training, is drawn at random here, so that the arms' probabilities can differ.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import torch
from encoder_speed import BATCH, Ours, Padded, Task, Transformers, arguments, drawn, measure, report
from torch import nn
from transformers import AutoModel

from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models.decoder import DecoderModel, PairDecoder
from humanpref.models.frozen_base import load_base
from humanpref.models.pretrained import base_folder, load_backbone_config, load_tokenizer
from humanpref.training.precision import process_state


class DecoderTask(Task):
    """The rows as a decoder's prompts, and the base with a fresh adapter and head."""

    def model(self, arm: str) -> nn.Module:
        options = self.config.model
        place = base_folder(options.backbone)
        torch.manual_seed(self.config.seed)
        base = load_base(place, load_backbone_config(str(place)), options, AutoModel)
        model = PairDecoder(base, options)
        nn.init.normal_(model.head[-1].weight, std=0.02)
        return model.to(self.device)


class Fixed(Transformers):
    """Of equal lengths, the rows come as they are."""

    def fit(self, task: Task, model: nn.Module) -> None:
        super().fit(padded(task), model)

    def predict(self, task: Task, model: nn.Module) -> np.ndarray:
        return super().predict(padded(task), model)


def padded(task: Task) -> Task:
    return dataclasses.replace(task, collate=Padded(task.collate, task.config.model.max_length))


ARMS: dict[str, Any] = {"fixed": Fixed(), "grouped": Transformers(), "ours": Ours()}


def main() -> None:
    options = arguments(__doc__)
    overrides = [
        f"model.backbone={options.backbone}",
        f"model.max_length={options.max_length}",
        "model.lora_dropout=0",
    ]
    overrides += [
        f"training.batch_size={BATCH}",
        "training.accumulation=1",
        "training.gradient_checkpointing=false",
        *options.set,
    ]
    config = load_config("llama-3.2-1b-lora", None, overrides)
    pairs = drawn(options.train, options.rows)
    model = DecoderModel.from_config(config)
    model.tokenizer_ = load_tokenizer(str(base_folder(options.backbone)))
    labels, device = labels_of(pairs), process_state().device
    task = DecoderTask(config, model.inputs(pairs), labels, nn.Identity(), device)
    result = report(task, measure(task, options.rounds, ARMS, options.only))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
