"""What leangrpc is for: less memory, and everything a synchronous server needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import sys
{setup}
{load}
from concurrent import futures
from nvdra_node.rpc.messages import pluginregistration_v1 as pb
path = "unix:" + sys.argv[1]
handler = grpc.unary_unary_rpc_method_handler(
    lambda request, context: pb.PluginInfo(name="lean"),
    pb.InfoRequest.FromString, pb.PluginInfo.SerializeToString)
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("S", {{"M": handler}}),))
server.add_insecure_port(path)
server.start()
with grpc.insecure_channel(path) as channel:
    call = channel.unary_unary("/S/M", pb.InfoRequest.SerializeToString, pb.PluginInfo.FromString)
    assert call(pb.InfoRequest(), timeout=5).name == "lean"
server.stop(0).wait()
rollup = open("/proc/self/smaps_rollup").read()
print([line.split()[1] for line in rollup.splitlines() if line.startswith("Rss:")][0])
import asyncio
assert asyncio.run(asyncio.sleep(0, "real")) == "real"
"""
LEAN = "from nvdra_node.rpc.leangrpc import grpc, is_lean; assert is_lean is {}"
BREAK = """
import importlib.abc
class Breaks(importlib.abc.MetaPathFinder):
    # A grpcio that looks at asyncio while it is loaded.
    def find_spec(self, name, path, target=None):
        if name == "grpc._compression":
            import asyncio
            if not hasattr(asyncio, "__file__"):
                raise ImportError("asyncio is not the real one")
sys.meta_path.insert(0, Breaks())
"""


def rss_kb(directory: Path, load: str, setup: str = "") -> int:
    probe = PROBE.format(setup=setup, load=load)
    argv = [sys.executable, "-W", "error", "-c", probe, str(directory / "s")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_lean_server_works_and_saves_at_least_3_mb(directory: Path) -> None:
    lean = rss_kb(directory, LEAN.format(True))
    plain = rss_kb(directory, "import grpc")
    assert lean < plain - 3000, f"lean {lean} kB, plain {plain} kB"


@pytest.mark.parametrize("setup", ["import asyncio", "import grpc", BREAK])
def test_where_the_stubs_cannot_be_used_grpc_is_loaded_plainly(directory: Path, setup: str) -> None:
    rss_kb(directory, LEAN.format(False), setup)
