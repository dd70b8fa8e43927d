"""Precedence of opaque configs."""

from __future__ import annotations

import pytest

from nvdra_core.errors import InvalidConfigError
from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ClaimUID,
    ConfigSource,
    OpaqueConfig,
)
from nvdra_node.kubeletplugin.claims import config_choice

CLASS, CLAIM = ConfigSource.CLASS, ConfigSource.CLAIM


def chosen(*configs: tuple[ConfigSource, tuple[str, ...], str], request: str = "r") -> int | None:
    """Index of the config chosen for a GPU allocated to ``request``; entries are (source, requests, kind)."""
    entries = tuple(
        OpaqueConfig(source=source, requests=requests, parameters={"kind": kind}, index=index)
        for index, (source, requests, kind) in enumerate(configs)
    )
    result = AllocationResult(request=request, pool="n", device="gpu-0")
    claim = Claim(ref=ClaimRef("ns", "c", ClaimUID("u")), results=(result,), configs=entries)
    (config,) = config_choice.choose(claim, lambda config, _: config.parameters["kind"] == "Gpu")
    return None if config is None else config.index


def test_no_config_chooses_the_default() -> None:
    assert chosen() is None


def test_claim_beats_class_and_later_beats_earlier() -> None:
    assert chosen((CLASS, (), "Gpu"), (CLASS, (), "Gpu")) == 1
    assert chosen((CLASS, (), "Gpu"), (CLAIM, (), "Gpu"), (CLAIM, (), "Gpu")) == 2


def test_later_entry_wins_over_more_exact_one() -> None:
    assert chosen((CLAIM, ("r",), "Gpu"), (CLAIM, (), "Gpu")) == 1


def test_entry_for_other_requests_is_ignored() -> None:
    assert chosen((CLASS, ("r", "q"), "Gpu"), (CLAIM, ("q",), "Gpu")) == 0


@pytest.mark.parametrize("names", [("r",), ("r/sub",), (), ("q", "r")])
def test_entry_for_main_request_covers_subrequests(names: tuple[str, ...]) -> None:
    assert chosen((CLAIM, names, "Gpu"), request="r/sub") == 0


@pytest.mark.parametrize("names", [("r/other",), ("sub",), ("rr",)])
def test_entry_for_other_subrequest_is_ignored(names: tuple[str, ...]) -> None:
    assert chosen((CLAIM, names, "Gpu"), request="r/sub") is None


def test_general_entry_of_another_kind_is_skipped() -> None:
    assert chosen((CLASS, (), "Gpu"), (CLAIM, (), "Mig")) == 0
    assert chosen((CLASS, ("r",), "Gpu"), (CLAIM, ("r",), "Mig"), request="r/sub") == 0


@pytest.mark.parametrize("request_name", ["r", "r/sub"])
def test_exact_entry_of_another_kind_is_refused(request_name: str) -> None:
    with pytest.raises(InvalidConfigError, match=rf"config 1 .*kind Mig.*{request_name}.*gpu-0"):
        chosen((CLASS, (), "Gpu"), (CLAIM, (request_name,), "Mig"), request=request_name)
