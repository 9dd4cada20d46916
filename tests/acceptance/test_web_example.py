"""The example's shop records what its users do, as its documentation says."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from examples.web_shop import ORDERS, app
from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from tests.web_servers import asgi_server


def test_the_shop(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted, foreign and missing orders, and a wrong token, are recorded with user, target and address."""
    monkeypatch.setattr(provider_module, "_global", None)
    monkeypatch.setenv("OTEL_AUDIT_ARCHIVE", str(archive_path))
    monkeypatch.setitem(ORDERS, 1, "alice")
    with asgi_server(app) as url, httpx.Client(base_url=url) as client:
        for order, token in ((1, "wonderland"), (2, "builder"), (9, "wonderland"), (2, "guessed")):
            client.delete(f"/orders/{order}", headers={"Authorization": f"Bearer {token}"})
        client.delete("/orders/2", headers=[(b"Authorization", b"Bearer \xff")])
    with open_archive(archive_path) as archive:
        records = list(archive.query())[::-1]
    found = [
        (record.type, record.user, record.outcome, record.target and record.target.id, record.custom.get("error", {}))
        for record in records
    ]
    error = "fastapi.exceptions.HTTPException"
    refused = [
        ("user.login.failure", None, "failure", None, {}),
        ("order.delete", None, "failure", "2", {"type": error, "status": 401}),
    ]
    assert found == [
        ("order.delete", "alice", "success", "1", {}),
        ("order.delete", "bob", "failure", "2", {"type": error, "status": 403}),
        ("order.delete", "alice", "failure", "9", {"type": error, "status": 404}),
        *refused,
        *refused,
    ]
    assert {record.session and record.session.ip for record in records} == {"127.0.0.1"}
    assert {record.host for record in records} == {"shop.example"}
    assert records[3].session == records[4].session
