"""Imports plugins of the collection that need nothing of Ansible."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from nvdra_packages.layout import TOP

HOME = TOP / "ansible"


def load(name: str) -> ModuleType:
    """Import ``plugins/<name>`` of the collection, by its full name as Ansible does."""
    if str(HOME) not in sys.path:
        sys.path.append(str(HOME))
    return importlib.import_module(f"ansible_collections.nvdra.node.plugins.{name}")
