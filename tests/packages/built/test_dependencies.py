"""Every program that the node's code and units run is of a package that both formats depend on. Runs anywhere."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from string import Template

import pytest
import yaml

from nvdra_node.config import OPTIONS
from nvdra_packages.layout import PACKAGING, SHIPPED_PACKAGES, TOP

PACKAGES = {
    "journalctl": ("systemd", "systemd"),
    "kill": ("procps", "util-linux"),
    "nvidia-cdi-hook": ("nvidia-container-toolkit-base", "nvidia-container-toolkit-base"),
    "nvidia-ctk": ("nvidia-container-toolkit-base", "nvidia-container-toolkit-base"),
    "systemctl": ("systemd", "systemd"),
}
"""Program -> package of the deb and of the rpm."""
ALWAYS_THERE = {"mkdir", "sh", "nvdra-node"}
"""Of packages without which there is no system, and our own."""
OF_THE_DRIVER = {"nvidia-modprobe", "nvidia-smi", "nvidia-imex", "nvidia-imex-ctl"}
"""They come with the NVIDIA driver, which may be installed later, or never."""


def run_by_code() -> Iterator[str]:
    """First words of the argument lists that code gives to ``run``, and the programs that settings name."""
    for package in SHIPPED_PACKAGES:
        for path in (TOP / package).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                    continue
                words = call.args[0] if call.func.attr == "run" and call.args else None
                first = words.elts[0] if isinstance(words, (ast.List, ast.Tuple)) else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value
    for option in OPTIONS:
        if option.field.endswith("_path") and "/bin/" in str(option.default):
            yield str(option.default)


def run_by_units() -> Iterator[str]:
    for path in (TOP / "systemd").glob("*.service"):
        for line in path.read_text().splitlines():
            if found := re.match(r"Exec\w+=[-+!@:]*(\S+)", line):
                yield found[1]


def programs() -> set[str]:
    return {word.rpartition("/")[2] for word in (*run_by_code(), *run_by_units())}


def test_programs_are_found_in_code_settings_and_units():
    assert {"nvidia-ctk", "systemctl", "mkdir", "kill"} <= programs()


@pytest.mark.parametrize(("index", "form"), [(0, "deb"), (1, "rpm")])
def test_every_program_is_of_a_declared_dependency(index: int, form: str):
    text = Template((PACKAGING / "nfpm.yaml").read_text()).substitute(defaultdict(str))
    depends = {line.split()[0] for line in yaml.safe_load(text)["overrides"][form]["depends"]}
    needed = programs() - ALWAYS_THERE - OF_THE_DRIVER
    assert {PACKAGES[name][index] for name in needed} - depends == set()
