"""Check that a training that runs out of memory continues with smaller passes, and that its loss is
the same as with small passes from the start."""

import copy
from collections.abc import Iterator

import numpy as np
import torch

from humanpref.kaggle.acceptance.setting import Row, Setting, device, scratch
from humanpref.kaggle.acceptance.workload import preset_config, workload
from humanpref.runs.estimate import memory_of, shape_of

LENGTH = 512
NO_LIMIT = 10**9
FAR = 1e-3
"""Largest accepted relative difference between the losses of the two trainings."""


def out_of_memory(setting: Setting) -> Iterator[Row]:
    """Train one step on rows that would need 1.5 times the device's memory in one pass, so that the
    training has to continue with smaller passes. Then train the same step with such passes from the
    start, and compare the losses."""
    real = not setting.quick and device().type == "cuda"
    with scratch() as folder:
        rows = 16
        config = preset_config("deberta-v3-small", folder / "backbone", setting.quick)
        if real:
            rows *= _times_too_many(config)
        settings = (f"training.batch_size={rows}", "model.attention=eager")
        config = preset_config("deberta-v3-small", folder / "backbone", setting.quick, *settings)
        work = workload(config)
        start = copy.deepcopy(work.module.state_dict())
        batch = work.rows(np.full((rows, 3), LENGTH))
        refusal = None if real else work.module.register_forward_pre_hook(_refuse, with_kwargs=True)
        report = work.train(batch, forward_tokens=NO_LIMIT)
        if refusal:
            refusal.remove()
        work.module.load_state_dict(start)
        again = work.train(batch, forward_tokens=report["forward_tokens"])
    losses = [each["epochs"][0]["train_loss"] for each in (report, again)]
    far = abs(losses[0] / losses[1] - 1)
    same = all(report[key] == again[key] for key in ("steps", "tokens"))
    played = "" if real else " (a simulated limit)"
    yield Row(
        "out of memory",
        f"deberta-v3-small, {rows} rows in one pass",
        f"forward_tokens {report['forward_tokens']:,}{played}; the loss is {far:.1e} from that of "
        "small passes",
        f"lower forward_tokens, loss within {FAR:g}",
        bool(report["forward_tokens"] < batch.lengths.sum() and same and far <= FAR),
    )


def _times_too_many(config: object) -> int:
    """Return how many batches of 16 rows together need 1.5 times the device's memory."""
    total = torch.cuda.mem_get_info()[1] / 2**30
    estimated = memory_of(config, shape_of(config.model.backbone), LENGTH)
    per_sequence = estimated.gib()["activations"] / estimated.sequences
    return int(np.ceil(1.5 * total / per_sequence / 2 / 16))


def _refuse(module: torch.nn.Module, _: tuple, arguments: dict) -> None:
    """Simulate a device with memory for only a third of the batch: raise an out-of-memory error for
    a larger pass."""
    if arguments["input_ids"].numel() > 16 * 2 * 64 / 3:
        raise torch.OutOfMemoryError("simulated: the pass is too large")
