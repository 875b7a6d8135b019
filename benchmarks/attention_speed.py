"""DeBERTa's attention, eager (transformers') against fused (`humanpref.models.disentangled`), side by side.

    python benchmarks/attention_speed.py [--lengths 256 512] [--tokens 4096] [--repeats 3] [--backbone FOLDER]

One process, the same weights and inputs (random tokens, no padding), one batch of `--tokens` tokens at each length; float32 on
the CPU, bf16 autocast on a GPU. Without `--backbone` the weights are random, of DeBERTa-v3-xsmall's shape. Prints the best time
of the repeats for a forward pass, and for a forward and backward pass, the ratios, and the largest difference of the outputs.
"""

import argparse
import contextlib
import copy
import time

import torch
from transformers import AutoModel, DebertaV2Config

from humanpref.models.disentangled import fuse_attention

XSMALL = DebertaV2Config(
    vocab_size=128_100, hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1_536, type_vocab_size=0,
    relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
    position_biased_input=False, max_position_embeddings=512,
)  # fmt: skip


def seconds(call, device: torch.device, repeats: int) -> float:
    """The best of several times, after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--tokens", type=int, default=4_096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
    torch.manual_seed(0)
    eager = (
        AutoModel.from_pretrained(options.backbone, dtype=torch.float32)
        if options.backbone
        else AutoModel.from_config(XSMALL)
    )
    eager.to(device)
    fused = copy.deepcopy(eager)
    if not fuse_attention(fused):
        raise SystemExit("this backbone has no attention that can be fused")
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}")
    print(
        "| length | eager predict, s | fused predict, s | ratio | eager train, s | fused train, s | ratio | difference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for length in options.lengths:
        ids = torch.randint(5, 1_000, (max(1, options.tokens // length), length), device=device)
        mask = torch.ones_like(ids)

        def predict(model, ids=ids, mask=mask):
            with torch.inference_mode(), autocast:
                return model.eval()(ids, attention_mask=mask).last_hidden_state

        def train(model, ids=ids, mask=mask):
            with autocast:
                hidden = model.train()(ids, attention_mask=mask).last_hidden_state
            hidden.float().pow(2).mean().backward()
            model.zero_grad()

        difference = (predict(eager) - predict(fused)).abs().max().item()
        found = []
        for step in (predict, train):
            pair = [
                seconds(lambda model=model, step=step: step(model), device, options.repeats) for model in (eager, fused)
            ]
            found += [*pair, pair[0] / pair[1]]
        print(f"| {length} | {' | '.join(f'{value:.2f}' for value in found)} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
