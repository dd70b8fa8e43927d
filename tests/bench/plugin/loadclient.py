"""Builds and drives the load client, which plays the kubelet (`loadgen/`, Go with grpc-go as the kubelet is).

Built once per content into the cache, moved into place whole. One request at a time; errors of the plugin come back as
`BenchError` with the plugin's words.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.beds.cluster.artifacts.programs import cache_dir
from tests.bench.errors import BenchError

SOURCE = Path(__file__).parent / "loadgen"
BUILD_TIMEOUT_S = 900

Claim = dict[str, str]
"""namespace, name, uid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """When each step was seen, in ns since the epoch."""

    dra_socket_ns: int
    registered_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What one command measured; durations in ms."""

    prepare_ms: list[float] = field(default_factory=list)
    unprepare_ms: list[float] = field(default_factory=list)
    last_prepare_ms: float = 0.0
    last_unprepare_ms: float = 0.0
    elapsed_s: float


def build() -> Path:
    """Return the load client's program, built now unless this content was built before."""
    files = sorted([*SOURCE.glob("*.go"), SOURCE / "go.mod", SOURCE / "go.sum"])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    home = cache_dir() / "bench" / digest
    program = home / "loadgen"
    if program.exists():
        return program
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise BenchError("the load client needs Go (https://go.dev/dl or package golang-go)")
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        built = Path(scratch, "loadgen")
        argv = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(built), "."]
        env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        done = subprocess.run(
            argv,
            cwd=SOURCE,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT_S,
        )
        if done.returncode:
            raise BenchError(f"building the load client failed:\n{done.stderr[-3000:]}")
        built.rename(program)
    return program


class LoadClient:
    """One running load client; a context manager that ends it."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> LoadClient:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.stdout.close()
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def begin_register(self, registry: Path, plugins: Path, driver: str, timeout_s: float) -> None:
        """Let it watch for the sockets; start the plugin, then call `end_register`."""
        self._send(
            op="register",
            registry=str(registry),
            plugins=str(plugins),
            driver=driver,
            timeout_s=timeout_s,
        )

    def end_register(self, check: Callable[[], None]) -> Registration:
        """Wait until the plugin is registered, and return when that was; `check` raises when waiting is in vain."""
        while self._process.stdout and not select.select([self._process.stdout], [], [], 0.2)[0]:
            check()
        answer = self._receive()
        return Registration(
            dra_socket_ns=answer["dra_socket_ns"], registered_ns=answer["registered_ns"]
        )

    def prepare(self, claims: Sequence[Claim]) -> Timings:
        """Prepare one claim after the other."""
        return self._load(op="prepare", claims=claims)

    def unprepare(self, claims: Sequence[Claim]) -> Timings:
        """Unprepare one claim after the other."""
        return self._load(op="unprepare", claims=claims)

    def pairs(self, claims: Sequence[Claim]) -> Timings:
        """Prepare and unprepare one claim, then the next."""
        return self._load(op="pairs", claims=claims)

    def burst(self, claims: Sequence[Claim]) -> Timings:
        """Prepare all claims at once, then unprepare all at once."""
        return self._load(op="burst", claims=claims)

    def callers(self, lists: Sequence[Sequence[Claim]], seconds: float) -> Timings:
        """Prepare and unprepare with one caller per list at the same time, round and round."""
        return self._load(op="callers", callers=lists, seconds=seconds)

    def _load(self, **command: Any) -> Timings:
        self._send(**command)
        answer = self._receive()
        return Timings(
            prepare_ms=[us / 1e3 for us in answer.get("prepare_us", [])],
            unprepare_ms=[us / 1e3 for us in answer.get("unprepare_us", [])],
            last_prepare_ms=answer.get("last_prepare_us", 0.0) / 1e3,
            last_unprepare_ms=answer.get("last_unprepare_us", 0.0) / 1e3,
            elapsed_s=answer["elapsed_s"],
        )

    def _send(self, **command: Any) -> None:
        if self._process.stdin is None:
            raise BenchError("the load client has no input")
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise BenchError("the load client ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(str(answer["error"]))
        return answer
