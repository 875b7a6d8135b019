"""A run that starts from another run's weights: which weights, what must fit, and no prompt held
out that they have learned."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from humanpref.config import load_config
from humanpref.data import Extra, prompt_keys, read_pairs, read_training_rows, write_pairs
from humanpref.files import read_json
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import partial_of
from humanpref.runs.distillation import soft_labels
from humanpref.runs.merging import merge
from humanpref.runs.stages import Earlier, Stage
from humanpref.runs.train import Run, train
from humanpref.schema import InputError

ENCODER = (
    "model.scratch_vocabulary=300",
    "model.scratch_hidden_size=16",
    "model.max_length=32",
    "training.learning_rate=0.01",
)
DECODER = (
    "model.lora_r=2",
    "model.max_length=128",
    "model.system_prompt=",
    "training.epochs=1",
    "training.batch_size=8",
    "training.learning_rate=0.02",
)
STILL = "training.learning_rate=1e-12"


def encoder(*overrides):
    return load_config("tiny", None, [*ENCODER, *overrides])


def state_of(artifact, member="model"):
    return load_file(artifact.folder / member / "model.safetensors")


def link_of(artifact):
    """What the next stage records of this one."""
    config = read_json(artifact.folder / artifact.facts["members"][0] / "config.json")
    files = [f"{name}/model.safetensors" for name in artifact.facts["members"]]
    weights = {
        file: hashlib.sha256((artifact.folder / file).read_bytes()).hexdigest() for file in files
    }
    config, weights = (json.dumps(value, sort_keys=True).encode() for value in (config, weights))
    return {
        "name": artifact.folder.name,
        "data_sha256": artifact.facts["data_sha256"],
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }


@pytest.fixture(scope="module")
def parts(pairs, tmp_path_factory):
    """Three files of 18 rows, no two of which share a prompt."""
    folder = tmp_path_factory.mktemp("parts")
    once = pairs[
        ~np.array([key in set(prompt_keys(pairs)[:i]) for i, key in enumerate(prompt_keys(pairs))])
    ]
    files = [folder / f"{number}.csv" for number in range(3)]
    for number, file in enumerate(files):
        write_pairs(file, once[18 * number : 18 * (number + 1)])
    return files


@pytest.fixture(scope="module")
def first(parts, tmp_path_factory):
    """A single encoder of the first part, with a fifth held out."""
    return train(encoder(), parts[0], tmp_path_factory.mktemp("stage") / "first")


@pytest.fixture(scope="module")
def folds(parts, tmp_path_factory):
    """Two fold models of the first part."""
    return train(encoder(), parts[0], tmp_path_factory.mktemp("stage") / "folds", folds=2)


def test_an_encoder_starts_with_the_weights_and_the_tokenizer(first, parts, tmp_path):
    same = train(encoder(STILL), parts[1], tmp_path / "same", earlier=Earlier(first.folder))
    fresh = train(encoder(STILL), parts[1], tmp_path / "fresh")
    test = read_pairs(parts[2])
    expected = first.predict_proba(test)
    np.testing.assert_allclose(same.predict_proba(test), expected, atol=1e-6)
    assert np.abs(fresh.predict_proba(test) - expected).max() > 1e-3
    moved = train(encoder(), parts[1], tmp_path / "moved", earlier=Earlier(first.folder))
    assert moved.metrics["members"]["model"]["training"]["steps"] == 2  # of this run alone
    assert np.abs(moved.predict_proba(test) - expected).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["llama-3.2-1b-lora", "llama-3.2-1b-dpo"])
def test_a_decoder_starts_with_adapter_and_head(decoder_folder, parts, tmp_path, preset):
    options = [*DECODER, f"model.backbone={decoder_folder()}"]
    whole = "training.validation_fraction=0"
    before = train(load_config(preset, None, [*options, whole]), parts[0], tmp_path / "before")
    still = load_config(preset, None, [*options, whole, STILL, "training.weight_decay=0"])
    after = train(still, parts[1], tmp_path / "after", earlier=Earlier(before.folder))
    fresh = train(still, parts[1], tmp_path / "fresh")
    old, new, other = state_of(before), state_of(after), state_of(fresh)
    assert old.keys() == new.keys()
    learned = [name for name in old if name != "link"]  # which is fitted after the training
    assert any("lora_B" in name for name in learned)
    for name in learned:
        np.testing.assert_allclose(new[name], old[name], atol=1e-7)
    assert max(np.abs(other[name] - old[name]).max() for name in learned) > 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.head=davidson", "option model.head: expected 'linear', as in --from"),
        ("model.inputs=joint", "option model.inputs: expected 'dual'"),
        ("model.layer_norm=true", "option model.layer_norm: expected False"),
        ("model.scratch_hidden_size=24", "option model.scratch_hidden_size: expected 16"),
        ("model.backbone=elsewhere", "option model.backbone: expected that of --from"),
    ],
)
def test_an_encoder_with_other_weights_is_refused(first, override, message):
    with pytest.raises(InputError, match=message):
        Stage.open(Earlier(first.folder), encoder(override))


def test_a_run_that_trains_nothing_is_no_stage(first):
    untrained = encoder()
    object.__setattr__(untrained.training, "epochs", 0)  # which only some options allow
    with pytest.raises(InputError, match=r"training\.epochs: expected at least 1 with --from"):
        Stage.open(Earlier(first.folder), untrained)


def test_options_that_change_no_weight_may_differ(first, parts, tmp_path):
    other = encoder("model.max_length=24", "model.truncation=end", "model.dropout=0.1", "seed=1")
    run = Run.plan(other, parts[1], tmp_path / "a", earlier=Earlier(first.folder))
    assert [model.start for model in run.models] == [first.folder / "model"]


def test_a_pretrained_encoder_is_compared_by_its_configuration(sentence_encoder, parts, tmp_path):
    options = ["model.max_length=24", "training.batch_size=8"]
    config = load_config("deberta-v3-small", None, [*options, f"model.backbone={sentence_encoder}"])
    artifact = train(config, parts[0], tmp_path / "a")
    shutil.copytree(sentence_encoder, tmp_path / "moved")
    moved = load_config("deberta-v3-small", None, [*options, f"model.backbone={tmp_path}/moved"])
    assert Stage.open(Earlier(artifact.folder), moved).members == ["model"]
    path = tmp_path / "moved" / "config.json"
    path.write_text(json.dumps(read_json(path) | {"num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"configuration differs in num_hidden_layers \(1, 2\)"):
        Stage.open(Earlier(artifact.folder), moved)


def test_a_decoder_with_other_weights_is_refused(decoder_folder, parts, tmp_path):
    def config(*overrides, kind="llama"):
        options = [*DECODER, f"model.backbone={decoder_folder(kind)}", *overrides]
        return load_config("llama-3.2-1b-lora", None, options)

    artifact = train(config(), parts[0], tmp_path / "a")
    refused = {
        "model.lora_r": config("model.lora_r=4"),
        "model.lora_alpha": config("model.lora_alpha=1"),
        "model.peft": config("model.peft=rslora"),
        "model.target_modules": config("model.target_modules=q_proj"),
        "model.head": config("model.head=mlp"),
        "model.backbone: .* has different weights": config(kind="qwen2"),
    }
    for message, other in refused.items():
        with pytest.raises(InputError, match=f"option {message}"):
            Stage.open(Earlier(artifact.folder), other)
    Stage.open(Earlier(artifact.folder), config("model.question=Which?", "model.max_length=112"))


def test_other_families_are_refused_by_name(first, arena, tmp_path):
    sparse = load_config("sparse")
    with pytest.raises(InputError, match="the new run is of family sparse, which cannot"):
        Stage.open(Earlier(first.folder), sparse)
    prior = train(load_config("prior"), arena / "train.csv", tmp_path / "prior")
    with pytest.raises(InputError, match="expected family encoder, as in this run, got prior"):
        Stage.open(Earlier(prior.folder), encoder())
    with pytest.raises(InputError, match="not an artifact"):
        Stage.open(Earlier(tmp_path), encoder())


def test_a_held_out_prompt_that_was_learned_is_refused(first, parts, pairs, tmp_path):
    """The count is that of the rows to be held out whose prompts the first run learned; rows that
    both held out do not count."""
    learned = set(prompt_keys(read_pairs(parts[0]))) - set(
        prompt_keys(pairs[pairs["id"].isin(first.oof["id"])])
    )
    rows = read_pairs(parts[0], labels=True)
    other = Run.plan(encoder("seed=5"), parts[0], tmp_path / "a")
    leaked = np.isin(prompt_keys(rows).astype(str), list(learned)) & other.models[0].held
    assert 0 < leaked.sum() < other.models[0].held.sum()
    first_id = rows["id"][leaked].iloc[0]
    message = f"learned the prompts of {leaked.sum()} of the rows .*first id: '{first_id}'"
    with pytest.raises(InputError, match=f"{message}.*--drop-learned"):
        train(encoder("seed=5"), parts[0], tmp_path / "a", earlier=Earlier(first.folder))
    assert not partial_of(tmp_path / "a").exists()  # before any training
    # The same split holds out what the first run held out.
    same = Run.plan(encoder(), parts[0], tmp_path / "a", earlier=Earlier(first.folder))
    assert same.models[0].held.sum() == len(first.oof)
    # A prompt counts, whatever the answers and the id.
    renamed = rows.assign(id=[f"new-{i}" for i in range(len(rows))], response_a=[("new",)] * 18)
    write_pairs(tmp_path / "renamed.csv", renamed)
    with pytest.raises(InputError, match=f"learned the prompts of {leaked.sum()} of"):
        Run.plan(
            encoder("seed=5"),
            tmp_path / "renamed.csv",
            tmp_path / "a",
            None,
            (),
            (),
            (),
            Earlier(first.folder),
        )


def test_learned_prompts_are_dropped_on_demand(first, parts, tmp_path):
    both = read_pairs(parts[0], labels=True), read_pairs(parts[1], labels=True)
    write_pairs(tmp_path / "both.csv", pd.concat(both, ignore_index=True))
    earlier = Earlier(first.folder, drop_learned=True)
    run = Run.plan(encoder("seed=5"), tmp_path / "both.csv", tmp_path / "a", earlier=earlier)
    assert set(run.rows.pairs["id"]) == {*first.oof["id"], *both[1]["id"]}
    assert run.rows.facts["dropped_learned"] == 18 - len(first.oof)
    whole = train(encoder("training.validation_fraction=0"), parts[0], tmp_path / "whole")
    with pytest.raises(InputError, match="learned the prompts of all rows"):
        Run.plan(encoder(), parts[0], tmp_path / "a", earlier=Earlier(whole.folder, True))


def test_extra_rows_count_as_learned(parts, tmp_path):
    config = encoder("training.validation_fraction=0")
    artifact = train(config, parts[0], tmp_path / "a", extra=[Extra(parts[1])])
    run = Run.plan(encoder(), parts[1], tmp_path / "b")
    held = run.models[0].held.sum()
    with pytest.raises(InputError, match=f"learned the prompts of {held} of the rows"):
        Run.plan(encoder(), parts[1], tmp_path / "b", earlier=Earlier(artifact.folder))
    # What is never held out may be learned again.
    Run.plan(
        encoder(),
        parts[2],
        tmp_path / "b",
        None,
        [Extra(parts[1])],
        (),
        (),
        Earlier(artifact.folder),
    )


def test_rows_on_which_an_epoch_was_chosen_count_as_learned(parts, tmp_path):
    chosen = encoder("training.keep_best_epoch=true", "training.epochs=2")
    artifact = train(chosen, parts[0], tmp_path / "a")
    run = Run.plan(encoder(), parts[0], tmp_path / "b")
    held = run.models[0].held.sum()
    with pytest.raises(InputError, match=f"learned the prompts of {held} of the rows"):
        Run.plan(encoder(), parts[0], tmp_path / "b", earlier=Earlier(artifact.folder))


def test_fold_k_continues_from_fold_k(folds, parts, tmp_path):
    run = Run.plan(encoder(), parts[0], tmp_path / "a", 2, earlier=Earlier(folds.folder))
    assert [model.start.name for model in run.models] == ["fold-0", "fold-1"]
    again = train(encoder(STILL), parts[0], tmp_path / "a", 2, earlier=Earlier(folds.folder))
    assert again.oof["id"].tolist() == folds.oof["id"].tolist()
    columns = [name for name in folds.oof if name.startswith("winner")]
    np.testing.assert_allclose(again.oof[columns], folds.oof[columns], atol=1e-6)
    # Every row is known, and its held-out prediction is still one.
    assert again.knows(read_pairs(parts[0])).all()
    np.testing.assert_array_equal(
        again.out_of_fold(read_pairs(parts[0])), again.oof[columns].to_numpy()
    )
    # A third stage with the same folds continues, one with different folds does not.
    Run.plan(encoder(), parts[0], tmp_path / "b", 2, earlier=Earlier(again.folder))
    for artifact in (folds, again):
        with pytest.raises(InputError, match="with the folds of that run on the same rows"):
            Run.plan(
                encoder("seed=1"), parts[0], tmp_path / "b", 2, earlier=Earlier(artifact.folder)
            )


def test_several_models_are_not_one_start(folds, first, parts, tmp_path):
    for number in (None, 3):
        with pytest.raises(InputError, match=r"got fold-0, fold-1; merge them \(`humanpref merge`"):
            Run.plan(encoder(), parts[1], tmp_path / "a", number, earlier=Earlier(folds.folder))
    run = Run.plan(encoder(), parts[1], tmp_path / "a", 3, earlier=Earlier(first.folder))
    assert {model.start for model in run.models} == {first.folder / "model"}


def test_a_merged_model_has_learned_what_its_folds_learned(decoder_folder, parts, tmp_path):
    def config(*overrides):
        options = [*DECODER, f"model.backbone={decoder_folder()}", *overrides]
        return load_config("llama-3.2-1b-lora", None, options)

    train(config(), parts[0], tmp_path / "folds", 2)
    merge(tmp_path / "folds", tmp_path / "merged")
    wide = config("model.lora_r=4")
    run = Run.plan(wide, parts[0], tmp_path / "a", 2)
    held = sum(model.held.sum() for model in run.models)
    assert held == 18
    with pytest.raises(InputError, match="learned the prompts of 18 of the rows"):
        Run.plan(wide, parts[0], tmp_path / "a", 2, earlier=Earlier(tmp_path / "merged"))
    Run.plan(wide, parts[1], tmp_path / "a", 2, earlier=Earlier(tmp_path / "merged"))


def test_the_chain_is_recorded_and_guarded_to_its_start(first, parts, tmp_path):
    second = train(encoder(), parts[1], tmp_path / "second", earlier=Earlier(first.folder))
    assert second.facts["chain"] == [link_of(first)]
    third = train(encoder(), parts[2], tmp_path / "third", earlier=Earlier(second.folder))
    assert third.facts["chain"] == [link_of(first), link_of(second)]
    assert len(third.rows) == 54
    # The rows of all stages are known, and there is nothing else to say of the earlier ones.
    for file in parts:
        assert third.knows(read_pairs(file)).all()
    assert third.learned_from(read_pairs(parts[0])).all()
    with pytest.raises(InputError, match="was trained on 18 of these rows"):
        soft_labels([third], read_pairs(parts[0]))
    held = Run.plan(encoder(), parts[0], tmp_path / "a").models[0].held.sum()
    with pytest.raises(InputError, match=f"learned the prompts of {held} of the rows"):
        Run.plan(encoder(), parts[0], tmp_path / "a", earlier=Earlier(third.folder))


def test_other_weights_are_another_run(first, parts, tmp_path, monkeypatch):
    def killed(folders):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("humanpref.runs.results.share_equal_files", killed)
        with pytest.raises(KeyboardInterrupt):
            train(encoder(), parts[1], tmp_path / "a", earlier=Earlier(first.folder))
    with pytest.raises(InputError, match="unfinished run with other settings or rows"):
        train(encoder(), parts[1], tmp_path / "a")
    other = train(encoder("seed=3"), parts[0], tmp_path / "other")
    with pytest.raises(InputError, match="unfinished run with other settings or rows"):
        train(encoder(), parts[1], tmp_path / "a", earlier=Earlier(other.folder))
    # The weights count, not the name of their folder.
    shutil.copytree(first.folder, tmp_path / "copy")
    train(encoder(), parts[1], tmp_path / "a", earlier=Earlier(tmp_path / "copy"))
    assert Artifact.load(tmp_path / "a").facts["chain"][0]["name"] == "copy"


def test_without_earlier_nothing_is_dropped(first, parts):
    rows = read_training_rows(parts[0])
    assert Stage.open(Earlier(first.folder), encoder()).allowed(rows) is rows
