"""Artifacts and backbones are found wherever Kaggle mounts them."""

import os

import pytest

from humanpref.files import sha256, write_json
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER, KernelRun
from humanpref.kaggle.runtime import inputs
from humanpref.kaggle.runtime.train import resolve
from humanpref.schema import InputError


def test_which_folders_are_artifacts(tmp_path):
    for name in ("k/artifact", "k/artifact/fold-0", "k/.b.12345678.partial", "d/deep/er/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "artifact.json").write_text("{}")
    (tmp_path / "again").symlink_to(tmp_path / "k")  # the same mount under a second path
    (tmp_path / "k" / "c.partial" / "fold-0").mkdir(parents=True)  # of no artifact yet
    found = [str(path.relative_to(tmp_path)) for path in inputs.find_artifacts(tmp_path)]
    assert found in (["d/deep/er/other", "k/artifact"], ["again/artifact", "d/deep/er/other"])


def test_the_backbone_is_found_in_both_layouts(tmp_path):
    new = tmp_path / "new" / "models" / "someone" / "deberta" / "transformers" / "base" / "1"
    legacy = tmp_path / "legacy" / "deberta" / "transformers" / "base" / "1"
    for folder in (new, legacy):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert inputs.find_backbone("deberta", tmp_path / "new") == new
    assert inputs.find_backbone("deberta/transformers/base", tmp_path / "legacy") == legacy
    config = resolve(KernelRun("deberta-v3-small", ("seed=7",), "deberta"), tmp_path / "new")
    assert (config.model.backbone, config.seed) == (str(new), 7)
    with pytest.raises(InputError, match="found 0"):
        inputs.find_backbone("albert", tmp_path / "new")
    with pytest.raises(InputError, match="found 2"):
        inputs.find_backbone("deberta", tmp_path)


def test_the_competitions_file_is_the_one_in_its_folder(tmp_path):
    for name in ("other", f"competitions/{DEFAULT}"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.csv").touch()
    found = inputs.find_competition_file("train.csv", tmp_path, DEFAULT)
    assert found == tmp_path / "competitions" / DEFAULT / "train.csv"
    with pytest.raises(InputError, match=r"no test\.csv in a folder") as caught:
        inputs.find_competition_file("test.csv", tmp_path, DEFAULT)
    assert "other/train.csv" in str(caught.value)


def test_the_modules_of_a_backbone_are_part_of_it(tmp_path):
    outer = tmp_path / "minilm"
    for folder in (outer, outer / "minilm", tmp_path / "minilm-2"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "artifact" / "minilm").mkdir(parents=True)
    (tmp_path / "artifact" / "artifact.json").write_text("{}")
    (tmp_path / "artifact" / "minilm" / "modules.json").write_text("[]")
    assert inputs.find_backbone("minilm", tmp_path) == outer
    assert inputs.find_backbones(tmp_path) == [outer, tmp_path / "minilm-2", outer / "minilm"]


def test_packed_weights_are_checked(tmp_path):
    inputs.check_weights(tmp_path)  # without a manifest nothing is known
    weights, marker = tmp_path / "model.safetensors", tmp_path / WEIGHTS_MARKER
    weights.write_bytes(b"abc")
    entry = {"name": weights.name, "bytes": 3, "sha256": sha256(weights)}
    write_json(marker, {"files": [entry]})
    inputs.check_weights(tmp_path)
    inputs.check_weights(tmp_path, sha256(marker))
    with pytest.raises(InputError, match="expected the manifest with SHA-256 abc, got "):
        inputs.check_weights(tmp_path, "abc")
    weights.write_bytes(b"abd")
    with pytest.raises(InputError, match=r"model\.safetensors: not the file that"):
        inputs.check_weights(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: listed in .* but missing"):
        inputs.check_weights(tmp_path)


def test_nltk_looks_into_the_wheel_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("NLTK_DATA", "before")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_text("{}")
    inputs.use_nltk_data(tmp_path)
    assert os.environ["NLTK_DATA"] == "before"
    (tmp_path / "b" / "nltk_data").mkdir()
    inputs.use_nltk_data(tmp_path)
    assert os.environ["NLTK_DATA"] == str(tmp_path / "b" / "nltk_data")
