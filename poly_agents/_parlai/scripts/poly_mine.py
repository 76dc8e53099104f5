"""`parlai poly_mine -mf MODEL -t TASK --out FILE`: mine the hardest wrong responses of every training example."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

from poly_agents.errors import InputError

DESCRIPTION = """Mine hard negatives: responses of other training examples that a trained model scores high.

Give the file to train_model as --hard-negatives-file. A killed run resumes.
"""


@register_script("poly_mine")
class PolyMine(ParlaiScript):
    """Writes a file of hard negatives."""

    @classmethod
    def setup_args(cls):
        """Declare the flags of the command."""
        parser = ParlaiParser(True, False, DESCRIPTION)
        group = parser.add_argument_group("poly_mine")
        group.add_argument(
            "-mf",
            "--model-file",
            required=True,
            help="trained model that can encode candidates ahead (not cross or uni)",
        )
        group.add_argument("--out", required=True, help="file to write")
        group.add_argument("--hard-negatives", type=int, help="number of negatives for each example")
        group.add_argument(
            "--hard-negatives-margin",
            type=float,
            default=0.0,
            help="leave out responses that score above the right response minus this: they may be right too",
        )
        # The agent of -mf declares the same flag with a default of 0; only a default of the parser outlives that.
        parser.set_defaults(hard_negatives=10)
        return parser

    def run(self):
        """Mine and print where the file is."""
        from poly_agents import load
        from poly_agents.agents import teachers
        from poly_agents.learning import negatives
        from poly_agents.learning.training import TrainingOptions

        TrainingOptions.of(self.opt)
        if self.opt["hard_negatives"] < 1:
            raise InputError(f"--hard-negatives must be at least 1, got {self.opt['hard_negatives']}")
        examples = list(teachers.response_examples(self.opt, "train"))
        model, out = load(self.opt["model_file"]), self.opt["out"]
        negatives.mine(out, model, examples, self.opt["hard_negatives"], self.opt["hard_negatives_margin"])
        print(f"the hard negatives of {len(examples):,} examples are in {out}")
