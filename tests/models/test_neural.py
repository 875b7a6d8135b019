import copy

import numpy as np
import pytest

pytest.importorskip("torch")

from humanpref.config import load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.models import build_model, load_model, neural
from humanpref.models.encoder import EncoderModel
from humanpref.text import tokens
from humanpref.text.token_memo import TokenMemos

MICRO = [
    "model.max_length=48",
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "training.epochs=2",
    "training.learning_rate=1e-2",
    "inference.swap_average=true",
]


@pytest.fixture(scope="module")
def few(pairs):
    return pairs[:24].reset_index(drop=True)


@pytest.fixture(scope="module")
def model(few):
    config = load_config("tiny", overrides=[*MICRO, "model.inputs=joint"])
    return build_model(config).fit(few, labels_of(few))


def test_swap_averaging_is_the_mean_of_two_single_orders(model, few):
    assert model.swap_averaged
    single = model.single_order()
    assert not single.swap_averaged
    assert single.single_order() is single
    assert model.swap_averaged  # the copy left it alone
    first = single.predict_proba(few)
    second = single.predict_proba(swap_pairs(few))[:, [1, 0, 2]]
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_allclose(model.predict_proba(few), (first + second) / 2, atol=1e-7)


def test_dual_inputs_need_no_second_pass(few):
    dual = EncoderModel.from_config(load_config("tiny", overrides=MICRO))
    assert not dual.swap_averaged
    assert dual.swap_equivariant


def test_shorter_variants_cost_less_and_predict(model, few):
    single = model.single_order()
    names, variants = zip(*single.shorter_variants(), strict=True)
    assert names == tuple(f"inputs cut to {length} tokens" for length in (36, 24, 12))
    costs = [variant.costs(few) for variant in (single, *variants)]
    assert [cost.max() for cost in costs] == [48, 36, 24, 12]
    assert costs[0].dtype == np.float64
    assert np.isfinite(variants[-1].predict_proba(few)).all()


def test_variants_without_room_for_a_text_are_left_out(model, monkeypatch):
    calls = []
    inputs = type(model).inputs

    def full(self, pairs):
        calls.append(self.model.max_length)
        if self.model.max_length < 30:
            raise neural.InputError("no room")
        return inputs(self, pairs)

    monkeypatch.setattr(type(model), "inputs", full)
    assert [name for name, _ in model.shorter_variants()] == ["inputs cut to 36 tokens"]
    assert calls == [36, 24]


def test_equal_tokenizers_read_each_text_once(model, few, tmp_path, monkeypatch):
    model.save(tmp_path)
    expected = model.predict_proba(few)
    loaded_models = [load_model(tmp_path) for _ in range(2)]  # each has tried itself on one row
    read, known = [], TokenMemos()
    text_ids = tokens.text_ids
    monkeypatch.setattr(
        tokens, "text_ids", lambda texts, *rest: read.extend(texts) or text_ids(texts, *rest)
    )
    for loaded in loaded_models:
        loaded.share_token_ids(known)
        loaded.costs(few)
        np.testing.assert_allclose(loaded.predict_proba(few), expected, atol=1e-6)
        loaded.shorter_variants()[0][1].costs(few)
    assert len(known.memos) == 1
    assert len(read) == len(set(read)) > 24


def test_another_tokenizer_shares_nothing(model, pairs):
    other = build_model(model.config).fit(pairs[24:60].reset_index(drop=True), [0, 1, 2] * 12)
    known = TokenMemos()
    for fitted in (copy.copy(model), other):
        fitted.share_token_ids(known)
        fitted.costs(pairs)
    assert len(known.memos) == 2


def held_out(overrides, few, checkpoint=None):
    """A model fitted with validation rows, what it held out, and a prediction made now."""
    config = load_config("tiny", overrides=[*MICRO, *overrides])
    held = few[::-1].reset_index(drop=True)
    fitted = build_model(config).fit(few, labels_of(few), None, (held, labels_of(held)), checkpoint)
    return fitted, fitted.held_out_, fitted.predict_proba(held)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.inputs=joint"],
        ["model.inputs=dual", "model.offset=structure"],
        ["training.keep_best_epoch=true", "training.learning_rate=1e-3"],
        ["training.seconds=0.001"],
    ],
)
def test_the_last_validation_is_the_prediction(few, overrides):
    fitted, kept, predicted = held_out(overrides, few)
    epochs = fitted.report_["training"]["epochs"]
    assert fitted.report_["training"].get("kept_epoch", len(epochs)) == len(epochs)
    assert kept.tobytes() == predicted.tobytes()


def test_the_validation_of_weights_that_were_not_kept_is_not_the_prediction(few, monkeypatch):
    losses = iter([0.5, 0.9])
    monkeypatch.setattr(neural, "log_loss", lambda *_: next(losses))
    fitted, kept, _ = held_out(["training.keep_best_epoch=true"], few)
    assert fitted.report_["training"]["kept_epoch"] == 1
    assert kept is None


def test_a_fit_that_resumed_after_its_last_epoch_has_validated_nothing(few, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    _, kept, predicted = held_out([], few, checkpoint)
    _, again, resumed = held_out([], few, checkpoint)
    assert kept is not None
    assert again is None
    assert resumed.tobytes() == predicted.tobytes()


def test_a_second_fit_forgets_what_was_held_out(few):
    fitted, kept, _ = held_out([], few)
    assert kept is not None
    assert fitted.fit(few, labels_of(few)).held_out_ is None


def test_validation_follows_the_module_as_it_learns(few):
    config = load_config("tiny", overrides=[*MICRO, "model.inputs=joint"])
    model = build_model(config).fit(few, labels_of(few), validation=(few, labels_of(few)))
    epochs = model.report_["training"]["epochs"]
    first, last = (epoch["validation_log_loss"] for epoch in epochs)
    assert first != last
    assert last == pytest.approx(-model.score(few, labels_of(few)), abs=1e-6)


def test_rows_that_do_not_fit_are_said_to_be_cut(model, few):
    short = few.assign(prompt=[("Why?",)] * 24, response_a=[("So.",)] * 24)
    short = short.assign(response_b=[("No.",)] * 23 + [("no, and no again, " * 30,)])
    assert model.cut_rows(short).tolist() == [False] * 23 + [True]
    assert model.cut_rows(swap_pairs(short)).tolist() == [False] * 23 + [True]
