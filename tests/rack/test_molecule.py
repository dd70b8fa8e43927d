"""The collection's Molecule scenario, on two real systemd hosts: converge, idempotence, verify, cleanup."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nvdra_packages.layout import TOP
from tests.beds.cluster.marks import needs_cluster
from tests.beds.rack import releases, tools
from tests.beds.rack.hosts import Rack

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

COLLECTION = TOP / "ansible" / "ansible_collections" / "nvdra" / "node"


def test_molecule_scenario_passes(tmp_path: Path) -> None:
    made = releases.make(tmp_path / "packages")
    with Rack.up("molecule", hosts=2, racks=1) as rack:
        done = subprocess.run(
            [str(tools.home() / "molecule"), "test", "--scenario-name", "default"],
            cwd=COLLECTION,
            env={
                **tools.environment(tmp_path),
                "NVDRA_INVENTORY": str(rack.home / "inventory.json"),
                "NVDRA_PACKAGES": str(made.this),
                "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path / "molecule"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        assert done.returncode == 0, said[-8000:]
        passed = re.findall(r"^default ➜ (\w+): Executed: Successful", said, re.MULTILINE)
        assert passed == ["syntax", "converge", "idempotence", "verify", "cleanup"], said[-2000:]
        assert {rack.version(host) for host in rack.hosts} == {""}
