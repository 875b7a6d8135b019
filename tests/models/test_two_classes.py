"""Models of two classes: every family, with each of its heads and links, rules ties out exactly."""

from dataclasses import replace

import numpy as np
import pytest

from humanpref.config import FAMILIES, load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.models import build_model, load_model
from humanpref.schema import InputError

TINY = [
    "model.max_length=48",
    "model.scratch_hidden_size=8",
    "model.scratch_layers=1",
    "model.scratch_vocabulary=300",
    "training.epochs=1",
]
DECODER = ["model.max_length=128", "model.system_prompt=", "model.question=Which?"]
DECODER += ["training.learning_rate=1e-2"]
DPO = ["model.max_length=64", "training.learning_rate=1e-2", "training.beta=1"]
JOINT = ["model.inputs=joint", "inference.swap_average=true"]
PENALTIES = ["model.term_penalties=[10, 3]", "model.structure_penalties=[100]"]
EMBEDDING = ["model.backbone=tiny-encoder", "model.embedding_penalties=[100]"]
EMBEDDING += ["model.structure_penalties=[100]"]
CASES = {
    "prior": ("prior",),
    "sparse": ("sparse", *PENALTIES),
    "embedding": ("embedding", *EMBEDDING),
    "embedding, mlp": ("embedding", *EMBEDDING, "model.head=mlp", "model.steps=5"),
    "boosted": ("boosted", "model.rounds=10", "model.seeds=2", "model.learning_rate=0.2"),
    "selection": (
        "boosted",
        "model.rounds=5",
        "model.seeds=1",
        "model.selection=forward",
        "model.candidates=2",
    ),
    "encoder": ("tiny", *TINY, "training.label_smoothing=0.1", "training.swap_augmentation=true"),
    "attention, joint": ("tiny", *TINY, *JOINT, "model.head=attention", "training.loss=dpo-like"),
    "interaction": ("tiny", *TINY, "model.head=interaction", "inference.swap_average=true"),
    "davidson": ("tiny", *TINY, "model.head=davidson", "training.loss=distillation"),
    "rao-kupper": ("tiny", *TINY, "model.head=rao-kupper", "model.offset=structure"),
    "softmax": ("tiny", *TINY, "model.scores=softmax"),
    "clipped": ("tiny", *TINY, "model.scores=softmax", "inference.normalise=clip"),
    "blend": (
        "cpu-best",
        'model.members=["prior", "sparse model.term_penalties=3 model.structure_penalties=30"]',
        "model.folds=2",
    ),
    "geometric blend": ("cpu-best", 'model.members=["prior", "prior"]', "model.mean=geometric"),
    "decoder": ("llama-3.2-1b-lora", *DECODER, "inference.swap_average=true"),
    "answer tokens": ("llama-3.2-1b-lora", *DECODER, "model.head=tokens", "model.answers=A,B,C"),
    "untrained": (
        "llama-3.2-1b-lora",
        *DECODER,
        "model.head=tokens",
        "model.answers=A,B,C",
        "training.epochs=0",
        "inference.swap_average=true",
    ),
    "dpo": ("llama-3.2-1b-dpo", *DPO),
    "dpo, rao-kupper": (
        "llama-3.2-1b-dpo",
        *DPO,
        "model.link=rao-kupper",
        "training.ties=davidson",
    ),
}
QUICK = ("prior", "sparse", "embedding", "boosted", "encoder", "blend", "decoder", "dpo")
"""One of each family; the others run in `make check`."""


def test_no_family_is_left_out():
    families = {load_config(preset, None, options).family for preset, *options in CASES.values()}
    assert families == set(FAMILIES)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES
    ],
)
def config(request):
    preset, *options = CASES[request.param]
    config = load_config(preset, None, [*options, "training.classes=2"])
    if config.family in ("embedding", "encoder", "decoder", "dpo"):
        pytest.importorskip("torch")
    if config.family in ("decoder", "dpo"):
        pytest.importorskip("peft")
        folder = str(request.getfixturevalue("decoder_folder")())
        config = replace(config, model=replace(config.model, backbone=folder))
    if config.family == "boosted":
        pytest.importorskip("xgboost")
        pytest.importorskip("lightgbm")
    with pytest.MonkeyPatch.context() as patch:
        if config.family == "embedding":
            patch.chdir(request.getfixturevalue("sentence_encoder").parent)
        yield config


@pytest.fixture(scope="module")
def decided(pairs):
    """Rows that are not ties."""
    labels = labels_of(pairs)
    return pairs[labels[:, 2] == 0][:24].reset_index(drop=True)


def test_ties_are_ruled_out(config, decided, tmp_path):
    labels = labels_of(decided)
    held = decided[:6]
    model = build_model(config).fit(decided, labels, validation=(held, labels[:6]))
    made = model.predict_proba(decided)
    np.testing.assert_array_equal(made[:, 2], 0)
    assert (made[:, :2] > 0).all()
    np.testing.assert_allclose(made.sum(axis=1), 1, atol=1e-12)
    if model.held_out_ is not None:
        np.testing.assert_array_equal(model.held_out_[:, 2], 0)
    if model.swap_equivariant:
        swapped = model.predict_proba(swap_pairs(decided))
        np.testing.assert_allclose(swapped[:, [1, 0, 2]], made, atol=1e-6)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.training.classes == 2
    again = loaded.predict_proba(decided)
    np.testing.assert_array_equal(again[:, 2], 0)
    np.testing.assert_allclose(again, made, atol=1e-6)
    tied = labels.copy()
    tied[[3, 8]] = [0.5, 0.2, 0.3]
    with pytest.raises(InputError, match=r"fit: row 4, 9: expected no ties, .* got 2 of 24 rows"):
        build_model(config).fit(decided, tied)
