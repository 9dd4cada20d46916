"""Which parts of a Collector's configuration audit records pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_audit.doctor.findings import Finding, Severity
from otel_audit.doctor.yaml_tree import Node

__all__ = ["Component", "Layout", "Pipeline", "found"]

_OTLP: Final = "otlp"
_PARTS: Final = ("receivers", "processors", "exporters")


def found(severity: Severity, code: str, node: Node, *words: str) -> Finding:
    """Return a finding about a value of the configuration; `words` are what, why and remedy."""
    what, why, remedy = words
    return Finding(severity, code, what, why, remedy, node.file, node.line)


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A receiver, processor, exporter, connector or extension that is used.

    Args:
        kind: The section that it is in, such as ``exporters``.
        name: Its name, as ``otlp_http/loki``.
        node: Its settings.
    """

    kind: str
    name: str
    node: Node

    @property
    def type(self) -> str:
        """What it is, as ``otlp_http``."""
        return _type(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """A pipeline of logs.

    Args:
        name: As ``logs/audit``.
        node: Its settings.
    """

    name: str
    node: Node

    def names(self, part: str) -> list[str]:
        """Return the names of its receivers, processors or exporters, in order."""
        return [item.text for item in self.part(part).items]

    def part(self, part: str) -> Node:
        """Return the list of its receivers, processors or exporters; the pipeline itself where there is none."""
        return self.node.nearest(part)


class Layout:
    """The pipelines that audit records pass: from the otlp receivers over connectors to the exporters.

    Args:
        root: The configuration.
    """

    def __init__(self, root: Node) -> None:
        self.root = root
        pipelines = root.at("service", "pipelines")
        given = {} if pipelines is None else pipelines.mapping
        self._pipelines = [Pipeline(name, node) for name, node in given.items() if _type(name) == "logs"]
        self.reached = self._reach()

    @property
    def apart(self) -> list[Pipeline]:
        """The pipelines of logs that audit records do not pass."""
        return [pipeline for pipeline in self._pipelines if pipeline not in self.reached]

    def components(self, kind: str) -> list[Component]:
        """Return the components of a section that audit records pass, each once."""
        section = self.root.at(kind)
        given = {} if section is None else section.mapping
        parts = ("receivers", "exporters") if kind == "connectors" else (kind,)
        names = dict.fromkeys(name for one in self.reached for part in parts for name in one.names(part))
        return [Component(kind, name, given[name]) for name in names if name in given]

    def defined(self, kind: str, name: str) -> bool:
        """Tell whether there is a component of this name; True where the section is not known here."""
        section = self.root.at(kind)
        return section is not None and (section.unknown or name in section.mapping)

    def started(self, name: str) -> bool:
        """Tell whether an extension is started; True where that is not known here."""
        extensions = self.root.at("service", "extensions")
        return extensions is not None and (extensions.unknown or name in [item.text for item in extensions.items])

    def is_connector(self, name: str) -> bool:
        """Tell whether a name is that of a connector."""
        connectors = self.root.at("connectors")
        return connectors is not None and name in connectors.mapping

    def findings(self) -> Iterator[Finding]:
        """Iterate over what is wrong with the pipelines themselves."""
        if not self.reached:
            yield found(
                "error",
                "pipeline-missing",
                self.root.nearest("service", "pipelines"),
                "no pipeline of logs has an otlp receiver",
                "no audit record gets in: the producers' archives fill up",
                "service: {pipelines: {logs: {receivers: [otlp], exporters: [...]}}}",
            )
        for pipeline in self.reached:
            yield from self._undefined(pipeline)
            if not pipeline.names("exporters") and not pipeline.part("exporters").unknown:
                yield found(
                    "error",
                    "exporter-missing",
                    pipeline.node,
                    f"the pipeline {pipeline.name} has no exporter",
                    "the Collector does not start",
                    "exporters: [...]",
                )
        for pipeline in self.apart if self.reached else ():
            yield found(
                "note",
                "pipeline-apart",
                pipeline.node,
                f"audit records do not pass the pipeline {pipeline.name}: it has no otlp receiver",
                "it was not examined",
                "",
            )

    def _undefined(self, pipeline: Pipeline) -> Iterator[Finding]:
        for part in _PARTS:
            for item in pipeline.part(part).items:
                known = any(self.defined(kind, item.text) for kind in (part, "connectors"))
                if not known and not item.unknown:
                    yield found(
                        "error",
                        "component-missing",
                        item,
                        f"the pipeline {pipeline.name} names {item.text!r}, which is not in {part}",
                        "the Collector does not start",
                        f"define it in {part}, or take it out here",
                    )

    def _reach(self) -> list[Pipeline]:
        waiting = [one for one in self._pipelines if any(_type(name) == _OTLP for name in one.names("receivers"))]
        reached: list[Pipeline] = []
        while waiting:
            pipeline = waiting.pop(0)
            if pipeline in reached:
                continue
            reached.append(pipeline)
            onward = {name for name in pipeline.names("exporters") if self.is_connector(name)}
            waiting += [one for one in self._pipelines if onward & set(one.names("receivers"))]
        return reached


def _type(name: str) -> str:
    return name.partition("/")[0].strip()
