"""The memory estimate against the storages of real training steps, and the options it names."""

import weakref
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, DebertaV2Config, Gemma2Config, LlamaConfig

from humanpref.config.neural import DecoderOptions, EncoderOptions, LoopOptions
from humanpref.models.decoder import PairDecoder
from humanpref.models.encoder import PairEncoder
from humanpref.training import memory
from humanpref.training.memory import CUDA_GIB, MemoryEstimate, advice, log_memory
from humanpref.training.shapes import Shape

DEBERTA = DebertaV2Config(
    vocab_size=500,
    hidden_size=96,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=384,
    position_buckets=64,
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    share_att_key=True,
    norm_rel_ebd="layer_norm",
    position_biased_input=False,
    type_vocab_size=0,
)
SIZES = {
    "vocab_size": 500,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "head_dim": 32,
    "attn_implementation": "eager",
}
LLAMA = LlamaConfig(**SIZES | {"num_key_value_heads": 1, "attn_implementation": "sdpa"})
GEMMA = Gemma2Config(**SIZES, num_key_value_heads=3, sliding_window=1_024)
T4 = LoopOptions(batch_size=16, forward_tokens=4_096)


class Storages(TorchDispatchMode):
    """Counts the bytes of the living storages, and the most that there were."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor.untyped_storage())
        return result

    def hold(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known[key] = weakref.ref(storage, lambda _: self.release(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def release(self, key, size):
        del self.known[key]
        self.now -= size


def as_on_a_gpu(x, p=0.5, training=True, inplace=False):
    """On a GPU dropout keeps a mask of booleans; on the CPU, one of numbers."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def tracked(config, checkpointing, length):
    """Train two steps of two micro-batches; return the peak in GiB, and the estimate."""
    training = LoopOptions(batch_size=4, forward_tokens=1_024, gradient_checkpointing=checkpointing)
    with mock.patch.object(torch.nn.functional, "dropout", as_on_a_gpu), Storages() as storages:
        base = AutoModel.from_config(config)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        if config is DEBERTA:
            module = PairEncoder(base, EncoderOptions(inputs="joint"))
        else:
            module = PairDecoder(base, DecoderOptions(lora_r=4))
        estimate = MemoryEstimate.of_module(module.train(), training, length, half=False)
        shape = (estimate.sequences, 1, length)
        columns = ("input_ids", "attention_mask", *(["parts"] if config is DEBERTA else []))
        batch = {name: torch.ones(shape, dtype=torch.int64) for name in columns}
        batch["lengths"] = np.full(shape[:2], length)
        learned = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, foreach=True)
        for _ in range(2):
            storages.peak = storages.now
            for _ in range(2):
                module(**batch).logsumexp(dim=1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return storages.peak / 2**30, estimate


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "config",
    [DEBERTA, pytest.param(LLAMA, marks=pytest.mark.slow), GEMMA],
    ids=["deberta", "llama", "gemma2"],
)
def test_the_estimate_is_at_most_5_percent_under_and_30_over(config, checkpointing):
    peak, estimate = tracked(config, checkpointing, length=128)
    assert 0.95 * peak < estimate.total() - CUDA_GIB < 1.3 * peak


def test_scores_grow_with_the_square_of_the_length():
    short, long = (
        replace(on_t4(Shape.published("microsoft/deberta-v3-base")), sequences=n, length=length)
        for n, length in ((8, 512), (2, 2_048))
    )
    assert short.tokens == long.tokens
    # 12 layers of 12 heads keep 7 bytes for each pair of tokens.
    squares = 12 * 12 * 7 * 4_096 * (2_048 - 512) / 2**30
    grown = long.gib()["activations"] - short.gib()["activations"]
    assert squares < grown < 1.3 * squares


def on_t4(shape, **sizes):
    """Every weight of an encoder is trained; a decoder's are frozen, in half precision."""
    weights = {"trainable": 20_000_000, "frozen_bytes": 2.0 * shape.weights}
    if not shape.gated:
        weights = {"trainable": shape.weights, "frozen_bytes": 0.0}
    estimate = MemoryEstimate(shape=shape, length=512, half=True, **weights)
    return replace(estimate, **sizes).batched(T4)


def test_the_largest_batch_is_that_of_the_loop():
    base = on_t4(Shape.published("microsoft/deberta-v3-base"), sequences_per_row=2)
    assert (base.sequences, base.tokens) == (8, 4_096)
    # Two processes share a window of 16 rows.
    assert replace(base, length=8, processes=2).batched(T4).sequences == 16
    assert replace(base, length=4_000).batched(T4).sequences == 2
    assert replace(base, length=8).batched(T4).sequences == 32


def test_a_head_alone_keeps_no_activations():
    llama = on_t4(Shape.published("meta-llama/Llama-3.2-1B"))
    frozen = replace(llama, backward=False, trainable=6_000)
    assert frozen.gib()["activations"] < llama.gib()["activations"] / 4


def test_advice_is_given_until_it_fits():
    small = on_t4(Shape.published("microsoft/deberta-v3-small"))
    assert advice(small) == []
    large = on_t4(Shape.published("microsoft/deberta-v3-large"), sequences_per_row=2)
    assert large.total() > 14
    (change,) = advice(large)
    option, size = change.removesuffix(" GiB").split(" → ")
    assert option == "training.forward_tokens=1024"
    assert float(size) == round(replace(large, sequences=2).total(), 1) < 14
    long = on_t4(Shape.published("microsoft/deberta-v3-large"), length=2_048)
    named = [line.split("=")[0] for line in advice(long)]
    assert named == ["training.forward_tokens", "training.gradient_checkpointing"]


def test_advice_for_a_large_base_quantizes_it():
    gemma = on_t4(Shape.published("google/gemma-2-9b-it"), length=2_048)
    named = [line.split(" → ")[0] for line in advice(gemma)]
    assert named == [
        "training.forward_tokens=2048",
        "training.gradient_checkpointing=true",
        "model.quantisation=4bit",
    ]
    halved = replace(gemma, frozen_bytes=4.0 * gemma.shape.weights, checkpointing=True, sequences=1)
    assert advice(halved, limit=21.0)[0].startswith("model.base_dtype=float16 → ")
    impossible = advice(gemma, limit=1.0)
    assert impossible[-2].startswith("model.max_length=128 → ")
    assert impossible[-1] == "and a smaller model"


def test_it_is_told_before_the_run(caplog, monkeypatch):
    module = PairEncoder(AutoModel.from_config(DEBERTA), EncoderOptions())
    lengths = np.array([20, 64])
    with caplog.at_level("INFO"):
        log_memory(module, LoopOptions(), lengths, per_row=2)
        log_memory(module, LoopOptions(forward_tokens=128), lengths, per_row=2)
        log_memory(module, LoopOptions(forward_tokens=8), lengths, per_row=2)
    tokens = [message.rpartition(" at ")[2] for message in caplog.messages]
    assert tokens == ["1024 tokens per pass", "128 tokens per pass", "64 tokens per pass"]
    assert caplog.messages[0].startswith("memory: about 0.0")
    assert "cuda" not in caplog.text
    assert "reduce" not in caplog.text
    monkeypatch.setattr(memory, "T4_GIB", 0.1)
    log_memory(module, LoopOptions(), lengths, per_row=2)
    assert "of a 16 GB T4; to reduce it: training.forward_tokens=64 → " in caplog.text
