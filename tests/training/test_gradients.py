"""The gradient of a window: whatever its parts, its processes, and the memory that ran out."""

import gc
import weakref

import numpy as np
import pytest
import torch

from humanpref.schema import InputError

from .task import (
    LENGTHS,
    ROWS,
    Linear,
    WithDropout,
    fitted,
    launched,
    make_task,
    parameters,
    with_masks,
)


@pytest.fixture
def task():
    return make_task()


def run_out():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class BackwardRunsOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        run_out()


def short_of_memory(kind, failing, backward=False):
    """Return a module whose forward passes of these numbers run out of memory."""

    class Short(kind):
        calls = 0

        def forward(self, x, attention_mask=None):
            self.calls += 1
            outputs = super().forward(x)
            if self.calls not in failing:
                return outputs
            return BackwardRunsOut.apply(outputs) if backward else run_out()

    return Short()


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_accumulation_does_not_change_the_steps(task, batch_size, accumulation):
    # 11 rows: a window of 8 and a partial one of 3, which 4 x 2 does not even cut evenly.
    weights = np.linspace(0.5, 2, ROWS)
    whole, report = fitted(task, weights)
    cut, cut_report = fitted(task, weights, batch_size=batch_size, accumulation=accumulation)
    np.testing.assert_allclose(parameters(cut), parameters(whole), atol=1e-6)
    assert report["steps"] == cut_report["steps"] == 4
    assert report["effective_batch"] == 8
    assert np.abs(parameters(whole) - parameters(Linear())).max() > 0.05


def test_a_bound_on_the_tokens_of_a_forward_pass_does_not_change_the_steps(task):
    collate, labels = task
    seen = []

    def recorded(rows):
        seen.append(rows)
        return collate(rows)

    weights = np.linspace(0.5, 2, ROWS)
    whole, _ = fitted(task, weights)
    cut, _ = fitted((recorded, labels), weights, lengths=LENGTHS, forward_tokens=12)
    np.testing.assert_allclose(parameters(cut), parameters(whole), atol=1e-6)
    assert sorted(np.concatenate(seen).tolist()) == sorted([*range(ROWS)] * 2)
    assert max(len(rows) for rows in seen) > 1
    for rows in seen:
        assert len(rows) == 1 or LENGTHS[rows].max() * len(rows) <= 12


@pytest.mark.parametrize("kind", [Linear, WithDropout])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("failing", [{1}, {2}, {2, 4}])
def test_out_of_memory_repeats_the_window_with_half_the_tokens(
    task, caplog, kind, backward, failing
):
    """The first window, after none or one of its passes, once or twice; gradients, dropout, losses
    and tokens are those of a run that began with the lower limit."""
    options = {"lengths": LENGTHS, "max_grad_norm": 1.0}
    module = short_of_memory(kind, failing, backward)
    halved, report = fitted(with_masks(task), module=module, forward_tokens=28, **options)
    # Rows of 9, 7, 5 and of 4, 3, 2, 1, 1 tokens; then of 9, of 7, of 5, 4 and of 3, 2, 1, 1.
    lowered = (27 // 2, 12 // 2)[: len(failing)]
    limit = report["forward_tokens"]
    assert limit == lowered[-1]
    again, expected = fitted(with_masks(task), module=kind(), forward_tokens=limit, **options)
    np.testing.assert_array_equal(parameters(halved), parameters(again))
    for name in ("steps", "tokens", "epochs", "effective_batch", "forward_tokens"):
        assert report[name] == expected[name]
    assert report["tokens"] == 2 * LENGTHS.sum()
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"out of memory: from now on, training.forward_tokens is {value}" for value in lowered
    ]


def test_memory_may_run_out_in_any_step(task):
    """The steps before took other parts, which changes sums by rounding only."""
    whole, _ = fitted(task, lengths=LENGTHS)
    # A pass of all 8 rows, then one of 3; in the second epoch memory runs out in a pass of 8.
    halved, report = fitted(task, lengths=LENGTHS, module=short_of_memory(Linear, {3}))
    assert report["forward_tokens"] == 8 * 9 // 2
    np.testing.assert_allclose(parameters(halved), parameters(whole), atol=1e-6)


def test_a_resumed_run_keeps_the_lower_limit(task, tmp_path):
    options = {"lengths": LENGTHS, "checkpoint": tmp_path / "run", "forward_tokens": 28}
    _, report = fitted(task, module=short_of_memory(Linear, {1}), epochs=1, **options)
    assert report["forward_tokens"] == 27 // 2
    _, report = fitted(task, epochs=2, **options)
    assert report["forward_tokens"] == 27 // 2


def test_the_failed_attempt_is_freed_before_the_next(task):
    kept, alive = [], []

    class Watched(Linear):
        def forward(self, x):
            alive.append([tensor() is not None for tensor in kept])
            hidden = self.frozen(x) * self.head.weight.sum()  # needed by the backward pass
            kept.append(weakref.ref(hidden))
            outputs = self.head(hidden)
            return BackwardRunsOut.apply(outputs) if len(kept) == 1 else outputs

    gc.disable()
    try:
        module = Watched()
        fitted(task, module=module, epochs=1, lengths=LENGTHS)
    finally:
        gc.enable()
    assert alive[:2] == [[], [False]]


def test_a_row_that_does_not_fit_stops_the_run_with_advice(task):
    module = short_of_memory(Linear, set(range(1, 100)))
    with pytest.raises(
        InputError,
        match=r"only one row, of up to 9 tokens; .*gradient_checkpointing=true, a lower "
        "model.max_length or a smaller model",
    ):
        fitted(task, module=module, lengths=LENGTHS)
    assert module.calls == 7  # at most 72 tokens in a pass, 36, 18, 9, 4, 2 and single rows
    with pytest.raises(InputError, match=r"set a lower model\.max_length"):
        fitted(
            task,
            module=short_of_memory(Linear, set(range(1, 100))),
            lengths=LENGTHS,
            gradient_checkpointing=True,
        )


def test_a_loss_that_is_not_finite_names_its_pass(task):
    collate, labels = task

    def broken(rows):
        return {
            "x": torch.where(torch.as_tensor(rows == 8)[:, None], torch.nan, collate(rows)["x"])
        }

    with pytest.raises(InputError, match=r"the loss is nan.*\(rows \[8\]\)"):
        fitted((broken, labels), lengths=LENGTHS, forward_tokens=30)


TWO_PROCESSES = """
import sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from task import LENGTHS, ROWS, Linear, fitted, make_task, parameters, with_masks
from accelerate import PartialState
from humanpref.schema import InputError
from humanpref.training.precision import process_state
from humanpref.training.predict import predict_logits

rank = process_state().process_index
weights = np.linspace(0.5, 2, ROWS)
collate, labels = make_task()

class Short(Linear):
    '''Its second forward pass runs out of memory, in the second process only.'''
    calls = 0
    def forward(self, x, attention_mask=None):
        self.calls += 1
        if self.calls == 2 and rank == 1:
            raise torch.OutOfMemoryError
        return super().forward(x)

class Unequal(Linear):
    '''It begins with other weights in each process.'''
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.head.weight += rank

found = {}
for name, module, options in (
    ("windows of 6 and 5", Unequal(), {"batch_size": 3, "accumulation": 2, "max_grad_norm": 0.5}),
    ("windows of 5, 5 and 1", Linear(), {"batch_size": 5}),
    ("out of memory", Short(), {"batch_size": 8, "lengths": LENGTHS, "forward_tokens": 24}),
):
    module, report = fitted(with_masks((collate, labels)), weights, module=module, **options)
    found[f"{name} parameters"] = parameters(module)
    found[f"{name} losses"] = [epoch["train_loss"] for epoch in report["epochs"]]
    found[f"{name} tokens"], found[f"{name} limit"] = report["tokens"], report["forward_tokens"]
    assert report["processes"] == 2
found["logits"] = predict_logits(module, collate, np.arange(1, ROWS + 1), 12, "no")
np.savez(f"{sys.argv[2]}{rank}.npz", **found)

def broken(rows):
    return {"x": torch.where(torch.as_tensor(rows == 5)[:, None], torch.nan, collate(rows)["x"])}
try:
    fitted((broken, labels), lengths=LENGTHS, forward_tokens=24, batch_size=ROWS)
except InputError as error:
    assert "step 1: the loss is nan" in str(error) and str(error).endswith("(rows [2, 5])"), error
else:
    raise AssertionError("a loss that is not finite was taken")
"""


@pytest.mark.slow
def test_two_processes_equal_one(task, tmp_path):
    launched(TWO_PROCESSES, tmp_path, 2, tmp_path / "rank")
    found, other = (np.load(tmp_path / f"rank{rank}.npz") for rank in (0, 1))
    for name in found:
        np.testing.assert_array_equal(found[name], other[name], err_msg=name)
    weights = np.linspace(0.5, 2, ROWS)
    for name, options in (
        ("windows of 6 and 5", {"batch_size": 3, "accumulation": 2, "max_grad_norm": 0.5}),
        ("windows of 5, 5 and 1", {"batch_size": 5}),
        ("out of memory", {"batch_size": 8}),
    ):
        module, report = fitted(with_masks(task), weights, **options)
        losses = [epoch["train_loss"] for epoch in report["epochs"]]
        np.testing.assert_allclose(found[f"{name} parameters"], parameters(module), atol=1e-5)
        np.testing.assert_allclose(found[f"{name} losses"], losses, atol=1e-5)
        assert found[f"{name} tokens"] == report["tokens"]
    assert found["out of memory limit"] == 3 * 7 // 2
    logits = module(**task[0](np.arange(ROWS))).detach().numpy()
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
