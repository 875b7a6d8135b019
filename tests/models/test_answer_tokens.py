"""Answer tokens: the scores are the model's own, what learns, the calibration of an untrained
judge, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from transformers import AutoModelForCausalLM

from humanpref.config import load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.models import build_model, load_model
from humanpref.models.answer_tokens import fit_calibration
from humanpref.models.decoder import DecoderModel
from humanpref.schema import SWAPPED_CLASSES, InputError

SETTINGS = (
    "model.head=tokens",
    "model.answers=A,B,C",
    "model.max_length=128",
    "model.system_prompt=",
    "model.question=Which?",
    "model.lora_dropout=0",
    "training.batch_size=8",
    "training.learning_rate=1e-2",
)
KINDS = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 3.0},
    "qwen2": {"tie_word_embeddings": True},
}


def config_with(folder, *overrides):
    return load_config(
        "llama-3.2-1b-lora", overrides=[f"model.backbone={folder}", *SETTINGS, *overrides]
    )


def built(config, pairs):
    model = DecoderModel.from_config(config)
    model.build(pairs)
    return model


@pytest.fixture(scope="module")
def few(pairs):
    return pairs[:16].reset_index(drop=True)


def own_probabilities(folder, model, pairs):
    """Return transformers' probabilities of the answers, from its scores of the complete
    vocabulary, one row at a time without padding."""
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    words = [model.tokenizer_.convert_tokens_to_ids(word) for word in ("A", "B", "C")]
    found = []
    for (sequence,) in model.inputs(pairs).sequences:
        with torch.inference_mode():
            ids = torch.from_numpy(sequence.ids).long().unsqueeze(0)
            found.append(base(input_ids=ids).logits[0, -1, words].double().numpy())
    return softmax(np.array(found), axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_are_those_of_the_untouched_model(kind, decoder_folder, few):
    folder = decoder_folder(kind, **KINDS[kind])
    model = built(config_with(folder), few)
    expected = own_probabilities(folder, model, few)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(model.predict_proba(few), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "peft"),
    [("llama", "lora"), ("gemma2", "layernorm"), ("qwen2", "bias"), ("qwen2", "none")],
)
def test_what_learns_is_saved_and_nothing_is_new(kind, peft, decoder_folder, few, tmp_path):
    folder = decoder_folder(kind, **KINDS[kind])
    config = config_with(folder, f"model.peft={peft}", "training.epochs=2")
    before = built(config, few)
    model = build_model(config).fit(few, labels_of(few))
    names = {name for name, weight in model.module_.named_parameters() if weight.requires_grad}
    assert all(name.startswith("backbone.") for name in names)
    assert not {name for name in names if "lm_head" in name}
    assert np.abs(model.predict_proba(few) - before.predict_proba(few)).max() > 1e-3
    model.save(tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")
    tied = {"backbone.lm_head.weight"} if peft == "none" else set()
    assert set(saved) == names | tied | {"calibration"}
    assert saved["calibration"].tolist() == [1, 0, 0, 0]
    again = load_model(tmp_path / "model").predict_proba(few)
    np.testing.assert_allclose(again, model.predict_proba(few), atol=1e-6)


@pytest.mark.slow
def test_sixteen_pairs_are_learned(decoder_folder, few):
    changes = ("training.epochs=40", "model.lora_r=8", "model.target_modules=all-linear")
    config = config_with(decoder_folder(), *changes)
    model = build_model(config).fit(few, labels_of(few))
    rates = labels_of(few).mean(axis=0)
    entropy = -(rates * np.log(rates)).sum()
    assert -model.score(few, labels_of(few)) < entropy / 2


@pytest.fixture(scope="module")
def judge(decoder_folder, pairs):
    config = config_with(decoder_folder(), "training.epochs=0", "inference.swap_average=true")
    rows = pairs[:80].reset_index(drop=True)
    return build_model(config).fit(rows, labels_of(rows))


def test_an_untrained_judge_is_its_base_and_four_numbers(judge, few, decoder_folder, tmp_path):
    assert not [name for name, w in judge.module_.named_parameters() if w.requires_grad]
    for name, weight in judge.module_.backbone.state_dict().items():
        assert torch.equal(weight, load_file(decoder_folder() / "model.safetensors")[name])
    assert judge.report_["backbone"]["peft"] == "head"
    assert judge.report_["calibration"]["rows"] == 80
    judge.save(tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert set(saved) == {"calibration"}
    assert saved["calibration"][0] >= 0
    again = load_model(tmp_path / "model").predict_proba(few)
    np.testing.assert_array_equal(again, judge.predict_proba(few))
    raw = copy_with(judge, [1, 0, 0, 0]).predict_proba(few)
    assert np.abs(raw - judge.predict_proba(few)).max() > 0.01


def copy_with(judge, calibration):
    copy = built(judge.config, None)
    copy.module_.calibration.copy_(torch.tensor(calibration))
    return copy


def test_a_judge_with_calibration_swaps_exactly(judge, few):
    both = copy_with(judge, [0.5, 0.7, -0.9, 0.2])
    first, second = both.predict_proba(few), both.predict_proba(swap_pairs(few))
    np.testing.assert_allclose(first, second[:, SWAPPED_CLASSES], atol=1e-12)
    single = both.single_order()
    one, other = single.predict_proba(few), single.predict_proba(swap_pairs(few))
    assert np.abs(one - other[:, SWAPPED_CLASSES]).max() > 0.1
    np.testing.assert_allclose(first, (one + other[:, SWAPPED_CLASSES]) / 2, atol=1e-6)


def test_a_damaged_artifact_is_refused(judge, tmp_path):
    judge.save(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    trained = built(replace(judge.config, training=replace(judge.training, epochs=1)), None)
    trained.save(tmp_path / "trained")
    shutil.copy(tmp_path / "trained" / "model.safetensors", tmp_path / "other")
    with pytest.raises(InputError, match=r"model.safetensors: unexpected|unknown|does not"):
        load_model(tmp_path / "other")


def drawn(n, sharpness, biases, seed=0):
    """Draw raw logits in both orders, with a preference for the first response and the first word,
    and labels from the calibrated mean of both orders."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(n, 3)) * 2
    noise = rng.normal(size=(2, n, 3)) / 2
    raw = np.stack([quality, quality[:, SWAPPED_CLASSES]]) + noise + [3.0, 1.0, -4.0]
    p = softmax(sharpness * raw + biases, axis=2)
    p = (p[0] + p[1][:, SWAPPED_CLASSES]) / 2
    labels = np.eye(3)[[rng.choice(3, p=row) for row in p]]
    return raw, labels, p


def test_the_calibration_finds_the_biases_that_made_the_labels(caplog):
    biases = np.array([-1.6, -0.4, 2.0])
    raw, labels, truth = drawn(20_000, 0.5, biases)
    found, facts = fit_calibration(raw, labels, np.ones(len(raw[0])), averaged=True)
    np.testing.assert_allclose(found[0], 0.5, atol=0.03)
    np.testing.assert_allclose(found[1:], biases - biases.mean(), atol=0.12)
    assert facts["inverse_temperature"] == found[0]
    assert not caplog.text
    p = softmax(found[0] * raw + found[1:], axis=2)
    p = (p[0] + p[1][:, SWAPPED_CLASSES]) / 2
    assert np.abs(p - truth).mean() < 0.01


def test_each_order_is_fitted_if_only_one_is_read():
    raw, labels, _ = drawn(20_000, 0.5, np.array([-1.6, -0.4, 2.0]))
    found, _ = fit_calibration(raw, labels, np.ones(len(labels)), averaged=False)

    def loss(calibration):
        logs = log_softmax(calibration[0] * raw + calibration[1:], axis=2)
        return -(labels * (logs[0] + logs[1][:, SWAPPED_CLASSES])).sum(axis=1).mean() / 2

    for step in 0.02 * np.vstack([np.eye(4), -np.eye(4)]):
        assert loss(found + step) > loss(found)


def test_weights_count_rows_and_the_orders_exchange():
    raw, labels, _ = drawn(60, 0.5, np.zeros(3))
    weights = np.where(np.arange(60) < 20, 2.0, 1.0)
    twice = np.r_[np.arange(60), np.arange(20)]
    found, _ = fit_calibration(raw, labels, weights, averaged=True)
    repeated, _ = fit_calibration(raw[:, twice], labels[twice], np.ones(80), averaged=True)
    np.testing.assert_allclose(found, repeated, atol=1e-5)
    swapped, _ = fit_calibration(raw[::-1], labels[:, SWAPPED_CLASSES], weights, averaged=True)
    np.testing.assert_allclose(found, swapped, atol=1e-5)


def test_few_rows_do_not_overfit():
    """Logits that say nothing about the labels: the judge stays near 1/3."""
    excess = {}
    for n in (8, 30):
        for seed in range(4):
            raw, _, _ = drawn(n + 1_000, 0.5, np.zeros(3), seed)
            labels = np.eye(3)[np.random.default_rng(seed).integers(3, size=n + 1_000)]
            found, _ = fit_calibration(raw[:, :n], labels[:n], np.ones(n), averaged=True)
            p = softmax(found[0] * raw[:, n:] + found[1:], axis=2)
            p = (p[0] + p[1][:, SWAPPED_CLASSES]) / 2
            excess[n, seed] = -np.log((p * labels[n:]).sum(axis=1)).mean() - np.log(3)
    assert np.mean(list(excess.values())) < 0.02, excess
    assert max(excess.values()) < 0.1, excess


def test_logits_that_never_differ_give_the_class_rates(caplog):
    labels = np.eye(3)[[0] * 50 + [1] * 30 + [2] * 20]
    found, _ = fit_calibration(np.ones((2, 100, 3)), labels, np.ones(100), averaged=True)
    assert "do not help to predict the labels of the 100 training rows" in caplog.text
    assert abs(found[1] - found[2]) < 1e-5
    np.testing.assert_allclose(softmax(found[1:]), [0.4, 0.4, 0.2], atol=0.05)


def test_scores_that_overflowed_are_refused():
    logits = np.ones((2, 5, 3))
    logits[1, 2, 0] = np.inf
    with pytest.raises(InputError, match=r"inference\.precision: .* not finite"):
        fit_calibration(logits, np.eye(3)[[0] * 5], np.ones(5), averaged=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.answers=A,B,neither",), "model.answers: .*'neither', which is '[^']+', '"),
        (("model.peft=head",), "model.peft: expected another method with head=tokens"),
        (("training.head_learning_rate=0.1",), "head_learning_rate: expected none"),
        (
            ("model.head=linear", "training.epochs=0"),
            "training.epochs: expected at least 1 without model.head=tokens",
        ),
        (("model.target_modules=lm_head",), "plain output layer of backbone"),
    ],
)
def test_what_will_not_do(overrides, message, decoder_folder, few):
    with pytest.raises(InputError, match=message):
        build_model(config_with(decoder_folder(), *overrides)).fit(few, labels_of(few))


@pytest.mark.parametrize("preset", ["tiny", "llama-3.2-1b-dpo"])
def test_other_families_are_always_trained(preset):
    with pytest.raises(InputError, match=r"training\.epochs: expected at least 1, got 0"):
        load_config(preset, overrides=["training.epochs=0"])


def test_words_of_two_tokens_are_refused_before_training(decoder_folder):
    with pytest.raises(InputError, match="'neither'"):
        DecoderModel.from_config(config_with(decoder_folder(), "model.answers=A,B,neither")).check()
