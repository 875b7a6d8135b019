"""DPO: what is scored, the reference, the loss at the start, learning, the link, and memory over
the vocabulary."""

import logging
import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from humanpref.config import load_config
from humanpref.config.neural import DpoTraining
from humanpref.data import labels_of, swap_pairs
from humanpref.models import build_model, load_model
from humanpref.models import dpo as module
from humanpref.models.dpo import (
    DpoModel,
    RewardReport,
    fit_link,
    link_probabilities,
    response_log_probabilities,
)
from humanpref.models.heads import LINKS, tie_score
from humanpref.models.pretrained import load_tokenizer
from humanpref.schema import InputError

SETTINGS = (
    "model.max_length=80",
    "model.lora_dropout=0",
    "training.batch_size=8",
    "training.learning_rate=3e-3",
    "training.link_fraction=0",
)


def config_with(folder, *overrides):
    return load_config(
        "llama-3.2-1b-dpo", overrides=[f"model.backbone={folder}", *SETTINGS, *overrides]
    )


@pytest.fixture(scope="module")
def few(pairs):
    return pairs[:16].reset_index(drop=True)


def untouched_log_probabilities(folder, collate, rows):
    """The base's log-probabilities of the responses, by transformers' own scores over the whole
    vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    found = np.zeros((len(rows), 2))
    for i, row in enumerate(rows):
        batch = collate(np.array([row]))
        for side in range(2):
            real = batch["attention_mask"][0, side].bool()
            ids, marked = (
                batch["input_ids"][0, side][real],
                torch.from_numpy(batch["responses"][0, side])[real].bool(),
            )
            with torch.inference_mode():
                scores = torch.log_softmax(
                    model(input_ids=ids.unsqueeze(0)).logits[0].double(), dim=-1
                )
            steps = scores[:-1].gather(1, ids[1:].unsqueeze(1)).squeeze(1)
            found[i, side] = steps[marked[1:]].sum()
    return found


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("peft", ["lora", "layernorm"])
def test_the_reference_is_the_untouched_base_and_the_policy_starts_as_it(
    kind, peft, decoder_folder, few
):
    folder = decoder_folder(kind, **({"final_logit_softcapping": 3.0} if kind == "gemma2" else {}))
    model = DpoModel.from_config(config_with(folder, f"model.peft={peft}"))
    model.build(few)
    inputs = model.referenced(model.inputs(few))
    expected = untouched_log_probabilities(folder, inputs, range(len(few)))
    np.testing.assert_allclose(inputs.per_row["reference"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.margins(few), 0, atol=1e-4)
    loss = RewardReport(model.config.training)(
        model.module_(**inputs(np.arange(8))), torch.eye(3)[[0, 1] * 4]
    )
    np.testing.assert_allclose(loss.detach(), math.log(2), atol=1e-4)


def test_the_reference_stays_while_the_policy_learns(decoder_folder, few):
    folder = decoder_folder()
    model = build_model(config_with(folder)).fit(few, labels_of(few))
    inputs = model.referenced(model.inputs(few))
    assert np.abs(model.log_ratios(inputs)).max() > 0.01
    expected = untouched_log_probabilities(folder, inputs, range(len(few)))
    np.testing.assert_allclose(inputs.per_row["reference"], expected, rtol=1e-5, atol=1e-5)
    trainable = {name for name, weight in model.module_.named_parameters() if weight.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_gradients_reach_the_adapter_alone_and_the_frozen_stays(decoder_folder, few):
    config = config_with(decoder_folder(), "training.epochs=3")
    torch.manual_seed(config.seed)
    started = DpoModel.from_config(config)
    started.build(few)
    model = build_model(config).fit(few, labels_of(few))
    before, after = started.module_.state_dict(), model.module_.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if "lora_" in name} | {"link"}


@pytest.mark.slow
def test_decided_pairs_are_learned_by_heart(decoder_folder, pairs, caplog, monkeypatch):
    monkeypatch.setattr(module, "REPORT_EVERY", 2)
    decided = pairs[labels_of(pairs)[:, 2] == 0][:16].reset_index(drop=True)
    config = config_with(
        decoder_folder(), "training.epochs=12", "training.beta=0.5", "training.learning_rate=2e-2"
    )
    with caplog.at_level(logging.INFO):
        model = build_model(config).fit(decided, labels_of(decided))
    assert model.report_["link"]["reward_accuracy"] == 1
    probabilities = model.predict_proba(decided)
    assert (probabilities[:, :2].argmax(axis=1) == labels_of(decided)[:, :2].argmax(axis=1)).all()
    assert -np.log((probabilities * labels_of(decided)).sum(axis=1)).mean() < 0.3
    said = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("rewards: ")
    ]
    assert len(said) >= 10
    assert said[-1].endswith("accuracy 1.000")


@pytest.mark.parametrize("ties", ["drop", "davidson", "rao-kupper"])
def test_ties_teach_where_they_are_wanted(ties, decoder_folder, few):
    tied = np.tile([0.0, 0.0, 1.0], (len(few), 1))
    model = build_model(config_with(decoder_folder(), f"training.ties={ties}", "training.epochs=2"))
    model.fit(few, tied)
    assert ("training" in model.report_) == (ties != "drop")
    assert model.predict_proba(few)[:, 2].mean() > 0.6


def test_the_paper_s_tie_parameters():
    # nu = 1 in Davidson's and 3 in Rao and Kupper's parametrisation: a tie at equal rewards has
    # probability 1/2.
    assert tie_score("davidson", 0.5) == pytest.approx(math.log(2))
    assert math.log1p(math.exp(tie_score("rao-kupper", 0.5))) == pytest.approx(math.log(3))
    for link in LINKS:
        for share in (0.1, 0.5, 0.9):
            assert link_probabilities(link, np.zeros(1), 0.3, tie_score(link, share))[
                0, 2
            ] == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        # d = ln 9 for A: Davidson ∝ (3, 1/3, 2),
        # Rao-Kupper sigmoid(ln 9 - ln 3) = 3/4, sigmoid(-ln 27)
        # = 1/28, the rest 3/14.
        ("davidson", [-math.log(9 / 16), -math.log(1 / 16), -math.log(6 / 16)]),
        ("rao-kupper", [-math.log(3 / 4), -math.log(1 / 28), -math.log(3 / 14)]),
    ],
)
def test_the_losses_with_ties_by_hand(ties, expected):
    loss = RewardReport(DpoTraining(beta=0.5, ties=ties))
    ratios = torch.tensor([[2 * math.log(9) + 1, 1.0]]).double().repeat(3, 1)
    assert loss(ratios, torch.eye(3).double()).tolist() == pytest.approx(expected, rel=1e-4)
    ratios = torch.randn(
        4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.eye(3).double()[[0, 1, 2, 2]]), ratios)


def test_only_responses_are_scored_with_the_token_that_ends_each(decoder_folder):
    for chat in (True, False):
        config = config_with(decoder_folder(chat=chat), "model.max_length=200")
        model = DpoModel.from_config(config)
        model.tokenizer_ = tokenizer = load_tokenizer(config.model.backbone)
        rows = {
            "prompt": [("who?", "why?")],
            "response_a": [("me", "so")],
            "response_b": [("you", "no")],
        }
        batch = model.inputs(rows)(np.array([0]))
        for side, answers in enumerate((("me", "so"), ("you", "no"))):
            scored = batch["input_ids"][0, side][batch["responses"][0, side].astype(bool)]
            end = "<|end|>" if chat else "[SEP]"
            assert (
                tokenizer.decode(scored).replace(" ", "") == f"{answers[0]}{end}{answers[1]}{end}"
            )
            whole = tokenizer.decode(
                batch["input_ids"][0, side][batch["attention_mask"][0, side].bool()]
            )
            assert whole.count("[CLS]") == 1
            assert whole.replace(" ", "").index("who?") < whole.replace(" ", "").index(answers[0])


def test_positions_go_through_the_vocabulary_in_chunks(decoder_folder, few, monkeypatch):
    model = DpoModel.from_config(config_with(decoder_folder()))
    model.build(few)
    batch = model.inputs(few)(np.arange(4))
    names = ("input_ids", "attention_mask", "responses")
    flat = [*(batch[name].reshape(8, -1) for name in names), batch["lengths"].reshape(8)]
    causal = model.module_.backbone.get_base_model()
    sizes = []
    causal.lm_head.register_forward_hook(lambda _, inputs, output: sizes.append(output.shape[0]))
    whole = response_log_probabilities(causal, *flat)
    assert sizes == [int(flat[2].sum())]
    monkeypatch.setattr(module, "CHUNK", 16)
    sizes.clear()
    chunks = response_log_probabilities(causal, *flat)
    assert max(sizes) == 16
    torch.testing.assert_close(chunks, whole)
    weight = causal.base_model.layers[0].self_attn.q_proj.lora_B["default"].weight
    (whole_grad,), (chunk_grad,) = (
        torch.autograd.grad(total.sum(), weight) for total in (whole, chunks)
    )
    assert whole_grad.abs().max() > 0
    torch.testing.assert_close(chunk_grad, whole_grad)


def test_length_normalisation_divides_by_the_scored_tokens(decoder_folder, few):
    plain, divided = (
        DpoModel.from_config(config_with(decoder_folder(), f"training.length_normalisation={v}"))
        for v in ("false", "true")
    )
    for model in (plain, divided):
        model.build(few)
    inputs = plain.inputs(few)
    counts = np.array([inputs(np.array([i]))["responses"][0].sum(axis=1) for i in range(len(few))])
    summed, mean = (model.referenced(inputs).per_row["reference"] for model in (plain, divided))
    np.testing.assert_allclose(mean, summed / counts, rtol=1e-5)


def test_the_link_is_fitted_on_rows_that_the_policy_did_not_see(decoder_folder, pairs, monkeypatch):
    seen = []
    inputs = DpoModel.inputs
    # The rows to learn from are read first, then those for the link.
    monkeypatch.setattr(
        DpoModel, "inputs", lambda self, rows, *rest: seen.append(rows) or inputs(self, rows, *rest)
    )
    config = config_with(decoder_folder(), "training.link_fraction=0.25", "training.batch_size=60")
    model = build_model(config).fit(pairs, labels_of(pairs))
    learned, kept = seen
    assert not set(kept["prompt"]) & set(learned["prompt"])
    assert 20 <= len(kept) == model.report_["link"]["rows"] <= 40
    assert (labels_of(learned)[:, 2] == 0).all()


def test_the_link_finds_scale_and_ties_again():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=4_000)
    for name in LINKS:
        truth = link_probabilities(name, margins, math.log(2.5), -0.4)
        start = np.array([0.0, tie_score(name, 0.5)])
        link, facts = fit_link(name, margins, truth, np.ones(len(margins)), start)
        assert link == pytest.approx([math.log(2.5), -0.4], abs=0.01)
        assert (facts["rows"], facts["reward_accuracy"]) == (4_000, 1.0)
        assert facts["scale"] == pytest.approx(2.5, rel=0.01)
        assert facts["nu"] == pytest.approx(-0.4, abs=0.01)


def test_swapping_is_exact_and_the_artifact_is_small(decoder_folder, few, tmp_path):
    model = build_model(config_with(decoder_folder(), "model.link=rao-kupper")).fit(
        few, labels_of(few)
    )
    expected = model.predict_proba(few)
    np.testing.assert_allclose(
        model.predict_proba(swap_pairs(few))[:, [1, 0, 2]], expected, atol=1e-5
    )
    model.save(tmp_path)
    assert all(
        "lora_" in name or name == "link" for name in load_file(tmp_path / "model.safetensors")
    )
    np.testing.assert_allclose(load_model(tmp_path).predict_proba(few), expected, atol=1e-6)


def test_methods_without_a_reference_are_refused():
    for peft in ("head", "bias", "none"):
        with pytest.raises(InputError, match=r"model\.peft: expected one of lora"):
            load_config("llama-3.2-1b-dpo", overrides=[f"model.peft={peft}"])
    with pytest.raises(InputError, match="label_smoothing: expected 0 with ties=davidson"):
        load_config(
            "llama-3.2-1b-dpo", overrides=["training.ties=davidson", "training.label_smoothing=0.1"]
        )
