"""What is measured: names, units, directions and goals of all measures. Read by `report`; written to by the rounds."""

from __future__ import annotations

from dataclasses import dataclass

HELD = (0, 7, 55)
"""How many other claims the node holds while prepare and unprepare are timed."""

UPSTREAM = "upstream"
"""Name of the contender that shares refer to (``--vs 'upstream=COMMAND'``)."""

PREPARE_SHARES = {0: 0.6, 7: 0.15}
"""Other claims held -> limit of prepare p50."""

FLAT = 1.5
"""How much longer than on an empty node a prepare may take on the fullest one and still count as flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One row of the table."""

    key: str
    label: str
    unit: str
    digits: int = 2
    higher_is_better: bool = False
    goal: float | None = None
    """Limit for the first contender, on any machine."""
    share: float | None = None
    """Limit for the first contender as a share of `UPSTREAM` in the same run. With both limits, one is enough."""

    @property
    def limits(self) -> str:
        """The limits as text; empty without any."""
        texts = [] if self.goal is None else [f"{self.goal:g}"]
        texts += [] if self.share is None else [f"{self.share:g}x {UPSTREAM}"]
        sign = ">=" if self.higher_is_better else "<="
        return f"{sign} {' or '.join(texts)}" if texts else ""

    def is_met(self, value: float, upstream: float | None = None) -> bool | None:
        """Say whether a value reaches a limit; None without one. A value shown as the goal reaches it."""
        pairs = []
        if self.goal is not None:
            pairs.append((round(value, self.digits), self.goal))
        if self.share is not None and upstream:
            pairs.append((value / upstream, self.share))
        if not pairs:
            return None
        return any(got >= want if self.higher_is_better else got <= want for got, want in pairs)


def _latencies() -> list[Measure]:
    rows = []
    for held in HELD:
        where = f"{held} other claims held"
        rows += [
            Measure(
                key=f"prepare_p50_{held}",
                label=f"prepare p50, {where}",
                unit="ms",
                share=PREPARE_SHARES.get(held),
            ),
            Measure(key=f"prepare_p99_{held}", label=f"prepare p99, {where}", unit="ms"),
            Measure(key=f"unprepare_p50_{held}", label=f"unprepare p50, {where}", unit="ms"),
            Measure(key=f"unprepare_p99_{held}", label=f"unprepare p99, {where}", unit="ms"),
        ]
    return rows


def _memory(
    when: str, label: str, goal: float | None = None, share: float | None = None
) -> list[Measure]:
    """``goal`` and ``share``: limits of the main process's RSS."""
    names = {
        "rss_main": "RSS of the main process",
        "rss_tree": "RSS, sum of all its processes",
        "pss_main": "PSS of the main process",
        "pss_tree": "PSS, sum of all its processes",
        "pages_tree": "different pages held by all its processes",
        "anon_tree": "anonymous memory of all its processes",
        "processes": "processes",
    }
    return [
        Measure(
            key=f"{name}_{when}",
            label=f"{text}, {label}",
            unit="" if name == "processes" else "MB",
            digits=0 if name == "processes" else 1,
            goal=goal if name == "rss_main" else None,
            share=share if name == "rss_main" else None,
        )
        for name, text in names.items()
    ]


PLUGIN: tuple[Measure, ...] = (
    Measure(key="start_socket", label="exec to dra.sock", unit="s", digits=3),
    Measure(key="start_registered", label="exec to registration answered", unit="s", digits=3),
    Measure(key="start_slice", label="exec to first ResourceSlice", unit="s", digits=3, share=0.25),
    Measure(key="start_cpu", label="CPU used to start", unit="s", digits=2),
    Measure(key="prepare_first", label="first prepare after start", unit="ms"),
    *_latencies(),
    Measure(
        key="prepare_growth",
        label=f"prepare p50, {HELD[-1]} held / none held",
        unit="x",
        goal=FLAT,
    ),
    Measure(
        key="burst_last", label="8 claims at once: last prepared", unit="ms", digits=1, share=0.03
    ),
    Measure(key="burst_last_unprepare", label="8 at once: last unprepared", unit="ms", digits=1),
    Measure(
        key="pairs_1",
        label="1 caller: prepare+unprepare pairs",
        unit="/s",
        digits=0,
        higher_is_better=True,
    ),
    Measure(
        key="pairs_8",
        label="8 callers: prepare+unprepare pairs",
        unit="/s",
        digits=0,
        higher_is_better=True,
        share=4,
    ),
    Measure(key="prepare_p99_8", label="8 callers: prepare p99", unit="ms", digits=1),
    *_memory("idle", "idle", goal=56, share=0.85),
    *_memory("after", "after load"),
    Measure(key="cpu_idle", label="CPU idle", unit="%"),
    Measure(key="cpu_pair_1", label="CPU per pair, 1 caller", unit="ms"),
    Measure(key="cpu_pair_8", label="CPU per pair, 8 callers", unit="ms"),
    Measure(key="api_start", label="API requests at start", unit="", digits=0, goal=3),
    Measure(key="api_prepare", label="API requests per prepare", unit="", goal=1),
    Measure(key="api_unprepare", label="API requests per unprepare", unit="", goal=0),
    Measure(key="fsync_prepare", label="fsyncs per prepare", unit="", goal=1),
    Measure(key="fsync_unprepare", label="fsyncs per unprepare", unit="", goal=1),
    Measure(key="fsync_pair_8", label="fsyncs per pair, 8 callers", unit=""),
    Measure(key="rename_prepare", label="renames per prepare", unit=""),
    Measure(key="written_pair", label="bytes to disk per pair", unit="kB", digits=1),
    Measure(key="other_load", label="CPU that others used meanwhile", unit="cores"),
    Measure(key="host_stolen", label="CPU that the host took meanwhile", unit="%"),
    Measure(key="spin", label="a loop that is always the same", unit="ms"),
)

PODS: tuple[Measure, ...] = (
    Measure(key="pods_plain", label="8 plain pods: apply to last Running", unit="s"),
    Measure(key="pods_gpu", label="8 GPU pods: apply to last Running", unit="s"),
    Measure(key="pods_ratio", label="8 GPU pods / 8 plain pods", unit="x", goal=1.08),
)
