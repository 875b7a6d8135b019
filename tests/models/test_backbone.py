"""Pretrained backbones: loaded whole and in float32, tried before they are used."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors

from humanpref.models.backbone import check_encoder, load_backbone
from humanpref.models.pretrained import load_tokenizer
from humanpref.schema import InputError


@pytest.fixture
def folder(sentence_encoder, tmp_path):
    return Path(shutil.copytree(sentence_encoder, tmp_path / "backbone"))


def test_a_checkpoint_in_half_precision_is_read_in_float32(folder):
    path = folder / "model.safetensors"
    saved = {key: tensor.half() for key, tensor in load_file(path).items()}
    save_file(saved, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    state = load_backbone(str(folder)).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(state[name], saved[name].float())
    assert {p.dtype for p in load_backbone(str(folder), dtype="auto").parameters()} == {
        torch.float16
    }


def test_missing_weights_are_refused(folder):
    path = folder / "model.safetensors"
    saved = load_file(path)
    del saved["embeddings.LayerNorm.bias"]
    save_file(saved, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weight of the model, e\.g\. embeddings"):
        load_backbone(str(folder))


def test_the_width_is_that_of_what_is_made_of_a_text(folder):
    backbone, tokenizer = load_backbone(str(folder)), load_tokenizer(str(folder))
    assert check_encoder(backbone, tokenizer, "x", 64) == 16
    shapes = []

    def embed(ids, mask):
        shapes.append((tuple(ids.shape), tuple(mask.shape)))
        return ids[:, -3:].float()

    assert check_encoder(backbone, tokenizer, "x", 20, embed) == 3
    assert shapes == [((2, 20), (2, 20))]
    with pytest.raises(InputError, match="its vector of a text does not see the last token"):
        check_encoder(backbone, tokenizer, "x", 20, lambda ids, mask: ids[:, :3].float())
    with pytest.raises(InputError, match="max_length: backbone x cannot read 65 tokens"):
        check_encoder(backbone, tokenizer, "x", 65)


def test_a_decoder_is_no_encoder(decoder_folder):
    backbone = load_backbone(str(decoder_folder()))
    tokenizer = load_tokenizer(str(decoder_folder()))
    with pytest.raises(InputError, match="its tokenizer has no padding token"):
        check_encoder(backbone, tokenizer, "x", 20)
    tokenizer.pad_token = "[PAD]"
    with pytest.raises(InputError, match=r"x: not an encoder, because its first token does"):
        check_encoder(backbone, tokenizer, "x", 20)

    def last(ids, mask):
        return backbone(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1]

    assert check_encoder(backbone, tokenizer, "x", 20, last) == 16


def test_special_tokens_that_are_named_stand_around_a_text(folder):
    backbone, tokenizer = load_backbone(str(folder)), load_tokenizer(str(folder))
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    message = r"its tokenizer defines \[CLS\] and \[SEP\] but adds none to a text"
    with pytest.raises(InputError, match=message):
        check_encoder(backbone, tokenizer, "x", 20)
    with pytest.raises(InputError, match=message):
        check_encoder(backbone, tokenizer, "x", 20, lambda ids, mask: ids[:, -3:].float())
    tokenizer.cls_token = tokenizer.sep_token = None
    assert check_encoder(backbone, tokenizer, "x", 20) == 16
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    with pytest.raises(InputError, match=message):
        check_encoder(backbone, tokenizer, "x", 20)
    # Where vectors are pooled, the tokens of a decoder need not stand there.
    assert check_encoder(backbone, tokenizer, "x", 20, lambda ids, mask: ids[:, -3:].float()) == 3


def test_a_pooler_that_the_checkpoint_lacks_is_not_missed(folder):
    path = folder / "model.safetensors"
    saved = {key: value for key, value in load_file(path).items() if "pooler" not in key}
    assert len(saved) < len(load_file(path))
    save_file(saved, path, metadata={"format": "pt"})
    assert load_backbone(str(folder)).config.hidden_size == 16
