"""Blending artifacts: one artifact like any other, with an honest estimate, from artifacts of the
same rows only."""

import json
import logging
import shutil

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.config.cpu import BlendOptions
from humanpref.data import labels_of, prompt_keys, read_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.files import read_json
from humanpref.logloss import log_loss, row_log_losses
from humanpref.models import load_model
from humanpref.models.blend_correction import HeldOutRows
from humanpref.models.blend_weights import fit_blend
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
from humanpref.runs.blending import blend, render
from humanpref.runs.predict import rows_to_judge
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.text.cases import CASES, answer_cases


def sparse(term, structure):
    return load_config(
        "sparse",
        overrides=[f"model.term_penalties={term}", f"model.structure_penalties={structure}"],
    )


@pytest.fixture(scope="module")
def members(arena, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    runs = {
        "weak": (sparse(3, 10), 2),
        "strong": (sparse(100, 300), 3),
        "prior": (load_config("prior"), 2),
    }
    return {
        name: train(config, arena / "train.csv", folder / name, k)
        for name, (config, k) in runs.items()
    }


def told_by(artifact):
    return artifact.oof[list(LABEL_COLUMNS)].to_numpy()


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_it_predicts_what_a_hand_computes_from_its_members(members, arena, tmp_path, pairs, mean):
    # Predictions that are worth blending, in place of what so few rows can teach.
    rng, labels = np.random.default_rng(0), labels_of(pairs)
    for name, noise in (("weak", 1.5), ("strong", 1.0), ("prior", 60.0)):
        shutil.copytree(members[name].folder, tmp_path / name)
        told = np.exp(labels + rng.normal(0, noise, labels.shape))
        told = members[name].oof.assign(
            **dict(zip(LABEL_COLUMNS, (told / told.sum(axis=1, keepdims=True)).T, strict=True))
        )
        told.to_csv(tmp_path / name / "oof.csv", index=False)
        seal(tmp_path / name, members[name].facts)
    doctored = [Artifact.load(tmp_path / name) for name in members]
    blended = blend([artifact.folder for artifact in doctored], tmp_path / "blend", mean)
    told = np.stack([told_by(artifact) for artifact in doctored])
    cases = answer_cases(pairs)
    held_out = HeldOutRows(labels, np.ones(len(labels)), cases)
    fitted, dropped, _ = fit_blend(told, held_out, BlendOptions(mean=mean))
    assert list(dropped) == [2]
    assert 0.1 < fitted.weights[0] < 0.45
    rows = read_pairs(arena / "test.csv")
    each = [
        np.mean([m.predict_proba(rows) for m in artifact.models], axis=0)
        for artifact in members.values()
    ]
    if mean == "arithmetic":
        mixed = sum(w * p for w, p in zip(fitted.weights, each, strict=True)) ** (
            1 / fitted.correction.temperature
        )
    else:
        mixed = np.prod(
            [
                p ** (w / fitted.correction.temperature)
                for w, p in zip(fitted.weights, each, strict=True)
            ],
            axis=0,
        )
    mixed /= mixed.sum(axis=1, keepdims=True)
    special = answer_cases(rows)
    for case, rates in zip(CASES, fitted.correction.rates, strict=True):
        mixed[special == case] = rates
    np.testing.assert_allclose(blended.predict_proba(rows), mixed, atol=1e-9)
    report = blended.metrics["blend"]
    assert [member["member"] for member in report["members"]] == list(members)
    assert [member["log_loss"] for member in report["members"]] == pytest.approx(
        [log_loss(labels, own) for own in told]
    )
    assert report["log_loss_on_the_rows_of_the_fit"] == pytest.approx(
        log_loss(labels, fitted(told, cases))
    )
    assert {i for i, member in enumerate(report["members"]) if "dropped" in member} == set(dropped)


@pytest.fixture(scope="module")
def blended(members, tmp_path_factory):
    return blend(
        [members["weak"].folder, members["prior"].folder],
        tmp_path_factory.mktemp("blend") / "blend",
    )


def test_its_estimate_is_cross_fitted(blended, members, pairs):
    told, labels = np.stack([told_by(members["weak"]), told_by(members["prior"])]), labels_of(pairs)
    folds, options = blended.oof["fold"].to_numpy(), BlendOptions()
    keys, cases = prompt_keys(pairs), answer_cases(pairs)
    rows = HeldOutRows(labels, np.ones(len(pairs)), cases)
    rival, names = np.empty(labels.shape), []
    for fold in range(5):
        judged = folds == fold
        assert judged.any()
        assert not set(keys[judged]) & set(keys[~judged])
        own, _, _ = fit_blend(told[:, ~judged], rows.part(~judged), options)
        np.testing.assert_allclose(
            told_by(blended)[judged], own(told[:, judged], cases[judged]), atol=1e-12
        )
        best = int(np.argmin([log_loss(labels[~judged], of[~judged]) for of in told]))
        rival[judged] = told[best][judged]
        names.append(["weak", "prior"][best])
    metrics = blended.metrics
    nested = metrics["blend"]["nested"]
    differences = row_log_losses(labels, told_by(blended)) - row_log_losses(labels, rival)
    assert nested["best_members"] == names
    assert nested["difference"] == pytest.approx(differences.mean())
    interval = nested["difference_low"], nested["difference_high"]
    assert interval == pytest.approx(bootstrap_interval(differences, keys))
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, told_by(blended)))
    assert metrics["log_loss"] > metrics["blend"]["log_loss_on_the_rows_of_the_fit"]
    losses = [log_loss(labels, own) for own in told]
    best = metrics["blend"]["best"]
    assert best["member"] == ["weak", "prior"][int(np.argmin(losses))]
    assert best["difference"] == pytest.approx(metrics["log_loss"] - min(losses))
    text = render(metrics)
    for word in (
        "weak: weight ",
        "temperature",
        "two empty answers, 0 rows: 0.060 0.060 0.880",
        "nested difference from the best member, chosen on the other folds (",
        "on the rows of the fit (flattering)",
        "difference from",
    ):
        assert word in text
    assert "degraded" not in text


def test_the_best_member_of_a_fold_is_not_chosen_on_it(members, tmp_path, pairs):
    """Two members that guess: another one is the best elsewhere only if, on this fold, it is much
    worse than the best of all."""
    rng, labels = np.random.default_rng(0), labels_of(pairs)
    guess = np.eye(3)[rng.integers(3, size=(2, len(pairs)))]
    for name, lucky in zip(("weak", "strong"), guess, strict=True):
        shutil.copytree(members[name].folder, tmp_path / name)
        told = members[name].oof.assign(
            **dict(zip(LABEL_COLUMNS, (0.1 + 0.7 * lucky).T, strict=True))
        )
        told.to_csv(tmp_path / name / "oof.csv", index=False)
        seal(tmp_path / name, members[name].facts)
    found = blend([tmp_path / "weak", tmp_path / "strong"], tmp_path / "blend").metrics["blend"]
    losses = [log_loss(labels, 0.1 + 0.7 * lucky) for lucky in guess]
    assert found["best"]["member"] == ["weak", "strong"][int(np.argmin(losses))]
    assert set(found["nested"]["best_members"]) == {"weak", "strong"}
    assert found["nested"]["difference"] < found["best"]["difference"] - 0.01


def test_it_is_an_artifact_like_any_other(blended, members, arena, tmp_path, caplog):
    moved = shutil.copytree(blended.folder, tmp_path / "moved")
    for artifact in members.values():
        assert str(artifact.folder) not in (moved / "model" / "config.json").read_text()
    artifact = Artifact.load(moved)
    assert {
        "log_loss",
        "log_loss_low",
        "log_loss_high",
        "accuracy",
        "prior_log_loss",
        "rows",
    } <= set(artifact.metrics)
    assert artifact.facts["family"] == "blend"
    assert artifact.facts["data_sha256"] == members["weak"].facts["data_sha256"]
    assert rows_to_judge([artifact], arena / "test_labels.csv")[1] == [0]
    rows_to_judge([artifact], arena / "train.csv")
    assert "these metrics flatter" in caplog.text


def test_blends_can_be_blended(blended, members, arena, tmp_path):
    again = blend([blended.folder, members["strong"].folder], tmp_path / "again")
    rows = read_pairs(arena / "test.csv")
    probabilities = again.predict_proba(rows)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert again.metrics["blend"]["members"][0]["log_loss"] == pytest.approx(
        blended.metrics["log_loss"]
    )


def test_the_versions_of_its_members_are_its_own(members, tmp_path):
    def copy(name, version):
        folder = shutil.copytree(members[name].folder, tmp_path / f"{name}-{version}")
        facts = read_json(folder / "artifact.json")
        seal(folder, facts | {"versions": {"scikit-learn": version}})
        return Artifact.load(folder)

    def kept(blended, *artifacts):
        """What wrote the members that were not dropped."""
        weights = [member["weight"] for member in blended.metrics["blend"]["members"]]
        return set().union(
            *(own.written_by for own, weight in zip(artifacts, weights, strict=True) if weight)
        )

    first, second, third = copy("weak", "1.2"), copy("strong", "1.3"), copy("weak", "1.4")
    assert first.written_by == {("scikit-learn", "1.2")}
    once = blend([first.folder, second.folder], tmp_path / "once")
    assert once.written_by == kept(once, first, second) != set()
    twice = blend([once.folder, third.folder], tmp_path / "twice")
    assert twice.written_by == kept(twice, once, third) != set()


def test_a_duplicated_artifact_changes_nothing(blended, members, tmp_path, pairs):
    copy = shutil.copytree(members["weak"].folder, tmp_path / "copy")
    doubled = blend([members["weak"].folder, copy, members["prior"].folder], tmp_path / "doubled")
    assert doubled.metrics["log_loss"] == pytest.approx(blended.metrics["log_loss"], abs=1e-6)
    same = doubled.metrics["blend"]["members"][:2]
    assert any("leaving it out" in member.get("dropped", "") for member in same)
    np.testing.assert_allclose(
        doubled.predict_proba(pairs), blended.predict_proba(pairs), atol=1e-6
    )


def test_rows_are_matched_by_id_whatever_the_folds(members, tmp_path, arena, pairs, caplog):
    reference = blend([members["weak"].folder, members["strong"].folder], tmp_path / "reference")
    shuffled = shutil.copytree(members["strong"].folder, tmp_path / "strong")
    members["strong"].oof.sample(frac=1, random_state=1).to_csv(shuffled / "oof.csv", index=False)
    seal(shuffled, members["strong"].facts)
    again = blend([members["weak"].folder, shuffled], tmp_path / "again")
    assert again.metrics["log_loss"] == reference.metrics["log_loss"]
    fifth = train(load_config("prior"), arena / "train.csv", tmp_path / "fifth")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fewer = blend([members["weak"].folder, fifth.folder], tmp_path / "fewer")
    assert fewer.metrics["rows"] == len(fifth.oof) < len(pairs)
    told = f"only the {len(fifth.oof)} rows that every artifact held out can be used; "
    assert told + "one artifact held out 120" in caplog.text
    left_out = len(pairs) - len(fifth.oof)
    assert fewer.metrics["blend"]["rows_left_out"] == left_out
    assert f"degraded: {left_out} held-out rows left out" in render(fewer.metrics)


@pytest.fixture
def telling(write_csv, tmp_path):
    """Two artifacts that know nothing but class rates, of rows whose answers tell all where they
    are identical or empty."""
    plain = [([f"p{i}"], ["a"], ["b"], i % 3) for i in range(60)]
    same = [([f"same {i}"], ["a"], ["a"], 2) for i in range(45)]
    empty = [
        ([f"empty {i}"], [""] if i % 2 else ["a"], ["b"] if i % 2 else [""], i % 2)
        for i in range(45)
    ]
    csv = write_csv([*plain, *same, *empty], name="telling.csv")
    train(load_config("prior"), csv, tmp_path / "one", folds=2)
    train(load_config("prior"), csv, tmp_path / "two", folds=3)
    return csv, tmp_path / "one", tmp_path / "two"


def test_special_cases_come_from_the_artifacts(telling, tmp_path):
    csv, one, two = telling
    pairs = read_pairs(csv)
    blended = blend([one, two], tmp_path / "blend")
    assert (
        blended.rows["case"].tolist()
        == Artifact.load(one).rows["case"].tolist()
        == answer_cases(pairs).tolist()
    )
    assert blended.metrics["blend"]["nested"]["difference_high"] < -0.2
    text = render(blended.metrics)
    assert "identical answers, 45 rows: 0.011 0.011 0.978 (A, B, tie)" in text
    assert "two empty answers, 0 rows: 0.060 0.060 0.880 (A, B, tie)" in text
    told = blended.predict_proba(pairs)
    assert told[60:105, 2].min() > 0.75
    assert told[105:][np.arange(45), np.arange(45) % 2].min() > 0.75
    np.testing.assert_allclose(told_by(blended), told, atol=0.15)  # out of fold the same is learned


def test_artifacts_that_cannot_be_blended(members, arena, tmp_path, write_csv):
    weak = members["weak"].folder
    other_rows = write_csv([([f"p{i}"], ["a"], ["b"], i % 3) for i in range(12)])
    other = train(load_config("prior"), other_rows, tmp_path / "other", folds=2)
    whole = train(
        load_config("prior", overrides=["training.validation_fraction=0"]),
        arena / "train.csv",
        tmp_path / "whole",
    )
    old = shutil.copytree(weak, tmp_path / "old")
    (old / "rows.csv").unlink()
    for folders, message in (
        ([weak], "at least two"),
        ([weak, weak], "weak: named twice"),
        (
            [weak, other.folder],
            "other: trained on different rows than .*weak, or on the same rows in a diff",
        ),
        ([weak, whole.folder], "whole: has no oof.csv, since training held nothing out"),
        ([old, members["prior"].folder], r"old/rows\.csv: missing, but listed in artifact\.json"),
        ([weak, tmp_path], "not an artifact"),
    ):
        with pytest.raises(InputError, match=message):
            blend(folders, tmp_path / "blend")
        assert not list(tmp_path.glob("*blend*"))
    with pytest.raises(InputError, match="already exists"):
        blend([weak, members["prior"].folder], weak)


def test_a_blend_that_lost_a_member_is_not_loaded(blended, tmp_path):
    broken = shutil.copytree(blended.folder, tmp_path / "broken")
    shutil.rmtree(next((broken / "model").glob("member-*")))
    with pytest.raises(InputError, match=r"member-0/config\.json: missing, but listed"):
        Artifact.load(broken)
    seal(broken, blended.facts)
    with pytest.raises(InputError, match=r"member-0/config\.json: cannot be read"):
        _ = Artifact.load(broken).models


def test_nested_estimate_of_train(arena, tmp_path, pairs):
    members = (
        'model.members=["prior", "sparse model.term_penalties=100 model.structure_penalties=300"]'
    )
    config = load_config(
        "cpu-best", overrides=[members, "model.folds=2", "model.min_gain=0", "model.shrinkage=1e3"]
    )
    artifact = train(config, arena / "train.csv", tmp_path / "a", folds=2)
    told = told_by(artifact)
    for fold in range(2):
        held = (artifact.oof["fold"] == fold).to_numpy()
        model = load_model(artifact.folder / f"fold-{fold}")
        np.testing.assert_allclose(
            model.predict_proba(pairs[held].reset_index(drop=True)), told[held], atol=1e-9
        )
    report = artifact.metrics["members"]["fold-0"]["blend"]
    assert [member["member"].split()[0] for member in report["members"]] == ["prior", "sparse"]
    assert all(("report" in member) != ("dropped" in member) for member in report["members"])
    assert not list(artifact.folder.glob("*checkpoint*"))
    assert json.loads((artifact.folder / "artifact.json").read_text())["family"] == "blend"
