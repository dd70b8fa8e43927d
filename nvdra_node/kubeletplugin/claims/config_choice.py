"""Which opaque config applies to which allocated device, and the configuration key that records keep. Pure.

Called by the ``plan`` of every driver. Precedence: driver defaults < device class < claim; within one source the later
entry wins. An entry applies to a result when it names no request, the result's request, or its main request (``req``
covers ``req/sub``). An entry of another kind than the device takes is an error when it names exactly that request, and
is skipped when it names several: it may be meant for the others. Parameters are decoded by the driver, not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from nvdra_core.errors import InvalidConfigError
from nvdra_node.checkpoint.claim import AllocationResult, Claim, OpaqueConfig

KindMatches = Callable[[OpaqueConfig, AllocationResult], bool]
"""Whether a config is of the kind that the result's device takes. Called only for entries that apply."""


def choose(claim: Claim, kind_matches: KindMatches) -> tuple[OpaqueConfig | None, ...]:
    """The config of each of ``claim.results``, in order; None: the driver's default.

    Raises InvalidConfigError naming request, device and entry.
    """
    return tuple(_choose(claim, result, kind_matches) for result in claim.results)


def join_keys(keys: Mapping[str, str]) -> str:
    """``Record.config_key`` of a claim: the key itself if all devices have the same, else JSON of device -> key.

    The empty key is the default configuration. Records of earlier releases always have a single key.
    """
    different = set(keys.values())
    if len(different) > 1:
        return json.dumps(keys, sort_keys=True)
    return different.pop() if different else ""


def device_key(text: str, device: str) -> str:
    """The key of one device in what ``join_keys`` made."""
    if not text.startswith("{"):
        return text
    try:
        keys = json.loads(text)
    except ValueError:
        return text
    key = keys.get(device)
    # A single key is a JSON object as well, of apiVersion, kind and settings.
    return key if isinstance(key, str) else text


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
