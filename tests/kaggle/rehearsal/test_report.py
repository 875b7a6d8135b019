"""The report of a dry run, and the folder that it goes to."""

from pathlib import Path

import pytest

from humanpref.kaggle.rehearsal.probe import Probe
from humanpref.kaggle.rehearsal.report import claim, deliver, held
from humanpref.schema import InputError

UNPROVED = Probe(
    mode="bwrap",
    connection="timed out",
    unreachable=False,
    lookup="failed",
    interfaces=("lo",),
    input_remount="failed",
    input_write="failed",
    package=False,
)


def test_a_report_is_rendered_line_by_line(report):
    report.probes["infer"] = UNPROVED
    report.seconds["infer"], report.disk_bytes["infer"] = 61.0, 2**20
    report.peak_memory_bytes["infer"] = 3 * 2**20
    report.log_loss, report.prior_log_loss = 1.01, 1.09
    report.rows_per_second, report.projected_seconds = 1234.5, 7200.0
    report.seconds_per_step = 0.25
    report.warnings.append("odd")
    assert report.render().splitlines() == [
        "Dry run of preset tiny",
        "  data          rows: 0 training rows, 3 test rows",
        "  isolation     bubblewrap: no network, read-only inputs, a separate file system "
        "(new layout)",
        "  commit run    a connection to the outside timed out, a name look-up failed, mounting "
        "the input writable failed, writing to it failed; network interfaces: lo; "
        "readable places that may hold credentials: none",
        "                exit code 0 after 61 s; 3 MiB of memory at most, 1.0 MiB written",
        "  training step 0.250 seconds",
        "  log loss      1.0100 (the prior's: 1.0900)",
        "  speed         1,234.5 rows per second; 25,000 rows would take 2.0 hours on this "
        "machine, installation and loading included",
        "  warning       odd",
        "PASS",
    ]


def test_the_submission_is_named_once_it_is_there(report):
    assert "submission" not in report.render()
    report.out.mkdir()
    (report.out / "submission.csv").touch()
    report.predicted = 2
    assert f"  submission    {report.out / 'submission.csv'}: 2 of 3 predicted" in report.render()


def test_a_pass_without_isolation_says_so(report):
    report.mode = "none"
    assert report.render().splitlines()[-1] == report.to_dict()["verdict"]
    assert report.verdict == "PASS, WITHOUT ISOLATION"


def test_no_proof_of_isolation_fails_the_run(report):
    report.reasons += UNPROVED.faults
    assert "failed        there is no proof" in report.render()
    assert not report.passed
    assert report.render().endswith("FAIL")


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    claim(ours)  # empty
    claim(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    with pytest.raises(InputError, match="cannot be written"):
        claim(Path("/proc/results"))
    (ours / "submission.csv").write_text("precious")
    for kind in (None, "something else"):
        if kind:
            (ours / "report.json").write_text(f'{{"kind": "{kind}"}}')
        with pytest.raises(InputError, match="expected a new or empty folder"):
            claim(ours)
    (ours / "report.json").write_text('{"kind": "humanpref dry run"}')
    claim(ours)
    with pytest.raises(InputError, match="expected a new or empty folder"):
        claim(ours / "report.json")


def test_a_folder_that_a_dry_run_uses_is_not_used_by_another(tmp_path):
    out = tmp_path / "deep" / "out"
    with held(out), pytest.raises(InputError, match=r"out: another dry run is using") as raised:
        held(out).__enter__()
    assert not out.exists()
    with held(out):
        (out / "report.json").touch()
    assert out.exists()
    assert "\n" not in str(raised.value)


def test_earlier_results_are_replaced(tmp_path):
    made, out = tmp_path / "made", tmp_path / "out"
    deliver(tmp_path, tmp_path / "deep" / "new")
    assert (tmp_path / "deep" / "new").is_dir()
    for folder, names in ((made, ["report.json"]), (out, ["submission.csv", "mine.txt"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(folder.name)
    deliver(made, out)
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt", "report.json"]
