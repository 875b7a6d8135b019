"""What all tests share: no network but loopback, small rows made on the spot, the real rows where
they are."""

import atexit
import gc
import importlib.util
import ipaddress
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.arena import write_arena
from humanpref.data import read_pairs

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "ACCELERATE_USE_CPU", "true"
)  # equal to 1e-5 is not what a GPU in half precision is
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="humanpref-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

REPOSITORY = Path(__file__).parents[1]
HAS_TORCH = importlib.util.find_spec("torch") is not None
# tests/gpu changes torch for the life of its process: it runs where it is named.
collect_ignore = ["gpu"]
# The package works without torch, the neural models apart; so does the suite.
if not HAS_TORCH:
    neural = ("exchange", "gradients", "learned", "loop", "losses", "parameter_groups")
    collect_ignore += [f"training/test_{name}.py" for name in neural]
    collect_ignore += ["runs/test_merging.py", "runs/test_stages.py", "text/test_tokens.py"]


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their argument: archives contain the time, and all workers of xdist must
    collect the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_report_header():
    return (
        None if HAS_TORCH else "torch is not installed: the tests of the neural models are left out"
    )


def pytest_collection_finish():
    """Spare every later garbage collection what is imported: freeing a model asks for one, and it
    takes 0.15 s with torch loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    """Spare collections also what earlier test files imported and made."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Refuse every connection of the test process that leaves the machine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def checked(original):
        def call(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
                raise AssertionError(f"a test tried to connect to {address}")
            return original(self, address)

        return call

    socket.socket.connect, socket.socket.connect_ex = checked(connect), checked(connect_ex)
    yield
    socket.socket.connect, socket.socket.connect_ex = connect, connect_ex


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session")
def arena(tmp_path_factory) -> Path:
    """A synthetic arena of 120 training and 24 test rows, as files."""
    folder = tmp_path_factory.mktemp("arena")
    write_arena(folder, rows=120, seed=7)
    return folder


@pytest.fixture(scope="session")
def pairs(arena) -> pd.DataFrame:
    """The arena's training rows."""
    return read_pairs(arena / "train.csv")


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] "
    "| trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="session")
def decoder_folder(pairs, tmp_path_factory):
    """Save a tiny random language model (llama, qwen2 or gemma2) and a tokenizer as a publisher
    would, and return the folder."""
    made: dict = {}

    def save(kind="llama", chat=True, **changes) -> Path:
        key = repr((kind, chat, changes))
        if key not in made:
            made[key] = _save_decoder(
                pairs, tmp_path_factory.mktemp("decoder") / f"tiny-{kind}", kind, chat, changes
            )
        return made[key]

    return save


def _save_decoder(pairs, folder, kind, chat, changes) -> Path:
    torch = pytest.importorskip("torch")
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForCausalLM

    from humanpref.models.scratch import train_tokenizer

    tokenizer = train_tokenizer([turn for turns in pairs["prompt"] for turn in turns], 400)
    # As Llama 3's: a token at the start, none at the end, and none to pad with.
    names = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "[CLS]", "[SEP]", None
    tokenizer.cls_token = tokenizer.sep_token = None
    start = processors.TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $A [CLS] $B",
        special_tokens=[("[CLS]", tokenizer.bos_token_id)],
    )
    tokenizer.backend_tokenizer.post_processor = start
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "head_dim": 8,
    }
    settings = {
        "vocab_size": len(tokenizer),
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **settings, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for (
        weight
    ) in model.parameters():  # trained models are not so close to doing nothing as those that start
        if weight.ndim == 2:
            weight.data.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentence_encoder(pairs, tmp_path_factory) -> Path:
    """A tiny BERT with random weights as a sentence-transformer's folder: mean pooling, vectors of
    length 1, 24 tokens."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, BertConfig

    from humanpref.models.scratch import train_tokenizer

    folder = tmp_path_factory.mktemp("backbone") / "tiny-encoder"
    tokenizer = train_tokenizer([turn for turns in pairs["prompt"] for turn in turns], 400)
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 24, "do_lower_case": False})
    )
    return folder


@pytest.fixture(scope="session")
def small_preset(pairs, decoder_folder, sentence_encoder, tmp_path_factory):
    """Return a preset's configuration on a small random backbone of its own kind, and rows on which
    one that is trained by gradient descent takes two steps."""
    from humanpref.config import load_config
    from humanpref.config.neural import LoopOptions
    from humanpref.data import labels_of
    from humanpref.schema import TEXT_COLUMNS

    from .shrunken import PUBLISHED, save_encoder, save_sentence_folder, shrunken

    texts = [turn for turns in pairs["prompt"] for turn in turns]
    # Ties are left out, since DPO learns nothing from them.
    short = pairs[labels_of(pairs)[:, 2] == 0][:16].reset_index(drop=True)
    for column in TEXT_COLUMNS:
        short[column] = [tuple(turn[:60] for turn in turns[:2]) for turns in short[column]]

    def backbone(config):
        if not isinstance(config.training, LoopOptions):
            name, folder = config.model.backbone, tmp_path_factory.mktemp("backbone")
            known = name.rpartition("/")[2].lower() in PUBLISHED
            return save_sentence_folder(name, texts, folder) if known else sentence_encoder
        if config.family != "encoder":
            sizes = shrunken(config.model.backbone)
            del sizes["vocab_size"]
            return decoder_folder(sizes.pop("model_type"), **sizes)
        return save_encoder(config.model.backbone, texts, tmp_path_factory.mktemp("backbone"))

    def small(name, *overrides):
        config, settings = load_config(name, overrides=overrides), list(overrides)
        if getattr(config.model, "backbone", "scratch") != "scratch":
            settings += [f"model.backbone={backbone(config)}"]
        if not isinstance(config.training, LoopOptions):
            return load_config(name, overrides=settings), pairs
        # Dual inputs are both orders in one pass.
        dual = getattr(config.model, "inputs", "") == "dual"
        doubled = getattr(config.training, "swap_augmentation", False) and not dual
        batch = len(short) * (1 + doubled) // (2 * config.training.accumulation)
        settings += [f"training.batch_size={batch}"]
        return load_config(name, overrides=settings), short

    return small


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real rows: `$DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "arena_train.csv").is_file():
        pytest.skip("the real rows are not here (set DATA to their folder)")
    return folder


@pytest.fixture
def write_csv(tmp_path):
    """Write a labelled CSV from `(prompt, response_a, response_b, class)` rows and return its
    path."""

    def write(rows, name="rows.csv", labels=True, **columns) -> Path:
        texts = [
            [turns if isinstance(turns, str) else json.dumps(turns) for turns in row[:3]]
            for row in rows
        ]
        frame = pd.DataFrame(texts, columns=["prompt", "response_a", "response_b"])
        frame.insert(0, "id", np.arange(100, 100 + len(rows)))
        if labels:
            hot = np.eye(3, dtype=int)[[row[3] for row in rows]]
            frame[["winner_model_a", "winner_model_b", "winner_tie"]] = hot
        for column, values in columns.items():
            frame[column] = values
        frame.to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write
