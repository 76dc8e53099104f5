"""`parlai poly_convert -mf PARLAI_FILE --out MODEL`: convert one of ParlAI's own rankers to our format."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

from poly_agents.errors import InputError

DESCRIPTION = """Convert a transformer/biencoder, polyencoder or crossencoder of ParlAI to the format of poly_agents.

Such models also load without conversion. A converted model loads faster, cannot run code, and needs no ParlAI. It has
three files: MODEL, MODEL.dict and MODEL.opt.
"""


@register_script("poly_convert")
class PolyConvert(ParlaiScript):
    """Converts one of ParlAI's own models to our format."""

    @classmethod
    def setup_args(cls):
        """Declare the flags of the command."""
        parser = ParlaiParser(True, False, DESCRIPTION)
        group = parser.add_argument_group("poly_convert")
        group.add_argument(
            "-mf", "--model-file", required=True, help="model file that ParlAI saved, or a zoo:... address"
        )
        group.add_argument("--out", required=True, help="model file to write")
        return parser

    def run(self):
        """Write the model and print its size."""
        import os

        from poly_agents.models.textranker import TextRanker

        source, out = self.opt["model_file"], self.opt["out"]
        if os.path.exists(out):
            raise InputError(f"--out {out}: there is a file already; give another path")
        agent, size = TextRanker.convert(source, out).header()["agent"], os.path.getsize(out) / 2**20
        print(f"{source} is now {out}, a poly_agents/{agent} of {size:,.1f} MB")
