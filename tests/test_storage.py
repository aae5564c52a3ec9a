from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from grpo.errors import StorageError
from grpo.storage import (
    DamagedError,
    describe_manifest,
    disk_error,
    read_manifest,
    readable_size,
    require_free_space,
    storage_errors,
    verify_manifest,
    write_atomically,
    write_manifest,
)


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "one"
    require_free_space(place, 1)
    with pytest.raises(StorageError, match=r"about 1000000\.0 TB needed, .* free"):
        require_free_space(place, 10**18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="no permission"):
            require_free_space(tmp_path / "run", 1)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_atomically(path, "old: ½\n")
    write_atomically(path, "new: ½\n")
    assert path.read_bytes() == "new: ½\n".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_a_missing_folder_is_a_storage_error_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*config\.yaml: No such file") as caught:
        write_atomically(tmp_path / "gone" / "config.yaml", "")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_storage_error_inside_another_place_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^its own words$"), storage_errors(tmp_path):
        raise StorageError("its own words")


def test_the_operating_systems_error_is_found_behind_those_of_libraries() -> None:
    wrapped = RuntimeError("unexpected pos 640 vs 598")
    wrapped.__context__ = OSError(errno.ENOSPC, "No space left on device")
    found = disk_error(wrapped)
    assert found is not None
    assert found.errno == errno.ENOSPC
    mentioned = disk_error(Exception("I/O error: File too large (os error 27)"))
    assert mentioned is not None
    assert mentioned.errno == 27
    assert disk_error(ValueError("shapes differ")) is None


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (2.5e9, "2.5 GB"),
        (3.2e12, "3.2 TB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_sizes_are_shown_in_the_unit_that_keeps_them_short(size: float, shown: str) -> None:
    assert readable_size(size) == shown


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.ENOSPC,
            r"cannot write .*: No space left on device \([\d.]+ .?B free\); free some space and resume the run$",
        ),
        (errno.EACCES, r"cannot write .*: Permission denied; choose an output_dir that you may write to$"),
    ],
)
def test_a_refused_write_says_what_to_do_about_it(number: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=said), storage_errors(tmp_path / "file"):
        raise OSError(number, os.strerror(number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, one below it, and a manifest."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "inner" / "b.txt").write_bytes(b"x" * (2**20 + 17))
    write_manifest(tmp_path, {"step": 3})
    return tmp_path


def test_a_manifest_lists_size_and_checksum_of_every_file(folder: Path) -> None:
    verify_manifest(folder)
    manifest = read_manifest(folder)
    assert manifest["step"] == 3
    assert list(manifest["files"]) == ["a.txt", "inner/b.txt"]
    assert manifest["files"]["a.txt"] == {
        "size": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert manifest["files"]["inner/b.txt"]["size"] == 2**20 + 17


def test_a_manifest_can_be_described_further_and_holds_for_the_same_files(folder: Path) -> None:
    describe_manifest(folder, {"best": True, "step": 4})
    assert {name: entry for name, entry in read_manifest(folder).items() if name != "files"} == {
        "step": 4,
        "best": True,
    }
    verify_manifest(folder)
    (folder / "unlisted.txt").write_text("nobody's business")
    verify_manifest(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "manifest.json is missing"),
        ("{", "manifest.json cannot be read"),
        ("[]", "manifest.json lists no files"),
        ('{"step": 3}', "manifest.json lists no files"),
        ('{"files": ["a.txt"]}', "manifest.json lists no files"),
        ('{"files": {"/etc/hosts": {}}}', "manifest.json has a bad entry '/etc/hosts'"),
        ('{"files": {"../a.txt": {}}}', r"manifest.json has a bad entry '\.\./a\.txt'"),
        ('{"files": {"a.txt": 3}}', "manifest.json has a bad entry 'a.txt'"),
        ('{"files": {"b.txt": {}}}', "^b.txt is missing"),
        ('{"files": {"inner": {}}}', "^inner is missing"),
        ('{"files": {"a.txt": {"size": 4}}}', "^a.txt has 3 bytes instead of 4"),
        ('{"files": {"a.txt": {"size": 3, "sha256": "0"}}}', "^the checksum of a.txt is wrong"),
        ('{"files": {"a.txt": {"size": 3}}}', "^the checksum of a.txt is wrong"),
    ],
)
def test_a_folder_that_is_not_what_its_manifest_says_is_damaged(text: str | None, said: str, folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    with pytest.raises(DamagedError, match=said):
        verify_manifest(folder)


def test_a_change_of_the_last_byte_of_a_large_file_is_noticed(folder: Path) -> None:
    with (folder / "inner" / "b.txt").open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"y")
    with pytest.raises(DamagedError, match=r"the checksum of inner/b\.txt is wrong"):
        verify_manifest(folder)


def test_a_manifest_is_json_that_others_can_read(folder: Path) -> None:
    assert json.loads((folder / "manifest.json").read_text()) == read_manifest(folder)
