"""What the documents tell an operator to type, typed: the rollout, the credential and the way back, on one host."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra_packages.layout import TOP
from tests.beds.cluster.marks import needs_cluster
from tests.beds.rack import credential, releases
from tests.beds.rack.hosts import Rack
from tests.beds.rack.playbooks import play
from tests.beds.rack.releases import NEXT, THIS

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

DOCS = TOP / "docs" / "user"
HOST = "rack1-01"
GPUS = 4
PATIENCE_S = 240.0
PLAY = "ansible-playbook -i inventory nvdra.node."
ON_THE_HOST = ("apt-get ", "systemctl ", "journalctl ")
NOT_HERE = ("dnf ", "cd ", "cp ")
"""No registry here has a userland with dnf; the inventory is the rack's own."""
INACTIVE = 3
"""What ``systemctl status`` ends with for a unit that ran and is done."""


def commands(document: str, title: str = "") -> list[str]:
    """The lines of indented code below a heading, or of the whole document, without comments."""
    text = (DOCS / document).read_text()
    if title:
        text = re.split(rf"^#+ {re.escape(title)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^#+ ", text, flags=re.MULTILINE)[0]
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [line.partition(" #")[0].strip() for line in lines]


class Typist:
    """Runs a page's commands and checks the results."""

    def __init__(self, rack: Rack, packages: releases.Releases) -> None:
        self.rack = rack
        self.packages = packages
        self.settings: dict[str, Any] = {}
        """What is in the inventory."""

    def type(self, line: str, packages: Path) -> None:
        """Type one line, where it belongs. Fails when it does."""
        if line.startswith(NOT_HERE):
            return
        if line.startswith("nvdra_"):
            self.settings |= yaml.safe_load(line)
            return
        if line.startswith(PLAY):
            playbook, *options = shlex.split(line.removeprefix(PLAY))
            known = {"nvdra_package_dir": packages, **credential.kubectl(self.rack)}
            # As in an inventory: what is typed behind -e wins.
            given = {**known, **self.settings, **_extra(options)}
            done = play(self.rack, playbook, *options, variables=given)
            assert done.status == 0, f"{line}\n{done.text}"
            return
        assert line.startswith(ON_THE_HOST), f"the page does not say where to type: {line}"
        found = self.rack.hosts[HOST].run(["sh", "-c", line], check=False)
        is_done = found.returncode == INACTIVE and line.startswith("systemctl status")
        assert found.returncode == 0 or is_done, f"{line}\n{found.stdout}{found.stderr}"

    def needs(self, version: str) -> None:
        """The host has this release, and publishes its GPUs."""
        assert self.rack.version(HOST) == version
        self.rack.bed.wait_for_devices(GPUS, timeout_s=PATIENCE_S)


def _extra(options: list[str]) -> dict[str, str]:
    """The variables behind ``-e``."""
    words = [word for at, word in enumerate(options) if at and options[at - 1] == "-e"]
    return dict(word.split("=", 1) for word in words)


@pytest.fixture(scope="module")
def typist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typist]:
    made = releases.make(tmp_path_factory.mktemp("packages") / "made")
    with Rack.up("rack-docs", hosts=1, racks=1) as rack:
        credential.set_up(rack)
        yield Typist(rack, made)


def test_section_commands_end_at_next_section() -> None:
    lines = commands("rack.md", "A credential of its own for each node")
    assert lines[:2] == ["nvdra_credential: service_account", f"{PLAY}site"]
    assert not [line for line in lines if line.startswith("make ")]


def test_first_rollout_follows_the_document(typist: Typist) -> None:
    for line in commands("rack.md", "Racks of hosts, with Ansible"):
        typist.type(line, typist.packages.this)
    typist.needs(THIS)


def test_node_credentials_follow_the_document(typist: Typist) -> None:
    for line in commands("rack.md", "A credential of its own for each node"):
        typist.type(line, typist.packages.this)
    assert credential.problems(typist.rack, HOST) == []
    typist.needs(THIS)


def test_documented_rollbacks_restore_previous_version(typist: Typist) -> None:
    lines = [line for line in commands("rollback.md") if not line.startswith(NOT_HERE)]
    changes = [line for line in lines if line.startswith((PLAY, "apt-get "))]
    assert len(changes) == 3
    for line in lines:
        if line in changes:
            typist.type(f"{PLAY}upgrade", typist.packages.next)
            typist.needs(NEXT)
        typist.type(line, typist.packages.next)
        typist.needs(THIS)
    assert credential.problems(typist.rack, HOST) == [], "the credential is still the node's own"
