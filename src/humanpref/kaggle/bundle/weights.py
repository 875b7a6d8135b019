"""Pack a backbone as a separate dataset, and verify that the packed copy is the same model."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from humanpref.extras import install_line
from humanpref.files import sha256, temporary_folder
from humanpref.kaggle.bundle.assemble import check_is_bundle, use_weights
from humanpref.kaggle.bundle.manifest import write_manifest
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, OWNER_PLACEHOLDER, write_metadata
from humanpref.kaggle.contract import WEIGHTS_MARKER
from humanpref.runs.artifact_files import copy_files
from humanpref.schema import InputError

try:
    import torch

    from humanpref.models.backbone import load_backbone
    from humanpref.models.checkpoint import base_digest, convert, weights_files
    from humanpref.models.pretrained import load_tokenizer, local_folder
    from humanpref.models.sentence import FrozenEncoder
    from humanpref.models.sentence_folder import modules_of
except ModuleNotFoundError as error:
    raise InputError(f"weights: needs {error.name}: {install_line('torch')}") from None

# The files of a backbone that are copied in addition to its weights. Optimizer states, pictures and
# so on are not copied.
_FILES = (
    *("config.json", "generation_config.json", "modules.json", "LICENSE*", "NOTICE*"),
    *("config_sentence_transformers.json", "sentence_*_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "bpe.codes", "chat_template.*", "additional_chat_templates/*.jinja"),
)
_WEIGHTS = "*model.[bs]*"
PROBES = (
    "What is 12.5 % of 80?",
    "Grüße, 世界。 µ² … 🙂  two  spaces",
    "def half(x):\n    return x / 2",
)
"""Texts on which the packed copy is compared with its source."""


def pack_weights(source: str | Path, bundle: Path) -> Path:
    """Pack a backbone as a separate dataset in the bundle, and make the bundle's kernels use it.

    Parameters
    ----------
    source : str or Path
        A folder saved by transformers or sentence-transformers, or a hub name. Weights in .bin
        files are converted to safetensors in the copy.
    bundle : Path
        The bundle.

    Returns
    -------
    Path
        The dataset's folder, `weights-NAME` in the bundle, named after the source. An existing
        folder is replaced.

    Raises
    ------
    InputError
        If the folder is not a complete backbone, the copy is not the same model, or `bundle` is
        not a bundle.
    """
    check_is_bundle(bundle)
    folder = local_folder(str(source))
    name = re.sub("[^a-z0-9]+", "-", Path(source).resolve().name.lower()).strip("-")
    slug = f"weights-{name[:42]}".strip("-")
    packed = bundle / slug
    with temporary_folder(packed) as temporary:
        new = temporary / slug
        _copy(folder, new)
        _check_same(folder, new)
        write_manifest(new, WEIGHTS_MARKER, {})
        metadata = {
            "id": f"{OWNER_PLACEHOLDER}/{slug}",
            "title": slug.replace("-", " "),
            "subtitle": "Weights of a pretrained model, for kernels without internet",
            "licenses": [{"name": "other"}],
        }
        write_metadata(new / DATASET_METADATA, metadata)
        shutil.rmtree(packed, ignore_errors=True)
        os.replace(new, packed)
    use_weights(bundle, "dataset", metadata["id"], slug, sha256(packed / WEIGHTS_MARKER))
    return packed


def _copy(source: Path, target: Path) -> None:
    """Copy a backbone's settings and weights, and convert the weights to safetensors."""
    modules = [folder for _, folder in modules_of(source)] or [source]
    files = {
        path
        for folder in {source, modules[0]}
        for pattern in _FILES
        for path in folder.glob(pattern)
    }
    files |= {folder / "config.json" for folder in modules}
    for folder in modules:
        # Some of the modules after the backbone have no weights.
        if folder != modules[0] and not any(folder.glob(_WEIGHTS)):
            continue
        weights = weights_files(folder)
        if any(path.suffix == ".bin" for path in weights):
            inside = target / folder.relative_to(source)
            inside.mkdir(parents=True, exist_ok=True)
            convert(weights, inside / "model.safetensors")
        else:
            files.update(weights)
    copy_files(source, target, [str(path.relative_to(source)) for path in files if path.is_file()])


def _check_same(source: Path, packed: Path) -> None:
    """Load both folders, and raise InputError if their digests, chat templates, token ids, or
    hidden states (or vectors) differ."""
    (facts, states), (packed_facts, packed_states) = _read(source), _read(packed)
    mend = "save the model again with save_pretrained"
    for key, value in facts.items():
        if value != packed_facts[key]:
            raise InputError(f"{source}: its packed copy has a different {key}; {mend}")
    for one, other in zip(states, packed_states, strict=True):
        # The arithmetic is the same, but its order may depend on the tensors' memory addresses.
        tolerance = float(one.abs().max()) * torch.finfo(one.dtype).eps ** 0.5
        if not torch.allclose(one, other, rtol=0, atol=tolerance):
            raise InputError(f"{source}: its packed copy gives different hidden states; {mend}")


@torch.inference_mode()
def _read(folder: Path) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Load a backbone and run it on the texts `PROBES`. Return a dictionary with its digest, chat
    template and token ids, and a list of its hidden states or vectors, each (1, …)."""
    if modules_of(folder):
        encoder = FrozenEncoder(str(folder))
        tokenizer, module, digest = encoder.tokenizer, encoder.module.eval(), encoder.digest
    else:
        tokenizer, digest = load_tokenizer(str(folder)), base_digest(folder)
        module = load_backbone(str(folder), dtype="auto").eval()
    rows = [tokenizer(text, truncation=True, max_length=32).input_ids for text in PROBES]
    states = []
    for ids in map(torch.tensor, rows):
        outputs = module(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
        states.append(getattr(outputs, "last_hidden_state", outputs))
    return {"digest": digest, "tokenizer": rows, "chat template": tokenizer.chat_template}, states
