"""Hours that the frozen encoders of the presets need on a T4, by the roofline of `humanpref kaggle
estimate`: every text of a row once, for rows as long as 1,000 public ones.

    python benchmarks/embedding_hours.py
"""

import numpy as np

from humanpref.config import load_config
from humanpref.runs.estimate import ROWS, SLOWER, TEST_ROWS
from humanpref.runs.lengths import approximate_tokens, assumed_lengths
from humanpref.training.batching import token_batches
from humanpref.training.roofline import Passes
from humanpref.training.shapes import Shape

PRESETS = {"qwen3-embedding-0.6b": 1_024, "bge-base": 512}
"""Presets, and the tokens of a window."""
QWEN_QUERY = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
"""The instruction that Qwen3-Embedding's folder calls `query`, as far as we know."""
SPECIAL = 2
SAMPLE = 4_000


def window_lengths(texts: np.ndarray, windows: int, longest: int, instruction: int) -> np.ndarray:
    """Tokens of each window of the texts, whose own tokens are given."""
    lengths = []
    for column, lead in zip(texts.T, (instruction + SPECIAL, SPECIAL, SPECIAL), strict=True):
        room = longest - lead
        for tokens in np.minimum(column, windows * room):
            count = -(-int(tokens) // room)
            lengths += [-(-int(tokens) // count) + lead] * count
    return np.array(lengths)


def main() -> None:
    rng = np.random.default_rng(0)
    for name, longest in PRESETS.items():
        config = load_config(name)
        instruction = config.model.prompt_instruction
        instruction = QWEN_QUERY if instruction == "query" else instruction
        texts = assumed_lengths().train
        texts = texts[rng.integers(len(texts), size=SAMPLE)]
        (lead,) = approximate_tokens([instruction])
        lengths = window_lengths(texts, config.model.max_windows, longest, lead)
        passes = Passes(Shape.published(config.model.backbone), training=False, frozen=True)
        batches = token_batches(lengths, config.inference.batch_tokens)
        seconds = sum(passes.seconds(len(rows), int(lengths[rows].max())) for rows in batches)
        hours = seconds / SAMPLE / 3_600
        for rows, gpus in ((ROWS, 1), (TEST_ROWS, 2)):
            low = hours * rows / gpus
            print(f"{name}: {rows:,} rows on {gpus} T4: {low:.2g}-{SLOWER * low:.2g} h")


if __name__ == "__main__":
    main()
