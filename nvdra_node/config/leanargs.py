"""The ``argparse`` module at a lower price: without its translations, which load a table of the world's languages.

It looks for a translation of each text it shows, 1 ms and 0.3 MB at every start; our texts have none. See ``lean``.
Called by ``cli``.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from nvdra_core.runtime import lean

if TYPE_CHECKING:
    import argparse
else:

    class _English(ModuleType):
        """What argparse takes from ``gettext``."""

        @staticmethod
        def gettext(text: str) -> str:
            """The text itself."""
            return text

        @staticmethod
        def ngettext(one: str, many: str, number: int) -> str:
            """The text for that number."""
            return one if number == 1 else many

    def _works(module: Any) -> bool:
        return bool(module.ArgumentParser(add_help=False).prog and module.ngettext("one", "", 1))

    argparse, is_lean = lean.load("argparse", (_English("gettext"),), _works)

__all__ = ["argparse"]
