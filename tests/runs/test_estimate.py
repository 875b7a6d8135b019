"""What a run takes on Kaggle: against hours computed kernel by kernel, and the verdict."""

import re
from importlib import resources

import numpy as np
import pytest

from humanpref.config import load_config, preset_names
from humanpref.config.gpu import uses_gpu
from humanpref.data import write_pairs
from humanpref.runs.estimate import estimate, estimate_artifact, shape_of, useful_gpus
from humanpref.runs.lengths import Lengths
from humanpref.schema import InputError

BASE = "model.backbone=microsoft/deberta-v3-base"


def of(preset, *sets, **options):
    return estimate(load_config(preset, None, list(sets)), preset, **options)


@pytest.mark.parametrize(
    ("preset", "sets", "one", "two", "read"),
    [
        # Hours on one and two T4, and for 25,000 rows on two, from every kernel on fake tensors
        # and real lengths; 80 % of the rows, without validation.
        ("deberta-v3-small", (), 0.4, 0.3, 0.03),
        ("deberta-v3-base", (), 0.8, 0.5, 0.07),
        ("deberta-best", (), 0.13, 0.16, 0.01),
        ("deberta-best", ("model.max_length=1024",), 0.5, 0.4, 0.04),
        ("deberta-best", ("model.max_length=1024", BASE), 0.9, 0.6, 0.08),
        ("llama-3.2-1b-lora", (), 1.5, 0.75, 0.15),
        # With the reference model, which takes 1.2 of the 3.7 hours, and all activations kept.
        ("llama-3.2-1b-dpo", ("training.gradient_checkpointing=false",), 3.7, 1.9, 0.8),
        ("gemma-2-9b-qlora", (), 95, 53, 5.5),
        ("qwen-2.5-7b-qlora", (), 62, 35, 3.6),
    ],
)
def test_the_hours_are_those_of_the_kernels(preset, sets, one, two, read):
    found = of(preset, *sets, "training.validation_fraction=0", rows=45_982)
    assert found.train[1] == pytest.approx(one, rel=0.3)
    assert found.train[2] == pytest.approx(two, rel=0.3)
    assert found.predict["qlora" in preset] == pytest.approx(read, rel=0.3)


def test_a_presets_file_says_what_the_estimate_says():
    for name in preset_names():
        found = of(name)
        if found is None:
            continue
        text = resources.files("humanpref.presets").joinpath(f"{name}.toml").read_text("utf-8")
        text, said = text.replace("\n# ", " "), "\n".join(found.lines())
        training = re.findall(r"([\d.]+-[\d.]+) hours of training on (one|two) T4", text)
        assert training, name
        assert uses_gpu(load_config(name)), name  # so that the kernels ask for one
        for hours, gpus in training:
            assert f"{hours} h on {gpus}" in said, name
        for hours in re.findall(r"([\d.]+-[\d.]+) (?:hours )?to read 25,000 rows", text):
            assert f"{hours} h " in said, name


def test_the_3b_preset_is_the_largest_that_is_surely_trained_in_nine_hours():
    """Even if a real run takes twice as long as the estimate."""

    def fits(backbone, *sets):
        return 2 * of("llama-3.2-3b-lora", f"model.backbone={backbone}", *sets).train[2] < 9

    ours = load_config("llama-3.2-3b-lora").model.backbone
    others = [f"publisher/{name}" for name in ("qwen2.5-1.5b", "qwen2.5-3b", "gemma-2-2b-it")]
    assert fits(ours)
    assert not fits(ours, "model.max_length=768")
    assert all(shape_of(other).weights < shape_of(ours).weights for other in others)
    assert not fits("google/gemma-2-9b")


def test_hours_grow_with_rows_lengths_epochs_and_models():
    base = of("deberta-v3-base")
    assert of("deberta-v3-base", rows=28_738).train[1] == pytest.approx(base.train[1] / 2, rel=0.1)
    assert of("deberta-v3-base", test_rows=50_000).predict[0] == pytest.approx(
        2 * base.predict[0], rel=0.05
    )
    texts = np.array([[20, 50, 50]])
    short = of("deberta-v3-base", lengths=Lengths(texts, texts, "short"))
    assert short.train[1] < base.train[1] / 3
    assert short.assumptions[0].startswith("short; 57,477 training and 25,000 test rows")
    folds = of("deberta-v3-base", folds=5)
    assert folds.train[1] == pytest.approx(5 * base.train[1], rel=0.05)
    assert folds.train[2] == folds.train[1] / 2
    assert folds.predict[0] == pytest.approx(5 * base.predict[0])
    epochs = of("deberta-v3-base", "training.epochs=3", "training.validation_fraction=0")
    once = of("deberta-v3-base", "training.validation_fraction=0")
    assert epochs.train[1] == pytest.approx(3 * once.train[1])


def test_an_untrained_judge_reads_its_rows_in_both_orders():
    sets = ("model.head=tokens", "training.epochs=0", "training.validation_fraction=0")
    found = of("llama-3.2-1b-lora", *sets, rows=20_000, test_rows=20_000)
    assert found.train[2] == pytest.approx(2 * found.predict[0], rel=0.1)


def test_both_orders_are_free_for_dual_inputs_only():
    assert of("deberta-v3-base").predict[0] == of("deberta-v3-base").predict[1]
    joint = of("deberta-best")
    assert joint.predict[1] == 2 * joint.predict[0]


def test_the_models_of_seven_to_nine_billion_cannot_be_trained():
    for preset in ("gemma-2-9b-qlora", "qwen-2.5-7b-qlora"):
        found = of(preset)
        assert found.gib < 14
        assert "training takes" in found.impossible
        assert found.verdict().endswith(f"cannot fit: {found.impossible}")
    assert of("gemma-2-9b-qlora", "model.quantisation=none").impossible.startswith(
        "training needs 2"
    )


def test_memory_names_options_that_help():
    whole = ("training.gradient_checkpointing=false", "model.max_length=4096")
    found = of("llama-3.2-1b-dpo", *whole)
    assert found.gib > 14
    lines = found.lines()
    assert any("to reduce it: training." in line for line in lines)
    assert lines[0] == "llama-3.2-1b-dpo"
    # All rows are known: none is as long as allowed.
    texts = np.full((50, 3), 100)
    short = of("llama-3.2-1b-dpo", *whole, lengths=Lengths(texts, texts, ""), rows=50)
    assert short.gib < 14


@pytest.mark.parametrize("preset", ["sparse", "boosted", "prior", "cpu-best", "tiny"])
def test_what_needs_no_gpu_is_not_estimated(preset):
    assert of(preset) is None


def test_two_gpus_are_slower_for_small_steps():
    assert useful_gpus(load_config("deberta-best"), 2) == 1
    assert useful_gpus(load_config("deberta-v3-base"), 2) == 2
    assert useful_gpus(load_config("llama-3.2-1b-lora"), 2) == 2
    assert useful_gpus(load_config("deberta-best"), 1) == 1
    assert useful_gpus(load_config("bge-base"), 2) == 1  # one process embeds
    unknown = load_config("deberta-best", None, ["model.backbone=unknown/encoder"])
    assert useful_gpus(unknown, 2) == 2


def test_sizes_come_from_a_folder_or_a_known_name(decoder_folder):
    assert shape_of("microsoft/deberta-v3-small").layers == 6
    with pytest.raises(InputError, match="the layer sizes of unknown/encoder are unknown"):
        shape_of("unknown/encoder")
    assert shape_of(str(decoder_folder())).gated


def test_an_artifact_is_only_read(decoder_folder, pairs, tmp_path):
    pytest.importorskip("torch")
    from humanpref.runs.train import train

    sets = [
        f"model.backbone={decoder_folder()}",
        "model.max_length=256",
        "training.batch_size=4",
        "training.seconds=1e-9",
    ]
    config = load_config("llama-3.2-1b-lora", None, sets)
    write_pairs(tmp_path / "train.csv", pairs[:12])
    train(config, tmp_path / "train.csv", tmp_path / "out", folds=2)
    found = estimate_artifact(tmp_path / "out", "artifact out")
    assert found.train == {}
    assert found.predict[1] == 2 * found.predict[0] > 0
    assert found.verdict().startswith("estimate: inference ")


QWEN, MINILM = "qwen3-embedding-0.6b", "model.backbone=sentence-transformers/all-MiniLM-L6-v2"


def test_a_frozen_encoder_takes_the_hours_of_its_passes():
    texts = np.full((50, 3), [100, 200, 200])
    found = of(QWEN, lengths=Lengths(texts, texts, "equal"))
    # Tokens of a row: an instruction of 22, two special tokens for each text, a tenth for turns.
    tokens = 1.1 * (100 + 22 + 2 + 2 * (200 + 2))
    products = 28 * (2 * 1_024 * (2_048 + 1_024) + 3 * 1_024 * 3_072)
    moved = 28 * (2 * 33 * 1_024 + 123 * 2_048 + 18 * 3_072) + 240 * 1_024
    seconds = tokens * (2 * products / 30e12 + moved / 250e9)
    assert found.train == {1: pytest.approx(57_477 * seconds / 3_600, rel=0.02)}
    assert found.predict == (pytest.approx(25_000 * seconds / 3_600 / 2, rel=0.02),) * 2
    assert found.verdict().endswith(
        " on one T4, inference 0.15-0.29 h (both orders 0.15-0.29): fits"
    )


def test_each_fold_and_seed_embeds_all_rows():
    once, folds = of(QWEN), of(QWEN, "training.seeds=2", folds=5)
    assert folds.train == {1: pytest.approx(10 * once.train[1])}
    assert folds.predict[0] == pytest.approx(10 * once.predict[0])
    assert of(QWEN, folds=20).impossible.startswith("training takes 17-")


def test_a_frozen_encoders_weights_and_one_batch_must_fit():
    # 0.6 billion weights in half precision, and CUDA's 0.5 GiB; then 16 full windows at once.
    assert 0.6 * 2 * 1e9 / 2**30 + 0.5 < of(QWEN).gib < 3
    assert of(QWEN, "inference.batch_tokens=1_000_000").gib > 14
    assert of(QWEN, "inference.batch_tokens=1_000_000").impossible == ""


def test_a_blend_takes_the_hours_of_its_frozen_members():
    one = of("embedding")
    assert of("cpu-best", MINILM).train == one.train
    members = (
        'model.members=["sparse", "embedding", "bge-base model.backbone=BAAI/bge-base-en-v1.5"]'
    )
    both = of("cpu-best", members, MINILM)
    bge = of("bge-base")
    assert both.train[1] == pytest.approx(one.train[1] + bge.train[1])
    assert both.predict[1] == pytest.approx(one.predict[1] + bge.predict[1])
    assert both.gib == bge.gib
    with pytest.raises(InputError, match="cannot estimate a blend that trains a network"):
        of("cpu-best", 'model.members=["sparse", "deberta-best"]')


@pytest.mark.slow
def test_an_embedding_artifact_has_the_shape_of_its_own_encoder(pairs, sentence_encoder, tmp_path):
    from humanpref.runs.train import train

    sets = [f"model.backbone={sentence_encoder}", "training.seeds=2"]
    config = load_config("embedding", None, [*sets, "model.embedding_penalties=100"])
    write_pairs(tmp_path / "train.csv", pairs[:40])
    train(config, tmp_path / "train.csv", tmp_path / "out")
    found = estimate_artifact(tmp_path / "out", "artifact out")
    assert found.train == {}
    assert found.predict == pytest.approx(of("embedding", *sets).predict)
    assert found.predict[0] < of("embedding", "training.seeds=2").predict[0]
