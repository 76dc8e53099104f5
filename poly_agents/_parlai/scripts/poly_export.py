"""`parlai poly_export -mf MODEL --to FORMAT --out FOLDER`: write a trained model in the format of another library."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

DESCRIPTION = """Export a trained model to a folder that another library can open. The scores are the same.

  sentence-transformers   bi, cross, late
  huggingface             bi (AutoModel), cross (AutoModelForSequenceClassification)
  onnx, torch-export      bi, poly, cross, late (as graphs)

The README.md in the folder says how to open it and how to join the turns of a context.
"""


@register_script("poly_export")
class PolyExport(ParlaiScript):
    """Writes a model in the format of another library."""

    @classmethod
    def setup_args(cls):
        """Declare the flags of the command."""
        parser = ParlaiParser(True, False, DESCRIPTION)
        group = parser.add_argument_group("poly_export")
        group.add_argument("-mf", "--model-file", required=True, help="trained model")
        group.add_argument(
            "--to",
            required=True,
            choices=("sentence-transformers", "huggingface", "onnx", "torch-export"),
            help="format to write",
        )
        group.add_argument("--out", required=True, help="folder to create")
        return parser

    def run(self):
        """Write the folder and print its files with their sizes."""
        from poly_agents import load
        from poly_agents.export import export

        for path in export(load(self.opt["model_file"], "float32"), self.opt["to"], self.opt["out"]):
            print(f"{path.stat().st_size:>14,}  {path}")
