"""Compute the gradient of a window of rows in forward passes that fit into memory, and add it over
processes."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import nn

from humanpref.config.neural import LoopOptions
from humanpref.schema import InputError
from humanpref.training.batching import micro_batches, padded
from humanpref.training.checkpoint import random_state, set_random_state
from humanpref.training.exchange import add_gradients, summed
from humanpref.training.inputs import Examples, moved
from humanpref.training.losses import Loss

logger = logging.getLogger(__name__)


class Pass(NamedTuple):
    """One forward pass of one process: its rows, and their share of the window's mean loss."""

    rows: np.ndarray
    loss: float


@dataclass
class Gradients:
    """Computes the gradient of one window at a time, and leaves it in the weights' `grad`.

    Attributes
    ----------
    module, examples, loss, options
        As for `humanpref.training.loop.train`; the module is on the accelerator's device.
    accelerator : Accelerator
        Provides the device, the autocast and the gradient scaler.
    forward_tokens : int
        Maximum number of tokens in one forward pass. It starts at the option's value and is halved
        whenever memory runs out.
    """

    module: nn.Module
    examples: Examples
    loss: Loss
    options: LoopOptions
    accelerator: Accelerator
    forward_tokens: int

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The trainable weights."""
        return [weight for weight in self.module.parameters() if weight.requires_grad]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(weight.numel() for weight in self.weights)

    @cached_property
    def targets(self) -> np.ndarray:
        """(n, 4) float32 labels and weights, in one array, so that a window needs one copy to the
        device."""
        labels, weights = self.examples.labels, self.examples.weights
        scales = np.ones(len(labels)) if weights is None else weights / weights.mean()
        return np.column_stack([labels, scales]).astype(np.float32)

    def of(self, window: np.ndarray) -> tuple[list[Pass], int]:
        """Compute the gradient of the mean of weight x loss over a window of rows. All processes
        end up with the same gradient.

        If memory runs out in any process, all processes halve `forward_tokens` and start the window
        over from the same random state. The result is the same as if the lower value had been in
        effect from the start.

        Returns
        -------
        (list of Pass, int)
            The passes of all processes, and the number of tokens that they read, without padding.

        Raises
        ------
        InputError
            If memory runs out although each pass is a single row.
        """
        device, processes = self.accelerator.device, self.accelerator.num_processes
        state, index = random_state(device), self.accelerator.process_index
        while True:
            shares = micro_batches(
                window,
                self.examples.lengths,
                self.options.batch_size,
                self.forward_tokens,
                processes,
            )
            passes = [rows for share in shares for rows in share]
            first = sum(map(len, shares[:index]))
            # The loss of each pass, the number of tokens, and the number of processes out of
            # memory.
            numbers = torch.zeros(len(passes) + 2, device=device)
            own_tokens = self._own(shares[index], numbers[first:], len(window))
            if own_tokens is None:
                numbers[-1].fill_(1)
            else:
                numbers[-2].fill_(own_tokens)
            # The host waits for the device here.
            *losses, tokens, failures = summed(numbers).tolist()
            if not failures:
                add_gradients(self.weights)
                return list(map(Pass, passes, losses)), int(tokens)
            self._lower_forward_tokens(passes)
            for weight in self.weights:
                weight.grad = None
            clear_device_cache(garbage_collection=True)
            set_random_state(state, device)

    def _own(
        self, passes: list[np.ndarray], losses: torch.Tensor, rows_in_window: int
    ) -> int | None:
        """Add up the gradients of this process's passes, write each pass's loss into `losses`, and
        return the number of tokens, or None if memory runs out.

        The tensors of a failed pass can be freed only after this method returns, because until then
        the error's traceback refers to them.
        """
        device, tokens = self.accelerator.device, 0
        order = [row for rows in passes for row in rows]
        try:
            targets = torch.from_numpy(self.targets[order]).to(device)
            parts = targets.split([len(rows) for rows in passes])
            for number, (rows, part) in enumerate(zip(passes, parts, strict=True)):
                batch = self.examples.collate(rows)
                if "attention_mask" in batch:
                    tokens += int(batch["attention_mask"].sum())
                with self.accelerator.autocast():
                    logits = self.module(**moved(batch, device))
                weighted = self.loss(logits.float(), part[:, :-1]) * part[:, -1]
                loss = weighted.sum() / rows_in_window
                losses[number] = loss.detach()
                self.accelerator.backward(loss)
        except torch.OutOfMemoryError:
            return None
        return tokens

    def _lower_forward_tokens(self, passes: list[np.ndarray]) -> None:
        """Lower `forward_tokens` to half of its value, or to half of the tokens of the largest pass
        with several rows, whichever is less.

        Raises
        ------
        InputError
            If no pass has several rows.
        """
        sizes = [padded(self.examples.lengths, rows) for rows in passes if len(rows) > 1]
        if not sizes:
            rows = np.concatenate(passes)
            checkpointing = "training.gradient_checkpointing=true, "
            kept = "" if self.options.gradient_checkpointing else checkpointing
            raise InputError(
                "training: out of memory although each forward pass has only one row, of up to "
                f"{self.examples.lengths[rows].max()} tokens; to use less memory, set {kept}a "
                "lower model.max_length or a smaller model"
            )
        self.forward_tokens = min(self.forward_tokens, max(sizes)) // 2
        if self.accelerator.is_main_process:
            logger.warning(
                "out of memory: from now on, training.forward_tokens is %d", self.forward_tokens
            )
