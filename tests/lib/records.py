"""Record files as any release might have written them."""

from __future__ import annotations

import json
import zlib
from typing import Any

TIME_SLICED = {
    "apiVersion": "resource.nvidia.com/v1beta1",
    "kind": "GpuConfig",
    "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}},
}
"""A config whose claims have an effect in their record."""


def record_file(body: Any, schema: int = 1) -> bytes:
    """A file with a valid checksum around any content."""
    text = json.dumps(body, separators=(",", ":")).encode()
    return b'{"schema":%d,"checksum":"crc32:%08x","record":%s}\n' % (schema, zlib.crc32(text), text)
