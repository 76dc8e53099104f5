"""Every command and every Python block of README.md, CONTRIBUTING.md and docs/ works as it is printed.

A block runs in a folder of its page, in the order of the page, over tiny models and data. Before a block stands
`<!-- needs network -->` if it fetches something, or `<!-- long -->` if it takes more than seconds: those commands are
parsed by ParlAI's own parser, so a flag or a task that does not exist fails as well.
"""

import doctest
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from parlai.core.loader import SCRIPT_REGISTRY
from parlai.core.script import setup_script_registry
from parlai.utils import logging as parlai_logging
from parlai.zoo.model_list import model_list

from poly_agents import tasks
from poly_agents.tasks import chitchat
from poly_agents.zoo import catalogue
from tests.agents import text
from tests.data import FIXTURES
from tests.encoders import make_encoder, make_encoder_decoder
from tests.pages import MARKS, PAGES, ROOT, TOP, Block, anchors, blocks, links

LANGUAGES = {"sh", "python", "text", "json"}
# What is added to a command, so that it takes no more than a second or two; the last flag of a name counts.
SHORTER = {
    "train_model": "--max-train-steps 2 -bs 4 --validation-max-exs 4 --short-final-eval true --loglevel error",
    "eval_model": "-ne 4 -bs 4 --loglevel error",
    "display_data": "--loglevel error",
    "interactive": "--loglevel error",
    "poly_layers": "-ne 40",
}
READY = ("demo", "poly", "bi", "cross")  # models that every page finds under models/


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tiny encoders, and a folder to copy: trained models, and data sets that the pages name."""
    root = tmp_path_factory.mktemp("docs")
    bert = make_encoder(root / "bert", "bert", max_position_embeddings=600)
    t5 = make_encoder_decoder(root / "t5")
    setup_script_registry()
    parlai_logging.logger.setLevel("ERROR")
    package = root / "packages" / "chitchat_dataset"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    conversations = {
        f"c{n}": {"messages": [[{"text": text(7 * n + turn, 4)}] for turn in range(4)]} for n in range(200)
    }
    (package / "dataset.json").write_text(json.dumps(conversations))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package.parent))
        chitchat.conversations.cache_clear()
        start = root / "start"
        shutil.copytree(FIXTURES / "mutual", start / "mutual")
        patch.chdir(start)
        for block in (block for page in PAGES for block in blocks(page) if block.title):
            write_file(block)  # a page may use a file that another one shows
        for name in READY:
            agent = "poly" if name == "demo" else name
            words = f"train_model -m poly_agents/{agent} -t poly_agents:chitchat -mf models/{name}/model".split()
            parlai(words, bert, t5)
        yield root, bert, t5
    chitchat.conversations.cache_clear()


def parlai(words: list[str], bert: str, t5: str, only_parse: bool = False) -> None:
    """Run a `parlai` command in this process, or parse it alone. An unknown flag, task or agent fails."""
    name, *given = words
    assert name in SCRIPT_REGISTRY, f"there is no command parlai {name}"
    script = SCRIPT_REGISTRY[name].klass
    more = [] if only_parse else SHORTER.get(name, "").split()
    starts = {"--backbone", "-mf", "--init-model", "--init-cross", "--cross-model", "--retriever"}
    if name == "train_model":
        starts.remove("-mf")
        remove_model(given[given.index("-mf") + 1])
    if name in ("train_model", "eval_model") and not starts & set(given):
        more += ["--backbone", t5 if "poly_agents/ed2lm" in given else bert]
    parser = script.setup_args()
    try:
        opt = parser.parse_args(given + more)
    except SystemExit as stop:
        raise AssertionError(f"parlai {' '.join(words)} is not a valid command line") from stop
    if not only_parse:
        script._run_from_parser_and_opt(opt, parser)


def write_file(block: Block) -> None:
    """A block with a title is that file."""
    path = Path(block.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def remove_model(path: str) -> None:
    """Let a page that trains a model begin without it."""
    for file in Path(path).parent.glob(f"{Path(path).name}*"):
        if file.is_file():
            file.unlink()
        else:
            shutil.rmtree(file)


def offline(word: str) -> str:
    """An address in a zoo is one that exists; a model that is here takes its place."""
    if word.startswith("zoo:poly_agents/"):
        entry = catalogue.ZOO[word.split("/")[1]]
        return f"models/{entry.agent}/model"
    if word.startswith("zoo:"):
        assert f"-mf {word} " in str(model_list) or f"model {word} " in str(model_list), f"ParlAI's zoo has no {word}"
        return "models/poly/model"
    return word


def run_command(words: list[str], block: Block, bert: str, t5: str) -> None:
    """Run one command line, or check as much of it as can be checked here."""
    program, *given = words
    if program == "parlai":
        parlai([offline(word) for word in given] if block.mark else given, bert, t5, only_parse=bool(block.mark))
    elif program == "torchrun":
        parlai(given[given.index("$(which", 0) + 2 :], bert, t5, only_parse=True)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in given), f"no such target: make {given}"
    elif program == "pip":
        check_pip(given)
    elif program.removeprefix(".venv/bin/") in ("python", "ruff"):
        check_python(program, given, block)
    else:
        assert words == ["source", ".venv/bin/activate"], f"nobody knows how to check: {' '.join(words)}"


def check_pip(given: list[str]) -> None:
    """The extras are those of setup.py, and ParlAI's version is that of the Makefile."""
    for word in given[1:]:
        if word.startswith("."):
            extras = re.findall(r"\w+", word)
            assert all(f'"{extra}": [' in (ROOT / "setup.py").read_text() for extra in extras), word
        elif not word.startswith("-"):
            assert word in (ROOT / "Makefile").read_text(), f"the Makefile does not install {word}"


def check_python(program: str, given: list[str], block: Block) -> None:
    """A script exists and has the flags; pytest's files exist; what is neither long nor marked is run."""
    if given[0] == "-m":
        assert all((ROOT / word.split("::")[0]).exists() for word in given if word.startswith("tests/"))
    elif given[0].endswith(".py"):
        source = (ROOT / given[0]).read_text()
        assert all(f'"{word}"' in source for word in given if word.startswith("--")), f"{given[0]} has no such flag"
    elif not block.mark:
        tool = Path(sys.executable).with_name(Path(program).name)
        subprocess.run([tool, *given], cwd=ROOT, check=True, capture_output=True, timeout=60)


def run_python(block: Block, names: dict) -> None:
    """Execute a block; one with prompts is compared with what it prints."""
    if ">>>" not in block.text:
        exec(compile(block.text, block.place, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, block.place, str(block.page), block.line)
    output = io.StringIO()
    result = doctest.DocTestRunner().run(test, out=output.write, clear_globs=False)
    names.update(test.globs)
    assert not result.failed, output.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_python_block_works(page, small, tmp_path, monkeypatch, capsys):
    root, bert, t5 = small
    shutil.copytree(root / "start", tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    names: dict = {}
    for block in blocks(page):
        try:
            if block.title:
                write_file(block)
            elif block.language == "sh":
                for words in block.commands:
                    monkeypatch.setattr("sys.stdin", io.StringIO("hello how are you\n[EXIT]\n"))
                    run_command(words, block, bert, t5)
            elif block.language == "python" and not block.text.startswith("# "):
                run_python(block, names)
        except BaseException as error:
            error.add_note(f"in the block at {block.place}")
            raise


def test_every_block_says_what_it_is():
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) > 50
    assert [b.place for b in found if b.language not in LANGUAGES or b.mark not in ("", *MARKS)] == []
    prompts = [b.place for b in found if b.language == "text" and b.text.startswith("parlai ")]
    assert prompts == [], "a command in a text block is not checked"


def test_every_relative_link_leads_somewhere():
    pages = [*TOP, *(ROOT / folder / "README.md" for folder in ("tasks", "zoo", "benchmarks")), *PAGES]
    dead = []
    for page in pages:
        for link in links(page):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []


def test_the_readme_is_short_and_names_no_package_registry():
    for page in TOP:
        words = page.read_text(encoding="utf-8")
        assert not re.search(r"pypi\.org|download\.pytorch|index-url|PIP_EXTRA", words, re.I)
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_figures_of_the_readme_are_those_of_the_benchmark():
    rankers = json.loads((ROOT / "benchmarks/results/rankers.json").read_text())["rankers"]
    figures = {(f"{100 * row['hits@1'][0]:.1f}", f"{row['ms']['1000']:,.0f}") for row in rankers.values()}
    rows = re.findall(r"^\| `\w+`.*\| ([\d.]+) \| ([\d,]+) \|", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) == 9
    assert set(rows) <= figures


def test_the_readme_counts_the_data_sets():
    own = {"jsonl", "tabs"}
    assert f"{len(set(tasks.names()) - own)} data sets" in (ROOT / "README.md").read_text()


def test_the_pictures_are_those_that_the_script_draws(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pictures

    drawn = pictures.pictures()
    assert len(drawn) == 10
    assert [path.name for path, picture in drawn.items() if path.read_text(encoding="utf-8") != picture] == []


@pytest.mark.parametrize("name", ["hooks", "docstrings"])
def test_the_examples_of_the_build_s_own_code_hold(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation as `make docs` builds it: a dead link or an unknown name fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    tags = r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)"
    assert [(page.name, found) for page in pages for found in re.findall(tags, page.read_text(encoding="utf-8"))] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert not any(re.search(r"url\([\"']?(?:https?:)?//|@import", style) for style in styles)


def test_the_reference_has_every_public_module(site):
    reference = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    modules = set()
    for folder in ("poly_agents", "tasks", "zoo"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "_parlai" not in parts and not any(part.startswith("_") for part in parts):
                modules.add(".".join(parts))
    assert sorted(name for name in modules if f'id="{name}"' not in reference) == []
