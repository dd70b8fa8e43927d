"""Which nodes of a clique are of another rack than the others."""

from __future__ import annotations

from nvdra_cluster.decide.node.racks import outsiders
from tests.unit.decide.views import a_fabric_node


def of(racks: dict[str, str], *names: str) -> frozenset[str]:
    """Outsiders of a clique with these nodes, the first of which was there first."""
    views = [a_fabric_node(name, created=f"2026-01-0{n}") for n, name in enumerate(names, 1)]
    return outsiders(views, racks)


def test_nodes_of_one_rack_have_no_outsider():
    assert of({"a": "r1", "b": "r1"}, "a", "b") == frozenset()


def test_node_of_other_rack_is_outsider_even_if_first():
    racks = {"x": "r2", "a": "r1", "b": "r1"}
    assert of(racks, "x", "a", "b") == {"x"}


def test_node_without_label_is_outsider():
    assert of({"a": "r1"}, "x", "a") == {"x"}
    assert of({}, "x") == {"x"}


def test_of_two_racks_with_as_many_nodes_older_counts():
    assert of({"a": "r1", "x": "r2"}, "a", "x") == {"x"}
