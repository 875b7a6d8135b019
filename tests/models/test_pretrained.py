"""A backbone's folder: tokenizers in every layout that publishers use, ids, configurations,
weights, and where a base is looked for."""

import io
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DebertaV2Config

from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models import build_model, pretrained
from humanpref.models.backbone import load_backbone
from humanpref.models.bases import BASE_VARIABLE
from humanpref.models.checkpoint import base_digest
from humanpref.models.pretrained import (
    BASE_FILE,
    PROBES,
    backbone_facts,
    base_folder,
    check_ids,
    find_base,
    load_backbone_config,
    load_state_strictly,
    load_tokenizer,
    local_folder,
    not_loaded,
    weights_in,
)
from humanpref.models.scratch import train_tokenizer
from humanpref.runs.artifact import load_model
from humanpref.schema import InputError
from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Template, template_of, text_ids

# Case, digits, compatibility forms, Chinese punctuation, emoji, runs of spaces, a character that no
# vocabulary here has.
TEXTS = (
    *PROBES,
    "x² + y²",
    "wait… what",
    "5 µm",
    "你好，世界",
    "ABC  def   ",
    "it's 12345, isn't it?",
    "",
    " ",
    "Ⅷ ꙮ",
)
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
BERT_NAMES = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
CLS_SEP = ("[CLS]", "[SEP]")


@pytest.fixture(scope="module")
def words(pairs):
    """What the tokenizers are trained on."""
    return [turn for turns in pairs["prompt"] for turn in turns] + list(TEXTS) * 3


@pytest.fixture(scope="module")
def pieces_of(words):
    """A sentencepiece model, as bytes."""
    made = {}

    def train(**options):
        key = repr(options)
        if key not in made:
            target = io.BytesIO()
            settings = {
                "vocab_size": 600,
                "hard_vocab_limit": False,
                "character_coverage": 0.98,
                "minloglevel": 2,
            }
            texts = iter([line for word in words for line in word.splitlines()])
            SentencePieceTrainer.train(
                sentence_iterator=texts, model_writer=target, **settings, **options
            )
            made[key] = target.getvalue()
        return made[key]

    return train


DEBERTA_PIECES = {
    "byte_fallback": True,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "pad_piece": "[PAD]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "unk_piece": "[UNK]",
}
ALBERT_PIECES = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "pad_piece": "<pad>",
    "control_symbols": "[CLS],[SEP],[MASK]",
}
LLAMA_PIECES = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}


def template(tokenizer, first, last, types=True):
    ids = [
        (token, tokenizer.token_to_id(token))
        for token in dict.fromkeys(filter(None, (first, last)))
    ]
    one = f"{first}:0 $A:0" + (f" {last}:0" if last else "")
    two = (f"$B:1 {last}:1" if last else f"{first}:1 $B:1").replace(":1", ":1" if types else ":0")
    return processors.TemplateProcessing(single=one, pair=f"{one} {two}", special_tokens=ids)


def from_pieces(model, before, special):
    """A publisher's tokenizer.json from a sentencepiece model: its own normalization, which a class
    may not know of."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    made = Tokenizer(
        models.Unigram(vocabulary, unk_id=proto.trainer_spec.unk_id, byte_fallback=False)
    )
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    made.normalizer = normalizers.Sequence(
        [*before, charsmap, normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(list(special))
    made.post_processor = template(made, *CLS_SEP)
    return made


def byte_level(words, split, special, normalizer=None, ignore_merges=False):
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(False, use_regex=not split)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(list(special))
    return made


def publish(folder, model_type, settings, tokenizer=None, **files):
    """A publisher's folder: `files` are named with _ for the last dot."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_bytes(content)
    return folder


def deberta_spm(folder, words, pieces_of):
    settings = {"do_lower_case": False, "vocab_type": "spm"}
    return publish(folder, "deberta-v2", settings, spm_model=pieces_of(**DEBERTA_PIECES))


def deberta(folder, words, pieces_of):
    made = from_pieces(pieces_of(**DEBERTA_PIECES), [normalizers.Strip()], BERT_NAMES.values())
    made.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    made.enable_truncation(16)
    settings = {
        **BERT_NAMES,
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "tokenizer_class": "DebertaV2Tokenizer",
    }
    return publish(folder, "deberta-v2", settings, made)


def albert(folder, words, pieces_of):
    before = [
        normalizers.Replace("``", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
    ]
    model = pieces_of(**ALBERT_PIECES)
    made = from_pieces(model, before, ("<pad>", "<unk>", *CLS_SEP, "[MASK]"))
    return publish(folder, "albert", {"model_max_length": 512}, made, spiece_model=model)


def albert_spm(folder, words, pieces_of):
    return publish(
        folder, "albert", {"model_max_length": 512}, spiece_model=pieces_of(**ALBERT_PIECES)
    )


def llama_3(folder, words, pieces_of):
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    split = [pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated")]
    made = byte_level(words, split, special, ignore_merges=True)
    parts = [processors.ByteLevel(trim_offsets=False), template(made, special[0], None)]
    made.post_processor = processors.Sequence(parts)
    settings = {
        "bos_token": special[0],
        "eos_token": special[-1],
        "chat_template": CHAT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": True,
    }
    return publish(folder, "llama", settings, made)


def llama_2_spm(folder, words, pieces_of):
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "LlamaTokenizer",
    }
    return publish(folder, "llama", settings, tokenizer_model=pieces_of(**LLAMA_PIECES))


def qwen(folder, words, pieces_of):
    split = [pre_tokenizers.Split(Regex(LLAMA_SPLIT.replace("{1,3}", "")), "isolated")]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = byte_level(words, split, special, normalizers.NFC())
    made.add_tokens([AddedToken("<tool_call>", normalized=False)])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    settings = {
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "chat_template": CHAT,
    }
    return publish(folder, "qwen2", settings, made)


def gemma(folder, words, pieces_of):
    proto = sentencepiece_model_pb2.ModelProto.FromString(pieces_of(**LLAMA_PIECES))
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    names = special + [piece.piece for piece in proto.pieces[3:]]
    ids = {name: i for i, name in enumerate(names)}
    normal = [piece.piece for piece in proto.pieces if piece.type == 1]
    merges = [
        (name[:i], name[i:])
        for name in normal
        for i in range(1, len(name))
        if {name[:i], name[i:]} <= ids.keys()
    ]
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.add_special_tokens(special)
    made.post_processor = template(made, "<bos>", None)
    settings = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "tokenizer_class": "GemmaTokenizer",
    }
    return publish(folder, "gemma2", settings, made, tokenizer_model=pieces_of(**LLAMA_PIECES))


def smollm2(folder, words, pieces_of):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = byte_level(words, [pre_tokenizers.Digits(individual_digits=True)], special)
    settings = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "add_prefix_space": False,
        "tokenizer_class": "GPT2Tokenizer",
        "chat_template": CHAT,
    }
    return publish(folder, "llama", settings, made)


def minilm(folder, words, pieces_of):
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = list(BERT_NAMES.values())
    made.train_from_iterator(
        words,
        trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False),
    )
    made.post_processor = template(made, *CLS_SEP)
    made.enable_padding(length=24, pad_id=made.token_to_id("[PAD]"), pad_token="[PAD]")
    made.enable_truncation(24)
    vocabulary = sorted(made.get_vocab(), key=made.token_to_id)
    settings = {
        **BERT_NAMES,
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
        "model_max_length": 512,
    }
    return publish(folder, "bert", settings, made, vocab_txt="\n".join(vocabulary).encode())


LAYOUTS = (
    deberta_spm,
    deberta,
    albert,
    albert_spm,
    llama_3,
    llama_2_spm,
    qwen,
    gemma,
    smollm2,
    minilm,
)
REFUSED = (albert_spm, llama_2_spm)
"""Neither folder determines its publisher's tokens: each must be refused."""


@pytest.fixture(scope="module")
def folder_of(words, pieces_of, tmp_path_factory):
    return lambda layout: layout(
        tmp_path_factory.mktemp("published") / layout.__name__, words, pieces_of
    )


def expected_ids(folder):
    """By `tokenizers` on tokenizer.json, or by sentencepiece and the family's template: ids of a
    bare text, a text, a pair."""
    if (folder / "tokenizer.json").is_file():
        own = Tokenizer.from_file(str(folder / "tokenizer.json"))
        own.no_padding()
        own.no_truncation()
        return (
            lambda text: own.encode(text, add_special_tokens=False).ids,
            lambda text: own.encode(text).ids,
            lambda one, two: own.encode(one, two).ids,
        )
    pieces = SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))
    first, last = {"deberta_spm": ([1], [2]), "albert_spm": ([2], [3]), "llama_2_spm": ([1], [])}[
        folder.name
    ]
    return (
        pieces.encode,
        lambda text: [*first, *pieces.encode(text), *last],
        lambda one, two: [
            *first,
            *pieces.encode(one),
            *(last or first),
            *pieces.encode(two),
            *last,
        ],
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_its_files_ids_or_is_refused(layout, folder_of, tmp_path):
    folder = folder_of(layout)
    if layout in REFUSED:
        with pytest.raises(
            InputError, match=r"^backbone [^\n]+ expected a folder with tokenizer\.json$"
        ):
            load_tokenizer(str(folder))
        return
    tokenizer = load_tokenizer(str(folder))
    text, alone, pair = expected_ids(folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    for loaded in (tokenizer, load_tokenizer(str(tmp_path / "saved"))):
        assert text_ids(list(TEXTS), loaded) == [text(one) for one in TEXTS]
        for one, two in zip(TEXTS, TEXTS[::-1], strict=True):
            assert loaded(one).input_ids == alone(one)
            if two:  # transformers takes an empty second text for none
                assert loaded(one, two).input_ids == pair(one, two)
        # What a text spells is text.
        special = set(loaded.added_tokens_decoder) & set(loaded.all_special_ids) - {
            loaded.unk_token_id
        }
        spelled = " ".join(loaded.convert_ids_to_tokens(sorted(special)))
        assert special.isdisjoint(text_ids([spelled, spelled.replace(" ", "")], loaded)[0])
        assert special.isdisjoint(text_ids([spelled, spelled.replace(" ", "")], loaded)[1])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer.chat_template == settings.get("chat_template")
    named = {
        key: value
        for key, value in settings.items()
        if key.endswith("_token") and isinstance(value, str)
    }
    assert {key: getattr(tokenizer, key) for key in named} == named


def test_early_folders_leave_the_names_to_the_family(folder_of):
    tokenizer = load_tokenizer(str(folder_of(albert)))
    named = tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token, tokenizer.mask_token
    assert named == ("[CLS]", "[SEP]", "<pad>", "[MASK]")
    assert template_of(tokenizer) == Template(
        [2], {part: [3] for part in (PROMPT, A, B)}, [3], (0, 1)
    )


def test_lower_case_that_the_files_disagree_on_is_refused(folder_of):
    folder = folder_of(minilm)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    with pytest.raises(
        InputError,
        match=r"tokenizer_config.json has do_lower_case False, but tokenizer.json has True",
    ):
        load_tokenizer(str(folder))


def test_a_broken_tokenizer_file_is_refused(folder_of):
    folder = folder_of(minilm)
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(InputError, match="its tokenizer cannot be loaded"):
        load_tokenizer(str(folder))


def with_weights(folder, **changes):
    """Put a tiny random model into a publisher's folder, by the type that its configuration
    says."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "embedding_size": 16,
    }
    vocabulary = load_tokenizer(str(folder)).get_vocab()
    settings = {"vocab_size": max(vocabulary.values()) + 1, "pad_token_id": None} | sizes | changes
    config = AutoConfig.for_model(kind, **settings)
    torch.manual_seed(0)
    (AutoModelForCausalLM if kind == "llama" else AutoModel).from_config(config).save_pretrained(
        folder
    )
    return folder


def encoder(folder):
    settings = [
        f"model.backbone={folder}",
        "model.max_length=40",
        "training.epochs=1",
        "training.batch_size=12",
    ]
    return build_model(load_config("deberta-v3-small", overrides=settings))


def decoder(folder, preset="llama-3.2-1b-lora"):
    settings = [
        f"model.backbone={folder}",
        "model.max_length=400",
        "training.epochs=1",
        "training.batch_size=12",
    ]
    question = [] if "dpo" in preset else ["model.question=Which?"]
    return build_model(
        load_config(preset, overrides=[*settings, *question, "model.system_prompt="])
    )


DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def few(pairs):
    return pairs[:24].reset_index(drop=True)


def test_a_folder_with_a_sentencepiece_model_alone_is_trained_with_its_special_tokens(
    folder_of, few, tmp_path
):
    folder = with_weights(folder_of(deberta_spm), **DEBERTA)
    assert isinstance(load_backbone_config(str(folder)), DebertaV2Config)
    model = encoder(folder).fit(few, labels_of(few))
    assert model.report_["training"]["steps"] == 2
    for row in model.inputs(few).sequences:
        for sequence in row:
            assert sequence.ids[0] == 1
            assert sequence.ids[-1] == 2
            assert (sequence.ids[sequence.parts == 0][1:] == 2).all()
            assert (sequence.ids == 2).sum() == (sequence.parts == 0).sum() - 1 >= 2
    model.save(tmp_path / "artifact")
    loaded = load_model(tmp_path / "artifact")
    assert template_of(loaded.tokenizer_) == template_of(model.tokenizer_)
    assert text_ids(list(TEXTS), loaded.tokenizer_) == text_ids(list(TEXTS), model.tokenizer_)
    np.testing.assert_allclose(loaded.predict_proba(few), model.predict_proba(few), atol=1e-6)


@pytest.mark.parametrize(
    "names", [BERT_NAMES, {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}]
)
def test_an_encoder_without_the_tokens_that_it_names_is_refused(names, folder_of, few):
    folder = with_weights(folder_of(minilm))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    with pytest.raises(
        InputError, match=r"its tokenizer defines \[CLS\] and \[SEP\] but adds none to a text"
    ):
        encoder(folder).fit(few, labels_of(few))


@pytest.mark.slow
def test_a_padding_token_beyond_the_embeddings_is_not_used_by_a_decoder(folder_of, few):
    folder = with_weights(folder_of(llama_3))
    before = decoder(folder).fit(few, labels_of(few)).predict_proba(few)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<pad>"}))
    model = decoder(folder).fit(few, labels_of(few))
    assert model.tokenizer_.pad_token_id == model.module_.backbone.config.vocab_size
    assert len(set(model.inputs(few).lengths)) > 3
    np.testing.assert_array_equal(model.predict_proba(few), before)


def test_a_padding_token_beyond_an_encoders_embeddings_is_refused(folder_of, few):
    folder = with_weights(folder_of(minilm))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<pad>"}))
    with pytest.raises(
        InputError, match=r"its tokenizer has a token \d+ \(<pad>\), but its model has only"
    ):
        encoder(folder).fit(few, labels_of(few))


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        (
            "llama-3.2-1b-lora",
            {
                "extra_special_tokens": ["<|new|>"],
                "chat_template": "<|new|>{{ messages[0]['content'] }}",
            },
        ),
        ("llama-3.2-1b-dpo", {"eos_token": "<|new|>", "chat_template": None}),
    ],
)
def test_a_fixed_token_beyond_a_decoders_embeddings_is_refused(preset, settings, folder_of, few):
    folder = with_weights(folder_of(llama_3))
    old = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(old | settings))
    with pytest.raises(
        InputError, match=r"its tokenizer has a token \d+ \(<\|new\|>\), but its model has only"
    ):
        decoder(folder, preset=preset).fit(few, labels_of(few))


def test_a_folder_without_a_configuration_is_refused(folder_of):
    folder = folder_of(llama_3)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(InputError, match=r"its configuration cannot be loaded; .*config\.json"):
        load_backbone_config(str(folder))


@pytest.mark.parametrize("layout", [deberta_spm, minilm])
def test_a_configuration_without_a_model_type_is_not_guessed_at(layout, folder_of, tmp_path):
    # transformers 5.0.0 takes the first model whose name is in the path.
    folder = shutil.copytree(folder_of(layout), tmp_path / "my-bert")
    (folder / "config.json").write_text('{"hidden_size": 16}')
    with pytest.raises(InputError, match="has no model_type"):
        load_backbone_config(str(folder))
    if layout is deberta_spm:  # whose tokenizer depends on the model's type
        with pytest.raises(InputError, match="has no model_type"):
            load_tokenizer(str(folder))


def test_code_in_a_folder_is_not_run(folder_of, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = with_weights(folder_of(minilm))
    marker = tmp_path / "was-run"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    (folder / "evil.py").write_text(
        code + "class Config: pass\nclass Model: pass\nclass Own: pass\n"
    )
    own = {
        "AutoConfig": "evil.Config",
        "AutoModel": "evil.Model",
        "AutoTokenizer": ["evil.Own", "evil.Own"],
    }
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"auto_map": own}))
    load_tokenizer(str(folder))
    load_backbone(str(folder))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "evil"}))
    with pytest.raises(InputError, match="its configuration cannot be loaded"):
        load_backbone(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    "key", ["_attn_implementation", "_attn_implementation_internal", "attn_implementation"]
)
def test_a_folder_does_not_choose_the_attentions_code(key, folder_of):
    folder = with_weights(folder_of(minilm))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {key: "somebody/kernels"}))
    assert load_backbone_config(str(folder))._attn_implementation is None
    assert load_backbone(str(folder)).config._attn_implementation in {"sdpa", "eager"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 10**7), ("text_config", {"num_experts": 1e300}), ("hidden_act", "x")],
)
def test_sizes_that_nobody_can_build_are_refused(key, value, folder_of):
    folder = with_weights(folder_of(minilm))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {key: value}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(str(folder))


def test_a_tokenizer_that_panics_is_refused(folder_of, tmp_path):
    """A panic of its regular expressions is no `Exception`."""
    folder = shutil.copytree(folder_of(minilm), tmp_path / "panics")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    pattern = {"Regex": "(a+)+$"}
    splits = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    spoiled = json.dumps(tokenizer | {"pre_tokenizer": splits, "normalizer": None})
    (folder / "tokenizer.json").write_text(spoiled)
    with pytest.raises(InputError, match=r"its tokenizer fails \(PanicException") as caught:
        text_ids(["a" * 60 + "!"], load_tokenizer(str(folder)))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_words_is_refused(tmp_path):
    folder = publish(tmp_path / "empty", "bert", BERT_NAMES, Tokenizer(models.WordLevel()))
    with pytest.raises(InputError, match="expected a vocabulary, got only special tokens"):
        load_tokenizer(str(folder))


def test_an_encoder_with_a_decoder_is_neither(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(InputError, match="a t5 model has both an encoder and a decoder"):
        load_backbone_config(str(tmp_path))


@pytest.mark.parametrize(("embeddings", "fits"), [(261, True), (260, False)])
def test_every_token_of_a_text_needs_an_embedding(embeddings, fits):
    tokenizer = train_tokenizer([], 260)
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert len(tokenizer) == 262
    if fits:
        assert check_ids("x", tokenizer, [0, 1], embeddings) == 260
        with pytest.raises(
            InputError, match=r"has a token 261 \(<mask>\), but its model has only 261"
        ):
            check_ids("x", tokenizer, [0, 261], embeddings)
    else:
        with pytest.raises(
            InputError, match=r"backbone x: its tokenizer has a token 260 \(<new>\)"
        ):
            check_ids("x", tokenizer, [0, 1], embeddings)


class TestState:
    """A module's learned weights, read strictly."""

    def module(self):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        module[0].requires_grad_(False)
        return module

    def test_what_learns_is_filled(self, tmp_path):
        module, path = self.module(), tmp_path / "model.safetensors"
        save_file({"1.weight": torch.ones(1, 2), "1.bias": torch.tensor([7.0])}, path)
        before = module[0].weight.clone()
        load_state_strictly(module, path)
        assert module[1].weight.tolist() == [[1, 1]]
        assert module[1].bias.tolist() == [7]
        assert torch.equal(module[0].weight, before)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"1.bias": None}, "missing weights 1.bias"),
            ({"0.bias": torch.ones(2)}, "extra weights 0.bias"),
            (
                {"1.weight": torch.ones(2, 2)},
                r"weight 1\.weight: expected shape \(1, 2\), got \(2, 2\)",
            ),
        ],
    )
    def test_another_state_is_refused(self, tmp_path, changes, message):
        state = {"1.weight": torch.ones(1, 2), "1.bias": torch.ones(1)} | changes
        path = tmp_path / "model.safetensors"
        save_file({name: value for name, value in state.items() if value is not None}, path)
        with pytest.raises(InputError, match=message):
            load_state_strictly(self.module(), path)

    def test_a_file_that_is_cut_off_is_refused(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"{")
        with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as safetensors"):
            load_state_strictly(self.module(), path)


class TestBase:
    """Where the base of an artifact is looked for."""

    @pytest.fixture
    def base(self, decoder_folder, tmp_path, monkeypatch):
        """A base, and an artifact four folders down that names it."""
        monkeypatch.delenv(BASE_VARIABLE, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        base = shutil.copytree(decoder_folder(), tmp_path / "tiny")
        artifact = tmp_path / "a" / "b" / "c" / "model"
        artifact.mkdir(parents=True)
        record = {"name": str(base), "sha256": base_digest(base)}
        (artifact / BASE_FILE).write_text(json.dumps(record))
        return base, artifact, record

    def test_where_the_artifact_says(self, base):
        folder, artifact, record = base
        assert find_base(artifact) == (folder, record)

    @pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
    def test_beside_the_artifact_or_above_it(self, base, place, tmp_path):
        folder, artifact, record = base
        moved = folder.rename(tmp_path / place / "tiny")
        assert find_base(artifact) == (moved, record)

    @pytest.mark.parametrize("given", ["elsewhere", "elsewhere/tiny"])
    def test_where_the_variable_says_first(self, base, given, tmp_path, monkeypatch):
        folder, artifact, record = base
        copy = shutil.copytree(folder, tmp_path / "elsewhere" / "tiny")
        monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / given))
        assert find_base(artifact) == (copy, record)

    def test_a_base_that_is_not_there_or_has_other_weights_is_named(self, base, tmp_path):
        folder, artifact, record = base
        moved = folder.rename(tmp_path / "a" / "tiny")
        state = load_file(moved / "model.safetensors")
        save_file(
            {name: value + 1 for name, value in state.items()},
            moved / "model.safetensors",
            metadata={"format": "pt"},
        )
        other = base_digest(moved)[:16]
        with pytest.raises(InputError) as refused:
            find_base(artifact)
        assert str(refused.value) == (
            f"{artifact}: was trained on base {record['name']} (sha256 {record['sha256'][:16]}…); "
            f"{moved} holds different weights (sha256 {other}…); set {BASE_VARIABLE} to that "
            "base's folder"
        )
        shutil.rmtree(moved)
        with pytest.raises(InputError, match="; it was not found; set HUMANPREF_BASE to"):
            find_base(artifact)

    def test_a_hub_name_is_asked_for_unless_the_variable_says_where(self, base, monkeypatch):
        folder, artifact, record = base
        record = record | {"name": "org/tiny-2"}
        (artifact / BASE_FILE).write_text(json.dumps(record))
        asked = []

        def download(name, allow_patterns):
            asked.append(name)
            return str(folder)

        monkeypatch.setattr(pretrained, "snapshot_download", download)
        assert find_base(artifact) == (folder, record)
        assert asked == ["org/tiny-2"]
        monkeypatch.setenv(BASE_VARIABLE, "/nowhere")
        with pytest.raises(InputError, match="it was not found"):
            find_base(artifact)
        assert asked == ["org/tiny-2"]

    @pytest.mark.parametrize("record", [[], {}, {"name": "x"}, {"sha256": "0"}])
    def test_an_artifact_that_does_not_name_its_base_is_refused(self, base, record):
        _, artifact, _ = base
        (artifact / BASE_FILE).write_text(json.dumps(record))
        with pytest.raises(
            InputError, match=r"base\.json: expected the base's name and sha256, got [\[{]"
        ):
            find_base(artifact)


def test_weights_by_the_hubs_name_are_safetensors_where_there_are_any(tmp_path, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append("*.safetensors" in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(pretrained, "snapshot_download", download)
    assert local_folder(str(tmp_path)) == tmp_path
    assert asked == []
    assert local_folder("org/tiny") == tmp_path
    assert asked == [True, False]  # nothing but .bin
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.safetensors").touch()
    local_folder("org/tiny")
    assert asked == [True, False, True]


@pytest.mark.parametrize("load", [load_tokenizer, load_backbone_config, base_folder])
def test_a_model_that_is_not_here_is_asked_for_once(load, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        raise OSError("no answer")

    monkeypatch.setattr(pretrained, "snapshot_download", download)
    with pytest.raises(InputError) as raised:
        load("org/none")
    assert str(raised.value) == (
        "backbone org/none: no such model here: --set model.backbone=FOLDER (no such folder; the "
        "hub: no answer)"
    )
    assert asked == ["org/none"]


def test_a_base_whose_bin_is_cut_off_is_refused(decoder_folder, tmp_path):
    folder = shutil.copytree(decoder_folder(), tmp_path / "base")
    assert base_folder(str(folder)) == folder
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: incomplete"):
        base_folder(str(folder))


def test_facts_of_a_backbone_name_a_folder_by_its_last_name(decoder_folder):
    model = AutoModel.from_pretrained(decoder_folder())
    facts = backbone_facts(str(decoder_folder()), model)
    assert facts == {
        "name": "tiny-llama",
        "model_type": "llama",
        "hidden_size": 16,
        "layers": 2,
        "vocabulary": model.config.vocab_size,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
    assert backbone_facts("org/tiny", model)["name"] == "org/tiny"
    packed = torch.nn.Parameter(torch.zeros(5, dtype=torch.uint8), requires_grad=False)
    assert weights_in(packed) == 10  # two of 4 bits in a byte


def test_errors_are_cut_to_a_line_and_say_where_was_looked(tmp_path):
    error = OSError("not a file:\nand more")
    assert not_loaded(str(tmp_path), "weights", error) == (
        f"backbone {tmp_path}: its weights cannot be loaded; expected a folder that holds it "
        "(not a file)"
    )
    assert not_loaded("org/x", "weights", KeyError()).endswith("such folder; the hub: KeyError)")
    assert not_loaded("org/x", "weights", OSError("x" * 300)).endswith(f"hub: {'x' * 200})")
