"""Directories short enough for unix sockets, a running plugin, and the kubelet beside it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.beds.services.kubelet import Kubelet, Plugin
from tests.beds.services.plugin import DRIVER, TestPlugin


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="nvdra-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def plugin(directory: Path) -> Iterator[TestPlugin]:
    running = TestPlugin(directory)
    running.start()
    yield running
    running.ledger.gate.set()
    running.stop()


@pytest.fixture
def kubelet(plugin: TestPlugin) -> Kubelet:
    return Kubelet(plugin.paths.registry_dir)


@pytest.fixture
def registered(kubelet: Kubelet) -> Iterator[Plugin]:
    seen = kubelet.register(DRIVER)
    yield seen
    seen.close()
