"""What checkpoints and artifacts keep of a module."""

import pytest
import torch
from torch import nn

from humanpref.training.learned import learned_state, load_learned

from .task import ROWS, WIDTH, Linear, fitted, make_task


class Module(nn.Module):
    """A frozen layer, one that learns under two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.first = nn.Linear(2, 3)
        self.second = self.first
        self.register_buffer("counts", torch.arange(3.0))
        self.register_buffer("cache", torch.zeros(2), persistent=False)


NAMES = {"first.weight", "first.bias", "second.weight", "second.bias", "counts"}


def test_trainable_weights_and_buffers_are_kept_under_every_name():
    module = Module()
    state = learned_state(module)
    assert set(state) == NAMES
    assert torch.equal(state["first.weight"], module.first.weight)
    assert state["counts"].tolist() == [0, 1, 2]


def test_a_state_is_put_back_and_frozen_weights_stay():
    one, other = Module(), Module()
    frozen = other.frozen.weight.clone()
    one.counts += 1
    load_learned(other, learned_state(one))
    assert torch.equal(other.first.weight, one.first.weight)
    assert torch.equal(other.first.bias, one.first.bias)
    assert other.counts.tolist() == [1, 2, 3]
    assert torch.equal(other.frozen.weight, frozen)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_other_names_are_refused(change):
    module = Module()
    state = learned_state(module)
    if change == "missing":
        del state["counts"]
    else:
        state["frozen.weight"] = torch.zeros(2, 2)
    name = "counts" if change == "missing" else "frozen.weight"
    with pytest.raises(ValueError, match=rf"differ from the module's: \['{name}'\]"):
        load_learned(module, state)


class WithEmbeddings(Linear):
    """Its backbone embeds the row's number."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.tokens = nn.Embedding(ROWS, WIDTH)
        self.backbone.get_input_embeddings = lambda: self.backbone.tokens

    def forward(self, x):
        return self.head(self.backbone.tokens(x) + self.frozen.weight[0])


def test_frozen_embeddings_do_not_learn_and_still_belong_to_the_artifact(tmp_path):
    numbered = (lambda rows: {"x": torch.as_tensor(rows)}), make_task()[1]
    before = WithEmbeddings().backbone.tokens.weight
    learned, report = fitted(numbered, module=WithEmbeddings())
    assert not torch.equal(learned.backbone.tokens.weight, before)
    options = {"freeze_embeddings": True, "checkpoint": tmp_path / "run", "validate": lambda: 1.0}
    module, frozen_report = fitted(
        numbered, module=WithEmbeddings(), keep_best_epoch=True, **options
    )
    assert torch.equal(module.backbone.tokens.weight, before)
    assert not torch.equal(module.head.weight, WithEmbeddings().head.weight)
    assert frozen_report["trainable_parameters"] == report["trainable_parameters"] - before.numel()
    assert "backbone.tokens.weight" in learned_state(module)
    content = torch.load(tmp_path / "run", weights_only=True)
    assert set(content["module"]) == {"head.weight", "head.bias"}
