"""The way of a pretrained encoder: from a folder, through fine-tuning, to strict loading; and
folders that are none."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AutoModel,
    BartConfig,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    RobertaConfig,
)

from humanpref.config import load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.models import build_model, encoder, hidden, load_model, sparse
from humanpref.models.backbone import load_backbone
from humanpref.models.encoder import EncoderModel
from humanpref.models.pretrained import load_tokenizer
from humanpref.models.scratch import train_tokenizer
from humanpref.schema import InputError
from humanpref.text.format import A, B

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def tokenizer(pairs):
    return train_tokenizer([turn for turns in pairs["prompt"] for turn in turns], 400)


@pytest.fixture(scope="module")
def folder_of(tokenizer, tmp_path_factory):
    """Save a tiny random model of a configuration, with a tokenizer, as a publisher would."""

    def save(config, kind=None, tokens=True):
        folder = tmp_path_factory.mktemp("backbone") / config.model_type
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        torch.manual_seed(0)
        (kind(config) if kind else AutoModel.from_config(config)).save_pretrained(folder)
        if tokens:
            tokenizer.save_pretrained(folder)
        return folder

    return save


def config_with(folder, *overrides):
    settings = [
        f"model.backbone={folder}",
        "model.max_length=40",
        "training.epochs=1",
        "training.learning_rate=1e-3",
        *overrides,
    ]
    return load_config("deberta-v3-small", overrides=settings)


DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
ENCODERS = {
    "deberta": lambda: (DebertaV2Config(**TINY, **DEBERTA), DebertaV2ForSequenceClassification),
    "bert": lambda: (BertConfig(**TINY), BertForSequenceClassification),
    "albert": lambda: (AlbertConfig(**TINY, embedding_size=16), None),
    "roberta": lambda: (RobertaConfig(**TINY), None),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_fine_tuning_from_a_folder(name, folder_of, pairs, tmp_path):
    folder = folder_of(*ENCODERS[name]())
    few = pairs[:40].reset_index(drop=True)
    model = build_model(config_with(folder)).fit(few, labels_of(few))
    started = load_backbone(str(folder)).state_dict()
    ended = model.module_.backbone.state_dict()
    moved = {key for key in ended if not torch.equal(ended[key], started[key])}
    assert moved == {
        key for key in ended if ended[key].is_floating_point()
    }  # every weight is trained, none is left over
    model.save(tmp_path)
    np.testing.assert_allclose(
        load_model(tmp_path).predict_proba(few), model.predict_proba(few), atol=1e-6
    )
    facts = model.report_["backbone"]
    assert (facts["name"], facts["layers"], facts["hidden_size"]) == (folder.name, 1, 16)
    assert str(folder.parent) not in json.dumps(facts)


@pytest.fixture(scope="module")
def saved(folder_of, pairs, tmp_path_factory):
    few = pairs[:8].reset_index(drop=True)
    model = build_model(config_with(folder_of(*ENCODERS["bert"]()))).fit(few, labels_of(few))
    model.save(folder := tmp_path_factory.mktemp("saved") / "m")
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", 5),
        ("hidden_act", "boom"),
        ("pad_token_id", 10**9),
        ("return_dict", False),
        ("dtype", "float77"),
        ("num_hidden_layers", 10**7),
        ("num_attention_heads", 0),
        ("hidden_size", 10**7),
        ("vocab_size", 10**8),
        ("max_position_embeddings", 10**9),
    ],
)
def test_a_saved_configuration_that_is_hostile_is_refused(saved, tmp_path, key, value):
    """In one line, before anything fills the memory."""
    folder = shutil.copytree(saved, tmp_path / "m")
    path = folder / "backbone" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=r"cannot be (loaded|used)") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_predict_nothing_are_refused(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    full = {name: torch.full_like(tensor, 3e38) for name, tensor in state.items()}
    save_file(full, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"cannot be used.*expected probabilities, got \[\[nan"):
        load_model(folder)


@pytest.mark.parametrize("name", ["deberta", "albert"])
def test_frozen_embeddings_are_in_the_artifact(name, folder_of, pairs, tmp_path):
    folder = folder_of(*ENCODERS[name]())
    few = pairs[:20].reset_index(drop=True)
    config = config_with(folder, "training.freeze_embeddings=true")
    model = build_model(config).fit(few, labels_of(few))
    started = load_backbone(str(folder)).state_dict()
    ended = model.module_.backbone.state_dict()
    kept = {key for key in ended if torch.equal(ended[key], started[key])}
    assert kept == {"embeddings.word_embeddings.weight"} | {
        key for key in ended if not ended[key].is_floating_point()
    }
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_proba(few), model.predict_proba(few))


def test_the_pretrained_weights_are_really_used(folder_of, pairs):
    folder = folder_of(*ENCODERS["deberta"]())
    saved = load_file(folder / "model.safetensors")
    loaded = load_backbone(str(folder)).state_dict()
    assert torch.equal(
        loaded["embeddings.word_embeddings.weight"],
        saved["deberta.embeddings.word_embeddings.weight"],
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such model here"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights, expected one of"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99),
            "an incomplete safetensors file",
        ),
        (lambda folder: [path.unlink() for path in folder.glob("*token*")], "tokenizer"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "config.json: expected a JSON object",
        ),
        (
            lambda folder: drop(folder, "encoder.layer.0.attention.self.query_proj.weight"),
            "lacks 1 weight .*query_proj",
        ),
        (lambda folder: reshape(folder), "cannot be loaded"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(spoil, message, folder_of, pairs):
    folder = folder_of(ENCODERS["deberta"]()[0])
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        build_model(config_with(folder)).fit(pairs, labels_of(pairs))
    assert str(folder) in str(caught.value)


def drop(folder, name):
    state = load_file(folder / "model.safetensors")
    del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def reshape(folder):
    state = load_file(folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"] = torch.zeros(7, 16)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: LlamaConfig(**TINY, num_key_value_heads=2),
            "not an encoder, because its first token does not see the last token",
        ),
        (
            lambda: BartConfig(
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
            ),
            "a bart model has both an encoder",
        ),
    ],
)
def test_what_is_not_an_encoder_is_refused(config, message, folder_of, pairs):
    with pytest.raises(InputError, match=message):
        build_model(config_with(folder_of(config()))).fit(pairs, labels_of(pairs))


@pytest.mark.parametrize(("name", "longest"), [("bert", 64), ("roberta", 63)])
def test_a_length_beyond_absolute_positions_is_refused(name, longest, folder_of, pairs):
    folder, few = folder_of(*ENCODERS[name]()), pairs[:20].reset_index(drop=True)
    with pytest.raises(
        InputError, match=f"max_length: backbone .* cannot read {longest + 1} tokens"
    ):
        build_model(config_with(folder, f"model.max_length={longest + 1}")).fit(few, labels_of(few))
    build_model(config_with(folder, f"model.max_length={longest}")).fit(few, labels_of(few))


def test_more_tokens_than_embeddings_are_refused(folder_of, pairs, tokenizer):
    folder = folder_of(ENCODERS["bert"]()[0])
    larger = load_tokenizer(str(folder))
    larger.add_tokens(["brandnew"])
    larger.save_pretrained(folder)
    with pytest.raises(
        InputError, match=r"its tokenizer has a token \d+ \(brandnew\), but its model has only"
    ):
        build_model(config_with(folder)).fit(pairs, labels_of(pairs))


def test_branches_stand_side_by_side(pairs, tokenizer):
    model = EncoderModel.from_config(load_config("tiny", overrides=["model.max_length=30"]))
    model.tokenizer_ = tokenizer
    config = DebertaV2Config(type_vocab_size=2)
    model.module_ = SimpleNamespace(backbone=SimpleNamespace(config=config))
    inputs = model.inputs(pairs)
    batch = inputs(np.array([3, 1]))
    ids, mask, types = (
        batch[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    for i, row in enumerate((3, 1)):
        for j, column in enumerate(("response_a", "response_b")):
            text = tokenizer.decode(ids[i, j][mask[i, j] == 1][types[i, j][mask[i, j] == 1] == 1])
            start = "".join(pairs[column][row]).strip()[:12]
            assert text.strip().startswith(start[:12]) or not start
        assert (ids[i][mask[i] == 0] == tokenizer.pad_token_id).all()
    assert ids.shape[2] == inputs.lengths[[3, 1]].max() // 2
    assert mask.sum(axis=2).max() == ids.shape[2]


@pytest.mark.slow
@pytest.mark.parametrize("offset", ["none", "structure"])
def test_swap_augmentation_of_dual_inputs_is_learning_from_both_orders(offset, pairs, folder_of):
    folder = folder_of(
        DebertaV2Config(
            **TINY, **DEBERTA, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
    )
    few = pairs[:6].reset_index(drop=True)
    mirrored = swap_pairs(few).assign(id=[f"mirrored {row}" for row in few["id"]])
    doubled, both = (
        pd.concat([few, mirrored], ignore_index=True),
        np.concatenate([labels_of(few), labels_of(mirrored)]),
    )
    weights = np.arange(1.0, 7)

    def learned(rows, labels, weights, *overrides):
        # Three steps over all rows, so that chance has no say.
        settings = (
            "training.epochs=3",
            "training.batch_size=12",
            "training.warmup=0",
            f"model.offset={offset}",
        )
        model = EncoderModel.from_config(config_with(folder, *settings, *overrides))
        return model.fit(rows, labels, weights, validation=(few, labels_of(few)))

    augmented = learned(few, labels_of(few), weights, "training.swap_augmentation=true")
    twice = learned(doubled, both, np.tile(weights, 2))
    plain = learned(few, labels_of(few), weights)
    made, expected, other = (model.predict_proba(pairs) for model in (augmented, twice, plain))
    if offset == "none":
        np.testing.assert_allclose(made, expected, atol=1e-5)
        assert np.abs(made - other).max() > 1e-3
    assert [augmented.report_["training"][name] for name in ("steps", "tokens")] == [
        plain.report_["training"][name] for name in ("steps", "tokens")
    ]
    np.testing.assert_allclose(made.sum(axis=1), 1)


def test_swap_augmentation_mirrors_rows_and_labels(pairs, monkeypatch):
    seen = {}

    def spy(module, examples, *rest):
        seen.update(examples._asdict())
        return {"epochs": []}

    monkeypatch.setattr("humanpref.models.neural.train", spy)
    few = pairs[:10].reset_index(drop=True)
    weights = np.arange(1.0, 11)
    joint = load_config("tiny", overrides=["model.inputs=joint"])
    EncoderModel.from_config(joint).fit(few, labels_of(few), weights)
    np.testing.assert_array_equal(seen["labels"][10:], labels_of(few)[:, [1, 0, 2]])
    np.testing.assert_array_equal(seen["weights"], np.tile(weights, 2))
    (first,), (mirrored,) = (seen["collate"].sequences[row] for row in (4, 14))
    np.testing.assert_array_equal(first.ids[first.parts == A], mirrored.ids[mirrored.parts == B])
    np.testing.assert_array_equal(first.ids[first.parts == B], mirrored.ids[mirrored.parts == A])
    assert not np.array_equal(first.ids, mirrored.ids)


@pytest.mark.slow
def test_the_offset_is_learned_on_other_rows_and_added_to_the_logits(
    pairs, folder_of, monkeypatch, tmp_path
):
    folder, pairs = folder_of(*ENCODERS["deberta"]()), pairs[:40].reset_index(drop=True)
    learned = []
    fit = sparse.SparseModel.fit
    monkeypatch.setattr(
        sparse.SparseModel,
        "fit",
        lambda self, rows, *rest: learned.append(set(rows["id"])) or fit(self, rows, *rest),
    )
    seen = []
    monkeypatch.setattr(
        "humanpref.models.neural.train",
        lambda module, examples, *_: seen.append(examples.collate) or {"epochs": []},
    )
    overrides = (
        "model.offset=structure",
        "model.zero_start=true",
        "training.swap_augmentation=true",
    )
    model = EncoderModel.from_config(config_with(folder, *overrides)).fit(pairs, labels_of(pairs))
    # With a head that says nothing, the encoder is the sparse model, in either order.
    np.testing.assert_allclose(
        model.predict_proba(pairs), model.offset_.predict_proba(pairs), atol=1e-6
    )
    model.set_params(inference=dataclasses.replace(model.inference, swap_average=True))
    np.testing.assert_allclose(
        model.predict_proba(pairs), model.offset_.predict_proba(pairs), atol=1e-6
    )
    # Each training row's offset comes from a model without it.
    assert [len(rows) == len(pairs) for rows in learned] == [True] + [False] * encoder.OFFSET_FOLDS
    assert set.intersection(*learned[1:]) == set()
    own = np.log(model.offset_.predict_proba(pairs))
    assert np.abs(seen[0].per_row["offset"] - (own - own.mean(axis=1, keepdims=True))).max() > 1e-3
    model.save(tmp_path / "m")
    np.testing.assert_allclose(
        load_model(tmp_path / "m").predict_proba(pairs), model.predict_proba(pairs), atol=1e-6
    )


@pytest.mark.parametrize("name", ["deberta", "bert"])
def test_sequences_read_by_length_give_what_they_give_together(name, folder_of, monkeypatch):
    backbone = load_backbone(str(folder_of(*ENCODERS[name]()))).eval()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 17, 1, 32, 9, 30, 0])
    mask = (torch.arange(32) < lengths[:, None]).long()
    ids = torch.randint(5, 100, mask.shape, generator=generator) * mask
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.inference_mode():
        together = backbone(**inputs).last_hidden_state
        monkeypatch.setitem(hidden.BACKBONE_TOKENS, False, 40)
        apart = hidden.hidden_states(
            lambda **part: backbone(**part).last_hidden_state, inputs, lengths.numpy()
        )
    assert apart.shape == together.shape
    torch.testing.assert_close(apart[mask.bool()], together[mask.bool()], atol=1e-5, rtol=0)
    assert (apart[0, 4:] == 0).all()
