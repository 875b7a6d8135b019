"""Artifacts and backbones are found wherever Kaggle mounts them."""

import pytest

from humanpref.kaggle.contract import KernelRun
from humanpref.kaggle.runtime import inputs
from humanpref.kaggle.runtime.train import resolve
from humanpref.schema import InputError


def test_which_folders_are_artifacts(tmp_path):
    for name in ("k/artifact", "k/artifact/fold-0", "k/b.partial", "d/deep/er/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "artifact.json").write_text("{}")
    (tmp_path / "again").symlink_to(tmp_path / "k")  # the same mount under a second path
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
