"""The time of passes: against a count of kernels on fake tensors, and what it depends on."""

from dataclasses import replace

import pytest

from humanpref.training.roofline import LINK, T4, Device, Passes, step_seconds
from humanpref.training.shapes import Shape

BASE = Shape.published("microsoft/deberta-v3-base")
LLAMA = Shape.published("meta-llama/Llama-3.2-1B")
GEMMA = Shape.published("google/gemma-2-9b-it")
ENCODER = Passes(BASE, training=True, trained_embedding=BASE.embedding_weights)
READING = Passes(BASE, training=False)
LORA = Passes(LLAMA, training=True, frozen=True, adapted=2 * LLAMA.hidden)
QLORA = Passes(
    GEMMA,
    training=True,
    frozen=True,
    adapted=5 * GEMMA.hidden + GEMMA.attention + GEMMA.intermediate,
    checkpointing=True,
)


@pytest.mark.parametrize(
    ("passes", "length", "tokens", "counted"),
    [
        # Seconds of one sequence by the roofline of every kernel of the whole model, on fake
        # tensors of a T4.
        (ENCODER, 128, 4_096, 0.00708),
        (ENCODER, 512, 4_096, 0.04352),
        (ENCODER, 2_048, 4_096, 0.44138),
        (READING, 512, 8_192, 0.01669),
        (LORA, 512, 4_096, 0.12491),
        (replace(LORA, training=False), 512, 8_192, 0.0528),
        (replace(LORA, adapted=20_480, scored=0.7), 512, 4_096, 0.20443),
        (QLORA, 2_048, 4_096, 8.05794),
        (replace(QLORA, training=False), 512, 8_192, 0.5239),
    ],
)
def test_passes_take_as_long_as_all_kernels(passes, length, tokens, counted):
    rows = tokens // length
    assert passes.seconds(rows, length) / rows == pytest.approx(counted, rel=0.1)


def test_a_small_pass_takes_as_long_as_its_kernels_take_to_start():
    assert READING.seconds(1, 8) == READING.kernels * T4.kernel
    assert READING.kernels == 12 * 61 + 100
    assert ENCODER.kernels == 12 * 176 + 100
    assert replace(ENCODER, checkpointing=True).kernels == 12 * (176 + 61) + 100


def test_arithmetic_and_traffic_each_bound_a_pass():
    """Without the other, half the speed takes twice the time."""
    endless = Device(1e30, 1e30, 0.0, 2)
    for name in ("flops", "bandwidth"):
        fast = endless._replace(**{name: 1e11})
        slow = endless._replace(**{name: 5e10})
        times = [LORA.seconds(4, 256, device) for device in (fast, slow)]
        assert times[1] == pytest.approx(2 * times[0])
    # A forward pass and the gradients of its inputs: 2 floating-point operations for each weight.
    arithmetic = endless._replace(flops=1e11)
    expected = 4 * LLAMA.layers * LLAMA.layer_weights * 1_024 / 1e11
    assert LORA.seconds(4, 256, arithmetic) == pytest.approx(expected)
    trained = replace(LORA, frozen=False).seconds(4, 256, arithmetic)
    assert trained == pytest.approx(1.5 * expected)
    again = replace(LORA, checkpointing=True).seconds(4, 256, arithmetic)
    assert again == pytest.approx(1.5 * expected)


def test_a_quantized_base_is_unpacked_whenever_it_is_used():
    matrices = GEMMA.weights - GEMMA.embedding_weights
    for passes, times in ((QLORA, 3), (replace(QLORA, training=False), 1)):
        more = replace(passes, quantized=True).seconds(1, 2_048) - passes.seconds(1, 2_048)
        assert more == pytest.approx(2.5 * matrices * times / T4.bandwidth)


def test_gradients_are_exchanged_by_several_gpus_only():
    weights = 184_000_000
    alone, together = step_seconds(weights), step_seconds(weights, gpus=2)
    assert alone == pytest.approx(0.029, rel=0.02)
    assert together - alone == pytest.approx(4 * weights / LINK)
