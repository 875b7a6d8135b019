"""Fold models merged into one: the mean of their updates, exactly."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.files import read_json, write_json
from humanpref.models import load_model
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
from humanpref.runs.merging import merge, merged_state
from humanpref.runs.train import train
from humanpref.schema import InputError

OPTIONS = (
    "model.lora_r=2",
    "model.max_length=96",
    "model.system_prompt=",
    "model.question=",
    "model.answers=A,B,C",
    "training.epochs=1",
    "training.batch_size=8",
    "training.learning_rate=0.05",
)


@pytest.fixture(scope="module")
def folds(decoder_folder, arena, pairs, tmp_path_factory):
    """Return an artifact with three fold models, trained once for each peft method."""
    folder, made = tmp_path_factory.mktemp("folds"), {}
    lines = (arena / "train.csv").read_text().splitlines(keepends=True)

    def trained(peft="lora", head="linear", *more):
        name = f"{peft}-{head}{len(more)}"
        if name not in made:
            csv = folder / "train.csv"
            csv.write_text("".join(lines[:25]))
            changes = [f"model.backbone={decoder_folder()}", f"model.peft={peft}"]
            config = load_config(
                "llama-3.2-1b-lora", None, [*OPTIONS, *changes, f"model.head={head}", *more]
            )
            made[name] = train(config, csv, folder / name, 3)
        return made[name]

    return trained


def deltas(model):
    """The change of each layer's weights under its adapter."""
    return {
        name: module.get_delta_weight("default").detach().numpy()
        for name, module in model.module_.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def updates(model):
    """The change of each layer's weights under its adapter, and the head's weights."""
    head = {name: w.detach().numpy() for name, w in model.module_.head.named_parameters()}
    return deltas(model) | head


@pytest.mark.parametrize("peft", ["lora", "rslora"])
def test_a_merged_model_has_the_mean_of_the_updates(folds, tmp_path, peft):
    artifact = folds(peft)
    merged = merge(artifact.folder, tmp_path / "merged")
    (model,) = merged.models
    each = [updates(fold) for fold in artifact.models]
    assert len(each) == 3
    assert model.config.model.lora_r == 6
    assert updates(model).keys() == each[0].keys()
    for name, update in updates(model).items():
        mean = np.mean([fold[name] for fold in each], axis=0)
        np.testing.assert_allclose(update, mean, rtol=1e-4, atol=1e-7)
        assert np.abs(each[0][name] - mean).max() > 1e-4, "the folds must differ"
    assert merged.oof.equals(artifact.oof)
    assert merged.rows.equals(artifact.rows)
    assert merged.facts["merged"] == 3
    assert "before merging" in merged.metrics["held_out"]
    assert sorted(path.name for path in (merged.folder / "model").iterdir()) == [
        "backbone",
        "base.json",
        "config.json",
        "model.safetensors",
    ]


def test_one_model_merged_predicts_the_same(folds, arena, tmp_path):
    shutil.copytree(folds().folder, tmp_path / "one")
    facts = read_json(tmp_path / "one" / "artifact.json")
    seal(tmp_path / "one", facts | {"members": ["fold-1"]})
    pairs = read_pairs(arena / "test.csv")[:6]
    before = Artifact.load(tmp_path / "one").predict_proba(pairs)
    after = merge(tmp_path / "one", tmp_path / "merged").predict_proba(pairs)
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [("rslora",), ("lora", "tokens", "model.max_length=128")])
def test_a_base_that_contains_the_adapter_predicts_the_same(folds, arena, tmp_path, recipe):
    artifact = folds(*recipe)
    pairs = read_pairs(arena / "test.csv")[:6]
    expected = merge(artifact.folder, tmp_path / "merged").predict_proba(pairs)
    merged = merge(artifact.folder, tmp_path / "into", into_base=True)
    after = merged.predict_proba(pairs)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    (tmp_path / "into").rename(tmp_path / "moved")
    moved = Artifact.load(tmp_path / "moved")
    np.testing.assert_allclose(moved.predict_proba(pairs), after, atol=1e-7)
    shutil.copytree(moved.folder / "model", tmp_path / "blend" / "member-0")  # as `blend` does
    copied = load_model(tmp_path / "blend" / "member-0")
    np.testing.assert_allclose(copied.predict_proba(pairs), after, atol=1e-7)
    (model,) = moved.models
    learned = {"calibration"} if "tokens" in recipe else {"head.1.weight"}
    assert set(load_file(moved.folder / "model" / "model.safetensors")) == learned
    weights = load_file(moved.folder / "model" / "tiny-llama-merged" / "model.safetensors")
    assert {values.dtype for values in weights.values()} == {np.dtype("float32")}
    assert model.config.model.peft == moved.facts["backbone"]["peft"] == "head"
    assert moved.facts["backbone"]["sha256"] != artifact.facts["backbone"]["sha256"]
    assert moved.oof.equals(artifact.oof)


def test_what_cannot_be_merged_into_its_base_is_refused(folds, tmp_path):
    folder = shutil.copytree(folds().folder, tmp_path / "quantized")
    for path in folder.glob("fold-*/config.json"):
        config = read_json(path)
        write_json(path, config | {"model": config["model"] | {"quantisation": "4bit"}})
    seal(folder, read_json(folder / "artifact.json"))
    with pytest.raises(InputError, match=r"model.quantisation: expected none, got 4bit"):
        merge(folder, tmp_path / "merged", into_base=True)
    dpo = load_config("llama-3.2-1b-dpo").to_dict()
    for path in folder.glob("fold-*/config.json"):
        write_json(path, dpo)
    seal(folder, read_json(folder / "artifact.json"))
    with pytest.raises(InputError, match="expected family decoder, got dpo"):
        merge(folder, tmp_path / "merged", into_base=True)
    assert not (tmp_path / "merged").exists()


def test_answer_tokens_are_merged(folds, tmp_path):
    artifact = folds("lora", "tokens", "model.max_length=128")
    (model,) = merge(artifact.folder, tmp_path / "merged").models
    assert model.module_.calibration.tolist() == [1, 0, 0, 0]
    each = [deltas(fold) for fold in artifact.models]
    for name, update in deltas(model).items():
        mean = np.mean([fold[name] for fold in each], axis=0)
        np.testing.assert_allclose(update, mean, rtol=1e-4, atol=1e-7)
        assert np.abs(each[0][name] - mean).max() > 1e-4, "the folds must differ"


def test_untrained_judges_are_merged_by_their_calibrations(folds, tmp_path):
    artifact = folds("lora", "tokens", "model.max_length=128", "training.epochs=0")
    (model,) = merge(artifact.folder, tmp_path / "merged").models
    each = [fold.module_.calibration.numpy() for fold in artifact.models]
    assert np.ptp(each, axis=0).max() > 1e-4, "the folds must differ"
    np.testing.assert_allclose(model.module_.calibration, np.mean(each, axis=0), rtol=1e-6)


def test_other_models_are_refused_by_name(folds, tmp_path):
    folder = shutil.copytree(folds().folder, tmp_path / "other")
    facts, config = read_json(folder / "artifact.json"), read_json(folder / "fold-0/config.json")
    for text, family, options in (
        ("family decoder or dpo, got sparse", "sparse", {}),
        ("model.peft: expected lora or rslora, got dora", "decoder", {"peft": "dora"}),
        ("model.head: expected linear or tokens, got mlp", "decoder", {"head": "mlp"}),
    ):
        for path in folder.glob("fold-*/config.json"):
            write_json(path, config | {"model": config["model"] | options})
        seal(folder, facts | {"family": family})
        with pytest.raises(InputError, match=text):
            merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_models_of_different_bases_are_refused(folds, tmp_path):
    folder = shutil.copytree(folds().folder, tmp_path / "other")
    facts, path = read_json(folder / "artifact.json"), folder / "fold-2/base.json"
    write_json(path, read_json(path) | {"sha256": "0" * 64})
    seal(folder, facts)
    with pytest.raises(InputError, match="different bases"):
        merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_only_the_two_matrices_are_concatenated():
    def state(value):
        return {
            "a.lora_A.default.weight": np.full((2, 3), value, np.float32),
            "a.lora_B.default.weight": np.full((4, 2), value, np.float32),
            "head.weight": np.full((3, 5), value, np.float32),
            "link": np.full(2, value, np.float64),
        }

    merged = merged_state([state(1), state(3)])
    first, second = merged["a.lora_A.default.weight"], merged["a.lora_B.default.weight"]
    assert first[:, 0].tolist() == [1, 1, 3, 3]
    assert second[0].tolist() == [1, 1, 3, 3]
    assert (merged["head.weight"] == 2).all()
    assert merged["head.weight"].dtype == np.float32
    assert merged["link"].tolist() == [2, 2]
