"""Prediction within a time budget, by models that take their time on a clock of the test's own."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import read_training_rows, write_pairs
from humanpref.files import read_json
from humanpref.models.base import Model
from humanpref.models.blend import BlendModel
from humanpref.models.blend_weights import Blend
from humanpref.models.budget import LEFT, Budget, predict_within, schedule
from humanpref.reports.evaluate import evaluate_artifacts
from humanpref.runs.artifact import Artifact
from humanpref.runs.distillation import Teacher, soft_labels, taught
from humanpref.runs.predict import predict
from humanpref.runs.train import train
from humanpref.schema import InputError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Slow(Model):
    """A row costs its cost; `share` of it for a cheaper variant, which says so in its
    probabilities."""

    def __init__(self, clock, costs, per_second, share=1.0, warm_up=0.0, others=()):
        self.clock, self.own, self.per_second, self.share = clock, costs, per_second, share
        self.warm_up, self.others, self.calls = warm_up, others, []

    def fit(self, pairs, labels, weights=None, validation=None, checkpoint=None): ...
    def save_state(self, folder): ...
    def load_state(self, folder): ...

    def costs(self, pairs):
        return self.own[pairs["id"].astype(int)] * self.share

    def cheaper(self):
        variant = lambda s: Slow(self.clock, self.own, self.per_second, s)  # noqa: E731
        return [(f"x{share}", variant(share)) for share in self.others]

    def predict_proba(self, pairs):
        self.calls.append(pairs["id"].astype(int).tolist())
        self.clock.now += self.warm_up + self.costs(pairs).sum() / self.per_second
        self.warm_up = 0
        return np.tile([self.share, 0.0, 1 - self.share], (len(pairs), 1))


@pytest.fixture
def many(pairs):
    costs = np.random.default_rng(0).integers(10, 1_000, len(pairs)).astype(float)
    frame = pairs.assign(id=[str(i) for i in range(len(pairs))])
    return frame, costs


def predicted(many, seconds, per_second, others=(0.5, 0.25), **options):
    pairs, costs = many
    clock = Clock()
    model = Slow(clock, costs, per_second, others=others, **options)
    budget = Budget(seconds, clock)
    made = predict_within(model, pairs, budget)
    return made, budget, clock, model


def test_with_time_enough_nothing_is_given_up(many):
    total = many[1].sum()
    made, budget, clock, model = predicted(many, 100, total / 80)
    assert (made == [1, 0, 0]).all()
    assert not budget.given_up
    assert [row for call in model.calls for row in call] == np.argsort(
        -many[1], kind="stable"
    ).tolist()
    assert clock.now == pytest.approx(80)


def test_a_slow_start_is_not_the_speed(many):
    made, budget, *_ = predicted(many, 100, many[1].sum() / 30, warm_up=20)
    assert (made == [1, 0, 0]).all()
    assert not budget.given_up


@pytest.mark.parametrize(
    ("needed", "given_up"), [(150, {"x0.5"}), (250, {"x0.5", "x0.25"}), (900, {"x0.25", LEFT})]
)
def test_what_does_not_fit_is_given_up_in_order_and_in_time(needed, given_up, many, caplog):
    made, budget, clock, _ = predicted(many, 100, many[1].sum() / needed)
    assert clock.now <= 100
    assert clock.now > 60
    assert given_up <= set(budget.given_up)
    assert (LEFT in budget.given_up) == (needed == 900)
    left = np.isnan(made[:, 0])
    assert budget.given_up[LEFT] == left.sum()
    for share in (0.5, 0.25):
        assert budget.given_up[f"x{share}"] == (made[:, 0] == share).sum()
    assert all(name in caplog.text for name in given_up)


def test_no_time_at_all(many):
    made, budget, *_ = predicted(many, 1e-3, many[1].sum() / 1e6)
    assert np.isnan(made).sum() == 3 * (len(made) - 4)  # before the first block nothing is known
    made, budget, _, model = predicted(many, 0, 1.0)
    assert np.isnan(made).all()
    assert model.calls == []
    assert budget.given_up == {LEFT: len(made)}


def test_blocks_of_at_most_so_many_rows_lose_none(many):
    pairs, costs = many
    blocks = [
        rows
        for rows, _ in schedule(Slow(Clock(), costs, 1.0), pairs, Budget(np.inf, Clock()), most=7)
    ]
    assert max(map(len, blocks)) == 7
    assert np.concatenate(blocks).tolist() == np.argsort(-costs, kind="stable").tolist()


def test_nan_from_a_model_is_not_taken_for_a_lack_of_time(many, monkeypatch):
    monkeypatch.setattr(Slow, "predict_proba", lambda self, pairs: np.full((len(pairs), 3), np.nan))
    with pytest.raises(ValueError, match="not finite, negative"):
        predicted(many, 100, 1.0)


MICRO = (
    "model.max_length=64",
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "model.inputs=joint",
    "training.validation_fraction=0",
    "inference.swap_average=true",
)


@pytest.fixture(scope="module")
def encoder(arena, tmp_path_factory):
    pytest.importorskip("torch")
    config = load_config("tiny", None, MICRO)
    return train(
        config, arena / "train.csv", tmp_path_factory.mktemp("budget") / "artifact", folds=2
    )


def test_an_encoder_gives_up_the_second_order_and_then_length(encoder, pairs):
    model = encoder.models[0]
    names, variants = zip(*model.cheaper(), strict=True)
    assert names == ("no swap averaging", *(f"inputs cut to {n} tokens" for n in (48, 32, 16)))
    own = model._collate(pairs).lengths
    np.testing.assert_array_equal(model.costs(pairs), 2 * own)
    for length, variant in zip((64, 48, 32, 16), variants, strict=True):
        np.testing.assert_array_equal(variant.costs(pairs), np.minimum(own, length))
        assert variant.module_ is model.module_
    assert model.config.model.max_length == 64
    once, twice = variants[0].predict_proba(pairs), model.predict_proba(pairs)
    assert np.abs(once - twice).max() > 1e-6
    dual = copy.copy(model).set_params(model=dataclasses.replace(model.model, inputs="dual"))
    assert next(name for name, _ in dual.cheaper()) == "inputs cut to 48 tokens"


def test_an_artifact_is_whole_within_its_seconds(encoder, pairs, monkeypatch):
    clock = Clock()
    kind = type(encoder.models[0])
    plain = kind._scores

    def slowed(self, collate):
        clock.now += collate.lengths.sum() / 50  # tokens a second
        return plain(self, collate)

    monkeypatch.setattr(kind, "_scores", slowed)
    budget = Budget(120, clock)  # of about 2 folds x 2 orders x 120 rows x 64 tokens / 50 = 600 s
    made = encoder.predict_within(pairs, budget)
    assert clock.now <= 120
    assert set(budget.given_up) >= {"no swap averaging", "inputs cut to 16 tokens"}
    np.testing.assert_allclose(made.sum(axis=1), 1)
    made = encoder.predict_within(pairs, Budget(10, clock))
    assert np.isnan(made).any()


def test_the_option_bounds_predict_and_no_figure(encoder, pairs, tmp_path):
    bounded = Artifact.load(shutil.copytree(encoder.folder, tmp_path / "bounded"))
    for member in bounded.facts["members"]:
        config = read_json(bounded.folder / member / "config.json")
        config["inference"]["seconds"] = 1e-6
        (bounded.folder / member / "config.json").write_text(json.dumps(config))
    new = pairs[:6].assign(
        id=[f"new-{i}" for i in range(6)], prompt=[(f"another {i}",) for i in range(6)]
    )
    whole = encoder.predict_proba(new)
    assert np.abs(whole - encoder.prior).max() > 1e-3
    with pytest.raises(InputError, match="no time for a single row"):
        predict([bounded], new)
    np.testing.assert_allclose(predict([bounded], new, seconds=1_000)[0], whole, atol=1e-5)
    # Figures, soft labels and a teacher's word are those of the whole model.
    np.testing.assert_allclose(soft_labels([bounded], new), whole, atol=1e-5)
    write_pairs(tmp_path / "new.csv", new)
    taught_rows = taught(read_training_rows(tmp_path / "new.csv"), Teacher(bounded.folder))
    np.testing.assert_allclose(taught_rows.targets, whole, atol=1e-5)
    metrics, _ = evaluate_artifacts([bounded, encoder], new)
    assert metrics["differences"][0]["log_loss"] == pytest.approx(0, abs=1e-5)


def test_the_members_of_a_blend_give_up_something_each(many):
    pairs, costs = many
    clock = Clock()
    quick, slow = (
        Slow(clock, costs, costs.sum() / needed, others=(0.5, 0.25)) for needed in (10, 150)
    )
    blend = BlendModel.from_config(load_config("cpu-best"))
    blend.members_, blend.blend_ = [quick, slow], Blend("arithmetic", np.array([0.25, 0.75]))
    budget = Budget(100, clock)
    made = predict_within(blend, pairs, budget)
    assert clock.now <= 100
    # The slow one alone, which has what the quick one left over; and it need not leave out a row.
    assert {"x0.5"} <= set(budget.given_up) <= {"x0.5", "x0.25"}
    for share in (0.5, 0.25):
        mixed = 0.25 * np.array([1.0, 0.0, 0.0]) + 0.75 * np.array([share, 0.0, 1 - share])
        assert np.isclose(made, mixed, atol=1e-6).all(axis=1).sum() == budget.given_up[f"x{share}"]
    assert (
        np.isclose(made, [1, 0, 0], atol=1e-6).all(axis=1).sum()
        == len(pairs) - budget.given_up.total()
    )
