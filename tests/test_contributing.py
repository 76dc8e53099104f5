"""The two examples of CONTRIBUTING.md: dropped in as one file each, they are found by laws, commands and worlds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import ROOT, house

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {path: code for path, code in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", TEXT, re.DOTALL)}
ROWS = "what is red ?\tred\tblue|cat\nwhat is six ?\tsix\tdog|my\nhow are you ?\tfine\ttwo|one\n" * 3

RUN = """
import sys
from parlai.core.agents import create_agent
from parlai.core.worlds import create_task
from parlai.core.params import ParlaiParser
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel

given = dict(task="poly_agents:quiz", data_files=sys.argv[2], precision="float32")
TrainModel.main(
    model="poly_agents/bilinear", bilinear_scale=2.0, backbone=sys.argv[1], model_file="model", batchsize=4,
    text_truncate=31, label_truncate=13, max_train_steps=3, **given,
)
print("hits@1", EvalModel.main(model_file="model", datatype="valid", **given)["hits@1"])
opt = ParlaiParser(True, True).parse_kwargs(model_file="model", **given)
for flag in ("interactive_task", "selfchat_task"):
    print("world", type(create_task(opt | {flag: True}, [create_agent(opt)] * 2)).__name__)
import poly_agents
print("ranked", poly_agents.load("model").rank("what is red ?", ["red", "blue"])[0])
"""


@pytest.fixture(scope="module")
def dropped_in(tmp_path_factory) -> Path:
    """A copy of the package, as it is installed, with the two files in their places, and the tests beside it."""
    folder = house(tmp_path_factory.mktemp("contributed"))
    for path, code in EXAMPLES.items():
        place = folder / ("poly_agents" if path.startswith("tasks/") else "") / path
        assert not place.exists(), f"{path} is there already; the example needs a name of its own"
        place.write_text(code, encoding="utf-8")
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "data").mkdir()
    for split in ("train", "valid", "test"):
        (folder / "data" / f"{split}.tsv").write_text(ROWS, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_there_is_one_ranker_and_one_data_set():
    assert sorted(path.split("/")[0] for path in EXAMPLES) == ["poly_agents", "tasks"]


def test_the_laws_find_the_ranker(dropped_in):
    found = run(dropped_in, "-m", "pytest", "tests/test_laws.py", "-k", "bilinear", "-q", "-p", "no:cacheprovider")
    assert int(re.search(r"(\d+) passed", found)[1]) > 10


def test_commands_and_worlds_find_both(dropped_in, tiny):
    found = run(dropped_in, "-c", RUN, tiny, str(dropped_in / "data"))
    assert "hits@1" in found and found.count("world Interactive") == 1 and "world SelfChat" in found
    assert "ranked Ranked(text=" in found
