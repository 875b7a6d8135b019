"""A base's weights: one digest whatever the files, and nothing beside them that changes the model
without a word."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.evaluation.perplexity import LanguageModel
from humanpref.files import write_json
from humanpref.models import build_model, checkpoint, load_model
from humanpref.models.backbone import load_backbone
from humanpref.models.bases import BASE_VARIABLE
from humanpref.models.checkpoint import DIGESTS_VARIABLE, base_digest, weights_files
from humanpref.models.sentence import FrozenEncoder
from humanpref.runs.train import train
from humanpref.schema import InputError

SETTINGS = (
    "model.max_length=80",
    "model.system_prompt=",
    "model.question=Which?",
    "model.peft=head",
    "training.batch_size=16",
    "training.learning_rate=1e-2",
)


@pytest.fixture
def base(decoder_folder, tmp_path):
    return shutil.copytree(decoder_folder(), tmp_path / "base")


@pytest.fixture
def few(pairs):
    return pairs[:24].reset_index(drop=True)


def config_with(folder):
    return load_config("llama-3.2-1b-lora", overrides=[f"model.backbone={folder}", *SETTINGS])


def put_adapter(folder):
    """Leave an adapter in the folder that is not what it starts as."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(
        folder
    )
    assert (folder / "adapter_config.json").is_file()


def split(folder, names):
    """The same weights in several files."""
    state = load_file(folder / "model.safetensors")
    owners = {key: names[number % len(names)] for number, key in enumerate(state)}
    for name in names:
        own = {key: state[key] for key in state if owners[key] == name}
        if name.endswith(".bin"):
            torch.save(own, folder / name)
        else:
            save_file(own, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = (
        "pytorch_model.bin.index.json"
        if names[0].endswith(".bin")
        else "model.safetensors.index.json"
    )
    if len(names) > 1:
        write_json(folder / index, {"metadata": {}, "weight_map": owners})


LAYOUTS = [["pytorch_model.bin"], ["1.bin", "2.bin"], ["1.safetensors", "2.safetensors"]]


@pytest.mark.parametrize("names", LAYOUTS, ids=" ".join)
def test_the_digest_is_that_of_the_weights_whatever_the_files(base, few, names):
    before = base_digest(base)
    model = build_model(config_with(base)).fit(few, labels_of(few))
    told = model.predict_proba(few)
    model.save(base.with_name("model"))
    split(base, names)
    assert base_digest(base) == before
    # A base in another format is the base that the model was trained on, and trains to the same.
    np.testing.assert_allclose(
        load_model(base.with_name("model")).predict_proba(few), told, atol=1e-6
    )
    again = build_model(config_with(base)).fit(few, labels_of(few))
    np.testing.assert_allclose(again.predict_proba(few), told, atol=1e-6)


@pytest.mark.parametrize("change", ["value", "name", "shape", "type"])
def test_the_digest_covers_every_tensor(base, change):
    before, path = base_digest(base), base / "model.safetensors"
    state = load_file(path)
    key = "model.norm.weight"
    changed = {
        "value": lambda: {key: state[key] + 1e-3},
        "name": lambda: {"norm.weight": state.pop(key)},
        "shape": lambda: {key: state[key][None]},
        "type": lambda: {key: state[key].view(torch.int32)},
    }[change]()
    save_file(state | changed, path, metadata={"format": "pt"})
    assert base_digest(base) != before


def test_what_transformers_reads_is_what_is_digested(base):
    """An index that was left beside one whole file names files that nobody reads."""
    before = base_digest(base)
    state = load_file(base / "model.safetensors")
    save_file(
        {key: 2 * value for key, value in state.items()},
        base / "old.safetensors",
        metadata={"format": "pt"},
    )
    write_json(
        base / "model.safetensors.index.json",
        {"weight_map": dict.fromkeys(state, "old.safetensors")},
    )
    assert base_digest(base) == before
    assert weights_files(base) == [base / "model.safetensors"]
    loaded = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_an_adapter_beside_the_weights_is_refused_wherever_the_base_is_read(
    base, few, tmp_path, monkeypatch
):
    build_model(config_with(base)).fit(few, labels_of(few)).save(tmp_path / "model")
    put_adapter(base)
    refused = pytest.raises(
        InputError, match=r"base/adapter_config\.json: an adapter, which would change the model"
    )
    dpo = load_config("llama-3.2-1b-dpo", overrides=[f"model.backbone={base}"])
    for action in (
        build_model(config_with(base)).check,
        lambda: build_model(config_with(base)).fit(few, labels_of(few)),
        build_model(dpo).check,
        lambda: load_model(tmp_path / "model"),
        lambda: LanguageModel(str(base)),
        lambda: load_backbone(str(base)),
        lambda: FrozenEncoder(str(base)),
    ):
        with refused:
            action()
    monkeypatch.setenv(BASE_VARIABLE, str(base))
    with refused:
        load_model(tmp_path / "model")


def test_a_configuration_that_names_other_weights_is_refused(base):
    shutil.copyfile(base / "model.safetensors", base / "other.safetensors")
    values = json.loads((base / "config.json").read_text())
    write_json(base / "config.json", values | {"transformers_weights": "other.safetensors"})
    with pytest.raises(
        InputError,
        match=r"config\.json: expected a JSON object without the key 'transformers_weights'",
    ):
        build_model(config_with(base)).check()


@pytest.mark.parametrize("shards", [{}, [], {"a": 1}, {"a": "../model.safetensors"}])
def test_an_index_that_is_none(base, shards):
    (base / "model.safetensors").unlink()
    write_json(base / "model.safetensors.index.json", {"weight_map": shards})
    with pytest.raises(
        InputError, match=r"index\.json: expected a 'weight_map' from weights to files next to it"
    ):
        base_digest(base)


@pytest.fixture
def hashed(monkeypatch):
    """The files that were read for a digest."""
    monkeypatch.setenv(DIGESTS_VARIABLE, "{}")  # and forgotten after the test
    read, opened = [], checkpoint.safe_open

    def spy(path, **options):
        read.append(path.name)
        return opened(path, **options)

    monkeypatch.setattr(checkpoint, "safe_open", spy)
    return read


@pytest.mark.slow
def test_a_base_is_hashed_once_by_a_process_and_its_children(base, hashed):
    digest = base_digest(base)
    assert base_digest(base) == digest
    script = (
        "import sys; from pathlib import Path; from humanpref.models import checkpoint; "
        "del checkpoint.safe_open; print(checkpoint.base_digest(Path(sys.argv[1])))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(base)], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == digest
    assert hashed == ["model.safetensors"]


def test_a_base_that_was_changed_is_hashed_again(base, hashed):
    weights = base / "model.safetensors"
    digest, content = base_digest(base), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)  # of the same size
    assert base_digest(base) != digest
    assert hashed == 2 * ["model.safetensors"]
    shutil.copytree(base, base.with_name("another"))
    base_digest(base.with_name("another"))
    assert hashed == 3 * ["model.safetensors"]


def test_a_run_hashes_its_base_once(base, arena, few, hashed, tmp_path, monkeypatch):
    artifact = train(config_with(base), arena / "train.csv", tmp_path / "a", folds=2)
    artifact.predict_proba(few[:2])
    assert hashed == ["model.safetensors"]
    # Another base is refused as ever.
    weights = base / "model.safetensors"
    state = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in state.items()}, weights, {"format": "pt"})
    with pytest.raises(InputError, match="holds different weights"):
        artifact.predict_proba(few[:2])
    assert hashed == 2 * ["model.safetensors"]
