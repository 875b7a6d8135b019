"""Judge shards on a Ray cluster with Ray Data, which distributes the shards and retries a shard
whose actor died."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humanpref.config.gpu import uses_gpu
from humanpref.extras import install_line
from humanpref.interfaces.shard import Outcome, ShardJudge
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError

ADDRESS = "RAY_ADDRESS"
"""The environment variable with the address of a cluster. If it is unset, a local cluster is
started."""

_STORE = 2**28
"""Size, in bytes, of a local cluster's object store, which holds only paths and outcomes."""


def outcomes_of(
    model: str | Path | None,
    out: Path,
    shards: list[Path],
    workers: int | None,
    format: str | None = None,
) -> Iterator[Outcome]:
    """Judge shards in stateful actors, each with one copy of the model, and yield the outcomes as
    they arrive.

    Parameters
    ----------
    model, out, format
        As for `humanpref.interfaces.shard.ShardJudge`.
    shards : list of Path
        The input shards.
    workers : int, optional
        Number of actors. By default, one for each GPU if the model can use one and the cluster has
        any, otherwise one for each CPU.

    Raises
    ------
    InputError
        If Ray is not installed, or the cluster at `RAY_ADDRESS` cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get(ADDRESS):
        # A try takes up to 40 s, so the default of 20 tries would take a quarter of an hour.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise InputError(
            f"option --engine: Ray is not installed; run {install_line('ray')}"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, workers)
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if _can_use_gpu(model) else 0
        size = workers or gpus or max(1, int(resources.get("CPU", 0)))
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        rows = ray.data.from_items(
            [str(path.resolve()) for path in shards], override_num_blocks=len(shards)
        ).map_batches(
            ShardJudge,
            fn_constructor_args=(model and str(Path(model).resolve()), str(out.resolve()), format),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(size, len(shards))),
            num_cpus=1,
            num_gpus=1 if gpus else None,
        )
        for row in rows.iter_rows():
            yield Outcome(**{name: row[name] for name in Outcome._fields})
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get(ADDRESS) or "local"
    options: dict[str, Any] = {"address": address, "logging_level": logging.WARNING}
    if address == "local":
        # One CPU for each actor.
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{ADDRESS}={address}: no Ray cluster found ({reason})") from None


def _can_use_gpu(model: str | Path | None) -> bool:
    if model is None:
        return False
    leaves = Artifact.load(model).ensemble.leaves()
    return any(uses_gpu(leaf.config) for leaf in leaves)
