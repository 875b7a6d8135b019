"""The training loop, explicit, on accelerate: AdamW, a linear schedule, accumulation, mixed
precision, validation per epoch."""

import contextlib
import logging
import math
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from humanpref.config.neural import LoopOptions
from humanpref.schema import InputError
from humanpref.training.batching import Window, shuffled_windows, token_batches
from humanpref.training.learned import learned_state, load_learned
from humanpref.training.losses import Loss
from humanpref.training.optimizer import parameter_groups
from humanpref.training.precision import processes, resolve

logger = logging.getLogger(__name__)

Collate = Callable[[np.ndarray], dict[str, Tensor]]
"""From row numbers to the module's keyword arguments, on the CPU."""

MOST_SKIPPED = 20
"""Steps that the gradient scaler may skip one after the other. It halves its scale, 2^16 at first,
each time: by then it scales no more, and what is not finite is the gradient itself."""


def train(
    module: nn.Module,
    collate: Collate,
    labels: np.ndarray,
    weights: np.ndarray | None,
    loss: Loss,
    options: LoopOptions,
    seed: int,
    lengths: np.ndarray | None = None,
    validate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Train a module in place.

    The gradient of a step is that of the mean, over the rows of its window, of weight x loss, with
    the weights scaled to a mean of 1 over all rows: however a window is cut into micro-batches,
    shared out to processes, and however short the last one is, each row counts once.

    Parameters
    ----------
    module : Module
        Takes what `collate` gives, returns logits (n, 3). Its trainable weights stay float32;
        autocast lowers the arithmetic.
    collate : callable
        See `Collate`.
    labels : ndarray
        (n, 3).
    weights : ndarray, optional
        (n,), at least 0, not all 0. A weight of 2 equals the row twice.
    loss : callable
        See `Loss`.
    options : LoopOptions
        The `[training]` section.
    seed : int
        Of the shuffling and of dropout.
    lengths : ndarray, optional
        (n,) tokens that each row costs, for `forward_tokens`; without it a batch goes through the
        model as a whole.
    validate : callable, optional
        Called after each epoch, in every process; returns the validation log loss in nats.
    checkpoint : Path, optional
        A file to keep the run's state in, every `checkpoint_minutes` and after every epoch. If it
        is there, the run goes on from it and ends with the weights that it would have had without
        the interruption; on a GPU to rounding, since torch sums some gradients there in no fixed
        order.

    Returns
    -------
    dict
        What happened: `trainable_parameters`, `steps`, of these `skipped_steps` by the gradient
        scaler, `effective_batch`, `precision`, `processes`, `seconds`, `seconds_per_step`, `epochs`
        (one dict each); `stopped` with the reason where it did not go through all epochs;
        `kept_epoch` where that is not the last.

    Raises
    ------
    InputError
        For a loss or a gradient that is not finite, a precision that the device has not, or options
        that need validation rows without any.
    """
    for option, given in (
        ("keep_best_epoch", options.keep_best_epoch),
        ("patience", options.patience is not None),
    ):
        if given and validate is None:
            raise InputError(
                f"option training.{option}: needs validation rows (training.validation_fraction "
                "above 0)"
            )
    if any(p.dtype != torch.float32 for p in module.parameters() if p.requires_grad):
        raise ValueError(
            "trainable weights must be float32: gradient scaling and small steps both need it"
        )
    run = _Run(module, collate, labels, weights, loss, options, seed, lengths)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    save = partial(run.save, checkpoint) if checkpoint is not None else None
    while run.state.stopped is None and run.state.epoch < options.epochs:
        run.epoch(save)
        run.end_epoch(validate)
        if save:
            save()
    report = run.finish()
    # What waits for the next model must not fill the GPU; under a scaler accelerate's optimizer
    # refers to itself.
    del run, save
    clear_device_cache(garbage_collection=True)
    return report


@dataclass
class _State:
    """Where a run stands, the weights apart."""

    epoch: int = 0
    step: int = 0
    """Steps done in this epoch."""
    summed: float = 0.0
    """Sum of the losses of this epoch's rows so far."""
    seen: int = 0
    """Rows behind that sum."""
    seconds: float = 0.0
    """Spent on steps, validation apart, over all sessions."""
    steps: int = 0
    skipped: int = 0
    """Of these, by the gradient scaler."""
    skipped_last: int = 0
    """Of the last steps, without one between that was not."""
    tokens: int = 0
    """Real tokens that went through the model in this process."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None


class _Run:
    """The parts of one training run and the steps that they take."""

    def __init__(
        self,
        module: nn.Module,
        collate: Collate,
        labels: np.ndarray,
        weights: np.ndarray | None,
        loss: Loss,
        options: LoopOptions,
        seed: int,
        lengths: np.ndarray | None,
    ) -> None:
        self.module, self.collate, self.loss, self.options = module, collate, loss, options
        self.seed, self.lengths, self.rows = seed, lengths, len(labels)
        self.precision = resolve(options.precision, processes().device)
        # Accelerate keeps its state for the life of the process and refuses a second precision;
        # each run is its own.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=self.precision)
        torch.manual_seed(seed + self.accelerator.process_index)
        device = self.accelerator.device
        self.home = next(module.parameters()).device
        scale = np.ones(self.rows) if weights is None else weights / weights.mean()
        self.labels = torch.as_tensor(labels, dtype=torch.float32, device=device)
        self.scales = torch.as_tensor(scale, dtype=torch.float32, device=device)
        batches = math.ceil(self.rows / options.batch_size)
        self.steps_per_epoch = math.ceil(batches / options.accumulation)
        total = self.steps_per_epoch * options.epochs
        optimizer = torch.optim.AdamW(parameter_groups(module, options), lr=options.learning_rate)
        self.schedule = get_linear_schedule_with_warmup(
            optimizer, round(options.warmup * total), total
        )
        self.wrapped, self.optimizer = self.accelerator.prepare(module, optimizer)
        # Autocast is entered in the loop, in sight, and not by a patched forward that validation
        # would go through as well.
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        # It leaves the module's own forward on the module itself, a reference cycle: deleted, the
        # module would stay in memory.
        vars(module).pop("forward", None)
        self.state = _State()
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.started = self.saved = time.perf_counter()
        logger.info(
            "training: %d rows, %d epochs of %d steps, effective batch %d, precision %s, device "
            "%s, %d processes, "
            "%.2fM trainable parameters",
            self.rows,
            options.epochs,
            self.steps_per_epoch,
            options.batch_size * options.accumulation,
            self.precision,
            device,
            self.accelerator.num_processes,
            sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6,
        )

    def epoch(self, save: Callable[[], None] | None) -> None:
        """The epoch's remaining steps, or as many as the time allows."""
        state, options = self.state, self.options
        windows = shuffled_windows(
            self.rows, options.batch_size, options.accumulation, self.seed, state.epoch
        )
        self.wrapped.train()
        name, main = f"epoch {state.epoch + 1}/{options.epochs}", self.accelerator.is_main_process
        bar = tqdm(
            total=len(windows),
            initial=state.step,
            desc=name,
            unit="step",
            disable=None if main else True,
        )
        began, before = time.perf_counter(), state.step
        for window in windows[state.step :]:
            at = time.perf_counter()
            self.step(window)
            state.step += 1
            state.steps += 1
            state.seconds += time.perf_counter() - at
            bar.set_postfix(loss=f"{state.summed / state.seen:.4f}", refresh=False)
            bar.update()
            if bar.disable and main and state.step % max(1, len(windows) // 10) == 0:
                left = (
                    (time.perf_counter() - began)
                    / (state.step - before)
                    * (len(windows) - state.step)
                )
                mean = state.summed / state.seen
                logger.info(
                    "%s, step %d/%d: mean loss %.4f, %.0f s left",
                    name,
                    state.step,
                    len(windows),
                    mean,
                    left,
                )
            now = time.perf_counter()
            over, due = self._in_any_process(
                options.seconds is not None and now - self.started > options.seconds,
                save is not None and now - self.saved > 60 * options.checkpoint_minutes,
            )
            if over:
                state.stopped = (
                    f"after {options.seconds:g} s, in epoch {state.epoch + 1} at step {state.step} "
                    f"of {len(windows)}"
                )
                logger.warning("training stopped %s", state.stopped)
                break
            if save and due:
                save()
        bar.close()

    def step(self, window: Window) -> None:
        """One optimizer step."""
        accelerator, options, state = self.accelerator, self.options, self.state
        rows_in_window = sum(len(rows) for rows in window)
        parts = _parts(window, self.lengths, options.forward_tokens)
        for number, rows in enumerate(parts):
            # Each process takes its share of the rows. One without any computes a row that counts
            # for nothing, since the others wait for its gradients.
            own = rows[accelerator.process_index :: accelerator.num_processes]
            counts = len(own) > 0
            own = own if counts else rows[:1]
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                batch = self.collate(own)
                state.tokens += (
                    int(batch["attention_mask"].sum()) * counts if "attention_mask" in batch else 0
                )
                batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
                with accelerator.autocast():
                    logits = self.wrapped(**batch)
                losses = self.loss(logits.float(), self.labels[own]) * self.scales[own] * counts
                share = losses.sum() / rows_in_window
                value = accelerator.reduce(share.detach(), "sum").item()
                if not math.isfinite(value):
                    raise self._not_finite(f"the loss is {value}", rows)
                # The processes' gradients are averaged, and are meant to be added.
                accelerator.backward(share * accelerator.num_processes)
            state.summed += value * rows_in_window
        norm = accelerator.clip_grad_norm_(
            self.module.parameters(), options.max_grad_norm or math.inf
        )
        if accelerator.scaler is None and not math.isfinite(norm):
            raise self._not_finite(f"the gradient's norm is {float(norm)}", np.concatenate(window))
        self.optimizer.step()
        if self.optimizer.step_was_skipped:
            # No step of the schedule either.
            state.skipped, state.skipped_last = state.skipped + 1, state.skipped_last + 1
            if state.skipped_last == MOST_SKIPPED:
                raise self._not_finite(
                    f"the gradient was not finite in {MOST_SKIPPED} steps", np.concatenate(window)
                )
        else:
            state.skipped_last = 0
            self.schedule.step()
        self.optimizer.zero_grad()
        state.seen += rows_in_window

    def _not_finite(self, what: str, rows: np.ndarray) -> InputError:
        """The error that stops the run, with the step, the rows and the likely cause."""
        return InputError(
            f"training: epoch {self.state.epoch + 1}, step {self.state.step + 1}: {what}; likely a "
            "learning rate too high "
            f"({self.options.learning_rate:g}) or an overflow in {self.precision} (rows "
            f"{rows.tolist()})"
        )

    def end_epoch(self, validate: Callable[[], float] | None) -> None:
        """Validate, remember the best weights if they are wanted, and decide whether to go on."""
        state, options = self.state, self.options
        record: dict[str, float] = {
            "epoch": state.epoch + 1,
            "train_loss": state.summed / state.seen,
        }
        if validate is not None:
            record["validation_log_loss"] = validate()
            if (options.keep_best_epoch or options.patience is not None) and (
                self.best is None or record["validation_log_loss"] < self.best[0]
            ):
                self.best = (record["validation_log_loss"], _snapshot(self.module))
        state.epochs.append(record)
        if self.accelerator.is_main_process:
            figures = ", ".join(
                f"{name} {value:.4f}" for name, value in record.items() if name != "epoch"
            )
            logger.info("epoch %d/%d: %s", state.epoch + 1, options.epochs, figures)
        state.epoch, state.step, state.summed, state.seen = state.epoch + 1, 0, 0.0, 0
        if options.patience is not None and state.stopped is None:
            losses = [epoch["validation_log_loss"] for epoch in state.epochs]
            if (
                len(losses) - 1 - int(np.argmin(losses)) >= options.patience
                and state.epoch < options.epochs
            ):
                state.stopped = f"after epoch {state.epoch}: no better in {options.patience} epochs"

    def finish(self) -> dict[str, Any]:
        """Put the weights to keep in place, and tell what happened."""
        state, options = self.state, self.options
        tokens = self.accelerator.reduce(
            torch.tensor(float(state.tokens), device=self.accelerator.device), "sum"
        ).item()
        report: dict[str, Any] = {
            "trainable_parameters": sum(
                p.numel() for p in self.module.parameters() if p.requires_grad
            ),
            "steps": state.steps,
            "skipped_steps": state.skipped,
            "effective_batch": options.batch_size * options.accumulation,
            "precision": self.precision,
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "seconds": state.seconds,
            "seconds_per_step": state.seconds / max(1, state.steps),
            "tokens": int(tokens),
            "peak_memory_bytes": _peak_memory(self.accelerator.device),
            "epochs": state.epochs,
        }
        if state.stopped:
            report["stopped"] = state.stopped
        if self.best is not None:
            load_learned(self.module, self.best[1])
            report["kept_epoch"] = next(
                e["epoch"] for e in state.epochs if e["validation_log_loss"] == self.best[0]
            )
            report["kept_epoch_chosen_on"] = (
                "the validation rows that the validation figures report"
            )
        # Models that wait for others (fold models, a blend's members) must not fill the GPU.
        self.module.to(self.home)
        return report

    def save(self, path: Path) -> None:
        """Write all that the rest of the run depends on, whole or not at all."""
        self.saved = time.perf_counter()
        # Every process has its own chance: dropout draws from it.
        chance = gather_object(
            [{"cpu": torch.get_rng_state(), "cuda": _cuda_state(self.accelerator.device)}]
        )
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content = {
            "steps_per_epoch": self.steps_per_epoch,
            "state": asdict(self.state),
            "module": learned_state(self.module),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "best": self.best,
            "chance": chance,
        }
        partial = path.with_name(f"{path.name}.new")
        torch.save(content, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        processes = self.accelerator.num_processes
        if len(content["chance"]) != processes:
            raise InputError(
                f"{path}: a checkpoint of {len(content['chance'])} processes cannot go on in "
                f"{processes}"
            )
        if content.get("steps_per_epoch") != self.steps_per_epoch:
            raise InputError(
                f"{path}: a checkpoint of epochs with {content.get('steps_per_epoch')} steps "
                "cannot go on in epochs with "
                f"{self.steps_per_epoch}; was it written by another version? Remove it to start "
                "anew"
            )
        self.state = _State(**content["state"])
        load_learned(self.module, content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        if content["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.best = content["best"]
        chance = content["chance"][self.accelerator.process_index]
        torch.set_rng_state(chance["cpu"])
        if chance["cuda"] is not None:
            torch.cuda.set_rng_state(chance["cuda"], self.accelerator.device)
        logger.info("going on from epoch %d, step %d", self.state.epoch + 1, self.state.step)

    def _in_any_process(self, *flags: bool) -> list[bool]:
        """Whether each flag is up in any process. Clocks differ, and all of them must stop, or
        save, together."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        return (
            self.accelerator.reduce(
                torch.tensor(flags, device=self.accelerator.device).float(), "sum"
            )
            .bool()
            .tolist()
        )


def _peak_memory(device: torch.device) -> int:
    """The most memory that was in use, in bytes: of the GPU by torch, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cuda_state(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _parts(window: Window, lengths: np.ndarray | None, forward_tokens: int) -> list[np.ndarray]:
    """The window's batches, each cut into what goes through the model at once."""
    if lengths is None:
        return window
    return [rows[part] for rows in window for part in token_batches(lengths[rows], forward_tokens)]


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy, in main memory, of what was learned."""
    return {name: tensor.detach().cpu().clone() for name, tensor in learned_state(module).items()}
