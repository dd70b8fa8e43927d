"""The GPU plugin as a process, on a simulated machine and a fake API server, with a stand-in for nvidia-ctk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tests.beds.memory.gpu_node import ctk_output
from tests.beds.services.kubelet import Kubelet, Plugin, RegistrationError
from tests.beds.services.publishing import DRIVER, NODE, add_node
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib import objects
from tests.lib.waits import until
from tests.sim.api import SimRoot

TOP = Path(__file__).parents[3]


class GpuService:
    """One machine. ``start`` and ``stop`` the plugin as often as wanted."""

    def __init__(self, directory: Path, server: FakeApiServer) -> None:
        self.directory = directory
        self.server = server
        self.root = SimRoot.create(directory / "root", "l4x2")
        self.cdi = directory / "cdi"
        self.registry = directory / "registry"
        self.registry.mkdir()
        self.uids: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._kubelet: Plugin | None = None
        self._write_toolkit()
        add_node(server)

    def _write_toolkit(self) -> None:
        library = self.directory / "libcuda.so.1"
        library.touch()
        dev = self.root.path / "dev"
        nodes = [
            {"path": f"/dev/{name}", "hostPath": str(dev / name), "permissions": "rwm"}
            for name in ("nvidiactl", "nvidia-uvm")
        ]
        edits = ctk_output(
            deviceNodes=nodes, hooks=[],
            mounts=[{"hostPath": str(library), "containerPath": "/usr/lib/libcuda.so.1"}],
        )  # fmt: skip
        (self.directory / "edits.json").write_text(json.dumps(edits))
        program = self.directory / "nvidia-ctk"
        program.write_text(
            "#!/bin/sh\n"
            'case "$*" in *--version*) echo NVIDIA Container Toolkit CLI version 1.19.0;;\n'
            f"*) cat {self.directory}/edits.json;; esac\n"
        )
        program.chmod(0o755)

    def _settings(self) -> dict[str, Any]:
        return {
            "nodeName": NODE,
            "kubeconfig": str(self.server.write_kubeconfig(self.directory / "kubeconfig")),
            "nvidiaDriverRoot": str(self.root.path),
            "devRoot": str(self.root.path / "dev"),
            "procRoot": str(self.root.proc),
            "sysRoot": str(self.root.sys),
            "cdiRoot": str(self.cdi),
            "stateDir": str(self.directory / "state"),
            "nvidiaCtkPath": str(self.directory / "nvidia-ctk"),
            "nvidiaCdiHookPath": "/bin/true",
            "kubeletRegistrarDirectoryPath": str(self.registry),
            "kubeletPluginsDirectoryPath": str(self.directory / "plugins"),
            "logVerbosity": 4,
        }

    def start(self) -> None:
        """Start the plugin, and register it as soon as its socket is there."""
        config = self.directory / "config.yaml"
        config.write_text(json.dumps(self._settings()))
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nvdra_node", "gpu", "--config", str(config)],
                stdout=log, stderr=log, cwd=TOP, env={**os.environ, "PYTHONPATH": str(TOP)},
            )  # fmt: skip
        until(self._try_to_register)

    def _try_to_register(self) -> bool:
        try:
            self._kubelet = Kubelet(self.registry).register(DRIVER)
        except (RegistrationError, grpc.RpcError):  # the socket of an earlier instance
            return False
        return True

    @property
    def kubelet(self) -> Plugin:
        assert self._kubelet is not None
        return self._kubelet

    def claim(self, name: str, gpu: int = 0) -> tuple[str, str, str]:
        """A claim that is allocated this GPU, as the kubelet names it."""
        device = self.server.objects("resourceslices")[0]["spec"]["devices"][gpu]["name"]
        allocation = objects.allocation(objects.result(device, NODE), node=NODE)
        made = self.server.add(objects.claim(name, "ns", status={"allocation": allocation}))
        return ("ns", name, str(made["metadata"]["uid"]))

    def is_published(self) -> bool:
        slices = self.server.objects("resourceslices")
        return any(each["spec"].get("devices") for each in slices)

    def cdi_files(self) -> list[str]:
        return sorted(path.name for path in self.cdi.iterdir() if not path.name.startswith("."))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._kubelet is not None:
            self._kubelet.close()
            self._kubelet = None
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


@contextmanager
def a_gpu_service(directory: Path) -> Iterator[GpuService]:
    with FakeApiServer() as server:
        service = GpuService(directory, server)
        try:
            yield service
        finally:
            server.api.faults.clear()
            service.root.clear()
            service.stop(signal.SIGKILL)
            service.root.destroy()
