"""The builder's commands: ``build.py [packages]`` makes all four packages, ``build.py lock`` pins the wheels again."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nvdra_packages import lock, pack, pyc, version
from nvdra_packages.layout import LOCK, OUT, BuildError
from nvdra_packages.pack import Built

KEY_VARIABLE = "NVDRA_SIGN_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 1 when the packages cannot be made."""
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["packages", "lock"], default="packages")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where packages go; default: {OUT}")
    parser.add_argument(
        "--version", help="default: the project's, with ~git... unless the commit is tagged"
    )
    parser.add_argument(
        "--sign-key",
        type=Path,
        default=os.environ.get(KEY_VARIABLE) or None,
        help=f"OpenPGP private key (a file) that signs the rpms; default: ${KEY_VARIABLE}. "
        "Its passphrase is read from NFPM_RPM_PASSPHRASE",
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "lock":
            LOCK.write_text(lock.make())
            return 0
        started = time.monotonic()
        release = version.current(arguments.version)
        built = pack.make_all(arguments.out, release, key=arguments.sign_key)
    except BuildError as error:
        print(f"!! {error}", file=sys.stderr)
        return 1
    print(table(built))
    print(
        f"made in {time.monotonic() - started:.1f} s, with compiled files for Python {' '.join(pyc.interpreters())}"
    )
    return 0


def table(built: Sequence[Built]) -> str:
    """File, size, size when installed, sha256."""
    lines = [f"{'file':<52} {'MB':>6} {'installed':>9}  sha256"]
    for one in built:
        digest = hashlib.sha256(one.path.read_bytes()).hexdigest()
        size, installed = one.path.stat().st_size / 1e6, one.installed_size / 1e6
        lines.append(f"{one.path.name:<52} {size:6.1f} {installed:9.1f}  {digest}")
    return "\n".join(lines)
