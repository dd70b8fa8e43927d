from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_READY: _ClassVar[Outcome]
    OUTCOME_WAIT: _ClassVar[Outcome]
    OUTCOME_REFUSED: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_READY: Outcome
OUTCOME_WAIT: Outcome
OUTCOME_REFUSED: Outcome

class Claim(_message.Message):
    __slots__ = ("namespace", "name", "uid")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("claim", "domain_uid", "wait_ms")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_UID_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    claim: Claim
    domain_uid: str
    wait_ms: int
    def __init__(self, claim: _Optional[_Union[Claim, _Mapping]] = ..., domain_uid: _Optional[str] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("outcome", "reason", "message", "has_fabric", "channel", "channel_count", "isolation")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HAS_FABRIC_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    reason: str
    message: str
    has_fabric: bool
    channel: int
    channel_count: int
    isolation: str
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., has_fabric: _Optional[bool] = ..., channel: _Optional[int] = ..., channel_count: _Optional[int] = ..., isolation: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("claim_uid",)
    CLAIM_UID_FIELD_NUMBER: _ClassVar[int]
    claim_uid: str
    def __init__(self, claim_uid: _Optional[str] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Held(_message.Message):
    __slots__ = ("claim", "domain_uid", "prepared")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_UID_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    claim: Claim
    domain_uid: str
    prepared: bool
    def __init__(self, claim: _Optional[_Union[Claim, _Mapping]] = ..., domain_uid: _Optional[str] = ..., prepared: _Optional[bool] = ...) -> None: ...

class SyncRequest(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DomainState(_message.Message):
    __slots__ = ("uid", "isolation", "ready", "reason", "message")
    UID_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    uid: str
    isolation: str
    ready: bool
    reason: str
    message: str
    def __init__(self, uid: _Optional[str] = ..., isolation: _Optional[str] = ..., ready: _Optional[bool] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("fabric_state", "fabric_message", "cluster_uuid", "clique_id", "channel_count", "imex_state", "domains")
    FABRIC_STATE_FIELD_NUMBER: _ClassVar[int]
    FABRIC_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_UUID_FIELD_NUMBER: _ClassVar[int]
    CLIQUE_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    IMEX_STATE_FIELD_NUMBER: _ClassVar[int]
    DOMAINS_FIELD_NUMBER: _ClassVar[int]
    fabric_state: str
    fabric_message: str
    cluster_uuid: str
    clique_id: str
    channel_count: int
    imex_state: str
    domains: _containers.RepeatedCompositeFieldContainer[DomainState]
    def __init__(self, fabric_state: _Optional[str] = ..., fabric_message: _Optional[str] = ..., cluster_uuid: _Optional[str] = ..., clique_id: _Optional[str] = ..., channel_count: _Optional[int] = ..., imex_state: _Optional[str] = ..., domains: _Optional[_Iterable[_Union[DomainState, _Mapping]]] = ...) -> None: ...
