import pytest
from torch import nn

from humanpref.config.neural import GradientTraining
from humanpref.training.parameter_groups import parameter_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.embeddings = nn.Embedding(3, 2)
        self.backbone.encoder = nn.Module()
        self.backbone.encoder.layer = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 3)


def rates(module, **options):
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, GradientTraining(**options))
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


def test_backbone_head_layers_and_decay():
    found = rates(
        Model(), learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5, weight_decay=0.1
    )
    assert found == {
        "backbone.embeddings.weight": (pytest.approx(1e-3 / 4), 0.1),
        "backbone.encoder.layer.0.weight": (pytest.approx(1e-3 / 2), 0.1),
        "backbone.encoder.layer.0.bias": (pytest.approx(1e-3 / 2), 0.0),
        "backbone.encoder.layer.1.weight": (1e-3, 0.1),
        "backbone.encoder.layer.1.bias": (1e-3, 0.0),
        "head.weight": (1e-2, 0.1),
        "head.bias": (1e-2, 0.0),
    }


def test_defaults_and_frozen_weights():
    module = Model()
    module.backbone.embeddings.requires_grad_(False)
    found = rates(module, learning_rate=1e-3)
    assert "backbone.embeddings.weight" not in found
    assert {rate for rate, _ in found.values()} == {1e-3}
