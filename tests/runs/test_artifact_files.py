"""The files of an artifact: damage is told, whichever file it is in; nothing from outside comes in;
white space, the order of keys and file times do not matter."""

import json
import os
import pickle
import shutil

import pytest

from humanpref.config import load_config
from humanpref.files import read_json
from humanpref.runs import artifact_files
from humanpref.runs.artifact import Artifact, load_model
from humanpref.runs.artifact_files import content_digest, copy_files, files_in, seal
from humanpref.runs.blending import blend
from humanpref.runs.budget import Budget
from humanpref.runs.engine import outcomes
from humanpref.runs.ensemble import Leaf
from humanpref.runs.train import train
from humanpref.runs.workers import Job
from humanpref.schema import InputError
from humanpref.text.token_memo import TokenMemos

DAMAGED = "damaged or changed since it was written"


@pytest.fixture(scope="module")
def trained(arena, tmp_path_factory):
    return train(
        load_config("prior"), arena / "train.csv", tmp_path_factory.mktemp("files") / "a", folds=2
    )


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained.folder, tmp_path / "a")


def used(folder):
    """Read all of an artifact."""
    artifact = Artifact.load(folder)
    return artifact.metrics, len(artifact.rows), len(artifact.oof), artifact.models


def test_every_file_is_listed(folder):
    digests = read_json(folder / "artifact.json")["digests"]
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert digests.keys() == files
    assert "fold-1/model.safetensors" in files


@pytest.mark.parametrize("bit", [0, 6])
def test_a_flipped_bit_in_any_file_is_told(folder, bit):
    """The size and the times of the file stay as they are."""
    used(folder)
    for name in read_json(folder / "artifact.json")["digests"].keys() - {"run.json"}:  # unread
        path = folder / name
        whole, stat = path.read_bytes(), path.stat()
        spoiled = bytearray(whole)
        # The first digit, so that most files stay valid, and numbers change.
        place = min((i for i, byte in enumerate(whole) if 48 <= byte < 56), default=-1)
        spoiled[place] ^= 1 << bit
        path.write_bytes(spoiled)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        told = f"{name}: ({DAMAGED}|not valid JSON|expected format 1|damaged, or)"
        with pytest.raises(InputError, match=told) as caught:
            used(folder)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    used(folder)


def test_white_space_the_order_of_keys_and_times_do_not_matter(folder):
    def reordered(value):
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in reversed(value)}
        return list(map(reordered, value)) if isinstance(value, list) else value

    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(reordered(read_json(path)), indent=7))
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    used(folder)


def test_a_value_of_another_type_does_matter(tmp_path):
    path, digests = tmp_path / "v.json", set()
    for value in ("1", "1.0", "true", '"1"', "null", "[1]"):
        path.write_text(f'{{"a": {value}}}')
        digests.add(content_digest(path))
    assert len(digests) == 6
    path.write_text('{"a": 1, "b": 2, "a": 3}')
    with pytest.raises(InputError, match=r"v\.json: not valid JSON \(key 'a' appears twice\)"):
        content_digest(path)


def test_a_missing_and_a_foreign_file(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "fold-0" / ".DS_Store").write_text("hidden")
    used(folder)
    (folder / "fold-0" / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"added_tokens\.json: not a file of this artifact"):
        Artifact.load(folder)
    (folder / "fold-0" / "added_tokens.json").unlink()
    for name in ("oof.csv", "fold-1/config.json"):
        (folder / name).rename(folder / "away")
        with pytest.raises(InputError, match=f"{name}: missing, but listed in artifact.json"):
            Artifact.load(folder)
        (folder / "away").rename(folder / name)


def test_a_table_that_is_not_listed_is_not_read(arena, trained, tmp_path):
    whole = load_config("prior", overrides=["training.validation_fraction=0"])
    artifact = train(whole, arena / "train.csv", tmp_path / "whole")
    shutil.copy(trained.folder / "oof.csv", artifact.folder)
    with pytest.raises(InputError, match=r"has no oof\.csv, since training held nothing out"):
        _ = Artifact.load(artifact.folder).oof


def test_links_that_lead_out(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "id_rsa").write_text("private")
    for link, target in (
        ("fold-0/model.safetensors", secret / "id_rsa"),
        ("notes.txt", secret / "id_rsa"),
        ("notes.txt", "../secret/id_rsa"),
        ("notes.txt", secret / "absent"),
        ("fold-2", secret),
    ):
        copied = shutil.copytree(folder, tmp_path / "copy")
        (copied / link).unlink(missing_ok=True)
        (copied / link).symlink_to(target)
        with pytest.raises(InputError, match=f"{link}: a link that leads out of"):
            Artifact.load(copied)
        shutil.rmtree(copied)


def test_links_within_other_kinds_and_loops(folder):
    held_out = folder / "fold-1" / "oof.csv"
    held_out.unlink()
    held_out.symlink_to("../fold-0/oof.csv")
    with pytest.raises(InputError, match=f"fold-1/oof.csv: {DAMAGED}"):
        used(folder)
    (folder / "again").symlink_to(".")
    with pytest.raises(InputError, match="again: expected a file or a folder"):
        Artifact.load(folder)
    (folder / "again").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="pipe: expected a file or a folder"):
        Artifact.load(folder)


def test_an_artifact_may_itself_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    used(tmp_path / "link")


def test_a_file_is_read_once_per_process_unless_it_changes(folder, monkeypatch):
    monkeypatch.setattr(artifact_files, "_SETTLED_SECONDS", -1)
    read = []
    whole = artifact_files.sha256
    monkeypatch.setattr(artifact_files, "sha256", lambda path: read.append(path) or whole(path))
    for _ in range(3):
        used(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in read)
    folds = [f"fold-{k}/{name}" for k in (0, 1) for name in ("model.safetensors", "oof.csv")]
    assert names == [*folds, "oof.csv", "rows.csv"]
    path = folder / "fold-0" / "model.safetensors"
    stat = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=DAMAGED):
        used(folder)


def test_only_the_main_process_reads_them(folder, monkeypatch):
    (folder / "rows.csv").write_text((folder / "rows.csv").read_text() + "\n")
    monkeypatch.setenv("RANK", "1")
    used(folder)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=f"rows.csv: {DAMAGED}"):
        used(folder)


def test_a_damaged_fold_is_told_before_any_model_is_loaded(folder, pairs, monkeypatch):
    """On the command line; in the kernel it costs only itself."""
    (folder / "fold-1" / "model.safetensors").write_bytes(b"damaged")
    artifact, told = Artifact.load(folder), f"fold-1/model.safetensors: {DAMAGED}"
    found = list(outcomes(artifact.ensemble.leaves(), pairs, Budget(60), keep_going=True))
    judged = {outcome.leaf.folder.name for outcome in found if len(outcome.rows)}
    assert judged == {"fold-0"}
    assert [told in why for *_, why in found if isinstance(why, str)] == [True]
    monkeypatch.setattr(Leaf, "load", None)
    with pytest.raises(InputError, match=told):
        artifact.predict_proba(pairs)


def test_processes_trust_the_one_that_started_them(folder, pairs, monkeypatch):
    """What they are sent is small, and loads the model without reading its files again."""
    job = Job(Artifact.load(folder).ensemble.leaves()[0], pairs[:1], False)
    sent = pickle.loads(pickle.dumps(job))
    sent.leaf.check()
    monkeypatch.setattr(artifact_files, "content_digest", None)
    sent.leaf.load(TokenMemos())


def test_only_own_files_are_copied(folder, arena, tmp_path):
    """Not what lies beside them, and nothing that was changed."""
    (folder / "notes.txt").write_text("mine")
    (folder / "fold-0" / ".hidden").write_text("mine")
    artifact = Artifact.load(folder)
    artifact.copy(tmp_path / "copy")
    used(tmp_path / "copy")
    assert sorted(files_in(tmp_path / "copy")) == sorted(artifact.files)
    artifact.copy(tmp_path / "model", "fold-0")
    assert len(files_in(tmp_path / "model")) == 4
    load_model(tmp_path / "model")
    other = train(
        load_config("sparse", overrides=["model.max_terms=0"]),
        arena / "train.csv",
        tmp_path / "other",
        folds=2,
    )
    blend([folder, other.folder], tmp_path / "blend")
    assert not any(path.name == ".hidden" for path in (tmp_path / "blend").rglob("*"))
    used(tmp_path / "blend")
    (folder / "fold-0" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=DAMAGED):
        Artifact.load(folder).copy(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_sealing_again_is_the_same(folder):
    facts = read_json(folder / "artifact.json")
    seal(folder, facts)
    assert read_json(folder / "artifact.json") == facts


def test_copies_are_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    (tmp_path / "a" / "y").symlink_to("x")
    copy_files(tmp_path / "a", tmp_path / "b", ["x", "y"])
    assert not (tmp_path / "b" / "y").is_symlink()
    assert (tmp_path / "b" / "y").read_text() == "x"
