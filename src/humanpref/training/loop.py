"""An explicit training loop on top of accelerate: AdamW, a linear schedule, gradient accumulation,
mixed precision, and validation after each epoch."""

import logging
import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from humanpref.bar import Bar
from humanpref.config.neural import LoopOptions
from humanpref.schema import InputError, counted
from humanpref.training.batching import shuffled_windows
from humanpref.training.checkpoint import load_checkpoint, save_checkpoint
from humanpref.training.exchange import launched, start_equal, summed
from humanpref.training.gradients import Gradients
from humanpref.training.inputs import Examples
from humanpref.training.learned import frozen_embeddings, learned_state, load_learned
from humanpref.training.losses import Loss
from humanpref.training.parameter_groups import parameter_groups
from humanpref.training.precision import process_state, resolve
from humanpref.training.progress import Progress

logger = logging.getLogger(__name__)

MOST_SKIPPED = 20
"""Maximum number of steps in a row that the gradient scaler may skip. Each one halves the scale,
which is 2^16 at first; after this many, the scale is below 1, so the gradient itself must be
infinite or NaN."""


def train(
    module: nn.Module,
    examples: Examples,
    loss: Loss,
    options: LoopOptions,
    seed: int,
    validate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Train a module in place.

    Each optimizer step takes the next window of rows and follows the gradient of the mean of weight
    x loss over them, with weights scaled to a mean of 1 over all rows. Each row counts once per
    epoch, however a window is cut into micro-batches or shared by processes, and however short the
    last window is. If memory runs out in any process, all processes halve `forward_tokens` for the
    rest of the run and repeat the step from the same random state.

    Parameters
    ----------
    module : Module
        Takes the keyword arguments that `Collate` returns, and returns logits (n, 3). Its trainable
        weights stay float32; autocast lowers the precision of the arithmetic.
    examples : Examples
        The training rows.
    loss : callable
        See `Loss`.
    options : LoopOptions
        The `[training]` section.
    seed : int
        Seed of the shuffling and of dropout.
    validate : callable, optional
        Called after each epoch, in every process; returns the validation log loss in nats.
    checkpoint : Path, optional
        File where the run's state is saved every `checkpoint_minutes` and after every epoch. If it
        exists, the run resumes and ends with the weights of an uninterrupted run. On a GPU, they
        are the same only up to rounding, because torch adds some gradients there in no fixed order.

    Returns
    -------
    dict
        The report: `trainable_parameters`, `steps`, `skipped_steps` (the number of steps that the
        gradient scaler skipped), `effective_batch`, the final `forward_tokens`, `precision`,
        `device`, `processes`, `seconds`, `seconds_per_step`, `tokens`, `peak_memory_bytes`, and
        `epochs` (one dict per epoch). If the run stopped early, `stopped` holds the reason. If the
        best epoch was kept, there are also `kept_epoch` and `kept_epoch_chosen_on`.

    Raises
    ------
    InputError
        If a loss or a gradient is not finite, a single row does not fit into memory, the device
        does not support the precision, or an option needs validation rows and there are none.
    """
    for option in ("keep_best_epoch", "patience"):
        if validate is None and getattr(options, option):
            raise InputError(
                f"option training.{option}: needs validation rows (training.validation_fraction "
                "above 0)"
            )
    if any(p.dtype != torch.float32 for p in module.parameters() if p.requires_grad):
        raise ValueError(
            "trainable weights must be float32: gradient scaling and small steps both need it"
        )
    with frozen_embeddings(module, options.freeze_embeddings):
        run = TrainingRun(module, examples, loss, options, seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        save = partial(run.save, checkpoint) if checkpoint is not None else None
        while run.progress.stopped is None and run.progress.epoch < options.epochs:
            run.epoch(save)
            out_of_time = run.progress.stopped is not None
            run.end_epoch(validate)
            # A run that is out of time has already saved its last step. To save the end of the
            # epoch now would make a resumed run skip the rest of the epoch.
            if save and not out_of_time:
                save()
        report = run.finish()
    # Free the memory for the next model. With a gradient scaler, accelerate's optimizer refers to
    # itself, so only garbage collection frees it.
    del run, save
    clear_device_cache(garbage_collection=True)
    return report


class TrainingRun:
    """The state of one training run, and the methods that advance it."""

    def __init__(
        self, module: nn.Module, examples: Examples, loss: Loss, options: LoopOptions, seed: int
    ) -> None:
        self.module, self.options, self.seed = module, options, seed
        self.rows = len(examples.labels)
        self.precision = resolve(options.precision, process_state().device, "training.precision")
        # Accelerate keeps its state for the life of the process and would refuse a different
        # precision. Runs are independent, so the state is reset.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=self.precision)
        torch.manual_seed(seed + self.accelerator.process_index)
        device = self.accelerator.device
        self.home = next(module.parameters()).device
        module.to(device)
        start_equal(module)
        self.gradients = Gradients(
            module, examples, loss, options, self.accelerator, options.forward_tokens
        )
        self.effective_batch = options.batch_size * options.accumulation
        self.steps_per_epoch = math.ceil(self.rows / self.effective_batch)
        total = self.steps_per_epoch * options.epochs
        optimizer = torch.optim.AdamW(parameter_groups(module, options), lr=options.learning_rate)
        self.schedule = get_linear_schedule_with_warmup(
            optimizer, round(options.warmup * total), total
        )
        self.optimizer = self.accelerator.prepare(optimizer)
        self.progress = Progress()
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.started = self.saved = time.perf_counter()
        logger.info(
            "training: %s, %s of %s, effective batch %d, precision %s, device %s, %s, %.2fM "
            "trainable parameters",
            counted(self.rows, "row"),
            counted(options.epochs, "epoch"),
            counted(self.steps_per_epoch, "step"),
            self.effective_batch,
            self.precision,
            device,
            counted(self.accelerator.num_processes, "process", "es"),
            self.gradients.parameters / 1e6,
        )

    def epoch(self, save: Callable[[], None] | None) -> None:
        """Take the epoch's remaining steps, or as many of them as time allows."""
        progress, options = self.progress, self.options
        windows = shuffled_windows(self.rows, self.effective_batch, self.seed, progress.epoch)
        self.module.train()
        name = f"epoch {progress.epoch + 1}/{options.epochs}"
        main = self.accelerator.is_main_process
        bar = Bar(name, len(windows), progress.step, main=main, quiet=0)
        for window in windows[progress.step :]:
            started = time.perf_counter()
            self.step(window)
            progress.step += 1
            progress.steps += 1
            progress.seconds += time.perf_counter() - started
            bar.advance(1, f"mean loss {progress.summed / progress.seen:.4f}")
            now = time.perf_counter()
            over, due = self._in_any_process(
                options.seconds is not None and now - self.started > options.seconds,
                save is not None and now - self.saved > 60 * options.checkpoint_minutes,
            )
            if save and (over or due):
                save()
            if over:
                progress.stopped = (
                    f"after {options.seconds:g} s, in epoch {progress.epoch + 1} at step "
                    f"{progress.step} of {len(windows)}"
                )
                logger.warning("training stopped %s", progress.stopped)
                break
        bar.close()

    def step(self, window: np.ndarray) -> None:
        """Take one optimizer step on a window of rows."""
        accelerator, options, progress = self.accelerator, self.options, self.progress
        passes, tokens = self.gradients.of(window)
        for rows, loss in passes:
            if not math.isfinite(loss):
                raise self._not_finite(f"the loss is {loss}", rows)
        progress.tokens += tokens
        progress.summed += sum(loss for _, loss in passes) * len(window)
        limit = options.max_grad_norm or math.inf
        norm = accelerator.clip_grad_norm_(self.gradients.weights, limit)
        if accelerator.scaler is None and not math.isfinite(norm):
            raise self._not_finite(f"the gradient's norm is {float(norm)}", window)
        self.optimizer.step()
        progress.skipped += self.optimizer.step_was_skipped
        progress.skipped_last = progress.skipped_last + 1 if self.optimizer.step_was_skipped else 0
        if progress.skipped_last == MOST_SKIPPED:
            raise self._not_finite(f"the gradient was not finite in {MOST_SKIPPED} steps", window)
        if not progress.skipped_last:  # the schedule does not advance with a skipped step
            self.schedule.step()
        self.optimizer.zero_grad()
        progress.seen += len(window)

    def _not_finite(self, what: str, rows: np.ndarray) -> InputError:
        """Return the error that stops the run, naming the step, the rows and the likely cause."""
        overflow = "" if self.precision == "no" else f", or {self.precision} overflowed"
        return InputError(
            f"training: epoch {self.progress.epoch + 1}, step {self.progress.step + 1}: {what}; "
            f"the learning rate ({self.options.learning_rate:g}) is probably too high{overflow} "
            f"(rows {rows.tolist()})"
        )

    def end_epoch(self, validate: Callable[[], float] | None) -> None:
        """Validate, remember the best weights if requested, and decide whether to continue."""
        progress, options = self.progress, self.options
        record: dict[str, float] = {"train_loss": progress.summed / progress.seen}
        if validate is not None:
            record["validation_log_loss"] = loss = validate()
            chosen = options.keep_best_epoch or options.patience
            if chosen and (self.best is None or loss < self.best[0]):
                self.best = loss, _snapshot(self.module)
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.summed, progress.seen = 0.0, 0
        progress.epochs.append({"epoch": progress.epoch, **record})
        if self.accelerator.is_main_process:
            metrics = ", ".join(f"{name} {value:.4f}" for name, value in record.items())
            logger.info("epoch %d/%d: %s", progress.epoch, options.epochs, metrics)
        more = progress.stopped is None and progress.epoch < options.epochs
        if more and options.patience and progress.epoch >= self._best_epoch() + options.patience:
            progress.stopped = (
                f"after epoch {progress.epoch}: no improvement in "
                f"{counted(options.patience, 'epoch')}"
            )

    def _best_epoch(self) -> int:
        losses = [epoch["validation_log_loss"] for epoch in self.progress.epochs]
        return 1 + int(np.argmin(losses))

    def finish(self) -> dict[str, Any]:
        """Keep the weights of the last or the best epoch, and report the run."""
        progress = self.progress
        report: dict[str, Any] = {
            "trainable_parameters": self.gradients.parameters,
            "steps": progress.steps,
            "skipped_steps": progress.skipped,
            "effective_batch": self.effective_batch,
            "forward_tokens": self.gradients.forward_tokens,
            "precision": self.precision,
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "seconds": progress.seconds,
            "seconds_per_step": progress.seconds / max(1, progress.steps),
            "tokens": progress.tokens,
            "peak_memory_bytes": _peak_memory(self.accelerator.device),
            "epochs": progress.epochs,
        }
        if progress.stopped:
            report["stopped"] = progress.stopped
        if self.best is not None:
            load_learned(self.module, self.best[1])
            report["kept_epoch"] = self._best_epoch()
            report["kept_epoch_chosen_on"] = "the validation rows that the metrics report"
        # Otherwise, finished members of a blend would accumulate on a GPU.
        self.module.to(self.home)
        return report

    def save(self, path: Path) -> None:
        """Write all the state that the rest of the run depends on."""
        self.saved = time.perf_counter()
        scaler = self.accelerator.scaler
        content = {
            "steps_per_epoch": self.steps_per_epoch,
            "progress": asdict(self.progress),
            "forward_tokens": self.gradients.forward_tokens,
            "module": learned_state(self.module),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "best": self.best,
        }
        save_checkpoint(path, content, self.accelerator)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint written by `save`."""
        content = load_checkpoint(path, self.steps_per_epoch, self.accelerator)
        self.progress, self.best = Progress(**content["progress"]), content["best"]
        self.gradients.forward_tokens = content["forward_tokens"]
        load_learned(self.module, content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        if content["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        logger.info("resuming from epoch %d, step %d", self.progress.epoch + 1, self.progress.step)

    def _in_any_process(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is set in any process. All processes must stop and save
        together, although their clocks differ."""
        if not launched():
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32, device=self.accelerator.device)
        return summed(votes).bool().tolist()


def _peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: torch's on the GPU if one is used, otherwise this
    process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy the learned weights to main memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in learned_state(module).items()}
