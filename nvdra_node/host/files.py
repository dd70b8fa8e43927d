"""Small files of this machine, read and replaced whole. Used by ``checkpoint`` and ``cdi``.

Every OSError becomes a FileError with the path and a remedy. ``replace`` is atomic: readers see the old file or the new
one. A durable replace flushes the file before the rename, so that no name has incomplete content after a power failure.
The directory is not flushed: a lost name is harmless, because the boot id changes and no record is used unverified
(see ``checkpoint.store``).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from nvdra_core.errors import FileError

TEMP_SUFFIX = ".tmp"
"""Suffix of unfinished files; readers of ``.json`` and ``.yaml`` ignore it."""

_REMEDIES = {
    errno.ENOSPC: "free some space on its file system",
    errno.EDQUOT: "raise the disk quota",
    errno.EROFS: "the file system is read-only: check it and mount it read-write",
    errno.EACCES: "check its owner and mode and the unit's ReadWritePaths",
    errno.EPERM: "check its owner and mode and the unit's ReadWritePaths",
    errno.ENOENT: "create its directory",
    errno.ENOTDIR: "a component of its path is not a directory: remove it",
    errno.EIO: "the disk reports errors: check the kernel log",
}


def file_error(doing: str, path: Path, error: OSError) -> FileError:
    """A FileError for an OSError; ``doing`` is a verb phrase (``write``)."""
    remedy = _REMEDIES.get(error.errno or 0, "check the file system")
    return FileError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}", path=str(path))


def temp_path(path: Path) -> Path:
    """The temporary file of ``replace``: hidden, in the same directory."""
    return path.with_name(f".{path.name}{TEMP_SUFFIX}")


class HostFiles:
    """The real files."""

    def read(self, path: Path) -> bytes | None:
        """See Files."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error("read", path, error) from error

    def replace(self, path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
        """See Files."""
        temp = temp_path(path)
        try:
            fd = _create(temp, mode)
            try:
                os.fchmod(fd, mode)  # regardless of the umask and of a left-over file
                _write_all(fd, data)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            temp.replace(path)
        except OSError as error:
            _remove_quietly(temp)
            raise file_error("write", path, error) from error

    def overwrite(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """See Files."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                os.fchmod(fd, mode)
                _write_all(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            raise file_error("write", path, error) from error

    def move(self, source: Path, target: Path) -> None:
        """See Files."""
        try:
            source.replace(target)
        except OSError as error:
            raise file_error(f"move {source} to", target, error) from error

    def remove(self, path: Path) -> bool:
        """See Files."""
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise file_error("remove", path, error) from error
        return True

    def names(self, directory: Path) -> tuple[str, ...]:
        """See Files."""
        try:
            return tuple(sorted(entry.name for entry in directory.iterdir()))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise file_error("list", directory, error) from error

    def make_directory(self, path: Path, *, mode: int = 0o755) -> None:
        """See Files."""
        try:
            if not path.is_dir():
                path.mkdir(mode=mode, parents=True, exist_ok=True)
                path.chmod(mode)  # regardless of the umask
        except OSError as error:
            raise file_error("create", path, error) from error

    def first_missing(self, paths: Iterable[str]) -> str | None:
        """See Files."""
        # Not access(2): it fails for an existing device node that the unit may not open.
        return next((path for path in paths if not os.path.exists(path)), None)  # noqa: PTH110

    def fingerprint(self, path: Path) -> str | None:
        """See Files."""
        try:
            status = path.stat()
        except OSError:
            # For the caller, an unreadable file is a missing one.
            return None
        return f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}"


def _create(temp: Path, mode: int) -> int:
    """Open a new file, replacing the left-over of a crash or a link, which must not be followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(temp, flags, mode)
    except FileExistsError:
        temp.unlink()
        return os.open(temp, flags, mode)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _remove_quietly(path: Path) -> None:
    # The first error is being raised; the sweeper removes what is left.
    with contextlib.suppress(OSError):
        path.unlink()
