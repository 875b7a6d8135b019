"""The GPU checks as a kernel of their own, against the loopback service."""

import importlib.util

import pytest

from humanpref.files import write_json
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, KERNEL_METADATA, read_metadata
from humanpref.kaggle.bundle.rules import check_dataset, check_kernel
from humanpref.kaggle.service import accept

from ..loopback import USER
from .bundles import CREATE, INFER, PUSH, ROOT, SAVE_KERNEL, TRAIN, left_whole, records

KERNEL, WHEELS = f"{USER}/humanpref-accept", f"{USER}/humanpref-accept-wheels"
COMMAND = ("accept", "--user", USER)
TABLE = b"| check |\n\nFAIL: 1 passed, 1 failed, 0 not judged\n"
CLIENT = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six", "setuptools")
    ),
    reason="needs setuptools and the Kaggle client: pip install 'humanpref[kaggle]'",
)


def test_the_metadata_follows_kaggles_rules(tmp_path):
    path = ROOT / accept.KERNEL / KERNEL_METADATA
    assert check_kernel(path).findings == []
    assert read_metadata(path)["dataset_sources"] == [accept.DATASET["id"]]
    dataset = tmp_path / DATASET_METADATA
    write_json(dataset, read_metadata(ROOT / DATASET_METADATA) | accept.DATASET)
    assert check_dataset(dataset).findings == []


@CLIENT
@pytest.mark.slow
def test_the_table_is_fetched_and_nothing_is_sent_twice(run, service, folder):
    assert run(*PUSH).code == 0
    pushed = records(folder)
    service.outputs = {"acceptance.md": TABLE, "status.json": left_whole}
    checked = run(*COMMAND)
    assert (checked.code, checked.out) == (1, TABLE.decode()), checked.err
    assert (folder / "acceptance" / "acceptance.md").read_bytes() == TABLE
    assert service.kernels[KERNEL][0]["datasetDataSources"] == [WHEELS]
    assert any(name.startswith("humanpref-") for name in service.datasets[WHEELS])
    # The bundle's records are what they were, and its commands look at it alone.
    assert {name: records(folder)[name] for name in pushed} == pushed
    assert run("wait").out.count("\n") == 3

    again = run(*COMMAND)
    assert (again.code, "acceptance: already exists" in again.err) == (2, True)
    service.outputs["acceptance.md"] = TABLE.replace(b"FAIL", b"PASS")
    assert run(*COMMAND, "--out", "again").code == 0
    sent = [len(service.received(call)) for call in (CREATE, SAVE_KERNEL)]
    assert sent == [2, 3]
    assert [len(service.kernels[name]) for name in (TRAIN, INFER, KERNEL)] == [1, 1, 1]


@CLIENT
@pytest.mark.slow
def test_a_run_without_a_table_is_an_error(run, service, folder):
    service.outputs = {"status.json": left_whole}
    failed = run(*COMMAND)
    assert failed.code == 2
    assert "the run left no acceptance.md" in failed.err
    assert (folder / "acceptance" / "humanpref-accept.log").is_file()


@pytest.mark.slow
@CLIENT
def test_another_users_name_is_refused_before_anything_is_built(run, service, folder):
    refused = run("accept", "--user", "somebody-else")
    assert refused.code == 2
    assert "--user somebody-else: the Kaggle credentials in use belong to" in refused.err
    assert service.received(CREATE) == []
