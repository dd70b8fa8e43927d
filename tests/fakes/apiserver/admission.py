"""Rules for what the fake stores: a test states what an API server drops, adds or refuses, instead of validation.

``server.api.writer.rules["resourceslices"].append(dropping("devices.taints"))``. A rule takes the object of a create,
update or patch (in its stored form, v1) and returns what is stored, or raises StatusError. What the real API server
does is checked by ``tests/service/kube/test_contract.py``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from tests.fakes.apiserver.status import StatusError

JsonObject = dict[str, Any]
Rule = Callable[[JsonObject], JsonObject]


def dropping(*paths: str) -> Rule:
    """Fields below ``spec`` that the server does not store, e.g. ``devices.taints``: a feature gate is off."""

    def drop(obj: JsonObject) -> JsonObject:
        obj = copy.deepcopy(obj)
        for path in paths:
            _remove(obj.get("spec"), path.split("."))
        return obj

    return drop


def refusing_device(text: str, why: str) -> Rule:
    """Answer 422 when a device of a ResourceSlice has ``text`` in its JSON, as validation of the server does."""

    def refuse(obj: JsonObject) -> JsonObject:
        for index, device in enumerate(obj["spec"].get("devices") or ()):
            if text in json.dumps(device):
                raise StatusError(422, f"spec.devices[{index}]: Invalid value: {why}")
        return obj

    return refuse


def refusing(code: int, why: str) -> Rule:
    """Refuse every write."""

    def refuse(obj: JsonObject) -> JsonObject:
        raise StatusError(code, why)

    return refuse


def _remove(value: Any, path: list[str]) -> None:
    if isinstance(value, list):
        for element in value:
            _remove(element, path)
    elif isinstance(value, dict) and len(path) == 1:
        value.pop(path[0], None)
    elif isinstance(value, dict):
        _remove(value.get(path[0]), path[1:])
