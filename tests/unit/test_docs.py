"""The documents against the tree: what they name exists, their links lead somewhere, and ``docs/parity.md`` is true
to its own rules (a claim of being done names the code and a test that is there).
"""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PARITY = TOP / "docs" / "parity.md"
DOCUMENTS = sorted(
    [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *TOP.glob("docs/**/*.md")]
)
STATES = ("done", "partly", "not yet")
BUILT = {line.strip("/") for line in (TOP / ".gitignore").read_text().splitlines()}
"""What builds leave in a checkout (``out``): a path below it, in a document, is not one of the repository."""

PLACES = {
    path.name
    for path in TOP.iterdir()
    if path.is_dir() and not path.name.startswith((".", "_")) and path.name not in BUILT
}
NODE_PARTS = {path.name for path in (TOP / "nvdra_node").iterdir() if path.is_dir()}
"""Documents about the node may leave ``nvdra_node/`` out: ``gpu/plan.py``."""

_TOKEN = re.compile(r"(?<![\w/.~<>$*-])(?:[\w*-][\w.*-]*/)+[\w.*-]*(?:::[\w:]+)?")
_LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")

FAMILIES = {
    "F": range(1, 54),
    "G-13": range(1, 41),
    "D": range(1, 34),
    "CD-L": range(1, 40),
    "CD-S": range(1, 18),
    "CD-X": range(1, 8),
    "CD-F": range(1, 22),
    "P": range(1, 60),
}
"""How many there are of each numbered kind; a number may be split (``G-13.9a``)."""

by_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP))
)


def split(text: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in text.strip().strip("|").split("|")]


@cache
def rows() -> list[dict[str, str]]:
    """Every row of every table of the parity page."""
    found: list[dict[str, str]] = []
    heads: list[str] = []
    for line in PARITY.read_text().splitlines():
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = split(line)
        elif not set(line) <= set("|-: "):
            cells = split(line)
            assert len(cells) == len(heads), line
            found.append(dict(zip(heads, cells, strict=True)))
    return found


def named(cell: str) -> list[str]:
    return _CODE.findall(cell)


@cache
def functions(path: Path) -> dict[str, set[str]]:
    """Test functions of a module by class (empty: none), with those that a class of the module inherits."""
    found: dict[str, set[str]] = {"": set()}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[""].add(node.name)
        elif isinstance(node, ast.ClassDef):
            inherited = [
                found.get(base.id, set()) for base in node.bases if isinstance(base, ast.Name)
            ]
            own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            found[node.name] = own.union(*inherited)
    return found


def problem(token: str, base: Path) -> str | None:
    """What is wrong with a path or ``path::test`` that a document names."""
    name, _, test = token.partition("::")
    name = name.rstrip("/.")
    found = list(base.glob(name)) if "*" in name else [base / name]
    if not found or not all(path.exists() for path in found):
        return f"{name} does not exist"
    if test:
        place, _, function = test.rpartition("::")
        if function not in functions(found[0]).get(place, set()):
            return f"{name} has no {test}"
    return None


def paths(text: str) -> list[tuple[str, Path]]:
    """What a text names of this repository, and from where."""
    found: list[tuple[str, Path]] = []
    for match in _TOKEN.finditer(re.sub(r"\w+://\S+", "", text)):
        token = match[0]
        first = token.partition("/")[0]
        if first in PLACES:
            found.append((token, TOP))
        elif first in NODE_PARTS and token.endswith(".py"):
            found.append((token, TOP / "nvdra_node"))
    return found


@by_document
def test_paths_in_documents_exist(document: Path):
    tokens = paths(document.read_text())
    assert [why for token, base in tokens if (why := problem(token, base))] == []


@by_document
def test_links_in_documents_lead_somewhere(document: Path):
    dangling = []
    for target in _LINK.findall(document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dangling.append(target)
    assert dangling == []


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ +(.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_a_wrong_path_or_test_in_a_document_would_be_found():
    wrong = "see nvdra_node/nothing.py, gpu/nothing.py and tests/unit/test_docs.py::test_nothing"
    assert len([why for token, base in paths(wrong) if (why := problem(token, base))]) == 3
    fine = "see /etc/x/y.py, resource.k8s.io/v1, systemd/*.service, https://docs/x.md and and/or"
    assert [problem(token, base) for token, base in paths(fine)] == [None]


def test_every_state_is_one_of_three_words():
    assert {row["state"] for row in rows()} <= set(STATES)


def test_ids_are_unique():
    assert [key for key, count in Counter(row["id"] for row in rows()).items() if count > 1] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_upstream_is_forgotten(family: str):
    pattern = re.compile(re.escape(family) + r"[.-]?(\d+)[a-z]?")
    numbers = {int(match[1]) for row in rows() if (match := pattern.fullmatch(row["id"]))}
    assert numbers == set(FAMILIES[family])


def test_what_is_done_names_its_code_and_a_test():
    bare = [r["id"] for r in rows() if r["state"] == "done" and not (r["code"] and r["test"])]
    assert bare == []


def test_what_is_partly_done_names_its_code():
    assert [r["id"] for r in rows() if r["state"] == "partly" and not r["code"]] == []


def test_the_columns_of_code_and_tests_hold_nothing_else():
    odd = []
    for row in rows():
        for column, pattern in (("code", r"[\w./-]+"), ("test", r"tests/[\w/]+\.py::[\w:]+")):
            tokens = named(row[column])
            if ", ".join(f"`{token}`" for token in tokens) != row[column]:
                odd.append((row["id"], row[column]))
            odd += [(row["id"], token) for token in tokens if not re.fullmatch(pattern, token)]
            # A token of an unknown kind would not be looked for by the test of paths.
            odd += [(row["id"], token) for token in tokens if not paths(token)]
    assert odd == []
