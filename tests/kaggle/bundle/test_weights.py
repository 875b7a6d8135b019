"""Packed backbones: all that is read of a folder, in one format, and the same model once it is
loaded from the copy alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("slugify", reason="needs python-slugify, which the Kaggle client brings")

import torch
from safetensors.torch import load_file, save_file

from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle import weights
from humanpref.kaggle.bundle.assemble import KERNELS, read_run
from humanpref.kaggle.bundle.check import check_bundle
from humanpref.kaggle.bundle.manifest import write_manifest
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    read_metadata,
    stage_kernel,
    write_metadata,
)
from humanpref.kaggle.bundle.weights import pack_weights
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER, KernelRun
from humanpref.kaggle.runtime.inputs import check_weights
from humanpref.kaggle.runtime.train import resolve
from humanpref.models.checkpoint import base_digest
from humanpref.models.sentence import FrozenEncoder
from humanpref.schema import InputError

from .committed import FACTS

PROJECT = Path(__file__).parents[3]
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
LAYOUTS = ["datasets/ann/weights-tiny-encoder", "weights-tiny-encoder"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def own(tmp_path) -> Path:
    """A bundle without wheels."""
    dataset = tmp_path / "bundle" / "dataset"
    dataset.mkdir(parents=True)
    (dataset / "run.toml").write_text(KernelRun("sparse").to_toml())
    write_manifest(dataset, MARKER, FACTS)
    write_metadata(dataset / DATASET_METADATA, read_metadata(PROJECT / DATASET_METADATA))
    for name, path in KERNELS.items():
        stage_kernel(PROJECT / path, dataset.with_name(name))
    return dataset.parent


@pytest.fixture
def sentence(sentence_encoder, tmp_path) -> Path:
    """A sentence-transformer's folder, to be changed."""
    return Path(shutil.copytree(sentence_encoder, tmp_path / "tiny-encoder"))


@pytest.fixture
def backbone(sentence, tmp_path) -> Path:
    """A plain encoder's folder as it comes, with what training and other frameworks leave in it."""
    for name in ("modules.json", "sentence_bert_config.json"):
        (sentence / name).unlink()
    shutil.rmtree(sentence / "1_Pooling")
    for name in (
        "optimizer.pt",
        "tf_model.h5",
        "model.fp16.safetensors",
        "trainer_state.json",
        "data_config.json",
        "README.md",
    ):
        (sentence / name).write_text(name)
    return Path(shutil.move(sentence, tmp_path / "Tiny_Encoder"))


def publish(folder: Path, shards: int = 1, **settings) -> dict[str, torch.Tensor]:
    """Turn the folder's weights into .bin, as publishers had them: two names of one tensor, an
    index of several files."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["tied.weight"] = state["embeddings.word_embeddings.weight"]
    names = [f"pytorch_model-{number}-of-{shards}.bin" for number in range(shards)]
    names = names if shards > 1 else ["pytorch_model.bin"]
    owners = {key: names[number % shards] for number, key in enumerate(state)}
    for name in names:
        torch.save(
            {key: state[key] for key in state if owners[key] == name}, folder / name, **settings
        )
    if shards > 1:
        write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": owners})
    return state


def test_weights_become_a_dataset_that_the_kernels_mount(own, backbone):
    (backbone / "additional_chat_templates").mkdir()
    (backbone / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    packed = pack_weights(backbone, own)
    assert packed == own / "weights-tiny-encoder"
    staged = {
        "config.json",
        "model.safetensors",
        "additional_chat_templates/tool.jinja",
    } | TOKENIZER
    assert set(contents(packed)) == staged | {DATASET_METADATA, WEIGHTS_MARKER}
    assert {entry["name"] for entry in read_json(packed / WEIGHTS_MARKER)["files"]} == staged
    source = "INSERT_USERNAME/weights-tiny-encoder"
    for name in KERNELS:
        sources = read_metadata(own / name / KERNEL_METADATA)["dataset_sources"]
        assert sources == ["INSERT_USERNAME/humanpref-wheels", source]
    manifest = sha256(own / "weights-tiny-encoder" / WEIGHTS_MARKER)
    assert read_run(own / "dataset") == KernelRun(
        "sparse", backbone="weights-tiny-encoder", backbone_manifest=manifest
    )
    assert errors(own) == []
    before = contents(own)
    pack_weights(backbone, own)  # again: replaced, and named once
    assert contents(own) == before
    with pytest.raises(InputError, match="not a bundle; create one first"):
        pack_weights(backbone, packed)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("older", [False, True])
def test_a_sentence_encoder_is_packed_whole_and_found_as_one_folder(
    own, sentence, tmp_path, layout, older
):
    """Its settings beside it, pooling by the first token here; early versions had the weights in a
    folder inside."""
    write_json(
        sentence / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": "cls"}
    )
    if older:
        (sentence / "0_Transformer").mkdir()
        for path in [
            path for path in sentence.iterdir() if path.is_file() and path.name != "modules.json"
        ]:
            path.rename(sentence / "0_Transformer" / path.name)
        modules = read_json(sentence / "modules.json")
        write_json(
            sentence / "modules.json", [{**modules[0], "path": "0_Transformer"}, *modules[1:]]
        )
    write_json(sentence / "config_sentence_transformers.json", {"prompts": {"query": "Find: "}})
    packed = pack_weights(sentence, own)
    source, copy = FrozenEncoder(str(sentence)), FrozenEncoder(str(packed))
    assert copy.settings == source.settings
    assert copy.settings.modules[0]["pooling_mode"] == "cls"
    assert (copy.settings.modules[1], copy.settings.max_length) == ({"type": "Normalize"}, 24)
    assert copy.digest == source.digest
    assert read_json(packed / "config_sentence_transformers.json") == {
        "prompts": {"query": "Find: "}
    }
    assert errors(own) == []
    mounted = shutil.copytree(packed, tmp_path / "input" / layout)
    assert resolve(
        KernelRun("embedding", backbone=packed.name), tmp_path / "input"
    ).model.backbone == str(mounted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kernel_finds_the_packed_weights_and_checks_them(own, backbone, tmp_path, layout):
    packed = pack_weights(backbone, own)
    mounted = Path(shutil.copytree(packed, tmp_path / "input" / layout))
    run = KernelRun("deberta-v3-small", backbone=packed.name)
    assert resolve(run, tmp_path / "input").model.backbone == str(mounted)
    (mounted / "model.safetensors").write_text("other.safetensors")
    with pytest.raises(InputError, match=r"not the file that humanpref-weights\.json describes"):
        resolve(run, tmp_path / "input")
    (mounted / "model.safetensors").unlink()
    with pytest.raises(InputError, match="but missing"):
        check_weights(mounted)
    check_weights(backbone)  # not packed by us: nothing to compare with


def test_other_weights_than_those_packed_last_are_not_taken(own, backbone, tmp_path):
    """Whole as they may be: the dataset's version before."""
    packed = pack_weights(backbone, own)
    run = replace(read_run(own / "dataset"), preset="deberta-v3-small")
    assert run.backbone_manifest == sha256(packed / WEIGHTS_MARKER)
    mounted = Path(shutil.copytree(packed, tmp_path / "input" / packed.name))
    assert resolve(run, tmp_path / "input").model.backbone == str(mounted)
    (mounted / "notes.txt").write_text("x")
    write_manifest(mounted, WEIGHTS_MARKER, {"name": packed.name})
    with pytest.raises(
        InputError, match=f"expected the manifest with SHA-256 {run.backbone_manifest}, got "
    ):
        resolve(run, tmp_path / "input")
    (mounted / WEIGHTS_MARKER).unlink()
    with pytest.raises(InputError, match="got none"):
        resolve(run, tmp_path / "input")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"shards": 3}, {"_use_new_zipfile_serialization": False}])
def test_a_publishers_bin_is_packed_as_safetensors(own, backbone, settings):
    state = publish(backbone, **settings)
    packed = pack_weights(backbone, own)
    assert {path.name for path in packed.iterdir()} - TOKENIZER == {
        *("config.json", "model.safetensors", DATASET_METADATA, WEIGHTS_MARKER)
    }
    copied = load_file(packed / "model.safetensors")
    assert copied.keys() == state.keys()
    assert all(torch.equal(copied[name], state[name]) for name in state)
    assert base_digest(packed) == base_digest(backbone)
    before, after = (FrozenEncoder(str(folder)) for folder in (backbone, packed))
    assert before.digest == after.digest


def test_sharded_weights_are_packed_whole_or_not_at_all(own, backbone):
    state = load_file(backbone / "model.safetensors")
    (backbone / "model.safetensors").unlink()
    shards = {
        key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)
    }
    write_json(backbone / "model.safetensors.index.json", {"metadata": {}, "weight_map": shards})
    first, second = sorted(set(shards.values()))
    save_file(
        {key: state[key] for key in state if shards[key] == first},
        backbone / first,
        {"format": "pt"},
    )
    with pytest.raises(
        InputError, match=rf"{second}: named in model\.safetensors\.index\.json, but missing"
    ):
        pack_weights(backbone, own)
    save_file(
        {key: state[key] for key in state if shards[key] == second},
        backbone / second,
        {"format": "pt"},
    )
    assert {first, second, "model.safetensors.index.json"} < set(
        contents(pack_weights(backbone, own))
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def point(path: Path) -> None:
    size = path.stat().st_size
    path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {size}\n"
    )


SPOILT = [
    ("config.json", Path.unlink, "its configuration cannot be loaded"),
    ("model.safetensors", Path.unlink, r"no weights, expected one of model\.safetensors"),
    ("model.safetensors", cut, r"model\.safetensors: an incomplete safetensors file"),
    ("model.safetensors", point, r"model\.safetensors: a git-lfs pointer"),
    ("tokenizer.json", Path.unlink, "its tokenizer"),
    ("tokenizer.json", point, r"its tokenizer|tokenizer\.json: a git-lfs pointer"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), SPOILT)
def test_a_folder_that_is_no_whole_backbone(own, backbone, name, spoil, message):
    spoil(backbone / name)
    with pytest.raises(InputError, match=message) as refused:
        pack_weights(backbone, own)
    assert "\n" not in str(refused.value)
    assert not list(own.glob("weights-*"))


@pytest.mark.parametrize("settings", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.999])
def test_a_bin_that_is_cut_off(own, backbone, settings, share):
    publish(backbone, **settings)
    content = (backbone / "pytorch_model.bin").read_bytes()
    (backbone / "pytorch_model.bin").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"pytorch_model\.bin: incomplete"):
        pack_weights(backbone, own)


class Runs:
    """A pickle that runs code where it may."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_bin_runs_no_code(own, backbone, tmp_path):
    state = publish(backbone)
    torch.save(state | {"more": Runs(tmp_path / "ran")}, backbone / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pytorch_model\.bin: incomplete, or holds something other than weights"
    ):
        pack_weights(backbone, own)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spoil", [cut, point])
def test_check_says_so_of_a_bundle_that_holds_it(own, backbone, spoil):
    packed = pack_weights(backbone, own)
    spoil(packed / "model.safetensors")
    write_manifest_of(packed)
    (finding,) = errors(own)
    assert finding.path.name == "model.safetensors"
    assert (
        "git-lfs pointer" if spoil is point else "an incomplete safetensors file"
    ) in finding.problem


def errors(bundle: Path) -> list:
    """The findings after the two that these bundles, of `sparse`, always have: a warning for each
    kernel, since both ask for a GPU."""
    *others, train, infer = sorted(check_bundle(bundle), key=lambda finding: finding.level)
    assert {(each.key, each.level) for each in (train, infer)} == {("enable_gpu", "warning")}
    return others


def write_manifest_of(folder: Path) -> None:
    """As an earlier version would have written it, which looked at no content."""
    manifest = read_json(folder / WEIGHTS_MARKER)
    for entry in manifest["files"]:
        path = folder / entry["name"]
        entry |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / WEIGHTS_MARKER, manifest)


def lose(name, change):
    """A copy that loses something on the way."""

    def copying(source, target, original=shutil.copy):
        original(source, target)
        if Path(target).name == name:
            change(Path(target))

    return copying


def other_layers(path: Path) -> None:
    state = load_file(path)
    save_file({key: 1.5 * value for key, value in state.items()}, path, metadata={"format": "pt"})


def other_case(path: Path) -> None:
    values = json.loads(path.read_text())
    values["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(values))


def other_activation(path: Path) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"hidden_act": "relu", "layer_norm_eps": 1.0})
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", other_layers, "has a different digest"),
        ("tokenizer.json", other_case, "has a different tokenizer"),
        ("config.json", other_activation, "gives different hidden states"),
    ],
)
def test_a_copy_that_is_another_model_is_refused(own, backbone, monkeypatch, name, change, message):
    monkeypatch.setattr(weights.shutil, "copy", lose(name, change))
    with pytest.raises(InputError, match=message):
        pack_weights(backbone, own)
    assert not list(own.glob("weights-*"))


def test_weights_from_the_hub(own, backbone, monkeypatch):
    from humanpref.models import pretrained

    class ProxyError(Exception):
        """As httpx raises it behind a proxy that refuses; no OSError."""

    asked = []

    def download(name, allow_patterns):
        asked.append(allow_patterns)
        if name == "org/none":
            raise ProxyError("403 Forbidden\nand more")
        return str(backbone)

    monkeypatch.setattr(pretrained, "snapshot_download", download)
    assert pack_weights("org/tiny", own).name == "weights-tiny"
    assert not any("bin" in pattern for patterns in asked for pattern in patterns)
    asked.clear()
    (backbone / "model.fp16.safetensors").unlink()
    publish(backbone)
    pack_weights("org/tiny", own)
    assert ["*pytorch_model*.bin"] in asked
    with pytest.raises(
        InputError, match=r"backbone org/none: .*\(no such folder; the hub: 403 Forbidden\)$"
    ):
        pack_weights("org/none", own)


@pytest.mark.slow
@torch.inference_mode()
def test_vectors_of_the_packed_copy_are_the_sources(own, sentence):
    vectors = []
    for folder in (sentence, pack_weights(sentence, own)):
        encoder = FrozenEncoder(str(folder))  # embed() would remember the vectors by the digest
        tokens = encoder.tokenizer(["Is it the same?"], return_tensors="pt")
        mask = tokens.attention_mask
        vectors.append(encoder.module.eval()(input_ids=tokens.input_ids, attention_mask=mask))
    assert vectors[0].shape == (1, 16)
    assert torch.equal(*vectors)
