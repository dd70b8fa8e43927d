"""The ``grpc`` module at a lower price: imported with asyncio and grpc.aio stubbed out.

grpcio's ``__init__`` imports its asyncio half, which a synchronous server never uses and which costs 6 MB of memory
and 15 ms of start. While grpcio is imported, two empty modules stand in for ``asyncio`` and ``grpc.aio``; afterwards
they are taken away again, so that whoever imports asyncio later gets the real one. Only ``grpc.aio`` stays unusable in
such a process.

Every module of the node that needs gRPC takes it from here. If grpcio is loaded already it is used as it is; if a
later grpcio cannot live with the stubs, it is imported in the ordinary way (``is_lean`` says which).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_STUBBED = ("asyncio", "grpc.aio")


class _Stub(ModuleType):
    """An empty module: any public name is an empty class (good as a base class and as an exception's neighbour)."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


def _forget(prefix: str) -> None:
    for name in [n for n in sys.modules if n == prefix or n.startswith(prefix + ".")]:
        del sys.modules[name]


def _works(grpc: Any) -> bool:
    """Whether what a synchronous server needs is there."""
    names = ("server", "method_handlers_generic_handler", "unary_unary_rpc_method_handler")
    return all(hasattr(grpc, name) for name in (*names, "unary_stream_rpc_method_handler"))


def _load() -> tuple[Any, bool]:
    if "grpc" in sys.modules or "asyncio" in sys.modules:
        return importlib.import_module("grpc"), False
    stubs = {name: _Stub(name) for name in _STUBBED}
    sys.modules.update(stubs)
    try:
        module = importlib.import_module("grpc")
        lean = _works(module)
    except (ImportError, AttributeError, TypeError):
        lean = False
    finally:
        for name, stub in stubs.items():
            if sys.modules.get(name) is stub:
                del sys.modules[name]
    if lean:
        return module, True
    # The C extension cannot be loaded twice from scratch, but it does not look at asyncio when it is loaded.
    _forget("grpc")
    return importlib.import_module("grpc"), False


grpc, is_lean = _load()
