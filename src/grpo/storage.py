"""Atomic writes, folders with checksums, and the errors of full or protected disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from grpo.errors import ConfigError, InputError, StorageError

__all__ = [
    "DamagedError",
    "describe_manifest",
    "disk_error",
    "expanded",
    "free_bytes",
    "partial_path",
    "read_manifest",
    "read_text",
    "readable_size",
    "require_free_space",
    "require_plain_entries",
    "require_regular_file",
    "require_short_names",
    "sha256_of",
    "storage_errors",
    "sync_directory",
    "sync_file",
    "verify_manifest",
    "write_atomically",
    "write_manifest",
]

_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_LONGEST_NAME = 255
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def disk_error(exception: BaseException) -> OSError | None:
    """Return the operating system's error behind `exception`, or None when it is of another kind.

    torch wraps it in a RuntimeError; safetensors and tokenizers only mention its number.
    """
    cause: BaseException | None = exception
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        if mentioned := _RUST_ERROR.search(str(cause)):
            number = int(mentioned.group(1))
            return OSError(number, os.strerror(number))
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a StorageError.

    Raises:
        StorageError: the disk is full, or the place may not be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write {path}: {_reason(error, path)}") from error


def _reason(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{reason} ({readable_size(free_bytes(path))} free); free some space and resume the run"
    return f"{reason}; choose an output_dir that you may write to"


def readable_size(num_bytes: int | float) -> str:
    """Return a number of bytes with a unit.

    Example:
        >>> readable_size(999), readable_size(1_250_000)
        ('999 B', '1.2 MB')
    """
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    size = float(num_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def free_bytes(path: Path) -> int:
    """Return the number of free bytes on the disk of `path`, which need not exist."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def require_free_space(directory: Path, bytes_needed: int) -> None:
    """Check that `bytes_needed` fit into `directory`, which need not exist yet.

    Raises:
        StorageError: less than `bytes_needed` are free, or the place may not be written.
    """
    place = _existing(directory)
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write to {directory}: no permission; choose an output_dir that you may write to")
    free = free_bytes(place)
    if free < bytes_needed:
        raise StorageError(
            f"not enough space for the run in {directory}: about {readable_size(bytes_needed)} needed, "
            f"{readable_size(free)} free; free some space, or choose another output_dir"
        )


def expanded(path: str | Path) -> Path:
    """Return `path` with the home directory in place of `~`; `~name` stays where no user has that name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def require_short_names(path: Path) -> Path:
    """Return `path` if a file system can hold its names.

    Raises:
        ConfigError: a name is longer than 255 bytes.
    """
    for name in path.parts:
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise ConfigError(f"the name {name[:40]}… has {len(name)} characters: {_LONGEST_NAME} bytes are allowed")
    return path


def require_regular_file(path: Path, error: type[InputError] = ConfigError) -> None:
    """Check that `path`, which exists, can be read to its end: a pipe or a device may have none.

    Raises:
        InputError: of the type `error`: it is a folder, a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device, which may never end"
    raise error(f"cannot read {path}: it is {kind}: give a regular file")


def require_plain_entries(directory: Path, error: type[InputError] = ConfigError) -> None:
    """Check that a folder holds files and folders only: whoever opens a pipe waits for its other end.

    Raises:
        InputError: of the type `error`: it holds a pipe, a socket or a device.
    """
    for entry in sorted(directory.iterdir()):
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            raise error(f"{entry} is a pipe, a socket or a device: remove it from {directory}")


def read_text(path: Path, *, error: type[InputError] = ConfigError, most_bytes: int | None = None) -> str:
    """Return the content of a regular file in UTF-8.

    Args:
        error: the type of error to raise.
        most_bytes: size that the file may have; None: any.

    Raises:
        InputError: of the type `error`: it cannot be read, is no regular file, is too long or is not UTF-8 text.
    """
    try:
        require_regular_file(path, error)
        if most_bytes is not None and (size := path.stat().st_size) > most_bytes:
            raise error(
                f"cannot read {path}: it has {readable_size(size)}, and {readable_size(most_bytes)} are allowed: "
                f"is it the right file?"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise error(f"cannot read {path}: it is not UTF-8 text") from None
    except (OSError, ValueError) as refusal:
        if isinstance(refusal, InputError):
            raise
        raise error(f"cannot read {path}: {getattr(refusal, 'strerror', None) or refusal}") from None


def partial_path(path: Path) -> Path:
    """Return the hidden file in which `write_atomically` prepares `path`; a killed process may leave it."""
    return path.with_name(f".{path.name}.partial")


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of `path` by `text`; a process killed at any moment leaves the old content or the new.

    Raises:
        StorageError: it could not be written; the old content stays.
    """
    partial = partial_path(path)
    with storage_errors(path):
        try:
            partial.write_bytes(text.encode())
            sync_file(partial)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Return once the content of `path` is on the disk, not only in memory."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Return once the names in `path` are on the disk; does nothing where directories cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DamagedError(Exception):
    """A folder differs from its manifest; the message names the file and the difference."""


def write_manifest(folder: Path, description: Mapping[str, Any]) -> None:
    """List the files of `folder` in its `manifest.json`, with sizes and checksums; all is on the disk on return.

    Args:
        description: further entries of the manifest; JSON-able.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        sync_file(path)
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({**description, "files": files}, indent=1) + "\n", encoding="utf-8")
    sync_file(manifest)
    for directory in {folder, *(path.parent for path in paths)}:
        sync_directory(directory)


def describe_manifest(folder: Path, description: Mapping[str, Any]) -> None:
    """Set entries of the description in the manifest of `folder`; its list of files stays.

    Raises:
        DamagedError: there is no manifest, or it cannot be read.
        StorageError: it could not be written.
    """
    manifest = read_manifest(folder)
    write_atomically(folder / _MANIFEST, json.dumps({**manifest, **description}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder`: its description, and `files`.

    Raises:
        DamagedError: there is none, or it cannot be read.
    """
    if not (folder / _MANIFEST).exists():
        raise DamagedError(f"{_MANIFEST} is missing")
    try:
        manifest = json.loads(read_text(folder / _MANIFEST))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{_MANIFEST} cannot be read ({error})") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{_MANIFEST} lists no files")
    return manifest


def verify_manifest(folder: Path) -> None:
    """Compare the files of `folder` with its manifest, sizes first; files that it does not list are ignored.

    Raises:
        DamagedError: a file is missing or is not as listed.
    """
    files = read_manifest(folder)["files"]
    for name, entry in files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not isinstance(entry, dict):
            raise DamagedError(f"{_MANIFEST} has a bad entry {name!r}")
        path = folder / parts
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if path.stat().st_size != entry.get("size"):
            raise DamagedError(f"{name} has {path.stat().st_size} bytes instead of {entry.get('size')}")
    for name, entry in files.items():
        if sha256_of(folder / name) != entry.get("sha256"):
            raise DamagedError(f"the checksum of {name} is wrong")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()
