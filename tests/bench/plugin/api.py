"""The API server of one round, in a process of its own: the in-memory one, with TLS as a plugin meets it in a cluster."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.plugin.contender import REPOSITORY

START_TIMEOUT_S = 30.0


class Api:
    """A running API server while the context is open."""

    kubeconfigs: dict[str, str]
    """Placeholders {kubeconfig}, the kubelet's, and {service_kubeconfig}, of an account that may write claim statuses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Api:
        self._directory.mkdir(parents=True)
        argv = [
            sys.executable,
            "-m",
            "tests.bench.plugin.apiserver",
            str(self._directory),
        ]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=REPOSITORY)
        try:
            answered = self._next_line(START_TIMEOUT_S, "the API server does not start")
        except BenchError:
            self.__exit__()
            raise
        self.kubeconfigs = {
            "kubeconfig": answered["kubelet"],
            "service_kubeconfig": answered["service"],
        }
        self._control = answered["control"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def add(self, objects: Sequence[dict[str, Any]]) -> list[str]:
        """Create objects with their status and return the UIDs they got; not counted as requests."""
        stored = self._ask("objects", {"items": list(objects)})["items"]
        return [item["metadata"]["uid"] for item in stored]

    def requests(self) -> int:
        """Return how many requests it has answered since it started."""
        return int(self._ask("stats")["total"])

    def wait_for_slice(self, timeout_s: float) -> int:
        """Return when the first ResourceSlice was stored, in ns since the epoch; ask once."""
        answered = self._next_line(timeout_s, "the plugin published no ResourceSlice")
        return int(answered["slice_ns"])

    def _next_line(self, timeout_s: float, otherwise: str) -> dict[str, Any]:
        out = self._process.stdout
        if out is None or not select.select([out], [], [], timeout_s)[0]:
            raise BenchError(f"{otherwise} within {timeout_s:g} s")
        line = out.readline()
        if not line:
            raise BenchError(f"{otherwise}: the API server has ended")
        answered: dict[str, Any] = json.loads(line)
        return answered

    def _ask(self, word: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        url = f"{self._control}/_fake/{word}"
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
            answered: dict[str, Any] = json.loads(answer.read())
        return answered
