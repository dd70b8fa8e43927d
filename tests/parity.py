"""The parity data (``docs/parity/*.yaml``) and the page made from it: ``make parity`` writes ``docs/parity.md``.

One file is one area: title, introduction, heading of its second column, rows. The page shows a row's first code
file and first test; the data has all of them, and longer notes. ``tests/unit/test_docs.py`` checks data and page.
"""

from __future__ import annotations

import os.path
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import yaml

TOP = Path(__file__).resolve().parents[1]
DATA = TOP / "docs" / "parity"
PAGE = TOP / "docs" / "parity.md"
STATES = ("done", "partly", "not yet")

INTRODUCTION = """\
<!-- Generated from docs/parity/*.yaml by `make parity`: edit those files instead. -->
# What upstream does, and where it stands here

Upstream is `kubernetes-sigs/dra-driver-nvidia-gpu` at commit 95932046 (v0.5.0-dev). Each row is one of its features,
one of its defects, or one problem of its users. What upstream does, or what is wrong there, comes first; **Here** says
what differs in this project, or what is missing. Numbers with `#` are upstream's issues.

- **done**: the code named does it, and the test named fails when it no longer does. For a defect: it cannot happen here.
- **partly**: some of it; the row says what is missing.
- **not yet**: nothing to use today. The row may name code that is ready for it. It is planned, unless the row says that
  there is no counterpart or that it cannot be done.

The last column has one code file and one test of each row. The files in `docs/parity/` have all of them, and notes.
Ids never change.
"""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature, defect or problem."""

    id: str
    what: str
    """What upstream does, what is wrong there, or what its users suffer from."""

    state: str
    here: str = ""
    """What is different or missing in this project: one short sentence."""

    notes: str = ""
    """More about ``here``; not shown on the page."""

    code: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


class Area(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the page."""

    title: str
    ids: str
    """The prefix of the rows' ids."""

    column: str
    """The heading of the second column."""

    rows: tuple[Row, ...]
    introduction: str = ""


@cache
def areas() -> tuple[Area, ...]:
    """All areas, in the order of their files' names."""
    return tuple(read(path) for path in sorted(DATA.glob("*.yaml")))


def read(path: Path) -> Area:
    """One file of the data; a ValueError names the file and the field that is wrong."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()), Area)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}; correct the file") from error


def rows() -> list[Row]:
    """The rows of all areas."""
    return [row for area in areas() for row in area.rows]


def page() -> str:
    """The text of ``docs/parity.md``."""
    parts = [INTRODUCTION, counts()]
    for area in areas():
        parts.append(f"## {area.title}\n")
        if area.introduction:
            parts.append(f"{area.introduction.strip()}\n")
        lines = [(row.id, text(row), row.state, where(row)) for row in area.rows]
        parts.append(table(("id", area.column, "state", "where"), lines))
    return "\n".join(parts)


def counts() -> str:
    """A table with the number of rows of each area in each state."""
    total: Counter[str] = Counter()
    lines = []
    for area in areas():
        states = Counter(row.state for row in area.rows)
        total += states
        anchor = re.sub(r"[^\w -]", "", area.title).lower().replace(" ", "-")
        lines.append((f"[{area.title}](#{anchor})", f"`{area.ids}`", *numbers(states)))
    lines.append(("all", "", *numbers(total)))
    return table(("area", "ids", *STATES), lines)


def numbers(states: Counter[str]) -> list[str]:
    """How many rows are in each of the known states."""
    return [str(states[state]) for state in STATES]


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    dashes = ["---"] * len(heads)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, dashes, *lines))


def text(row: Row) -> str:
    """The cell that describes a row."""
    here = f". **Here:** {row.here}" if row.here else ""
    return (row.what + here).replace("|", r"\|")


def where(row: Row) -> str:
    """Links to the row's first code file and to its first test's module."""
    links = [link("/".join(Path(name).parts[-2:]), name) for name in row.code[:1]]
    for name in row.tests[:1]:
        module = name.partition("::")[0]
        links.append(link(Path(module).stem, module))
    return ", ".join(links)


def link(label: str, name: str) -> str:
    """A Markdown link from the page to a path of the repository."""
    return f"[{label}]({os.path.relpath(TOP / name, PAGE.parent)})"


if __name__ == "__main__":
    PAGE.write_text(page())
