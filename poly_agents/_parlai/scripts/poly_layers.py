"""`parlai poly_layers --cross-model MODEL -t TASK`: rank with every layer of a cross-encoder."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

from poly_agents.errors import InputError


@register_script("poly_layers")
class PolyLayers(ParlaiScript):
    """Measures how well each layer of a cross-encoder embeds."""

    @classmethod
    def setup_args(cls):
        """Declare the flags of the command."""
        parser = ParlaiParser(
            True, False, "Evaluate every layer of a cross-encoder as an embedding, to help choose --early-layer."
        )
        group = parser.add_argument_group("poly_layers")
        group.add_argument("--cross-model", required=True, help="trained model of -m poly_agents/cross")
        group.add_argument(
            "--bi-model", help="trained model of -m poly_agents/bi, whose layers are shown for comparison"
        )
        group.add_argument(
            "-ne",
            "--num-examples",
            type=int,
            default=1000,
            help="evaluate on the first N examples of --datatype; -1: all",
        )
        group.add_argument("--out", help="folder for layers.json, layers.md and layers.png; default: next to the model")
        parser.set_defaults(datatype="valid")
        return parser

    def run(self):
        """Rank, write the files, and print the table."""
        from itertools import islice
        from pathlib import Path

        from poly_agents import load
        from poly_agents.agents import teachers
        from poly_agents.models import layer_sweep
        from poly_agents.rankers import agent_of

        models = {"cross": load(self.opt["cross_model"])}
        kind = agent_of(type(models["cross"].ranker))
        if kind != "cross":
            raise InputError(
                f"--cross-model {self.opt['cross_model']} is a model of {kind}; give one of -m poly_agents/cross"
            )
        opt, split = self.opt, self.opt["datatype"].split(":")[0]
        count = opt["num_examples"] if opt["num_examples"] > 0 else None
        with_candidates = (example for example in teachers.response_examples(opt, split) if example.candidates)
        examples = list(islice(with_candidates, count))
        if not examples:
            raise InputError(f"the {split} examples of {opt['task']} bring no candidates to rank; give another --task")
        if opt.get("bi_model"):
            models["bi"] = load(opt["bi_model"])
        print(layer_sweep.run(models, examples, Path(opt.get("out") or f"{opt['cross_model']}.layers")))
