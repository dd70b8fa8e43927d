"""The table of attacks in docs/user/security.md, made from the cases that ``test_stolen_node`` tries.

python -m tests.service.realapi.attacktable     # writes it again
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.beds.services.attackbed import KUBELET, NODE_RULES, POLICY, RBAC, TOKEN, UNBOUND, Attack
from tests.service.realapi import attacks

PAGE = Path(__file__).resolve().parents[3] / "docs" / "user" / "security.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"
HEAD = """
| it | tried as | with the node's token | with the kubelet's credential |
|---|---|---|---|
"""
_NAMES = {POLICY: "policy", RBAC: "RBAC", NODE_RULES: "node authorizer, NodeRestriction"}


def table(cases: Iterable[Attack]) -> str:
    """The rows, in the order of the cases."""
    rows: dict[str, list[Attack]] = {}
    for attack in cases:
        rows.setdefault(attack.row, []).append(attack)
    return HEAD.lstrip() + "".join(_row(name, found) for name, found in rows.items())


def _row(name: str, found: list[Attack]) -> str:
    token = [attack for attack in found if attack.by in (TOKEN, UNBOUND)]
    kubelet = [attack for attack in found if attack.by == KUBELET]
    return f"| {name} | {_forms(found)} | {_answer(token)} | {_answer(kubelet)} |\n"


def _answer(found: list[Attack]) -> str:
    if not found:
        return "not tried"
    by = ", ".join(dict.fromkeys(_NAMES[attack.held_by] for attack in found))
    return f"403: {by}"


def _forms(found: list[Attack]) -> str:
    """``create, patch (merge, JSON) in v1, v1beta1``."""
    kinds: dict[str, list[str]] = {}
    for attack in found:
        verb, _, kind = attack.form.partition(" (")
        kinds.setdefault(verb, [])
        if kind and kind.rstrip(")") not in kinds[verb]:
            kinds[verb].append(kind.rstrip(")"))
    forms = ", ".join(f"{verb} ({', '.join(of)})" if of else verb for verb, of in kinds.items())
    versions = list(dict.fromkeys(attack.version for attack in found))
    return f"{forms} in {', '.join(versions)}"


def renewed(page: str) -> str:
    """The page with the table as it should be."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    made = f"{BEGIN}{table(attacks.every())}{END}"
    text, count = pattern.subn(lambda _: made, page)
    if count != 1:
        raise ValueError(f"{PAGE}: {count} tables between {BEGIN.strip()} and {END.strip()}")
    return text


def main() -> None:
    """Write the page."""
    PAGE.write_text(renewed(PAGE.read_text()))


if __name__ == "__main__":
    main()
