"""The training loop, explicit, on accelerate: AdamW, a linear schedule, accumulation, mixed precision, validation per epoch."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from humanpref.config import GradientTraining
from humanpref.schema import InputError
from humanpref.training.batching import Window, shuffled_windows, token_batches
from humanpref.training.losses import Loss
from humanpref.training.optimizer import parameter_groups
from humanpref.training.precision import device_of_run, resolve

logger = logging.getLogger(__name__)

Collate = Callable[[np.ndarray], dict[str, Tensor]]
"""From row numbers to the module's keyword arguments, on the CPU."""


def train(
    module: nn.Module,
    collate: Collate,
    labels: np.ndarray,
    weights: np.ndarray | None,
    loss: Loss,
    options: GradientTraining,
    seed: int,
    lengths: np.ndarray | None = None,
    validate: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Train a module in place.

    The gradient of a step is that of the mean, over the rows of its window, of weight x loss, with the weights scaled to a mean
    of 1 over all rows: however a window is cut into micro-batches, and however short the last one is, each row counts once.

    Parameters
    ----------
    module : Module
        Takes what `collate` gives, returns logits (n, 3). Its trainable weights stay float32; autocast lowers the arithmetic.
    collate : callable
        See `Collate`.
    labels : ndarray
        (n, 3).
    weights : ndarray, optional
        (n,), at least 0, not all 0. A weight of 2 equals the row twice.
    loss : callable
        See `Loss`.
    options : GradientTraining
        The `[training]` section.
    seed : int
        Of the shuffling and of dropout.
    lengths : ndarray, optional
        (n,) tokens that each row costs, for `forward_tokens`; without it a batch goes through the model as a whole.
    validate : callable, optional
        Called after each epoch; returns the validation log loss in nats.

    Returns
    -------
    dict
        What happened: `steps`, `effective_batch`, `precision`, `seconds`, `seconds_per_step`, `epochs` (one dict each).

    Raises
    ------
    InputError
        For a loss that is not finite, a precision that the device has not, or a launch of several processes.
    """
    if options.keep_best_epoch and validate is None:
        raise InputError(
            "option training.keep_best_epoch: needs validation rows (training.validation_fraction above 0)"
        )
    if any(p.dtype != torch.float32 for p in module.parameters() if p.requires_grad):
        raise ValueError("trainable weights must be float32: gradient scaling and small steps both need it")
    precision = resolve(options.precision, device_of_run())
    # Accelerate keeps its state for the life of the process and refuses a second precision; each run is its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise InputError("training in several processes is not supported yet; start one process")
    torch.manual_seed(seed)
    scale = np.ones(len(labels)) if weights is None else weights / weights.mean()
    optimizer = torch.optim.AdamW(parameter_groups(module, options), lr=options.learning_rate)
    steps_per_epoch = math.ceil(math.ceil(len(labels) / options.batch_size) / options.accumulation)
    total = steps_per_epoch * options.epochs
    schedule = get_linear_schedule_with_warmup(
        optimizer, num_warmup_steps=round(options.warmup * total), num_training_steps=total
    )
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    # Autocast is entered in the loop, in sight, and not by a patched forward that validation would go through as well.
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    logger.info(
        "training: %d rows, %d epochs of %d steps, effective batch %d, precision %s, device %s, %.2fM trainable parameters",
        len(labels), options.epochs, steps_per_epoch, options.batch_size * options.accumulation, precision,
        accelerator.device, sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6,
    )  # fmt: skip
    targets = torch.as_tensor(labels, dtype=torch.float32)
    scales = torch.as_tensor(scale, dtype=torch.float32)
    epochs: list[dict[str, float]] = []
    best: tuple[float, dict[str, Tensor]] | None = None
    seconds = 0.0
    for epoch in range(options.epochs):
        started = time.perf_counter()
        wrapped.train()
        summed, seen = 0.0, 0
        windows = shuffled_windows(len(labels), options.batch_size, options.accumulation, seed, epoch)
        bar = tqdm(windows, desc=f"epoch {epoch + 1}/{options.epochs}", unit="step", disable=None)
        for step, window in enumerate(bar, start=1):
            rows_in_window = sum(len(rows) for rows in window)
            for rows in _parts(window, lengths, options.forward_tokens):
                batch = {name: tensor.to(accelerator.device) for name, tensor in collate(rows).items()}
                with accelerator.autocast():
                    logits = wrapped(**batch)
                row_losses = loss(logits.float(), targets[rows].to(accelerator.device))
                share = (row_losses * scales[rows].to(accelerator.device)).sum() / rows_in_window
                value = share.item()
                if not math.isfinite(value):
                    raise InputError(
                        f"training: epoch {epoch + 1}, step {step}: the loss is {value}; likely a learning rate too high "
                        f"({options.learning_rate:g}) or an overflow in {precision} (rows {rows.tolist()})"
                    )
                accelerator.backward(share)
                summed += value * rows_in_window
            if options.max_grad_norm is not None:
                accelerator.clip_grad_norm_(module.parameters(), options.max_grad_norm)
            optimizer.step()
            # A step that the gradient scaler skipped is no step of the schedule either.
            if not optimizer.step_was_skipped:
                schedule.step()
            optimizer.zero_grad()
            seen += rows_in_window
            bar.set_postfix(loss=f"{summed / seen:.4f}")
            if bar.disable and step % max(1, steps_per_epoch // 10) == 0:
                left = (time.perf_counter() - started) / step * (steps_per_epoch - step)
                logger.info(
                    "epoch %d, step %d/%d: mean loss %.4f, %.0f s left",
                    epoch + 1,
                    step,
                    steps_per_epoch,
                    summed / seen,
                    left,
                )
        took = time.perf_counter() - started
        seconds += took
        record = {"epoch": epoch + 1, "train_loss": summed / seen, "seconds": took}
        if validate is not None:
            record["validation_log_loss"] = validate()
            if options.keep_best_epoch and (best is None or record["validation_log_loss"] < best[0]):
                best = (record["validation_log_loss"], _snapshot(module))
        epochs.append(record)
        logger.info(
            "epoch %d/%d: %s",
            epoch + 1,
            options.epochs,
            ", ".join(f"{k} {v:.4f}" for k, v in record.items() if k != "epoch"),
        )
    accelerator.free_memory()
    report = {
        "steps": total,
        "effective_batch": options.batch_size * options.accumulation,
        "precision": precision,
        "device": str(accelerator.device),
        "seconds": seconds,
        "seconds_per_step": seconds / total,
        "epochs": epochs,
    }
    if best is not None:
        module.load_state_dict(best[1])
        report["kept_epoch"] = next(e["epoch"] for e in epochs if e["validation_log_loss"] == best[0])
        report["kept_epoch_chosen_on"] = "the validation rows that the validation figures report"
    return report


def _parts(window: Window, lengths: np.ndarray | None, forward_tokens: int) -> list[np.ndarray]:
    """The window's batches, each cut into what goes through the model at once."""
    if lengths is None:
        return window
    return [rows[part] for rows in window for part in token_batches(lengths[rows], forward_tokens)]


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights in main memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
