"""Dashboards and alert rules are what Grafana understands: by its own models, and the facts of its provisioning."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from otel_audit import attributes as keys
from tests.grafana import DASHBOARDS, FOLDER, dashboard, rules

SOURCES = {"clickhouse": "grafana-clickhouse-datasource", "loki": "loki", "delivery": "prometheus"}
STORES = ("clickhouse", "loki")
# The fields of the ClickHouse plugin's query, of which Grafana's models know nothing; 0 is a time series, 1 a table.
OF_THE_PLUGIN = {"refId", "datasource", "editorType", "rawSql", "format", "queryType", "pluginVersion"}
RULE = {
    "uid", "title", "condition", "data", "noDataState", "execErrState", "for", "dashboardUid", "panelId", "labels",
    "annotations",
}  # fmt: skip
QUERY = {"refId", "relativeTimeRange", "datasourceUid", "model"}


def everything(value: Any) -> list[Any]:
    """Return a value with all that it holds."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(one for part in inner for one in everything(part))]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_own_model(name: str) -> None:
    """Read by Grafana's model of a dashboard, with those of its panels, and written again, nothing is left out."""
    register_default_plugins()
    given = dashboard(name)
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert lacking(given, written) == []


def lacking(given: Any, written: Any, path: str = "") -> list[str]:
    """Return what stands in the one and not in the other."""
    if isinstance(given, dict):
        found = []
        for key, value in given.items():
            if not isinstance(written, dict) or key not in written:
                found += [f"{path}.{key}"] if value is not None else []
            else:
                found += lacking(value, written[key], f"{path}.{key}")
        return found
    if isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        return [
            one for n, pair in enumerate(zip(given, written, strict=True)) for one in lacking(*pair, f"{path}[{n}]")
        ]
    return [] if given == written else [f"{path}: {given!r} became {written!r}"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels(name: str) -> None:
    """Panels have ids of their own, lie within the grid without overlapping, and ask the data source that is chosen."""
    board = dashboard(name)
    assert len({panel["id"] for panel in board["panels"]}) == len({p["title"] for p in board["panels"]})
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        taken = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24
        assert not taken & cells
        cells |= taken
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": SOURCES[name], "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert board["uid"] == f"audit-{name}"


def test_queries_of_the_clickhouse_plugin() -> None:
    """They have the fields of the plugin's own query, and the format that the panel shows."""
    for panel in dashboard("clickhouse")["panels"]:
        (query,) = panel["targets"]
        assert set(query) == OF_THE_PLUGIN
        kind = (0, "timeseries") if panel["type"] == "timeseries" else (1, "table")
        assert (query["editorType"], query["format"], query["queryType"]) == ("sql", *kind)
    for rule in rules("clickhouse"):
        model = rule["data"][0]["model"]
        assert set(model) == OF_THE_PLUGIN - {"datasource", "pluginVersion"}
        assert (model["editorType"], model["format"]) == ("sql", 1)


@pytest.mark.parametrize("name", STORES)
def test_variables_never_stand_in_a_query_as_they_are(name: str) -> None:
    """What is typed or chosen reaches a query percent-encoded only, and every variable in a query exists."""
    board = dashboard(name)
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = set()
    for query in [target for panel in board["panels"] for target in panel["targets"]]:
        for variable, form in re.findall(r"(?<!\$)\$\{?(?!__)(\w+):?(\w*)", query.get("rawSql") or query["expr"]):
            assert form == "percentencode"
            used.add(variable)
    assert used == known - {"datasource"}


@pytest.mark.parametrize("name", STORES)
def test_alert_rules(name: str) -> None:
    """Rules have the fields that Grafana provisions, ask the provisioned data source, and name panels that exist."""
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasources" / f"{name}.yaml").read_text("utf-8"))[
        "datasources"
    ]
    assert source["type"] == SOURCES[name]
    ids = {panel["id"]: panel["title"] for panel in dashboard(name)["panels"]}
    for rule in rules(name):
        assert set(rule) == RULE
        asked, threshold = rule["data"]
        assert set(asked) == QUERY
        assert set(threshold) == QUERY - {"relativeTimeRange"}
        assert asked["datasourceUid"] == source["uid"]
        assert (threshold["datasourceUid"], threshold["model"]["expression"]) == ("__expr__", asked["refId"])
        assert (rule["condition"], threshold["refId"]) == ("B", "B")
        # What fails, or is flooded, is no reason to be silent.
        assert (rule["noDataState"], rule["execErrState"]) == ("OK", "Alerting")
        # A dollar in an annotation would be taken for a variable of the environment.
        assert not [text for text in everything(rule["annotations"]) if isinstance(text, str) and "$" in text]
        assert rule["panelId"] in ids
        assert rule["dashboardUid"] == dashboard(name)["uid"]
        # Grafana writes the place twice, and its pages read the annotations.
        assert rule["annotations"]["__panelId__"] == str(rule["panelId"])
        assert rule["annotations"]["__dashboardUid__"] == rule["dashboardUid"]
    assert len({rule["uid"] for store in STORES for rule in rules(store)}) == 10


@pytest.mark.parametrize("name", STORES)
def test_alarms_carry_nothing_that_a_client_sent(name: str) -> None:
    """The labels of an alarm are hosts and archives: no user, no address, no session."""
    sent = {keys.USER_NAME, keys.CLIENT_ADDRESS, keys.SESSION_ID, keys.USER_AGENT_ORIGINAL}
    for rule in rules(name):
        query = rule["data"][0]["model"].get("rawSql") or rule["data"][0]["model"]["expr"]
        first = query.splitlines()[0]
        labels = re.findall(r"SELECT (\w+), ", first) or re.findall(r"^\w+ by \((\w+)\)", first)
        assert labels
        assert labels[0] in {"host", "archive", "otel_audit_host", "audit_sequence_stream_id"}
        assert not sent & set(labels)


def test_provisioned_data_sources() -> None:
    """Each kind of data source that a dashboard asks is provisioned, and the folder of dashboards is read."""
    folder = FOLDER / "provisioning"
    found = [
        source["type"]
        for file in sorted((folder / "datasources").iterdir())
        for source in yaml.safe_load(file.read_text("utf-8"))["datasources"]
    ]
    assert sorted(found) == sorted(SOURCES.values())
    (provider,) = yaml.safe_load((folder / "dashboards" / "audit.yaml").read_text("utf-8"))["providers"]
    assert (provider["type"], provider["options"]) == ("file", {"path": "/etc/grafana/audit"})
    assert {file.stem for file in (FOLDER / "dashboards").iterdir()} == set(DASHBOARDS)
