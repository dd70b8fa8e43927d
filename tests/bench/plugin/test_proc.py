"""Figures of process trees, of made-up ones and of real ones."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.errors import BenchError
from tests.bench.plugin import proc
from tests.lib.required import not_run

STAT = "{pid} (a) b (c) S {parent} 1 1 0 -1 0 0 0 0 0 {user} {system} {cuser} {csystem} 20 0 1 0 0"
ROLLUP = (
    "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss: {rss} kB\nPss: {pss} kB\nAnonymous: {anon} kB\n"
)


def add_process(
    root: Path, pid: int, parent: int, ticks: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> None:
    home = root / str(pid)
    home.mkdir()
    user, system, cuser, csystem = ticks
    home.joinpath("stat").write_text(
        STAT.format(pid=pid, parent=parent, user=user, system=system, cuser=cuser, csystem=csystem)
    )
    home.joinpath("smaps_rollup").write_text(ROLLUP.format(rss=pid, pss=pid // 2, anon=1))
    home.joinpath("io").write_text("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n")


def test_tree_has_grandchildren_and_no_other_process(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 1), (14, 10)):
        add_process(tmp_path, pid, parent)
    assert proc.tree(10, tmp_path) == [10, 11, 14, 12]


def test_tree_of_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="99"):
        proc.tree(99, tmp_path)


def test_memory_is_summed_and_a_vanished_process_counts_nothing(tmp_path: Path) -> None:
    add_process(tmp_path, 10, 1)
    add_process(tmp_path, 20, 10)
    held = proc.memory([10, 20, 30], tmp_path)
    assert held == proc.Memory(rss=30 * 1024, pss=15 * 1024, anonymous=2 * 1024)


def test_cpu_includes_children_that_ended(tmp_path: Path) -> None:
    add_process(tmp_path, 10, 1, (100, 50, 30, 20))
    assert proc.cpu_s([10, 11], tmp_path) == pytest.approx(200 / proc.TICKS_PER_S)


def test_written_bytes_are_summed(tmp_path: Path) -> None:
    add_process(tmp_path, 10, 1)
    add_process(tmp_path, 11, 1)
    assert proc.written_bytes([10, 11, 12], tmp_path) == 8192


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[str]"]:
    code = "x = bytearray(20_000_000); print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    yield process
    process.communicate("\n")


def test_real_memory_is_seen(sleeper: "subprocess.Popen[str]") -> None:
    held = proc.memory(proc.tree(sleeper.pid))
    assert held.rss >= held.pss >= 20_000_000
    assert held.anonymous >= 20_000_000


def test_shared_pages_of_two_processes_count_once(sleeper: "subprocess.Popen[str]") -> None:
    pages = proc.different_pages([sleeper.pid])
    if pages is None:
        not_run("needs root to see page frames")
    twice = proc.different_pages([sleeper.pid, sleeper.pid])
    assert pages == twice
    assert 20_000_000 < pages <= proc.memory([sleeper.pid]).rss * 1.05
