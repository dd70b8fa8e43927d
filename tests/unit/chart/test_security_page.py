"""The table of attacks in the security page is the one that the attacks make."""

from __future__ import annotations

import re
from pathlib import Path

from tests.beds.services.attackbed import KUBELET, POLICY, TOKEN, Attack, Request
from tests.service.realapi import attacks, attacktable
from tests.unit.chart import helm


def test_table_of_attacks_is_up_to_date() -> None:
    page = attacktable.PAGE.read_text()
    assert attacktable.renewed(page) == page, "run: python -m tests.service.realapi.attacktable"


def test_row_of_table_says_forms_versions_and_who_refuses() -> None:
    def attack(form: str, version: str, by: str) -> Attack:
        return Attack("writes", form, version, by, POLICY, lambda _: Request("GET", "/"))

    made = attacktable.table([
        attack("create", "v1", TOKEN), attack("patch (merge)", "v1", TOKEN),
        attack("patch (apply)", "v1beta1", TOKEN),
    ])  # fmt: skip
    row = "| writes | create, patch (merge, apply) in v1, v1beta1 | 403: policy | not tried |"
    assert made.splitlines()[-1] == row


def test_every_resource_is_attacked_with_both_credentials() -> None:
    cases = attacks.every()
    assert {attack.by for attack in cases} >= {TOKEN, KUBELET}
    assert len(cases) > 400


def rights(home: Path) -> set[tuple[str, str]]:
    """Verbs and resources that the chart gives the nodes' ServiceAccount."""
    return {
        (verb.removeprefix("associated-node:"), resource)
        for obj in helm.render(home)
        if obj["kind"] in ("ClusterRole", "Role") and "nvdra-node" in obj["metadata"]["name"]
        for rule in obj["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_rights_of_page_are_those_of_chart(tmp_path: Path) -> None:
    page = attacktable.PAGE.read_text().partition("### A credential of the node's own")[2]
    documented = set()
    for verbs, first, second in re.findall(
        r"^\| ([a-z, ]+) \| `([^`]+)`(?:, `([^`]+)`)?", page, re.M
    ):
        documented |= {
            (verb, name) for name in (first, second) if name for verb in verbs.split(", ")
        }
    assert documented == rights(tmp_path)
