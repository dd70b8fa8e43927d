"""The current credentials, reloaded when their files change. Safe for several threads.

Files are checked at most once a second (device, inode, size and mtime of the link's target). An unusable change (half
written, a key that does not match, an empty token) keeps the previous credentials and is read again. New TLS files
raise ``generation``: later requests use new connections.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nvdra_core.errors import ConfigError
from nvdra_core.runtime.clock import Clock
from nvdra_node.kube.config import KubeConfig

CHECK_INTERVAL_S = 1.0
TOKEN_LIMIT = 64 * 1024

_LOG = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """One consistent set. ``authorization`` is the header's value, or empty; ``tls`` is None for plain http."""

    authorization: str = field(repr=False)
    tls: ssl.SSLContext | None
    generation: int


class CredentialSource:
    """Credentials that follow their files; see the module."""

    def __init__(self, config: KubeConfig, clock: Clock) -> None:
        """Read everything once; raises ConfigError when it cannot be used at start."""
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._token_paths = _paths(config.token_file)
        self._tls_paths = _paths(config.ca_file, config.client_cert_file, config.client_key_file)
        self._token_stamp = _stamp(self._token_paths)
        self._tls_stamp = _stamp(self._tls_paths)
        self._checked_at_s = clock.monotonic()
        self._complained = ""
        try:
            self._current = Credentials(
                _authorization(config, previous=""), _tls_context(config), generation=1
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"credentials for {config.server}: {error}") from error

    def current(self) -> Credentials:
        """The current credentials; checks the files at most once per CHECK_INTERVAL_S."""
        if self._clock.monotonic() - self._checked_at_s >= CHECK_INTERVAL_S:
            self.refresh()
        return self._current

    def refresh(self) -> bool:
        """Check the files now; True when the credentials changed. Never raises for a bad file."""
        with self._lock:
            self._checked_at_s = self._clock.monotonic()
            before = self._current
            self._refresh_token()
            self._refresh_tls()
            return self._current is not before

    def _refresh_token(self) -> None:
        stamp = _stamp(self._token_paths)
        if stamp == self._token_stamp:
            return
        with self._keeping_old("token"):
            line = _authorization(self._config, previous=self._current.authorization)
            if stamp != _stamp(self._token_paths):
                return  # being written at this moment; read by the next check
            self._token_stamp = stamp
            if line != self._current.authorization:
                self._current = Credentials(line, self._current.tls, self._current.generation)
                _LOG.info("API token re-read from %s", self._config.token_file)

    def _refresh_tls(self) -> None:
        stamp = _stamp(self._tls_paths)
        if stamp == self._tls_stamp:
            return
        with self._keeping_old("certificate"):
            context = _tls_context(self._config)
            if stamp != _stamp(self._tls_paths):
                return
            self._tls_stamp = stamp
            current = self._current
            self._current = Credentials(current.authorization, context, current.generation + 1)
            _LOG.info("API client certificate and CA re-read")

    @contextlib.contextmanager
    def _keeping_old(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            text = f"{what}: {error}"
            if text != self._complained:
                self._complained = text
                _LOG.warning(
                    "new API credentials cannot be used yet; keeping the previous ones: %s", text
                )
        else:
            self._complained = ""


def _paths(*names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name)


def _stamp(paths: tuple[str, ...]) -> Stamp:
    return tuple(_file_stamp(path) for path in paths)


def _file_stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  a Path per check would cost more than the check
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _authorization(config: KubeConfig, *, previous: str) -> str:
    """The Authorization header for the token; raises ValueError when the file holds no whole token."""
    token = config.token.strip()
    if config.token_file:
        with Path(config.token_file).open("rb") as file:
            data = file.read(TOKEN_LIMIT)
        token = data.decode("ascii", "replace").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError(f"{config.token_file} does not hold a token")
        if previous.count(".") == 2 and token.count(".") != 2:
            raise ValueError(f"{config.token_file} holds a part of a token only")
    return f"Bearer {token}" if token else ""


def _tls_context(config: KubeConfig) -> ssl.SSLContext | None:
    if config.url.scheme == "http":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.ca_file:
        context.load_verify_locations(cafile=config.ca_file)
    elif config.ca_data:
        context.load_verify_locations(cadata=config.ca_data.decode("ascii"))
    else:
        context.set_default_verify_paths()
    if config.client_cert_file:
        context.load_cert_chain(
            config.client_cert_file, config.client_key_file or None, _no_password
        )
    elif config.client_cert_data:
        with _in_memory(config.client_cert_data + b"\n" + config.client_key_data) as path:
            context.load_cert_chain(path, None, _no_password)
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the client key is encrypted; give one without a passphrase")


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path for OpenSSL, which reads keys from files only; the key never touches a disk."""
    descriptor = os.memfd_create("client-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
