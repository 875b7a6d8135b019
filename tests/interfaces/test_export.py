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
from tokenizers import AddedToken
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from humanpref.config import load_config
from humanpref.data import read_pairs, write_pairs
from humanpref.files import read_json, write_json
from humanpref.interfaces.export import export
from humanpref.models.pretrained import load_tokenizer
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
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


SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 64}
ROPE = {
    "llama": SCALED | {"rope_theta": 5e5},
    "gemma3_text": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    },
}
RECIPES = {
    "llama": ("model.peft=rslora", "inference.swap_average=true"),
    "gemma3_text": ("model.peft=head",),
    "gemma2": ("model.head=tokens", "model.system_prompt=Be fair."),
}


TWO_CLASSES = [("llama", 2), ("gemma2", 2)]


@pytest.fixture(scope="module")
def trained(decoder_folder, arena, tmp_path_factory):
    """Train an artifact of one tiny decoder of a kind, once."""
    folder, made = tmp_path_factory.mktemp("decoders"), {}
    rows = read_pairs(arena / "train.csv")
    for classes, own in ((3, rows), (2, rows[rows["winner_tie"] == 0])):
        write_pairs(folder / f"{classes}.csv", own[:16])

    def artifact(kind, classes=3):
        if (kind, classes) not in made:
            changes = {"rope_parameters": ROPE[kind]} if kind in ROPE else {}
            if kind == "gemma2":
                changes["attn_logit_softcapping"] = 0.5
            backbone = f"model.backbone={decoder_folder(kind, **changes)}"
            options = [*OPTIONS, backbone, f"training.classes={classes}", *RECIPES[kind]]
            config = load_config("llama-3.2-1b-lora", None, options)
            found = train(config, folder / f"{classes}.csv", folder / f"{kind}-{classes}")
            if kind == "gemma2":  # as if it had been fitted
                calibrated = torch.tensor([0.7, 0.2, -0.3, 0.1])
                change_state(found.folder, "calibration", calibrated)
                found = Artifact.load(found.folder)
            made[kind, classes] = found
        return made[kind, classes]

    return artifact


def change_weight(path, name, tensor):
    save_file(load_file(path) | {name: tensor}, path, metadata={"format": "pt"})


def change_state(folder, name, tensor):
    change_weight(folder / "model" / "model.safetensors", name, tensor)
    seal(folder, read_json(folder / "artifact.json"))


@pytest.fixture
def altered(trained, tmp_path):
    """A copy of the Llama's artifact with another value of an option."""

    def copy(section, option, value):
        shutil.copytree(trained("llama").folder, tmp_path / "altered")
        path = tmp_path / "altered" / "model" / "config.json"
        config = read_json(path)
        config[section][option] = value
        write_json(path, config)
        seal(tmp_path / "altered", read_json(tmp_path / "altered" / "artifact.json"))
        return tmp_path / "altered"

    return copy


@pytest.fixture
def two_models(trained, tmp_path):
    """An artifact with two models, which are the same."""
    folder = tmp_path / "two"
    shutil.copytree(trained("llama").folder, folder)
    shutil.copytree(folder / "model", folder / "second")
    facts = read_json(folder / "artifact.json")
    seal(folder, facts | {"members": ["model", "second"]})
    return folder


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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "classes"), [*((kind, 3) for kind in RECIPES), *TWO_CLASSES])
def test_the_card_s_example_predicts_the_same(
    kind, classes, trained, few, tmp_path, monkeypatch, capsys
):
    artifact = trained(kind, classes)
    expected = single(artifact, few)
    assert (expected[:, 2] > 0).all() == (classes == 3)
    expected = expected[:, :classes]
    assert np.ptp(expected, axis=0).max() > 1e-3
    # A shell would split this name, and a markup would read it.
    folder = export(artifact.folder, tmp_path / "a plain, new" / "módèle {{ 模型 }} 'x'")
    monkeypatch.chdir(folder)
    names = {}
    exec(example(folder), names)
    assert sum(json.loads(capsys.readouterr().out)) == pytest.approx(1, abs=1e-5)
    found = [names["probabilities"](*row) for row in rows_of(few)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert ("P(tie)" in card.partition("## Order")[0]) == (classes == 3)
    assert ("has no ties" in card) == (classes == 2)
    swap = str(kind == "llama").lower()
    assert f"(`inference.swap_average={swap}`)" in card
    if (kind, classes) == ("llama", 2):
        assert read_json(folder / "config.json")["id2label"] == {"0": "A", "1": "B"}


def test_an_artifact_does_not_take_its_export_in(trained):
    folder = trained("llama").folder
    with pytest.raises(InputError, match="plain"):
        export(folder, folder / "plain")
    assert not (folder / "plain").exists()


def test_a_batch_with_padding_gives_the_same(trained, few, tmp_path, monkeypatch):
    artifact = trained("llama")
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


@pytest.mark.parametrize(
    ("kind", "older"),
    [
        ("llama", {"rope_theta": 5e5, "rope_scaling": SCALED}),
        ("gemma3_text", {"rope_theta": 1e6, "rope_local_base_freq": 5e3}),
        ("gemma2", {"rope_theta": 1e4}),
    ],
)
def test_transformers_4_finds_the_rotary_embeddings(kind, older, trained, tmp_path):
    config = read_json(export(trained(kind).folder, tmp_path / "plain") / "config.json")
    found = {key: config[key] for key in config if key.startswith("rope_")}
    assert found.pop("rope_parameters") == ROPE.get(kind, {"rope_type": "default", **older})
    assert found == older


@pytest.mark.slow
def test_transformers_alone_reads_the_folder(trained, few, tmp_path):
    artifact = trained("llama")
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
    ("section", "option", "value", "expected"),
    [
        ("model", "head", "mlp", "linear or tokens"),
        ("model", "head_bias", True, "false"),
        ("model", "quantisation", "4bit", "none"),
        ("inference", "normalise", "clip", "softmax"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(
    section, option, value, expected, altered, tmp_path
):
    folder = altered(section, option, value)
    change_state(folder, "head.1.bias", torch.tensor([0.0, 0.0, 0.1]))
    with pytest.raises(InputError, match=rf"option {section}\.{option}: expected {expected}, got"):
        export(folder, tmp_path / "plain")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_bias_of_zero_is_left_out(altered, tmp_path):
    folder = altered("model", "head_bias", True)
    change_state(folder, "head.1.bias", torch.zeros(3))
    weights = load_file(export(folder, tmp_path / "plain") / "model.safetensors")
    assert {name for name in weights if name.startswith("score")} == {"score.weight"}


def test_several_models_are_merged_first(two_models, tmp_path):
    with pytest.raises(InputError, match=r"two: has 2 models, .* humanpref merge .*/two --out"):
        export(two_models, tmp_path / "plain")
    facts = read_json(two_models / "artifact.json")
    seal(two_models, facts | {"family": "blend"})
    for refused in (export, merge):
        with pytest.raises(InputError, match=r"expected family decoder.*, got blend"):
            refused(two_models, tmp_path / "plain")
    seal(two_models, facts)
    merged = merge(two_models, tmp_path / "merged", into_base=True)
    export(merged.folder, tmp_path / "plain")
    assert "Its base is tiny-llama-merged" in (tmp_path / "plain" / "README.md").read_text()


def test_a_folder_that_predicts_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    def spoiled(self, folder):
        PreTrainedModel.save_pretrained(self, folder)
        path = folder / "model.safetensors"
        change_weight(path, "score.weight", 1.5 * self.score.weight.detach())

    monkeypatch.setattr(LlamaForSequenceClassification, "save_pretrained", spoiled)
    with pytest.raises(InputError, match="LlamaForSequenceClassification predicts differently"):
        export(trained("llama").folder, tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_reads_the_text_differently_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "humanpref.interfaces.export.plain_tokenizer", lambda tokenizer, *_: tokenizer
    )
    with pytest.raises(InputError, match="its tokenizer splits a formatted text into other"):
        export(trained("llama").folder, tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


def test_the_card_says_which_texts_are_tokenized_differently(trained, tmp_path):
    shutil.copytree(trained("llama").folder, tmp_path / "breaks")
    backbone = tmp_path / "breaks" / "model" / "backbone"
    tokenizer = load_tokenizer(str(backbone))
    # Gemma has such tokens, which no tokenizer can cut in two.
    tokenizer.add_tokens([AddedToken("\n\n\n", normalized=False, special=False)])
    tokenizer.save_pretrained(backbone)
    sentence = "unless it is empty, begins or ends with white space, or spells out"
    for name, said in {"breaks": True, "llama": False}.items():
        source = tmp_path / name if said else trained(name).folder
        card = (export(source, tmp_path / f"plain-{name}") / "README.md").read_text()
        assert (sentence in card) == said
