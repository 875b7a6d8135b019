"""A tiny task for the training loop, in this process or in several."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from humanpref.config.neural import GradientTraining
from humanpref.training.inputs import Examples
from humanpref.training.loop import train
from humanpref.training.losses import cross_entropy

ROWS, WIDTH = 11, 4
LENGTHS = np.array([5, 1, 9, 3, 3, 8, 2, 7, 30, 1, 4])


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x, attention_mask=None):
        return self.head(self.frozen(x))


class WithDropout(Linear):
    def forward(self, x, attention_mask=None):
        return self.head(nn.functional.dropout(self.frozen(x), 0.5, self.training))


def make_task():
    rng = np.random.default_rng(1)
    x = torch.as_tensor(rng.normal(size=(ROWS, WIDTH)), dtype=torch.float32)
    return (lambda rows: {"x": x[rows]}), np.eye(3)[rng.integers(3, size=ROWS)]


def with_masks(task):
    """Add a mask of each row's tokens, as text has."""
    collate, labels = task
    masks = torch.arange(LENGTHS.max()) < torch.as_tensor(LENGTHS)[:, None]
    return (lambda rows: collate(rows) | {"attention_mask": masks[rows]}), labels


def fitted(
    task, weights=None, validate=None, lengths=None, checkpoint=None, module=None, **options
):
    module = module or Linear()
    options = GradientTraining(
        **({"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "precision": "no"} | options)
    )
    lengths = np.ones(ROWS, dtype=np.int64) if lengths is None else lengths
    examples = Examples(*task, lengths, weights)
    report = train(module, examples, cross_entropy, options, 3, validate, checkpoint)
    return module, report


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()


# torch and the package are imported once, before the processes part.
_PARTED = """
import os, runpy, signal, socket, sys, traceback
import humanpref.training.loop

processes = int(sys.argv[1])
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
os.environ.update(WORLD_SIZE=sys.argv[1], LOCAL_WORLD_SIZE=sys.argv[1])
children = set()
for rank in range(processes):
    if child := os.fork():
        children.add(child)
        continue
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    del sys.argv[:2]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
while children:
    child, status = os.wait()
    children.discard(child)
    if status:  # the others would wait for it
        for other in children:
            os.kill(other, signal.SIGKILL)
        sys.exit(1)
"""


def launched(script, tmp_path, processes, *arguments):
    """Run a script in several processes with what `accelerate launch` would tell them, with this
    folder's path and the arguments; return what they printed."""
    place = tmp_path / "run.py"
    place.write_text(script)
    command = [sys.executable, "-c", _PARTED, str(processes)]
    command += [str(place), str(Path(__file__).parent), *map(str, arguments)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
