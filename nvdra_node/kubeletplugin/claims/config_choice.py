"""Which opaque config counts for which allocated device. Pure. Called by the ``plan`` of every driver.

Precedence: the driver's defaults < device class < claim, and within one source the later entry wins. An entry is for a
result when it names no request, the result's request, or its main request (``req`` covers ``req/sub``). An entry whose
kind does not fit the device is an error when it names exactly that request, and is passed over when it is for several:
it may be meant for the others. What the parameters say is the driver's business: nothing here decodes them.
"""

from __future__ import annotations

from collections.abc import Callable

from nvdra_core.errors import InvalidConfigError
from nvdra_node.checkpoint.claim import AllocationResult, Claim, OpaqueConfig

KindMatches = Callable[[OpaqueConfig, AllocationResult], bool]
"""Whether a config is of the kind that the result's device takes. Called for entries that count only."""


def choose(claim: Claim, kind_matches: KindMatches) -> tuple[OpaqueConfig | None, ...]:
    """For each of ``claim.results``, in order, its config; None: the driver's default.

    Raises InvalidConfigError naming request, device and entry.
    """
    return tuple(_choose(claim, result, kind_matches) for result in claim.results)


def _choose(
    claim: Claim, result: AllocationResult, kind_matches: KindMatches
) -> OpaqueConfig | None:
    for config in reversed(claim.configs):
        is_exact = result.request in config.requests
        is_for_several = not config.requests or result.main_request in config.requests
        if not is_exact and not is_for_several:
            continue
        if kind_matches(config, result):
            return config
        if is_exact:
            kind = config.parameters.get("kind")
            raise InvalidConfigError(
                f"config {config.index} ({config.source.value}, kind {kind}) names request"
                f" {result.request}, whose device {result.device} takes another kind of config"
            )
    return None
