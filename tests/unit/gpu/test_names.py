"""Canonical names and MIG profile texts: the rules of upstream's names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_node.gpu import names


@pytest.mark.parametrize(
    ("profile", "label"),
    [
        ("1g.5gb", "1g5gb"),
        ("1g.5gb+me", "1g5gb-me"),
        ("1g.24gb+me.all", "1g24gb-meall"),
        ("1g.24gb-me", "1g24gb-me"),
        ("2g.48gb+GFX", "2g48gb-gfx"),
    ],
)
def test_mig_name_carries_the_profile_without_dots(profile: str, label: str) -> None:
    assert names.mig_name(3, profile, 19, 4) == f"gpu-3-mig-{label}-19-4"


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 15))
def test_mig_name_parses_back(minor: int, profile_id: int, start: int) -> None:
    name = names.mig_name(minor, "1g.5gb-me", profile_id, start)
    assert names.parse(name) == names.MigName(
        parent_minor=minor, label="1g5gb-me", profile_id=profile_id, start=start
    )


def test_full_and_vfio_names_parse_back() -> None:
    assert names.parse(names.gpu_name(7)) == names.GpuName(minor=7)
    assert names.parse(names.vfio_name(2)) == names.VfioName(position=2)


@pytest.mark.parametrize(
    "text", ["", "gpu", "gpu-", "gpu-x", "gpu-1-mig-1g5gb", "gpu-1\n", "cpu-1"]
)
def test_foreign_device_name_is_not_parsed(text: str) -> None:
    assert names.parse(text) is None


@pytest.mark.parametrize(
    ("enumerator", "memory_mb", "total_mib", "text"),
    [
        (0, 4864, 40536, "1g.5gb"),
        (7, 4864, 40536, "1g.5gb+me"),
        (4, 40192, 40536, "7g.40gb"),
        (0, 9856, 81920, "1g.10gb"),
        (9, 19968, 81920, "1g.20gb"),
        (3, 40448, 81920, "4g.40gb"),
        (13, 23552, 189471, "1g.23gb-me"),
        (17, 70000, 189471, "3g.70gb+gfx"),
    ],
)
def test_profile_text_is_the_share_of_memory_in_eighths(
    enumerator: int, memory_mb: int, total_mib: int, text: str
) -> None:
    profile = names.mig_profile(enumerator, memory_mb, total_mib * 2**20)
    assert str(profile) == text
    assert names.parse_profile(text) == profile


def test_unknown_profile_enumerator_is_not_fatal() -> None:
    assert names.mig_profile(99, 4864, 2**35) is None


@pytest.mark.parametrize("text", ["", "1g", "1g5gb", "0g.5gb", "1g.5gb+xx", "1c.1g.5gb"])
def test_other_profile_texts_are_refused(text: str) -> None:
    assert names.parse_profile(text) is None
