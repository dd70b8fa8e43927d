"""One round of one plugin: fresh machine, API and directories; start it, load it, read what it took, end it.

Returns one value per measure key of `measures.PLUGIN`. Order within a round: start, idle, empty node, eight at once,
eight callers, then more and more claims held, so that each figure is taken on the state its label names.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import measures
from tests.bench.machine import Machine
from tests.bench.noise import Noise
from tests.bench.plugin import proc
from tests.bench.plugin.api import Api
from tests.bench.plugin.claims import GPUS, ClaimMaker
from tests.bench.plugin.contender import DRIVER, Contender, RunningPlugin, Site
from tests.bench.plugin.loadclient import Claim, LoadClient, Timings
from tests.bench.plugin.syscounts import SyscallCounter
from tests.bench.stats import percentile

MB = 1e6
START_TIMEOUT_S = 60.0

Values = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much one round measures."""

    pairs: int = 60
    """Calls that each latency percentile rests on."""
    bursts: int = 5
    callers_s: float = 3.0
    settle_s: float = 2.0
    idle_s: float = 3.0
    warm_pairs: int = 8


QUICK = Effort(pairs=20, bursts=3, callers_s=1.0, settle_s=0.5, idle_s=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The claims of one round."""

    maker: ClaimMaker
    warm: list[Claim]
    levels: dict[int, list[Claim]]
    held: list[Claim]
    each_gpu: list[Claim]
    bursts: list[list[Claim]]
    callers: list[list[Claim]]

    @staticmethod
    def plan(effort: Effort) -> Work:
        """Make all claims of a round."""
        maker = ClaimMaker()
        every = range(GPUS)
        return Work(
            maker=maker,
            warm=maker.spread(effort.warm_pairs, every),
            levels={held: maker.spread(effort.pairs, [0]) for held in measures.HELD},
            held=maker.held(max(measures.HELD)),
            each_gpu=maker.spread(GPUS, every),
            bursts=[maker.spread(GPUS, every) for _ in range(effort.bursts)],
            callers=[maker.spread(4, [gpu]) for gpu in every],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all rounds share: where to work, the programs, and how much to measure."""

    work: Path
    loadgen: Path
    effort: Effort
    programs: Mapping[str, str]
    """Placeholders that stay the same: {ctk}, {cdi_hook}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A plugin that is registered and has published, and all that it talks to."""

    plugin: RunningPlugin
    client: LoadClient
    api: Api
    start: Values


@contextmanager
def started(
    bench: Bench, contender: Contender, base: Path, counter: SyscallCounter | None = None
) -> Iterator[Started]:
    """Start a plugin on a fresh machine; raise `BenchError` with its log when it does not come up."""
    base.mkdir(parents=True)
    site = Site.create(base / "s")
    with (
        Machine(base / "m") as machine,
        Api(base / "a") as api,
        LoadClient(bench.loadgen) as client,
    ):
        values = {
            **site.values(),
            **machine.values(),
            **bench.programs,
            **api.kubeconfigs,
        }
        argv = contender.argv(values)
        client.begin_register(site.registry, site.plugins, DRIVER, START_TIMEOUT_S)
        plugin = RunningPlugin(counter.argv(argv) if counter else argv, site.log, machine.env())
        try:
            registered = client.end_register(plugin.check)
            slice_ns = api.wait_for_slice(START_TIMEOUT_S)
            start = {
                "start_socket": (registered.dra_socket_ns - plugin.exec_ns) / 1e9,
                "start_registered": (registered.registered_ns - plugin.exec_ns) / 1e9,
                "start_slice": (slice_ns - plugin.exec_ns) / 1e9,
            }
            yield Started(plugin=plugin, client=client, api=api, start=start)
            plugin.check()
        except Exception as error:
            error.add_note(f"{contender.name} said last:\n{plugin.said()}")
            raise
        finally:
            plugin.stop()


def measure(bench: Bench, contender: Contender, base: Path) -> Values:
    """Run one round and return its values."""
    work = Work.plan(bench.effort)
    before = Noise.read()
    with started(bench, contender, base) as up:
        work.maker.store(up.api.add)
        time.sleep(bench.effort.settle_s)
        values = dict(up.start)
        values["start_cpu"] = proc.cpu_s(up.plugin.tree())
        values["api_start"] = up.api.requests()
        values |= _idle(up, bench.effort)
        values |= _memory(up, "idle")
        since = _Meter.read(up)
        values |= _empty_node(up, work)
        values |= _together(up, work, bench.effort)
        values |= _held(up, work)
        values["other_load"] = _Meter.read(up).others_since(since)
        values |= _memory(up, "after")
    values |= before.until(Noise.read())
    values["prepare_growth"] = (
        values[f"prepare_p50_{measures.HELD[-1]}"] / values[f"prepare_p50_{measures.HELD[0]}"]
    )
    return values


def count_calls(bench: Bench, contender: Contender, base: Path) -> Values:
    """Count file syncs and renames per call, in a run of its own because counting slows everything down."""
    work = Work.plan(bench.effort)
    counter = SyscallCounter(base.with_name(base.name + ".calls"))
    with started(bench, contender, base, counter) as up:
        work.maker.store(up.api.add)
        time.sleep(bench.effort.settle_s)
        up.client.pairs(work.warm)
        counter.read()
        up.client.prepare(work.each_gpu)
        prepare = counter.read()
        up.client.unprepare(work.each_gpu)
        unprepare = counter.read()
        pairs = len(up.client.callers(work.callers, bench.effort.callers_s).unprepare_ms)
        crowd = counter.read()
    return {
        "fsync_prepare": prepare.syncs / GPUS,
        "rename_prepare": prepare.renames / GPUS,
        "fsync_unprepare": unprepare.syncs / GPUS,
        "fsync_pair_8": crowd.syncs / pairs,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meter:
    """CPU clocks at one moment."""

    at_s: float
    busy_s: float
    plugin_s: float
    ours_s: float
    """The plugin's, the load client's, the API's and this process's together."""

    @staticmethod
    def read(up: Started) -> _Meter:
        plugin_s = proc.cpu_s(up.plugin.tree())
        own_s = proc.cpu_s([up.client.pid, up.api.pid, os.getpid()])
        return _Meter(
            at_s=time.monotonic(),
            busy_s=proc.busy_s(),
            plugin_s=plugin_s,
            ours_s=plugin_s + own_s,
        )

    def others_since(self, before: _Meter) -> float:
        """Return how many cores everybody else on this machine kept busy."""
        others = (self.busy_s - before.busy_s) - (self.ours_s - before.ours_s)
        return max(0.0, others / (self.at_s - before.at_s))


def _idle(up: Started, effort: Effort) -> Values:
    before = _Meter.read(up)
    time.sleep(effort.idle_s)
    after = _Meter.read(up)
    return {"cpu_idle": 100 * (after.plugin_s - before.plugin_s) / (after.at_s - before.at_s)}


def _memory(up: Started, when: str) -> Values:
    pids = up.plugin.tree()
    main, everything = proc.memory(pids[:1]), proc.memory(pids)
    values = {
        f"rss_main_{when}": main.rss / MB,
        f"rss_tree_{when}": everything.rss / MB,
        f"pss_main_{when}": main.pss / MB,
        f"pss_tree_{when}": everything.pss / MB,
        f"anon_tree_{when}": everything.anonymous / MB,
        f"processes_{when}": float(len(pids)),
    }
    pages = proc.different_pages(pids)
    if pages is not None:
        values[f"pages_tree_{when}"] = pages / MB
    return values


def _empty_node(up: Started, work: Work) -> Values:
    first = up.client.pairs(work.warm)
    before = _Meter.read(up)
    written = proc.written_bytes(up.plugin.tree())
    timings = up.client.pairs(work.levels[0])
    after = _Meter.read(up)
    number = len(work.levels[0])
    values = _latency(0, timings)
    values["prepare_first"] = first.prepare_ms[0]
    values["pairs_1"] = number / timings.elapsed_s
    values["cpu_pair_1"] = (after.plugin_s - before.plugin_s) / number * 1e3
    values["written_pair"] = (proc.written_bytes(up.plugin.tree()) - written) / number / 1e3
    requests = up.api.requests()
    up.client.prepare(work.each_gpu)
    prepared = up.api.requests()
    up.client.unprepare(work.each_gpu)
    values["api_prepare"] = (prepared - requests) / GPUS
    values["api_unprepare"] = (up.api.requests() - prepared) / GPUS
    return values


def _together(up: Started, work: Work, effort: Effort) -> Values:
    bursts = [up.client.burst(claims) for claims in work.bursts]
    before = _Meter.read(up)
    crowd = up.client.callers(work.callers, effort.callers_s)
    after = _Meter.read(up)
    pairs = len(crowd.unprepare_ms)
    return {
        "burst_last": statistics.median(burst.last_prepare_ms for burst in bursts),
        "burst_last_unprepare": statistics.median(burst.last_unprepare_ms for burst in bursts),
        "pairs_8": pairs / crowd.elapsed_s,
        "prepare_p99_8": percentile(crowd.prepare_ms, 99),
        "cpu_pair_8": (after.plugin_s - before.plugin_s) / pairs * 1e3,
    }


def _held(up: Started, work: Work) -> Values:
    values: Values = {}
    holding = 0
    for level in measures.HELD[1:]:
        up.client.prepare(work.held[holding:level])
        holding = level
        values |= _latency(level, up.client.pairs(work.levels[level]))
    up.client.unprepare(work.held)
    return values


def _latency(held: int, timings: Timings) -> Values:
    return {
        f"prepare_p50_{held}": percentile(timings.prepare_ms, 50),
        f"prepare_p99_{held}": percentile(timings.prepare_ms, 99),
        f"unprepare_p50_{held}": percentile(timings.unprepare_ms, 50),
        f"unprepare_p99_{held}": percentile(timings.unprepare_ms, 99),
    }
