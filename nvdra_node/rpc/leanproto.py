"""protobuf at a lower price: without its implementation in Python, which stands idle beside the one in C.

``descriptor_pool`` imports it all the same, with the text format, pickle and calendars: 1.6 MB and 14 ms of start.
``lean`` keeps it out; where protobuf runs on the Python implementation, or on one that we do not know, it is imported
in the ordinary way (``is_lean`` says which). In a process that loaded it leanly, well-known types such as Timestamp
lack their convenient methods; the kubelet's APIs have none. ``pb`` imports this before its messages.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from nvdra_core.runtime import lean

_INTERNAL = "google.protobuf.internal"
_PROBE = b'\n\x10nvdra_lean.proto\x12\x04lean"\x03\n\x01MB\x00'
"""A file with one message ``M``."""


def _works(descriptor_pool: Any) -> bool:
    """Whether messages can be made; the first one makes the C implementation look for the well-known types."""
    from google.protobuf import message_factory
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() != "upb":
        return False
    file = descriptor_pool.DescriptorPool().AddSerializedFile(_PROBE)
    message = message_factory.GetMessageClass(file.message_types_by_name["M"])
    return bool(message().SerializeToString() == b"")


def _well_known_types() -> ModuleType:
    stub = ModuleType(f"{_INTERNAL}.well_known_types")
    vars(stub)["WKTBASES"] = {}
    return stub


is_lean: bool = lean.load(
    "google.protobuf.descriptor_pool",
    (ModuleType(f"{_INTERNAL}.python_message"), _well_known_types()),
    _works,
)[1]
