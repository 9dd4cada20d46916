"""What ``otel-audit doctor`` says of a Collector's configuration: nothing of a sound one, of each trap exactly it."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_audit.doctor.collector import examine_collector
from otel_audit.doctor.findings import Finding
from tests.doctor_material import SOUND


def examined(folder: Path, *texts: str) -> list[Finding]:
    """Examine a configuration of several files."""
    files = []
    for number, text in enumerate(texts):
        file = folder / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        files.append(str(file))
    return examine_collector(files)


def with_processor(name: str, settings: str = "") -> str:
    """Return the sound configuration with one processor."""
    text = SOUND.replace("processors: []", f"processors: [{name}]")
    return f"{text}processors:\n  {name}: {settings}\n"


def with_exporter(name: str, settings: str) -> str:
    """Return the sound configuration with another exporter beside, from line 9 on."""
    text = SOUND.replace("  otlp_grpc:\n    endpoint", f"  {name}: {settings}\n  otlp_grpc:\n    endpoint")
    return text.replace("processors: []\n      exporters: [otlp_grpc]", f"exporters: [otlp_grpc, {name}]")


def codes(found: list[Finding]) -> list[tuple[str, str, int | None]]:
    """Return of each finding what tells it apart."""
    return [(one.severity, one.code, one.line) for one in found]


def test_nothing_is_found_in_a_sound_configuration(tmp_path: Path) -> None:
    """A gateway that keeps what it acknowledged gives rise to no finding."""
    assert examined(tmp_path, SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    fsync: true\n", "", ("error", "storage-fsync", 17)),
        ("fsync: true", "fsync: false", ("error", "storage-fsync", 19)),
        ("fsync: true", "fsync: yes", ("error", "storage-fsync", 19)),
        ("fsync: true", "fsync: ${env:FSYNC}", ("note", "value-unknown", 19)),
        ("/var/lib/otelcol", "/tmp/otelcol", ("warning", "storage-volatile", 18)),
        ("fsync: true", "fsync: true\n    recreate: true", ("warning", "storage-recreate", 20)),
        ("      storage: file_storage\n", "", ("error", "queue-memory", 12)),
        ("storage: file_storage", "storage: null", ("error", "queue-memory", 12)),
        ("storage: file_storage", "queue_size: 5000", ("error", "queue-memory", 13)),
        ("storage: file_storage", "storage: ${env:STORAGE}", ("note", "value-unknown", 13)),
        ("storage: file_storage", "storage: file_storage/other", ("error", "storage-missing", 13)),
        ("extensions: [file_storage]", "extensions: [health_check]", ("error", "storage-missing", 13)),
        ("extensions: [file_storage]", "extensions: []", ("error", "storage-missing", 13)),
        ("      block_on_overflow: true\n", "", ("warning", "queue-refuses", 12)),
        ("block_on_overflow: true", "block_on_overflow: false", ("warning", "queue-refuses", 14)),
        ("block_on_overflow: true", "block_on_overflow: ${env:BLOCK}", ("note", "value-unknown", 14)),
        ("      batch:\n", "      batch:\n      enabled: false\n", ("note", "queue-none", 12)),
        ("      batch:\n", "      wait_for_result: true\n", ("note", "queue-none", 15)),
        ("      max_elapsed_time: 0", "      max_elapsed_time: 300s", ("error", "retry-gives-up", 11)),
        ("      max_elapsed_time: 0", "      initial_interval: 1s", ("error", "retry-gives-up", 10)),
        ("      max_elapsed_time: 0", "      max_elapsed_time: ${env:T}", ("note", "value-unknown", 11)),
        ("      max_elapsed_time: 0", "      max_elapsed_time: 0\n      enabled: false", ("error", "retry-off", 12)),
        ("    retry_on_failure:\n      max_elapsed_time: 0\n", "", ("error", "retry-gives-up", 8)),
        ("127.0.0.1:4318", "0.0.0.0:4318", ("warning", "receiver-clear", 5)),
        ("127.0.0.1:4318", ":4318", ("warning", "receiver-clear", 5)),
        ("127.0.0.1:4318", "'[::]:4318'", ("warning", "receiver-clear", 5)),
        ("127.0.0.1:4318", "10.0.0.5:4318", ("warning", "receiver-clear", 5)),
        ("127.0.0.1:4318", "0.0.0.0:${env:PORT}", ("warning", "receiver-clear", 5)),
        ("127.0.0.1:4318", "0.0.0.0:4318\n        tls: {cert_file: a}", ("note", "receiver-anonymous", 5)),
        ("      grpc:\n", "      grpc: {endpoint: '0.0.0.0:4317'}\n", ("warning", "receiver-clear", 6)),
        ("collector.example.com:4317", "http://collector.example.com:4317", ("warning", "exporter-clear", 9)),
        (
            "endpoint: collector.example.com:4317",
            "endpoint: h:1\n    tls: {insecure: true}",
            ("warning", "exporter-clear", 9),
        ),
        (
            "endpoint: collector.example.com:4317",
            "tls: {insecure_skip_verify: true}",
            ("warning", "exporter-unverified", 9),
        ),
        (
            "    logs:\n      receivers: [otlp]",
            "    logs:\n      receivers: [file_log]",
            ("error", "pipeline-missing", 22),
        ),
        ("    logs:\n", "    metrics:\n", ("error", "pipeline-missing", 22)),
        ("      processors: []\n      exporters: [otlp_grpc]", "", ("error", "exporter-missing", 26)),
        ("processors: []", "processors: [batch]", ("error", "component-missing", 28)),
        (
            "      storage: file_storage",
            "      storage: file_storage\n      blocking: true",
            ("error", "setting-removed", 14),
        ),
        ("fsync: true", "fsync: true\n  memory_ballast: {size_mib: 1}", ("error", "component-removed", 20)),
        ("service:\n", "connectors:\n  routing: {default_pipelines: [logs]}\nservice:\n", None),
    ],
)
def test_each_trap_is_found(tmp_path: Path, old: str, new: str, expected: tuple[str, str, int] | None) -> None:
    """A change to the sound configuration is found as what it is, at its line, and nothing else."""
    assert SOUND.count(old) == 1
    found = examined(tmp_path, SOUND.replace(old, new))
    assert codes(found) == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("name", "settings", "severity", "code"),
    [
        ("batch", "", "error", "batch-processor"),
        ("batch/audit", "{timeout: 1s}", "error", "batch-processor"),
        ("queuebatch", "", "error", "queue-memory"),
        ("queuebatch", "{storage: file_storage}", None, None),
        ("queuebatch", "{wait_for_result: true}", None, None),
        ("filter", "{log_conditions: ['true']}", "error", "processor-drops"),
        ("filter", "{logs: {log_record: ['true']}}", "error", "processor-drops"),
        ("filter", "{trace_conditions: ['true']}", None, None),
        ("filter", "${file:filter.yaml}", "error", "processor-drops"),
        ("probabilistic_sampler", "{sampling_percentage: 10}", "error", "processor-drops"),
        ("probabilistic_sampler", "{sampling_percentage: 100}", None, None),
        ("probabilistic_sampler", "{sampling_percentage: much}", "error", "processor-drops"),
        ("log_dedup", "", "error", "processor-drops"),
        ("transform", "{log_statements: ['set(log.body, 1)']}", "warning", "edits-after-signing"),
        ("transform", "{trace_statements: ['set(span.name, 1)']}", None, None),
        ("attributes", "{actions: []}", "warning", "edits-after-signing"),
        ("redaction", "", "warning", "edits-after-signing"),
        ("resource", "", "note", "processor-resource"),
        ("k8sattributes", "", "note", "processor-resource"),
        ("memory_limiter", "{limit_mib: 500}", "note", "limiter-refuses"),
        ("acme", "", "note", "processor-unknown"),
        ("routing", "", "error", "component-removed"),
    ],
)
def test_processors(tmp_path: Path, name: str, settings: str, severity: str | None, code: str | None) -> None:
    """Processors that hold, drop or edit records are named, and what only concerns other signals is not."""
    found = examined(tmp_path, with_processor(name, settings))
    wanted = [] if severity is None else [(severity, code, 31)]
    if name == "k8sattributes":
        wanted.append(("note", "component-renamed", 31))
    assert codes(found) == wanted


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (["memory_limiter", "batch"], ["limiter-refuses", "batch-processor"]),
        (["batch", "memory_limiter"], ["limiter-after-batch", "batch-processor"]),
        (["attributes", "signing"], ["edits-before-signing"]),
        (["signing", "attributes"], ["edits-after-signing"]),
    ],
)
def test_the_order_of_processors_counts(tmp_path: Path, chain: list[str], expected: list[str]) -> None:
    """What stands behind a batch, or before the signing, is judged by that."""
    text = SOUND.replace("processors: []", f"processors: [{', '.join(chain)}]")
    text += "processors:\n" + "".join(f"  {name}:\n" for name in chain)
    assert [one.code for one in examined(tmp_path, text)] == expected


SURE = "sending_queue: {storage: file_storage, block_on_overflow: true}, retry_on_failure: {max_elapsed_time: 0s}"
ELASTIC = "endpoint: 'https://e', sending_queue: {storage: file_storage}"


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("clickhouse", f"{{{SURE}}}", []),
        ("clickhouse", "", ["queue-memory", "queue-refuses", "retry-gives-up"]),
        ("kafka", f"{{{SURE}, producer: {{required_acks: -1}}}}", []),
        ("kafka", f"{{{SURE}, producer: {{required_acks: all}}}}", []),
        ("kafka", f"{{{SURE}, producer: {{required_acks: 1}}}}", ["kafka-acks"]),
        ("kafka", f"{{{SURE}}}", ["kafka-acks"]),
        ("awss3", "", ["queue-none"]),
        ("awss3", "{sending_queue: }", ["queue-memory", "queue-refuses", "retry-gives-up"]),
        ("file", "{path: a}", ["file-exporter"]),
        ("debug", "", []),
        ("debug", "{verbosity: detailed}", ["debug-prints"]),
        ("elasticsearch", f"{{{ELASTIC}}}", ["retry-gives-up"]),
        ("elasticsearch", f"{{{ELASTIC}, retry: {{max_retries: 100000}}}}", ["retry-gives-up"]),
        ("elasticsearch", f"{{{ELASTIC}, retry: {{enabled: false}}}}", ["retry-gives-up"]),
        (
            "elasticsearch",
            f"{{{ELASTIC}, retry: {{max_retries: 100000, retry_on_status: [429, 502, 503, 504]}}}}",
            [],
        ),
        ("load_balancing", "{protocol: {otlp: {}}}", ["queue-memory", "queue-none"]),
        ("load_balancing", f"{{protocol: {{otlp: {{sending_queue: {{enabled: false}}}}}}, {SURE}}}", []),
        ("otlp_http", "${file:exporter.yaml}", ["value-unknown"]),
        ("otlp_http", f"{{endpoint: 'http://127.0.0.1:4318', {SURE}}}", []),
        ("otlphttp", f"{{{SURE}}}", ["component-renamed"]),
        ("otlp/upstream", f"{{{SURE}}}", ["component-renamed"]),
        ("otlp/upstream", f"{{{SURE}, batcher: {{}}}}", ["component-renamed", "setting-removed"]),
        ("loki", f"{{{SURE}}}", ["component-removed"]),
        ("logging", "", ["component-removed"]),
    ],
)
def test_exporters(tmp_path: Path, name: str, settings: str, expected: list[str]) -> None:
    """Each exporter is judged by the defaults that it has, at its line."""
    found = examined(tmp_path, with_exporter(name, settings))
    assert [one.code for one in found] == expected
    assert {one.line for one in found} <= {8}


def test_exporters_that_keep_nothing(tmp_path: Path) -> None:
    """Where all records go to debug or nop, that is a warning; beside another exporter they are none."""
    alone = SOUND.replace("exporters: [otlp_grpc]", "exporters: [debug]").replace(
        "exporters:\n", "exporters:\n  debug:\n"
    )
    assert [one.code for one in examined(tmp_path, alone)] == ["nothing-kept"]
    assert examined(tmp_path, with_exporter("nop", "")) == []


def test_records_are_followed_over_connectors(tmp_path: Path) -> None:
    """A pipeline behind a connector counts, one without an otlp receiver does not, and routing without a rest drops."""
    text = SOUND.replace(
        "      processors: []\n      exporters: [otlp_grpc]",
        "      exporters: [routing]\n    logs/audit:\n      receivers: [routing]\n      processors: [batch]\n"
        "      exporters: [otlp_grpc]\n    logs/files:\n      receivers: [file_log]\n      processors: [batch]\n"
        "      exporters: [otlp_grpc]",
    )
    text += "processors: {batch: }\nconnectors: {routing: {table: []}}\n"
    found = examined(tmp_path, text)
    assert [one.code for one in found] == ["pipeline-apart", "batch-processor", "routing-drops"]
    text = text.replace("{table: []}", "{default_pipelines: [logs/audit]}")
    assert [one.code for one in examined(tmp_path, text)] == ["pipeline-apart", "batch-processor"]


def test_what_other_signals_pass_is_left_alone(tmp_path: Path) -> None:
    """A batch processor and a queue in memory of the traces are nobody's concern here."""
    traces = "    traces:\n      receivers: [otlp]\n"
    text = SOUND.replace(
        f"{traces}      exporters: [otlp_grpc]", f"{traces}      processors: [batch]\n      exporters: [zipkin]"
    )
    text = text.replace("exporters:\n  otlp_grpc", "processors:\n  batch:\nexporters:\n  zipkin:\n  otlp_grpc")
    assert text.count("batch") == 3
    assert examined(tmp_path, text) == []


def test_several_files_are_merged(tmp_path: Path) -> None:
    """A later file changes single settings of an earlier one, replaces lists, and is named as the place."""
    changed = "exporters: {otlp_grpc: {sending_queue: {block_on_overflow: false}}}\n"
    (one,) = examined(tmp_path, SOUND, changed)
    assert (one.code, one.place) == ("queue-refuses", f"{tmp_path}/1.yaml:1")
    (one,) = examined(tmp_path, SOUND, "service:\n  extensions: []\n")
    assert (one.code, one.place) == ("storage-missing", f"{tmp_path}/0.yaml:13")
    found = examined(tmp_path, SOUND, "exporters:\n  otlp_grpc:\n")
    assert [one.code for one in found] == ["queue-memory", "queue-refuses", "retry-gives-up"]
    assert {one.place for one in found} == {f"{tmp_path}/1.yaml:2"}
    assert examined(tmp_path, SOUND, "") == []


def test_pipelines_from_elsewhere(tmp_path: Path) -> None:
    """Where the pipelines stand in another file, that is said, and nothing else."""
    text = SOUND[: SOUND.index("  pipelines:")] + "  pipelines: ${file:pipelines.yaml}\n"
    assert codes(examined(tmp_path, text)) == [("note", "value-unknown", 22)]
    assert codes(examined(tmp_path, "receivers: {otlp: }\n")) == [("error", "pipeline-missing", 1)]


def test_findings_say_what_why_and_what_to_write(tmp_path: Path) -> None:
    """An error names the component, what is lost and the setting."""
    (one,) = examined(tmp_path, SOUND.replace("      max_elapsed_time: 0", "      max_elapsed_time: 1h"))
    assert one.what == "otlp_grpc gives up after 1h"
    assert one.why == "an outage that lasts longer drops what was acknowledged"
    assert one.remedy == "retry_on_failure: {max_elapsed_time: 0}"
    (one,) = examined(tmp_path, SOUND.replace("      storage: file_storage\n", ""))
    assert one.remedy.startswith("sending_queue: {storage: file_storage}, ")


def test_a_processor_in_two_pipelines_is_told_of_once(tmp_path: Path) -> None:
    """What stands in several pipelines of audit records is one finding."""
    text = SOUND.replace("processors: []", "processors: [memory_limiter]") + "processors: {memory_limiter: }\n"
    text = text.replace(
        "    logs:\n",
        "    logs/2: {receivers: [otlp], processors: [memory_limiter], exporters: [otlp_grpc]}\n    logs:\n",
    )
    assert [one.code for one in examined(tmp_path, text)] == ["limiter-refuses"]
