"""How frozen encoders read texts: their windows, and which of them a run has."""

import json
import shutil

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.runs.frozen import Windows, frozen_models, window_lengths, windows_of


def windows(preset, *sets):
    return windows_of(load_config(preset, None, list(sets)).model)


def test_windows_have_nearly_equal_lengths_and_a_maximum_number():
    texts = np.array([[1_000, 0, 12]])
    read = window_lengths(texts, Windows("", 110, (10, 10)), max_windows=4)
    assert read.tolist() == [110, 110, 110, 110, 22]
    read = window_lengths(texts, Windows("", 110, (10, 10)), max_windows=20)
    assert read.tolist() == [110] * 10 + [22]


def test_a_published_encoder_is_read_as_far_as_it_is_known():
    assert windows("bge-base").longest == 512
    assert windows("qwen3-embedding-0.6b").longest == 1_024
    assert windows("qwen3-embedding-0.6b").leads == (24, 2)
    spelled = "model.prompt_instruction=Find the answers to this question: "
    assert windows("bge-base", spelled).leads == (10, 2)


def test_a_folder_says_its_windows_and_its_instructions(sentence_encoder, tmp_path):
    pytest.importorskip("torch")
    own = f"model.backbone={sentence_encoder}"
    assert windows("embedding", own) == (str(sentence_encoder), 24, (2, 2))
    assert windows("embedding", own, "model.max_length=60").longest == 60
    folder = tmp_path / "asked"
    shutil.copytree(sentence_encoder, folder)
    prompts = {"prompts": {"query": "x" * 100}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert windows("embedding", f"model.backbone={folder}").leads == (25, 25)
    # An early sentence-transformer has its weights in a subfolder.
    early = tmp_path / "early"
    shutil.copytree(sentence_encoder, early / "0_Transformer")
    modules = json.loads((sentence_encoder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (early / "modules.json").write_text(json.dumps(modules))
    assert windows("embedding", f"model.backbone={early}").folder == str(early / "0_Transformer")


def test_members_without_an_encoder_have_the_blends_or_are_left_out():
    members = 'model.members=["sparse", "embedding", "bge-base model.backbone=own"]'

    def backbones(*sets):
        return [each.model.backbone for each in frozen_models(load_config("cpu-best", None, sets))]

    assert backbones(members, "model.backbone=shared") == ["shared", "own"]
    assert backbones(members) == ["own"]
    assert backbones() == []
    assert frozen_models(load_config("tiny")) == []
