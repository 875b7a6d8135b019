"""One GRPO step of trl with `humanpref.reward`, on a tiny language model with random weights: that
the two fit together, not that anything is learned.

It needs trl, which the project's own environment does not have:

    python3.11 -m venv trl
    trl/bin/pip install -c constraints.txt -e '.[torch]' trl==0.29.1 datasets
    trl/bin/python benchmarks/trl_reward.py

Two runs of one step each: prompts and completions as messages, judged against each other within
their group; and as strings, against the data set's column `best`. Printed: trl's own account of
the rewards, and the largest change of a weight.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import humanpref
from humanpref.models.scratch import train_tokenizer

PROMPTS = ("Why is the sky blue?", "Name three primes.", "What is rust?", "Say something kind.")
BEST = ("Light scatters.", "2, 3 and 5.", "Iron oxide.", "You did well today.")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
GENERATIONS = 4


def policy() -> tuple[LlamaForCausalLM, Any]:
    """A language model of two narrow layers, and a tokenizer made of the texts above."""
    tokenizer = train_tokenizer([*PROMPTS, *BEST], 300)
    tokenizer.eos_token, tokenizer.chat_template = tokenizer.sep_token, TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config), tokenizer


def one_step(name: str, rows: Any, reward: Any, folder: str) -> None:
    """Take a step on a data set and print what trl logged of it."""
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = policy()
    before = [weight.detach().clone() for weight in model.parameters()]
    settings = GRPOConfig(
        output_dir=str(Path(folder) / name),
        max_steps=1,
        per_device_train_batch_size=2 * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=24,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    log = trainer.state.log_history[0]
    change = max(
        float((new.detach() - old).abs().max())
        for new, old in zip(model.parameters(), before, strict=True)
    )
    keys = [key for key in log if key.startswith(("reward", "loss", "grad_norm"))]
    print(f"{name}:", ", ".join(f"{key} {log[key]:.4f}" for key in sorted(keys)))
    print(f"{name}: largest change of a weight {change:.2e}")


def main() -> None:
    from datasets import Dataset

    print(", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch")))
    messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    with tempfile.TemporaryDirectory() as folder:
        grouped = Dataset.from_dict({"prompt": messages})
        one_step("messages, within groups", grouped, humanpref.reward(), folder)
        referenced = Dataset.from_dict({"prompt": list(PROMPTS), "best": list(BEST)})
        one_step("strings, to a reference", referenced, humanpref.reward(reference="best"), folder)


if __name__ == "__main__":
    main()
