"""The benchmarks take hours, so only their imports are tested: a name that has moved is found at once."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FILES = sorted(FOLDER.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, str]]:
    """Return module and name of everything of poly_agents that a file imports, in its functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "__name__") for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            found += [(node.module, alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "poly_agents"]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(FOLDER)) for path in FILES])
def test_every_name_that_a_benchmark_imports_exists(path):
    for module, name in imports(path):
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_the_imports_of_a_file_are_found(tmp_path):
    (tmp_path / "file.py").write_text("import os\ndef f():\n    from poly_agents.scoring import maths, no\n")
    assert imports(tmp_path / "file.py") == [("poly_agents.scoring", "maths"), ("poly_agents.scoring", "no")]
    with pytest.raises(ImportError):
        test_every_name_that_a_benchmark_imports_exists(tmp_path / "file.py")
