"""Server-side apply, in a small correct form: who manages which fields, conflicts, and removal of what is left out.

Pure: objects and owners in, new ones out. Fields are paths; an element of a list with keys is one path step, so that
several drivers share ``status.devices`` of a claim. Lists without known keys, and raw JSON of drivers, are one value.
"""

from __future__ import annotations

import copy
from typing import Any

from tests.fakes.apiserver.status import StatusError

JsonObject = dict[str, Any]
Path = tuple[Any, ...]
Owners = dict[tuple[str, str], frozenset[Path]]
"""(manager, operation) to the paths it manages."""

DEVICE_KEYS = ("driver", "device", "pool", "shareID")
OWNED_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")
ATOMIC = frozenset({"data", "parameters", "nodeSelector", "finalizers"})
GONE = object()


class Step(tuple[tuple[str, Any], ...]):
    """The keys and values that name one element of a keyed list."""

    __slots__ = ()

    def fits(self, element: Any) -> bool:
        """Whether ``element`` is the one."""
        return isinstance(element, dict) and all(element.get(key) == want for key, want in self)


def list_keys(path: Path) -> tuple[str, ...]:
    """The keys of the list at ``path``; none for a list that is one value."""
    if path == ("status", "devices"):
        return DEVICE_KEYS
    if path and path[-1] == "conditions":
        return ("type",)
    return ("uid",) if path == ("metadata", "ownerReferences") else ()


def leaves(obj: JsonObject) -> dict[Path, Any]:
    """All manageable fields of an object."""
    found: dict[Path, Any] = {}
    metadata = obj.get("metadata") or {}
    _collect(
        {key: metadata[key] for key in OWNED_METADATA if key in metadata}, ("metadata",), found
    )
    for key, value in obj.items():
        if key not in {"apiVersion", "kind", "metadata"}:
            _collect(value, (key,), found)
    return found


def _collect(value: Any, path: Path, found: dict[Path, Any]) -> None:
    keys = list_keys(path)
    if isinstance(value, dict) and value and path[-1] not in ATOMIC:
        for key, member in value.items():
            _collect(member, (*path, key), found)
    elif isinstance(value, list) and keys:
        for element in value:
            step = Step((key, element.get(key)) for key in keys)
            found[(*path, step)] = None
            for key, member in element.items():
                _collect(member, (*path, step, key), found)
    elif path != ("metadata",):
        found[path] = value


def after_update(
    before: JsonObject | None, after: JsonObject, manager: str, owners: Owners
) -> Owners:
    """Owners after a write that is no apply: the writer owns what it changed, others lose it."""
    old = leaves(before) if before else {}
    new = leaves(after)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    lost = changed | (old.keys() - new.keys())
    result = {key: paths - lost for key, paths in owners.items()}
    key = (manager, "Update")
    result[key] = frozenset(result.get(key, frozenset()) | changed)
    return {key: paths for key, paths in result.items() if paths}


def merge(
    live: JsonObject, applied: JsonObject, manager: str, owners: Owners, *, force: bool
) -> tuple[JsonObject, Owners]:
    """Apply ``applied`` to ``live``; raises StatusError (409) with the managers in the way unless ``force``."""
    key = (manager, "Apply")
    wanted = leaves(applied)
    current = leaves(live)
    in_the_way = {
        path: other[0]
        for path, value in wanted.items()
        for other, paths in owners.items()
        if other != key and path in paths and current.get(path, GONE) != value
    }
    if in_the_way and not force:
        raise _conflict(in_the_way)
    result = copy.deepcopy(live)
    kept = {k: paths - in_the_way.keys() for k, paths in owners.items() if k != key}
    others: set[Path] = set().union(*kept.values()) if kept else set()
    dropped = owners.get(key, frozenset()) - wanted.keys()
    for path in sorted(dropped, key=len, reverse=True):
        if path not in others and not any(other[: len(path)] == path for other in others):
            _remove(result, path)
    for path, value in wanted.items():
        _set(result, path, value)
    kept = {k: paths for k, paths in kept.items() if paths}
    return result, {**kept, key: frozenset(wanted)}


def _conflict(in_the_way: dict[Path, str]) -> StatusError:
    managers = sorted(set(in_the_way.values()))
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{other}"',
            "field": _text(path),
        }
        for path, other in in_the_way.items()
    ]
    names = ", ".join(f'"{manager}"' for manager in managers)
    return StatusError(
        409,
        f"Apply failed with {len(causes)} conflict(s): conflicts with {names}",
        details={"causes": causes},
    )


def _text(path: Path) -> str:
    return "".join(
        f"[{','.join(f'{key}={value!r}' for key, value in step)}]"
        if isinstance(step, Step)
        else f".{step}"
        for step in path
    )


def _set(obj: JsonObject, path: Path, value: Any) -> None:
    parent: Any = obj
    for step, following in zip(path, (*path[1:], None), strict=True):
        is_last = step is path[-1] and following is None
        if isinstance(step, Step):
            element = next((item for item in parent if step.fits(item)), None)
            if element is None:
                element = {key: member for key, member in step if member is not None}
                parent.append(element)
            parent = element
        elif is_last:
            parent[step] = copy.deepcopy(value)
        else:
            if not isinstance(parent.get(step), list if isinstance(following, Step) else dict):
                parent[step] = [] if isinstance(following, Step) else {}
            parent = parent[step]


def _remove(obj: JsonObject, path: Path) -> None:
    parent: Any = obj
    for step in path[:-1]:
        if isinstance(step, Step):
            parent = next((item for item in parent if step.fits(item)), None)
        else:
            parent = parent.get(step) if isinstance(parent, dict) else None
        if parent is None:
            return
    last = path[-1]
    if isinstance(last, Step):
        parent[:] = [item for item in parent if not last.fits(item)]
    elif isinstance(parent, dict) and not _is_key_of(path, parent):
        parent.pop(last, None)


def _is_key_of(path: Path, element: JsonObject) -> bool:
    """A list element's own keys stay as long as the element does."""
    return len(path) > 1 and isinstance(path[-2], Step) and path[-1] in dict(path[-2])


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
