"""What holds for the source as a whole: no cycles, nothing leans on the package root, small files, explained tests."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("otel_audit", "tests", "examples")
LONGEST_FILE = 400


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    # Imports inside functions and under TYPE_CHECKING count too: a cycle is one, however late it is closed.
    return grimp.build_graph("otel_audit", cache_dir=None)


def find_cycle(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_a_cycle_is_found() -> None:
    """The search that the next test relies on names the modules of a cycle, and finds none where there is none."""
    assert set(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_import_cycles(graph: grimp.ImportGraph) -> None:
    """No module of the library imports itself over others, late and type-only imports included."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 1
    cycle = find_cycle(imports)
    assert not cycle, " imported by ".join(cycle)


def test_nothing_imports_the_package_root(graph: grimp.ImportGraph) -> None:
    """The library's own modules import each other directly, never over the names that the root offers to users."""
    assert graph.find_modules_that_directly_import("otel_audit") == set()


def test_no_file_is_too_long() -> None:
    """No Python file, tests and examples included, passes the length that a reader can keep in mind."""
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in source_files(*FOLDERS)}
    too_long = {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > LONGEST_FILE}
    assert not too_long


def undocumented_tests(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def test_every_test_says_what_it_shows() -> None:
    """Each test function has a docstring."""
    files = [path for path in source_files("tests") if path.name.startswith("test_")]
    assert files
    assert [name for path in files for name in undocumented_tests(path)] == []
