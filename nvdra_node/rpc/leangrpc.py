"""The ``grpc`` module at a lower price: imported with asyncio, grpc.aio and typing_extensions stubbed out.

grpcio's ``__init__`` imports its asyncio half, which a synchronous server never uses and which costs 6 MB of memory
and 15 ms of start; its server imports 0.5 MB of typing_extensions for one decorator that does nothing. ``lean`` keeps
them out. Afterwards all of asyncio and typing_extensions is there for others; only ``grpc.aio`` stays unusable in such
a process.

Every module of the node that needs gRPC takes it from here. If grpcio is loaded already it is used as it is; if a
later grpcio cannot live with the stubs, it is imported in the ordinary way (``is_lean`` says which).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, TypeVar

from nvdra_core.runtime import lean

T = TypeVar("T")


class _TypingExtensions(ModuleType):
    """What grpcio's server takes from there."""

    @staticmethod
    def override(method: T) -> T:
        """For type checkers only."""
        return method


def _works(grpc: Any) -> bool:
    """Whether what a synchronous server needs is there."""
    importlib.import_module("grpc._server")
    names = ("server", "method_handlers_generic_handler", "unary_unary_rpc_method_handler")
    return all(hasattr(grpc, name) for name in (*names, "unary_stream_rpc_method_handler"))


grpc, is_lean = lean.load(
    "grpc",
    (lean.Stub("asyncio"), lean.Stub("grpc.aio"), _TypingExtensions("typing_extensions")),
    _works,
)
