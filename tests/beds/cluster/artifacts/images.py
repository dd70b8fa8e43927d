"""The container images of a cluster, written with tarfile and imported into each node; no registry and no container
engine.

One layer serves all: Debian's static busybox, a `bash` that is a script, and the machine's own glibc, so that programs
mounted into a container, `nvidia-smi` first of all, can run. It has the names that upstream's manifests use.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.artifacts.build import PACKAGES
from tests.beds.cluster.errors import ClusterError

PAUSE = "registry.k8s.io/pause:3.10"

SHELL_NAMES = (
    "docker.io/library/busybox:latest",
    "docker.io/library/busybox:1.36",
    "docker.io/library/ubuntu:22.04",
    "docker.io/library/ubuntu:24.04",
    "docker.io/nvidia/cuda:12.0.0-base-ubuntu22.04",
    "docker.io/nvidia/cuda:12.5.0-devel-ubuntu22.04",
)

SAMPLE_NAMES = (
    "nvcr.io/nvidia/k8s/cuda-sample:nbody-cuda11.6.0-ubuntu18.04",
    "nvcr.io/nvidia/k8s/cuda-sample:nbody-cuda11.7.1-ubuntu18.04",
    "nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0",
)

FORMAT = 1
"""Raise it when what this module writes changes."""

_DIRECTORIES = "dev etc home proc root run sys usr usr/bin usr/lib usr/lib64 usr/sbin var var/log"
_LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "sbin": "usr/sbin",
    "var/run": "../run",
}
_LIBRARIES = "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libgcc_s.so.1 libutil.so.1"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_SCRIPTS = {
    "usr/bin/bash": '#!/bin/sh\nexec /bin/sh "$@"\n',
    # The programs of NVIDIA's samples, reduced to what a test can see: which GPUs are there, and a
    # process that stays.
    "tmp/sample": "#!/bin/sh\nnvidia-smi -L\nexec sleep 9999\n",
    "usr/bin/vectoradd": "#!/bin/sh\nnvidia-smi -L && echo Test PASSED\n",
}


@dataclass(frozen=True)
class Image:
    """One image of the archive: its names and the command that it runs."""

    names: tuple[str, ...]
    command: tuple[str, ...]


IMAGES = (
    Image(SHELL_NAMES, ("/bin/sh",)),
    Image(SAMPLE_NAMES, ("/usr/bin/vectoradd",)),
    # It only has to stay: a pod's sandbox is killed, never asked to end.
    Image((PAUSE,), ("/bin/sleep", "2147483647")),
)


def ensure() -> Path:
    """Return the archive with all images, written into the cache when it is not there."""
    path = programs.cache_dir() / "images" / f"test-images-{_key()}.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(descriptor, "wb") as file:
            write_archive(file, _layer(), IMAGES)
        Path(name).rename(path)
    return path


def write_archive(
    file: io.BufferedIOBase | io.BufferedWriter, layer: bytes, images: tuple[Image, ...]
) -> None:
    """Write a docker-archive of images that share one uncompressed layer."""
    digest = hashlib.sha256(layer).hexdigest()
    with tarfile.open(fileobj=file, mode="w") as archive:
        _add_file(archive, f"{digest}/layer.tar", layer)
        manifest = []
        for image in images:
            config = json.dumps(_config(digest, image.command)).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add_file(archive, name, config)
            manifest.append(
                {"Config": name, "RepoTags": image.names, "Layers": [f"{digest}/layer.tar"]}
            )
        _add_file(archive, "manifest.json", json.dumps(manifest).encode())


def _config(layer_digest: str, command: tuple[str, ...]) -> dict[str, object]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Env": [f"PATH={path}"], "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created_by": "tests.beds.cluster"}],
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _key() -> str:
    stat = _busybox().stat()
    parts = (FORMAT, IMAGES, stat.st_size, int(stat.st_mtime), _FILES, _SCRIPTS, _LIBRARIES)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _busybox() -> Path:
    path = Path("/bin/busybox")
    if not path.exists():
        raise ClusterError("no /bin/busybox", next_step=f"install {PACKAGES['busybox']}")
    return path


def _layer() -> bytes:
    """Return the root file system of all images as a tar."""
    buffer = io.BytesIO()
    triplet = f"{platform.machine()}-linux-gnu"
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in [*_DIRECTORIES.split(), f"usr/lib/{triplet}"]:
            _add_directory(tar, name, 0o755)
        for name in ("tmp", "var/tmp"):
            _add_directory(tar, name, 0o1777)
        for name, target in _LINKS.items():
            _add_link(tar, name, target)
        _add_file(tar, "usr/bin/busybox", _busybox().read_bytes(), 0o755)
        applets = commands.run([_busybox(), "--list"]).stdout.split()
        for applet in sorted({*applets, "sh"} - {"busybox", "bash"}):
            _add_link(tar, f"usr/bin/{applet}", "busybox")
        for name, text in _FILES.items():
            _add_file(tar, name, text.encode())
        for name, text in _SCRIPTS.items():
            _add_file(tar, name, text.encode(), 0o755)
        _add_glibc(tar, triplet)
    return buffer.getvalue()


def _add_glibc(tar: tarfile.TarFile, triplet: str) -> None:
    loaders = [*Path("/lib64").glob("ld-linux*.so.*"), *Path("/lib").glob("ld-linux*.so.*")]
    for loader in loaders:
        _add_file(tar, f"usr{loader}", loader.read_bytes(), 0o755)
    for directory in (Path("/lib") / triplet, Path("/lib64")):
        for name in _LIBRARIES.split():
            path = directory / name
            if path.exists():
                _add_file(tar, f"usr{path}", path.read_bytes(), 0o755)


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def _add_directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)
