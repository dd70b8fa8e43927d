"""The configuration of a claim's devices as one text, for its record. Pure. Made by drivers, compared by ``overlap``.

Where all devices are configured alike the text is that configuration's key, as earlier releases wrote it for every
claim; otherwise it is a JSON object of keys by device name. The empty key is the default configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping


def join(keys: Mapping[str, str]) -> str:
    """The text of a claim whose devices have these keys."""
    different = set(keys.values())
    if len(different) > 1:
        return json.dumps(keys, sort_keys=True)
    return different.pop() if different else ""


def key_of(text: str, device: str) -> str:
    """The key of one device of a claim with that text."""
    if not text.startswith("{"):
        return text
    try:
        keys = json.loads(text)
    except ValueError:
        return text
    key = keys.get(device)
    # A single key is an object as well, of apiVersion, kind and settings.
    return key if isinstance(key, str) else text
