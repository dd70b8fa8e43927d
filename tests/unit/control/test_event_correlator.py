"""The same event again is counted for ten minutes; another reason, another object or a lost event begins anew."""

from __future__ import annotations

from nvdra_cluster.control.event_correlator import LIMIT, SAME_S, EventCorrelator
from nvdra_cluster.decide.domain import events
from nvdra_cluster.decide.writes import FABRIC_NODES, Create, Merge
from tests.unit.decide.views import NOW, a_domain


def an_event(uid: str = "u1", reason: str = "NodeLost", message: str = "tray-a") -> Create:
    return events.warn(a_domain(uid), reason, message, NOW)


def told(book: EventCorrelator, write: Create, now_s: float = 0.0) -> None:
    book.note(write, write.body, now_s)


def test_it_is_counted_under_its_first_name_with_the_last_message():
    book, first = EventCorrelator(), an_event()
    assert book.counted(first, 0.0) is first
    told(book, first)
    again = book.counted(an_event(message="tray-b"), SAME_S - 1)
    assert isinstance(again, Merge)
    assert again.key == first.key
    assert (again.patch["count"], again.patch["message"]) == (2, "tray-b")


def test_another_one_is_made():
    book = EventCorrelator()
    told(book, an_event())
    for other in (an_event("u2"), an_event(reason="NodeGone")):
        assert book.counted(other, 1.0) is other


def test_after_a_while_it_is_made_anew():
    book, again = EventCorrelator(), an_event(message="later")
    told(book, an_event())
    assert book.counted(again, SAME_S) is again


def test_one_that_is_gone_is_made_anew():
    book, again = EventCorrelator(), an_event(message="later")
    told(book, an_event())
    book.note(again, None, 1.0)
    assert book.counted(again, 2.0) is again


def test_not_more_than_some_thousands_are_remembered():
    book = EventCorrelator()
    for number in range(LIMIT + 1):
        told(book, an_event(f"u{number}"))
    assert isinstance(book.counted(an_event("u0"), 1.0), Create)
    assert isinstance(book.counted(an_event("u1"), 1.0), Merge)


def test_other_writes_pass():
    book, write = EventCorrelator(), Create(FABRIC_NODES, {"metadata": {"name": "a"}})
    book.note(write, write.body, 0.0)
    assert book.counted(write, 0.0) is write
