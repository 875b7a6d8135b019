"""A backbone as a dataset of its own: what is packed of its folder, and the proof that the packed
copy is the same model."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from humanpref.files import sha256
from humanpref.kaggle.bundle.assemble import check_is_bundle, use_weights
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, OWNER_PLACEHOLDER, write_metadata
from humanpref.kaggle.bundle.stage import write_manifest
from humanpref.kaggle.contract import WEIGHTS_MARKER
from humanpref.schema import InputError

try:
    import torch

    from humanpref.models.backbone import load_backbone
    from humanpref.models.checkpoint import base_digest, convert, weights_files
    from humanpref.models.pretrained import load_tokenizer, local_folder
    from humanpref.models.sentence import FrozenEncoder
    from humanpref.models.sentence_folder import modules_of
except ModuleNotFoundError as error:
    raise InputError(f"weights: needs {error.name}: pip install 'humanpref[torch]'") from None

# All that is read of a backbone beside its weights. What is not named (optimizer states, pictures)
# stays.
_FILES = (
    *("config.json", "generation_config.json", "LICENSE*", "NOTICE*"),
    *(
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "*.model",
        "*.tiktoken",
    ),
    *("bpe.codes", "chat_template.*", "additional_chat_templates/*.jinja"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
)
_WEIGHTS = "*model.[bs]*"
PROBES = (
    "What is 12.5 % of 80?",
    "Grüße, 世界。 µ² … 🙂  two  spaces",
    "def half(x):\n    return x / 2",
)
"""The rows on which the packed copy is compared with its source."""


def pack_weights(source: str | Path, bundle: Path, name: str | None = None) -> Path:
    """Pack a backbone as a dataset of its own in the bundle, and let the bundle's kernels use it.

    Parameters
    ----------
    source : str or Path
        A folder as transformers or sentence-transformers saves it, or a hub name. Where it has its
        weights as .bin only, the copy gets them as safetensors.
    bundle : Path
        The bundle.
    name : str, optional
        What the backbone is called; default: the folder's name.

    Returns
    -------
    Path
        The dataset's folder, `weights-NAME` in the bundle. An earlier one is replaced.

    Raises
    ------
    InputError
        If the folder is no whole backbone, the copy is not the same model, or `bundle` is no
        bundle.
    """
    check_is_bundle(bundle)
    folder = local_folder(str(source))
    name = (
        re.sub("[^a-z0-9]+", "-", (name or Path(source).resolve().name).lower())
        .strip("-")[:42]
        .strip("-")
    )
    if not name:
        raise InputError(
            f"{source}: expected a folder with letters or digits in its name, for the dataset's "
            "name"
        )
    slug = f"weights-{name}"
    with tempfile.TemporaryDirectory(dir=bundle, prefix=".new-") as temporary:
        new = Path(temporary, slug)
        _copy(folder, new)
        _check_same(folder, new)
        write_manifest(new, WEIGHTS_MARKER, {"name": slug})
        write_metadata(
            new / DATASET_METADATA,
            {
                "id": f"{OWNER_PLACEHOLDER}/{slug}",
                "title": slug.replace("-", " "),
                "subtitle": "Weights of a pretrained model, for kernels without internet",
                "licenses": [{"name": "other"}],
            },
        )
        shutil.rmtree(bundle / slug, ignore_errors=True)
        os.replace(new, bundle / slug)
    use_weights(
        bundle,
        "dataset",
        f"{OWNER_PLACEHOLDER}/{slug}",
        slug,
        sha256(bundle / slug / WEIGHTS_MARKER),
    )
    return bundle / slug


def _copy(source: Path, target: Path) -> None:
    """Copy what is read of a backbone's folder, its weights as safetensors."""
    modules = [own for _, own in modules_of(source)]
    own = modules[0] if modules else source
    files = {
        path for folder in {source, own} for pattern in _FILES for path in folder.glob(pattern)
    }
    files |= {folder / "config.json" for folder in modules}
    # Of the modules after the backbone some have weights.
    holders = [own, *(folder for folder in modules[1:] if any(folder.glob(_WEIGHTS)))]
    published = {}
    for folder in holders:
        weights = weights_files(folder)
        if any(path.suffix == ".bin" for path in weights):
            published[folder] = weights
        else:
            files.update(weights)
    for path in files:
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    for folder, weights in published.items():
        convert(weights, target / folder.relative_to(source) / "model.safetensors")


def _check_same(source: Path, packed: Path) -> None:
    """Load both folders and compare: digests, token ids, and hidden states (of a sentence encoder:
    vectors)."""
    (told, states), (told_again, states_again) = _read(source), _read(packed)
    for key, value in told.items():
        if value != told_again[key]:
            raise InputError(
                f"{source}: its packed copy has another {key}; save the model again with "
                "save_pretrained"
            )
    for one, other in zip(states, states_again, strict=True):
        # The same arithmetic, but perhaps in another order where tensors lie elsewhere in memory.
        tolerance = float(one.abs().max()) * torch.finfo(one.dtype).eps ** 0.5
        if not torch.allclose(one, other, rtol=0, atol=tolerance):
            raise InputError(
                f"{source}: its packed copy gives other hidden states; save it again with "
                "save_pretrained"
            )


@torch.inference_mode()
def _read(folder: Path) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """What a folder loads as, and the hidden states or vectors of the probes, each (1, …)."""
    if modules_of(folder):
        encoder = FrozenEncoder(str(folder))
        tokenizer, module, digest = encoder.tokenizer, encoder.module.eval(), encoder.digest
    else:
        tokenizer, digest = load_tokenizer(str(folder)), base_digest(folder)
        module = load_backbone(str(folder), dtype="auto").eval()
    rows = [tokenizer(text, truncation=True, max_length=32).input_ids for text in PROBES]
    states = []
    for ids in map(torch.tensor, rows):
        made = module(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
        states.append(getattr(made, "last_hidden_state", made))
    return {"digest": digest, "tokenizer": rows, "chat template": tokenizer.chat_template}, states
