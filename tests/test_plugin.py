"""The plug-in as a user installs it: fresh environments, real processes, the bare command."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1]
SHORT = "--text-truncate 31 --label-truncate 13 -bs 4 --precision float32 --poly-codes 3".split()
ONE_STEP = [*SHORT, *"--max-train-steps 1 --validation-max-exs 4 --short-final-eval true --loglevel warn".split()]


class Environment:
    """A virtual environment that borrows the heavy packages, so only our own install is fresh."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python*/site-packages"))
        (self.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "-q"]
        subprocess.run([*pip, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=120)

    def run(self, *arguments, ok=True, **options) -> str:
        """Output of a Python command, run in the environment's own folder."""
        options["env"] = os.environ | options.get("env", {}) | {"HF_HUB_OFFLINE": "1"}
        command = [str(part) for part in (self.python, *arguments)]
        ran = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, **options)
        assert (ran.returncode == 0) == ok, ran.stdout[-2000:] + ran.stderr[-4000:]
        return ran.stdout + ran.stderr

    def parlai(self, *arguments, **options) -> str:
        return self.run("-m", "parlai", *arguments, **options)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """The project's files alone, so that an install writes nothing into the checkout."""
    copy = tmp_path_factory.mktemp("source") / "poly_agents"
    keep = ["poly_agents", "tasks", "zoo", "setup.py", "pyproject.toml", "README.md", "poly_agents.pth"]
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    copy.mkdir()
    for name in keep:
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, copy / name, ignore=ignored)
        else:
            shutil.copy(SOURCE / name, copy / name)
    return copy


@pytest.fixture(scope="session", params=["wheel", "ordinary", "editable"])
def installed(request, source, tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp(request.param) / "env")
    flags = ["--no-deps", "--no-build-isolation", "--no-index"]
    if request.param == "wheel":
        dist = tmp_path_factory.mktemp("dist")
        environment.pip("wheel", *flags, "-w", dist, source)
        environment.pip("install", *flags, next(dist.glob("*.whl")))
    else:
        environment.pip("install", *flags, *["-e"] * (request.param == "editable"), source)
    environment.kind = request.param
    return environment


@pytest.fixture(scope="session")
def environment(source, tmp_path_factory) -> Environment:
    """One ordinary install, for all that does not depend on how."""
    environment = Environment(tmp_path_factory.mktemp("plain") / "env")
    environment.pip("install", "--no-deps", "--no-build-isolation", "--no-index", source)
    return environment


def train(environment, tiny, *arguments, name="model", **options) -> str:
    model = ["-m", "poly_agents/poly", "--backbone", tiny, "-mf", f"models/{name}"]
    return environment.parlai("train_model", *model, *ONE_STEP, *arguments, **options)


@pytest.fixture(scope="session")
def model(environment, tiny) -> str:
    """A model file in the environment's folder."""
    train(environment, tiny, "-t", "poly_agents:chitchat", name="chat")
    return "models/chat"


def test_every_kind_of_install_trains_evaluates_and_uninstalls(installed, tiny):
    train(installed, tiny, "-t", "poly_agents:chitchat")
    assert (installed.folder / "models/model.opt").exists()
    out = installed.parlai("eval_model", "-mf", "models/model", "-t", "poly_agents:chitchat", "-ne", "4", "-bs", "2")
    assert "hits@1" in out
    assert installed.run("-c", "from parlai.zoo.poly_agents.minilm import download; print(download.__name__)")
    assert (installed.packages / "poly_agents.pth").exists()
    installed.pip("uninstall", "-y", "poly_agents")
    assert not (installed.packages / "poly_agents.pth").exists()
    assert installed.run("-c", "import sys; print('started')") == "started\n"


def test_task_flags_and_two_tasks_at_once(environment, tiny, tmp_path):
    rows = [json.dumps({"context": [f"hi {i}"], "response": f"fine {i}"}) for i in range(23)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    tasks = ["-t", "poly_agents:chitchat:mutators=flatten,poly_agents:jsonl", "--jsonl-path", tmp_path / "mine.jsonl"]
    out = train(environment, tiny, *tasks, "--loglevel", "report", name="two")
    assert "poly_agents:jsonl" in out and "poly_agents:chitchat" in out


def test_scripts_run_as_modules(environment, tiny):
    model = ["-m", "poly_agents/poly", "--backbone", tiny, "-mf", "models/module"]
    environment.run("-m", "parlai.scripts.train_model", *model, "-t", "poly_agents:chitchat", *ONE_STEP)
    assert (environment.folder / "models/module").exists()


def test_a_spawned_worker_finds_the_agent(environment):
    script = environment.folder / "spawn.py"
    script.write_text(
        "import multiprocessing\n"
        "def work(queue):\n"
        "    from parlai.core.loader import load_agent_module, load_teacher_module\n"
        "    queue.put((load_agent_module('poly_agents/poly').__name__,\n"
        "               load_teacher_module('poly_agents:chitchat').__name__))\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    worker = context.Process(target=work, args=(queue,))\n"
        "    worker.start()\n"
        "    print(*queue.get(timeout=120))\n"
        "    worker.join()\n"
    )
    assert "PolyAgent ChitchatTeacher" in environment.run(script)


def test_chats_and_data_are_shown(environment, model):
    quiet = ["--loglevel", "error"]
    said = "hello how are you\nwhat is your name\n[EXIT]\n"
    chat = environment.parlai("interactive", "-mf", model, "--show-candidates", "2", *quiet, input=said)
    assert chat.count("[Poly]") == 2
    assert "hello how are you\n" in chat and "what is your name\n" in chat  # a chat that is piped in shows both sides
    with_task = environment.parlai("interactive", "-mf", model, "-t", "poly_agents:chitchat", *quiet, input=said)
    assert with_task.count("[Poly]") == 2
    pool = environment.folder / "pool.txt"
    pool.write_text("fine thanks\nmy cat\n")
    own = environment.parlai("interactive", "-mf", model, "-fcp", pool, *quiet, input=said)
    assert "fine thanks" in own and "my cat" in own
    selfchat = ["self_chat", "-mf", model, "-t", "poly_agents:chitchat", "--num-self-chats", "1"]
    assert "Poly" in environment.parlai(*selfchat, "--selfchat-max-turns", "3", "-fcp", pool)
    assert "NEW EPISODE" in environment.parlai("display_data", "-t", "poly_agents:chitchat", "-n", "2")
    shown = environment.parlai("display_model", "-mf", model, "-t", "poly_agents:chitchat", "-n", "1",
                               "--show-candidates", "2")  # fmt: skip
    assert "[ranking]" in shown


def test_interactive_web_answers_with_scores(environment, model, tmp_path):
    pool = tmp_path / "pool.txt"
    pool.write_text("fine thanks\nmy cat\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [environment.python, "-m", "parlai", "interactive_web", "-mf", model, "-fcp", pool]
    server = subprocess.Popen([*command, "--port", str(port), "--show-candidates", "2"], cwd=environment.folder)
    try:
        for _ in range(120):
            try:
                request = urllib.request.Request(f"http://localhost:{port}/interact", data=b"hello how are you")
                reply = json.load(urllib.request.urlopen(request, timeout=20))
                break
            except OSError:
                time.sleep(0.5)
        lines = reply["text"].split("\n")
        assert lines[0] in ("fine thanks", "my cat") and len(lines) == 3
        assert len(reply["candidate_scores"]) == 2
        page = urllib.request.urlopen(f"http://localhost:{port}/", timeout=20).read().decode()
        assert "<title>Chat</title>" in page and "//" not in page  # no address of another host
        for path, body in (("/nothing", None), ("/nothing", b"hello"), ("/interact/", b"hello")):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://localhost:{port}{path}", data=body, timeout=20)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"http://localhost:{port}/interact", data=b"\xff", timeout=20)
    finally:
        server.kill()
        server.wait()


def test_a_user_s_own_parlai_internal_stays(environment):
    own = environment.folder / "parlai_internal" / "agents" / "mine"
    own.mkdir(parents=True)
    for folder in (own.parents[1], own.parents[0], own):
        (folder / "__init__.py").write_text("")
    (own / "mine.py").write_text("from parlai.core.agents import Agent\nclass MineAgent(Agent):\n    pass\n")
    code = (
        "from parlai.core.loader import load_agent_module as load\n"
        "print(load('internal:mine').__name__, load('poly_agents/poly').__name__)"
    )
    assert "MineAgent PolyAgent" in environment.run("-c", code)
    shutil.rmtree(environment.folder / "parlai_internal")


def test_without_the_hook_the_full_names_work(environment, tiny):
    off = {"POLY_AGENTS_PLUGIN": "0"}
    task = "poly_agents.tasks.chitchat:ChitchatTeacher"
    model = ["-m", "poly_agents.poly:PolyAgent", "--backbone", tiny, "-mf", "models/off"]
    # ParlAI's default scheduler needs a patch, although ParlAI is imported before poly_agents here
    environment.parlai("train_model", *model, "-t", task, *ONE_STEP, "--lr-scheduler", "reduceonplateau", env=off)
    environment.parlai("train_model", "-m", "poly_agents/poly", "-t", task, env=off, ok=False)


def test_parlai_s_own_polyencoder_trains_saves_and_loads(environment):
    short = ["-vme", "8", "--short-final-eval", "true", "--save-after-valid", "true", "-vstep", "1"]
    size = "--n-layers 1 --embedding-size 8 --ffn-size 8 --n-heads 2 --dict-tokenizer space".split()
    task = ["-t", "integration_tests:candidate", "-mf", "models/stock", "-bs", "4", "--loglevel", "report"]
    model = ["-m", "transformer/polyencoder", "-cands", "batch", "-ecands", "inline", *size]
    for steps in ("2", "4"):
        environment.parlai("train_model", *model, *task, "--max-train-steps", steps, *short)
    assert "hits@1" in environment.parlai("eval_model", *task, "-ne", "8")


def test_parlai_s_checkpoints_load_with_torch_s_check_on(environment):
    code = (
        "import torch, numpy, parlai.core.opt as o\n"
        "torch.save({'opt': o.Opt(a=1), 'n': numpy.float64(2.5), 'i': numpy.int64(3)}, 'states')\n"
        "print(torch.load('states', weights_only=True))"
    )
    assert "2.5" in environment.run("-c", code)


def test_a_broken_install_never_breaks_an_interpreter(source, tmp_path):
    environment = Environment(tmp_path / "env")
    environment.pip("install", "--no-deps", "--no-build-isolation", "--no-index", source)
    (environment.packages / "poly_agents" / "plugin.py").write_text("this is not Python")
    assert environment.run("-c", "print('started')") == "started\n"
    shutil.rmtree(environment.packages / "poly_agents")
    assert environment.run("-c", "print('started')") == "started\n"


def test_the_hook_imports_neither_parlai_nor_torch(environment):
    code = "import sys; print(sorted(m for m in ('parlai', 'torch', 'transformers') if m in sys.modules))"
    assert environment.run("-c", code) == "[]\n"


def test_without_parlai_rankers_work_and_agents_give_the_command_to_type(environment):
    missing = "import sys; sys.modules['parlai'] = None; "
    environment.run("-c", missing + "import poly_agents.rankers.poly")
    out = environment.run("-c", missing + "import poly_agents.agents", ok=False)
    assert "pip install --no-deps parlai==1.7.2" in out.splitlines()[-1]


def test_unknown_tasks_and_agents_name_the_near_ones(environment):
    out = environment.parlai("display_data", "-t", "poly_agents:chitchatt", ok=False)
    assert "there is no task 'chitchatt'; did you mean 'chitchat'? There are: beir, chitchat" in out
    out = environment.parlai("eval_model", "-m", "poly_agents/polly", "-t", "poly_agents:chitchat", ok=False)
    assert "there is no agent 'polly'; did you mean 'poly'? There are: bi, " in out
