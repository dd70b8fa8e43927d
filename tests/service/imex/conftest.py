"""Hosts for tests with the simulated nvidia-imex; whatever they started is ended."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.beds.services.imex_fleet import ImexHost


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.7.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="nvdra-imex-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_hosts(short_directory: Path) -> Iterator[Callable[..., list[ImexHost]]]:
    made: list[ImexHost] = []

    def make(count: int, slots: int = 4) -> list[ImexHost]:
        port = free_port()
        made.extend(ImexHost(short_directory, i, port, slots) for i in range(count))
        for host in made:
            host.know(*(other for other in made if other is not host))
        return made

    yield make
    for host in made:
        if host.process is not None:
            host.stop(signal.SIGKILL)
