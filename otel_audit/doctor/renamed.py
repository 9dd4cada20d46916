"""Components of the Collector that have another name now, or are gone, and settings that are.

By the changelogs of the Collector and of its contrib repository, and the modules' own metadata up to 0.161.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_audit.doctor.findings import Finding
from otel_audit.doctor.pipelines import Component, Layout, found

__all__ = ["renamed"]


class _Change(NamedTuple):
    """What became of a component.

    Args:
        instead: What to write.
        since: The release; empty where it is not known here.
        removed: Whether the old name is an error now.
    """

    instead: str
    since: str
    removed: bool


_CHANGES: Final = {
    ("exporters", "otlp"): _Change("otlp_grpc", "0.144", removed=False),
    ("exporters", "otlphttp"): _Change("otlp_http", "0.144", removed=False),
    ("exporters", "loadbalancing"): _Change("load_balancing", "", removed=False),
    ("exporters", "logging"): _Change("debug", "0.111", removed=True),
    ("exporters", "loki"): _Change("otlp_http, to Loki's own OTLP endpoint", "0.131", removed=True),
    ("processors", "k8sattributes"): _Change("k8s_attributes", "", removed=False),
    ("processors", "resourcedetection"): _Change("resource_detection", "", removed=False),
    ("processors", "routing"): _Change("the connector routing", "0.133", removed=True),
    ("extensions", "memory_ballast"): _Change("the variable GOMEMLIMIT", "0.109", removed=True),
}
_REMOVED: Final = (
    (("sending_queue", "blocking"), "", "block_on_overflow", "0.129"),
    (("batcher",), "otlp", "sending_queue: {batch: {...}}", "0.130"),
)
"""Settings of exporters: path, the beginning of the types that had it, what to write instead, release without it."""


def renamed(layout: Layout) -> Iterator[Finding]:
    """Iterate over what has another name now, or none, whether audit records pass it or not."""
    for (kind, old), change in _CHANGES.items():
        section = layout.root.at(kind)
        for name, node in ({} if section is None else section.mapping).items():
            component = Component(kind, name, node)
            if component.type == old:
                yield _change(component, change)
    for component in layout.components("exporters"):
        yield from _settings(component)


def _change(component: Component, change: _Change) -> Finding:
    since = f" in {change.since}" if change.since else ""
    if change.removed:
        return found(
            "error",
            "component-removed",
            component.node,
            f"{component.type} was removed from the Collector{since}",
            "a Collector of today does not start, and the records stay with their producers",
            f"write {change.instead}",
        )
    return found(
        "note",
        "component-renamed",
        component.node,
        f"{component.type} was renamed{since}",
        "the old name is deprecated, and will go",
        f"write {change.instead}",
    )


def _settings(component: Component) -> Iterator[Finding]:
    for path, owner, instead, since in _REMOVED:
        node = component.node.at(*path)
        if node is not None and component.type.startswith(owner):
            yield found(
                "error",
                "setting-removed",
                node,
                f"{path[-1]} of {component.name} was removed in {since}",
                "a Collector of today does not start, and the records stay with their producers",
                f"write {instead}",
            )
