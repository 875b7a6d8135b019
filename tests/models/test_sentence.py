"""The frozen encoder: windows and their vectors, the digest, and that it computes nothing twice."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from humanpref.models import sentence
from humanpref.models.sentence import FrozenEncoder, load_frozen
from humanpref.models.sentence_folder import SentenceModule
from humanpref.models.sentence_windows import Passage, split
from humanpref.schema import InputError

TEXTS = [
    "What is the tallest mountain?",
    "",
    "b",
    "Count to ten: " + "one two three four " * 20,
    "  \n",
]


@pytest.fixture
def encoder(sentence_encoder):
    sentence.memo.clear()
    return FrozenEncoder(str(sentence_encoder))


def embed(encoder, texts, max_windows=4, batch_tokens=512):
    found = encoder.embed(map(Passage, texts), max_windows, batch_tokens, "no")
    return {passage.text: windows for passage, windows in found.items()}


def test_vectors_are_those_of_the_encoder_alone(encoder, sentence_encoder):
    found = embed(encoder, TEXTS)
    model, tokenizer = (
        AutoModel.from_pretrained(sentence_encoder),
        AutoTokenizer.from_pretrained(sentence_encoder),
    )
    for text in (TEXTS[0], TEXTS[2]):  # which fit into one window
        with torch.inference_mode():
            hidden = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = hidden.mean(dim=0).numpy()
        np.testing.assert_allclose(found[text].vectors, [mean / np.linalg.norm(mean)], atol=1e-5)
    assert found[TEXTS[0]].tokens == len(tokenizer(TEXTS[0]).input_ids) - 2


def test_a_long_text_is_its_windows(encoder):
    text, tokenizer = TEXTS[3], encoder.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = split(ids, 22, 4)
    found = embed(encoder, TEXTS)[text]
    np.testing.assert_array_equal(found.tokens, [len(piece) for piece in pieces])
    for vector, piece in zip(found.vectors, pieces, strict=True):
        with torch.inference_mode():
            whole = torch.tensor([[tokenizer.cls_token_id, *piece, tokenizer.sep_token_id]])
            alone = encoder.module(whole, torch.ones_like(whole))[0].numpy()
        np.testing.assert_allclose(vector, alone, atol=1e-5)


def test_batches_and_order_change_nothing(encoder, pairs):
    texts = [
        turn
        for column in ("prompt", "response_a")
        for turns in pairs[column][:12]
        for turn in turns
    ]
    together = embed(encoder, texts, batch_tokens=4_000)
    for order, batch_tokens in ((texts, 1), (texts[::-1], 100)):
        sentence.memo.clear()
        again = embed(encoder, order, batch_tokens=batch_tokens)
        assert again.keys() == together.keys()
        for text, windows in together.items():
            np.testing.assert_allclose(again[text].vectors, windows.vectors, atol=1e-5)
    sentence.memo.clear()
    exact = embed(encoder, texts[::-1], batch_tokens=4_000)
    assert all(np.array_equal(exact[text].vectors, together[text].vectors) for text in together)


def test_every_text_is_embedded_once(encoder, sentence_encoder, monkeypatch):
    other = FrozenEncoder(str(sentence_encoder))  # as another fold's model would have it
    rows = []
    forward = SentenceModule.forward

    def spy(self, input_ids, attention_mask):
        rows.append(len(input_ids))
        return forward(self, input_ids, attention_mask)

    monkeypatch.setattr(SentenceModule, "forward", spy)
    first = embed(encoder, ["a", "b", "a", "", "b"])
    assert sum(rows) == 2
    again = embed(other, ["c", "a"])
    assert sum(rows) == 3
    np.testing.assert_array_equal(again["a"].vectors, first["a"].vectors)
    embed(other, ["a"], max_windows=2)  # other options, other vectors
    assert sum(rows) == 4


def test_the_memo_has_an_end(encoder, monkeypatch):
    monkeypatch.setattr(sentence, "MEMO_BYTES", 1_000)
    found = embed(encoder, [f"text {i}" for i in range(50)])
    assert len(found) == 50
    assert 0 < len(sentence.memo.windows) < 20
    assert sentence.memo.bytes <= 1_000


def test_an_empty_text_is_a_zero_vector(encoder):
    for others in ([], ["something"]):
        found = embed(encoder, ["", *others])[""]
        np.testing.assert_array_equal(found.vectors, np.zeros((1, 16)))
        assert found.tokens.sum() > 0
    assert embed(encoder, []) == {}


def test_a_text_that_spells_a_special_token_is_read_as_plain_characters(encoder):
    assert embed(encoder, ["[SEP]"])["[SEP]"].tokens.sum() > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("config.json", {"layer_norm_eps": 0.1}),
        ("config.json", {"hidden_act": "relu"}),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
        (
            "tokenizer.json",
            {
                "post_processor": {
                    "type": "BertProcessing",
                    "sep": ["[SEP]", 2],
                    "cls": ["[SEP]", 2],
                }
            },
        ),
    ],
)
def test_the_digest_covers_all_that_changes_the_vectors(changed, encoder, path, values):
    assert FrozenEncoder(changed(path, **values)).digest != encoder.digest


def test_lower_case_where_the_folder_says_so(changed):
    encoder = FrozenEncoder(changed("sentence_bert_config.json", do_lower_case=True))
    found = embed(encoder, ["Hello There", "hello there"])
    np.testing.assert_array_equal(found["Hello There"].vectors, found["hello there"].vectors)


def test_saved_and_loaded(encoder, tmp_path):
    encoder.save(tmp_path)
    again = FrozenEncoder(str(tmp_path))
    assert (again.digest, again.settings) == (encoder.digest, encoder.settings)
    before = embed(encoder, TEXTS)
    sentence.memo.clear()
    for text, windows in embed(again, TEXTS).items():
        np.testing.assert_array_equal(windows.vectors, before[text].vectors)


def test_equal_encoders_are_one_in_memory(sentence_encoder, changed):
    first = load_frozen(str(sentence_encoder))
    assert load_frozen(str(sentence_encoder)) is first
    assert load_frozen(changed("sentence_bert_config.json", max_seq_length=23)) is not first


def test_another_encoder_than_expected_is_refused(encoder, changed):
    with pytest.raises(InputError, match="weights, tokens or settings differ"):
        load_frozen(changed("sentence_bert_config.json", max_seq_length=20), digest=encoder.digest)
    folder = changed("sentence_bert_config.json", max_seq_length=24)
    path = f"{folder}/model.safetensors"
    weights = load_file(path)
    save_file(
        weights | {"embeddings.LayerNorm.bias": weights["embeddings.LayerNorm.bias"] + 1e-3},
        path,
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match="weights, tokens or settings differ"):
        load_frozen(folder, digest=encoder.digest)
    weights.pop("embeddings.LayerNorm.bias")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weight"):
        load_frozen(folder)


def test_a_folder_that_is_not_there_or_cannot_read_so_much(sentence_encoder, tmp_path):
    with pytest.raises(InputError, match=r"no such model here: --set model\.backbone=FOLDER"):
        FrozenEncoder(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"model\.max_length: .* cannot read 65 tokens"):
        FrozenEncoder(str(sentence_encoder), max_length=65)
