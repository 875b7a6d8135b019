import contextlib
import shutil

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import Extra, grouped_folds, labels_of, prompt_keys, read_pairs
from humanpref.files import write_json
from humanpref.logloss import log_loss
from humanpref.models.prior import PriorModel
from humanpref.models.sparse import SparseModel
from humanpref.runs import train as runs
from humanpref.runs.artifact import Artifact, load_model
from humanpref.runs.artifact_tables import read_oof
from humanpref.runs.predict import rows_to_judge
from humanpref.runs.train import Run, train
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.text import tokens

SPARSE = load_config(
    "sparse", overrides=["model.term_penalties=10", "model.structure_penalties=100"]
)


@pytest.fixture(scope="module")
def folds_artifact(arena, tmp_path_factory):
    return train(SPARSE, arena / "train.csv", tmp_path_factory.mktemp("run") / "artifact", folds=3)


def killed(models):
    """Takes the place of what is done once all models are trained."""
    raise KeyboardInterrupt


def test_held_out_share(arena, tmp_path, pairs):
    artifact = train(load_config("prior"), arena / "train.csv", tmp_path / "a")
    oof = read_oof(artifact.folder / "oof.csv")
    held = grouped_folds(pairs, 5, seed=42) == 0
    assert oof["id"].tolist() == pairs["id"][held].tolist()
    assert artifact.facts["training_rows"] == (~held).sum()
    np.testing.assert_allclose(artifact.prior, labels_of(pairs)[~held].mean(axis=0))
    metrics = artifact.metrics
    assert metrics["held_out"] == "validation"
    assert metrics["log_loss"] == pytest.approx(metrics["prior_log_loss"])
    assert metrics["log_loss"] == pytest.approx(
        log_loss(labels_of(pairs)[held], oof[list(LABEL_COLUMNS)].to_numpy())
    )


def test_no_validation_learns_from_every_row(arena, tmp_path, pairs):
    artifact = train(
        load_config("prior", overrides=["training.validation_fraction=0"]),
        arena / "train.csv",
        tmp_path / "a",
    )
    np.testing.assert_allclose(artifact.prior, labels_of(pairs).mean(axis=0))
    assert "log_loss" not in artifact.metrics
    assert not (artifact.folder / "oof.csv").exists()


def test_out_of_fold_predictions_come_from_the_model_that_did_not_see_the_row(
    folds_artifact, pairs
):
    oof = read_oof(folds_artifact.folder / "oof.csv")
    assert oof["id"].tolist() == pairs["id"].tolist()
    folds = grouped_folds(pairs, 3, seed=42)
    np.testing.assert_array_equal(oof["fold"], folds)
    for fold in range(3):
        rows = pairs[folds == fold].reset_index(drop=True)
        own = load_model(folds_artifact.folder / f"fold-{fold}").predict_proba(rows)
        np.testing.assert_allclose(
            oof[list(LABEL_COLUMNS)].to_numpy()[folds == fold], own, atol=1e-9
        )
    probabilities = oof[list(LABEL_COLUMNS)].to_numpy()
    assert folds_artifact.metrics["log_loss"] == pytest.approx(
        log_loss(labels_of(pairs), probabilities)
    )


@pytest.mark.parametrize("folds", [None, 3])
def test_no_model_sees_the_rows_or_prompts_that_it_is_judged_on(
    arena, tmp_path, pairs, monkeypatch, folds
):
    fits = []
    fit = PriorModel.fit

    def spy(self, kept, labels, weights=None, validation=None, checkpoint=None):
        fits.append(
            (
                set(kept["id"]),
                set(prompt_keys(kept)),
                set(validation[0]["id"]),
                set(prompt_keys(validation[0])),
            )
        )
        np.testing.assert_array_equal(labels, labels_of(kept))
        return fit(self, kept, labels, weights, validation, checkpoint)

    monkeypatch.setattr(PriorModel, "fit", spy)
    artifact = train(load_config("prior"), arena / "train.csv", tmp_path / "a", folds=folds)
    assert len(fits) == (folds or 1)
    for number, (learned, learned_prompts, judged, judged_prompts) in enumerate(fits):
        assert not learned & judged
        assert not learned_prompts & judged_prompts
        assert learned | judged == set(pairs["id"])
        oof = read_oof(artifact.folder / "oof.csv")
        assert judged == set(oof["id"][oof["fold"] == number])


def test_rows_of_weight_zero_are_not_there(write_csv, tmp_path):
    rows = [([f"prompt {i}"], [f"a{i} word"], [f"b{i} word word"], i % 3) for i in range(12)]
    weights = [0.0 if i < 3 else 1.0 for i in range(12)]
    config = load_config(
        "sparse",
        overrides=[
            "model.min_rows=1",
            "model.term_penalties=3",
            "model.structure_penalties=3",
            "training.validation_fraction=0",
        ],
    )
    weighted = train(config, write_csv(rows, weight=weights), tmp_path / "weighted")
    fewer = train(config, write_csv(rows[3:], name="fewer.csv"), tmp_path / "fewer")
    some = read_pairs(write_csv(rows, name="all.csv"))
    np.testing.assert_allclose(weighted.predict_proba(some), fewer.predict_proba(some), atol=1e-9)
    folds = train(
        load_config("prior"),
        write_csv(rows, name="folds.csv", weight=weights),
        tmp_path / "folds",
        folds=3,
    )
    assert sorted(folds.oof["id"]) == sorted(folds.rows["id"]) == sorted(some["id"][3:])
    judged, _ = rows_to_judge([folds], tmp_path / "folds.csv")
    assert folds.metrics["rows"] == len(judged) == 9
    last = write_csv(rows, name="last.csv", weight=[0.0] * 11 + [1.0])
    with pytest.raises(InputError, match=r"last.csv: column 'weight': every row has weight 0"):
        train(
            config, last, tmp_path / "none", exclude_prompts=[write_csv(rows[11:], name="out.csv")]
        )
    assert not list(tmp_path.glob("none*artial"))


def test_a_run_is_trained_by_one_process_at_a_time(arena, tmp_path, monkeypatch):
    told, fit = [], PriorModel.fit

    def again(model, *arguments):
        monkeypatch.setattr(PriorModel, "fit", fit)
        with pytest.raises(
            InputError, match=r"a\.partial: another process is training here"
        ) as error:
            train(load_config("prior"), arena / "train.csv", tmp_path / "a")
        told.append(error)
        return fit(model, *arguments)

    monkeypatch.setattr(PriorModel, "fit", again)
    assert train(load_config("prior"), arena / "train.csv", tmp_path / "a").metrics["rows"]
    assert told


def test_of_two_runs_that_start_together_one_trains(arena, tmp_path, monkeypatch):
    given = load_config("prior"), arena / "train.csv", tmp_path / "a"
    with contextlib.ExitStack() as faster:

        def write_later(path, value):
            monkeypatch.undo()
            faster.enter_context(Run.plan(*given).opened())
            write_json(path, value)

        monkeypatch.setattr("humanpref.runs.train.write_json", write_later)
        with pytest.raises(InputError, match=r"a\.partial: another process is training here"):
            train(*given)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_whose_place_is_taken_is_not_lost(arena, tmp_path, monkeypatch):
    def taken(model, *arguments):
        (tmp_path / "a" / "other").mkdir(parents=True)
        return fit(model, *arguments)

    fit = PriorModel.fit
    monkeypatch.setattr(PriorModel, "fit", taken)
    with pytest.raises(
        InputError, match=r"a: cannot be created; the finished run is in .*a\.partial"
    ):
        train(load_config("prior"), arena / "train.csv", tmp_path / "a")
    assert Artifact.load(tmp_path / "a.partial").metrics["rows"]


def test_ids_of_extra_rows_are_taken(write_csv, tmp_path):
    rows = write_csv([(["p"], ["a"], ["b"], 0)], id=["extra-1:7"])
    with pytest.raises(
        InputError, match=r"rows.csv: id 'extra-1:7': the prefix 'extra-N:' is reserved for"
    ):
        train(load_config("prior"), rows, tmp_path / "a")


def test_a_class_that_no_row_has_is_warned_of(write_csv, tmp_path, caplog):
    rows = [([f"prompt {i}"], ["a"], ["b"], i % 2) for i in range(10)]
    train(load_config("prior"), write_csv(rows), tmp_path / "two")
    assert "rows.csv: no training row has a value above 0 in column 'winner_tie'" in caplog.text
    assert caplog.text.count("no training row has a value") == 1
    caplog.clear()
    ties = write_csv([(["another"], ["a"], ["b"], 2)], name="ties.csv")
    train(load_config("prior"), write_csv(rows), tmp_path / "three", extra=[Extra(ties, 0.5)])
    assert "no training row has a value" not in caplog.text


def test_seeds_are_averaged_over_the_same_folds(arena, tmp_path, pairs, monkeypatch):
    def of_seed(model, rows):
        return np.tile(
            {42: [0.6, 0.2, 0.2], 43: [0.2, 0.4, 0.4]}[model.config.seed], (len(rows), 1)
        )

    monkeypatch.setattr(PriorModel, "predict_proba", of_seed)
    config = load_config("prior", overrides=["training.seeds=2"])
    artifact = train(config, arena / "train.csv", tmp_path / "a", folds=2)
    assert artifact.facts["members"] == [
        "fold-0-seed-42",
        "fold-0-seed-43",
        "fold-1-seed-42",
        "fold-1-seed-43",
    ]
    oof = read_oof(artifact.folder / "oof.csv")
    np.testing.assert_array_equal(oof["fold"], grouped_folds(pairs, 2, seed=42))
    np.testing.assert_allclose(oof[list(LABEL_COLUMNS)], np.tile([0.4, 0.3, 0.3], (len(pairs), 1)))
    np.testing.assert_allclose(artifact.predict_proba(pairs[:1]), [[0.4, 0.3, 0.3]])


@pytest.mark.parametrize(
    "after", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_interrupted_folds_end_with_the_same_predictions(
    folds_artifact, arena, tmp_path, monkeypatch, after
):
    fitted, fit, limit = [], SparseModel.fit, after

    def interrupted(model, *arguments):
        if len(fitted) == limit:
            raise KeyboardInterrupt
        fitted.append(1)
        return fit(model, *arguments)

    monkeypatch.setattr(SparseModel, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(SPARSE, arena / "train.csv", tmp_path / "a", folds=3)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.partial").exists() == (after > 0)
    fitted.clear()
    limit = 3
    resumed = train(SPARSE, arena / "train.csv", tmp_path / "a", folds=3)
    assert len(fitted) == 3 - after
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    pd.testing.assert_frame_equal(
        read_oof(resumed.folder / "oof.csv"), read_oof(folds_artifact.folder / "oof.csv")
    )
    rows = read_pairs(arena / "test.csv")
    np.testing.assert_allclose(
        resumed.predict_proba(rows), folds_artifact.predict_proba(rows), atol=1e-12
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_finished_models_of_an_unfinished_run_are_an_artifact(arena, tmp_path, pairs, seeds):
    """Those of two of three folds predict, are judged on their own held-out rows, and the run
    still ends as one that was never interrupted."""
    config = load_config("prior", overrides=[f"training.seeds={seeds}"])
    run = Run.plan(config, arena / "train.csv", tmp_path / "a", 3)
    assert run.gather() is None
    with run.opened():
        for model in run.models[: 2 * seeds]:
            run.train_model(model)
        left = run.models[2 * seeds].name
        (run.work / f"{left}.checkpoint").write_text("half")
        early = run.gather()
    names = [model.name for model in run.models]
    assert early.facts["members"] == names[: 2 * seeds]
    assert early.shortfall == f"only {2 * seeds} of {3 * seeds} models were trained"
    assert not any("checkpoint" in name for name in early.files)
    folds = grouped_folds(pairs, 3, seed=42)
    assert early.oof["id"].tolist() == pairs["id"][folds < 2].tolist()
    np.testing.assert_array_equal(early.oof["fold"], folds[folds < 2])
    assert early.metrics["rows"] == (folds < 2).sum()
    held = early.out_of_fold(pairs)
    np.testing.assert_allclose(held[folds < 2].sum(axis=1), 1)
    assert np.isnan(held[folds == 2]).all()
    assert early.learned_from(pairs).all()
    rows = read_pairs(arena / "test.csv")
    mean = np.mean(
        [load_model(early.folder / name).predict_proba(rows) for name in names[: 2 * seeds]], axis=0
    )
    np.testing.assert_allclose(early.predict_proba(rows), mean)

    begun = Run.plan(config, arena / "train.csv", tmp_path / "a", 3)
    with begun.opened():
        assert not (begun.work / "artifact.json").exists()
    whole = train(config, arena / "train.csv", tmp_path / "a", 3)
    assert (whole.shortfall, whole.facts["members"]) == ("", names)
    other = train(config, arena / "train.csv", tmp_path / "b", 3)
    np.testing.assert_array_equal(whole.predict_proba(rows), other.predict_proba(rows))
    pd.testing.assert_frame_equal(whole.oof, other.oof)


def test_an_unfinished_run_is_not_mixed_with_another(arena, tmp_path, monkeypatch):
    monkeypatch.setattr("humanpref.runs.results.share_equal_files", killed)
    with pytest.raises(KeyboardInterrupt):
        train(load_config("prior"), arena / "train.csv", tmp_path / "a", folds=3)
    monkeypatch.undo()
    for config, folds in (
        (load_config("prior", overrides=["seed=1"]), 3),
        (load_config("prior"), 4),
    ):
        with pytest.raises(InputError, match="unfinished run with other settings or rows"):
            train(config, arena / "train.csv", tmp_path / "a", folds=folds)
    shutil.rmtree(tmp_path / "a.partial")
    (tmp_path / "a.partial").mkdir()
    with pytest.raises(InputError, match="not an unfinished run of humanpref"):
        train(load_config("prior"), arena / "train.csv", tmp_path / "a")


def test_a_file_left_half_written_does_not_stop_a_resumed_run(arena, tmp_path, monkeypatch):
    def killed_while_writing(models):
        (models[0].parent / ".oof.csv.abcd").write_text("id,")
        raise KeyboardInterrupt

    monkeypatch.setattr("humanpref.runs.results.share_equal_files", killed_while_writing)
    with pytest.raises(KeyboardInterrupt):
        train(load_config("prior"), arena / "train.csv", tmp_path / "a")
    monkeypatch.undo()
    artifact = train(load_config("prior"), arena / "train.csv", tmp_path / "a")
    assert not (artifact.folder / ".oof.csv.abcd").exists()


def test_an_existing_folder_is_not_touched(arena, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine: already exists"):
        train(load_config("prior"), arena / "train.csv", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_weights_are_read_from_the_file(write_csv, tmp_path):
    rows = [([f"prompt {i}"], ["a"], ["b"], i % 2) for i in range(10)]
    heavy = write_csv(rows, weight=[3.0 if i % 2 else 1.0 for i in range(10)])
    artifact = train(
        load_config("prior", overrides=["training.validation_fraction=0"]), heavy, tmp_path / "a"
    )
    np.testing.assert_allclose(artifact.prior, [0.25, 0.75, 0])


@pytest.fixture
def sources(write_csv):
    """A training file of 12 prompts, and 5 extra rows: two with prompts of the training file, one
    with one to exclude."""
    rows = [([f"prompt {i}"], [f"a{i}"], [f"b{i}"], i % 3) for i in range(12)]
    more = [
        ([f"{name}"], ["a"], ["b"], 0)
        for name in ("PROMPT 0", "prompt  5", "new", "newer", "leaked")
    ]
    return (
        write_csv(rows, name="train.csv"),
        write_csv(more, name="more.csv"),
        write_csv(more[4:], name="leak.csv"),
    )


def test_extra_rows_are_learned_but_never_held_out(sources, tmp_path, monkeypatch):
    train_csv, more, leak = sources
    fits, fit = [], PriorModel.fit

    def spy(self, kept, labels, weights=None, validation=None, checkpoint=None):
        fits.append((kept, weights, set(prompt_keys(validation[0]))))
        return fit(self, kept, labels, weights, validation, checkpoint)

    monkeypatch.setattr(PriorModel, "fit", spy)
    config = load_config("prior")
    artifact = train(
        config, train_csv, tmp_path / "a", folds=3, extra=[Extra(more, 0.5)], exclude_prompts=[leak]
    )
    shared = [
        artifact.metrics["members"][f"fold-{fold}"]["extra_rows_sharing_a_prompt"]
        for fold in range(3)
    ]
    assert sum(shared) == 2
    for fold, (kept, weights, judged) in enumerate(fits):
        assert not judged & set(prompt_keys(kept))
        assert "leaked" not in {turns[0] for turns in kept["prompt"]}
        assert (
            (weights == 0.5).sum()
            == 4 - shared[fold]
            == artifact.metrics["members"][f"fold-{fold}"]["extra_rows"]
        )
    assert artifact.metrics["data"]["extra"] == [
        {"file": "more.csv", "weight": 0.5, "rows": 5, "excluded": 1}
    ]
    assert artifact.facts["training_rows"] == 16
    plain = train(config, train_csv, tmp_path / "plain", folds=3)
    assert artifact.oof[["id", "fold"]].equals(plain.oof[["id", "fold"]])
    assert artifact.metrics["prior_log_loss"] == plain.metrics["prior_log_loss"]
    assert artifact.prior == plain.prior
    assert artifact.metrics["log_loss"] != plain.metrics["log_loss"]
    assert artifact.rows["id"].tolist()[12:] == [f"extra-1:{i}" for i in range(100, 104)]
    assert (artifact.rows["weight"].astype(float) > 0).all()


def test_an_interrupted_run_knows_its_extra_rows(sources, tmp_path, monkeypatch):
    train_csv, more, leak = sources
    config, extra = load_config("prior"), [Extra(more, 0.5)]
    monkeypatch.setattr("humanpref.runs.results.share_equal_files", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, train_csv, tmp_path / "a", folds=3, extra=extra)
    monkeypatch.undo()
    for other in (
        {},
        {"extra": [Extra(more)]},
        {"extra": [Extra(leak, 0.5)]},
        {"extra": extra, "exclude_prompts": [leak]},
    ):
        with pytest.raises(InputError, match="unfinished run with other settings or rows"):
            train(config, train_csv, tmp_path / "a", folds=3, **other)
    resumed = train(config, train_csv, tmp_path / "a", folds=3, extra=extra)
    whole = train(config, train_csv, tmp_path / "b", folds=3, extra=extra)
    assert resumed.oof.equals(whole.oof)


DECODER = (
    "model.max_length=80",
    "model.system_prompt=",
    "training.batch_size=16",
    "training.learning_rate=1e-2",
)
NEURAL = {
    "tiny": (
        "model.scratch_hidden_size=8",
        "model.scratch_vocabulary=300",
        "model.max_length=48",
        "model.inputs=joint",
        "inference.swap_average=true",
        "training.epochs=2",
    ),
    "llama-3.2-1b-lora": (*DECODER, "model.question=Which?", "training.epochs=2"),
    "llama-3.2-1b-dpo": DECODER,
}


@pytest.mark.parametrize(
    "preset", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in list(NEURAL)[1:])]
)
def test_held_out_predictions_are_those_of_the_last_validation(
    preset, arena, tmp_path, decoder_folder, monkeypatch
):
    pytest.importorskip("peft")
    backbone = () if preset == "tiny" else (f"model.backbone={decoder_folder()}",)
    config = load_config(preset, overrides=[*NEURAL[preset], *backbone])
    build, predicted = runs.build_model, []

    def spied(config):
        model = build(config)
        predict = model.predict_proba
        model.predict_proba = lambda pairs: predicted.append(len(pairs)) or predict(pairs)
        return model

    def forgetful(config):
        model = spied(config)
        fit = model.fit

        def fitted(*arguments):
            fit(*arguments).held_out_ = None
            return model

        model.fit = fitted
        return model

    made = []
    for name, builder in (("validated", spied), ("predicted", forgetful)):
        monkeypatch.setattr(runs, "build_model", builder)
        train(config, arena / "train.csv", tmp_path / name)
        made.append((tmp_path / name / "oof.csv").read_bytes())
        assert len(predicted) == len(made) - 1
    assert made[0] == made[1]


def test_a_run_tokenizes_each_text_once(arena, pairs, decoder_folder, tmp_path, monkeypatch):
    """In all folds, in training, validation and both orders."""
    pytest.importorskip("peft")
    seen, text_ids = [], tokens.text_ids

    def spy(texts, tokenizer):
        seen.extend(texts)
        return text_ids(texts, tokenizer)

    monkeypatch.setattr(tokens, "text_ids", spy)
    config = load_config(
        "llama-3.2-1b-lora",
        overrides=[
            *NEURAL["llama-3.2-1b-lora"],
            "inference.swap_average=true",
            "training.swap_augmentation=true",
            "training.seconds=0.001",
            f"model.backbone={decoder_folder()}",
        ],
    )
    train(config, arena / "train.csv", tmp_path / "a", folds=2)
    texts = {
        turn
        for column in ("prompt", "response_a", "response_b")
        for turns in pairs[column]
        for turn in turns
    }
    assert len(seen) == len(set(seen))
    assert set(seen) == texts
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_frames_train_the_same_model_as_files(write_csv, arena, tmp_path):
    """Each of the three places where rows come from."""
    rows = [([f"p{i}"], [f"a {i}"], [f"b {i}"], i % 3) for i in range(30)]
    extra = [([f"p{i}"], ["more"], ["less"], i % 3) for i in range(25, 35)]
    files = write_csv(rows), write_csv(extra, "extra.csv", weight=2.0), arena / "train.csv"
    # As pandas reads them: whole numbers as ids, JSON as text; any index.
    frames = [pd.read_csv(file).sample(frac=1, random_state=0).sort_index() for file in files]
    frames = [frame.set_index(frame.index + 7) for frame in frames]
    made = [
        train(SPARSE, own, tmp_path / name, 2, [Extra(more, 0.5)], [excluded])
        for name, (own, more, excluded) in (("files", files), ("frames", frames))
    ]
    for name in ("oof.csv", "rows.csv", "fold-1/model.safetensors"):
        first, second = ((artifact.folder / name).read_bytes() for artifact in made)
        assert first == second
    assert made[0].facts["data_sha256"] == made[1].facts["data_sha256"]


def test_a_frame_without_labels_is_refused(pairs, tmp_path):
    with pytest.raises(InputError, match="these rows: missing column 'winner_model_a'"):
        train(
            load_config("prior"),
            pairs[["id", "prompt", "response_a", "response_b"]],
            tmp_path / "a",
        )
