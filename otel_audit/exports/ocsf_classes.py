"""The classes of OCSF 1.9 that records are exported as: what they are called, what they need, which activity a type is.

Source: the Open Cybersecurity Schema Framework, versions 1.8.0 and 1.9.0; what is used here is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from otel_audit import catalog

__all__ = ["BASE", "CLASSES", "OTHER", "OcsfClass"]

OTHER: Final = 99


@dataclass(frozen=True)
class OcsfClass:
    """A class of OCSF.

    Args:
        uid: Its id.
        name: Its caption.
        category: The caption of its category, whose id the thousands of `uid` are.
        activities: The captions of its activities, by id.
        types: The activities of event types.
        actions: The activities of actions, for all other types.
        common: Whether it has the attributes ``actor``, ``src_endpoint`` and ``http_request``.
    """

    uid: int
    name: str
    category: str
    activities: Mapping[int, str] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)
    actions: Mapping[str, int] = field(default_factory=dict)
    common: bool = True

    def activity(self, type: str, action: str) -> tuple[int, str]:
        """Return the id and the caption of the activity; `OTHER` has the type for its caption."""
        number = self.types.get(type) or self.actions.get(action) or OTHER
        return number, self.activities.get(number, type)


BASE: Final = OcsfClass(0, "Base Event", "Uncategorized", common=False)

_IAM: Final = "Identity & Access Management"
_APPLICATION: Final = "Application Activity"

_ACCOUNT_CHANGE: Final = OcsfClass(
    catalog.ACCOUNT_CHANGE,
    "Account Change",
    _IAM,
    {
        1: "Create", 2: "Enable", 3: "Password Change", 4: "Password Reset", 5: "Disable", 6: "Delete", 9: "Lock",
        10: "MFA Factor Enable", 11: "MFA Factor Disable", 12: "Unlock",
    },
    {
        "user-deregistered-pending": OTHER, "user-enabled": 2, "user-disabled": 5, "user.password.changed": 3,
        "user.password.reset.requested": 4, "user.mfa.enabled": 10, "user.mfa.disabled": 11, "user.locked": 9,
        "user.unlocked": 12,
    },
    {"CREATE": 1, "DELETE": 6},
)  # fmt: skip
_AUTHENTICATION: Final = OcsfClass(
    catalog.AUTHENTICATION,
    "Authentication",
    _IAM,
    {1: "Logon", 2: "Logoff"},
    {},
    {"LOGIN": 1, "LOGOUT": 2},
)
_ENTITY_MANAGEMENT: Final = OcsfClass(
    catalog.ENTITY_MANAGEMENT,
    "Entity Management",
    _IAM,
    {1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
    {},
    {"CREATE": 1, "READ": 2, "UPDATE": 3, "WRITE": 3, "DELETE": 4},
)
_USER_ACCESS: Final = OcsfClass(
    catalog.USER_ACCESS,
    "User Access Management",
    _IAM,
    {1: "Assign Privileges", 2: "Revoke Privileges"},
    {"role.assigned": 1, "role.removed": 2, "permission.granted": 1, "permission.revoked": 2},
    {"CREATE": 1, "DELETE": 2},
)
_API_ACTIVITY: Final = OcsfClass(
    catalog.API_ACTIVITY,
    "API Activity",
    _APPLICATION,
    {1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
    {},
    {"CREATE": 1, "READ": 2, "UPDATE": 3, "WRITE": 3, "DELETE": 4},
)
_DATASTORE_ACTIVITY: Final = OcsfClass(
    catalog.DATASTORE_ACTIVITY,
    "Datastore Activity",
    _APPLICATION,
    {1: "Read", 2: "Update", 5: "Write", 6: "Create", 7: "Delete"},
    {},
    {"READ": 1, "EXPORT": 1, "UPDATE": 2, "WRITE": 5, "IMPORT": 5, "CREATE": 6, "DELETE": 7},
)
_APPLICATION_LIFECYCLE: Final = OcsfClass(
    catalog.APPLICATION_LIFECYCLE,
    "Application Lifecycle",
    _APPLICATION,
    {3: "Start", 4: "Stop"},
    {"server-started": 3, "server-stopped": 4, "server-crashed": 4},
    common=False,
)

CLASSES: Final[Mapping[int, OcsfClass]] = {
    known.uid: known
    for known in (
        _ACCOUNT_CHANGE,
        _AUTHENTICATION,
        _ENTITY_MANAGEMENT,
        _USER_ACCESS,
        _API_ACTIVITY,
        _DATASTORE_ACTIVITY,
        _APPLICATION_LIFECYCLE,
    )
}
"""By id. Records of other classes are exported as `BASE`: what those need is not known here."""
