"""The blend: its two means and its temperature by hand, its optimum by brute force, what it drops,
and its honesty."""

import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from humanpref.config import load_config
from humanpref.config.cpu import BlendOptions
from humanpref.data import labels_of, read_pairs, swap_pairs
from humanpref.models import build_model, load_model
from humanpref.models.blend import mean_of
from humanpref.models.blend_correction import Correction, HeldOutRows
from humanpref.models.blend_weights import Blend, fit_blend
from humanpref.models.prior import PriorModel
from humanpref.models.sparse import SparseModel
from humanpref.runs.train import train
from humanpref.schema import InputError
from humanpref.text.cases import answer_cases

FEW = "model.term_penalties=10 model.structure_penalties=100"


def blend_of(*members, **options):
    overrides = [
        f"model.members={list(members)!r}",
        *(f"model.{name}={value}" for name, value in options.items()),
    ]
    return build_model(load_config("cpu-best", overrides=overrides))


class Memory(SparseModel):
    """Knows every row that it has seen by heart, and is sure of A in every other."""

    def learn(self, rows, validation, checkpoint):
        self.seen_ = dict(zip(rows.pairs["id"], rows.labels, strict=True))

    def predict_proba(self, pairs):
        rows = [self.seen_.get(key, (0.8, 0.1, 0.1)) for key in pairs["id"]]
        return np.clip(np.array(rows), 1e-6, 1)


def test_a_member_that_memorises_gets_no_undue_weight(pairs, monkeypatch):
    monkeypatch.setattr("humanpref.models.sparse.SparseModel", Memory)
    labels = labels_of(pairs)
    by_heart = Memory().fit(pairs, labels).predict_proba(pairs)
    rates = np.tile(labels.mean(axis=0), (len(pairs), 1))
    n = len(pairs)
    rows = HeldOutRows(labels, np.ones(n), np.full(n, "", dtype=object))
    flattered, _, _ = fit_blend(np.stack([by_heart, rates]), rows, BlendOptions())
    assert (
        flattered.weights[0] > 0.95
    )  # what weights fitted on the training rows' own predictions would be
    honest = blend_of("sparse", "prior", folds=3).fit(pairs, labels).report_["blend"]["members"]
    assert honest[0]["weight"] < 0.05
    assert honest[0]["log_loss"] > 1.2 > honest[1]["log_loss"]


def test_it_predicts_what_its_members_and_weights_say(pairs, tmp_path):
    labels = labels_of(pairs)
    model = blend_of(
        f"sparse {FEW}",
        "sparse model.term_penalties=1 model.structure_penalties=1",
        folds=3,
        mean="geometric",
        min_gain=0,
    )
    model.fit(pairs, labels)
    probabilities = np.stack([member.predict_proba(pairs) for member in model.members_])
    logs = (
        np.tensordot(model.blend_.weights, np.log(probabilities), axes=1)
        / model.blend_.correction.temperature
    )
    expected = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    expected[answer_cases(pairs) == "identical"] = model.blend_.correction.rates[0]
    np.testing.assert_allclose(model.predict_proba(pairs), expected, atol=1e-12)
    alone = build_model(load_config("sparse", overrides=FEW.split())).fit(pairs, labels)
    np.testing.assert_array_equal(
        model.members_[0].predict_proba(pairs), alone.predict_proba(pairs)
    )
    assert model.swap_equivariant
    np.testing.assert_allclose(
        model.predict_proba(swap_pairs(pairs))[:, [1, 0, 2]], model.predict_proba(pairs), atol=1e-6
    )


def test_it_is_swap_equivariant_only_if_all_members_are(pairs):
    model = blend_of(f"sparse {FEW}", "prior", folds=2, min_gain=0, shrinkage=1e6).fit(
        pairs, labels_of(pairs)
    )
    assert len(model.members_) == 2
    assert not model.swap_equivariant


def test_an_interrupted_fit_goes_on_piece_by_piece(pairs, tmp_path, monkeypatch):
    labels, members = labels_of(pairs), (f"sparse {FEW}", "prior")
    whole = blend_of(*members, folds=2, min_gain=0).fit(pairs, labels)
    fits, fit = [], SparseModel.fit

    def counted(self, *arguments, **named):
        fits.append(1)
        if len(fits) == 3:  # two inner folds, then all rows
            raise KeyboardInterrupt
        return fit(self, *arguments, **named)

    monkeypatch.setattr(SparseModel, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        blend_of(*members, folds=2, min_gain=0).fit(pairs, labels, checkpoint=tmp_path / "state")
    resumed = blend_of(*members, folds=2, min_gain=0).fit(
        pairs, labels, checkpoint=tmp_path / "state"
    )
    assert len(fits) == 4
    np.testing.assert_array_equal(resumed.predict_proba(pairs), whole.predict_proba(pairs))
    # And a third time everything is there, reports included.
    again = blend_of(*members, folds=2, min_gain=0).fit(
        pairs, labels, checkpoint=tmp_path / "state"
    )
    assert len(fits) == 4
    assert again.report_ == whole.report_


@pytest.mark.slow
def test_a_member_without_its_model_folder_is_left_out(pairs, caplog, sentence_encoder):
    frozen = "embedding model.embedding_penalties=100 model.structure_penalties=100"
    few = pairs[:24].reset_index(drop=True)
    with caplog.at_level(logging.WARNING):
        model = blend_of("prior", frozen, folds=2).fit(few, labels_of(few))
    assert f"{frozen} is left out: it needs a model folder (model.backbone=FOLDER)" in caplog.text
    assert len(model.report_["blend"]["members"]) == 1
    assert model.report_["blend"]["left_out"] == [frozen]
    model = blend_of(frozen, folds=2, backbone=str(sentence_encoder)).fit(few, labels_of(few))
    assert model.members_[0].backbone == str(sentence_encoder)
    assert model.report_["blend"]["left_out"] == []
    own = blend_of(f"{frozen} model.backbone={sentence_encoder}", folds=2)
    assert own.fit(few, labels_of(few)).members_[0].backbone == str(sentence_encoder)


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ((), {}, "no members to blend"),
        (("sparce",), {}, "unknown preset 'sparce'"),
        (("sparse model.min_row=1",), {}, "did you mean 'model.min_rows'"),
        (('sparse "model',), {}, "expected a preset and KEY=VALUE options"),
        (
            ("tiny training.keep_best_epoch=true",),
            {},
            "training.keep_best_epoch: expected False in a member of a blend, got True",
        ),
        (("tiny training.patience=2",), {}, "training.patience: expected None .*, got 2"),
        (("prior training.seeds=2",), {}, "training.seeds: expected 1 .*, got 2"),
        (("prior training.validation_fraction=0.5",), {}, "validation_fraction: expected 0.2"),
        (("prior",), {"backbone": "some/where"}, "no member of this blend uses it"),
    ],
)
def test_members_that_cannot_be_blended(pairs, members, options, message):
    with pytest.raises(InputError, match=message):
        blend_of(*members, **options).fit(pairs, labels_of(pairs))


def test_a_missing_member_is_named(pairs, tmp_path):
    blend_of("prior", folds=2).fit(pairs, labels_of(pairs)).save(tmp_path)
    (tmp_path / "member-0").rename(tmp_path.with_name("gone"))
    with pytest.raises(InputError, match=r"member-0/config\.json: cannot be read"):
        load_model(tmp_path)


def rows_with_cases(rows=150):
    """Rows of which every third has identical answers, a tie, and of every third one answer is
    empty, which loses."""
    kinds = [
        ((["q"], ["same"], ["same"]), 2),
        ((["q"], [""], ["b"]), 1),
        ((["q"], ["a"], [" "]), 0),
    ]
    plain = [((["q"], ["a"], ["b"]), label) for label in (0, 1, 2)]
    made = [(plain[(i // 3) % 3], kinds[0], kinds[1 + (i // 3) % 2])[i % 3] for i in range(rows)]
    return [([f"prompt {i}"], a, b, label) for i, ((_, a, b), label) in enumerate(made)]


def test_special_cases_are_learned_kept_and_applied(write_csv, tmp_path):
    pairs = read_pairs(write_csv(rows_with_cases()))
    model = blend_of("prior", folds=3, shrinkage=10).fit(pairs, labels_of(pairs))
    report = model.report_["blend"]
    assert [fact["rows"] for fact in report["corrections"]] == [50, 0, 50]
    assert list(report["rates"]) == ["identical", "both empty", "A empty", "B empty"]
    plain, same, empty_a, _, _, empty_b = model.predict_proba(pairs[:6])
    assert plain.max() < 0.5
    assert same[2] > 0.8
    assert empty_a[1] > 0.8
    assert empty_b[0] == pytest.approx(empty_a[1], abs=0.02)
    # The rates are those of the rows, and of 10 rows that have the known ones.
    assert same[2] == pytest.approx((50 + 8.8) / 60)
    model.save(tmp_path)
    np.testing.assert_array_equal(
        load_model(tmp_path).predict_proba(pairs), model.predict_proba(pairs)
    )
    swapped = model.predict_proba(swap_pairs(pairs))[:, [1, 0, 2]]
    assert (
        np.abs(swapped - model.predict_proba(pairs)).max() < 0.05
    )  # the prior alone prefers a side


def test_a_blend_of_equivariant_members_with_every_correction_is_equivariant(pairs, tmp_path):
    odd = pairs.copy()
    odd["response_b"] = [
        a if i % 3 == 0 else ("",) if i % 3 == 1 else b
        for i, (a, b) in enumerate(zip(pairs["response_a"], pairs["response_b"], strict=True))
    ]
    model = blend_of(f"sparse {FEW}", folds=2).fit(odd, labels_of(odd))
    correction = Correction(
        0.8, np.array([[0.1, 0.1, 0.8], [0, 0, 0], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1]])
    )
    model.blend_ = Blend("arithmetic", model.blend_.weights, correction)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(odd), model.predict_proba(odd))
    assert loaded.swap_equivariant
    swapped = loaded.predict_proba(swap_pairs(odd))[:, [1, 0, 2]]
    np.testing.assert_allclose(swapped, loaded.predict_proba(odd), atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"weights": np.array([2.0])}, "weights >= 0 that sum to 1"),
        ({"temperature": np.array([-1.0])}, "positive temperature"),
        ({"rates": np.tile([0.1, 0.1, 0.7], (4, 1))}, "rates >= 0 that sum to 1"),
        ({"rates": np.tile([-0.1, 0.1, 1.0], (4, 1))}, "rates >= 0 that sum to 1"),
    ],
)
def test_a_state_that_is_not_a_correction_is_refused(pairs, tmp_path, damage, message):
    blend_of("prior", folds=2).fit(pairs, labels_of(pairs)).save(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | damage, path)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


def test_extra_rows_are_learned_and_judge_nothing(pairs, monkeypatch):
    extra = pairs.iloc[:60].assign(
        id=[f"extra-1:{i}" for i in range(60)], prompt=[(f"another {i}",) for i in range(60)]
    )
    together = pd.concat([pairs, extra], ignore_index=True)
    # Labels that nothing in the file has: all extra rows are wins of A.
    labels = np.concatenate([labels_of(pairs), np.tile([1.0, 0, 0], (60, 1))])
    learned = []
    fit = PriorModel.fit

    def spied(self, rows, *arguments, **named):
        learned.append(rows["id"].str.startswith("extra").sum())
        return fit(self, rows, *arguments, **named)

    monkeypatch.setattr(PriorModel, "fit", spied)
    model = blend_of("prior", folds=3, shrinkage=0).fit(together, labels)
    assert learned == [60] * 4
    # By the file's rows the prior is too sure of A: the temperature says so.
    assert model.predict_proba(pairs)[0, 0] < model.members_[0].predict_proba(pairs)[0, 0] - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["no folder", "empty", "no tokenizer", "no weights"])
def test_a_wrong_sentence_encoder_is_found_before_anything_is_fitted(
    sentence_encoder, arena, tmp_path, monkeypatch, wrong
):
    folder = tmp_path / "encoder"
    if wrong == "empty":
        folder.mkdir()
    elif wrong != "no folder":
        shutil.copytree(sentence_encoder, folder)
        gone = {"no tokenizer": "tokenizer*", "no weights": "*.safetensors"}[wrong]
        for path in list(folder.glob(gone)):
            path.unlink()
    fits, fit = [], SparseModel.fit
    monkeypatch.setattr(
        SparseModel, "fit", lambda self, *args, **named: fits.append(1) or fit(self, *args, **named)
    )
    few = "model.embedding_penalties=100 model.structure_penalties=100"

    def run(backbone):
        members = f"model.members={[f'sparse {FEW}', f'embedding {few}']!r}"
        config = load_config(
            "cpu-best", overrides=[members, "model.folds=2", f"model.backbone={backbone}"]
        )
        return train(config, arena / "train.csv", tmp_path / "out")

    with pytest.raises(InputError, match=f"backbone {folder}: "):
        run(folder)
    with pytest.raises(InputError, match=f"backbone {folder}: "):
        blend_of(f"cpu-best model.backbone={folder}").check()
    assert not fits
    assert not list(tmp_path.glob("out*"))
    if wrong == "no weights":  # and then the corrected command is not refused
        assert run(sentence_encoder).folder.is_dir()
        assert fits


def test_the_mean_is_a_blend_of_equal_weights_of_the_models_that_predict(pairs, tmp_path):
    parts = (pairs[:40], pairs[40:])
    mean = mean_of([PriorModel().fit(part, labels_of(part)) for part in parts])
    rates = np.mean([labels_of(part).mean(axis=0) for part in parts], axis=0)
    np.testing.assert_allclose(
        mean.predict_proba(pairs), np.tile(rates, (len(pairs), 1)), atol=1e-14
    )
    mean.save(tmp_path)
    np.testing.assert_array_equal(
        load_model(tmp_path).predict_proba(pairs), mean.predict_proba(pairs)
    )
    assert mean.swap_equivariant is False


class Shortsighted(PriorModel):
    """Reads three rows of every frame only in part."""

    def cut_rows(self, pairs):
        return np.arange(len(pairs)) < 3


def test_a_row_is_cut_if_one_of_the_members_cuts_it(pairs):
    members = [kind().fit(pairs, labels_of(pairs)) for kind in (PriorModel, Shortsighted)]
    assert mean_of(members).cut_rows(pairs).tolist() == [True] * 3 + [False] * (len(pairs) - 3)
    assert not mean_of(members[:1] * 2).cut_rows(pairs).any()
