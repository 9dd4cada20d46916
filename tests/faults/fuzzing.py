"""What hostile input must not do: each target makes some of bytes, hands it over, and looks at what came of it."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click
import requests
from requests.structures import CaseInsensitiveDict

from otel_audit.archive.derive import derived
from otel_audit.archive.proof import check_proof, prove_inclusion
from otel_audit.archive.query import open_archive
from otel_audit.archive.report import Root
from otel_audit.cli.run import command_line, run
from otel_audit.cli.times import parse_duration, parse_time
from otel_audit.config import Config
from otel_audit.delivery.http import HttpSender
from otel_audit.delivery.sender import Verdict
from otel_audit.errors import ConfigError, IntegrityError, InvalidRecord
from otel_audit.keys import load
from otel_audit.notes import Checkpoint, Verifier, parse_note, sign_note
from otel_audit.otlp import decode, encode, read_log
from otel_audit.otlp_settings import OtlpSettings
from otel_audit.privacy.location import locate
from otel_audit.privacy.pseudonyms import load_key
from otel_audit.producer import ProducerKey
from otel_audit.producer_keys import ALGORITHMS, load_verifier
from otel_audit.record import Session
from otel_audit.retention_settings import resolve_retention
from tests.archive_material import connect, provider_at
from tests.command_line import HOSTILE
from tests.faults.inputs import Source
from tests.mmdb import write_mmdb

__all__ = ["TARGETS", "Bench"]

ID: Final = "01a201a3-5672-7d46-8c07-6aed0a95df89"
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_COMMANDS: Final = (
    ("show",), ("show",), ("stats",), ("status",), ("verify",), ("prove",), ("verify-proof", "-"), ("hold", "list"),
    ("prune", "--dry-run"), ("erase", "--dry-run"),
)  # fmt: skip
"""Those that change nothing."""
_NOT_FUZZED: Final = {"archive", "follow", "checkpoint", "jobs", "help", "dry_run", "progress", "vacuum"}
"""Options that write files, wait for ever, or start processes."""
_VARIABLES: Final = (
    "ARCHIVE", "HOST", "PROFILE", "DURABILITY", "ON_FAILURE", "GEOIP", "REDACT", "IP_PREFIX_V4", "IP_PREFIX_V6",
    "DROP_IP", "PSEUDONYM_KEY", "PSEUDONYMISE", "CHECKPOINT_INTERVAL", "HIGH_WATER", "SIGNING_KEY", "INTEGRITY_KEY",
    "RETENTION", "INTEGRITY_ALGORITHM", "INTEGRITY_CERTIFICATE", "DISK_WARNING", "DISK_CRITICAL", "DISK_RESERVE",
)  # fmt: skip
_OTEL_VARIABLES: Final = (
    "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_LOGS_EXPORTER", "OTEL_SDK_DISABLED",
    "OTEL_EXPORTER_OTLP_INSECURE",
    *(f"OTEL_EXPORTER_OTLP_{name}" for name in ("ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION")),
    *(f"OTEL_EXPORTER_OTLP_LOGS_{name}" for name in ("ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "CERTIFICATE")),
)  # fmt: skip


class Bench:
    """What the targets work on: archives, a proof, a database of addresses; in a folder of its own.

    Args:
        folder: An empty directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown = folder / "shown" / "audit.db"
        with provider_at(self.shown, high_water=False, checkpoint_interval=0) as provider:
            for name, text in HOSTILE.items():
                log = provider.get_logger(text, host="example.com").bind(session=Session("s", "http", text, text))
                log.audit(text, user=text, message=text, target=text, custom={"x": {text: text, name: [text]}})
        with open_archive(self.shown) as archive:
            self.proof = json.loads(json.dumps(prove_inclusion(archive, 3)))
            status = archive.status()
            self.root = Root(status.sequence, bytes.fromhex(status.root or ""))
            (self.proved,) = archive.query(after=2, before=4)
        self.count = status.sequence
        self.provider = provider_at(folder / "written" / "audit.db", high_water=False, checkpoint_interval=0)
        self.recorded = 0
        self.note = str(sign_note(str(Checkpoint.of_archive("a" * 32, self.root.size, self.root.hash)), None))
        known = {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}}
        self.mmdb = write_mmdb(folder / "good.mmdb", {"203.0.113.0/24": known, "2001:db8::/32": known}).read_bytes()
        record, _ = self.provider.get_logger("fuzz")._record(self.provider, "audit", "t", {"user": "alice"})
        self.otlp = encode(record, "logs")

    def close(self) -> None:
        """Close the archive that is written to."""
        self.provider.shutdown(1.0)

    # -- recording --

    def client_values(self, source: Source) -> None:
        """Record what clients send: each call is recorded, and what is shown of it steers no terminal."""
        session = Session(*(source.text() for _ in range(6)))
        given: dict[str, Any] = {
            "user": source.text(),
            "session": session,
            "message": source.text(),
            "target": source.text(),
            "custom": {"x": {source.text(2): source.value() for _ in range(source.byte() % 4)}},
            "timestamp": source.number(2**70) - 2**69,
        }
        receipt = self.provider.get_logger("fuzz").audit("user.login.failure", **given)
        self.recorded += 1
        assert receipt.sequence == self.recorded, "a call gave no record of its own"
        with open_archive(self.provider.config.archive) as archive:
            (record,) = archive.query(after=self.recorded - 1)
        assert record.record_id == receipt.record_id
        assert record.user is not None
        if given["user"].isprintable() and len(given["user"]) < 200:
            assert record.user == given["user"]

    def programmers_values(self, source: Source) -> None:
        """Call with anything: either a record, or an error of the programmer's and nothing recorded."""
        names = ("user", "user_id", "session", "actor", "action", "outcome", "target", "custom", "message", "timestamp")
        given: dict[str, Any] = {source.choice(names): source.value() for _ in range(source.byte() % 5)}
        host: Any = source.value() if source.flag() else "example.com"
        type_: Any = source.value() if source.flag() else source.text()
        try:
            receipt = self.provider.get_logger("fuzz").bind(host=host).audit(type_, **given)
        except InvalidRecord as error:
            _demand(error.message, "an error says nothing")
            _demand(self.provider.writer.head == self.recorded, "what was refused is recorded")
        else:
            self.recorded += 1
            assert receipt.sequence == self.recorded

    # -- decoding --

    def otlp_bytes(self, source: Source) -> None:
        """Decode what is no log record, or nearly one: a value, or a ValueError."""
        content = source.changed(self.otlp) if source.flag() else source.rest()
        for read in (read_log, derived, lambda otlp: decode(otlp, ID)):
            try:
                read(content)
            except ValueError:
                continue

    def answers(self, source: Source) -> None:
        """Judge whatever a collector answers: one printable line, and no acceptance of what says otherwise."""
        response = requests.Response()
        response.status_code = source.number(600)
        response.reason = source.text(2)
        kinds = ("application/x-protobuf", "application/json", "text/html", "")
        headers = {"Content-Type": source.choice(kinds), "Retry-After": source.text(3), "Location": source.text(3)}
        response.headers = CaseInsensitiveDict(headers)
        content = source.rest()
        sender = HttpSender(OtlpSettings("http/protobuf", "http://127.0.0.1:9/v1/logs", insecure=True))
        answer = sender._judge(response, content)
        assert answer.reason.isprintable()
        assert len(answer.reason) <= 300
        assert answer.retry_after is None or 0 <= answer.retry_after <= 3_600
        if answer.verdict is Verdict.ACCEPTED:
            assert 200 <= response.status_code < 300

    def proofs(self, source: Source) -> None:
        """Check proofs that somebody changed: one that holds proves what the true one proved."""
        proof: Any = json.loads(json.dumps(self.proof))
        if source.byte() < 32:
            proof = source.json()
        for _ in range(source.byte() % 4):
            part, key = proof, ""
            while isinstance(part, dict) and part:
                key = source.choice(sorted(part))
                if not isinstance(part[key], dict) or source.flag():
                    break
                part = part[key]
            if isinstance(part, dict) and key in part:
                old = part[key]
                part[key] = _like(old, source)
        try:
            proved = check_proof(proof, [self.root])
        except (ConfigError, IntegrityError):
            return
        assert proved.leaf is not None
        assert proved.leaf.record_id == self.proved.record_id
        assert proved.record is None or proved.record.user == self.proved.user

    def notes(self, source: Source) -> None:
        """Read notes, checkpoints and verifiers: a value that says the same again, or a ConfigError."""
        text = (
            source.changed(self.note.encode()).decode("utf-8", "surrogateescape") if source.flag() else source.text(12)
        )
        for read in (parse_note, Checkpoint.parse, Verifier.parse):
            try:
                found = read(text)
            except ConfigError:
                continue
            assert read(str(found)) == found

    # -- texts of operators --

    def times(self, source: Source) -> None:
        """Read time expressions and durations: a number that columns hold, or a ValueError."""
        text = source.text(5)
        for read in (lambda one: parse_time(one, source.number(2**62)), parse_duration):
            try:
                assert isinstance(read(text), int)
            except ValueError as error:
                _demand("give" in str(error), "an error gives no remedy")
        try:
            assert -(2**63) <= parse_time(text, 10**18) < 2**63
        except ValueError:
            return

    def retention(self, source: Source) -> None:
        """Read retention rules from a line, a mapping and a file: rules, or a ConfigError that names the place."""
        given: Any = source.text(10)
        match source.byte() % 3:
            case 0:
                given = {source.text(3): source.text(3) for _ in range(source.byte() % 4)}
            case 1:
                given = self.folder / "rules.toml"
                given.write_bytes(
                    b"[retention]\n" * source.flag() + source.passed(12).encode("utf-8", "surrogateescape")
                )
        try:
            rules = resolve_retention(given, (), {})
        except ConfigError as error:
            _demand(error.hint, "an error gives no remedy")
            return
        for rule in rules.rules:
            assert rule.age is None or rule.age > 0

    def settings(self, source: Source) -> None:
        """Load settings from any environment: a configuration, or a ConfigError with a remedy."""
        names = (*(f"OTEL_AUDIT_{name}" for name in _VARIABLES), *_OTEL_VARIABLES)
        values = {source.choice(names): source.passed(8) for _ in range(1 + source.byte() % 4)}
        with mock.patch.dict(os.environ, values):
            try:
                Config.load()
            except ConfigError as error:
                _demand(error.hint, "an error gives no remedy")

    def key_files(self, source: Source) -> None:
        """Load keys from any content: a key, or a ConfigError that does not quote what may be a secret."""
        path = self.folder / "key"
        content = source.passed(12).encode("utf-8", "surrogateescape") + source.rest()
        if source.flag():
            content = base64.b64encode(content)
        path.write_bytes(content)
        path.chmod(0o600)
        algorithm = source.choice((None, *ALGORITHMS))
        loaders: tuple[Callable[[], Any], ...] = (
            lambda: load(path), lambda: ProducerKey.load(path, algorithm), lambda: load_verifier(str(path)),
            lambda: load_key(path),
        )  # fmt: skip
        for loader in loaders:
            try:
                loader()
            except ConfigError as error:
                told = str(error).encode("utf-8", "surrogateescape")
                assert not any(len(part) > 20 and part in told for part in content.split())

    def addresses(self, source: Source) -> None:
        """Read damaged databases of addresses: refused at once, or a session that is as it was, or located."""
        path = self.folder / "some.mmdb"
        path.write_bytes(source.changed(self.mmdb) if source.byte() < 230 else source.rest())
        try:
            processor: Any = locate(path)
        except ConfigError:
            return
        for address in ("203.0.113.7", "2001:db8::1", source.text(2)):
            values = processor(None, "audit", {"event": "t", "session": Session(ip=address)})
            country = values["session"].country
            assert country is None or (isinstance(country, str) and len(country) == 2)

    # -- the command line --

    def filters(self, source: Source) -> None:
        """Query with any text: records, or a ConfigError; nothing else happens to the archive."""
        names = ("host", "user", "outcome", "session", "address", "trace_id", "record_id")
        criteria: dict[str, Any] = {source.choice(names): source.text() for _ in range(source.byte() % 3)}
        criteria["where"] = {source.text(3): source.text(3) for _ in range(source.byte() % 3)}
        criteria["types"] = [source.text(4) for _ in range(source.byte() % 3)]
        try:
            with open_archive(self.shown) as archive:
                found = list(archive.query(**criteria))
        except ConfigError:
            found = []
        assert len(found) <= self.count
        self._see_that_nothing_changed()

    def command_lines(self, source: Source) -> None:
        """Run commands that read with any arguments: a status, at most one complaint, and nothing that steers."""
        words = source.choice(_COMMANDS)
        form = ""
        arguments = list(words)
        for _ in range(source.byte() % 6):
            option = source.choice(_options(words))
            arguments.append(option[0])
            if option[1] is not None:
                arguments.append(source.choice(option[1]) if option[1] else _harmless(source.passed()))
                form = arguments[-1] if option[0] == "-o" else form
        if source.flag():
            arguments.append(_harmless(source.passed()))
        arguments += ["--archive", str(self.shown)]
        status, out, err = _run(arguments, json.dumps(self.proof).encode())
        assert status in {0, 1, 2, 3}, (arguments, status, err)
        assert "Traceback" not in err
        for text in (out, err):
            assert all(line.isprintable() for line in text.replace("\r\n", "\n").split("\n")), (arguments, text)
        if form == "csv" and words == ("show",) and not status:
            rows = list(csv.reader(io.StringIO(out)))
            assert len({len(row) for row in rows}) <= 1, (arguments, out)
            assert not any(cell.lstrip(" ").startswith(_FORMULAS) for row in rows for cell in row), (arguments, out)
        self._see_that_nothing_changed()

    def _see_that_nothing_changed(self) -> None:
        connection = connect(self.shown)
        assert connection.execute("SELECT count(*) FROM record WHERE otlp IS NOT NULL").get == self.count
        connection.close()


def _demand(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def _like(old: Any, source: Source) -> Any:
    """Return a value in place of another, often one of its kind."""
    match source.byte() % 4:
        case 0:
            return source.json()
        case 1 if isinstance(old, str):
            return source.changed(old.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        case 2 if isinstance(old, list) and old:
            return old[: source.number(len(old))]
        case _ if isinstance(old, int):
            return old + source.number(5) - 2
    return source.text()


def _harmless(text: str) -> str:
    """Return an argument that is no expression whose search takes for ever: whoever gives one waits for it."""
    return text if sum(text.count(sign) for sign in "*+{") < 2 else "x"


def _options(words: tuple[str, ...]) -> list[tuple[str, tuple[str, ...] | None]]:
    """Return the options of a command, each with its choices; none for a flag, empty for any text."""
    command: Any = command_line
    with click.Context(command_line) as context:
        for word in (word for word in words if not word.startswith("-")):
            command = command.get_command(context, word)
    found: list[tuple[str, tuple[str, ...] | None]] = [("--no-such-option", None)]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in _NOT_FUZZED:
            choices = tuple(parameter.type.choices) if isinstance(parameter.type, click.Choice) else ()
            found.append((parameter.opts[0], None if parameter.is_flag else choices))
    return found


def _run(arguments: list[str], stdin: bytes) -> tuple[int, str, str]:
    """Run a command line in this process; return its status, and what it wrote."""
    with _captured(stdin) as (out, err):
        status = run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    return status, out.getvalue().decode("utf-8"), err.getvalue().decode("utf-8")


@contextmanager
def _captured(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    out, err = io.BytesIO(), io.BytesIO()
    streams: dict[str, Any] = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin)),
        "stdout": io.TextIOWrapper(out, encoding="utf-8"),
        "stderr": io.TextIOWrapper(err, encoding="utf-8"),
    }
    with mock.patch.multiple(sys, spec=None, **streams):
        try:
            yield out, err
        finally:
            for stream in streams.values():
                stream.detach()


TARGETS: Final = (
    "client_values", "programmers_values", "otlp_bytes", "answers", "proofs", "notes", "times", "retention", "settings",
    "key_files", "addresses", "filters", "command_lines",
)  # fmt: skip
"""Methods of `Bench`."""
