"""The definition of a cluster: what is refused, and that it survives its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.beds.cluster import layout as layouts
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.errors import ClusterError
from tests.beds.cluster.layout import Layout


def a_layout(name: str = "t", nodes: tuple[str, ...] = ("node-1",)) -> Layout:
    return Layout(name=name, kubernetes="1.36", nodes=nodes)


@pytest.mark.parametrize("name", ["", "a.b", "../x", "UP", "a" * 21, "-a"])
def test_cluster_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="bad cluster name"):
        a_layout(name)


@pytest.mark.parametrize("nodes", [tuple(f"n{i}" for i in range(19)), ("a", "a"), ("a/b",)])
def test_number_and_names_of_nodes_are_checked(nodes: tuple[str, ...]) -> None:
    with pytest.raises(ClusterError):
        a_layout(nodes=nodes)


def test_unknown_kubernetes_version_error_lists_known_ones() -> None:
    with pytest.raises(ClusterError, match=r"1\.34, 1\.35, 1\.36"):
        Layout(name="t", kubernetes="1.30", nodes=("a",))


def test_definition_is_read_back_as_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVDRA_CLUSTERS", str(tmp_path))
    layout = Layout(
        name="t",
        kubernetes="1.35",
        nodes=("a", "b"),
        systemd_nodes=("b",),
        feature_gates={"DRADeviceTaints": True},
        binds=(("/opt/x", "/opt/y"),),
    )
    layout.save()
    assert layouts.load("t") == layout
    assert layouts.names() == ["t"]


def test_each_node_has_an_address_and_a_pod_network_of_its_own() -> None:
    layout = a_layout(nodes=tuple(f"n{i}" for i in range(18)))
    assert len({layout.address(node) for node in layout.nodes}) == 18
    assert len({layout.pod_cidr(node) for node in layout.nodes}) == 18


def test_unbuilt_program_error_names_the_build_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVDRA_CACHE", str(tmp_path))
    with pytest.raises(
        ClusterError, match=r"kubelet is not built; run: python -m tests\.beds\.cluster"
    ):
        programs.find("kubelet")


def test_build_is_kept_under_all_that_decides_its_content() -> None:
    homes = {programs.kubernetes(minor).home() for minor in programs.KUBERNETES}
    assert len(homes) == len(programs.KUBERNETES)
