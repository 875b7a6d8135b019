"""Decoders as plain folders: transformers alone reads them to the same probabilities."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.files import read_json, write_json
from humanpref.interfaces.export import export
from humanpref.runs.merging import merge
from humanpref.runs.train import train
from humanpref.schema import TEXT_COLUMNS, InputError

OPTIONS = (
    "model.lora_r=2",
    "model.target_modules=all-linear",
    "model.max_length=400",
    "model.answers=A,B,C",
    "training.batch_size=8",
    "training.learning_rate=0.05",
    "training.validation_fraction=0",
)


@pytest.fixture(scope="module")
def trained(decoder_folder, arena, tmp_path_factory):
    """Train an artifact of one tiny decoder, once for each family of bases and set of options."""
    folder, made = tmp_path_factory.mktemp("decoders"), {}
    lines = (arena / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(lines[:17]))

    def artifact(kind="llama", *options, folds=None):
        key = (kind, *options, folds)
        if key not in made:
            changes = {"attn_logit_softcapping": 0.5} if kind == "gemma2" else {}
            backbone = f"model.backbone={decoder_folder(kind, **changes)}"
            config = load_config("llama-3.2-1b-lora", None, [*OPTIONS, backbone, *options])
            made[key] = train(config, folder / "train.csv", folder / str(len(made)), folds)
            if "training.epochs=0" in options:  # from so few rows, it learns to ignore the scores
                calibration = {"calibration": torch.tensor([0.7, 0.2, -0.3, 0.1])}
                save_file(calibration, made[key].folder / "model" / "model.safetensors")
        return made[key]

    return artifact


@pytest.fixture(scope="module")
def few(arena):
    """Rows of one and of several turns, which fit into the model's positions."""
    pairs = read_pairs(arena / "test.csv")[:5]
    for column in TEXT_COLUMNS:
        pairs[column] = [
            tuple(turn[:40] for turn in turns) * (1 + row % 2)
            for row, turns in enumerate(pairs[column])
        ]
    return pairs


def example(folder):
    """The Python example of an exported folder's card."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.M | re.S)
    return code


def rows_of(pairs):
    return [[list(turns) for turns in row] for row in pairs[list(TEXT_COLUMNS)].to_numpy()]


def single(artifact, pairs):
    """The artifact's probabilities in one order of A and B."""
    return artifact.models[0].single_order().predict_proba(pairs)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", ("model.peft=rslora", "inference.swap_average=true")),
        ("qwen2", ("model.peft=bias",)),
        ("gemma2", ()),
        ("llama", ("model.head=tokens", "model.system_prompt=Be fair.")),
        ("gemma2", ("model.head=tokens", "training.epochs=0")),
    ],
)
def test_the_card_s_example_predicts_the_same(
    kind, options, trained, few, tmp_path, monkeypatch, capsys
):
    artifact = trained(kind, *options)
    expected = single(artifact, few)
    assert np.ptp(expected, axis=0).max() > 1e-3
    folder = export(artifact.folder, tmp_path / "plain")
    monkeypatch.chdir(folder)
    names = {}
    exec(example(folder), names)
    assert sum(json.loads(capsys.readouterr().out)) == pytest.approx(1, abs=1e-5)
    found = [names["probabilities"](*row) for row in rows_of(few)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    swap = "inference.swap_average=true" in options
    assert f"(`inference.swap_average={str(swap).lower()}`)" in (folder / "README.md").read_text()


def test_a_batch_with_padding_gives_the_same(trained, few, tmp_path, monkeypatch):
    artifact = trained()
    folder = export(artifact.folder, tmp_path / "plain")
    config, tokenizer = read_json(folder / "config.json"), AutoTokenizer.from_pretrained(folder)
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "A", "1": "B", "2": "tie"}
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert tokenizer.model_max_length == 400
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert "score.weight" in weights
    assert not any("lora" in name for name in weights)
    monkeypatch.chdir(folder)
    names = {}
    exec(example(folder), names)
    texts = [names["text_of"](*row) for row in rows_of(few)]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 2
    assert not (batch["input_ids"][:, -1] == tokenizer.pad_token_id).all()
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = plain(**batch).logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(found, single(artifact, few), atol=1e-5)


@pytest.mark.slow
def test_transformers_alone_reads_the_folder(trained, few, tmp_path):
    artifact = trained()
    folder = export(artifact.folder, tmp_path / "plain")
    code = f"""
import sys
{example(folder)}
import json
assert "humanpref" not in sys.modules
print(json.dumps([probabilities(*row) for row in json.loads(sys.argv[1])]))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, json.dumps(rows_of(few))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if "site-pack" in p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found, single(artifact, few), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("model.head=mlp",), r"option model\.head: expected linear or tokens, got mlp"),
        (("model.head_bias=true",), r"option model\.head_bias: expected false, got true"),
        (("inference.normalise=clip",), r"option inference\.normalise: expected softmax, got clip"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(options, message, trained, tmp_path):
    with pytest.raises(InputError, match=message):
        export(trained("llama", *options).folder, tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


def test_other_models_are_refused(trained, arena, tmp_path):
    with pytest.raises(InputError, match=r"has 2 models, expected one; .* humanpref merge .*/\d+ "):
        export(trained(folds=2).folder, tmp_path / "plain")
    prior = train(load_config("prior"), arena / "train.csv", tmp_path / "prior")
    with pytest.raises(InputError, match="expected family decoder, got prior"):
        export(prior.folder, tmp_path / "plain")
    shutil.copytree(trained().folder, tmp_path / "4bit")
    config = read_json(tmp_path / "4bit" / "model" / "config.json")
    config["model"]["quantisation"] = "4bit"
    write_json(tmp_path / "4bit" / "model" / "config.json", config)
    with pytest.raises(InputError, match=r"model\.quantisation: expected none, got 4bit"):
        export(tmp_path / "4bit", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_a_folder_that_predicts_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    def spoiled(self, folder):
        PreTrainedModel.save_pretrained(self, folder)
        state = load_file(folder / "model.safetensors")
        state["score.weight"] *= 1.5
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(LlamaForSequenceClassification, "save_pretrained", spoiled)
    with pytest.raises(InputError, match="LlamaForSequenceClassification predicts differently"):
        export(trained().folder, tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


def test_a_merged_artifact_is_exported(trained, tmp_path):
    merged = merge(trained(folds=2).folder, tmp_path / "merged", into_base=True)
    export(merged.folder, tmp_path / "plain")
    assert "tiny-llama-merged" in (tmp_path / "plain" / "README.md").read_text()
