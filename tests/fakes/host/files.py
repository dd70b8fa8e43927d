"""Files in memory that can fail, crash, lose power and reboot, for the crash and scenario tests.

Each visible step (write the temporary file, flush it, rename it, remove, move, make a directory) is counted, so a test
can say "die before step 7". ``Crash`` is a BaseException: no handler in the code under test may swallow it, as none
could swallow a SIGKILL.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nvdra_node.host.files import file_error, temp_path


class Crash(BaseException):
    """The process died here."""


@dataclass
class Faults:
    """Injected faults. Shared by all fakes of one simulated machine, so that steps have one order."""

    die_at: int | None = None
    """Raise Crash instead of doing this step (the first is 1)."""
    fail_at: int | None = None
    """Let this step fail once, with ``error``."""
    error: int = errno.EIO
    steps: int = 0
    log: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def step(self, what: str) -> int | None:
        """Count one step. Raises Crash at the step to crash at; returns an errno if the step must fail."""
        with self._lock:
            self.steps += 1
            self.log.append(what)
            if self.die_at is not None and self.steps >= self.die_at:
                raise Crash(f"step {self.steps}: {what}")
            return self.error if self.steps == self.fail_at else None

    def clear(self) -> None:
        """No faults from now on; counting restarts."""
        self.die_at = None
        self.fail_at = None
        self.steps = 0
        self.log.clear()


class FakeFiles:
    """See Files. ``tmpfs`` are the directories that a reboot empties."""

    def __init__(
        self, faults: Faults | None = None, tmpfs: Iterable[Path] = (Path("/run"),)
    ) -> None:
        self.faults = faults or Faults()
        self.read_only: set[Path] = set()
        """Directories that refuse every change, with EROFS."""
        self.full: set[Path] = set()
        """Directories that take no more data: writes fail with ENOSPC, removals work."""
        self.unreadable: set[Path] = set()
        """Directories that cannot be listed."""
        self.syncs = 0
        self._tmpfs = tuple(tmpfs)
        self._files: dict[Path, bytes] = {}
        self._directories: set[Path] = set()
        self._unsynced: set[Path] = set()
        self._settled: dict[Path, bytes] = {}
        self._versions: dict[Path, int] = {}
        self._lock = threading.RLock()

    def read(self, path: Path) -> bytes | None:
        """See Files."""
        with self._lock:
            return self._files.get(path)

    def replace(self, path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
        """See Files."""
        temp = temp_path(path)
        self._step("write", temp, adds=True)
        with self._lock:
            self._files[temp] = data
        if durable:
            self._step_or_remove("flush", temp, path)
            with self._lock:
                self.syncs += 1
        self._step_or_remove("rename", temp, path)
        with self._lock:
            self._files[path] = self._files.pop(temp)
            self._versions[path] = self._versions.get(path, 0) + 1
            (self._unsynced.discard if durable else self._unsynced.add)(path)

    def overwrite(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """See Files. One step: a crash leaves the old content or the new."""
        self._step("overwrite", path, adds=True)
        with self._lock:
            self._files[path] = data + self._files.get(path, b"")[len(data) :]
            self._versions[path] = self._versions.get(path, 0) + 1
            self._unsynced.add(path)

    def move(self, source: Path, target: Path) -> None:
        """See Files."""
        self._step("move", source)
        with self._lock:
            if source not in self._files:
                raise file_error("move", source, OSError(errno.ENOENT, "no such file"))
            self._files[target] = self._files.pop(source)

    def remove(self, path: Path) -> bool:
        """See Files."""
        with self._lock:
            if path not in self._files:
                return False
        self._step("remove", path)
        with self._lock:
            del self._files[path]
        return True

    def names(self, directory: Path) -> tuple[str, ...]:
        """See Files."""
        if directory in self.unreadable:
            raise file_error("list", directory, OSError(errno.EACCES, "permission denied"))
        with self._lock:
            return tuple(sorted(path.name for path in self._files if path.parent == directory))

    def make_directory(self, path: Path, *, mode: int = 0o755) -> None:
        """See Files. Writing needs no directory here; that one exists shows in ``first_missing`` only."""
        with self._lock:
            self._directories.add(path)

    def first_missing(self, paths: Iterable[str]) -> str | None:
        """See Files."""
        with self._lock:
            known = self._files.keys() | self._directories
            return next((path for path in paths if Path(path) not in known), None)

    def fingerprint(self, path: Path) -> str | None:
        """See Files."""
        with self._lock:
            if path not in self._files:
                return None
            return f"{self._versions.get(path, 0)}:{len(self._files[path])}"

    def put(self, path: Path, data: bytes) -> None:
        """Place a file as if it had always been there (no step, no fault)."""
        with self._lock:
            self._files[path] = data
            self._versions[path] = self._versions.get(path, 0) + 1

    def paths(self) -> tuple[Path, ...]:
        """All files, sorted."""
        with self._lock:
            return tuple(sorted(self._files))

    def settle(self) -> None:
        """Everything so far is on the disk, names included (the kernel writes back after some seconds)."""
        with self._lock:
            self._settled = dict(self._files)
            self._unsynced.clear()

    def reboot(self) -> None:
        """An orderly reboot: everything is kept but the tmpfs."""
        with self._lock:
            self._files = {p: d for p, d in self._files.items() if not self._is_volatile(p)}
            self._directories = {p for p in self._directories if not self._is_volatile(p)}
        self.settle()

    def lose_power(self, *, keep_names: bool) -> None:
        """Power failure. ``keep_names``: directory changes since ``settle`` made it to the disk, unflushed data did
        not (such files are empty); otherwise the disk shows what was settled."""
        with self._lock:
            if keep_names:
                for path in self._unsynced & set(self._files):
                    self._files[path] = b""
            else:
                self._files = dict(self._settled)
        self.reboot()

    def _is_volatile(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._tmpfs)

    def _step_or_remove(self, doing: str, temp: Path, path: Path) -> None:
        try:
            self._step(doing, path)
        except Exception:
            with self._lock:
                self._files.pop(temp, None)
            raise

    def _step(self, doing: str, path: Path, *, adds: bool = False) -> None:
        code = self.faults.step(f"{doing} {path}")
        if path.parent in self.read_only:
            code = errno.EROFS
        elif adds and path.parent in self.full:
            code = errno.ENOSPC
        if code is not None:
            raise file_error(doing, path, OSError(code, errno.errorcode[code]))
