"""Mixed precision by device."""

import pytest

pytest.importorskip("torch")

import torch

from humanpref.schema import InputError
from humanpref.training.precision import DTYPES, process_state, resolve

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_tests_run_in_one_process_on_the_cpu():
    state = process_state()
    assert state.device == CPU
    assert (state.process_index, state.num_processes) == (0, 1)


def test_the_cpu_computes_in_float32_unless_asked_for_bf16():
    assert resolve("auto", CPU) == "no"
    assert resolve("no", CPU) == "no"
    assert resolve("bf16", CPU) == "bf16"
    with pytest.raises(InputError, match=r"^option precision: fp16 needs a GPU"):
        resolve("fp16", CPU)


@pytest.mark.parametrize(("hardware", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bf16_gets_fp16(hardware, precision, monkeypatch):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: hardware or including_emulation,
    )
    assert resolve("auto", GPU) == precision
    assert DTYPES[precision] == (torch.bfloat16 if hardware else torch.float16)
    assert [resolve(name, GPU) for name in ("no", "fp16")] == ["no", "fp16"]
    if hardware:
        assert resolve("bf16", GPU) == "bf16"
    else:
        refused = r"^option training\.precision: this GPU only emulates bf16; use fp16 or auto$"
        with pytest.raises(InputError, match=refused):
            resolve("bf16", GPU, "training.precision")
