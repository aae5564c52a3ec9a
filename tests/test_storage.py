from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from grpo.errors import StorageError
from grpo.storage import disk_error, require_free_space, storage_errors, write_atomically


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
