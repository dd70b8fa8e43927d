"""SIGTERM while the API server or a program hangs: the services stop promptly, with exit status 0."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.beds.services.kubelet import Kubelet
from tests.beds.services.plugin import DRIVER
from tests.beds.services.publishing import NODE, PATIENCE_S, add_node
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib.waits import until

BOOT_ID = "11111111-2222-4333-8444-555555555555"


@contextmanager
def a_service(
    directory: Path, server: FakeApiServer, command: str = "gpu"
) -> Iterator[subprocess.Popen[bytes]]:
    """A service of ``nvdra-node`` on a host without the NVIDIA driver."""
    boot_id = directory / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text(f"{BOOT_ID}\n")
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.config().server}}],
    }
    (directory / "kubeconfig").write_text(json.dumps(kubeconfig))
    settings = {
        "nodeName": NODE,
        "kubeconfig": str(directory / "kubeconfig"),
        "procRoot": str(directory / "proc"),
        "sysRoot": str(directory / "sys"),
        "cdiRoot": str(directory / "cdi"),
        "stateDir": str(directory / "state"),
        "nvidiaCtkPath": str(directory / "nvidia-ctk"),
        "nvidiaCdiHookPath": "/bin/true",
        "imexDir": str(directory / "imex"),
        "imexEncryption": "disabled",
        "imexAddress": "127.0.0.1",
        "kubeletRegistrarDirectoryPath": str(directory / "registry"),
        "kubeletPluginsDirectoryPath": str(directory / "plugins"),
    }
    (directory / "config.yaml").write_text(json.dumps(settings))
    (directory / "registry").mkdir()
    argv = [sys.executable, "-m", "nvdra_node", command, "--config", str(directory / "config.yaml")]
    with subprocess.Popen(argv) as process:
        try:
            yield process
        finally:
            process.kill()


def test_hanging_api_does_not_delay_stop(directory: Path) -> None:
    with FakeApiServer() as server:
        add_node(server)
        server.api.faults.add(Fault(count=0, action="hang"))
        with a_service(directory, server) as process:
            Kubelet(directory / "registry").register(DRIVER).close()
            until(lambda: server.api.log.count("get", "nodes"))
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        server.api.faults.clear()


def test_prepare_hanging_in_api_does_not_delay_stop(directory: Path) -> None:
    with FakeApiServer() as server:
        add_node(server)
        with a_service(directory, server) as process:
            kubelet = Kubelet(directory / "registry").register(DRIVER)
            server.api.faults.add(Fault(resource="resourceclaims", count=0, action="hang"))
            call = kubelet.begin("NodePrepareResources", ("ns", "c", "uid-c"))
            until(lambda: server.api.log.count("get", "resourceclaims"))
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            assert call.exception() is not None or call.result().claims["uid-c"].error
            kubelet.close()
        server.api.faults.clear()


def test_hanging_nvidia_ctk_does_not_delay_stop(directory: Path) -> None:
    version = directory / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Mon\n")
    program = directory / "nvidia-ctk"
    program.write_text(f"#!/bin/sh\n: >{directory}/begun\nexec sleep 300\n")
    program.chmod(0o755)
    with FakeApiServer() as server:
        add_node(server)
        with a_service(directory, server) as process:
            until((directory / "begun").exists)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def test_hanging_api_does_not_delay_imex_supervisor_stop(directory: Path) -> None:
    (directory / "imex").mkdir()
    with FakeApiServer() as server:
        server.api.faults.add(Fault(count=0, action="hang"))
        with a_service(directory, server, "imex-supervisor") as process:
            until(lambda: server.api.log.count("list", "fabricnodes"))
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        server.api.faults.clear()
