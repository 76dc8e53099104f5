"""`parlai vacuum` takes the optimizer out of our checkpoints, and leaves our models alone."""

from pathlib import Path

from parlai.scripts.train_model import TrainModel
from parlai.scripts.vacuum import Vacuum

import poly_agents
from poly_agents.files import checkpoint


def test_a_checkpoint_loses_its_optimizer_and_keeps_its_weights(options, tiny, tmp_path, capsys):
    given = options | {"backbone": tiny, "model": "poly_agents/poly", "max_train_steps": 2, "save_every_n_secs": 1e-9}
    TrainModel.main(**given, validation_every_n_epochs=-1, short_final_eval=True, validation_max_exs=5)
    path = f"{tmp_path}/model.checkpoint"
    whole = checkpoint.read(path)
    capsys.readouterr()
    Vacuum.main(model_file=path)
    small = checkpoint.read(path)
    assert whole.optimizer and small.optimizer is None and "without its optimizer" in capsys.readouterr().out
    assert all(tensor.equal(whole.weights[name]) for name, tensor in small.weights.items())
    assert checkpoint.read(f"{path}.unvacuumed").optimizer
    assert poly_agents.load(path).rank("hello", ["hi", "no"])


def test_a_model_without_an_optimizer_stays_as_it_is(trained, capsys):
    before = Path(trained["bi"]).read_bytes()
    Vacuum.main(model_file=trained["bi"])
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing to do: {trained['bi']} holds no optimizer"
    assert Path(trained["bi"]).read_bytes() == before
