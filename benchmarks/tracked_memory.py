"""The memory estimate against the storages of real training steps.

    PYTORCH_JIT=0 python benchmarks/tracked_memory.py [NAME …]

A step is two micro-batches, so that gradients exist during the second, and AdamW's update: in fp16
on fake tensors of a T4 (`fake_gpu`), and with gradient checkpointing, whose recomputed tensors fake
tensors keep alive too long, in float32 on small real tensors. `tracked` is the most bytes that
living storages took, `estimate` is `humanpref.training.memory` without the 0.5 GiB for CUDA. The
seven- and nine-billion models are stacks of four layers.
"""

import sys
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from fake_gpu import Record, fake_gpu
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.integrations import sdpa_attention

from humanpref.config import load_config
from humanpref.models.decoder import PairDecoder
from humanpref.models.dpo import CHUNK, Policy
from humanpref.models.encoder import PairEncoder
from humanpref.reports.table_text import markdown
from humanpref.training.memory import CUDA_GIB, MemoryEstimate

DEBERTA = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}


def deberta(hidden: int, layers: int, heads: int, vocabulary: int = 128_100) -> Any:
    return AutoConfig.for_model(
        "deberta-v2",
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        vocab_size=vocabulary,
        **DEBERTA,
    )


def decoder(kind: str, layers: int, *sizes: int) -> Any:
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    names += ("intermediate_size", "vocab_size")
    values = dict(zip(names, sizes, strict=True))
    return AutoConfig.for_model(kind, num_hidden_layers=layers, **values)


SMALL, BASE, LARGE = (768, 6, 12), (768, 12, 12), (1024, 24, 16)
LLAMA = ("llama", 16, 2048, 32, 8, 64, 8192, 128_256)
GEMMA = ("gemma2", 4, 3584, 16, 8, 256, 14_336, 256_000)
QWEN = ("qwen2", 4, 3584, 28, 4, 128, 18_944, 152_064)
TINY_DEBERTA, TINY_LLAMA = (192, 6, 6, 2_000), ("llama", 6, 192, 6, 2, 32, 512, 1_000)
BEST, LORA = "deberta-best", "llama-3.2-1b-lora"
DPO = "llama-3.2-1b-dpo"
EAGER = "model.attention=eager"
CASES = {
    "small, dual 512": ("deberta-v3-small", SMALL, 512, EAGER),
    "base, dual 512, fused": ("deberta-v3-base", BASE, 512),
    "base, joint 1,024, fused": (BEST, BASE, 1024),
    "base, joint 256, fused": (BEST, BASE, 256),
    "base, dual 512": ("deberta-v3-base", BASE, 512, EAGER),
    "base, dual 512, 2,048 tokens": (
        "deberta-v3-base",
        BASE,
        512,
        "training.forward_tokens=2048",
        EAGER,
    ),
    "base, dual 512, 8,192 tokens": (
        "deberta-v3-base",
        BASE,
        512,
        "training.forward_tokens=8192",
        EAGER,
    ),
    "large, dual 512": ("deberta-v3-base", LARGE, 512, EAGER),
    "small, joint 256": (BEST, SMALL, 256, EAGER),
    "small, joint 1,024": (BEST, SMALL, 1024, EAGER),
    "base, joint 1,024": (BEST, BASE, 1024, EAGER),
    "base, joint 2,048": (BEST, BASE, 2048, EAGER),
    "Llama 1B LoRA, 2 x 512": (LORA, LLAMA, 512),
    "Llama 1B LoRA, 2 x 512, no padding": (LORA, LLAMA, 512),
    "Llama 1B LoRA, 8 x 512": (LORA, LLAMA, 512, "training.batch_size=8"),
    "Llama 1B DPO, 8 x 512": (DPO, LLAMA, 512, "training.gradient_checkpointing=false"),
    "Gemma 2 9B, 4 layers, 2 x 2,048": (
        "gemma-2-9b-qlora",
        GEMMA,
        2048,
        "training.gradient_checkpointing=false",
    ),
    "Qwen 2.5 7B, 4 layers, 2 x 2,048": (
        "qwen-2.5-7b-qlora",
        QWEN,
        2048,
        "training.gradient_checkpointing=false",
    ),
    "checkpointed DeBERTa (real, float32)": (
        "deberta-v3-base",
        TINY_DEBERTA,
        256,
        "training.gradient_checkpointing=true",
        EAGER,
        "training.batch_size=2",
    ),
    "checkpointed Llama LoRA (real, float32)": (
        LORA,
        TINY_LLAMA,
        256,
        "training.gradient_checkpointing=true",
        "training.batch_size=4",
    ),
    "checkpointed DPO (real, float32)": (
        DPO,
        TINY_LLAMA,
        256,
        "training.gradient_checkpointing=true",
        "training.batch_size=2",
    ),
}


def module_of(config: Any, backbone: Any, half: bool, device: str) -> torch.nn.Module:
    dtype = torch.half if half and config.family != "encoder" else torch.float32
    kind = AutoModelForCausalLM if config.family == "dpo" else AutoModel
    eager = {"attn_implementation": "eager"} if backbone.model_type == "gemma2" else {}
    with torch.device(device):
        base = kind.from_config(backbone, dtype=dtype, **eager)
        if config.training.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        if config.family == "encoder":
            return PairEncoder(base, config.model).train()
        # As the package does on a T4, so that no hidden state exceeds float16.
        base.get_input_embeddings().register_forward_hook(lambda *result: result[-1].float())
        if config.family == "dpo":
            return Policy(base, config.model, False).train()
        return PairDecoder(base, config.model).train()


def dropout_of_a_gpu(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Drop out with a mask of booleans; on the CPU torch keeps one of numbers."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def tracked(record: Record, module: torch.nn.Module, batch: dict[str, Any], half: bool) -> int:
    """Return the peak bytes of one training step, after a first one has made AdamW's moments."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5)
    for micro_batches in (1, 2):
        record.peak = record.now
        for _ in range(micro_batches):
            with torch.autocast(record.device, torch.half, enabled=half):
                outputs = module(**batch)
            outputs.float().logsumexp(dim=1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return record.peak


def measure(record: Record, half: bool, preset: str, sizes: tuple, length: int, *sets: str) -> dict:
    device = record.device
    options = ["model.quantisation=none"] if "qlora" in preset else []
    config = load_config(preset, None, [*options, *sets])
    backbone = (decoder if isinstance(sizes[0], str) else deberta)(*sizes)
    module = module_of(config, backbone, half, device)
    dual = config.family == "dpo" or getattr(config.model, "inputs", "") == "dual"
    estimate = MemoryEstimate.of_module(
        module,
        config.training,
        length,
        half,
        sequences_per_row=1 + dual,
        scored=CHUNK if config.family == "dpo" else 0,
    )
    rows = estimate.sequences // (1 + dual)
    columns = ["input_ids", "attention_mask"]
    columns += ["parts"] if config.family == "encoder" else []
    shape = (rows, 1 + dual, length)
    batch = {name: torch.ones(shape, dtype=torch.int64, device=device) for name in columns}
    batch["lengths"] = np.full(shape[:2], length)
    if config.family == "dpo":
        batch["responses"] = np.ones(shape, dtype=np.int64)
        batch["responses"][..., 0] = 0
        batch["reference"] = torch.zeros((rows, 2), device=device)
    scored = min(estimate.scored, rows * 2 * (length - 1))
    estimate = replace(estimate, scored=scored)
    peak = tracked(record, module, batch, half) / 2**30
    total = estimate.total() - CUDA_GIB
    return {"tracked GiB": peak, "estimate": total, "ratio": total / peak}


def main(names: list[str]) -> None:
    # Below compute capability 8.0 the package repeats keys itself.
    sdpa_attention.use_gqa_in_sdpa = lambda *_: False
    rows = []
    for name, case in CASES.items():
        if names and not any(word in name for word in names):
            continue
        if "real" in name:
            patch = mock.patch.object(torch.nn.functional, "dropout", dropout_of_a_gpu)
            with patch, Record("cpu") as record:
                row = measure(record, False, *case)
        else:
            with fake_gpu(padded="no padding" not in name) as record:
                row = measure(record, True, *case)
        rows.append([name, f"{row['tracked GiB']:.3f}", f"{row['estimate']:.3f}"])
        rows[-1].append(f"{row['ratio']:.2f}")
        print(rows[-1], file=sys.stderr, flush=True)
    print(markdown(pd.DataFrame(rows, columns=["step", "tracked GiB", "estimate GiB", "ratio"])))


if __name__ == "__main__":
    main(sys.argv[1:])
