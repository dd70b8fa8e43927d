"""The node's key and certificate for its IMEX peers. Called by ``app`` (once) and with each word of the controller.

The key is made here, is readable by root alone and never leaves the node. The controller gets a request for a
certificate in the FabricNode's status and answers in its spec; it alone chooses the names. A new certificate is written
in place, and a running daemon is told to read it (SIGUSR1): rotation ends no connection that is in use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nvdra_core.api.fabric import FabricCertificate
from nvdra_core.errors import CommandError, HostError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.host.ports import Commands, Files

_LOG = log.get(__name__)

OPENSSL_S = 30.0


class Certificate:
    """See the module."""

    def __init__(self, directory: Path, commands: Commands, files: Files, clock: Clock) -> None:
        self._directory = directory
        self._commands = commands
        self._files = files
        self._clock = clock
        self._current: FabricCertificate | None = None
        self._is_new = False
        """A file was written that nobody has been told of."""

    @property
    def is_complete(self) -> bool:
        """Whether a daemon could be started with TLS now."""
        paths = [str(self._directory / name) for name in ("key.pem", "cert.pem", "ca.pem")]
        return self._files.first_missing(paths) is None

    def request(self) -> str:
        """The PEM request for a certificate; the key is made when there is none that openssl reads. Raises HostError or
        FileError.
        """
        self._files.make_directory(self._directory, mode=0o700)
        key, request = self._directory / "key.pem", self._directory / "request.pem"
        if self._files.read(key) and not self._is_usable(key):
            self._files.move(key, key.with_name("key.pem.damaged"))
        if not self._files.read(key):
            # What was asked for or signed is of a key that is no more.
            for stale in (request, self._directory / "cert.pem"):
                self._files.remove(stale)
            curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
            self._files.replace(key, self._openssl("genpkey", *curve), durable=True)
        if known := self._files.read(request):
            return known.decode()
        # A key that is there stays: a signed certificate may be of it.
        text = self._openssl("req", "-new", "-key", str(key), "-subj", "/CN=nvdra-imex")
        self._files.replace(request, text, durable=True)
        return text.decode()

    def _is_usable(self, key: Path) -> bool:
        """Whether openssl can read the key. Raises HostError when openssl itself does not run to its end."""
        try:
            self._openssl("pkey", "-in", str(key), "-pubout")
        except CommandError as error:
            if error.returncode is None:
                raise
            _LOG.warning("key of IMEX peers is damaged; making a new one", error, path=str(key))
            return False
        return True

    def install(self, signed: FabricCertificate | None, changed: Callable[[], None]) -> None:
        """Keep what the controller signed; ``changed`` is called when it is another one. Never raises NvdraError."""
        if signed is None or signed == self._current:
            return
        try:
            self._write("cert.pem", signed.certificate)
            self._write("ca.pem", signed.authorities)
        except NvdraError as error:
            _LOG.warning("the certificate for IMEX peers is not written", error)
            return
        self._current = signed
        if self._is_new:
            self._is_new = False
            _LOG.info("certificate for IMEX peers", not_after=signed.not_after)
            changed()

    def _write(self, name: str, text: str) -> None:
        path = self._directory / name
        if self._files.read(path) != text.encode():
            self._files.replace(path, text.encode(), durable=True)
            self._is_new = True

    def _openssl(self, *arguments: str) -> bytes:
        result = self._commands.run(["openssl", *arguments], Deadline(OPENSSL_S, self._clock))
        if not result.stdout.startswith("-----BEGIN "):
            raise HostError(f"openssl {arguments[0]} wrote no PEM")
        return result.stdout.encode()
