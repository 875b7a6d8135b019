"""The embedding family: its head, its artifact, and what it takes from the encoder."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("torch")

from humanpref.config import load_config
from humanpref.data import labels_of, read_pairs, swap_pairs
from humanpref.models import build_model, load_model, sentence
from humanpref.models.embedding import principal_components
from humanpref.models.pair_vectors import PairVectors
from humanpref.models.sentence_windows import Passage
from humanpref.runs import train as experiment
from humanpref.schema import InputError


def config_with(folder, *overrides):
    few = ["model.embedding_penalties=[100, 10]", "model.structure_penalties=100"]
    return load_config("embedding", overrides=[f"model.backbone={folder}", *few, *overrides])


@pytest.fixture(scope="module")
def model(sentence_encoder, pairs):
    return build_model(config_with(sentence_encoder)).fit(pairs, labels_of(pairs))


@pytest.fixture(scope="module")
def neural(sentence_encoder, pairs):
    config = config_with(sentence_encoder, "model.head=mlp", "model.hidden=8")
    return build_model(config).fit(pairs, labels_of(pairs))


@pytest.fixture(autouse=True)
def _no_memo():
    sentence.memo.clear()


@pytest.mark.parametrize("head", ["model", "neural"])
def test_swapping_is_exact(head, request, pairs):
    model = request.getfixturevalue(head)
    made = model.predict_proba(pairs)
    sentence.memo.clear()
    np.testing.assert_allclose(
        model.predict_proba(swap_pairs(pairs))[:, [1, 0, 2]], made, atol=1e-6
    )


def test_it_learns_what_the_texts_say(sentence_encoder, write_csv):
    # Equal lengths and words of one length: nothing but the embeddings tells the answers apart.
    rng = np.random.default_rng(0)
    rows = [
        [
            [f"{rng.integers(9_999):04d}"],
            [f"{q} {rng.integers(999):03d}"],
            [f"{r} {rng.integers(999):03d}"],
            c,
        ]
        for _ in range(30)
        for q, r, c in (("good", "evil", 0), ("evil", "good", 1))
    ]
    pairs = read_pairs(write_csv(rows), labels=True)
    model = build_model(config_with(sentence_encoder, "model.embedding_penalties=1")).fit(
        pairs[:40], labels_of(pairs[:40])
    )
    found = model.predict_proba(pairs[40:].reset_index(drop=True))
    assert (found.argmax(axis=1) == labels_of(pairs)[40:].argmax(axis=1)).mean() > 0.9


def test_the_neural_head(neural, model, pairs, tmp_path):
    assert 1 <= neural.report_["steps"] <= 300
    assert 0.8 < neural.report_["inner_log_loss"] < 1.3
    few = pairs[:20].reset_index(drop=True)
    made = neural.predict_proba(few)
    assert np.abs(made - model.predict_proba(few)).max() > 1e-3
    neural.save(tmp_path)
    np.testing.assert_allclose(load_model(tmp_path).predict_proba(few), made, atol=1e-6)
    values = load_file(tmp_path / "model.safetensors")
    save_file(values | {"b": values["b"][:-1]}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"weight b: expected shape \(8,\), got \(7,\)"):
        load_model(tmp_path)


@pytest.mark.slow
def test_the_instructions_travel_with_the_model(sentence_encoder, pairs, tmp_path):
    folder = shutil.copytree(sentence_encoder, tmp_path / "encoder")
    named = folder / "config_sentence_transformers.json"
    named.write_text(json.dumps({"prompts": {"query": "Find: ", "document": ""}}))
    few = pairs[:20].reset_index(drop=True)
    options = ("model.prompt_instruction=query", "model.response_instruction=document")
    instructed, plain = (
        build_model(config_with(folder, *own)).fit(few, labels_of(few)) for own in (options, ())
    )
    assert instructed.report_["backbone"]["instructions"] == {"prompt": "Find: ", "response": ""}
    made = instructed.predict_proba(few)
    assert np.abs(made - plain.predict_proba(few)).max() > 1e-4
    instructed.save(tmp_path / "model")
    named.write_text(json.dumps({"prompts": {"query": "Look: ", "document": ""}}))
    sentence.memo.clear()
    np.testing.assert_allclose(load_model(tmp_path / "model").predict_proba(few), made, atol=1e-6)


def test_another_instruction_than_in_training_is_refused(sentence_encoder, pairs, tmp_path):
    folder = shutil.copytree(sentence_encoder, tmp_path / "encoder")
    named = folder / "config_sentence_transformers.json"
    named.write_text(json.dumps({"prompts": {"query": "Find: "}}))
    few = pairs[:20].reset_index(drop=True)
    options = ("model.prompt_instruction=query", "model.keep_backbone=false")
    model = build_model(config_with(folder, *options)).fit(few, labels_of(few))
    model.save(tmp_path / "model")
    named.write_text(json.dumps({"prompts": {"query": "Look: "}}))
    with pytest.raises(InputError, match="settings differ from those used in training"):
        load_model(tmp_path / "model")


def test_principal_components():
    rng = np.random.default_rng(0)
    sides = rng.normal(size=(3, 50, 4)) * [1, 3, 0.1, 2] + 5
    center, basis = principal_components(
        PairVectors(*sides, *[None] * 2), 2, np.ones(len(sides[0]))
    )
    made = (sides.reshape(-1, 4) - center) @ basis
    np.testing.assert_allclose(made.mean(axis=0), 0, atol=1e-12)
    covariance = made.T @ made / len(made)
    assert abs(covariance[0, 1]) < 1e-9
    assert covariance[0, 0] > covariance[1, 1] > 0.3
    assert (made**2).mean() == pytest.approx(1)
    twice = np.concatenate([sides, sides[:, :10]], axis=1)
    weights = np.where(np.arange(50) < 10, 2.0, 1.0)
    for one, other in zip(
        principal_components(PairVectors(*twice, *[None] * 2), 2, np.ones(60)),
        principal_components(PairVectors(*sides, *[None] * 2), 2, weights),
        strict=True,
    ):
        np.testing.assert_allclose(np.abs(one), np.abs(other), atol=1e-9)
    assert principal_components(PairVectors(*sides, *[None] * 2), 99, np.ones(50))[1].shape == (
        4,
        4,
    )


@pytest.mark.parametrize(
    ("change", "message"), [("missing", "lacks 1 weight"), ("changed", "settings differ")]
)
def test_a_kept_backbone_is_loaded_strictly(model, change, message, tmp_path):
    model.save(tmp_path)
    path = tmp_path / "backbone" / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    if change == "missing":
        weights.pop(name)
    else:
        weights[name] = weights[name] + 0.1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"backbone .*{message}"):
        load_model(tmp_path)


def test_without_the_backbone_it_is_found_where_it_was(sentence_encoder, pairs, tmp_path):
    folder = shutil.copytree(sentence_encoder, tmp_path / "encoder")
    config = config_with(folder, "model.keep_backbone=false")
    few = pairs[:20].reset_index(drop=True)
    model = build_model(config).fit(few, labels_of(few))
    model.save(tmp_path / "model")
    assert not (tmp_path / "model" / "backbone").exists()
    np.testing.assert_array_equal(
        load_model(tmp_path / "model").predict_proba(few), model.predict_proba(few)
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    with pytest.raises(
        InputError, match="weights, tokens or settings differ from those used in training"
    ):
        load_model(tmp_path / "model")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"backbone ./encoder: not found; set HUMANPREF_BASE"):
        load_model(tmp_path / "model")


@pytest.mark.slow
def test_fold_models_embed_each_text_once_and_share_one_backbone(
    sentence_encoder, arena, pairs, tmp_path, monkeypatch
):
    seen = []
    keep = sentence.Memo.keep

    def spy(self, text, windows):
        seen.append(text)
        keep(self, text, windows)

    monkeypatch.setattr(sentence.Memo, "keep", spy)
    monkeypatch.setattr("humanpref.files.SHARED_BYTES", 1_000)
    artifact = experiment.train(
        config_with(sentence_encoder), arena / "train.csv", tmp_path / "out", folds=2
    )
    assert len(seen) == len(set(seen)) > len(pairs)
    first, second = (
        artifact.folder / f"fold-{fold}" / "backbone" / "model.safetensors" for fold in range(2)
    )
    assert first.samefile(second)
    heads = [artifact.folder / f"fold-{fold}" / "model.safetensors" for fold in range(2)]
    assert not heads[0].samefile(heads[1])
    assert artifact.facts["backbone"]["name"] == "tiny-encoder"
    one, other = artifact.models
    assert one.encoder_ is other.encoder_
    # Each member stays whole by itself.
    shutil.rmtree(artifact.folder / "fold-0")
    assert load_model(artifact.folder / "fold-1").predict_proba(pairs[:3]).shape == (3, 3)


def test_without_torch_it_says_what_to_install():
    # While scipy.stats is imported, newer versions ask torch, if there is an entry for it.
    code = (
        "import sys, scipy.stats; sys.modules['torch'] = None\n"
        "from humanpref.config import load_config\n"
        "from humanpref.models import build_model\n"
        "build_model(load_config('embedding'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError: family embedding needs torch: pip install " in done.stderr


def test_rows_that_do_not_fit_into_the_windows_are_said_to_be_cut(model, pairs):
    # 24 tokens a window, of which 22 are the text's, and four windows.
    fits, longer = (" ".join(["a"] * words) for words in (88, 89))
    assert model.encoder_.is_cut([Passage(fits), Passage(longer)], 4).tolist() == [False, True]
    texts = {"prompt": [("a",)] * 3, "response_a": [("a",)] * 3, "response_b": [("a",)] * 3}
    for side in texts:
        rows = pairs[:3].assign(**texts | {side: [(fits,), ("a", longer), ("a",)]})
        assert model.cut_rows(rows).tolist() == [False, True, False]
