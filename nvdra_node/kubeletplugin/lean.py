"""Imports a package without those of its own imports that are never used here. Called by ``leangrpc`` and ``pb``.

While the package is imported, other modules stand in for the unwanted ones; afterwards they are taken away again, so
that whoever imports one of those later gets the real one. Where an unwanted module is loaded already, or the package
cannot live with the stand-ins, it is imported in the ordinary way.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Check = Callable[[Any], bool]
"""Whether what we need of the package works; what it imports late is best used now. False, or an error that missing
things cause, means: not with the stand-ins."""


class Stub(ModuleType):
    """An empty module: any public name is an empty class (good as a base class and as an exception's neighbour)."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


def load(name: str, stubs: Sequence[ModuleType], works: Check) -> tuple[Any, bool]:
    """The module of that name, and whether it was imported with the stand-ins."""
    if name in sys.modules or any(stub.__name__ in sys.modules for stub in stubs):
        return importlib.import_module(name), False
    before = set(sys.modules)
    sys.modules.update({stub.__name__: stub for stub in stubs})
    try:
        module = importlib.import_module(name)
        is_lean = works(module)
    except (ImportError, AttributeError, TypeError, KeyError):
        is_lean = False
    finally:
        for stub in stubs:
            if sys.modules.get(stub.__name__) is stub:
                del sys.modules[stub.__name__]
    if is_lean:
        return module, True
    # Their C extensions cannot be loaded twice from scratch, but do not look at these modules when they are loaded.
    for loaded in set(sys.modules) - before:
        if loaded.startswith(f"{name.partition('.')[0]}."):
            del sys.modules[loaded]
    sys.modules.pop(name, None)
    return importlib.import_module(name), False
