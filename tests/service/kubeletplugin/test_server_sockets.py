"""Sockets: one instance, stale ones are removed, served ones kept, none left behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nvdra_core.errors import ConfigError, HostError, LockTimeoutError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kubeletplugin.kubelet.server import SocketPaths
from tests.beds.services.kubelet import Kubelet
from tests.beds.services.plugin import CLOCK, DRIVER, TestPlugin
from tests.lib.waits import until

SERVE = """
import sys, threading
from pathlib import Path
from tests.beds.services.plugin import TestPlugin
TestPlugin(Path(sys.argv[1])).start()
print("serving", flush=True)
threading.Event().wait()
"""


@contextmanager
def served_by(path: Path) -> Iterator[None]:
    """Another program serves ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        yield


def test_stop_removes_only_own_sockets(directory: Path) -> None:
    first, second = TestPlugin(directory), TestPlugin(directory)
    first.start()
    first.stop()
    assert list(first.paths.registry_dir.iterdir()) == []
    assert [p.name for p in first.paths.data_dir.iterdir()] == ["nvdra.lock"]
    second.start()
    del first
    gc.collect()
    second.selfcheck()
    second.stop()


def test_second_instance_fails_with_lock_holder_pid(plugin: TestPlugin, directory: Path) -> None:
    with pytest.raises(LockTimeoutError, match=rf"another instance.*pid {os.getpid()}"):
        TestPlugin(directory).start(timeout_s=0.1)
    plugin.selfcheck()


def test_second_instance_waits_for_first_to_stop(directory: Path) -> None:
    first, second = TestPlugin(directory), TestPlugin(directory)
    first.start()
    threading.Timer(0.1, first.stop).start()
    second.start(timeout_s=60.0)
    second.selfcheck()
    second.stop()


def test_stop_ends_waiting_for_lock(plugin: TestPlugin, directory: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(LockTimeoutError):
        TestPlugin(directory).server.start(Deadline(60, CLOCK), stopping)


def test_killed_instance_is_replaced(directory: Path) -> None:
    argv = [sys.executable, "-c", SERVE, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "serving\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    after = TestPlugin(directory)
    assert after.paths.dra.is_socket() and after.paths.registration.is_socket()
    after.start()
    Kubelet(after.paths.registry_dir).register(DRIVER).close()
    after.stop()


def test_stale_socket_is_removed_if_start_fails(directory: Path) -> None:
    plugin = TestPlugin(directory)
    plugin.paths.registry_dir.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(plugin.paths.registration))
    with served_by(plugin.paths.dra), pytest.raises(LockTimeoutError):
        plugin.start(timeout_s=0.1)
    assert list(plugin.paths.registry_dir.iterdir()) == []


@pytest.mark.parametrize("which", ["dra", "registration"])
def test_socket_served_by_another_driver_is_kept(directory: Path, which: str) -> None:
    plugin = TestPlugin(directory)
    path = getattr(plugin.paths, which)
    with served_by(path):
        with pytest.raises(LockTimeoutError, match="served by another program"):
            plugin.start(timeout_s=0.1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    plugin.start()
    plugin.stop()


def test_file_in_place_of_socket_is_reported_and_kept(directory: Path) -> None:
    plugin = TestPlugin(directory)
    plugin.paths.data_dir.mkdir(parents=True)
    plugin.paths.dra.write_text("mine")
    with pytest.raises(ConfigError, match=r"dra\.sock is not a socket"):
        plugin.start()
    assert plugin.paths.dra.read_text() == "mine"


def test_socket_path_over_107_bytes_is_config_error(directory: Path) -> None:
    def paths(length: int) -> SocketPaths:
        name = "d" * (length - len(str(directory)) - len("/-reg.sock"))
        return SocketPaths(driver=name, data_dir=directory / "x", registry_dir=directory)

    with pytest.raises(ConfigError, match="108 bytes, unix sockets allow 107"):
        paths(108).check()
    paths(107).check()
    assert len(str(paths(107).registration)) == 107
    plugin = TestPlugin(directory)
    plugin.server._paths = paths(107)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(paths(107).registration))


def test_sockets_are_root_only(plugin: TestPlugin) -> None:
    for path in (plugin.paths.dra, plugin.paths.registration):
        assert path.stat().st_mode & 0o777 == 0o600
    names = {p.name for p in plugin.paths.registry_dir.iterdir()}
    assert names == {f"{DRIVER}-reg.sock"}


def test_register_again_replaces_socket(plugin: TestPlugin, kubelet: Kubelet) -> None:
    before = plugin.paths.registration.stat()
    plugin.server.register_again()
    after = plugin.paths.registration.stat()
    assert (after.st_ino, after.st_ctime_ns) != (before.st_ino, before.st_ctime_ns)
    kubelet.register(DRIVER).close()


def test_register_again_recreates_registry_directory(plugin: TestPlugin, kubelet: Kubelet) -> None:
    plugin.paths.registration.unlink()
    plugin.paths.registry_dir.rmdir()
    assert not plugin.server.has_sockets()
    with pytest.raises(HostError, match="does not answer"):
        plugin.selfcheck(1.0)
    plugin.server.register_again()
    assert plugin.server.has_sockets()
    plugin.selfcheck()


@pytest.mark.parametrize("which", ["dra", "registration"])
def test_socket_taken_over_is_detected_and_kept(plugin: TestPlugin, which: str) -> None:
    path = getattr(plugin.paths, which)
    assert plugin.server.has_sockets()
    path.unlink()  # as gRPC for Go does before it binds
    with served_by(path):
        assert not plugin.server.has_sockets()
        if which == "registration":
            with pytest.raises(LockTimeoutError, match="served by another program"):
                plugin.server.register_again()
        plugin.stop()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_register_again_after_stop_does_nothing(plugin: TestPlugin) -> None:
    plugin.stop()
    plugin.server.register_again()
    assert not plugin.paths.registration.exists()


def test_selfcheck_is_fast_and_leaks_no_descriptors(plugin: TestPlugin) -> None:
    plugin.selfcheck()
    before = len(list(Path("/proc/self/fd").iterdir()))

    def is_quick() -> bool:
        started = time.monotonic()
        plugin.selfcheck()
        return time.monotonic() - started < 0.1

    for _ in range(20):
        until(is_quick)  # the first time, but for a machine that is busy
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
