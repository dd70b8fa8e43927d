"""The rules of the house that no linter knows: sizes, docstrings, errors, words. See CONTRIBUTING.md."""

import ast
import gc
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
GENERATED = TOP / "nvdra_node" / "rpc" / "messages"
PACKAGES = ("nvdra_core", "nvdra_node", "nvdra_cluster")
MAX_MODULE_LINES = 399
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 5
"""Beside ``self`` and ``cls``."""
MAX_TEST_NAME = 60
MAX_PACKAGE_MODULES = 16
MAX_VAGUE_WORDS = 0.5
"""Words of VAGUE_WORDS per 1,000 lines of code and pages."""
VAGUE_WORDS = re.compile(
    r"\b(told|looks?|nobody|somebody|whoever|anew|doors?|meddled|doubts?|bury|buried|indeed)\b",
    re.I,
)
"""Words that stand for a term of the field: see CONTRIBUTING.md, Words."""

EXCEPTIONS: dict[str, str] = {}
"""``path`` or ``path::function`` -> why the rule on its size does not fit. Ideally empty."""

INNER_ERRORS = {
    "nvdra_node/host/nvml_ops.py::OperationError": "inside the NVML child; its parent gets JSON",
}
"""Errors that never leave the program they belong to -> which one."""

ERRORS = TOP / "nvdra_core" / "errors.py"
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
NEW_IN_3_11 = {
    "tomllib": {"*"},
    "enum": {"StrEnum", "verify", "ReprEnum"},
    "typing": {"Self", "assert_never", "LiteralString", "Never", "Required", "NotRequired"},
    "datetime": {"UTC"},
    "asyncio": {"timeout", "TaskGroup", "Runner"},
}
"""The node runs on Python 3.10 (Ubuntu 22.04), the tests on a later one that has these."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(autouse=True, scope="module")
def no_collection() -> Iterator[None]:
    """Syntax trees are many objects and no garbage: collecting them takes longer than parsing."""
    gc.disable()
    yield
    gc.enable()


def shipped() -> list[Path]:
    """Modules that are ours to keep small, less generated ones."""
    found = [path for package in PACKAGES for path in sorted((TOP / package).rglob("*.py"))]
    return [path for path in found if GENERATED not in path.parents]


def of_tests() -> list[Path]:
    return sorted((TOP / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(TOP))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


def every_function(paths: list[Path]) -> Iterator[tuple[str, Function]]:
    for path in paths:
        for node in definitions(path):
            if isinstance(node, Function):
                yield f"{name(path)}::{node.name}", node


def every_class() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in shipped():
        for node in definitions(path):
            if isinstance(node, ast.ClassDef):
                yield path, node


@cache
def definitions(path: Path) -> tuple[Function | ast.ClassDef, ...]:
    """All classes and functions of a module, however deep; expressions are skipped, as they hold none."""
    found: list[Function | ast.ClassDef] = []
    left: list[ast.AST] = [tree(path)]
    while left:
        for child in ast.iter_child_nodes(left.pop()):
            if isinstance(child, (Function, ast.ClassDef)):
                found.append(child)
            if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                left.append(child)
    return tuple(found)


def base_names(cls: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).rpartition(".")[2] for base in cls.bases}


def reason_of(cls: ast.ClassDef) -> str | None:
    """The text that a class gives ``reason``."""
    for item in cls.body:
        targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "reason" for target in targets):
            value = getattr(item, "value", None)
            return str(value.value) if isinstance(value, ast.Constant) else None
    return None


def error_names() -> set[str]:
    """Every class that descends from NvdraError, in whatever module."""
    known = {"NvdraError"}
    while True:
        more = {cls.name for _, cls in every_class() if base_names(cls) & known} - known
        if not more:
            return known
        known |= more


def test_modules_have_less_than_400_lines():
    sizes = {name(p): len(p.read_text().splitlines()) for p in (*shipped(), *of_tests())}
    large = {path: size for path, size in sizes.items() if size > MAX_MODULE_LINES}
    assert {path: size for path, size in large.items() if path not in EXCEPTIONS} == {}


def test_functions_have_at_most_50_lines():
    functions = every_function([*shipped(), *of_tests()])
    sizes = {where: (node.end_lineno or 0) - node.lineno + 1 for where, node in functions}
    large = {where: size for where, size in sizes.items() if size > MAX_FUNCTION_LINES}
    assert {where: size for where, size in large.items() if where not in EXCEPTIONS} == {}


def test_functions_have_at_most_5_parameters():
    many = {}
    for where, node in every_function(shipped()):
        given = node.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        count = len([n for n in names if n not in ("self", "cls")])
        if count > MAX_PARAMETERS and where not in EXCEPTIONS:
            many[where] = count
    assert many == {}


def test_test_names_have_at_most_60_characters():
    names = {where for where, _ in every_function(of_tests()) if "::test_" in where}
    assert {where for where in names if len(where.partition("::")[2]) > MAX_TEST_NAME} == set()


def test_packages_have_at_most_16_modules():
    modules = (path for path in (*shipped(), *of_tests()) if path.name != "__init__.py")
    sizes = Counter(name(path.parent) for path in modules)
    assert {where: size for where, size in sizes.items() if size > MAX_PACKAGE_MODULES} == {}


def test_texts_use_terms_of_the_field():
    pages = [path for path in TOP.glob("**/*.md") if not is_hidden(path)]
    words, lines = Counter[str](), 0
    for path in (*shipped(), *of_tests(), *pages):
        if path.name != "CHANGELOG.md" and path != Path(__file__):
            text = path.read_text()
            words[name(path)] = len(VAGUE_WORDS.findall(text))
            lines += text.count("\n")
    assert 1000 * words.total() / lines <= MAX_VAGUE_WORDS, words.most_common(30)


def is_hidden(path: Path) -> bool:
    """Below a directory such as .git, or built."""
    return any(part.startswith(".") or part == "out" for part in path.relative_to(TOP).parts)


def test_every_exception_has_a_reason_and_is_still_needed():
    functions = {where for where, _ in every_function([*shipped(), *of_tests()])}
    for where, why in EXCEPTIONS.items():
        assert why
        assert where in functions or (TOP / where).is_file()


def test_every_module_says_what_it_is_for():
    silent = [p for p in (*shipped(), *of_tests()) if p.read_text().strip() and not doc(p)]
    assert [name(path) for path in silent] == []


def doc(path: Path) -> str | None:
    return ast.get_docstring(tree(path))


def test_every_shipped_package_says_what_it_is_for():
    packages = [path for path in shipped() if path.name == "__init__.py"]
    assert [name(path) for path in packages if not doc(path)] == []


def test_errors_are_of_one_family():
    """Catching NvdraError catches every error that crosses a module border."""
    ours = error_names()
    foreign = {
        f"{name(path)}::{cls.name}"
        for path, cls in every_class()
        if cls.name.endswith("Error") and cls.name not in ours
    }
    assert foreign == set(INNER_ERRORS)


def test_reasons_stand_in_one_file_and_each_is_given_once():
    given = [(path, cls.name, reason) for path, cls in every_class() if (reason := reason_of(cls))]
    given = [(path, cls, reason) for path, cls, reason in given if cls in error_names()]
    assert [f"{name(path)}::{cls}" for path, cls, _ in given if path != ERRORS] == []
    reasons = [reason for _, _, reason in given]
    assert len(reasons) == len(set(reasons))
    assert all(re.fullmatch("[a-z]+(?:_[a-z]+)*", reason) for reason in reasons)


def test_nothing_is_left_for_later_in_the_code():
    texts = [*shipped(), *of_tests(), *TOP.glob("docs/**/*.md"), *TOP.glob("systemd/*")]
    assert [name(path) for path in texts if UNFINISHED.search(path.read_text())] == []


@pytest.mark.parametrize("package", ["nvdra_core", "nvdra_node"])
def test_the_node_runs_on_python_3_10(package: str):
    new = []
    for path in sorted((TOP / package).rglob("*.py")):
        ast.parse(path.read_text(), feature_version=(3, 10))
        for node in nodes(path):
            if isinstance(node, ast.Import):
                new += [(name(path), a.name) for a in node.names if a.name == "tomllib"]
            elif isinstance(node, ast.ImportFrom) and node.module in NEW_IN_3_11:
                late = NEW_IN_3_11[node.module]
                new += [(name(path), a.name) for a in node.names if late & {"*", a.name}]
    assert new == []
