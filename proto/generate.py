"""Generates ``nvdra_node/rpc/messages`` from the .proto files here with protoc and its gRPC plugin (``make proto``).

The code needs protobuf and grpcio of at least the versions that grpcio-tools had (pyproject's floors).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO_DIR = Path(__file__).resolve().parent
TOP = PROTO_DIR.parent
PACKAGE = Path("nvdra_node/rpc/messages")
_INIT = '"""Generated from ``proto/`` by ``make proto``. Do not edit."""\n'


def generate() -> dict[str, str]:
    """All modules by file name. Raises SystemExit when protoc reports an error."""
    # The virtual path gives imports between the modules their package, and files unique names in the descriptor pool.
    protos = [str(PACKAGE / proto.name) for proto in sorted(PROTO_DIR.glob("*.proto"))]
    with tempfile.TemporaryDirectory() as out:
        outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{PACKAGE}={PROTO_DIR}", *outputs, *protos]) != 0:
            raise SystemExit("protoc failed")
        files = {path.name: path.read_text("utf-8") for path in Path(out, PACKAGE).iterdir()}
    return {"__init__.py": _INIT, **files}


def main() -> int:
    """Write the modules; with --check only report whether they are up to date (exit status 1: no)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    directory = TOP / PACKAGE
    directory.mkdir(exist_ok=True)
    wanted = generate()
    present = {path.name: path.read_text("utf-8") for path in directory.iterdir() if path.is_file()}
    stale = sorted(name for name in {*wanted, *present} if wanted.get(name) != present.get(name))
    for name in stale:
        if is_check:
            sys.stderr.write(f"{PACKAGE / name} is not up to date: run make proto\n")
        elif name in wanted:
            (directory / name).write_text(wanted[name], encoding="utf-8")
        else:
            (directory / name).unlink()
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
