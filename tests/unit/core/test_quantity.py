"""Quantities: Kubernetes' grammar, exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core import quantity
from nvdra_core.errors import MalformedTextError

SUFFIXES: dict[str, int | Fraction] = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "m": Fraction(1, 10**3), "u": Fraction(1, 10**6), "n": Fraction(1, 10**9),
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0), ("1", 1), ("+1", 1), ("-1", -1), ("10Gi", 10 * 2**30), ("1G", 10**9),
        ("1.5Gi", 3 * 2**29), (".5Ki", 512), ("5.Ki", 5120), ("1e3", 1000), ("1E3", 1000),
        ("1E", 10**18), ("12e-1", 2), ("1500m", 2), ("100n", 1), ("0100", 100), ("1e+2", 100),
    ],
)  # fmt: skip
def test_quantities_parse_as_in_kubernetes(text, bytes_):
    assert quantity.parse(text).ceil() == bytes_


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1 ", " 1", "Gi", "1gi", "1GI", "1K", "1kb", "1Gib", "--1", "1.2.3", "1e", "e3",
        "1e1.5", ".", "+", "0x10", "1_000", "\u0661", "1e99999999999", "1" * 65, "NaN", "inf", "1Zi", "1\n",
    ],
)  # fmt: skip
def test_malformed_quantity_is_refused(text):
    with pytest.raises(MalformedTextError):
        quantity.parse(text)


@given(
    st.integers(0, 10**12),
    st.text("0123456789", max_size=9),
    st.sampled_from(sorted(SUFFIXES)),
    st.sampled_from(["", "-", "+"]),
)
def test_values_are_exact_down_to_nano(whole, part, suffix, sign):
    exact = Fraction(f"{whole}.{part or 0}") * SUFFIXES[suffix] * (-1 if sign == "-" else 1)
    nano = quantity.parse(f"{sign}{whole}.{part}{suffix}").nano
    assert abs(nano) >= abs(exact * 10**9) > abs(nano) - 1


@given(st.text())
def test_any_text_is_a_quantity_or_malformed(text):
    try:
        quantity.parse(text)
    except MalformedTextError as error:
        assert str(error).isascii()


def test_quantities_compare_by_value():
    assert quantity.parse("1Gi") == quantity.parse("1024Mi")
    assert quantity.parse("1G") < quantity.parse("1Gi") < quantity.parse("1.1Gi")
    assert quantity.parse("1001m").floor() == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (1, "1"), (1000, "1000"), (1024, "1Ki"), (1536, "1536"), (3 * 2**29, "1536Mi"),
        (80 * 2**30, "80Gi"), (81559 * 2**20, "81559Mi"), (2**60, "1Ei"), (2**70, "1024Ei"), (-2048, "-2Ki"),
    ],
)  # fmt: skip
def test_bytes_are_written_in_canonical_binary_form(count, text):
    assert quantity.format_bytes(count) == text


@given(st.integers())
def test_written_bytes_read_back(count):
    text = quantity.format_bytes(count)
    if len(text) <= 64:
        assert quantity.parse(text).ceil() == count


@given(st.integers(-(10**30), 10**30))
def test_canonical_text_reads_back_to_the_same_value(nano):
    value = quantity.Quantity(nano)
    assert quantity.parse(str(value)) == value
