"""HeartbeatTracker: silence by our own clock, noticed within 40 s, never because of a node's clock."""

from __future__ import annotations

from nvdra_cluster.control.state.heartbeats import (
    GRACE_S,
    SILENCE_S,
    HeartbeatTracker,
    format_time,
    parse_time,
)
from nvdra_core.api.fabric import DEFAULT_HEARTBEAT_S

NOW = 1000.0
WALL = 1_800_000_000.0


def test_loss_is_confirmed_in_less_than_40_s():
    assert 30.0 < SILENCE_S <= 40.0 - 1.0 - 3.0


def test_node_is_silent_when_its_text_does_not_change():
    beats = HeartbeatTracker()
    beats.observe("a", "t1", NOW, WALL)
    beats.observe("b", "t1", NOW, WALL)
    beats.observe("a", "t1", NOW + 20, WALL)
    beats.observe("b", "t2", NOW + 20, WALL)
    assert beats.silent(["a", "b"], NOW + SILENCE_S) == ["a"]


def test_node_whose_clock_is_wrong_is_not_lost():
    beats = HeartbeatTracker()
    beats.observe("a", format_time(WALL - 120), NOW, WALL)
    beats.observe("b", format_time(WALL + 9000), NOW, WALL)
    assert beats.silent(["a", "b"], NOW + 1) == []


def test_old_heartbeat_gets_one_interval_at_first_sight():
    """The node may be well, and its clock behind."""
    beats = HeartbeatTracker()
    for name in "ab":
        beats.observe(name, format_time(WALL - 600), NOW, WALL)
    assert beats.silent(["a", "b"], NOW + DEFAULT_HEARTBEAT_S) == []
    beats.observe("a", format_time(WALL - 590), NOW + DEFAULT_HEARTBEAT_S, WALL)
    assert beats.silent(["a", "b"], NOW + 2 * DEFAULT_HEARTBEAT_S) == ["b"]


def test_unknown_node_is_not_lost():
    beats = HeartbeatTracker()
    assert beats.silent(["a"], NOW) == []
    beats.observe("a", "", NOW, WALL)
    beats.forget("a")
    assert beats.silent(["a"], NOW + 100) == []


def test_times_are_read_and_written_as_api_does():
    assert parse_time(format_time(WALL)) == WALL
    assert parse_time("2026-11-21T16:00:00.123456Z") == parse_time("2026-11-21T16:00:00Z")
    assert parse_time("") is None


def test_silence_before_start_counts_within_clock_skew():
    """A controller that starts must not call a node well for another 33 s that fell silent 20 s ago."""
    beats = HeartbeatTracker()
    beats.observe("a", format_time(WALL - 10), NOW, WALL)
    beats.observe("b", format_time(WALL - 30), NOW, WALL)
    assert beats.silent(["a", "b"], NOW + GRACE_S - 1) == []
    assert beats.silent(["a", "b"], NOW + GRACE_S) == ["b"]
    assert beats.silent(["a", "b"], NOW + SILENCE_S - 10) == ["a", "b"]
