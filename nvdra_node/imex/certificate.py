"""Key, request and certificate of this node for its IMEX peers. Called by ``app`` at the start and for each new spec.

The key is made here, readable by root alone, and never leaves the node. The request goes to the controller in the
FabricNode's status; the certificate comes back in its spec, with names that the controller chose. A new certificate is
written in place and read by the running daemon on SIGUSR1, which keeps its connections.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from nvdra_core.api.fabric import FabricCertificate
from nvdra_core.errors import HostError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.host.ports import Commands, Files

_LOG = log.get(__name__)

CHILD_S = 30.0
_CHILD = "import sys; sys.path += sys.argv[2:]; from nvdra_node.imex.key_child import main; main(sys.argv[1])"
_REQUEST = "-----BEGIN CERTIFICATE REQUEST-----"


class CertificateStore:
    """The files of one directory (mode 0700); each has mode 0600. One thread at a time."""

    def __init__(self, directory: Path, commands: Commands, files: Files, clock: Clock) -> None:
        self._directory = directory
        self._commands = commands
        self._files = files
        self._clock = clock
        self._current: FabricCertificate | None = None
        self._is_unreported = False
        """A file was written since ``changed`` was called last."""

    @property
    def is_complete(self) -> bool:
        """Whether a daemon could be started with TLS now."""
        paths = [str(self._directory / name) for name in ("key.pem", "cert.pem", "ca.pem")]
        return self._files.first_missing(paths) is None

    def request(self) -> str:
        """The PEM certificate request. A missing or unreadable key is replaced. Raises HostError or FileError."""
        self._files.make_directory(self._directory, mode=0o700)
        key, path = self._directory / "key.pem", self._directory / "request.pem"
        new_key, text = self._run_child(key)
        if new_key:
            if self._files.read(key):
                kept = key.with_name("key.pem.damaged")
                _LOG.warning("IMEX key is damaged; made a new one", path=str(key), kept=str(kept))
                self._files.move(key, kept)
            # Both are of the key that is lost.
            for stale in (path, self._directory / "cert.pem"):
                self._files.remove(stale)
            self._files.replace(key, new_key.encode(), durable=True)
        if known := self._files.read(path):
            return known.decode()
        self._files.replace(path, text.encode(), durable=True)
        return text

    def _run_child(self, key: Path) -> tuple[str, str]:
        """PEM of a new key if the old one is missing or unusable, and of a request. Raises HostError."""
        argv = [sys.executable, "-I", "-S", "-c", _CHILD, str(key), *sys.path]
        output = self._commands.run(argv, Deadline(CHILD_S, self._clock)).stdout
        new_key, begin, request = output.partition(_REQUEST)
        if not begin:
            raise HostError(f"{key}: the program that makes the certificate request printed none")
        return new_key, begin + request

    def install(self, signed: FabricCertificate | None, changed: Callable[[], None]) -> None:
        """Write a certificate of the controller and call ``changed`` if it is new. Never raises NvdraError."""
        if signed is None or signed == self._current:
            return
        try:
            self._write("cert.pem", signed.certificate)
            self._write("ca.pem", signed.authorities)
        except NvdraError as error:
            _LOG.warning("cannot write the IMEX certificate", error)
            return
        self._current = signed
        if self._is_unreported:
            self._is_unreported = False
            _LOG.info("IMEX certificate installed", not_after=signed.not_after)
            changed()

    def _write(self, name: str, text: str) -> None:
        path = self._directory / name
        if self._files.read(path) != text.encode():
            self._files.replace(path, text.encode(), durable=True)
            self._is_unreported = True
