"""The collection as linters see it. They are Ansible's own, in a virtual environment that the first run makes."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from nvdra_packages.layout import TOP
from tests.beds.rack import tools

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ANSIBLE = TOP / "ansible"
COLLECTION = ANSIBLE / "ansible_collections" / "nvdra" / "node"
PLAYBOOKS = sorted(path.stem for path in COLLECTION.glob("playbooks/*.yml"))
INVENTORY = TOP / "ansible" / "inventory.example" / "hosts.yml"


def run(scratch: Path, *argv: str) -> str:
    """Run one of Ansible's programs; fails with what it said."""
    done = subprocess.run(
        [str(tools.home() / argv[0]), *argv[1:]],
        cwd=ANSIBLE, env=tools.environment(scratch), capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_documented_playbooks_exist() -> None:
    promised = "drain preflight rollback site support_bundle uninstall upgrade"
    assert promised.split() == PLAYBOOKS


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbook_can_be_parsed(playbook: str, tmp_path: Path) -> None:
    run(
        tmp_path,
        "ansible-playbook",
        "-i",
        str(INVENTORY),
        "--syntax-check",
        f"nvdra.node.{playbook}",
    )


def test_ansible_lint_passes_its_strictest_profile(tmp_path: Path) -> None:
    run(tmp_path, "ansible-lint", "--offline", "-c", ".ansible-lint.yml", str(COLLECTION))


def test_yaml_is_tidy(tmp_path: Path) -> None:
    run(tmp_path, "yamllint", "--strict", ".")


def test_variables_are_documented_for_ansible_doc(tmp_path: Path) -> None:
    text = run(tmp_path, "ansible-doc", "-t", "role", "nvdra.node.nvdra")
    defaults = (COLLECTION / "roles/nvdra/defaults/main.yml").read_text()
    names = [line.partition(":")[0] for line in defaults.splitlines() if line.startswith("nvdra_")]
    assert [name for name in names if name not in text] == []
    for module in ("credential", "gate", "node_facts", "peers", "support_bundle"):
        assert module in run(tmp_path, "ansible-doc", f"nvdra.node.{module}")


def test_installed_collection_has_the_purge_of_the_packages(tmp_path: Path) -> None:
    run(
        tmp_path,
        "ansible-galaxy",
        "collection",
        "build",
        "--output-path",
        str(tmp_path),
        str(COLLECTION),
    )
    (built,) = tmp_path.glob("nvdra-node-*.tar.gz")
    with tarfile.open(built) as archive:
        file = archive.extractfile("roles/nvdra/files/purge.sh")
        assert file
        assert file.read() == (TOP / "packaging" / "purge.sh").read_bytes()


_RENDER = """\
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files: [{role}/defaults/main.yml, {role}/vars/main.yml]
  tasks:
    - ansible.builtin.debug:
        msg: "{{{{ 'SETTINGS ' ~ (nvdra_config_text | to_json) ~ ' TOKEN OF ' ~ nvdra_node_name }}}}"
"""


@pytest.mark.parametrize(
    ("given", "setting", "node"),
    [
        ({}, None, "localhost"),
        ({"nvdra_node_name": "tray-1"}, "tray-1", "tray-1"),
        ({"nvdra_credential": "service_account"}, "localhost", "localhost"),
        ({"nvdra_config": {"nodeName": "tray-2"}}, "tray-2", "tray-2"),
    ],
    ids=["inventory", "given", "looked-up", "setting"],
)
def test_node_name_reaches_the_services(
    tmp_path: Path, given: dict[str, object], setting: str | None, node: str
) -> None:
    book = tmp_path / "render.yml"
    book.write_text(_RENDER.format(role=COLLECTION / "roles" / "nvdra"))
    words = ["-i", "localhost,", "-e", json.dumps(given), str(book)]
    said = run(tmp_path, "ansible-playbook", *words)
    found = re.search(r"SETTINGS ({.*}) TOKEN OF\s+([\w-]+)", said)
    assert found, said
    assert json.loads(found[1]).get("nodeName") == setting
    assert found[2] == node


def test_example_inventory_names_every_host_of_a_rack(tmp_path: Path) -> None:
    text = run(tmp_path, "ansible-inventory", "-i", str(INVENTORY), "--list", "--yaml")
    assert "rack-a-01" in text
    assert "rack-b-18" in text
