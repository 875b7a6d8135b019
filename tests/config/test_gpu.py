import pytest

from humanpref.config import from_dict, load_config
from humanpref.config.gpu import needs_gpu, uses_gpu


@pytest.mark.parametrize(
    ("preset", "overrides", "uses", "needs"),
    [
        ("prior", [], False, False),
        ("sparse", [], False, False),
        ("boosted", [], False, False),
        ("embedding", [], True, False),  # frozen: a CPU does it
        ("cpu-best", [], True, False),
        ("tiny", [], True, False),
        ("tiny", ["model.backbone=microsoft/deberta-v3-small"], True, True),
        ("deberta-v3-base", [], True, True),
        ("deberta-v3-base", ["model.backbone=scratch"], True, False),
        ("llama-3.2-1b-dpo", [], True, True),
        ("gemma-2-9b-qlora", [], True, True),
        ("cpu-best", ['model.members=["sparse", "boosted"]'], False, False),
        ("cpu-best", ['model.members=["sparse", "deberta-best seed=3"]'], True, True),
        (
            "cpu-best",
            ['model.members=["sparse", "deberta-best model.backbone=scratch"]'],
            True,
            False,
        ),
    ],
)
def test_what_needs_a_gpu_follows_from_the_options(preset, overrides, uses, needs):
    config = load_config(preset, overrides=overrides)
    assert (uses_gpu(config), needs_gpu(config)) == (uses, needs)
    again = from_dict(config.to_dict(), "an artifact's")
    assert (uses_gpu(again), needs_gpu(again)) == (uses, needs)
