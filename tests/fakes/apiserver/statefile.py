"""The fake's objects in a file, so that a restarted fake is the same cluster: same UIDs, same versions."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.apiserver.api import Api
from tests.fakes.apiserver.store import Entry


def save(api: Api, path: Path) -> None:
    """Write all objects; the file is replaced at once."""
    with api.store.lock:
        tables = [
            {"group": kind.group, "plural": kind.plural, "items": [e.obj for e in entries.values()]}
            for kind in api.router.kinds.values()
            if (entries := api.store.table(kind).entries)
        ]
        document = {"version": api.store.version, "tables": tables}
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(document))
    temporary.replace(path)


def load(api: Api, path: Path) -> None:
    """Put the objects of a file into an api that nobody uses yet; watches cannot go back beyond this point."""
    document = json.loads(path.read_text())
    with api.store.lock:
        for table in document["tables"]:
            kind = api.router.kinds[table["group"], table["plural"]]
            entries = api.store.table(kind).entries
            for obj in table["items"]:
                entry = Entry(obj, int(obj["metadata"]["resourceVersion"]))
                entries[entry.key] = entry
        api.store.version = max(api.store.version, document["version"])
        api.store.compact()
