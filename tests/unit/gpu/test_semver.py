"""Versions: loose in, strict out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core.errors import MalformedTextError
from nvdra_node.gpu.kinds import semver


@pytest.mark.parametrize(
    ("loose", "strict"),
    [
        ("580.65.06", "580.65.6"), ("12.4", "12.4.0"), ("13", "13.0.0"), ("9.0", "9.0.0"),
        ("v1.2.3", "1.2.3"), ("570.00.00", "570.0.0"), ("1.2.3-rc.1+b7", "1.2.3-rc.1+b7"),
    ],
)  # fmt: skip
def test_loose_versions_become_strict(loose, strict):
    assert semver.normalize(loose) == strict


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1.2.3.4",
        "1..2",
        ".1",
        "1.",
        "1.2.3-",
        "1.2.3-01",
        "-1",
        "٣",
        "1 ",
        "1\n",
        "99999999999999999999.0.0",
        "1" * 65,
    ],
)
def test_invalid_version_is_malformed_text(text):
    with pytest.raises(MalformedTextError):
        semver.normalize(text)


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("1.2.3", True),
        ("1.2", False),
        ("01.2.3", False),
        ("1.2.3-0", True),
        ("1.2.3-01", False),
        ("v1.2.3", False),
    ],
)
def test_strict_is_what_semver_says(text, strict):
    assert semver.is_strict(text) is strict


@given(st.from_regex(r"\Av?[0-9]{1,6}(\.[0-9]{1,6}){0,2}\Z"))
def test_every_normalized_version_is_strict_and_stays(text):
    version = semver.normalize(text)
    assert semver.is_strict(version)
    assert semver.normalize(version) == version


@given(st.text())
def test_any_text_is_a_version_or_malformed(text):
    try:
        assert semver.is_strict(semver.normalize(text))
    except MalformedTextError as error:
        assert str(error).isascii()
