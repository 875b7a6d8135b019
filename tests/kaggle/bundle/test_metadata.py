"""The committed metadata against Kaggle's rules, the functions that stage it, and the real client's
view of both."""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    OWNER_PLACEHOLDER,
    fill_owner,
    kernel_code,
    read_metadata,
    stage_kernel,
    write_metadata,
)
from humanpref.kaggle.competitions import DEFAULT
from humanpref.schema import InputError

from ..loopback import KEY, USER, Reply, Service, refusal, run_client, run_client_script

ROOT = Path(__file__).parents[3]
INFER = ROOT / KERNEL_METADATA
TRAIN = ROOT / "kernel" / "train" / KERNEL_METADATA
DATASET = ROOT / DATASET_METADATA

kernels = pytest.mark.parametrize("path", [INFER, TRAIN], ids=["infer", "train"])

# Looked for, not imported: importing the client reads credentials and makes a folder. It imports
# six without declaring it.
needs_client = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install kaggle==2.2.4 six",
)


# The committed files, by Kaggle's rules. The client leaves most of them unchecked.


@kernels
def test_kernel_has_a_valid_name(path):
    slugify = pytest.importorskip(
        "slugify", reason="needs python-slugify, which the Kaggle client brings"
    ).slugify
    metadata = read_metadata(path)
    owner, slug = metadata["id"].split("/")
    assert owner == OWNER_PLACEHOLDER
    assert 5 <= len(slug) <= 50
    assert 5 <= len(metadata["title"]) <= 50
    # With another title Kaggle makes a second kernel, under the title's slug.
    assert slugify(metadata["title"]) == slug


@kernels
def test_kernel_is_private_offline_and_on_two_t4(path):
    metadata = read_metadata(path)
    # `is`: the client takes "true" and "false" too, but 0 or "no" ends in a TypeError.
    assert metadata["is_private"] is True
    assert metadata["enable_gpu"] is True
    assert metadata["enable_tpu"] is False
    assert metadata["enable_internet"] is False
    assert metadata["machine_shape"] == "NvidiaTeslaT4"


@pytest.mark.parametrize(
    ("path", "kind", "suffix"), [(INFER, "notebook", ".ipynb"), (TRAIN, "script", ".py")]
)
def test_kernel_names_its_code(path, kind, suffix):
    metadata = read_metadata(path)
    code = path.parent / metadata["code_file"]
    assert metadata["language"] == "python"
    assert metadata["kernel_type"] == kind
    assert code.suffix == suffix
    assert code.is_file()
    if kind == "notebook":
        # Without a kernelspec Kaggle takes the notebook and its run fails.
        assert json.loads(code.read_bytes())["metadata"]["kernelspec"]["name"] == "python3"


@kernels
def test_kernel_sources_are_lists(path):
    metadata = read_metadata(path)
    for key in ("dataset_sources", "competition_sources", "kernel_sources", "model_sources"):
        assert isinstance(metadata[key], list)


def test_the_three_files_fit_together():
    infer, train, dataset = read_metadata(INFER), read_metadata(TRAIN), read_metadata(DATASET)
    assert dataset["id"] == f"{OWNER_PLACEHOLDER}/humanpref-wheels"
    assert train["id"] == f"{OWNER_PLACEHOLDER}/humanpref-train"
    assert infer["id"] == f"{OWNER_PLACEHOLDER}/humanpref-infer"
    assert train["dataset_sources"] == infer["dataset_sources"] == [dataset["id"]]
    assert train["competition_sources"] == infer["competition_sources"] == [DEFAULT]
    assert train["kernel_sources"] == []
    assert infer["kernel_sources"] == [train["id"]]


def test_dataset_obeys_the_rules():
    slugify = pytest.importorskip(
        "slugify", reason="needs python-slugify, which the Kaggle client brings"
    ).slugify
    metadata = read_metadata(DATASET)
    slug = metadata["id"].partition("/")[2]
    assert 6 <= len(slug) <= 50
    assert 6 <= len(metadata["title"]) <= 50
    assert slugify(metadata["title"]) == slug
    assert 20 <= len(metadata["subtitle"]) <= 80
    assert metadata["licenses"] == [{"name": "apache-2.0"}]


# The functions.


def kernel(**changes):
    return {
        "id": f"{OWNER_PLACEHOLDER}/a-kernel",
        "title": "A kernel",
        "code_file": "code/run.py",
        "dataset_sources": [f"{OWNER_PLACEHOLDER}/a-dataset", "somebody/else"],
        "kernel_sources": [f"{OWNER_PLACEHOLDER}/another-kernel"],
        **changes,
    }


@pytest.fixture
def source(tmp_path):
    """A kernel's committed metadata and code, for a test to spoil."""
    folder = tmp_path / "source"
    (folder / "code").mkdir(parents=True)
    (folder / KERNEL_METADATA).write_text(json.dumps(kernel()))
    # Both line ends: what is staged must be the file as it is.
    (folder / "code" / "run.py").write_bytes("print('é')\r\nprint()\n".encode())
    return folder / KERNEL_METADATA


def test_read_metadata(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"id": "a/b"}')
    assert read_metadata(path) == {"id": "a/b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "not valid JSON"),
        (b"{'id': 1}", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b'["id"]', "expected a JSON object, got \\['id'\\]"),
        (b"null", "expected a JSON object, got None"),
    ],
)
def test_read_metadata_refuses(tmp_path, content, message):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"some.json: {message}"):
        read_metadata(path)


def test_fill_owner_fills_in_the_owner_and_nothing_else():
    models = ["google/a-model/transformers/1b/1", f"{OWNER_PLACEHOLDER}/m/transformers/1b/1"]
    metadata = kernel(model_sources=models)
    assert fill_owner(metadata, "ann-b_3") == metadata | {
        "model_sources": [models[0], "ann-b_3/m/transformers/1b/1"],
        "id": "ann-b_3/a-kernel",
        "dataset_sources": ["ann-b_3/a-dataset", "somebody/else"],
        "kernel_sources": ["ann-b_3/another-kernel"],
    }
    assert metadata == kernel(model_sources=models)


def test_fill_owner_puts_the_name_of_an_experiment_into_its_own_slugs():
    slugs = [
        f"{OWNER_PLACEHOLDER}/humanpref-train",
        f"{OWNER_PLACEHOLDER}/weights-x",
        "a/humanpref-x",
    ]
    metadata = kernel(id=slugs[0], title="humanpref train", dataset_sources=slugs)
    filled = fill_owner(metadata, "ann", "wide-2")
    assert filled["id"] == "ann/humanpref-wide-2-train"
    assert filled["title"] == "humanpref wide 2 train"
    assert filled["dataset_sources"] == [filled["id"], "ann/weights-x", "a/humanpref-x"]
    # A kernel that was given a slug of its own keeps it.
    mine = kernel(id=f"{OWNER_PLACEHOLDER}/mine", title="mine")
    assert fill_owner(mine, "ann", "wide-2") == fill_owner(mine, "ann")


@pytest.mark.parametrize(
    "owner",
    [
        "",
        "Ann",
        "ann b",
        "ann/b",
        "ann@example.com",
        "-ann",
        "ann-",
        "ann--b",
        "ann\n",
        OWNER_PLACEHOLDER,
    ],
)
def test_fill_owner_refuses_what_is_no_user_name(owner):
    with pytest.raises(InputError, match="owner: expected a Kaggle user name"):
        fill_owner(kernel(), owner)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", f"By {OWNER_PLACEHOLDER}"),
        ("id", OWNER_PLACEHOLDER),
        ("id", f"someone/{OWNER_PLACEHOLDER}"),
        ("licenses", [{"name": OWNER_PLACEHOLDER}]),
    ],
)
def test_fill_owner_refuses_a_placeholder_elsewhere(key, value):
    with pytest.raises(
        InputError, match=f"key {key}: expected {OWNER_PLACEHOLDER} only as an owner"
    ):
        fill_owner(kernel(**{key: value}), "ann")


def test_stage_kernel(source, tmp_path):
    before = {path: path.read_bytes() for path in source.parent.rglob("*.*")}
    folder = tmp_path / "new" / "staged"
    assert stage_kernel(source, folder, "ann") == folder
    staged = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert staged == {KERNEL_METADATA, "code/run.py"}
    assert read_metadata(folder / KERNEL_METADATA) == fill_owner(kernel(), "ann")
    assert (folder / "code" / "run.py").read_bytes() == (
        source.parent / "code" / "run.py"
    ).read_bytes()
    assert {path: path.read_bytes() for path in source.parent.rglob("*.*")} == before


def test_stage_kernel_with_the_digest_of_its_manifest(tmp_path):
    for path in (TRAIN, INFER):
        metadata = read_metadata(
            stage_kernel(path, tmp_path / path.parent.name, "ann", "0123abcd") / KERNEL_METADATA
        )
        code = kernel_code(tmp_path / path.parent.name / metadata["code_file"])
        assert code.count('\nMANIFEST = "0123abcd"\n') == 1
        assert code.replace("0123abcd", "") == kernel_code(path.parent / metadata["code_file"])


@pytest.mark.parametrize(
    "code", ["print()\n", 'MANIFEST = "0"\n', 'MANIFEST = ""\nMANIFEST = ""\n']
)
def test_code_without_a_place_for_the_digest_is_not_staged(source, tmp_path, code):
    (source.parent / "code" / "run.py").write_text(code)
    with pytest.raises(InputError, match=r'code_file: expected one line MANIFEST = ""'):
        stage_kernel(source, tmp_path / "staged", "ann", "0123abcd")
    assert not (tmp_path / "staged").exists()


def test_stage_kernel_again_takes_the_new_code(source, tmp_path):
    stage_kernel(source, tmp_path / "staged", "ann")
    (source.parent / "code" / "run.py").write_text("pass\n")
    stage_kernel(source, tmp_path / "staged", "ben")
    assert read_metadata(tmp_path / "staged" / KERNEL_METADATA)["id"] == "ben/a-kernel"
    assert (tmp_path / "staged" / "code" / "run.py").read_text() == "pass\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_file": None}, "code_file: expected a path inside .*, got None"),
        ({"code_file": ""}, "code_file: expected a path inside .*, got ''"),
        ({"code_file": "code/absent.py"}, ".*absent.py: cannot be read"),
        ({"code_file": "code"}, ".*code: cannot be read"),
        ({"code_file": "../run.py"}, "code_file: expected a path inside the metadata's folder"),
        ({"code_file": "/run.py"}, "code_file: expected a path inside the metadata's folder"),
        ({"title": OWNER_PLACEHOLDER}, "key title: "),
    ],
)
def test_stage_kernel_refuses(source, tmp_path, changes, message):
    source.write_text(json.dumps(kernel(**changes)))
    with pytest.raises(InputError, match=f"source/{KERNEL_METADATA}: {message}"):
        stage_kernel(source, tmp_path / "staged", "ann")
    assert not (tmp_path / "staged").exists()


def test_stage_kernel_refuses_code_that_is_not_text(source, tmp_path):
    (source.parent / "code" / "run.py").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"run\.py: expected UTF-8 text"):
        stage_kernel(source, tmp_path / "staged", "ann")
    assert not (tmp_path / "staged").exists()


def test_a_kernel_staged_without_an_owner_can_be_staged_again(source, tmp_path):
    copy = stage_kernel(source, tmp_path / "copy")
    assert read_metadata(copy / KERNEL_METADATA) == kernel()
    again = stage_kernel(copy / KERNEL_METADATA, tmp_path / "again", "ann")
    assert read_metadata(again / KERNEL_METADATA) == fill_owner(kernel(), "ann")


def test_written_metadata_is_ascii(tmp_path):
    """The client opens a dataset's metadata in the machine's encoding, so that raw UTF-8 arrives
    garbled from some."""
    path = tmp_path / "new" / DATASET_METADATA
    write_metadata(path, {"id": "a/b", "title": "Präferenz"})
    assert path.read_bytes().isascii()
    assert read_metadata(path)["title"] == "Präferenz"


def test_the_code_of_a_notebook_is_that_of_its_code_cells(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# no code"]},
        {"cell_type": "code", "source": ["a = 1\n", "b = 2"]},
        {"cell_type": "code", "source": "print(a + b)"},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert kernel_code(tmp_path / "n.ipynb") == "a = 1\nb = 2\n\nprint(a + b)"
    (tmp_path / "s.py").write_text("print(1)\n")
    assert kernel_code(tmp_path / "s.py") == "print(1)\n"


# The real client, in subprocesses, against the loopback service.


def stage_all(folder):
    """The three staged folders: dataset (with stand-ins for its files), training kernel, inference
    kernel."""
    dataset = folder / "dataset"
    write_metadata(dataset / DATASET_METADATA, fill_owner(read_metadata(DATASET), USER))
    (dataset / "run.toml").write_text('preset = "tiny"\n')
    (dataset / "wheels").mkdir()
    (dataset / "wheels" / "humanpref-0-py3-none-any.whl").write_bytes(b"stands for a wheel")
    return (
        dataset,
        stage_kernel(TRAIN, folder / "train", USER),
        stage_kernel(INFER, folder / "infer", USER),
    )


@dataclass(frozen=True)
class Pushed:
    """What the command line said and sent, and what the service then had."""

    service: Service
    said: dict[str, str]

    def body(self, slug):
        (body,) = self.service.kernels[f"{USER}/{slug}"]
        return body


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """Dataset, training kernel and inference kernel, each by the command that a user would give."""
    folder = tmp_path_factory.mktemp("pushed")
    dataset, train, infer = stage_all(folder)
    commands = {
        "dataset": ("datasets", "create", "-p", str(dataset), "-r", "zip"),
        "train": ("kernels", "push", "-p", str(train)),
        "infer": ("kernels", "push", "-p", str(infer)),
    }
    said = {}
    with Service(competitions=(DEFAULT,)) as service:
        for name, command in commands.items():
            finished = run_client(service, folder / "home", *command)
            assert finished.returncode == 0, f"{name}: {finished.stdout}{finished.stderr}"
            said[name] = finished.stdout
    return Pushed(service, said)


@needs_client
def test_client_sends_these_requests_and_no_others(pushed):
    assert [request.call for request in pushed.service.requests] == [
        "DatasetApiService/GetDatasetStatus",
        "BlobApiService/StartBlobUpload",
        "PUT /upload/token-1",
        "BlobApiService/StartBlobUpload",
        "PUT /upload/token-2",
        "DatasetApiService/CreateDataset",
        "KernelsApiService/SaveKernel",
        "KernelsApiService/SaveKernel",
    ]
    for request in pushed.service.requests:
        # Authorised where it speaks to the API, and only there: uploads go to another host.
        assert ("authorization" in request.headers) == request.path.startswith("/api/v1/")


@needs_client
def test_client_creates_the_dataset(pushed):
    (request,) = pushed.service.received("DatasetApiService/CreateDataset")
    body = request.json
    tokens = body.pop("files")
    assert body == {
        "ownerSlug": USER,
        "slug": "humanpref-wheels",
        "title": "humanpref wheels",
        "subtitle": read_metadata(DATASET)["subtitle"],
        "description": read_metadata(DATASET)["description"],
        "licenseName": "apache-2.0",
        "isPrivate": True,
    }
    assert tokens == [{"token": "token-1"}, {"token": "token-2"}]
    files = pushed.service.datasets[f"{USER}/humanpref-wheels"]
    assert set(files) == {"run.toml", "wheels.zip"}
    assert files["run.toml"] == b'preset = "tiny"\n'
    announced = [
        request.json for request in pushed.service.received("BlobApiService/StartBlobUpload")
    ]
    assert {upload["name"]: upload["contentLength"] for upload in announced} == {
        name: len(content) for name, content in files.items()
    }
    assert {upload["type"] for upload in announced} == {"DATASET"}
    assert "Your private Dataset is being created" in pushed.said["dataset"]


@needs_client
@pytest.mark.parametrize(
    ("slug", "kind", "kernel_sources"),
    [
        ("humanpref-train", "script", []),
        ("humanpref-infer", "notebook", [f"{USER}/humanpref-train"]),
    ],
)
def test_client_pushes_the_kernel(pushed, slug, kind, kernel_sources):
    body = dict(pushed.body(slug))
    del body["text"]
    assert body == {
        "slug": f"{USER}/{slug}",
        "newTitle": slug.replace("-", " "),
        "language": "python",
        "kernelType": kind,
        # All four are sent, false ones too: the service is not left to its defaults.
        "isPrivate": True,
        "enableGpu": True,
        "enableTpu": False,
        "enableInternet": False,
        "machineShape": "NvidiaTeslaT4",
        "datasetDataSources": [f"{USER}/humanpref-wheels"],
        "competitionDataSources": [DEFAULT],
        # An empty list is left out, as model sources are.
        **({"kernelDataSources": kernel_sources} if kernel_sources else {}),
    }
    said = pushed.said[slug.removeprefix("humanpref-")]
    # Nothing beside this line: no source refused, no title that misses its slug.
    assert said.splitlines() == [
        "Kernel version 1 successfully pushed.  Please check progress at "
        f"http://localhost/code/{USER}/{slug}"
    ]


@needs_client
def test_client_sends_the_script_as_it_is(pushed):
    code = TRAIN.parent / read_metadata(TRAIN)["code_file"]
    assert pushed.body("humanpref-train")["text"].encode() == code.read_bytes()


@needs_client
def test_client_sends_the_notebook_without_outputs(pushed):
    """The client joins each cell's lines and empties the outputs; all else is the committed
    notebook's."""
    expected = json.loads((INFER.parent / read_metadata(INFER)["code_file"]).read_bytes())
    for cell in expected["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    assert json.loads(pushed.body("humanpref-infer")["text"]) == expected


@needs_client
def test_nothing_is_printed_of_the_key(pushed):
    assert KEY not in "".join(pushed.said.values())


# Runs calls of the client's API and prints, as its last line, what each returned, printed or
# raised, and which keys of the metadata it looked up: the client's own list of valid keys.
API_SCRIPT = """
import contextlib, io, json, sys
from kaggle import api

asked = set()

class Recorded(dict):
    def get(self, key, default=None):
        asked.add(key)
        return super().get(key, default)
    def __getitem__(self, key):
        asked.add(key)
        return super().__getitem__(key)
    def __contains__(self, key):
        asked.add(key)
        return super().__contains__(key)

load = json.load
json.load = lambda file: Recorded(load(file))

results = []
for method, folder in json.loads(sys.argv[1]):
    asked.clear()
    options = {"dir_mode": "zip", "quiet": True} if method == "dataset_create_new" else {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            response = getattr(api, method)(folder, **options).to_dict()
        except Exception as error:
            response = {"raised": type(error).__name__ + ": " + str(error)}
    results.append({"response": response, "printed": printed.getvalue(), "keys": sorted(asked)})
print(json.dumps(results))
"""


def call_api(service, home, *calls):
    output = run_client_script(
        service, home, API_SCRIPT, json.dumps([(name, str(folder)) for name, folder in calls])
    )
    return json.loads(output.splitlines()[-1])


@needs_client
def test_client_looks_up_every_key_and_the_service_refuses_no_source(tmp_path):
    dataset, train, infer = stage_all(tmp_path)
    with Service(competitions=(DEFAULT,)) as service:
        early, created, trained, inferred = call_api(
            service,
            tmp_path / "home",
            ("kernels_push", infer),
            ("dataset_create_new", dataset),
            ("kernels_push", train),
            ("kernels_push", infer),
        )
    # Before its sources are there, the service names them; so the empty lists below mean something.
    assert early["response"]["invalidDatasetSources"] == [f"{USER}/humanpref-wheels"]
    assert early["response"]["invalidKernelSources"] == [f"{USER}/humanpref-train"]
    assert created["response"]["status"] == "ok"
    for result, slug, version in (
        (trained, "humanpref-train", 1),
        (inferred, "humanpref-infer", 2),
    ):
        assert not [
            key
            for key in result["response"]
            if key.startswith("invalid") or key in ("error", "raised")
        ]
        assert result["response"]["ref"] == f"/code/{USER}/{slug}"
        assert result["response"]["versionNumber"] == version
        assert result["printed"] == ""
    # A key that the client never looks up would be ignored in silence.
    assert set(read_metadata(infer / KERNEL_METADATA)) <= set(inferred["keys"])
    assert set(read_metadata(train / KERNEL_METADATA)) <= set(trained["keys"])
    assert set(read_metadata(dataset / DATASET_METADATA)) <= set(created["keys"])


@needs_client
def test_the_checks_can_fail(tmp_path):
    """What a slip in the metadata looks like from here: a push that succeeds all the same, unless
    one looks closely."""
    variants = {
        "no-internet-key": lambda metadata: metadata.pop("enable_internet"),
        "misspelt-key": lambda metadata: metadata.update(
            enable_interent=metadata.pop("enable_internet")
        ),
        "other-title": lambda metadata: metadata.update(title="Another title"),
        "long-title": lambda metadata: metadata.update(title="humanpref infer " * 4),
        "zero-for-false": lambda metadata: metadata.update(enable_internet=0),
        "no-owner": lambda metadata: metadata.update(dataset_sources=["humanpref-wheels"]),
    }
    staged = stage_kernel(INFER, tmp_path / "staged", USER)
    folders = []
    for name, spoil in variants.items():
        folders.append(Path(shutil.copytree(staged, tmp_path / name)))
        metadata = read_metadata(folders[-1] / KERNEL_METADATA)
        spoil(metadata)
        (folders[-1] / KERNEL_METADATA).write_text(json.dumps(metadata))
    with Service(competitions=(DEFAULT,)) as service:
        results = call_api(
            service, tmp_path / "home", *(("kernels_push", folder) for folder in folders)
        )
    result = dict(zip(variants, results, strict=True))
    sent = [request.json for request in service.received("KernelsApiService/SaveKernel")]
    assert [body["enableInternet"] for body in sent] == [True, True, False, False]
    assert "enable_interent" not in result["misspelt-key"]["keys"]
    assert result["misspelt-key"]["response"]["versionNumber"] == 2
    assert "does not resolve to the specified id" in result["other-title"]["printed"]
    assert result["long-title"]["response"]["versionNumber"] == 4
    assert result["zero-for-false"]["response"]["raised"].startswith("TypeError")
    assert result["no-owner"]["response"]["raised"].startswith(
        "ValueError: Dataset must be specified"
    )


@pytest.mark.slow
@needs_client
@pytest.mark.parametrize(
    ("reply", "returncode", "line"),
    [
        (refusal(403, "You may not do this"), 1, "You may not do this"),
        (None, 1, "Remote end closed connection without response"),
        # Exit code 0 for a kernel that was not saved.
        (Reply({"error": "This kernel is locked"}), 0, "Kernel push error: This kernel is locked"),
    ],
    ids=["refused", "dropped", "error-in-a-200"],
)
def test_what_the_client_says_when_a_push_fails(tmp_path, reply, returncode, line):
    staged = stage_kernel(TRAIN, tmp_path / "train", USER)
    with Service(competitions=(DEFAULT,)) as service:
        service.queue("KernelsApiService/SaveKernel", reply)
        finished = run_client(service, tmp_path / "home", "kernels", "push", "-p", str(staged))
    assert finished.returncode == returncode
    assert line in finished.stdout + finished.stderr
    assert KEY not in finished.stdout + finished.stderr
    assert service.kernels == {}
