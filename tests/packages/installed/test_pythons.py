"""The deb with every Python that this machine has: those of distributions that cannot be had here among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra_packages import pyc
from nvdra_packages.layout import LIBRARY, PYTHONS
from tests.beds.host.userland import DISTRIBUTIONS, Userland, changeable
from tests.packages.built import archive
from tests.packages.conftest import Packages
from tests.packages.marks import needs_packages

pytestmark = needs_packages()


@pytest.fixture(scope="module")
def userland(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Userland]:
    """A root file system with the package's files, and none of them compiled there."""
    layer = archive.unpack(packages.deb, tmp_path_factory.mktemp("unpacked"))
    with changeable(tmp_path_factory.mktemp("pythons"), layer, DISTRIBUTIONS[0].root()) as made:
        yield made


@pytest.fixture(params=PYTHONS)
def interpreter(request: pytest.FixtureRequest) -> Path:
    found = pyc.interpreters().get(request.param)
    if found is None:
        pytest.skip(f"NOT RUN: this machine has no Python {request.param}")
    return found.resolve()


def test_command_imports_compiled_modules_only(userland: Userland, interpreter: Path):
    home = interpreter.parents[1]
    binds = [home] if home != Path("/usr") else []
    argv = [str(interpreter), "-IBv", "/usr/bin/nvdra-node", "check-config"]
    done = userland.run(*argv, binds=binds)
    assert "stateDir" in done.stdout
    loads = [line for line in done.stderr.splitlines() if f"/{LIBRARY}/" in line]
    assert (
        len([line for line in loads if line.startswith("# code object from ") and ".pyc" in line])
        > 20
    )
    from_source = [
        line for line in loads if line.startswith("# code object from ") and ".pyc" not in line
    ]
    assert from_source == []


def test_grpc_protobuf_and_yaml_load_their_compiled_parts(userland: Userland, interpreter: Path):
    home = interpreter.parents[1]
    program = (
        f"import sys; sys.path[:0] = ['/{LIBRARY}', '/{LIBRARY}/site-packages']; "
        "import nvdra_node.app.gpu, yaml, grpc; "
        "from google.protobuf.internal import api_implementation; "
        "print(api_implementation.Type(), bool(yaml.CSafeLoader), bool(grpc.server))"
    )
    binds = [home] if home != Path("/usr") else []
    done = userland.run(str(interpreter), "-IBc", program, binds=binds)
    assert done.stdout == "upb True True\n"


def test_cryptography_makes_an_imex_key_and_request(userland: Userland, interpreter: Path):
    home = interpreter.parents[1]
    program = (
        f"import sys; sys.path += ['/{LIBRARY}', '/{LIBRARY}/site-packages']; "
        "from nvdra_node.imex.key_child import main; main('/no-such-key')"
    )
    binds = [home] if home != Path("/usr") else []
    done = userland.run(str(interpreter), "-ISBc", program, binds=binds)
    assert done.stdout.count("-----BEGIN ") == 2 and done.stdout.startswith("-----BEGIN PRIVATE")
