"""The Go programs that tests run: found where they were built, skipped with a reason where not, demanded in CI."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests import collector_build


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have one program, made from one file; return that file."""
    source = tmp_path / "source"
    source.write_text("one", "utf-8")
    monkeypatch.setattr(collector_build, "SOURCES", {"program": (source,)})
    monkeypatch.setattr(collector_build, "BUILT", tmp_path / "built")
    monkeypatch.setattr(collector_build, "ROOT", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    return source


def build(monkeypatch: pytest.MonkeyPatch, said: str) -> int:
    def builder(go: Path, folder: Path) -> Path:
        (folder / "program").write_text(said, "utf-8")
        return folder / "program"

    monkeypatch.setattr(collector_build, "_BUILDERS", {"program": builder})
    monkeypatch.setattr(collector_build, "_go", lambda: Path("go"))
    return collector_build.main()


def test_what_is_missing(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was not built skips the test and names the remedy; in CI it fails."""
    with pytest.raises(pytest.skip.Exception, match="make peers"):
        collector_build.needed("program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make peers"):
        collector_build.needed("program")


def test_built_once_for_each_state_of_its_sources(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built once; when its source changes it is built anew, and the older one goes."""
    assert build(monkeypatch, "first") == 0
    assert build(monkeypatch, "again") == 0
    assert collector_build.needed("program").read_text("utf-8") == "first"
    program.write_text("two", "utf-8")
    with pytest.raises(pytest.skip.Exception):
        collector_build.needed("program")
    assert build(monkeypatch, "second") == 0
    assert collector_build.needed("program").read_text("utf-8") == "second"
    assert len(list(collector_build.BUILT.iterdir())) == 1


def test_a_build_that_fails(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the builder says is shown, and nothing is left behind."""

    def builder(go: Path, folder: Path) -> Path:
        collector_build._run(go, folder, "build", "./nowhere")
        raise AssertionError("it should have failed")

    broken = tmp_path / "go"
    broken.write_text("#!/bin/sh\necho no such package\nexit 1\n", "utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(collector_build, "_BUILDERS", {"program": builder})
    monkeypatch.setattr(collector_build, "_go", lambda: broken)
    assert collector_build.main() == 1
    assert "no such package" in capsys.readouterr().err
    assert list(collector_build.BUILT.iterdir()) == []


@pytest.mark.parametrize(("said", "expected"), [("go1.26.8", (1, 26)), ("go1.19", (1, 19)), ("", ()), ("devel", ())])
def test_the_version_of_go(said: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    """A Go's version is read; what says none is too old."""
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho {said}\n", "utf-8")
    go.chmod(0o755)
    assert collector_build._version(go) == expected
    assert (collector_build._version(go) >= collector_build.OLDEST_GO) == (said == "go1.26.8")


@pytest.mark.parametrize(("version", "taken"), [("go1.25.9", False), ("go1.26.0", True)])
def test_which_go_is_taken(version: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's Go is taken where it is new enough; else the one of the wheel, which is installed once."""
    here, built = tmp_path / "bin" / "go", tmp_path / "built"
    here.parent.mkdir()
    here.write_text(f"#!/bin/sh\necho {version}\n", "utf-8")
    here.chmod(0o755)
    digest = hashlib.sha256(collector_build.TOOLCHAIN.read_bytes()).hexdigest()[:16]
    installed = built / f"go-{digest}" / "go" / "bin" / "go"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setenv("PATH", f"{here.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(collector_build, "BUILT", built)
    assert collector_build._go() == (here if taken else installed)
