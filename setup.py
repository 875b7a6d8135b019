"""Packaging of humanpref. The version stands once, in src/humanpref/version.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION_FILE = (HERE / "src/humanpref/version.py").read_text()
VERSION = re.search(r'^__version__ = "(.+)"$', VERSION_FILE, re.MULTILINE).group(1)

setup(
    name="humanpref",
    version=VERSION,
    description="Predict which of two language-model answers a human prefers, "
    "from a CSV to an offline Kaggle submission",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "humanpref": [
            "presets/*.toml",
            "arena/*.toml",
            "interfaces/packaged/*",
            "interfaces/templates/*",
            "reports/templates/*",
            "studies/*.csv",
            "training/*.toml",
        ]
    },
    python_requires=">=3.11,<3.14",
    install_requires=[
        "numpy>=1.26",
        "pandas>=2.2",
        "scipy>=1.11",
        "scikit-learn>=1.5",
        "joblib>=1.3",
        "threadpoolctl>=3",
        "safetensors>=0.4",
        "tqdm>=4.66",
    ],
    extras_require={
        # The neural models. Kaggle's image has all of these; the sparse models need none.
        "torch": [
            "torch>=2.4",
            "transformers>=4.57",
            "sentence-transformers>=5.4",
            "tokenizers>=0.22",
            "accelerate>=1.0",
            "peft>=0.17",
            "sentencepiece>=0.2",
            "protobuf>=5",
        ],
        # Frozen weights in 4 and 8 bit, on the CPU and on a GPU; Kaggle's image lacks it.
        "quantised": ["bitsandbytes>=0.49,<0.50"],
        # The feature models. xgboost-cpu is the same module as xgboost without half a gigabyte of
        # CUDA; either will do.
        "boosted": [
            "lightgbm>=4.3",
            "xgboost-cpu>=3.0; platform_system != 'Darwin' and platform_machine in 'x86_64 AMD64'",
            "xgboost>=3.0; platform_system == 'Darwin' or platform_machine not in 'x86_64 AMD64'",
        ],
        "nltk": ["nltk>=3.9"],
        # Pairs in Parquet files. Kaggle's image has it.
        "parquet": ["pyarrow>=15"],
        # Judging shards on several machines (`score --engine ray`).
        "ray": ["ray[data]>=2.40,<3", "pyarrow>=15"],
        # `humanpref serve`. Kaggle's image has all three.
        "serve": ["starlette>=0.52", "uvicorn>=0.46", "jinja2>=3.1"],
        # Talking to Kaggle and building the wheel dataset. kaggle 2.2 imports six without declaring
        # it.
        "kaggle": [
            "kaggle>=1.8.4,<2.3",
            "six",
            "setuptools>=77",
            "packaging>=24",
            "python-slugify",
        ],
        # Charts, and the pages that show them. The kernels at Kaggle write neither.
        "figures": ["matplotlib>=3.8", "jinja2>=3.1"],
        "test": ["pytest>=8", "pytest-xdist>=3", "ruff>=0.14", "jupytext>=1.17", "httpx>=0.27"],
    },
    entry_points={"console_scripts": ["humanpref = humanpref.cli.main:main"]},
)
