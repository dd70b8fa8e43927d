"""Writes an OCI image archive: layers, one configuration and manifest per architecture, one index over all of them.

Everything is sorted, owned by root and of one time, so the same content gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Json = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One layer: its compressed bytes, and the digest of the plain ones."""

    data: bytes
    diff_id: str

    @classmethod
    def of(cls, root: Path, epoch: int) -> Layer:
        """All that lies below a directory. Only commands and directories are executable as their modes say."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(root.rglob("*")):
                info = tar.gettarinfo(path, str(path.relative_to(root)))
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = epoch
                if info.isreg():
                    with path.open("rb") as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)
        content = plain.getvalue()
        return cls(gzip.compress(content, 6, mtime=0), _sha256(content))


@dataclass(frozen=True)
class Platform:
    """The image of one architecture."""

    architecture: str
    """The name that containers use: amd64, arm64."""
    layers: Sequence[Layer]


@dataclass
class _Blobs:
    """What the archive has under its digests."""

    data: dict[str, bytes] = field(default_factory=dict)

    def add(self, kind: str, content: bytes, **more: Any) -> Json:
        """Keep a blob; the descriptor of it."""
        digest = _sha256(content)
        self.data[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content), **more}


def write(
    path: Path, name: str, platforms: Sequence[Platform], run: Mapping[str, Any], created: str
) -> str:
    """Write the archive of an image called ``name``; the digest of its index, which is what a registry shows.

    ``run`` is the ``config`` of an image configuration; ``created`` its time as RFC 3339 has it.
    """
    blobs = _Blobs()
    manifests = [_manifest(blobs, platform, run, created) for platform in platforms]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        "org.opencontainers.image.created": created,
    }
    top = blobs.add(_INDEX, _json(index), annotations=annotations)
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [top]}),
        **{f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.data.items()},
    }
    with tarfile.open(path, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file, content in sorted(files.items()):
            info = tarfile.TarInfo(file)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(top["digest"])


def _manifest(blobs: _Blobs, platform: Platform, run: Mapping[str, Any], created: str) -> Json:
    config = {
        "architecture": platform.architecture,
        "os": "linux",
        "created": created,
        "config": dict(run),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in platform.layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": blobs.add(_CONFIG, _json(config)),
        "layers": [blobs.add(_LAYER, layer.data) for layer in platform.layers],
    }
    place = {"architecture": platform.architecture, "os": "linux"}
    return blobs.add(_MANIFEST, _json(manifest), platform=place)


def _json(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
