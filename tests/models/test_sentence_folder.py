"""What a sentence encoder's folder says: its modules, what they make of a text, and what is
refused."""

import functools
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from humanpref.models import sentence
from humanpref.models.backbone import load_backbone
from humanpref.models.sentence import FrozenEncoder
from humanpref.models.sentence_folder import SentenceModule
from humanpref.models.sentence_windows import Passage
from humanpref.schema import InputError

from ..shrunken import save_sentence_folder

TEXTS = ["What is the tallest mountain?", "b", "one two three"]
MEAN = {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}


def add(folder, *modules):
    """Write modules.json: the folder's Transformer and Pooling, then these."""
    kinds = ["Transformer", "Pooling", *modules]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], start=1))]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    return [folder / path for path in paths]


@pytest.fixture
def dense(sentence_encoder, tmp_path):
    """A sentence-transformer with a Dense module behind the pooling, from 16 to 8."""
    folder = Path(shutil.copytree(sentence_encoder, tmp_path / "dense"))
    *_, place, _ = add(folder, "Dense", "Normalize")
    place.mkdir()
    torch.manual_seed(0)
    Dense(16, 8, activation_function=torch.nn.ReLU()).save(str(place))
    return folder


@pytest.fixture
def decoder(sentence_encoder, tmp_path):
    """A tiny decoder that is pooled by its last token."""
    folder = Path(shutil.copytree(sentence_encoder, tmp_path / "decoder"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    LlamaModel(config).save_pretrained(folder)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(MEAN | {"pooling_mode": "lasttoken"})
    )
    return folder


def vectors(encoder, texts=TEXTS, instruction=""):
    passages = [Passage(text, instruction) for text in texts]
    found = encoder.embed(passages, 4, 512, "no")
    return np.concatenate([found[passage].vectors for passage in passages])


def test_the_modules_see_float32_and_the_mask():
    states = torch.tensor([[[1.0, 4], [3, 2], [99, 99]]]).bfloat16()
    backbone = torch.nn.Module()
    backbone.forward = lambda input_ids, attention_mask: SimpleNamespace(last_hidden_state=states)
    mask = torch.tensor([[1, 1, 0]])
    found = SentenceModule(backbone, [Pooling(2, "mean")])(mask, mask)
    assert found.dtype == torch.float32
    assert found.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    "mode", ["cls", "mean", "max", ["max"], "weightedmean", "lasttoken", ["cls", "mean"]]
)
def test_vectors_are_those_of_sentence_transformers(changed, mode):
    folder = changed("1_Pooling/config.json", pooling_mode=mode)
    expected = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    encoder = FrozenEncoder(folder)
    assert encoder.width == expected.shape[1]
    np.testing.assert_allclose(vectors(encoder), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["dense", "decoder"])
def test_dense_modules_and_decoders(folder, request, tmp_path):
    folder = request.getfixturevalue(folder)
    encoder = FrozenEncoder(str(folder))
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(encoder), expected, atol=1e-6)
    encoder.save(tmp_path / "saved")
    again = FrozenEncoder(str(tmp_path / "saved"))
    assert (again.digest, again.settings) == (encoder.digest, encoder.settings)
    assert encoder.facts("x")["width"] == expected.shape[1]


def test_the_digest_covers_a_modules_weights(dense):
    before = FrozenEncoder(str(dense)).digest
    path = dense / "2_Dense" / "model.safetensors"
    save_file({key: 2 * value for key, value in load_file(path).items()}, path)
    assert FrozenEncoder(str(dense)).digest != before


def test_a_decoder_whose_vectors_do_not_see_the_last_token(decoder):
    path = decoder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(MEAN | {"pooling_mode": "cls"}))
    with pytest.raises(InputError, match="its vector of a text does not see the last token"):
        FrozenEncoder(str(decoder))
    (decoder / "modules.json").unlink()
    with pytest.raises(InputError, match="not an encoder"):
        FrozenEncoder(str(decoder))


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("2_Dense/config.json", {"activation_function": "os.getcwd"}, "'os.getcwd'"),
        ("2_Dense/config.json", {"activation_function": "torch.hub.x"}, "'torch.hub.x'"),
        ("2_Dense/config.json", {"out_features": 9}, "module Dense cannot be loaded"),
        ("2_Dense/config.json", {"of": 9}, "module Dense cannot be loaded"),
    ],
)
def test_a_dense_module_that_is_not_what_it_says(dense, path, values, message):
    file = dense / path
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(InputError, match=message):
        FrozenEncoder(str(dense))


def test_a_dense_module_without_its_weights(dense):
    path = dense / "2_Dense" / "model.safetensors"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    with pytest.raises(InputError, match=r"2_Dense.*git-lfs pointer"):
        FrozenEncoder(str(dense))
    path.unlink()
    with pytest.raises(InputError, match="no weights"):
        FrozenEncoder(str(dense))


@pytest.mark.parametrize(("flag", "mode"), [("cls", "cls"), ("mean", "mean"), ("max", "max")])
def test_the_folder_says_how_to_pool(changed, flag, mode):
    flags = {
        f"pooling_mode_{name}_token{'' if name == 'cls' else 's'}": name == flag
        for name in ("cls", "mean", "max")
    }
    settings = FrozenEncoder(changed("1_Pooling/config.json", **flags)).settings
    pooling = {"type": "Pooling", **MEAN, "pooling_mode": mode}
    assert settings == ([pooling, {"type": "Normalize"}], 24, False)


def test_a_folder_of_sentence_transformers_5_4_and_later(sentence_encoder, tmp_path):
    """Fewer keys, other class names, and the maximal length with the tokenizer."""
    folder = tmp_path / "compact"
    SentenceTransformer(str(sentence_encoder), device="cpu").save(str(folder))
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(values | {"model_max_length": 40}))
    modules = [{"type": "Pooling", **MEAN}, {"type": "Normalize"}]
    assert FrozenEncoder(str(folder)).settings == (modules, 40, False)


def test_a_plain_encoder_is_pooled_by_its_mean(changed):
    folder = changed("modules.json")
    modules = [{"type": "Pooling", **MEAN}]
    assert FrozenEncoder(folder).settings == (modules, 24, False)
    (Path(folder) / "sentence_bert_config.json").unlink()
    shutil.rmtree(f"{folder}/1_Pooling")
    assert FrozenEncoder(folder).settings == (modules, 64, False)
    assert FrozenEncoder(folder, max_length=30).settings.max_length == 30


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "first"}, "Invalid pooling mode: 'first'"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "module Pooling cannot be loaded"),
        ("1_Pooling/config.json", {"pooling_mode_new": True}, "module Pooling cannot be loaded"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"max_length": 9}}},
            "processing_kwargs",
        ),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "'transformer_task': expected 'feature-extraction', got 'fill-mask'",
        ),
        ("sentence_bert_config.json", {"module_output_name": "x"}, "module_output_name"),
    ],
)
def test_settings_that_are_not_known_are_refused(changed, path, values, message):
    with pytest.raises(InputError, match=message):
        FrozenEncoder(changed(path, **values))


PROMPTED = "config_sentence_transformers.json"


@pytest.fixture
def prompted(changed):
    """Return a folder whose config_sentence_transformers.json has these values."""

    def save(pooling=MEAN, **values):
        folder = Path(changed("1_Pooling/config.json", **pooling))
        (folder / PROMPTED).write_text(json.dumps(values))
        return str(folder)

    return save


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"truncate_dim": 8}, "key 'truncate_dim': expected None, got 8"),
        ({"prompts": ["x"]}, r"key 'prompts': expected an object of texts, got \['x'\]"),
        ({"prompts": {"x": 1}}, "key 'prompts': expected an object of texts"),
        (
            {"default_prompt_name": "x"},
            "key 'default_prompt_name': expected a name in 'prompts', got",
        ),
    ],
)
def test_prompts_that_are_not_known_and_shorter_vectors_are_refused(prompted, values, message):
    with pytest.raises(InputError, match=rf"config_sentence_transformers\.json: .*{message}"):
        FrozenEncoder(prompted(**values))


@pytest.mark.parametrize(
    ("mode", "include"),
    [
        ("mean", False),
        ("lasttoken", True),
        *(
            pytest.param(mode, include, marks=pytest.mark.slow)
            for mode, include in [
                ("mean", True),
                ("lasttoken", False),
                *itertools.product(["cls", "max", "weightedmean"], [True, False]),
            ]
        ),
    ],
)
def test_instructions_are_those_of_sentence_transformers(prompted, mode, include):
    """Also where the pooling leaves them out."""
    pooling = MEAN | {"pooling_mode": mode, "include_prompt": include}
    folder = prompted(pooling, prompts={"query": "Find: ", "document": ""})
    encoder = FrozenEncoder(folder, None, "query", "To be found: ")
    assert encoder.instructions == ("Find: ", "To be found: ")
    library = SentenceTransformer(folder, device="cpu")
    for instruction in ("", *encoder.instructions):
        expected = library.encode(TEXTS, prompt=instruction)
        np.testing.assert_allclose(vectors(encoder, TEXTS, instruction), expected, atol=1e-6)
    assert np.abs(expected - vectors(encoder)).max() > 1e-3
    # In one batch, each text has its own.
    passages = [Passage(text, each) for text in TEXTS for each in ("", *encoder.instructions)]
    sentence.memo.clear()
    found = encoder.embed(passages, 4, 512, "no")
    for text, instruction in passages:
        alone = vectors(encoder, [text], instruction)
        np.testing.assert_allclose(found[text, instruction].vectors, alone, atol=1e-6)


@pytest.mark.slow
def test_the_folders_default_instruction_unless_another_is_set(prompted):
    settings = {"prompts": {"query": "Find: ", "none": ""}, "default_prompt_name": "query"}
    folder = prompted(**settings)
    encoder = FrozenEncoder(folder)
    assert encoder.instructions == ("Find: ", "Find: ")
    expected = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(encoder, TEXTS, "Find: "), expected, atol=1e-6)
    assert FrozenEncoder(folder, None, "", "none").instructions == ("", "")
    with pytest.raises(
        InputError,
        match=r"option model\.response_instruction: expected several words, or the name of one of "
        r"the folder's prompts \(query, none\), got 'qurey'",
    ):
        FrozenEncoder(folder, None, "", "qurey")


@pytest.mark.slow
def test_saved_with_its_instructions(prompted, tmp_path):
    folder = prompted(prompts={"query": "Find: ", "document": ""}, default_prompt_name="query")
    for number, options in enumerate([(), ("document", "document"), ("", "Found at last: ")]):
        encoder = FrozenEncoder(folder, None, *options)
        place = tmp_path / f"saved-{number}"
        encoder.save(place)
        again = FrozenEncoder(str(place), None, *options)
        assert (again.digest, again.instructions) == (encoder.digest, encoder.instructions)


@pytest.mark.slow
def test_the_digest_covers_the_instructions(prompted):
    digests = {
        FrozenEncoder(prompted(prompts={"query": text}), None, *options).digest
        for text, options in [
            ("Find: ", ("", "")),
            ("Find: ", ("query", "")),
            ("Find: ", ("", "query")),
            ("Find it: ", ("query", "")),
        ]
    }
    assert len(digests) == 4
    plain, unused = (FrozenEncoder(prompted(**own)) for own in ({}, {"prompts": {"query": "x y"}}))
    assert plain.digest == unused.digest  # as before there were instructions


@pytest.fixture(scope="module")
def published(pairs, tmp_path_factory):
    """Return a shrunken random folder in the layout of a published one."""
    texts = [turn for turns in pairs["prompt"] for turn in turns]

    @functools.cache
    def save(name):
        return save_sentence_folder(name, texts, tmp_path_factory.mktemp("published") / "encoder")

    return save


@pytest.mark.slow
def test_the_layout_of_qwen3_embedding(published, tmp_path):
    """A decoder, padded on the left by the library, pooled at its last token, instructions by
    name."""
    folder = published("Qwen/Qwen3-Embedding-0.6B")
    encoder = FrozenEncoder(str(folder), None, "query", "document")
    assert encoder.settings.max_length == 2_048
    assert encoder.settings.modules[0]["pooling_mode"] == "lasttoken"
    library = SentenceTransformer(str(folder), device="cpu")
    assert library.tokenizer.padding_side == "left"
    query, _ = encoder.instructions
    for name in ("query", "document"):
        expected = library.encode(TEXTS, prompt_name=name)
        found = vectors(encoder, TEXTS, library.prompts[name])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # The instruction's last token and the text's first one are a single token.
    tokens = library.tokenizer(f"{query}{TEXTS[0]}").tokens()
    assert ":What" in tokens
    assert ":" not in tokens[-10:]
    encoder.save(tmp_path)
    again = FrozenEncoder(str(tmp_path), None, "query", "document")
    assert again.digest == encoder.digest


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_token_with_padding_on_either_side(published, side):
    encoder = FrozenEncoder(str(published("Qwen/Qwen3-Embedding-0.6B")))
    encoder.tokenizer.padding_side = side
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert (batch["attention_mask"][:, 0].sum() == len(TEXTS)) == (side == "right")
    with torch.inference_mode():
        made = encoder.module(batch["input_ids"], batch["attention_mask"])
    np.testing.assert_allclose(made, vectors(encoder), atol=1e-5)


def test_the_layout_of_bge_base(published):
    folder = str(published("BAAI/bge-base-en-v1.5"))
    instruction = "Represent this sentence for searching relevant passages: "
    encoder = FrozenEncoder(folder, None, instruction, "")
    pooling = {"type": "Pooling", **MEAN, "pooling_mode": "cls", "embedding_dimension": 64}
    assert encoder.settings == ([pooling, {"type": "Normalize"}], 512, True)
    library = SentenceTransformer(folder, device="cpu")
    for prompt in (instruction, ""):
        expected = library.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(vectors(encoder, TEXTS, prompt), expected, atol=1e-5)


def test_gemma_2_keeps_the_cap_on_its_attention(decoder_folder):
    folder = str(decoder_folder("gemma2"))
    assert load_backbone(folder).config._attn_implementation == "eager"


def test_a_decoders_limit_is_in_its_configuration(published):
    folder = str(published("Qwen/Qwen3-Embedding-0.6B"))
    with pytest.raises(
        InputError, match=r"option model\.max_length: .* reads 2048 tokens, not 2049"
    ):
        FrozenEncoder(folder, 2_049)


def test_the_length_in_a_file_of_an_early_version(changed):
    folder = Path(changed("sentence_bert_config.json", max_seq_length=17))
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    assert FrozenEncoder(str(folder)).settings.max_length == 17


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.models.LSTM",
        "sentence_transformers.models.Pooling",
        "own.Dense",
        "Normalize",
    ],
)
def test_modules_that_are_not_known_are_refused(sentence_encoder, tmp_path, kind):
    folder = Path(shutil.copytree(sentence_encoder, tmp_path / "other"))
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    (folder / "own.py").write_text("raise SystemExit")
    path.write_text(json.dumps([*modules[:2], {"path": "2_Own", "type": kind}]))
    with pytest.raises(InputError, match=r"modules\.json: expected Transformer, Pooling .*got"):
        FrozenEncoder(str(folder))


@pytest.mark.parametrize(
    "listed", [{}, [1], [{"path": "../outside", "type": "x"}], [{"path": "", "type": 3}]]
)
def test_a_list_of_modules_that_cannot_be_read(sentence_encoder, tmp_path, listed):
    folder = Path(shutil.copytree(sentence_encoder, tmp_path / "other"))
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"modules\.json: expected a"):
        FrozenEncoder(str(folder))
