"""Command templates, claims and the counting of system calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.errors import BenchError
from tests.bench.plugin.benchmark import alternating
from tests.bench.plugin.claims import ClaimMaker
from tests.bench.plugin.contender import Contender, Site
from tests.bench.plugin.syscounts import Counts, SyscallCounter, is_available


def test_placeholders_are_filled_in_word_by_word() -> None:
    one = Contender.parse("up=env A='x y' /bin/plugin --cdi-root={cdi}")
    assert one.name == "up"
    assert one.argv({"cdi": "/a b"}) == ["env", "A=x y", "/bin/plugin", "--cdi-root=/a b"]


@pytest.mark.parametrize("text", ["plugin", "=plugin", "name="])
def test_command_without_name_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="NAME=COMMAND"):
        Contender.parse(text)


def test_unknown_placeholder_is_named() -> None:
    with pytest.raises(BenchError, match="nosuch"):
        Contender("up", "plugin {nosuch}").argv({"cdi": "/cdi"})


def test_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--work"):
        Site.create(tmp_path / ("d" * 90))


def test_every_second_round_runs_backwards() -> None:
    a, b = Contender("a", "a"), Contender("b", "b")
    assert alternating([a, b], 3) == [[a, b], [b, a], [a, b]]


def test_held_claims_skip_gpu_0_and_share_by_admin_access() -> None:
    maker = ClaimMaker()
    maker.held(55)
    results = [claim["status"]["allocation"]["devices"]["results"][0] for claim in maker.objects]
    assert "gpu-0" not in {result["device"] for result in results}
    alone = [result["device"] for result in results if not result.get("adminAccess")]
    assert len(alone) == len(set(alone)) == 7


def test_claims_get_the_uids_of_the_api() -> None:
    maker = ClaimMaker()
    claims = maker.spread(20, [0, 1])
    maker.store(lambda objects: [f"uid of {one['metadata']['name']}" for one in objects])
    assert len({claim["name"] for claim in claims}) == 20
    assert all(claim["uid"] == f"uid of {claim['name']}" for claim in claims)


CALLS = """
import os, subprocess, sys, threading
with open(sys.argv[1], "w") as file:
    os.fsync(file.fileno())
    os.fdatasync(file.fileno())
os.rename(sys.argv[1], sys.argv[1] + ".new")
def sync():
    with open(sys.argv[1] + ".thread", "w") as file:
        os.fsync(file.fileno())
thread = threading.Thread(target=sync)
thread.start()
thread.join()
"""


@pytest.mark.skipif(
    not is_available() and os.environ.get("NVDRA_REQUIRE_CLUSTER") != "1",
    reason="NOT RUN: strace is not installed",
)
def test_syncs_of_all_threads_are_counted_once(tmp_path: Path) -> None:
    counter = SyscallCounter(tmp_path / "calls")
    argv = counter.argv([sys.executable, "-c", CALLS, str(tmp_path / "file")])
    subprocess.run(argv, check=True, timeout=30)
    assert counter.read() == Counts(syncs=3, renames=1)
    assert counter.read() == Counts(syncs=0, renames=0)
