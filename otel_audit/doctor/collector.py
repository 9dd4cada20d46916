"""Examines the configuration of an OpenTelemetry Collector for what loses audit records."""

from __future__ import annotations

from collections.abc import Sequence

from otel_audit.doctor.exporters import examine_exporters
from otel_audit.doctor.findings import Finding
from otel_audit.doctor.pipelines import Layout, found
from otel_audit.doctor.processors import examine_connectors, examine_processors, examine_receivers
from otel_audit.doctor.renamed import renamed
from otel_audit.doctor.yaml_tree import read_configuration

__all__ = ["examine_collector"]


def examine_collector(files: Sequence[str]) -> list[Finding]:
    """Return what is wrong with a Collector's configuration, as far as audit records pass it.

    Args:
        files: The configuration's files, in the order in which the Collector is given them.

    Raises:
        ConfigError: A file cannot be read, or the Collector would refuse it as a whole.
    """
    root = read_configuration(files)
    whole = root.nearest("service", "pipelines")
    if whole.unknown:
        what = f"the pipelines come from {whole.text}"
        return [found("note", "value-unknown", whole, what, "nothing could be examined", "give that file, too")]
    layout = Layout(root)
    found_there = (
        *layout.findings(),
        *examine_receivers(layout),
        *examine_processors(layout),
        *examine_connectors(layout),
        *examine_exporters(layout),
        *renamed(layout),
    )
    # A processor may stand in several pipelines.
    return list(dict.fromkeys(found_there))
