"""The builder's commands: ``image.py [image]`` makes the image, ``image.py lock`` pins its wheels again."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from imagebuild import image, wheels
from nvdra_packages import version
from nvdra_packages.layout import TOP, BuildError

OUT = TOP / "out" / "image"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 1 when the image cannot be made."""
    parser = argparse.ArgumentParser(prog="image.py", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["image", "lock"], default="image")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where it goes; default: {OUT}")
    parser.add_argument("--version", help="default: the project's, with -git... unless tagged")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "lock":
            wheels.LOCK.write_text(wheels.make_lock())
            return 0
        started = time.monotonic()
        built = image.make(arguments.out, version.current(arguments.version))
    except BuildError as error:
        print(f"!! {error}", file=sys.stderr)
        return 1
    print(f"{built.path}\n{built.name}\n{built.digest}")
    size = built.path.stat().st_size / 1e6
    print(f"{size:.1f} MB for both architectures, made in {time.monotonic() - started:.1f} s")
    return 0
