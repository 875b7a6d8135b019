"""Whether a bundle's training can succeed."""

from humanpref.kaggle.bundle.verdict import impossible, verdict
from humanpref.kaggle.contract import KernelRun


def test_a_run_is_judged_by_its_preset_overrides_and_folds():
    gemma = KernelRun("gemma-2-9b-qlora")
    assert "Kaggle allows 12" in impossible(gemma)
    assert verdict(gemma).endswith(impossible(gemma))
    base = KernelRun("deberta-v3-base")
    assert impossible(base) == ""
    assert verdict(base).endswith(": fits")
    often = KernelRun("deberta-v3-base", ("training.epochs=30",))
    assert "training takes" in impossible(often)
    assert "training takes" in impossible(KernelRun("llama-3.2-1b-dpo", folds=20))
    assert verdict(KernelRun("bge-base")).endswith(
        " on one T4, inference 0.033-0.066 h (both orders 0.033-0.066): fits"
    )
    assert "training takes" in impossible(KernelRun("qwen3-embedding-0.6b", folds=20))


def test_no_gpu_no_preset_and_unknown_sizes_give_no_verdict(caplog):
    for run in (KernelRun("sparse"), KernelRun("")):
        assert verdict(run) == impossible(run) == ""
    unknown = KernelRun("deberta-v3-base", ("model.backbone=my/encoder",))
    assert verdict(unknown) == impossible(unknown) == ""
    assert "no estimate: option model.backbone: the layer sizes of my/encoder" in caplog.text
