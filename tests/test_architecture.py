"""Imports run one way, ParlAI stays in two folders, files and classes stay small, plain Python stays light."""

import ast
import json
import os
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]

# Imports run down this list only.
ORDER = [
    "_parlai",
    "poly_agents",  # __init__.py
    "plugin",
    "tasks",
    "agents",
    "learning",
    "export",
    "zoo",
    "models",
    "rankers",
    "candidates",
    "evaluation",
    "pretrained",
    "scoring",
    "patches",
    "processes",
    "process_group",
    "encoders",
    "text",
    "options",
    "files",
    "errors",
    "progress",
]
KNOWS_PARLAI = ("poly_agents.agents", "poly_agents._parlai", "poly_agents.agents.teachers.response")

# Modules that are imported by a computed name: what the names can be.
LOOKUPS = {
    "poly_agents.rankers": "poly_agents.rankers",
    "poly_agents.tasks": "poly_agents.tasks",
    "poly_agents.zoo.cards": "poly_agents.rankers",
    "poly_agents.agents": "parlai",
    "poly_agents.patches": "poly_agents.patches",
    "poly_agents.agents.teachers.reading": "zstandard",
}
MOST_LINES, MOST_OF_A_CLASS = 300, 240


def house(folder: Path) -> Path:
    """Copy the package as it is installed: `zoo` and `tasks` are folders of it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "poly_agents", folder / "poly_agents", ignore=ignore)
    for name in ("zoo", "tasks"):
        shutil.copytree(ROOT / name, folder / "poly_agents" / name, ignore=ignore)
    for path in (folder / "poly_agents" / "_parlai").rglob("*"):  # ParlAI makes packages of them
        if path.is_dir() and not (path / "__init__.py").exists():
            (path / "__init__.py").touch()
    (folder / "poly_agents" / "_parlai" / "__init__.py").touch()
    return folder


def imports_of(folder: Path) -> dict[str, set[str]]:
    """Read every import of the package, module -> modules, those inside of functions too."""
    script = (
        "import grimp, json, sys; sys.path.insert(0, sys.argv[1]);"
        "graph = grimp.build_graph('poly_agents', include_external_packages=True, cache_dir=None);"
        "print(json.dumps({m: sorted(graph.find_modules_directly_imported_by(m)) for m in graph.modules}))"
    )
    environment = os.environ | {"POLY_AGENTS_PLUGIN": "0"}
    command = [sys.executable, "-S", "-c", script, str(folder)]
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(Path(grimp.__file__).parents[1])])
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    imports = {module: set(others) for module, others in json.loads(done.stdout).items()}
    for module, package in LOOKUPS.items():
        imports[module] |= {name for name in imports if name.startswith(f"{package}.")} or {package}
    return imports


def room(module: str) -> str:
    """Name the folder, or the top-level file, that a module is in."""
    return module.split(".")[1] if "." in module else module


def faults(imports: dict[str, set[str]]) -> list[str]:
    """Say what is wrong with some imports."""
    ours = {
        module: {other for other in others if other.startswith("poly_agents")} - {module}
        for module, others in imports.items()
        if module.startswith("poly_agents")
    }
    found = []
    try:
        TopologicalSorter(ours).prepare()
    except CycleError as error:
        found.append(f"a circle of files: {' <- '.join(error.args[1])}")
    for module, others in sorted(ours.items()):
        for other in sorted(others):
            if ORDER.index(room(module)) > ORDER.index(room(other)):
                found.append(f"{module} imports {other}, which is above it")
    for module, others in sorted(imports.items()):
        if "parlai" in others and not module.startswith(KNOWS_PARLAI):
            found.append(f"{module} imports parlai; only {' and '.join(KNOWS_PARLAI)} may")
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    return house(tmp_path_factory.mktemp("house"))


def test_imports_run_one_way_and_few_know_parlai(copy):
    assert faults(imports_of(copy)) == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("text/tokens.py", "from poly_agents.scoring import maths", "which is above it"),
        ("scoring/ranker_options.py", "def f():\n    from poly_agents.scoring import reduction", "a circle of files"),
        ("rankers/bi.py", "from parlai.core.agents import Agent", "poly_agents.rankers.bi imports parlai"),
        ("models/textranker.py", "from poly_agents import zoo", "which is above it"),
        ("candidates/milvus.py", "from poly_agents.agents.ranker_agent import RankerAgent", "which is above it"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, fault):
    changed = house(tmp_path) / "poly_agents" / file
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    found = faults(imports_of(tmp_path))
    assert any(fault in each for each in found), found


def sources() -> list[Path]:
    """List every Python file of the project."""
    folders = ("poly_agents", "zoo", "tasks", "tests", "benchmarks")
    return [*(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))), ROOT / "setup.py"]


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"poly_agents.{name}" if name.startswith(("zoo", "tasks")) else name


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_classes_are_small_and_imports_come_first(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES or "# long because " in text, f"{path} is long; split it, or say why"
    if path != Path(__file__):
        assert "noqa: E402" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MOST_OF_A_CLASS, f"class {node.name} of {path} has {lines} lines"


def test_every_import_by_a_computed_name_is_known():
    found = set()
    for path in sources():
        module = module_of(path)
        if not module.startswith("poly_agents"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
                found.add(module)
    assert found == set(LOOKUPS)


def fresh(code: str) -> subprocess.CompletedProcess:
    """Run code in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_package_alone_imports_nothing_heavy():
    done = fresh(
        "import sys, poly_agents;"
        "heavy = {'torch', 'transformers', 'parlai', 'numpy', 'pymilvus', 'tqdm', 'dataclasses'};"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_loading_and_ranking_import_neither_parlai_nor_mining_nor_a_database(trained):
    done = fresh(
        f"import sys, poly_agents; model = poly_agents.load({trained['poly']!r}, 'float32');"
        "assert model.rank('hello how', ['fine thanks', 'my cat'])[0].text;"
        "heavy = ('parlai', 'pymilvus', 'poly_agents.learning', 'poly_agents.agents', 'poly_agents.export', 'sklearn');"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stdout + done.stderr
