import gc
import json
import weakref

import numpy as np
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from humanpref.config.neural import GradientTraining
from humanpref.schema import InputError
from humanpref.training import loop
from humanpref.training.inputs import Examples
from humanpref.training.loop import train
from humanpref.training.losses import cross_entropy
from humanpref.training.precision import resolve

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


def test_a_step_by_hand(task):
    collate, labels = task
    weights = np.arange(1.0, ROWS + 1)
    expected = Linear()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.05, weight_decay=0)
    losses = cross_entropy(
        expected(**collate(np.arange(ROWS))), torch.as_tensor(labels, dtype=torch.float32)
    )
    (losses * torch.as_tensor(weights / weights.mean(), dtype=torch.float32)).mean().backward()
    optimizer.step()
    module, _ = fitted(task, weights, epochs=1, batch_size=ROWS, weight_decay=0)
    np.testing.assert_allclose(parameters(module), parameters(expected), atol=1e-6)


def test_the_learning_rate_falls_linearly_to_zero(task, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self, *arguments, **keywords):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fitted(task, epochs=2)
    np.testing.assert_allclose(rates, [0.05, 0.0375, 0.025, 0.0125])


def test_what_is_frozen_stays_and_the_rest_moves(task):
    module, _ = fitted(task)
    before = Linear()
    for name, parameter in module.named_parameters():
        moved = not torch.equal(parameter, dict(before.named_parameters())[name])
        assert moved == name.startswith("head")


def test_clipping_bounds_the_gradient(task, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def recorded(self, *arguments, **keywords):
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fitted(task)
    unclipped = min(norms)
    norms.clear()
    fitted(task, max_grad_norm=unclipped / 10)
    assert max(norms) == pytest.approx(unclipped / 10, rel=1e-3)


def test_validation_after_every_epoch_and_the_last_epoch_is_kept(task):
    figures = iter([0.5, 0.1, 0.9])
    seen = []

    def validate():
        seen.append(1)
        return next(figures)

    module, report = fitted(task, epochs=3, validate=validate)
    assert [epoch["validation_log_loss"] for epoch in report["epochs"]] == [0.5, 0.1, 0.9]
    assert "kept_epoch" not in report
    assert report["peak_memory_bytes"] > 0
    figures = iter([0.5, 0.1, 0.9])
    best, best_report = fitted(task, epochs=3, validate=validate, keep_best_epoch=True)
    assert best_report["kept_epoch"] == 2
    assert "validation rows" in best_report["kept_epoch_chosen_on"]
    assert not np.allclose(parameters(best), parameters(module))


def test_keeping_the_best_epoch_needs_validation_rows(task):
    with pytest.raises(InputError, match="keep_best_epoch"):
        fitted(task, keep_best_epoch=True)


def test_a_loss_that_is_not_finite_stops_the_run(task):
    collate, labels = task

    def broken(rows):
        return {"x": collate(rows)["x"] * float("nan")}

    with pytest.raises(
        InputError, match=r"step 1: the loss is nan; .* is probably too high \(rows"
    ):
        fitted((broken, labels))


class BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


class Breaking(Linear):
    """Its loss is finite; its gradient is so in the named forward passes only, of which there is
    one a step."""

    def __init__(self, good):
        super().__init__()
        self.passes, self.good = 0, set(good)

    def forward(self, x):
        self.passes += 1
        return (
            super().forward(x)
            if self.passes in self.good
            else BrokenGradient.apply(super().forward(x))
        )


@pytest.fixture
def scaled(monkeypatch):
    """Runs under a gradient scaler, as on a T4."""
    prepared = loop.TrainingRun.__init__

    def prepare(self, *arguments):
        prepared(self, *arguments)
        self.accelerator.scaler = torch.amp.GradScaler("cpu")
        self.optimizer = AcceleratedOptimizer(
            self.optimizer.optimizer, scaler=self.accelerator.scaler
        )
        self.accelerator._optimizers = [self.optimizer]

    monkeypatch.setattr(loop.TrainingRun, "__init__", prepare)


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_run(task, max_grad_norm):
    module = Breaking(good=range(1, 4))
    with pytest.raises(
        InputError, match=r"epoch 2, step 2: the gradient's norm is nan.*learning rate.*rows \["
    ):
        fitted(task, module=module, max_grad_norm=max_grad_norm)
    assert np.isfinite(parameters(module)).all()


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_scaler_that_only_skips_stops_the_run(task, scaled, max_grad_norm):
    # 40 steps: the scaler may skip 19 of them, and 19 again, but not 20 one after the other.
    module = Breaking(good=[1, 21])
    _, report = fitted(task, module=module, epochs=20, max_grad_norm=max_grad_norm)
    assert (report["steps"], report["skipped_steps"]) == (40, 38)
    module = Breaking(good=range(1, 21))
    with pytest.raises(
        InputError, match=r"epoch 20, step 2: the gradient was not finite in 20 steps.*rows \["
    ):
        fitted(task, module=module, epochs=20, max_grad_norm=max_grad_norm)
    assert np.isfinite(parameters(module)).all()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_trained_module_is_gone_when_it_is_let_go(task, precision):
    """On a GPU those of other folds would stay beside it. No garbage collection is to be needed."""
    gc.collect()
    gc.disable()
    try:
        module, _ = fitted(task, precision=precision)
        kept = weakref.ref(module)
        del module
        assert kept() is None
    finally:
        gc.enable()


def test_the_optimizer_is_gone_after_training(task, scaled, monkeypatch):
    """Its moments are twice the size of what learns; under a scaler accelerate's optimizer is a
    reference cycle."""
    kept, finish = [], loop.TrainingRun.finish

    def finished(self):
        kept.append(weakref.ref(self.optimizer.optimizer))
        return finish(self)

    monkeypatch.setattr(loop.TrainingRun, "finish", finished)
    fitted(task)
    assert kept[0]() is None


def test_half_precision_weights_are_refused(task):
    with pytest.raises(ValueError, match="float32"):
        train(Linear().half(), Examples(*task, LENGTHS), cross_entropy, GradientTraining(), seed=0)


def test_bf16_autocast_keeps_float32_weights_and_learns(task):
    module, report = fitted(task, precision="bf16", epochs=30)
    assert report["precision"] == "bf16"
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert report["epochs"][-1]["train_loss"] < report["epochs"][0]["train_loss"] - 0.1


def test_the_module_goes_back_to_where_it_was(task):
    """On a GPU the models of a blend would pile up."""
    moves = []

    class Movable(Linear):
        used = False

        def forward(self, x):
            self.used = True
            return super().forward(x)

        def to(self, device):
            moves.append((self.used, device))
            return super().to(device)

    module, _ = fitted(task, module=Movable())
    assert moves[-1] == (True, torch.device("cpu"))
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_each_epoch_sums_its_own_losses_and_logs_them(task, caplog):
    with caplog.at_level("INFO"):
        _, report = fitted(task, learning_rate=1e-12)
    first, second = (epoch["train_loss"] for epoch in report["epochs"])
    assert first == pytest.approx(second, abs=1e-6)
    assert f"epoch 2/2: train_loss {second:.4f}" in caplog.messages


def test_the_tokens_read_are_counted_without_padding(task):
    class Masked(Linear):
        def forward(self, x, attention_mask):
            return super().forward(x)

    _, report = fitted(with_masks(task), lengths=LENGTHS, epochs=3, module=Masked())
    assert report["tokens"] == 3 * LENGTHS.sum()


def test_the_module_trains_again_after_a_validation(task):
    modes = []

    class Watched(Linear):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    module = Watched()
    fitted(task, module=module, validate=lambda: module.eval() and 1.0)
    assert len(modes) > 2
    assert all(modes)


def test_precision_fits_the_device(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert resolve("auto", cpu) == "no"
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        resolve("fp16", cpu)
    # A T4 says that it supports bf16, by emulation.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert resolve("auto", gpu) == "fp16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve("auto", gpu) == "bf16"


def test_a_time_budget_stops_validates_and_keeps_what_was_learned(task):
    module, report = fitted(task, epochs=5, seconds=1e-9, validate=lambda: 1.0)
    assert report["steps"] == 1
    assert report["stopped"].startswith("after 1e-09 s, in epoch 1 at step 1 of 2")
    assert report["epochs"] == [
        {
            "epoch": 1,
            "train_loss": pytest.approx(report["epochs"][0]["train_loss"]),
            "validation_log_loss": 1.0,
        }
    ]
    assert not np.allclose(parameters(module), parameters(Linear()))


def test_patience_stops_and_keeps_the_best_epoch(task):
    figures = iter([0.9, 0.5, 0.6, 0.7, 0.1])
    _, report = fitted(task, epochs=5, patience=2, validate=lambda: next(figures))
    assert len(report["epochs"]) == 4
    assert report["kept_epoch"] == 2
    assert "no improvement in 2 epochs" in report["stopped"]
    with pytest.raises(InputError, match=r"training\.patience: needs validation rows"):
        fitted(task, patience=1)


def test_warm_up(task, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self, *arguments, **keywords):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fitted(task, epochs=4, warmup=0.25)
    np.testing.assert_allclose(
        rates, np.array([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]) * 0.05
    )


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_weights(task, tmp_path, monkeypatch, after):
    whole, report = fitted(task, module=WithDropout(), epochs=3, max_grad_norm=1.0, warmup=0.3)
    steps = []
    step = torch.optim.AdamW.step

    def interrupted(self, *arguments, **keywords):
        if len(steps) == after:
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *arguments, **keywords)

    options = {"epochs": 3, "max_grad_norm": 1.0, "warmup": 0.3, "checkpoint_minutes": 1e-9}
    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(task, module=WithDropout(), checkpoint=tmp_path / "run", **options)
    monkeypatch.undo()
    torch.manual_seed(99)  # another process would have another state
    resumed, resumed_report = fitted(
        task, module=WithDropout(), checkpoint=tmp_path / "run", **options
    )
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))
    assert resumed_report["steps"] == report["steps"] == 6
    for one, other in zip(resumed_report["epochs"], report["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-9)


def test_a_checkpoint_of_other_steps_is_refused(task, tmp_path):
    fitted(task, checkpoint=tmp_path / "run", batch_size=8)
    with pytest.raises(
        InputError, match=r"run: expected a checkpoint for epochs of 1 step, got 2; remove the file"
    ):
        fitted(task, checkpoint=tmp_path / "run", batch_size=16, epochs=2)


def test_a_run_out_of_time_is_resumed_where_it_stopped(task, tmp_path):
    options = {"module": WithDropout(), "epochs": 3, "max_grad_norm": 1.0, "validate": lambda: 1.0}
    whole, report = fitted(task, **options)
    for steps in (1, 2, 3):
        options |= {"module": WithDropout(), "checkpoint": tmp_path / "run"}
        _, stopped = fitted(task, seconds=1e-9, **options)
        assert (stopped["steps"], len(stopped["epochs"])) == (steps, (steps + 1) // 2)
        assert "stopped" in stopped
    resumed, resumed_report = fitted(task, **options | {"module": WithDropout()})
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))
    assert "stopped" not in resumed_report
    assert resumed_report["epochs"] == report["epochs"]
    # A run that is done is not continued.
    _, again = fitted(task, **options | {"module": WithDropout()})
    assert again["steps"] == 6


def test_a_run_that_lost_patience_stays_stopped(task, tmp_path):
    figures = iter([0.5, 0.6, 0.1])
    options = {"epochs": 3, "patience": 1, "checkpoint": tmp_path / "run"}
    for _ in range(2):
        _, report = fitted(task, validate=lambda: next(figures), **options)
        assert "no improvement" in report["stopped"]
        assert report["steps"] == 4


# Two clocks that never agree: one process would save in steps in which the other does not.
UNEQUAL_CLOCKS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from task import fitted, make_task
from humanpref.training import loop
class Clock:
    now, tick = 0.0, 1.0 if os.environ["RANK"] == "0" else 1.7
    def perf_counter(self):
        self.now += self.tick
        return self.now
loop.time = Clock()
steps, save = [], loop.TrainingRun.save
def recorded(self, path):
    steps.append(self.progress.steps)
    save(self, path)
loop.TrainingRun.save = recorded
fitted(make_task(), batch_size=3, epochs=5, checkpoint_minutes=0.1, checkpoint=Path(sys.argv[2]))
Path(f"{sys.argv[2]}-{os.environ['RANK']}").write_text(str(steps))
"""


@pytest.mark.slow
def test_two_processes_whose_clocks_differ_save_together(tmp_path):
    launched(UNEQUAL_CLOCKS, tmp_path, 2, tmp_path / "run")
    steps = [(tmp_path / f"run-{rank}").read_text() for rank in (0, 1)]
    assert steps[0] == steps[1]
    assert len(json.loads(steps[0])) > 5 + 5  # after the 5 epochs, and between
