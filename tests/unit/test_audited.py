"""The decorator records how each call ended, and changes neither what it returns nor what it raises."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from otel_audit.errors import ArchiveError, ConfigError, InvalidRecord
from otel_audit.integrations.audited import audited
from otel_audit.record import Receipt, Session, Target
from tests.recording import Tape, Unprintable, bound_logger


@pytest.fixture
def tape() -> Tape:
    return Tape()


class OrderError(Exception):
    """A failure of the application."""


class HttpError(Exception):
    """What frameworks raise for a status."""

    status_code = 403


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (("-m", "shop.web"), "shop.web"),
        (("-m", "shop"), "shop"),
        (("shop/web.py",), "web"),
        (("-c", "import shop.web; shop.web.run()"), "shop.web"),
    ],
)
def test_the_source_of_a_program(tmp_path: Path, words: tuple[str, ...], source: str) -> None:
    """However a program is started, its source is the name of its module, and never ``__main__``."""
    program = (
        "from otel_audit.integrations.attempts import module_of\n"
        "def run():\n    print(module_of(run))\n"
        "if __name__ == '__main__':\n    run()\n"
    )
    (tmp_path / "shop").mkdir()
    for name in ("__init__", "__main__", "web"):
        (tmp_path / "shop" / f"{name}.py").write_text("" if name == "__init__" else program)
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{source}\n"


def test_success_and_failure(tape: Tape) -> None:
    """A call that returns is a success; one that raises a failure with the exception's type, which goes on."""

    @audited("order.delete", target=lambda order_id: order_id, logger=bound_logger(tape))
    def delete(order_id: str, *, fail: bool = False) -> str:
        """Delete an order."""
        if fail:
            raise OrderError("secret text")
        return order_id.upper()

    assert delete("o-1") == "O-1"
    assert (tape.record.type, tape.record.outcome, tape.record.target) == ("order.delete", "success", Target("o-1"))
    assert tape.record.custom == {}
    with pytest.raises(OrderError, match="secret text"):
        delete(order_id="o-2", fail=True)
    assert (tape.record.outcome, tape.record.target) == ("failure", Target("o-2"))
    assert tape.record.custom == {"error": {"type": f"{__name__}.OrderError"}}
    assert b"secret text" not in tape.otlp
    assert (len(tape.written), delete.__doc__, delete.__name__) == (2, "Delete an order.", "delete")


def test_coroutine_functions(tape: Tape) -> None:
    """Coroutine functions stay such, and are recorded when they end, not when they are called."""

    @audited("t", logger=bound_logger(tape))
    async def act(error: BaseException | None = None) -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 5

    async def story() -> None:
        coroutine = act()
        assert tape.written == []
        assert await coroutine == 5
        with pytest.raises(HttpError):
            await act(HttpError())

    assert inspect.iscoroutinefunction(act)
    asyncio.run(story())
    assert [record.outcome for record, _ in tape.written] == ["success", "failure"]
    assert tape.record.custom == {"error": {"type": f"{__name__}.HttpError", "status": 403}}


def test_a_coroutine_behind_another_decorator(tape: Tape) -> None:
    """A plain function that returns a coroutine is recorded when that one ends."""

    async def fails() -> None:
        raise OrderError

    @audited("t", logger=bound_logger(tape))
    def hidden() -> Coroutine[Any, Any, None]:
        return fails()

    with pytest.raises(OrderError):
        asyncio.run(hidden())
    assert [record.outcome for record, _ in tape.written] == ["failure"]


def test_cancellation(tape: Tape) -> None:
    """A cancelled task is recorded as a failure, also one that is cancelled anew meanwhile, and stays cancelled."""

    @audited("t", logger=bound_logger(tape))
    async def wait() -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(story())
    (written,) = tape.written
    assert written[0].outcome == "failure"
    assert written[0].custom == {"error": {"type": "asyncio.exceptions.CancelledError"}}


def test_a_coroutine_that_is_closed(tape: Tape) -> None:
    """A coroutine that is dropped half-way is recorded as a failure."""

    @audited("t", logger=bound_logger(tape))
    async def wait() -> None:
        await asyncio.sleep(60)

    async def story() -> None:
        coroutine = wait()
        coroutine.send(None)
        coroutine.close()

    asyncio.run(story())
    assert tape.record.custom == {"error": {"type": "GeneratorExit"}}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)])
def test_interrupts(tape: Tape, error: BaseException) -> None:
    """What is no `Exception` is recorded and goes on."""

    @audited("t", logger=bound_logger(tape))
    def act() -> None:
        raise error

    with pytest.raises(type(error)):
        act()
    assert tape.record.custom == {"error": {"type": type(error).__name__}}


def test_generators_are_left_alone(tape: Tape) -> None:
    """A generator that a function returns passes through unconsumed; a generator function is refused."""

    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    generator = numbers()
    assert audited("t", logger=bound_logger(tape))(lambda: generator)() is generator
    assert next(generator) == 1
    assert tape.record.outcome == "success"
    for function in (numbers, later):
        with pytest.raises(ConfigError, match="is a generator function"):
            audited("t")(function)


def test_fields_from_arguments(tape: Tape) -> None:
    """Functions get the arguments that they name, defaults and keywords included, before the call changes them."""

    def custom(order: dict[str, Any], **others: Any) -> dict[str, dict[str, Any]]:
        return {"order": {"count": order["count"], "others": sorted(others)}}

    @audited("t", target=lambda order: order.get("id"), user=lambda who: who, custom=custom, logger=bound_logger(tape))
    def delete(order: dict[str, Any], who: str = "alice", **flags: bool) -> None:
        order.clear()

    delete({"id": 5, "count": 2}, force=True)
    assert (tape.record.target, tape.record.user, tape.record.altered) == (Target("5"), "alice", ())
    assert tape.record.custom == {"order": {"count": 2, "others": ("force", "who")}}


def test_fields_from_the_result(tape: Tape) -> None:
    """A function that names `result` is asked after a success, and not after a failure."""

    @audited("t", target=lambda result: Target(result, "order"), logger=bound_logger(tape))
    def create(*, fail: bool) -> str:
        if fail:
            raise OrderError
        return "o-9"

    create(fail=False)
    assert tape.record.target == Target("o-9", "order")
    with pytest.raises(OrderError):
        create(fail=True)
    assert [(record.target, record.altered) for record, _ in tape.written[1:]] == [(None, ())]


def test_an_argument_called_result(tape: Tape) -> None:
    """Where the audited function has a parameter `result` itself, that is what is given."""

    @audited("t", target=lambda result: result, logger=bound_logger(tape))
    def publish(result: str) -> int:
        return 1

    publish("r-1")
    assert tape.record.target == Target("r-1")


def test_constants_and_methods(tape: Tape) -> None:
    """Fixed fields are recorded as they are; `self` is an argument like others."""

    class Shop:
        name = "s"

        @audited("t", target=Target("x", "shop"), user="bob", custom={"g": {"f": 1}}, logger=bound_logger(tape))
        def close(self) -> str:
            return self.name

        @audited("t", target=lambda self: self.name, logger=bound_logger(tape))
        def open(self) -> None:
            raise OrderError

    assert Shop().close() == "s"
    assert (tape.record.target, tape.record.user, tape.record.custom) == (Target("x", "shop"), "bob", {"g": {"f": 1}})
    with pytest.raises(OrderError):
        Shop().open()
    assert tape.record.target == Target("s")


HOSTILE: list[Any] = [["a"], {"a": 1}, b"x", 1.5, True, Unprintable(), "\ud800", "", "x" * 100_000]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_what_clients_send_never_suppresses_the_record(tape: Tape, value: Any) -> None:
    """Values of any type, where names and groups belong, are recorded and marked."""

    def same(body: Any) -> Any:
        return body

    @audited("t", target=same, user=same, custom=same, logger=bound_logger(tape))
    def act(body: Any) -> None: ...

    act(value)
    act({"a b": value, "a_b": {"c": value}})
    assert [record.outcome for record, _ in tape.written] == ["success", "success"]
    assert all(record.altered for record, _ in tape.written)
    assert set(tape.record.custom) == {"a_b"}
    assert "custom.a_b:renamed" in tape.record.altered
    assert f"custom.a_b:converted:{type(value).__name__}" in tape.record.altered or isinstance(value, dict)


def test_functions_that_fail(tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    """A function that raises leaves its field out, with a mark and an error in the log; the call itself goes on."""

    words: dict[int, Any] = {}

    @audited(
        "t", target=lambda body: body["id"], custom=lambda body: body.x, outcome=lambda result: words[result],
        logger=bound_logger(tape),
    )  # fmt: skip
    def act(body: Any) -> int:
        return 1

    assert act([]) == 1
    assert (tape.record.target, tape.record.custom, tape.record.outcome) == (None, {}, "unknown")
    assert set(tape.record.altered) == {
        "target:unresolved:TypeError", "custom:unresolved:AttributeError", "outcome:unresolved:KeyError",
    }  # fmt: skip
    assert len(caplog.records) == 3


def test_bound_values(tape: Tape) -> None:
    """User and session come from the context or the logger, as in any audit call."""
    session = Session("s", "http")
    act = audited("t", logger=bound_logger(tape, user="carol"))(lambda: None)
    with bound_contextvars(session=session, user="alice"):
        act()
    assert (tape.record.user, tape.record.session) == ("carol", session)


def test_what_cannot_be_recorded_raises(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that fails raises at the call, also behind the function's own exception, which stays its context."""

    def write(*_: object) -> Receipt:
        raise ArchiveError("full")

    monkeypatch.setattr(tape.writer, "write", write)

    @audited("t", logger=bound_logger(tape))
    def act(error: Exception | None) -> None:
        if error is not None:
            raise error

    with pytest.raises(ArchiveError):
        act(None)
    with pytest.raises(ArchiveError) as caught:
        act(OrderError("first"))
    assert isinstance(caught.value.__context__, OrderError)


def test_a_wrong_call_stays_a_type_error(tape: Tape) -> None:
    """A call with wrong arguments raises what it did without the decorator, and is recorded as a failure."""

    @audited("t", target=lambda order: order, logger=bound_logger(tape))
    def act(order: str) -> None: ...

    @audited("t", logger=bound_logger(tape))
    async def act_async(order: str) -> None: ...

    wrong: Any = act
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        wrong()
    wrong_async: Any = act_async
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        asyncio.run(wrong_async())
    assert [record.custom for record, _ in tape.written] == [{"error": {"type": "TypeError"}}] * 2


def test_the_source_is_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a logger the function's module is the source."""
    sources: list[str] = []
    monkeypatch.setattr("otel_audit.integrations.audited.get_logger", sources.append)
    audited("t")(lambda: None)
    audited("t")(functools.partial(print))
    assert sources == [__name__, "functools"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"type": ""}, "is no event type"),
        ({"type": 5}, "is no event type"),
        ({"target": 5}, "target=5 cannot be recorded"),
        ({"user": 5}, "user=5"),
        ({"custom": "x"}, "custom='x'"),
        ({"outcome": "failure"}, "outcome='failure' is no function"),
        ({"target": lambda nobody: nobody}, "takes nobody: the audited function has given"),
        ({"target": lambda given, /: given}, "by position"),
        ({"target": int}, "by position|no signature"),
    ],
)
def test_mistakes_show_at_once(arguments: dict[str, Any], complaint: str) -> None:
    """A wrong argument is refused when the function is decorated, not when it is called."""

    def act(given: str) -> None: ...

    with pytest.raises(ConfigError, match=complaint):
        audited(**{"type": "t", **arguments})(act)
    forgotten: Any = audited("t")
    with pytest.raises(ConfigError, match="cannot be audited"):
        forgotten(5)


def test_a_programmer_s_error_raises(tape: Tape) -> None:
    """A logger without a host raises at the call, as in any audit call."""
    act = audited("t", logger=bound_logger(tape, host="*"))(lambda: None)
    with pytest.raises(InvalidRecord, match="host"):
        act()
