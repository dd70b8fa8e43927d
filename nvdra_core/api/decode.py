"""Decodes opaque configs and records into API types; shared by the node, the controller and the webhook.

Strict for user input: unknown fields and a missing apiVersion or kind are refused with path, value and remedy. Lenient
for our own records: fields of later releases are dropped. Any JSON gives a value or an InvalidConfigError (fuzzed).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar, Union

import msgspec
from msgspec import inspect

from nvdra_core.api.compute_domain import ComputeDomainChannelConfig, ComputeDomainDaemonConfig
from nvdra_core.api.device_configs import GpuConfig, MigDeviceConfig, VfioDeviceConfig
from nvdra_core.api.meta import API_VERSION, COMPUTE_DOMAIN_DRIVER, GPU_DRIVER, ApiStruct
from nvdra_core.errors import InvalidConfigError
from nvdra_core.openstruct import quote

Config = Union[  # noqa: UP007 - an alias is evaluated, also on Python 3.10
    GpuConfig,
    MigDeviceConfig,
    VfioDeviceConfig,
    ComputeDomainChannelConfig,
    ComputeDomainDaemonConfig,
]
"""Every type that may stand in ``opaque.parameters``."""

CONFIGS_OF_DRIVER: Mapping[str, tuple[type[Config], ...]] = {
    GPU_DRIVER: (GpuConfig, MigDeviceConfig, VfioDeviceConfig),
    COMPUTE_DOMAIN_DRIVER: (ComputeDomainChannelConfig, ComputeDomainDaemonConfig),
}
"""Which configs a driver acts on; a config of the other driver is the user's mistake."""

_KINDS: Mapping[str, type[Config]] = {
    cls.__name__: cls for classes in CONFIGS_OF_DRIVER.values() for cls in classes
}
_SCALARS: Mapping[type[inspect.Type], tuple[type, str]] = {
    inspect.StrType: (str, "a text"),
    inspect.IntType: (int, "a whole number"),
    inspect.BoolType: (bool, "true or false"),
    inspect.FloatType: (float, "a number"),
}

StructT = TypeVar("StructT", bound=ApiStruct)


def decode_strict(parameters: Mapping[str, Any], *, where: str) -> Config:
    """Read an opaque config as a user wrote it. ``where`` starts the message. Raises
    InvalidConfigError.
    """
    reader = _Reader(where, strict=True)
    return reader.read_config(parameters)


def decode_lenient(parameters: Mapping[str, Any], *, where: str) -> Config:
    """Read a config that we stored, maybe by another release: unknown fields are dropped.

    Raises InvalidConfigError when it makes no sense at all.
    """
    return _Reader(where, strict=False).read_config(parameters)


def decode_part(value: Any, cls: type[StructT], *, where: str, strict: bool) -> StructT:
    """Read one part of a ComputeDomain or ComputeDomainClique (``ComputeDomainSpec``, ...).

    The webhook reads strictly, the controller leniently. Raises InvalidConfigError.
    """
    return _Reader(where, strict=strict).read(value, cls)


def encode(config: Config) -> dict[str, Any]:
    """The config as a JSON object that both decoders read back to an equal one."""
    return {"apiVersion": API_VERSION, **msgspec.to_builtins(config)}


def canonical_key(config: Config) -> str:
    """One text for equal configs, to compare and to store. Normalize first: it fills in
    defaults.
    """
    return json.dumps(msgspec.to_builtins(config), sort_keys=True, separators=(",", ":"))


@cache
def _describe(cls: type[ApiStruct]) -> inspect.StructType:
    described = inspect.type_info(cls)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{cls.__name__} is no Struct")
    return described


class _Reader:
    """One decoding: walks the value along the type, so that the first mistake is named with its
    exact path.
    """

    def __init__(self, where: str, *, strict: bool) -> None:
        self._where = where
        self._strict = strict

    def read_config(self, parameters: Any) -> Config:
        """Read an object that says its own kind."""
        if not isinstance(parameters, Mapping):
            self._refuse("$", f"expected an object, got {self._show(parameters)}")
        if self._strict and parameters.get("apiVersion") != API_VERSION:
            self._refuse_meta(parameters, "apiVersion", API_VERSION)
        kind = parameters.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            self._refuse_meta(parameters, "kind", " or ".join(_KINDS))
        body = {key: parameters[key] for key in parameters if key not in ("apiVersion", "kind")}
        config: Config = self.read(body, _KINDS[kind])
        return config

    def read(self, value: Any, cls: type[StructT]) -> StructT:
        """Check ``value`` against ``cls`` and build it."""
        self._require_json(value)
        described = _describe(cls)
        self._check(value, described, "$")
        if described.tag is not None:
            value = {**value, "kind": described.tag}
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise InvalidConfigError(f"{self._where}: {error}") from error

    def _refuse(self, path: str, problem: str) -> NoReturn:
        raise InvalidConfigError(f"{self._where}: {path}: {problem}")

    def _refuse_meta(self, parameters: Mapping[str, Any], name: str, wanted: str) -> NoReturn:
        if name in parameters:
            self._refuse(f"$.{name}", f"{self._show(parameters[name])} is not known; use {wanted}")
        self._refuse(f"$.{name}", f"missing; add {name}: {wanted}")

    def _show(self, value: Any) -> str:
        self._require_json(value)
        return quote(value)

    def _require_json(self, value: Any) -> None:
        """Refuse lone surrogates, which msgspec, gRPC and logs cannot encode as UTF-8."""
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidConfigError(
                f"{self._where}: $: is not a JSON object that can be written as UTF-8; "
                f"it may have odd characters or deep nesting ({type(error).__name__})"
            ) from error

    def _check(self, value: Any, kind: inspect.Type, path: str) -> None:
        if isinstance(kind, inspect.UnionType):
            self._check_union(value, kind, path)
        elif isinstance(kind, inspect.StructType):
            self._check_struct(value, kind, path)
        elif isinstance(kind, inspect.DictType):
            for key, item in self._expect(value, dict, "an object", path).items():
                self._check(item, kind.value_type, f"{path}[{quote(key)}]")
        elif isinstance(kind, inspect.VarTupleType):
            for index, item in enumerate(self._expect(value, list, "a list", path)):
                self._check(item, kind.item_type, f"{path}[{index}]")
        elif isinstance(kind, inspect.EnumType):
            self._check_enum(value, kind, path)
        else:
            self._expect(value, *_SCALARS[type(kind)], path)

    def _check_union(self, value: Any, kind: inspect.UnionType, path: str) -> None:
        if value is None and kind.includes_none:
            return
        arms = [arm for arm in kind.types if not isinstance(arm, inspect.NoneType)]
        if len(arms) == 1:
            self._check(value, arms[0], path)
        elif type(value) not in [_SCALARS[type(arm)][0] for arm in arms]:
            self._refuse(path, f"expected a quantity such as 512Mi or 10Gi, got {quote(value)}")

    def _check_struct(self, value: Any, kind: inspect.StructType, path: str) -> None:
        self._expect(value, dict, "an object", path)
        fields = {field.encode_name: field for field in kind.fields}
        for name in value:
            if self._strict and name not in fields:
                self._refuse_field(name, list(fields), path)
        for name, field in fields.items():
            if name in value:
                self._check(value[name], field.type, f"{path}.{name}")
            elif field.required:
                self._refuse(f"{path}.{name}", f"missing; {_hint(field.type)}")

    def _refuse_field(self, name: str, known: list[str], path: str) -> NoReturn:
        similar = [other for other in known if other.lower() == str(name).lower()]
        advice = f"write {similar[0]}" if similar else f"known are: {', '.join(known) or 'none'}"
        self._refuse(path, f"unknown field {quote(name)}; {advice}")

    def _check_enum(self, value: Any, kind: inspect.EnumType, path: str) -> None:
        if not isinstance(value, str) or value not in [member.value for member in kind.cls]:
            self._refuse(path, f"{quote(value)} is not known; {_hint(kind)}")

    def _expect(self, value: Any, wanted: type, what: str, path: str) -> Any:
        # Not isinstance: true is an int in Python, and 50.0 is not one in Go.
        if type(value) is not wanted:
            self._refuse(path, f"expected {what}, got {quote(value)}")
        return value


def _hint(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.EnumType):
        return "use " + " or ".join(member.value for member in kind.cls if member.value)
    return "it must be given"
