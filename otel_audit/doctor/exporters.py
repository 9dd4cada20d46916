"""Where a Collector's exporters lose what the Collector has acknowledged.

A queue answers for the destination: from then on nobody else has the records. Without one, or with `wait_for_result`,
each producer waits for the destination itself, and keeps what did not arrive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from otel_audit.doctor.findings import Finding
from otel_audit.doctor.pipelines import Component, Layout, found
from otel_audit.doctor.yaml_tree import Node
from otel_audit.otlp_settings import is_loopback

__all__ = ["examine_exporters", "examine_queue"]

_KEEP_NOTHING: Final = frozenset({"debug", "logging", "nop"})
_NO_QUEUE: Final = frozenset({"file"})
"""Exporters that have no queue at all."""
_QUEUE_IF_GIVEN: Final = frozenset({"awss3", "load_balancing", "loadbalancing"})
"""Exporters that have one only where the setting stands there; all others have one by default."""
_OWN_RETRIES: Final = frozenset({"elasticsearch"})
_BALANCERS: Final = frozenset({"load_balancing", "loadbalancing"})
_ZERO: Final = re.compile(r"\+?0+(\.0*)?(ns|us|µs|ms|s|m|h)?")
_ENOUGH: Final = 1_000
"""Retries that outlast any outage, at up to a minute each."""
_OUTAGE: Final = ("429", "502", "503", "504")
_VOLATILE: Final = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/", "/var/run/")  # noqa: S108 - named to warn of them


def examine_exporters(layout: Layout) -> Iterator[Finding]:
    """Iterate over what is wrong with the exporters that audit records reach."""
    exporters = layout.components("exporters")
    if exporters and all(exporter.type in _KEEP_NOTHING for exporter in exporters):
        yield found(
            "warning",
            "nothing-kept",
            exporters[0].node,
            f"audit records go to {' and '.join(exporter.name for exporter in exporters)} alone",
            "they are acknowledged, and kept nowhere but in the producers' archives",
            "add an exporter to something that keeps them",
        )
    for exporter in exporters:
        if exporter.node.unknown:
            yield _unknown(exporter.node, f"the settings of {exporter.name}")
        elif exporter.type in _KEEP_NOTHING:
            yield from _debug(exporter)
        else:
            yield from _exporter(layout, exporter)


def _exporter(layout: Layout, exporter: Component) -> Iterator[Finding]:
    yield from _transport(exporter)
    if exporter.type == "kafka":
        yield from _kafka(exporter)
    if exporter.type in _NO_QUEUE:
        yield from _file(exporter)
        return
    if exporter.type in _BALANCERS:
        yield from _balancer(exporter)
    if exporter.type in _QUEUE_IF_GIVEN and exporter.node.at("sending_queue") is None:
        yield _without_queue(exporter, exporter.node)
    else:
        yield from _queued(layout, exporter)


def _balancer(exporter: Component) -> Iterator[Finding]:
    inner = ("protocol", "otlp", "sending_queue")
    if not _is(exporter.node.at(*inner, "enabled"), value=False):
        yield found(
            "error",
            "queue-memory",
            exporter.node.nearest(*inner),
            f"{exporter.name} has a queue in memory for each of its destinations",
            "what they hold was acknowledged, and is lost when the Collector dies; on disk they would share one store",
            f"{_written(inner, 'enabled: false')}, and a sending_queue with storage beside protocol",
        )


def _queued(layout: Layout, exporter: Component) -> Iterator[Finding]:
    queue = exporter.node.nearest("sending_queue")
    if _is(exporter.node.at("sending_queue", "enabled"), value=False):
        yield _without_queue(exporter, queue)
        return
    if _is(exporter.node.at("sending_queue", "wait_for_result"), value=True):
        yield _without_queue(exporter, queue.nearest("wait_for_result"))
        return
    # The exporter with retries of its own is also the one whose queue waits by default.
    yield from examine_queue(layout, exporter, ("sending_queue",), blocks=exporter.type in _OWN_RETRIES)
    yield from _own_retries(exporter) if exporter.type in _OWN_RETRIES else _retries(exporter)


def examine_queue(layout: Layout, owner: Component, path: tuple[str, ...], *, blocks: bool) -> Iterator[Finding]:
    """Iterate over what is wrong with a queue.

    Args:
        layout: The configuration.
        owner: The component that has it.
        path: Where its settings are among those of the component.
        blocks: Whether it waits for room by default.
    """
    queue = owner.node.nearest(*path)
    if queue.unknown:
        yield _unknown(queue, f"the queue of {owner.name}")
        return
    storage = owner.node.at(*path, "storage")
    if storage is None or storage.value is None:
        size = owner.node.at(*path, "queue_size")
        yield found(
            "error",
            "queue-memory",
            queue if size is None else size,
            f"the queue of {owner.name} is in memory",
            "what it holds was acknowledged, and is lost when the Collector is killed, crashes or runs out of memory",
            f"{_written(path, 'storage: file_storage')}, and the extension file_storage with fsync: true",
        )
    elif storage.unknown:
        yield _unknown(storage, f"the storage of {owner.name}")
    else:
        yield from _storage(layout, owner, storage)
    overflow = owner.node.at(*path, "block_on_overflow")
    if overflow is not None and overflow.unknown:
        yield _unknown(overflow, f"block_on_overflow of {owner.name}")
    elif not _is(overflow, value=True) and not (blocks and overflow is None):
        yield found(
            "warning",
            "queue-refuses",
            queue if overflow is None else overflow,
            f"the queue of {owner.name} refuses what does not fit",
            "producers that do not try again lose it, and so does whatever stands before it in the pipeline and has"
            " answered already; with several exporters the others get it twice",
            "block_on_overflow: true",
        )


def _written(path: tuple[str, ...], setting: str) -> str:
    """Return a setting as it is written below some keys."""
    return f"{path[0]}: {{{_written(path[1:], setting)}}}" if path else setting


def _storage(layout: Layout, owner: Component, storage: Node) -> Iterator[Finding]:
    name = storage.text
    if not layout.defined("extensions", name) or not layout.started(name):
        missing = "extensions" if not layout.defined("extensions", name) else "service: {extensions: [...]}"
        yield found(
            "error",
            "storage-missing",
            storage,
            f"the storage {name!r} of {owner.name} is not in {missing}",
            "the Collector does not start",
            f"put {name} into {missing}",
        )
        return
    extension = layout.root.at("extensions", name)
    if extension is None or extension.unknown:
        yield _unknown(storage, f"the extension {name}")
    elif name.partition("/")[0] != "file_storage":
        yield found(
            "note",
            "storage-unknown",
            extension,
            f"the storage {name} is not known here",
            "whether it keeps what was acknowledged over a power cut was not examined",
            "",
        )
    else:
        yield from _file_storage(name, extension)


def _file_storage(name: str, extension: Node) -> Iterator[Finding]:
    fsync = extension.at("fsync")
    if fsync is not None and fsync.unknown:
        yield _unknown(fsync, f"fsync of {name}")
    elif not _is(fsync, value=True):
        yield found(
            "error",
            "storage-fsync",
            extension if fsync is None else fsync,
            f"{name} does not sync its files",
            "a power cut loses what was acknowledged last",
            "fsync: true",
        )
    directory = extension.at("directory")
    if directory is not None and f"{directory.text}/".startswith(_VOLATILE):
        yield found(
            "warning",
            "storage-volatile",
            directory,
            f"{name} keeps its files in {directory.text}",
            "what is there may be gone after a restart of the machine",
            "directory: /var/lib/otelcol",
        )
    recreate = extension.at("recreate")
    if recreate is not None and _is(recreate, value=True):
        yield found(
            "warning",
            "storage-recreate",
            recreate,
            f"{name} begins anew where a file of its is damaged",
            "what the file holds is set aside as *.backup, and nobody sends it",
            "recreate: false, and watch whether the Collector starts",
        )


def _retries(exporter: Component) -> Iterator[Finding]:
    retry = exporter.node.nearest("retry_on_failure")
    enabled, limit = (exporter.node.at("retry_on_failure", key) for key in ("enabled", "max_elapsed_time"))
    for node, name in ((exporter.node.at("retry_on_failure"), "retry_on_failure"), (limit, "max_elapsed_time")):
        if node is not None and node.unknown:
            yield _unknown(node, f"{name} of {exporter.name}")
            return
    if _is(enabled, value=False):
        yield found(
            "error",
            "retry-off",
            retry.nearest("enabled"),
            f"{exporter.name} does not try again",
            "what was acknowledged is dropped at the first error of the destination",
            "retry_on_failure: {enabled: true, max_elapsed_time: 0}",
        )
    elif limit is None or not _ZERO.fullmatch(limit.text):
        after = "5 minutes, the default" if limit is None or not limit.text else limit.text
        yield found(
            "error",
            "retry-gives-up",
            retry if limit is None else limit,
            f"{exporter.name} gives up after {after}",
            "an outage that lasts longer drops what was acknowledged",
            "retry_on_failure: {max_elapsed_time: 0}",
        )


def _own_retries(exporter: Component) -> Iterator[Finding]:
    retry = exporter.node.nearest("retry")
    if retry.unknown:
        yield _unknown(retry, f"retry of {exporter.name}")
        return
    times, codes = (exporter.node.at("retry", key) for key in ("max_retries", "retry_on_status"))
    if _is(exporter.node.at("retry", "enabled"), value=False):
        what, line = f"{exporter.name} does not try again", retry.nearest("enabled")
    elif times is None or (not times.unknown and not (times.text.isdecimal() and int(times.text[:9]) >= _ENOUGH)):
        after = "2 tries, the default" if times is None else f"{times.text} tries"
        what, line = f"{exporter.name} gives up after {after}", retry if times is None else times
    elif codes is None or not (codes.unknown or {item.text for item in codes.items}.issuperset(_OUTAGE)):
        what = f"{exporter.name} does not try again after each of HTTP {', '.join(_OUTAGE)}"
        line = retry if codes is None else codes
    else:
        return
    yield found(
        "error",
        "retry-gives-up",
        line,
        what,
        "an outage of the destination drops what was acknowledged",
        f"retry: {{max_retries: 1000000, retry_on_status: [{', '.join(_OUTAGE)}]}}",
    )


def _without_queue(exporter: Component, node: Node) -> Finding:
    return found(
        "note",
        "queue-none",
        node,
        f"{exporter.name} has no queue of its own that answers for it",
        "producers wait for the destination and keep what did not arrive; those that do not try again lose it",
        "",
    )


def _transport(exporter: Component) -> Iterator[Finding]:
    unverified = exporter.node.at("tls", "insecure_skip_verify")
    if unverified is not None and _is(unverified, value=True):
        yield found(
            "warning",
            "exporter-unverified",
            unverified,
            f"{exporter.name} does not check the destination's certificate",
            "whoever stands in between reads the records, and swallows them",
            "tls: {ca_file: ...}",
        )
    endpoint, insecure = exporter.node.at("endpoint"), exporter.node.at("tls", "insecure")
    if endpoint is None or endpoint.unknown:
        return
    whole = endpoint.text if "//" in endpoint.text else f"//{endpoint.text}"
    clear = whole.startswith("http://") or (insecure is not None and _is(insecure, value=True))
    if clear and not is_loopback(_host(whole)):
        yield found(
            "warning",
            "exporter-clear",
            endpoint,
            f"{exporter.name} sends in clear to {endpoint.text}",
            "whoever is on the way reads the records, and can change them",
            "use TLS",
        )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _kafka(exporter: Component) -> Iterator[Finding]:
    acks = exporter.node.at("producer", "required_acks")
    if acks is not None and (acks.unknown or acks.text in {"-1", "all"}):
        return
    yield found(
        "error",
        "kafka-acks",
        exporter.node.nearest("producer", "required_acks"),
        f"{exporter.name} does not wait for all replicas",
        "a broker that dies takes with it what the others had not copied yet",
        "producer: {required_acks: -1}",
    )


def _file(exporter: Component) -> Iterator[Finding]:
    yield found(
        "warning",
        "file-exporter",
        exporter.node,
        f"{exporter.name} acknowledges what is not on the disk yet",
        "it syncs nothing, and without rotation what came in the last flush_interval is in its memory alone",
        "use it beside an exporter with a persistent queue, not in its place",
    )


def _debug(exporter: Component) -> Iterator[Finding]:
    verbosity = exporter.node.at("verbosity")
    if verbosity is not None and verbosity.text in {"normal", "detailed"}:
        yield found(
            "note",
            "debug-prints",
            verbosity,
            f"{exporter.name} prints what clients sent",
            "personal data goes to the Collector's log, and what is in it to whoever looks at that on a terminal",
            "verbosity: basic",
        )


def _unknown(node: Node, what: str) -> Finding:
    return found(
        "note", "value-unknown", node, f"{what} comes from {node.text or 'elsewhere'}", "it was not examined", ""
    )


def _is(node: Node | None, *, value: bool) -> bool:
    return node is not None and node.value is value
