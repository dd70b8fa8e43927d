"""Runs the collection's playbooks on a rack, as an operator does, and reads the recap."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.beds.rack import tools
from tests.beds.rack.hosts import Rack

_RECAP = re.compile(r"^(\S+)\s+: (ok=\d+ .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """Result of a run of a playbook."""

    status: int
    text: str
    took_s: float

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Host -> ok, changed, unreachable, failed, skipped, rescued, ignored."""
        return {
            host: {key: int(n) for key, n in (word.split("=") for word in counts.split())}
            for host, counts in _RECAP.findall(self.text)
        }

    def hosts_with(self, key: str) -> list[str]:
        """Hosts with a count other than 0."""
        return [host for host, counts in self.recap.items() if counts[key]]


def play(
    rack: Rack,
    playbook: str,
    *options: str,
    variables: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 1800,
) -> Run:
    """Run ``nvdra.node.<playbook>`` on all hosts; its output is kept with the rack's logs.

    ``environment``: settings of Ansible beside those of the repository.
    """
    argv = [str(tools.home() / "ansible-playbook"), "-i", str(rack.home / "inventory.json")]
    argv += [f"nvdra.node.{playbook}", "--forks", "6", *options]
    argv += ["-e", json.dumps(dict(variables or {}), default=str)]
    began_s = time.monotonic()
    log = free_name(rack.home / "logs", f"ansible-{playbook}")
    with log.open("w") as output:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**tools.environment(rack.home), **(environment or {})}, timeout=timeout_s, check=False,
        )  # fmt: skip
    return Run(done.returncode, log.read_text(), time.monotonic() - began_s)


def free_name(place: Path, stem: str) -> Path:
    """A log file that is not there yet."""
    number = 1
    while (path := place / f"{stem}-{number}.log").exists():
        number += 1
    return path


def show(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
