"""Container edits -> the bytes of a claim's CDI file. Pure. Used by ``store``, and by ``nvidia`` for the common part.

The files are JSON, which is valid YAML; equal input gives equal bytes. What all claims share is rendered once.
"""

from __future__ import annotations

import msgspec

from nvdra_core.openstruct import to_json
from nvdra_node.cdi.edits import ClaimSpec

BASE_VERSION = (0, 5, 0)
"""Device names that begin with a digit (claim UIDs do) need CDI 0.5.0."""
GIDS_VERSION = (0, 7, 0)
"""``additionalGids`` need CDI 0.7.0."""

Version = tuple[int, ...]


class Common(msgspec.Struct, frozen=True):
    """The ``containerEdits`` of a whole spec file, rendered."""

    edits: bytes
    version: Version = BASE_VERSION


WITHOUT_DRIVER = Common(b'{"env":["NVIDIA_VISIBLE_DEVICES=void"]}')
"""For claims whose containers get no driver files; ``void`` keeps NVIDIA's runtime hook from adding its own."""


def render(kind: str, spec: ClaimSpec, common: Common) -> bytes:
    """The file of one claim."""
    has_gids = any(device.edits.additional_gids for device in spec.devices)
    version = max(common.version, GIDS_VERSION if has_gids else BASE_VERSION)
    body = {
        "cdiVersion": ".".join(map(str, version)),
        "kind": kind,
        "devices": to_json(spec.devices),
        "containerEdits": msgspec.Raw(common.edits),
    }
    return msgspec.json.encode(body) + b"\n"


def parse_version(text: str) -> Version:
    """``0.7.0`` -> (0, 7, 0). Raises ValueError."""
    return tuple(int(part) for part in text.split("."))
