"""Server-side apply in a simple form, and JSON merge patch. Pure.

A field manager sets what it applies and removes what it applied before and leaves out now; it never conflicts with
another one. Elements of the lists in KEYS are merged by their keys, so several managers share them.
"""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]
KEYS = {"devices": ("driver", "device", "pool", "shareID"), "conditions": ("type",)}
ATOMIC = frozenset({"data", "parameters", "nodeSelector"})


def apply(live: JsonObject, applied: JsonObject, before: JsonObject) -> JsonObject:
    """``live`` with ``applied`` in it; ``before`` is what the same manager applied last."""
    result = dict(live)
    for name in before.keys() - applied.keys():
        if name in KEYS:
            result[name] = _merge_list(KEYS[name], live.get(name), [], before[name])
        else:
            result.pop(name, None)
    for name, value in applied.items():
        old, last = live.get(name), before.get(name)
        if name in KEYS and isinstance(value, list):
            result[name] = _merge_list(KEYS[name], old, value, last)
        elif isinstance(value, dict) and name not in ATOMIC:
            result[name] = apply(old or {}, value, last or {})
        else:
            result[name] = value
    return {name: value for name, value in result.items() if value != []}


def _merge_list(keys: tuple[str, ...], live: Any, applied: Any, before: Any) -> list[JsonObject]:
    def by_key(elements: Any) -> dict[tuple[Any, ...], JsonObject]:
        return {tuple(one.get(key) for key in keys): one for one in elements or ()}

    result, wanted, last = by_key(live), by_key(applied), by_key(before)
    for key in last.keys() - wanted.keys():
        result.pop(key, None)
    for key, element in wanted.items():
        result[key] = apply(result.get(key, {}), element, last.get(key, {}))
    return list(result.values())


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result
