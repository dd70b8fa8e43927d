"""The same event again is counted for ten minutes; another reason, another object or a lost event starts a new one."""

from __future__ import annotations

from nvdra_cluster.control.event_correlator import LIMIT, REPEAT_S, EventCorrelator
from nvdra_cluster.decide.domain import events
from nvdra_cluster.decide.writes import FABRIC_NODES, Create, Merge
from tests.unit.decide.views import NOW, a_domain


def an_event(uid: str = "u1", reason: str = "NodeLost", message: str = "tray-a") -> Create:
    return events.warning(a_domain(uid), reason, message, NOW)


def record(book: EventCorrelator, write: Create, now_s: float = 0.0) -> None:
    book.record(write, write.body, now_s)


def test_repeated_event_keeps_name_and_takes_last_message():
    book, first = EventCorrelator(), an_event()
    assert book.correlate(first, 0.0) is first
    record(book, first)
    again = book.correlate(an_event(message="tray-b"), REPEAT_S - 1)
    assert isinstance(again, Merge)
    assert again.key == first.key
    assert (again.patch["count"], again.patch["message"]) == (2, "tray-b")


def test_another_one_is_made():
    book = EventCorrelator()
    record(book, an_event())
    for other in (an_event("u2"), an_event(reason="NodeGone")):
        assert book.correlate(other, 1.0) is other


def test_event_is_created_again_after_the_interval():
    book, again = EventCorrelator(), an_event(message="later")
    record(book, an_event())
    assert book.correlate(again, REPEAT_S) is again


def test_missing_event_is_created_again():
    book, again = EventCorrelator(), an_event(message="later")
    record(book, an_event())
    book.record(again, None, 1.0)
    assert book.correlate(again, 2.0) is again


def test_not_more_than_some_thousands_are_remembered():
    book = EventCorrelator()
    for number in range(LIMIT + 1):
        record(book, an_event(f"u{number}"))
    assert isinstance(book.correlate(an_event("u0"), 1.0), Create)
    assert isinstance(book.correlate(an_event("u1"), 1.0), Merge)


def test_other_writes_pass():
    book, write = EventCorrelator(), Create(FABRIC_NODES, {"metadata": {"name": "a"}})
    book.record(write, write.body, 0.0)
    assert book.correlate(write, 0.0) is write
