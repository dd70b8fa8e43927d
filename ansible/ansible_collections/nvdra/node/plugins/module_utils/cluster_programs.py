"""The kubelet and the container runtimes that run on a host: versions, CDI settings, the node's address.

Read from the processes, so that every distribution of Kubernetes is found wherever it keeps its files. Called by the
module ``node_facts``. Runs on Python 3.8 and later with nothing but the standard library.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KUBELETS = ("kubelet", "k3s", "k3s-server", "k3s-agent", "kubelite")
RUNTIMES = ("containerd", "crio")
NOWHERE = ("192.0.2.1", 9)
"""An address that no host has (RFC 5737): the kernel picks the address it would send from, and sends nothing."""


class Process(NamedTuple):
    """A program that runs: its name, the file to run it again, and its arguments."""

    name: str
    program: str
    arguments: list[str]


def running(names: Sequence[str], proc: Path = Path("/proc")) -> list[Process]:
    """The processes with one of these names, by pid."""
    found = []
    for place in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            argv = (place / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
            target = (place / "exe").resolve()
        except OSError:
            continue
        name = Path(argv[0]).name if argv else ""
        if name in names:
            found.append(Process(name, _program(Path(argv[0]), target), argv[1:]))
    return found


def _program(name: Path, target: Path) -> str:
    """The file of a process. A program with several names (k3s) does by its name what is asked of it."""
    for path in (name, target.with_name(name.name)):
        if path.is_absolute() and path.exists():
            return str(path)
    return str(target)


def flag(arguments: Sequence[str], *names: str) -> str:
    """The value of a flag of a command line; empty when it is not given."""
    for number, word in enumerate(arguments):
        key, equals, value = word.partition("=")
        if key in names:
            return value if equals else next(iter(arguments[number + 1 :]), "")
    return ""


def version_in(text: str) -> str:
    """The first version of three numbers in what a program says of itself; empty when there is none."""
    found = re.search(r"\bv?(\d+\.\d+\.\d+\S*)", text)
    return found.group(1) if found else ""


def kubelet_version(
    run: Callable[[list[str]], tuple[int, str, str]], proc: Path = Path("/proc")
) -> str:
    """Version of the kubelet that runs; empty when none is found."""
    for process in running(KUBELETS, proc):
        code, out, _ = run([process.program, "--version"])
        if code == 0 and version_in(out):
            return version_in(out)
    return ""


def node_address(proc: Path = Path("/proc")) -> str:
    """The address that other nodes reach this one at: the kubelet's ``--node-ip``, else that of the default route."""
    for process in running(KUBELETS, proc):
        given = flag(process.arguments, "--node-ip").partition(",")[0]
        if given:
            return given
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(NOWHERE)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def runtimes(
    run: Callable[[list[str]], tuple[int, str, str]], proc: Path = Path("/proc")
) -> list[dict[str, Any]]:
    """The container runtimes that serve a kubelet, with what they say of CDI."""
    found = []
    for process in running(RUNTIMES, proc):
        config = flag(process.arguments, "--config", "-c")
        words = [process.program, *(["--config", config] if config else []), "config"]
        code, out, _ = run(words + (["dump"] if process.name == "containerd" else []))
        if code or _has_no_cri(out):
            continue
        _, said, _ = run([process.program, "--version"])
        found.append({"name": process.name, "version": version_in(said), **cdi_settings(out)})
    return found


def _has_no_cri(config: str) -> bool:
    """Whether a containerd is Docker's own, whose plugin for kubelets is switched off."""
    disabled = re.search(r"^\s*disabled_plugins = \[([^]]*)\]", config, re.MULTILINE)
    names = re.findall(r"""["']([^"']+)["']""", disabled.group(1)) if disabled else []
    return bool({"cri", "io.containerd.grpc.v1.cri"} & set(names))


def cdi_settings(config: str) -> dict[str, Any]:
    """``enable_cdi`` (None where it is not there) and ``cdi_spec_dirs`` of a runtime's whole configuration."""
    switch = re.search(r"^\s*enable_cdi = (true|false)", config, re.MULTILINE)
    places = re.search(r"^\s*cdi_spec_dirs = \[([^]]*)\]", config, re.MULTILINE)
    is_on: bool | None = switch.group(1) == "true" if switch else None
    directories = re.findall(r"""["']([^"']+)["']""", places.group(1)) if places else []
    return {"enable_cdi": is_on, "cdi_spec_dirs": directories}
