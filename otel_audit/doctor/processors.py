"""Where a Collector's receivers, processors and connectors expose, edit or drop audit records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from otel_audit.doctor.exporters import examine_queue
from otel_audit.doctor.findings import Finding
from otel_audit.doctor.pipelines import Component, Layout, Pipeline, found
from otel_audit.doctor.yaml_tree import Node
from otel_audit.otlp_settings import is_loopback

__all__ = ["examine_connectors", "examine_processors", "examine_receivers"]

_BATCH: Final = "batch"
_QUEUE_BATCH: Final = "queuebatch"
_LIMITER: Final = "memory_limiter"
_SIGNING: Final = "signing"
_EDITORS: Final = {
    "attributes": (),
    "groupbyattrs": (),
    "redaction": (),
    "transform": ("log_statements",),
}
"""Processors that edit records, and the settings of which one must be there for them to edit logs; none: always."""
_RESOURCE: Final = frozenset({"k8s_attributes", "k8sattributes", "resource", "resource_detection", "resourcedetection"})
"""Processors that edit the resource alone, which no producer's signature covers."""
_DROPPERS: Final = {
    "filter": ("logs", "log_conditions"),
    "log_dedup": (),
    "logdedup": (),
    "probabilistic_sampler": (),
}
"""Processors that drop records, likewise."""
_KNOWN: Final = frozenset(
    {_BATCH, _QUEUE_BATCH, _LIMITER, _SIGNING, "routing", *_EDITORS, *_RESOURCE, *_DROPPERS}
)  # fmt: skip


def examine_receivers(layout: Layout) -> Iterator[Finding]:
    """Iterate over what is wrong with the otlp receivers of audit records."""
    for receiver in layout.components("receivers"):
        if receiver.type != "otlp":
            continue
        protocols = receiver.node.at("protocols")
        for settings in () if protocols is None else protocols.mapping.values():
            endpoint = settings.at("endpoint")
            if endpoint is None or (endpoint.unknown and not _everywhere(endpoint.text)) or _local(endpoint.text):
                continue
            if settings.at("tls") is None:
                yield found(
                    "warning",
                    "receiver-clear",
                    endpoint,
                    f"{receiver.name} takes records in clear at {endpoint.text}",
                    "whoever is on the way reads them, and whoever reaches the port sends records of his own making",
                    "tls: {cert_file: ..., key_file: ..., client_ca_file: ...}",
                )
            elif settings.at("tls", "client_ca_file") is None and settings.at("auth") is None:
                yield found(
                    "note",
                    "receiver-anonymous",
                    endpoint,
                    f"{receiver.name} takes records from anybody who reaches {endpoint.text}",
                    "anybody can send records of his own making",
                    "tls: {client_ca_file: ...}, or auth",
                )


def _everywhere(endpoint: str) -> bool:
    return endpoint.startswith(("0.0.0.0:", "[::]:", ":"))


def _local(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
    return "/" in endpoint or (bool(host) and is_loopback(host))


def examine_processors(layout: Layout) -> Iterator[Finding]:
    """Iterate over what is wrong with the processors that audit records pass."""
    processors = {one.name: one for one in layout.components("processors")}
    seen = set[str]()
    for pipeline in layout.reached:
        chain = [processors[name] for name in pipeline.names("processors") if name in processors]
        yield from _limiters(pipeline, chain)
        for place, processor in enumerate(chain):
            if processor.name not in seen:
                seen.add(processor.name)
                yield from _processor(layout, processor, chain, place)


def _processor(layout: Layout, processor: Component, chain: list[Component], place: int) -> Iterator[Finding]:
    kind, node = processor.type, processor.node
    if kind == _BATCH:
        yield found(
            "error",
            "batch-processor",
            node,
            f"the processor {processor.name} holds records in memory",
            "it acknowledges them: they are lost when the Collector dies, and when the exporters refuse them",
            "take it out of the pipeline, and write sending_queue: {batch: {}} at the exporter",
        )
    elif kind == _QUEUE_BATCH:
        wait = node.at("wait_for_result")
        if wait is None or wait.value is not True:
            yield from examine_queue(layout, processor, (), blocks=True)
    elif kind in _DROPPERS and _applies(node, _DROPPERS[kind]) and not _keeps_all(processor):
        yield found(
            "error",
            "processor-drops",
            node,
            f"the processor {processor.name} drops records",
            "they are acknowledged as if they had arrived: nobody sends them again",
            "take it out of the pipeline of audit records",
        )
    elif kind in _EDITORS and _applies(node, _EDITORS[kind]):
        yield _edits(processor, chain, place)
    elif kind in _RESOURCE:
        yield found(
            "note",
            "processor-resource",
            node,
            f"the processor {processor.name} edits the resource",
            "signatures do not cover it; who compares the backend with the archive sees the difference",
            "",
        )
    elif kind not in _KNOWN:
        yield found(
            "note",
            "processor-unknown",
            node,
            f"the processor {processor.name} is not known here",
            "whether it holds, edits or drops records was not examined",
            "",
        )


def _applies(node: Node, settings: tuple[str, ...]) -> bool:
    return not settings or node.unknown or any(node.at(name) is not None for name in settings)


def _keeps_all(processor: Component) -> bool:
    """Tell whether a sampler takes everything."""
    share = processor.node.at("sampling_percentage")
    try:
        return processor.type == "probabilistic_sampler" and share is not None and float(share.text) >= 100
    except ValueError:
        return False


def _edits(processor: Component, chain: list[Component], place: int) -> Finding:
    signing = [number for number, one in enumerate(chain) if one.type == _SIGNING]
    if signing and place < min(signing):
        return found(
            "note",
            "edits-before-signing",
            processor.node,
            f"the processor {processor.name} edits records before they are signed",
            "what is signed is not what was recorded, and signatures of producers are broken",
            "let producers do it: privacy and further fields belong there",
        )
    return found(
        "warning",
        "edits-after-signing",
        processor.node,
        f"the processor {processor.name} edits records",
        "signatures that they have, of producers or of a processor before, do not hold any more",
        "let producers do it; where the backend needs it, check signatures before, or in the archive",
    )


def _limiters(pipeline: Pipeline, chain: list[Component]) -> Iterator[Finding]:
    for place, processor in enumerate(chain):
        if processor.type != _LIMITER:
            continue
        holder = next((one for one in chain[:place] if one.type in {_BATCH, _QUEUE_BATCH}), None)
        if holder is not None:
            yield found(
                "error",
                "limiter-after-batch",
                processor.node,
                f"{processor.name} stands behind {holder.name} in {pipeline.name}",
                f"{holder.name} has acknowledged what is refused here, and drops it",
                "write memory_limiter as the first processor",
            )
        else:
            yield found(
                "note",
                "limiter-refuses",
                processor.node,
                f"{processor.name} refuses records while memory is short",
                "otel_audit sends them again; producers that do not, lose them",
                "",
            )


def examine_connectors(layout: Layout) -> Iterator[Finding]:
    """Iterate over what is wrong with the connectors that audit records pass."""
    for connector in layout.components("connectors"):
        if connector.type == "routing" and not connector.node.unknown:
            rest = connector.node.at("default_pipelines")
            if rest is None or not (rest.items or rest.unknown):
                yield found(
                    "error",
                    "routing-drops",
                    connector.node,
                    f"the connector {connector.name} has no default_pipelines",
                    "records that match no route are acknowledged and dropped",
                    "default_pipelines: [logs/...]",
                )
