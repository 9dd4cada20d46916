"""How long a connection may take to begin a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from otel_audit.receiver.connections import Connection, Seldom


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A connection that has just been made, with an event loop that does nothing."""
    config = Config(Mock(), http=Connection, lifespan="off", log_config=None)
    loop = Mock(asyncio.AbstractEventLoop)
    loop.create_task.side_effect = lambda application, **_: application.close() or Mock()
    made = Connection(config, ServerState(), {}, loop)
    transport = Mock(asyncio.Transport)
    transport.get_extra_info.return_value = None
    made.connection_made(transport)
    yield made
    made.connection_lost(None)


def timers(connection: Connection) -> list[tuple[float, bool]]:
    """Return the seconds of each time limit that was set, and whether it was taken back."""
    loop = connection.loop
    assert isinstance(loop, Mock)
    return [(call.args[0], loop.call_later.return_value.cancel.called) for call in loop.call_later.call_args_list]


def test_a_head_in_pieces(connection: Connection) -> None:
    """One limit holds for the whole head, however slowly it comes; it ends with the head."""
    for piece in (b"POST /v1/logs HTTP/1.1\r\n", b"Host: x\r\n", b"Content-Length: 5\r\n"):
        connection.data_received(piece)
        assert timers(connection) == [(15.0, False)]
    connection.data_received(b"\r\n12")
    connection.data_received(b"3")
    assert timers(connection) == [(15.0, True)]


def test_the_head_of_a_second_request(connection: Connection) -> None:
    """It has a limit of its own, from its first byte on."""
    connection.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.cycle.response_complete = True
    connection.data_received(b"P")
    connection.data_received(b"O")
    assert [seconds for seconds, _ in timers(connection)] == [15.0, 15.0]


def test_a_message_passes_once() -> None:
    """The same complaint in thousands is one; another one passes."""
    seldom = Seldom()
    first, second = (logging.makeLogRecord({"msg": f"trouble {number}\nsocket 7"}) for number in range(2))
    passed = [seldom.filter(record) for record in (first, first, second, first, second)]
    assert passed == [True, False, True, False, False]
