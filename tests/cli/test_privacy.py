"""Artifacts and bundles say nothing of the folders in which they were made."""

import json
import shlex
import shutil
import sys

import pytest

SECRET = "tell-tale"
QUICK = {
    "sparse": ("model.term_penalties=10", "model.structure_penalties=100"),
    "embedding": ("model.embedding_penalties=10", "model.keep_backbone=false"),
    "cpu-best": ("model.members=['embedding', 'prior']",),
    "cpu-best of members": (),
    "llama-3.2-1b-lora": ("training.epochs=1", "model.max_length=256"),
}


@pytest.mark.parametrize(
    "preset", ["sparse", *(pytest.param(p, marks=pytest.mark.slow) for p in [*QUICK][1:])]
)
def test_no_file_names_the_folder(run, arena, tmp_path, preset, request, monkeypatch):
    home = tmp_path / SECRET
    home.mkdir()
    for name in ("train", "test"):
        (home / f"{name}.csv").write_bytes((arena / f"{name}.csv").read_bytes())
    settings = list(QUICK[preset])
    if preset != "sparse":
        pytest.importorskip("torch")
        of_decoder = preset.startswith("llama")
        fixture = request.getfixturevalue("decoder_folder" if of_decoder else "sentence_encoder")
        base = fixture() if of_decoder else fixture
        folder = home / "a folder" / "base"
        shutil.copytree(base, folder)
        settings.append(f"model.backbone={folder}")
        if preset.endswith("members"):
            member = f"embedding model.keep_backbone=false {shlex.quote(settings[0])}"
            settings = [f"model.members={json.dumps([member, 'prior'])}"]
    artifact = home / "artifact"
    train = ["train", "--preset", preset.split()[0], "--train", home / "train.csv"]
    train += ["--out", artifact]
    monkeypatch.setattr(sys, "argv", ["/home/humanpref", *map(str, train), "--set", *settings])
    assert run(*train, "--set", *settings)[0] == 0
    found = [path for path in artifact.rglob("*") if path.is_file()]
    assert [path.name for path in found if SECRET.encode() in path.read_bytes()] == []
    facts = json.loads((artifact / "artifact.json").read_text())
    last = facts["command"][-1]
    assert "model.backbone=./base" in last or last == "model.structure_penalties=100"
    assert facts["command"][0] == "humanpref"
    assert "train.csv" in facts["command"]
    # It is still found, since the user's cache knows where it is.
    moved = tmp_path / "moved"
    artifact.rename(moved)
    predict = ["predict", moved, "--test", home / "test.csv", "--out", tmp_path / "s.csv"]
    assert run(*predict)[0] == 0


def test_a_bundle_has_nothing_of_it_either(run, arena, tmp_path):
    home = tmp_path / SECRET
    home.mkdir()
    artifact, bundle = home / "artifact", home / "bundle"
    train = ["train", "--preset", "prior", "--train", arena / "train.csv", "--out", artifact]
    assert run(*train)[0] == 0
    assert run("kaggle", "bundle", "--artifact", artifact, "--out", bundle)[0] == 0
    found = [path for path in bundle.rglob("*") if path.is_file()]
    assert len(found) > 5
    assert [path for path in found if SECRET.encode() in path.read_bytes()] == []
