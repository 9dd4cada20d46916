"""A shop on FastAPI whose requests are audited: who deleted which order from where, and who was refused.

    python -m examples.web_shop --port 8080

It knows alice (token ``wonderland``) and bob (``builder``), and orders of alice. ``DELETE /orders/1`` with a header
``Authorization: Bearer wonderland`` deletes one. Where it records, and where it ships to, the environment says:
``OTEL_AUDIT_ARCHIVE``, ``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

from __future__ import annotations

import argparse
import hmac
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request

import otel_audit
from otel_audit.integrations.asgi import AuditMiddleware
from otel_audit.integrations.fastapi import audited
from otel_audit.integrations.web import request_user

TOKENS = {"alice": "wonderland", "bob": "builder"}  # an example: keep only hashes in a real service
ORDERS = {1: "alice", 2: "alice", 3: "alice"}

log = otel_audit.get_logger("web_shop")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Open the archive before the first request, and close it after the last."""
    with otel_audit.configure(host="shop.example", processors=[request_user]):
        yield


def user_of(scope: MutableMapping[str, Any]) -> str | None:
    """Return the user whom `log_in` found."""
    user: str | None = scope.get("state", {}).get("user")
    return user


async def log_in(request: Request) -> str:
    """Find the user by its token, and record tokens that are none."""
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    for user, token in TOKENS.items():
        if hmac.compare_digest(token.encode(), given.encode()):
            request.state.user = user
            return user
    await log.aaudit("user.login.failure", custom={"reason": {"condition": "wrong-token" if given else "no-token"}})
    raise HTTPException(401)


app = FastAPI(lifespan=lifespan)
app.add_middleware(AuditMiddleware, user=user_of)


@app.delete("/orders/{order_id}", dependencies=[audited("order.delete", target=lambda order_id: order_id)])
async def delete_order(order_id: int, user: str = Depends(log_in)) -> dict[str, int]:
    """Delete an order of one's own."""
    if order_id not in ORDERS:
        raise HTTPException(404)
    if ORDERS[order_id] != user:
        raise HTTPException(403)
    del ORDERS[order_id]
    return {"deleted": order_id}


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1")
    port: int = parser.parse_args().port
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
