"""A plugin command under test: its template, the fresh directories it runs in, and the running process.

A template is a command line in shell syntax with placeholders: {python} {node} {kubeconfig} {service_kubeconfig}
{registry} {plugins} {cdi} {state} {run} {root} {ctk} {cdi_hook}. Every placeholder but {python}, {node}, {ctk} and
{cdi_hook} is a fresh path in each round; {root} is the root of the simulated machine (dev, proc, sys and the driver's
files below it). {kubeconfig} is the kubelet's, {service_kubeconfig} that of an account which may write claim statuses.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.plugin import proc

REPOSITORY = Path(__file__).resolve().parents[3]
DRIVER = "gpu.nvidia.com"
NODE = "n1"

OURS = (
    "{python} -m nvdra_node.cli gpu --node-name {node} --kubeconfig {kubeconfig}"
    " --driver-root {root} --dev-root {root}/dev --proc-root {root}/proc --sys-root {root}/sys"
    " --kubelet-registrar-directory-path {registry} --kubelet-plugins-directory-path {plugins}"
    " --cdi-root {cdi} --state-dir {state} --http-endpoint 127.0.0.1:0"
    " --nvidia-ctk-path {ctk} --nvidia-cdi-hook-path {cdi_hook}"
)

OURS_WITH_STATUS = OURS.replace("{kubeconfig}", "{service_kubeconfig}")
"""The same with a credential of its own: one more request, after each answer, tells what the claim's devices are."""

FLOOR = "{python} -m tests.bench.plugin.floor {node} {kubeconfig} {registry} {plugins}"
"""A plugin that does nothing but read the claim: what the harness itself costs."""

BUILT_IN = {"ours": OURS, "ours-status": OURS_WITH_STATUS, "floor": FLOOR}

SOCKET_PATH_LIMIT = 107
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A name for the table and a command template."""

    name: str
    template: str

    @staticmethod
    def parse(text: str) -> Contender:
        """Read NAME=COMMAND, or the name of one that is built in."""
        if text in BUILT_IN:
            return Contender(text, BUILT_IN[text])
        name, equals, template = text.partition("=")
        if not equals or not name.strip() or not template.strip():
            raise BenchError(f"{text!r} is not NAME=COMMAND, and none of {', '.join(BUILT_IN)}")
        return Contender(name.strip(), template.strip())

    def argv(self, values: Mapping[str, str]) -> list[str]:
        """Return the command line with the placeholders filled in."""
        try:
            return [word.format_map(dict(values)) for word in shlex.split(self.template)]
        except (KeyError, ValueError, IndexError) as error:
            raise BenchError(
                f"template of {self.name}: {error}; known: {sorted(values)}"
            ) from error


@dataclass(frozen=True, slots=True)
class Site:
    """The fresh directories of one run."""

    base: Path

    @staticmethod
    def create(base: Path) -> Site:
        """Make all directories, the plugin's data directory included (the kubelet wants it to exist)."""
        site = Site(base)
        for path in (site.registry, site.plugins / DRIVER, site.cdi, site.state, site.run):
            path.mkdir(parents=True)
        longest = site.registry / f"{DRIVER}-reg.sock"
        if len(str(longest)) > SOCKET_PATH_LIMIT:
            raise BenchError(f"{longest} is too long for a socket; choose a shorter --work")
        return site

    @property
    def registry(self) -> Path:
        """Directory of the registration sockets."""
        return self.base / "reg"

    @property
    def plugins(self) -> Path:
        """The parent of the plugin's data directory."""
        return self.base / "plugins"

    @property
    def cdi(self) -> Path:
        """Where CDI files go."""
        return self.base / "cdi"

    @property
    def state(self) -> Path:
        """What the plugin keeps."""
        return self.base / "state"

    @property
    def run(self) -> Path:
        """What the plugin keeps until the machine ends."""
        return self.base / "run"

    @property
    def log(self) -> Path:
        """All that the plugin says."""
        return self.base / "plugin.log"

    def values(self) -> dict[str, str]:
        """Return the placeholders that are directories of this run."""
        return {
            "python": sys.executable,
            "node": NODE,
            "registry": str(self.registry),
            "plugins": str(self.plugins),
            "cdi": str(self.cdi),
            "state": str(self.state),
            "run": str(self.run),
        }


class RunningPlugin:
    """A started plugin. It leads a process group, so that what it leaves behind can be ended with it.

    Not a session: the kernel's scheduler gives each session its own share of the CPU.
    """

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as out:
            self.exec_ns = time.time_ns()
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env=dict(env),
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The main process."""
        return self._process.pid

    def tree(self) -> list[int]:
        """Return the ids of all its processes, the main one first."""
        return proc.tree(self.pid)

    def check(self) -> None:
        """Raise `BenchError` with the end of its log when it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"the plugin ended with {self._process.returncode}:\n{self.said()}")

    def said(self, characters: int = 3000) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-characters:]

    def stop(self) -> None:
        """End it as systemd would; kill what is left of its group."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
