"""The fake as a process: what it prints is enough to use it, and its remote control works during an outage."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.config import KubeConfig
from nvdra_core.kube.dra import DraApi
from tests.service.kube.objects import a_slice
from tests.service.kube.patience import assert_unreachable

ROOT = Path(__file__).parents[3]


class Process:
    def __init__(self, *arguments: str) -> None:
        argv = [sys.executable, "-m", "tests.fakes.apiserver", *arguments]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout
        self.info = json.loads(self._process.stdout.readline())

    def control(self, method: str, word: str, body: object = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.info["control"].removeprefix("http://"))
        connection.request(method, f"/_fake/{word}", json.dumps(body) if body else None)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, found
        return dict(found)

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        if self._process.stdout:
            self._process.stdout.close()
        return code


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def run(*arguments: str) -> Process:
        processes.append(Process(*arguments))
        return processes[-1]

    yield run
    for process in processes:
        process.end()


def test_printed_kubeconfig_reaches_it_over_tls(
    start: Callable[..., Process], connect: Callable[..., Client], tmp_path: Path
) -> None:
    process = start("--tls-dir", str(tmp_path))
    assert process.info["server"].startswith("https://")
    pattern = {"count": 3, "node": "node-a", "devices": ["gpu-0", "gpu-1"]}
    created = process.control("POST", "claims", pattern)["claims"]
    dra = DraApi(connect(KubeConfig.load(process.info["kubeconfig"])))
    claim = dra.get_claim("default", created[2]["name"])
    assert claim["metadata"]["uid"] == created[2]["uid"]
    assert claim["status"]["allocation"]["devices"]["results"][0]["device"] == "gpu-0"
    assert process.control("GET", "stats")["counts"]["get resourceclaims 200"] == 1


def test_outage_ends_when_told(
    start: Callable[..., Process], connect: Callable[..., Client], tmp_path: Path
) -> None:
    process = start("--kubeconfig", str(tmp_path / "config"))
    client = connect(KubeConfig.load(process.info["kubeconfig"]))
    client.get_path("/version")
    process.control("POST", "outage", {"on": True})
    assert_unreachable(client)
    process.control("POST", "outage", {"on": False})
    assert client.get_path("/version")["minor"] == "36"


def test_faults_gates_and_versions_are_set_from_outside(
    start: Callable[..., Process], connect: Callable[..., Client], tmp_path: Path
) -> None:
    process = start("--kubeconfig", str(tmp_path / "config"), "--minor", "34")
    client = connect(KubeConfig.load(process.info["kubeconfig"]))
    process.control("POST", "faults", {"verb": "get", "code": 404})
    with pytest.raises(ApiError):
        client.get_path("/version")
    process.control("POST", "versions", {"versions": ["v1beta1"]})
    api = DraApi(client)
    api.list_slices()
    assert api.version() == "v1beta1"
    assert not process.control("POST", "gates", {"DRAAdminAccess": True})["gates"][
        "DRADeviceTaints"
    ]


def test_state_survives_a_restart(
    start: Callable[..., Process], connect: Callable[..., Client], tmp_path: Path
) -> None:
    arguments = ("--kubeconfig", str(tmp_path / "config"), "--state", str(tmp_path / "state"))
    first = start(*arguments)
    client = connect(KubeConfig.load(first.info["kubeconfig"]))
    stored = DraApi(client).create_slice(a_slice())
    assert first.end() == 0
    second = start(*arguments)
    client = connect(KubeConfig.load(second.info["kubeconfig"]))
    assert DraApi(client).list_slices().items[0]["metadata"] == stored["metadata"]
