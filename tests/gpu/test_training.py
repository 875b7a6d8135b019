"""What else a run may do: accumulate, recompute, validate, skip a step, resume, run out of memory,
leave an artifact."""

import numpy as np
import pytest
import torch

from humanpref.data import labels_of, write_pairs
from humanpref.logloss import log_loss
from humanpref.models import hidden
from humanpref.runs.artifact import load_model
from humanpref.runs.train import train
from humanpref.schema import InputError
from humanpref.training.gradients import Gradients
from humanpref.training.loop import TrainingRun

from .runs import FAMILIES, fit, slow_but, tiny

OVERFLOW = {
    "encoder": ("training.loss=dpo-like", "training.beta=1e4"),
    "decoder": ("training.loss=dpo-like", "training.beta=1e5"),
    "dpo": ("training.beta=16",),
}
"""Losses so steep that gradients times the scaler's first scale, 65,536, exceed float16."""


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


ONE_FAST = pytest.mark.parametrize(
    "family", [slow_but(name, "encoder") for name in FAMILIES], indirect=True
)
"""The test of the shared loop is fast for one family, and slow for the others."""


@pytest.fixture
def configured(family, backbone_of):
    """Return the family's configuration with overrides; all rows count."""
    ties = ("training.ties=davidson",) if family == "dpo" else ()
    return lambda *overrides: tiny(family, backbone_of(family), *ties, *overrides)


def products(gpu) -> int:
    """Count the products in half precision so far."""
    return sum(
        number
        for (name, dtype, _), number in gpu.dtypes.items()
        if name in ("mm", "addmm") and dtype == torch.half
    )


@pytest.mark.slow
def test_accumulation_takes_the_same_steps(configured, few):
    whole = fit(configured("training.batch_size=6"), few)
    parts = fit(configured("training.batch_size=3", "training.accumulation=2"), few)
    tokens = fit(configured("training.batch_size=6", "training.forward_tokens=200"), few)
    assert [model.report_["training"]["steps"] for model in (whole, parts, tokens)] == [2, 2, 2]
    for model in (parts, tokens):
        np.testing.assert_allclose(model.predict_proba(few), whole.predict_proba(few), atol=1e-3)


@pytest.mark.slow
def test_checkpointing_recomputes_and_changes_nothing(gpu, configured, few):
    kept = fit(configured("training.gradient_checkpointing=false"), few)
    once = products(gpu)
    gpu.clear()
    recomputed = fit(configured("training.gradient_checkpointing=true"), few)
    assert products(gpu) > once
    np.testing.assert_allclose(recomputed.predict_proba(few), kept.predict_proba(few), atol=1e-5)


@pytest.mark.slow
def test_the_best_epoch_is_kept(configured, family, few):
    # The more the model learns, the worse it judges rows whose labels are turned round.
    wrong = labels_of(few)[:, [1, 2, 0]]
    config = configured("training.epochs=3", "training.keep_best_epoch=true")
    model = fit(config, few, validation=(few, wrong))
    report = model.report_["training"]
    losses = [epoch["validation_log_loss"] for epoch in report["epochs"]]
    assert report["kept_epoch"] == 1 + int(np.argmin(losses)) < 3
    if family != "dpo":  # its link is fitted after the last epoch
        assert log_loss(wrong, model.predict_proba(few)) == pytest.approx(min(losses), abs=1e-6)


# DPO's passes run through the same batches as the decoder's.
@pytest.mark.parametrize(
    "family", ["encoder", "decoder", pytest.param("dpo", marks=pytest.mark.slow)], indirect=True
)
def test_a_pass_of_several_backbone_batches_changes_little(configured, few, monkeypatch):
    validation = few, labels_of(few)
    whole = fit(configured(), few, validation=validation)
    monkeypatch.setitem(hidden.BACKBONE_TOKENS, True, 100)
    parts = fit(configured(), few, validation=validation)
    probabilities = whole.predict_proba(few)
    spread = probabilities.std(axis=0).max()
    np.testing.assert_allclose(parts.predict_proba(few), probabilities, atol=0.05 * spread)
    # Neither validation nor prediction leaves learned weights in half precision.
    learned = {w.dtype for w in parts.module_.parameters() if w.requires_grad}
    assert learned == {torch.float32}


@ONE_FAST
def test_one_skipped_step_stops_the_schedule_once(configured, family, few, monkeypatch):
    gradient, step, positions = Gradients.of, TrainingRun.step, []

    def third_not_finite(self, window):
        result = gradient(self, window)
        if len(positions) == 2:
            self.weights[0].grad.fill_(torch.inf)
        return result

    def recorded(self, window):
        step(self, window)
        positions.append(self.schedule.last_epoch)

    monkeypatch.setattr(Gradients, "of", third_not_finite)
    monkeypatch.setattr(TrainingRun, "step", recorded)
    model = fit(configured("training.epochs=2"), few)
    assert positions == [1, 2, 2, 3, 4, 5]
    assert model.report_["training"]["skipped_steps"] == 1


@ONE_FAST
def test_a_skipped_step_does_not_advance_the_schedule(configured, family, few, tmp_path):
    config = configured("training.epochs=4", *OVERFLOW[family])
    report = fit(config, few, checkpoint=tmp_path / "run").report_["training"]
    assert report["steps"] == 12
    assert 0 < report["skipped_steps"] < 12
    schedule = torch.load(tmp_path / "run", weights_only=True)["schedule"]
    assert schedule["last_epoch"] == 12 - report["skipped_steps"]
    assert min(schedule["_last_lr"]) > 0


@ONE_FAST
def test_a_killed_run_resumes_with_its_scale(configured, family, few, tmp_path, monkeypatch):
    config = configured("training.epochs=4", "training.checkpoint_minutes=1e-9", *OVERFLOW[family])
    whole = fit(config, few)
    step, steps = torch.optim.AdamW.step, []

    def interrupted(self, *arguments, **options):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(config, few, checkpoint=tmp_path / "run")
    resumed = fit(config, few, checkpoint=tmp_path / "run")
    for key in ("steps", "skipped_steps"):
        assert resumed.report_["training"][key] == whole.report_["training"][key]
    np.testing.assert_array_equal(resumed.predict_proba(few), whole.predict_proba(few))


@ONE_FAST
def test_training_without_memory_takes_smaller_batches(gpu, configured, family, few, caplog):
    rows = few[:8].reset_index(drop=True)
    whole = fit(configured("training.batch_size=8"), rows)
    weight = max(weight.numel() for weight in whole.module_.parameters())
    gpu.room = max(gpu.largest // 2, weight)
    assert gpu.room < gpu.largest
    # Only the training counts: DPO's link reads its rows afterwards.
    halved = fit(configured("training.batch_size=8", "inference.batch_tokens=100"), rows)
    report, expected = halved.report_["training"], whole.report_["training"]
    assert gpu.failures == caplog.text.count("training.forward_tokens is") > 0
    assert report["forward_tokens"] < expected["forward_tokens"]
    for name in ("steps", "skipped_steps", "tokens"):
        assert report[name] == expected[name]
    gpu.room = None
    # The first step already needs the most memory, so that every step had the lower value.
    lower = f"training.forward_tokens={report['forward_tokens']}"
    same = fit(configured("training.batch_size=8", "inference.batch_tokens=100", lower), rows)
    np.testing.assert_array_equal(halved.predict_proba(rows), same.predict_proba(rows))


def test_inference_without_memory_takes_smaller_batches(gpu, configured, few, caplog):
    model = fit(configured(), few)
    gpu.clear()
    probabilities = model.predict_proba(few)
    gpu.room = gpu.largest // 3
    np.testing.assert_allclose(model.predict_proba(few), probabilities, atol=1e-3)
    assert gpu.failures == caplog.text.count("out of memory: from now on") > 0


@pytest.mark.parametrize("option", ["training.precision", "inference.precision"])
def test_bf16_is_refused_before_the_first_step(configured, few, monkeypatch, option):
    monkeypatch.setattr(TrainingRun, "step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(InputError, match=f"^option {option}: this GPU only emulates bf16; use"):
        fit(configured(f"{option}=bf16"), few)


@pytest.mark.slow
def test_a_run_leaves_an_artifact_that_predicts_the_same(configured, pairs, tmp_path):
    rows = pairs[:24].reset_index(drop=True)
    write_pairs(tmp_path / "train.csv", rows)
    artifact = train(configured(), tmp_path / "train.csv", tmp_path / "artifact", folds=2)
    assert np.isfinite(artifact.metrics["log_loss"])
    again = load_model(artifact.folder).predict_proba(rows)
    np.testing.assert_allclose(again, artifact.predict_proba(rows), atol=1e-6)
    model = load_model(artifact.folder / "fold-0")
    model.predict_proba(rows)
    assert {w.dtype for w in model.module_.parameters() if w.requires_grad} == {torch.float32}
    assert {w.device.type for w in model.module_.parameters()} == {"cuda"}
