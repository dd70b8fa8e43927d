"""The fake API server as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from nvdra_core.kube.resources import NODES
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig


def test_process_serves_objects_and_counts(connect: Callable[..., Client], tmp_path: Path) -> None:
    kubeconfig, objects = tmp_path / "kubeconfig", tmp_path / "objects.json"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
    objects.write_text(json.dumps([node]))
    argv = [sys.executable, "-m", "tests.fakes.apiserver"]
    argv += ["--kubeconfig", str(kubeconfig), "--objects", str(objects)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        info = json.loads(process.stdout.readline())
        client = connect(KubeConfig.load(str(kubeconfig)))
        assert client.get(NODES, "node-a")["metadata"]["uid"]
        with urllib.request.urlopen(f"{info['control']}/_fake/stats") as answer:
            assert json.loads(answer.read())["counts"] == {"get nodes 200": 1}
        process.terminate()
        assert process.wait(60) == 0
