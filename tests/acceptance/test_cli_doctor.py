"""``otel-audit doctor`` tells of findings as text and as JSON, exits by their severity, and harms no reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otel_audit.testing import Collector
from tests.acceptance.test_cli_start import SLOW, imported
from tests.command_line import HOSTILE, fill, on_terminal, otel_audit
from tests.doctor_material import SOUND, calm


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive with one event."""
    fill(archive_path, [{"user": "alice"}])
    return archive_path


def configuration(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write a Collector's configuration, a sound one but for some changes."""
    text = SOUND
    for old, new in changes:
        text = text.replace(old, new)
    file = folder / "collector.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def findings(*arguments: str | Path, status: int = 0, **changes: str | None) -> list[dict[str, Any]]:
    """Return the findings that the command prints as JSON, save what depends on the machine's file system."""
    told = json.loads(otel_audit("doctor", "-o", "json", *arguments, status=status, **changes).stdout)["findings"]
    return [one for one in told if not one["code"].endswith("-file-system")]


def test_the_probe_is_delivered(archive: Path) -> None:
    """With a collector the probe arrives there, the output says so, and the exit status is 0."""
    with Collector() as collector:
        variable = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        done = otel_audit("doctor", "--archive", archive, status=calm(archive), **variable)
        assert [record.event_name for record in collector.records][-1] == "audit.probe"
    assert f"note:    the probe, record 3, was accepted by {collector.endpoint}/v1/logs after " in done.stdout
    assert done.stdout.splitlines()[-1].endswith(("1 note", "2 notes"))
    assert done.stderr == ""


def test_no_probe(archive: Path) -> None:
    """With --no-probe nothing is recorded."""
    with Collector() as collector:
        variable = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        otel_audit("doctor", "--no-probe", "--archive", archive, status=calm(archive), **variable)
        assert collector.records == []


def test_errors_and_warnings_exit_with_1(archive: Path, tmp_path: Path) -> None:
    """Notes alone exit with 0, a warning or an error with 1; the gravest stand first."""
    otel_audit("doctor", "--archive", archive, status=calm(archive))
    otel_audit("doctor", "--archive", archive, OTEL_AUDIT_HOTS="a", status=1)
    file = configuration(
        tmp_path, ("    fsync: true\n", ""), ("127.0.0.1", "0.0.0.0"), ("processors: []", "processors: [resource]")
    )
    with file.open("a") as opened:
        opened.write("processors: {resource: }\n")
    done = otel_audit("doctor", "--archive", archive, "--collector-config", file, status=1)
    words = [line.split(":")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert words[:-1] == sorted(words[:-1], key=["error", "warning", "note"].index)
    assert {"error", "warning", "note"} <= set(words)
    assert f"error:   {file}:17: file_storage does not sync its files\n" in done.stdout
    assert "         a power cut loses what was acknowledged last\n         -> fsync: true\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 error, ")
    assert done.stderr == ""


def test_json_has_all_of_it(archive: Path, tmp_path: Path) -> None:
    """JSON holds of each finding severity, code, texts, file and line."""
    file = configuration(tmp_path, ("      max_elapsed_time: 0", "      max_elapsed_time: 1m"))
    told = findings("--archive", archive, "--collector-config", file, status=1)
    assert told[0] == {
        "severity": "error",
        "code": "retry-gives-up",
        "what": "otlp_grpc gives up after 1m",
        "why": "an outage that lasts longer drops what was acknowledged",
        "remedy": "retry_on_failure: {max_elapsed_time: 0}",
        "file": str(file),
        "line": 11,
    }
    assert [one["code"] for one in told[1:]] == ["destination-none"]
    assert told[1]["file"] is None


def test_several_files(archive: Path, tmp_path: Path) -> None:
    """--collector-config may be given again: the later file wins."""
    other = tmp_path / "other.yaml"
    other.write_text("extensions: {file_storage: {fsync: false}}\n")
    given = ("--archive", archive, "--collector-config", configuration(tmp_path), "--collector-config", other)
    told = findings(*given, status=1)
    assert (told[0]["code"], told[0]["file"], told[0]["line"]) == ("storage-fsync", str(other), 1)


def test_a_machine_without_an_archive(tmp_path: Path) -> None:
    """On a gateway there need be no archive; one that is named, or expected, is missed."""
    told = findings("--collector-config", configuration(tmp_path))
    assert ("archive-missing", "note") in [(one["code"], one["severity"]) for one in told]
    missing = tmp_path / "none" / "audit.db"
    for arguments in (
        (),
        ("--archive", missing),
        ("--archive", missing, "--collector-config", configuration(tmp_path)),
    ):
        told = findings(*arguments, status=1)
        assert ("archive-missing", "warning") in [(one["code"], one["severity"]) for one in told]
    assert not missing.parent.exists()


@pytest.mark.parametrize(
    "content", [None, b"a: [", b"\xff", b"just text", b"[" * 50_000, b"a: &a [*a]", b"\x1b[2J: \x1b[2J"]
)
def test_a_file_that_is_no_configuration(archive: Path, tmp_path: Path, content: bytes | None) -> None:
    """A file that cannot be read is one harmless line on standard error, and the exit status is 2."""
    file = tmp_path / "file.yaml"
    if content is not None:
        file.write_bytes(content)
    done = otel_audit("doctor", "--archive", archive, "--collector-config", file, status=2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"otel-audit: {file}")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_hostile_names_are_harmless(archive: Path, tmp_path: Path) -> None:
    """Names in a configuration, and of its file, reach no terminal as they are."""
    name = json.dumps(" ".join(text for name, text in HOSTILE.items() if name not in {"surrogate", "long"}))[1:-1]
    file = tmp_path / "a\x1b[2J.yaml"
    text = SOUND.replace("otlp_grpc", f'"otlp_grpc/{name}"').replace("storage: file_storage", f'storage: "{name}"')
    file.write_text(text, encoding="utf-8")
    shown = on_terminal("doctor", "--archive", archive, "--collector-config", file, status=1)
    told = otel_audit("doctor", "-o", "json", "--archive", archive, "--collector-config", file, status=1).stdout
    for output in (shown, told):
        assert all(character.isprintable() or character == "\n" for character in output)
    assert json.loads(told)["findings"][0]["code"] == "storage-missing"


def test_options(archive: Path) -> None:
    """--timeout and --max-age are heeded."""
    with Collector() as collector:
        otel_audit("ship", "--once", "--archive", archive, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    fill(archive, [{"user": "bob"}])
    assert "lag" not in [one["code"] for one in findings("--archive", archive, status=calm(archive))]
    lagging = findings("--archive", archive, "--max-age", "0s", status=1)
    assert "lag" in [one["code"] for one in lagging]
    done = otel_audit("doctor", "--archive", archive, "--timeout", "0", status=2)
    assert "number of seconds" in done.stderr


def test_reading_needs_nothing_slow(archive: Path) -> None:
    """Without a destination neither senders nor YAML are imported."""
    if calm(archive):
        pytest.skip("the archive is in memory: the command exits with 1")
    modules = imported("doctor", "--archive", archive)
    assert "otel_audit.doctor.examine" in modules
    slow = {name for name in modules if name.split(".")[0] in {"grpc", "requests", "yaml"} or name in SLOW[:2]}
    assert slow == set()
