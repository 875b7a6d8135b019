"""`humanpref predict` under `accelerate launch`: two processes say what one says, and one of them
writes."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from humanpref.config import load_config
from humanpref.runs.predict import predict
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS

MICRO = (
    "model.max_length=64",
    "inference.batch_tokens=300",
    "inference.swap_average=true",
    "training.learning_rate=1e-2",
)


def launched(*arguments):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--cpu",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "humanpref.cli", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(params=[pytest.param("decoder", marks=pytest.mark.slow), "encoder"])
def artifact(request, arena, decoder_folder, tmp_path):
    if request.param == "decoder":
        own = (
            f"model.backbone={decoder_folder()}",
            "model.system_prompt=",
            "model.question=Which?",
        )
        config = load_config("llama-3.2-1b-lora", None, (*MICRO, *own))
    else:
        own = ("model.scratch_hidden_size=8", "model.scratch_vocabulary=300", "model.inputs=joint")
        config = load_config("tiny", None, (*MICRO, *own))
    return train(config, arena / "train.csv", tmp_path / "artifact")


@pytest.mark.slow
def test_two_processes_predict_what_one_does(artifact, arena, tmp_path):
    from humanpref.data import read_pairs

    out = tmp_path / "submission.csv"
    done = launched(
        "predict", artifact.folder, "--test", arena / "test.csv", "--out", out, "--seconds", "600"
    )
    assert done.stdout.count("24 rows") == 1
    made = pd.read_csv(out)[list(LABEL_COLUMNS)].to_numpy()
    expected, _ = predict([artifact], read_pairs(arena / "test.csv"))
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(made, expected, atol=1e-6)
