"""One contract, every family: shapes, sums, order, save and load, odd rows, swapping, weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from humanpref.config import FAMILIES, load_config
from humanpref.data import labels_of, read_pairs, swap_pairs
from humanpref.models import build_model, load_model
from humanpref.schema import TEXT_COLUMNS, InputError

MICRO = [
    "model.max_length=48",
    "model.scratch_hidden_size=8",
    "model.scratch_layers=1",
    "model.scratch_vocabulary=300",
    "training.epochs=1",
]
DECODER = [
    "model.max_length=64",
    "model.system_prompt=",
    "model.question=Which?",
    "training.batch_size=16",
    "training.learning_rate=1e-2",
]
DPO = [
    "model.max_length=64",
    "training.batch_size=16",
    "training.learning_rate=1e-2",
    "training.beta=1",
]
FEW = ["model.term_penalties=[10, 3]", "model.structure_penalties=[100]"]
TREES = ["model.max_rounds=30", "model.patience=5", "model.learning_rate=0.2", "model.seeds=2"]
CONFIGS = {
    "prior": load_config("prior"),
    "sparse": load_config("sparse", overrides=FEW),
    # The fixture `sentence_encoder`, by a relative path: the tests run beside it.
    "embedding": load_config(
        "embedding",
        overrides=[
            "model.backbone=tiny-encoder",
            "model.embedding_penalties=[100, 30]",
            "model.structure_penalties=[100]",
        ],
    ),
    "embedding, mlp": load_config(
        "embedding", overrides=["model.backbone=tiny-encoder", "model.head=mlp", "model.hidden=8"]
    ),
    "boosted": load_config("boosted", overrides=TREES),
    "encoder": load_config("tiny", overrides=MICRO),
    "encoder, joint": load_config(
        "tiny",
        overrides=[
            *MICRO,
            "model.inputs=joint",
            "model.head=attention",
            "inference.swap_average=true",
        ],
    ),
    "encoder, dual averaged": load_config(
        "tiny", overrides=[*MICRO, "model.head=interaction", "inference.swap_average=true"]
    ),
    "encoder, davidson": load_config(
        "tiny", overrides=[*MICRO, "model.head=davidson", "model.layer_norm=true"]
    ),
    "encoder, offset": load_config(
        "tiny", overrides=[*MICRO, "model.offset=structure", "model.zero_start=true"]
    ),
    # So strong a pull to equal weights that inner folds, which depend on the rows, have no say.
    "blend": load_config(
        "cpu-best",
        overrides=[
            'model.members=["prior", "sparse model.min_rows=1 model.term_penalties=3 '
            'model.structure_penalties=30"]',
            "model.folds=2",
            "model.shrinkage=1e9",
            "model.min_gain=0",
        ],
    ),
    "decoder": load_config(
        "llama-3.2-1b-lora", overrides=[*DECODER, "inference.swap_average=true"]
    ),
    "dpo": load_config("llama-3.2-1b-dpo", overrides=DPO),
}
EXACT = {"prior": 1e-12, "boosted": 1e-12}
EXACT |= dict.fromkeys(("sparse", "embedding", "encoder", "blend", "decoder", "dpo"), 1e-5)
TORCH = ("embedding", "encoder", "decoder", "dpo")


def test_no_family_is_left_out():
    assert {config.family for config in CONFIGS.values()} == set(FAMILIES)


VARIANTS = (
    "embedding, mlp",
    "encoder, joint",
    "encoder, dual averaged",
    "encoder, davidson",
    "encoder, offset",
)
"""Of a family that is here already."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in VARIANTS else []) for name in CONFIGS
    ],
)
def family(request):
    config = CONFIGS[request.param]
    if config.family in TORCH:
        pytest.importorskip("torch")
    if config.family in ("decoder", "dpo"):
        pytest.importorskip("peft")
        folder = request.getfixturevalue("decoder_folder")()
        CONFIGS[request.param] = replace(config, model=replace(config.model, backbone=str(folder)))
    if config.family == "boosted":
        pytest.importorskip("xgboost")
    with pytest.MonkeyPatch.context() as patch:
        if config.family == "embedding":
            patch.chdir(request.getfixturevalue("sentence_encoder").parent)
        yield request.param


@pytest.fixture(scope="module")
def rows(pairs):
    """A third of the arena's training rows."""
    return pairs[:40].reset_index(drop=True)


@pytest.fixture(scope="module")
def model(family, rows):
    fitted = build_model(CONFIGS[family])
    assert fitted.fit(rows, labels_of(rows), validation=(rows[:9], labels_of(rows[:9]))) is fitted
    return fitted


@pytest.fixture(scope="module")
def predicted(model, rows):
    return model.predict_proba(rows)


@pytest.fixture(scope="module")
def odd_rows(tmp_path_factory):
    cells = {
        "plain": (["What?"], ["This."], ["That."]),
        "nulls": ([None], [None], [None]),
        "no turns": ([], [], []),
        "empty": ([""], [""], ["Something."]),
        "surrogate": (["\ud83d"], ["\udc00"], ["fine"]),
        "long": (["p" * 50_000], ["a " * 25_000], ["b"]),
        "chinese": (["请问今天天气怎么样？"], ["晴天。"], ["下雨。"]),
        "many turns": (["q"] * 36, ["a"] * 36, ["b"] * 35),
        "identical": (["q"], ["same"], ["same"]),
    }
    frame = pd.DataFrame(
        [[json.dumps(cell) for cell in row] for row in cells.values()],
        columns=["prompt", "response_a", "response_b"],
    )
    frame.insert(0, "id", list(cells))
    path = tmp_path_factory.mktemp("odd") / "test.csv"
    frame.to_csv(path, index=False)
    return read_pairs(path)


def check_probabilities(probabilities, rows):
    assert probabilities.shape == (rows, 3)
    assert probabilities.dtype == np.float64
    assert np.isfinite(probabilities).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


def test_probabilities(predicted, rows):
    check_probabilities(predicted, len(rows))


@pytest.mark.slow
def test_every_entry_reads_a_callers_frame_as_a_file(model, family, rows, arena):
    raw, read = pd.read_csv(arena / "test.csv")[:8], read_pairs(arena / "test.csv")[:8]
    plain = read.assign(
        **{column: [" ".join(turns) for turns in read[column]] for column in TEXT_COLUMNS}
    )
    one_turn = read.assign(
        **{column: [(text,) for text in plain[column]] for column in TEXT_COLUMNS}
    )
    # In another order, of which only the index tells.
    for frame, same in (
        (raw, read),
        (plain, one_turn),
        (raw[::-1], read[::-1].reset_index(drop=True)),
    ):
        for name in ("predict_proba", "costs", "margins", "rewards"):
            if hasattr(model, name):
                made = getattr(model, name)
                np.testing.assert_array_equal(made(frame), made(same))
    with pytest.raises(InputError, match="missing column 'response_b'"):
        model.predict_proba(raw.drop(columns="response_b"))
    mixed = raw.assign(response_a=["plain", *raw["response_a"][1:]])
    with pytest.raises(InputError, match=r"row 1 .*: column 'response_a': expected a JSON list"):
        model.predict_proba(mixed)
    labelled = pd.read_csv(arena / "train.csv")[:24]
    few = rows[:24].reset_index(drop=True)
    fitted = build_model(CONFIGS[family]).fit(
        labelled, labels_of(labelled), validation=(raw, labels_of(few)[:8])
    )
    again = build_model(CONFIGS[family]).fit(
        few, labels_of(few), validation=(read, labels_of(few)[:8])
    )
    np.testing.assert_array_equal(fitted.predict_proba(raw), again.predict_proba(read))
    with pytest.raises(InputError, match="missing column 'prompt'"):
        build_model(CONFIGS[family]).fit(labelled.drop(columns="prompt"), labels_of(labelled))
    for labels, weights, told in (
        (labels_of(few)[:23], None, "labels"),
        (labels_of(few), np.ones(25), "weights"),
    ):
        with pytest.raises(InputError, match=rf"fit: {told}: expected one per row \(24\), got"):
            build_model(CONFIGS[family]).fit(few, labels, weights)


def test_any_row_can_be_predicted_alone_and_together(model, odd_rows, family):
    together = model.predict_proba(odd_rows)
    check_probabilities(together, len(odd_rows))
    for i in range(len(odd_rows)):
        alone = model.predict_proba(odd_rows[i : i + 1].reset_index(drop=True))
        np.testing.assert_allclose(
            alone[0], together[i], atol=EXACT[CONFIGS[family].family], err_msg=odd_rows["id"][i]
        )


def test_the_order_of_the_rows_does_not_matter(model, predicted, rows, family):
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = model.predict_proba(rows.iloc[order].reset_index(drop=True))
    np.testing.assert_allclose(shuffled, predicted[order], atol=EXACT[CONFIGS[family].family])


def test_saved_and_loaded(model, predicted, rows, tmp_path):
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    expected = model.config.to_dict()
    backbone = expected["model"].get("backbone", "scratch")
    if backbone not in ("", "scratch"):  # a folder is named without its path
        expected["model"]["backbone"] = f"./{Path(backbone).name}"
    assert loaded.config.to_dict() == expected
    np.testing.assert_allclose(loaded.predict_proba(rows), predicted, atol=1e-6)


@pytest.mark.parametrize("change", ["missing", "extra", "cut off"])
def test_loading_is_strict(model, tmp_path, change):
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    arrays = load_file(path)
    if change == "missing":
        arrays.pop(sorted(arrays)[0])
        save_file(arrays, path)
    elif change == "extra":
        save_file(arrays | {"stranger": np.zeros(1)}, path)
    else:
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(
        InputError,
        match=r"model\.safetensors: .*(missing weights|extra weights stranger|cannot be read)",
    ):
        load_model(tmp_path)


def test_swapping(model, predicted, rows):
    if model.swap_equivariant:
        swapped = model.predict_proba(swap_pairs(rows))
        np.testing.assert_allclose(swapped[:, [1, 0, 2]], predicted, atol=1e-6)
    again = swap_pairs(swap_pairs(rows))
    np.testing.assert_array_equal(model.predict_proba(again), predicted)


def test_the_same_seed_gives_the_same_model(predicted, family, rows):
    again = build_model(CONFIGS[family]).fit(rows, labels_of(rows))
    np.testing.assert_allclose(again.predict_proba(rows), predicted, atol=1e-9)


@pytest.mark.slow
def test_hard_labels_as_numbers_equal_one_hot(family, rows):
    few = rows[:20].reset_index(drop=True)
    hot = build_model(CONFIGS[family]).fit(few, labels_of(few)).predict_proba(few)
    numbers = (
        build_model(CONFIGS[family]).fit(few, labels_of(few).argmax(axis=1)).predict_proba(few)
    )
    np.testing.assert_allclose(hot, numbers, atol=1e-12)
    for wrong in (np.array([0, 1, 3]), np.zeros((3, 2)), np.ones((3, 3))):
        with pytest.raises(ValueError, match="labels"):
            build_model(CONFIGS[family]).fit(few[:3], wrong)


def test_soft_labels(family, rows):
    few = rows[:20].reset_index(drop=True)
    soft = np.tile([0.2, 0.3, 0.5], (20, 1))
    model = build_model(CONFIGS[family])
    check_probabilities(model.fit(few, soft).predict_proba(few), 20)
    mean = model.predict_proba(few).mean(axis=0)
    if family == "prior":
        np.testing.assert_allclose(mean, [0.2, 0.3, 0.5], atol=1e-12)
    elif family in ("sparse", "embedding", "boosted"):  # which have no side to prefer
        assert mean[2] == pytest.approx(0.5, abs=0.01 if family == "boosted" else 1e-3)


@pytest.mark.slow
def test_weight_two_equals_the_row_twice(family, rows):
    few = rows[:12].reset_index(drop=True)
    doubled = pd.concat([few, few[:3]], ignore_index=True)
    weights = np.where(np.arange(12) < 3, 2.0, 1.0)
    decoder = CONFIGS[family]
    if decoder.family in ("decoder", "dpo"):
        alone = {"link_fraction": 0.0} if decoder.family == "dpo" else {}
        decoder = replace(
            decoder,
            training=replace(decoder.training, batch_size=15, **alone),
            model=replace(decoder.model, lora_dropout=0.0),
        )
    config = {
        "prior": load_config("prior"),
        # One penalty, since the inner folds of 12 and of 15 rows differ; terms that stand in one
        # text will do.
        "sparse": load_config(
            "sparse",
            overrides=[
                "model.term_penalties=3",
                "model.structure_penalties=30",
                "model.min_rows=1",
            ],
        ),
        "embedding": load_config(
            "embedding",
            overrides=[
                "model.backbone=tiny-encoder",
                "model.embedding_penalties=30",
                "model.structure_penalties=30",
            ],
        ),
        # No early stopping, every row for every tree.
        "boosted": load_config(
            "boosted",
            overrides=[
                "model.rounds=20",
                "model.row_share=1",
                "model.min_child_weight=1",
                "model.l2=1",
            ],
        ),
        # One step over all rows, without chance.
        "encoder": load_config(
            "tiny",
            overrides=[
                *MICRO,
                "model.scratch_dropout=0",
                "training.swap_augmentation=false",
                "training.batch_size=15",
            ],
        ),
        "blend": CONFIGS["blend"],
        "decoder": decoder,
        "dpo": decoder,
    }[CONFIGS[family].family]
    weighted = build_model(config).fit(few, labels_of(few), weights).predict_proba(rows)
    twice = build_model(config).fit(doubled, labels_of(doubled)).predict_proba(rows)
    plain = build_model(config).fit(few, labels_of(few)).predict_proba(rows)
    difference = np.abs(weighted - twice).max()
    assert difference < TWICE[CONFIGS[family].family]
    assert np.abs(weighted - plain).max() > 10 * difference


TWICE = {"prior": 1e-12, "sparse": 1e-4, "embedding": 1e-4, "boosted": 1e-5, "blend": 1e-4}
TWICE |= dict.fromkeys(("encoder", "decoder", "dpo"), 1e-3)


def test_one_training_row(family, rows):
    model = build_model(CONFIGS[family]).fit(rows[:1], labels_of(rows[:1]))
    check_probabilities(model.predict_proba(rows[:5]), 5)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["sparse", "tiny"])
def test_a_measure_that_hardly_varied_in_training_decides_no_row_by_itself(preset, rows):
    if preset == "tiny":
        pytest.importorskip("torch")
    # All plain ASCII but for one letter in one long answer.
    ascii_only = rows.assign(response_a=[("It is so. " * (1 + i % 7),) for i in range(len(rows))])
    ascii_only = ascii_only.assign(
        response_b=ascii_only["response_a"], prompt=[(f"prompt {i}",) for i in range(len(rows))]
    )
    ascii_only.at[0, "response_a"] = ("é" + "a" * 20_000,)
    overrides = {"sparse": FEW, "tiny": [*MICRO, "model.offset=structure"]}[preset]
    model = build_model(load_config(preset, overrides=overrides)).fit(ascii_only, labels_of(rows))
    other = ascii_only[1:2].assign(response_b=[("今天天气很好。",)])
    probabilities = model.predict_proba(other)
    assert np.isfinite(probabilities).all()
    assert probabilities.min() > 1e-4
