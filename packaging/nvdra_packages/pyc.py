"""Compiled files (``__pycache__``) for every supported CPython that this machine has.

They are of the kind "unchecked hash": Python neither asks the source file for its time nor reads it, and nothing
depends on when a package was built. For a CPython that is not here the package's installation compiles (``scripts``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nvdra_packages.layout import PYTHONS, BuildError, run

_SAY = "import sys; print(*sys.version_info[:3], sep='.'); print(sys.implementation.name)"
_COMPILE = """\
import compileall, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
sys.exit(not compileall.compile_dir(
    sys.argv[1], quiet=1, force=True, stripdir=sys.argv[1], prependdir=sys.argv[2], invalidation_mode=mode))
"""


def tag(python: str) -> str:
    """The part of a compiled file's name that says for which Python it is: ``cpython-310`` for ``3.10``."""
    return "cpython-" + python.replace(".", "")


def interpreters() -> dict[str, Path]:
    """Supported version -> an interpreter of this machine that really is of that version."""
    return {python: path for python in PYTHONS if (path := _find(python))}


def _find(python: str) -> Path | None:
    for path in _candidates(python):
        try:
            version, name = run([str(path), "-IBc", _SAY]).split()
        except (BuildError, OSError):
            continue  # a stub of a version manager that has no such version selected
        if name == "cpython" and version.startswith(f"{python}."):
            return path
    return None


def _candidates(python: str) -> Iterator[Path]:
    if found := shutil.which(f"python{python}"):
        yield Path(found)
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(home.glob(f"versions/{python}.*/bin/python{python}"))


def compile_tree(tree: Path, installed_at: str, pythons: Mapping[str, Path]) -> None:
    """Compile all modules below ``tree``, which will be installed at ``installed_at``, for these interpreters."""
    # Hash seed, and one process for each version: the bytes depend on which strings were seen before.
    env = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"}

    def compile_for(interpreter: Path) -> None:
        run([str(interpreter), "-Bc", _COMPILE, str(tree), installed_at], env=env)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_for, pythons.values()))
