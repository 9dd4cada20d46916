"""The dashboard and the rules about delivery, on Prometheus, with the metrics of the library and the Collector."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_audit import metrics as metrics_module
from otel_audit.provider import AuditProvider
from otel_audit.testing import Collector, Reply
from tests.archive_material import wait_until
from tests.collector_build import needed
from tests.grafana import FOLDER, panels
from tests.otelcol import Otelcol, configuration, free_ports

RAISED = {"AuditRecordsDropped", "AuditDeadLetters", "AuditCollectorDrops"}
RULES = FOLDER / "prometheus-rules.yaml"
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: collector
    static_configs: [{{targets: ["127.0.0.1:{collector}"]}}]
"""


@pytest.fixture
def refusing() -> Iterator[Collector]:
    """Run a backend that refuses every record for good."""
    with Collector(lambda: Reply(status=400)) as collector:
        yield collector


@pytest.fixture
def collector(refusing: Collector, tmp_path: Path) -> Iterator[Otelcol]:
    """Run the Collector before that backend."""
    variables = {"AUDIT_LOKI": refusing.endpoint}
    with Otelcol(tmp_path / "collector", configuration("loki"), variables=variables) as running:
        yield running


@pytest.fixture
def prometheus(collector: Otelcol, tmp_path: Path) -> Iterator[str]:
    """Run Prometheus, which asks the Collector, takes metrics over OTLP and evaluates the rules; return its address."""
    (port,) = free_ports(1)
    file = tmp_path / "prometheus.yml"
    file.write_text(CONFIGURATION.format(rules=RULES, collector=collector.metrics_port), "utf-8")
    command = (
        needed("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'metrics'}",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-otlp-receiver",
    )  # fmt: skip
    with (tmp_path / "prometheus.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path)
        try:
            wait_until(lambda: b"ready to receive" in (tmp_path / "prometheus.log").read_bytes())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


Application = Callable[..., AuditProvider]


@pytest.fixture
def application(prometheus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """Return what makes a provider of a service that sends its metrics to Prometheus, as with the SDK it does."""
    with ExitStack() as stack:

        def make(service: str, **settings: Any) -> AuditProvider:
            reader = PeriodicExportingMetricReader(
                OTLPMetricExporter(f"{prometheus}/api/v1/otlp/v1/metrics"), export_interval_millis=500
            )
            meters = MeterProvider([reader], Resource({"service.name": service, "service.instance.id": "one"}))
            stack.callback(meters.shutdown)
            monkeypatch.setattr(metrics_module, "get_meter", meters.get_meter)
            provider = AuditProvider(archive=tmp_path / f"{service}.db", host="example.com", **settings)
            stack.callback(provider.shutdown, 0.5)
            return provider

        yield make


def asked(prometheus: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def values(prometheus: str, query: dict[str, Any]) -> list[tuple[dict[str, str], float]]:
    """Return what a query of a panel gives now, by its labels."""
    text = query["expr"].replace("$job", ".*").replace("$__rate_interval", "10s").replace("$__range", "1h")
    answer = asked(prometheus, "query", query=text)
    assert answer["resultType"] == "vector"
    return [(one["metric"], float(one["value"][1])) for one in answer["result"]]


def shown(prometheus: str, title: str, number: int = 0) -> list[tuple[dict[str, str], float]]:
    return values(prometheus, panels("delivery")[title].queries[number])


def test_dashboard_and_alarms(
    prometheus: str, application: Application, collector: Otelcol, refusing: Collector, tmp_path: Path
) -> None:
    """Every panel has what happened; dead letters, dropped records and what the Collector dropped are alarms."""
    application("refused", endpoint=refusing.endpoint).get_logger("s").audit("t")
    waiting = application("waiting", endpoint="http://127.0.0.1:9").get_logger("s")
    for _ in range(5):
        waiting.audit("t")
    sent = application("sent", endpoint=collector.http_endpoint)
    losing = application("losing", on_failure="log", block_timeout=0.2).get_logger("s")
    losing.audit("t")
    (tmp_path / "losing.db").rename(tmp_path / "gone.db")
    losing.audit("t")
    (tmp_path / "gone.db").rename(tmp_path / "losing.db")
    wait_until(lambda: shown(prometheus, "Dead letters") == [({}, 1)], 30)
    wait_until(lambda: shown(prometheus, "Not recorded") == [({}, 1)])
    wait_until(lambda: of(shown(prometheus, "Waiting records"), "waiting") == [5])
    assert of(shown(prometheus, "Waiting records"), "refused") == [0]
    (age,) = of(shown(prometheus, "Delivery lag"), "waiting")
    assert 0 < age < 120
    assert 0 < shown(prometheus, "Oldest waiting")[0][1] < 120

    assert shown(prometheus, "Disk")[0][1] in {0, 1, 2, 3}
    (free,), (reserve,) = (of(shown(prometheus, "Space on the archive's disk", n), "waiting") for n in (0, 1))
    assert free > reserve >= 0

    def accepted() -> bool:
        sent.get_logger("s").audit("t")
        found = [shown(prometheus, "Recorded and accepted", number) for number in (0, 1)]
        found.append(shown(prometheus, "Duration of accepted requests"))
        return all(of(one, "sent", above=0) for one in found)

    wait_until(accepted, 30)
    wait_until(lambda: firing(prometheus) == RAISED, 30)
    assert shown(prometheus, "Dropped by the Collector")[0][1] >= 1
    assert [labels for labels, _ in shown(prometheus, "The Collector's queue")] == [{"exporter": "otlp_http"}]
    assert shown(prometheus, "The Collector's queue", 1) == [({"exporter": "otlp_http"}, 1e7)]


def of(found: list[tuple[dict[str, str], float]], service: str, above: float = -1) -> list[float]:
    """Return what a panel shows of a service."""
    return [value for labels, value in found if labels["job"] == service and value > above]


def firing(prometheus: str) -> set[str]:
    """Return the alarms that are raised; every rule can be evaluated."""
    (group,) = asked(prometheus, "rules")["groups"]
    assert all(rule["health"] in {"ok", "unknown"} for rule in group["rules"]), group
    return {rule["name"] for rule in group["rules"] if rule["state"] == "firing"}


def test_the_dashboard_asks_for_nothing_else(prometheus: str) -> None:
    """Every query of the dashboard is valid, and so is every rule."""
    for panel in panels("delivery").values():
        for query in panel.queries:
            values(prometheus, query)
    assert len(asked(prometheus, "rules")["groups"][0]["rules"]) == 8


SHOP = 'job="shop",destination="otlp",instance="a"'
LABELS = {"audit": "delivery", "severity": "critical"}
WARNING = {"audit": "delivery", "severity": "warning"}
OWN = {"job": "shop", "destination": "otlp"}
QUEUE = {"instance": "c", "exporter": "otlp_http"}


@pytest.mark.parametrize(("alarm", "series", "expected"), [
    # A counter that appears, and is never raised again: an alarm for an hour.
    ("AuditRecordsDropped", {'audit_records_dropped_total{job="shop",instance="a"}': "_x10 1x120"},
        {9: None, 12: {"job": "shop", **LABELS}, 60: {"job": "shop", **LABELS}, 75: None}),
    # One that is raised later.
    ("AuditRecordsDropped", {'audit_records_dropped_total{job="shop",instance="a"}': "0x90 1x120"},
        {80: None, 95: {"job": "shop", **LABELS}, 160: None}),
    ("AuditDeliveryLate", {f"audit_queue_oldest_age_seconds{{{SHOP}}}": "3500+60x10"},
        {5: None, 8: {**OWN, **WARNING}}),
    ("AuditDeadLetters", {f"audit_dead_letters{{{SHOP}}}": "0x5 3x5 0x5"},
        {4: None, 7: {**OWN, **LABELS}, 14: None}),
    ("AuditDiskLow", {f"audit_disk_level_ratio{{{SHOP}}}": "0x5 1x10 2x10"},
        {5: None, 10: None, 12: {"job": "shop", "instance": "a", **WARNING}, 17: None}),
    ("AuditDiskFull", {f"audit_disk_level_ratio{{{SHOP}}}": "1x5 2x2 3x5 1x3"},
        {5: None, 7: {"job": "shop", "instance": "a", **LABELS}, 10: {"job": "shop", "instance": "a", **LABELS},
         17: None}),
    ("AuditMetricsGone", {f"audit_queue_depth{{{SHOP}}}": "0x30 stale"},
        {30: None, 69: None, 71: {"job": "shop", **WARNING}}),
    ("AuditCollectorDrops", {'otelcol_exporter_send_failed_log_records{instance="c",exporter="otlp_http"}':
        "0x70 0+5x3 15x100"}, {69: None, 75: {**QUEUE, **LABELS}, 140: None}),
    ("AuditCollectorQueueFull", {
        'otelcol_exporter_queue_size{instance="c",exporter="otlp_http",data_type="logs"}': "70+5x10",
        'otelcol_exporter_queue_capacity{instance="c",exporter="otlp_http",data_type="logs"}': "100x10",
    }, {7: None, 9: {**QUEUE, "data_type": "logs", **WARNING}}),
])  # fmt: skip
def test_when_an_alarm_is_raised(
    alarm: str, series: dict[str, str], expected: dict[int, dict[str, str] | None], tmp_path: Path
) -> None:
    """Each alarm is raised when its reason has lasted long enough, not before, and ends when it is over."""
    tests = [{
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [{
            "expr": f'ALERTS{{alertname="{alarm}",alertstate="firing"}}',
            "eval_time": f"{minute}m",
            "exp_samples": [] if labels is None else [{
                "labels": _written({"__name__": "ALERTS", "alertname": alarm, "alertstate": "firing", **labels}),
                "value": 1,
            }],
        } for minute, labels in expected.items()],
    }]  # fmt: skip
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}), "utf-8")
    done = subprocess.run((needed("promtool"), "test", "rules", file), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _written(labels: dict[str, str]) -> str:
    name = labels.pop("__name__")
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
