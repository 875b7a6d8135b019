"""Where files are written: what is replaced, what is not, and what is refused before the work."""

import os
import signal
import socket
import stat
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from humanpref.files import (
    check_new,
    check_writable,
    folder_sha256,
    folder_whole,
    locked,
    read_json,
    write_csv,
    write_json,
    write_whole,
)
from humanpref.schema import InputError


def write(path, text="new"):
    check_writable(path)
    with write_whole(path) as file:
        file.write(text)


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "file", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert not list(tmp_path.rglob(".*"))


def test_a_csv_keeps_all_digits(tmp_path):
    write_csv(tmp_path / "t.csv", pd.DataFrame({"name": ["a,b", "ü"], "n": [1 / 3, None]}))
    expected = 'name,n\n"a,b",0.3333333333333333\nü,\n'
    assert (tmp_path / "t.csv").read_bytes() == expected.encode()


def test_streams_are_written_into(capfd):
    for stream in ("/dev/stdout", "/dev/null"):
        write(stream)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert capfd.readouterr().out == "new"


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for act in (check_writable, write):
            with pytest.raises(InputError, match=r"socket: cannot be written \(is not a file\)"):
                act(tmp_path / "socket")
            with pytest.raises(InputError, match=r"cannot be written \(is a folder\)"):
                act(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(InputError, match=r"fifo: cannot be written \(is not a file\)"):
        check_writable(tmp_path / "fifo")


@pytest.mark.parametrize("length", [255, 256])
def test_the_longest_name(tmp_path, length):
    if length == 255:
        write(tmp_path / ("x" * length))
        assert [path.name for path in tmp_path.iterdir()] == ["x" * length]
    else:
        with pytest.raises(InputError, match="File name too long"):
            check_writable(tmp_path / ("x" * length))


def test_names_that_are_not_utf8_survive_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.csv")
    write_json(tmp_path / "file.json", {"file": name})
    assert read_json(tmp_path / "file.json") == {"file": name}


def test_what_lies_in_an_input_is_refused(tmp_path):
    (tmp_path / "input" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "input")
    for check in (check_writable, check_new):
        for place in ("input/deep/x", "link/x"):
            with pytest.raises(InputError, match=r"x: is inside .*input, an input"):
                check(tmp_path / place, inputs=[tmp_path / "other", tmp_path / "input"])
        check(tmp_path / "inputs", inputs=[tmp_path / "input"])


def test_folders_that_cannot_be_made_are_found_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    check_new(tmp_path / "new" / "folder")
    with pytest.raises(
        InputError, match=r"folder: cannot be written \(.*file is not a writable folder"
    ):
        check_new(tmp_path / "file" / "new" / "folder")
    with pytest.raises(InputError, match="File name too long"):
        check_new(tmp_path / ("x" * 256))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")
def test_a_folder_that_only_seems_to_be_writable():
    for check in (check_writable, check_new):
        with pytest.raises(InputError, match="/proc is not a writable folder"):
            check("/proc/new")


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    left, written, other = (
        tmp_path / name
        for name in (".out.abcd_123.partial", ".out.zzzzzzzz.partial", ".out.backup.partial")
    )
    for folder in (left, written, other):
        (folder / "deep").mkdir(parents=True)
    with locked(written), folder_whole(tmp_path / "out") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([written, other, folder])
        (folder / "file").touch()
        with pytest.raises(BlockingIOError), locked(folder):
            pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_files_that_killed_processes_left_are_removed_with_the_next_write(tmp_path):
    code = (
        "import os, signal, sys; from humanpref.files import write_whole\n"
        "with write_whole(sys.argv[1]) as file:\n"
        "    file.write('half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = tmp_path / "out.csv"
    done = subprocess.run([sys.executable, "-c", code, out])
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    with locked(left):  # as if it were still written
        write(out)
        assert left.exists()
    write(out)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_keeps_what_was_there_and_names_the_path(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        write(tmp_path / "out", "old")
        expected = r"out: cannot be written \(No space left on device; 0\.1 MiB are free there now"
        with pytest.raises(InputError, match=expected):
            write(tmp_path / "out", "x" * 2**20)
        expected = pytest.raises(InputError, match=r"new: cannot be written \(No space left on dev")
        with expected, folder_whole(tmp_path / "new") as folder:
            save_file({"a": np.zeros(2**17)}, folder / "a.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out").read_text() == "old"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_later_of_two_processes_is_told_what_happened(tmp_path):
    out = tmp_path / "out"

    def write_around(inner):
        with folder_whole(out) as folder:
            (folder / "file").touch()
            inner()

    with pytest.raises(InputError, match=r"out: was created by another process while"):
        write_around(lambda: write_around(list))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_the_digest_of_a_folder_is_that_of_its_names_and_contents(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a").write_text("x")
    first = folder_sha256(tmp_path / "one")
    assert folder_sha256(tmp_path / "two") == first
    (tmp_path / "two" / "in" / "a").rename(tmp_path / "two" / "in" / os.fsdecode(b"\xff"))
    renamed = folder_sha256(tmp_path / "two")
    (tmp_path / "one" / "in" / "a").write_text("y")
    assert len({first, renamed, folder_sha256(tmp_path / "one")}) == 3
