"""Imports at a lower price: without what is imported along the way and never used. Memory on every node is what counts.

``postpone`` lets the first use of a module import it. Called by ``nvdra_node`` before anything else is imported.

``importing`` keeps the garbage collector from looking, again and again, through what imports make.

``load`` imports a package while other modules stand in for unwanted ones; afterwards they are taken away again, so that
whoever imports one of those later gets the real one. Where an unwanted module is loaded already, or the package cannot
live with the stand-ins, it is imported in the ordinary way. Called by ``leangrpc`` and ``leanproto``.
"""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

Check = Callable[[Any], bool]
"""Whether what we need of the package works; what it imports late is best used now. False, or an error that missing
things cause, means: not with the stand-ins."""


class _Postponed(ModuleType):
    """Stands for a module until something of it is used."""

    _lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what imports and tracebacks look at
            raise AttributeError(name)
        with self._lock:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def postpone(*names: str) -> None:
    """Import these modules when something of them is used; at once where they are loaded already."""
    for name in names:
        sys.modules.setdefault(name, _Postponed(name))


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage meanwhile, and never look for any among what is there at the end: modules live for ever, and
    looking through them is a tenth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
