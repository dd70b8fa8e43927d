"""The documents against the tree: what they name exists, their links lead somewhere, the parity data is true to its own
rules (a claim of being done names the code and a test that is there), and ``docs/parity.md`` is made from it.
"""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests import parity

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *TOP.glob("docs/**/*.md")]
)
PARITY = sorted(parity.DATA.iterdir())
STALE = "docs/parity.md differs from its data; edit docs/parity/*.yaml and run `make parity`"
BUILT = {line.strip("/") for line in (TOP / ".gitignore").read_text().splitlines()}
"""What builds leave in a checkout (``out``): a path below it, in a document, is not one of the repository."""

PLACES = {
    path.name
    for path in TOP.iterdir()
    if path.is_dir() and not path.name.startswith((".", "_")) and path.name not in BUILT
}
NODE_PARTS = {path.name for path in (TOP / "nvdra_node").iterdir() if path.is_dir()}
"""Documents may leave ``nvdra_node/`` and ``nvdra_core/`` out: ``gpu/plan.py``, ``kube/retry.py``."""

_TOKEN = re.compile(r"(?<![\w/.~<>$*-])(?:[\w*-][\w.*-]*/)+[\w.*-]*(?:::[\w:]+)?")
_LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")

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


def by(documents: list[Path]) -> pytest.MarkDecorator:
    """Run a test for each of these documents."""
    return pytest.mark.parametrize(
        "document", documents, ids=lambda path: str(path.relative_to(TOP))
    )


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
            core = TOP / "nvdra_core"
            found.append((token, core if (core / token).exists() else TOP / "nvdra_node"))
    return found


@by([*DOCUMENTS, *PARITY])
def test_paths_in_documents_exist(document: Path):
    tokens = paths(document.read_text())
    assert [why for token, base in tokens if (why := problem(token, base))] == []


@by(DOCUMENTS)
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


def test_wrong_path_or_test_in_document_is_found():
    wrong = "see nvdra_node/nothing.py, gpu/nothing.py and tests/unit/test_docs.py::test_nothing"
    assert len([why for token, base in paths(wrong) if (why := problem(token, base))]) == 3
    fine = "see /etc/x/y.py, resource.k8s.io/v1, systemd/*.service, https://docs/x.md and and/or"
    assert [problem(token, base) for token, base in paths(fine)] == [None]


def test_parity_page_is_generated_from_the_data():
    assert parity.PAGE.read_text() == parity.page(), STALE


def test_parity_directory_holds_only_data():
    assert [path.name for path in PARITY if path.suffix != ".yaml"] == []


@by(PARITY)
def test_parity_data_has_no_key_twice(document: Path):
    """YAML keeps the last of two: a merge that joins two rows would lose code or tests silently."""
    twice = []
    nodes = [yaml.compose(document.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value)
            twice += [(key, node.start_mark.line) for key, count in keys.items() if count > 1]
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    assert twice == []


def test_parity_data_with_an_unknown_field_names_its_file(tmp_path: Path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "{title: t, ids: F, column: c, rows: [{id: F-1, state: done, what: w, test: []}]}"
    )
    with pytest.raises(ValueError, match=r"wrong\.yaml: .*unknown field `test`"):
        parity.read(wrong)


def test_every_state_is_one_of_three_words():
    assert {row.state for row in parity.rows()} <= set(parity.STATES)


def test_ids_are_unique():
    assert [key for key, n in Counter(row.id for row in parity.rows()).items() if n > 1] == []


def test_ids_have_the_prefix_of_their_area():
    pairs = [(area.ids, row.id) for area in parity.areas() for row in area.rows]
    assert [key for prefix, key in pairs if not re.match(re.escape(prefix) + r"-?\w", key)] == []


def test_texts_of_rows_are_short():
    """Longer ones go into ``notes``."""
    long = [row.id for row in parity.rows() if len(row.what) > 200 or len(row.here) > 200]
    assert long == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_upstream_row_is_present(family: str):
    pattern = re.compile(re.escape(family) + r"[.-]?(\d+)[a-z]?")
    numbers = {int(match[1]) for row in parity.rows() if (match := pattern.fullmatch(row.id))}
    assert numbers == set(FAMILIES[family])


def test_what_is_done_names_its_code_and_a_test():
    done = [row for row in parity.rows() if row.state == "done"]
    assert [row.id for row in done if not (row.code and row.tests)] == []


def test_what_is_partly_done_names_its_code():
    assert [row.id for row in parity.rows() if row.state == "partly" and not row.code] == []


def test_code_and_tests_of_rows_hold_nothing_else():
    odd = []
    for row in parity.rows():
        for tokens, pattern in ((row.code, r"[\w./-]+"), (row.tests, r"tests/[\w/]+\.py::[\w:]+")):
            odd += [(row.id, token) for token in tokens if not re.fullmatch(pattern, token)]
            # A token of an unknown kind would not be looked for by the test of paths.
            odd += [(row.id, token) for token in tokens if not paths(token)]
    assert odd == []
