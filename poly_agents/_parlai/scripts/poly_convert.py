"""`parlai poly_convert -mf PARLAI_FILE --out MODEL`: write a ranker of ParlAI's own in our format."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

DESCRIPTION = """Write a model of ParlAI's own transformer/biencoder, polyencoder or crossencoder as one of poly_agents.

Such models also load as they are. The model that is written loads faster, cannot run code, and needs no ParlAI. It is
three files: MODEL, MODEL.dict and MODEL.opt.
"""


@register_script("poly_convert")
class PolyConvert(ParlaiScript):
    """Writes a model of ParlAI's own in our format."""

    @classmethod
    def setup_args(cls):
        """Declare the flags of the command."""
        parser = ParlaiParser(True, False, DESCRIPTION)
        group = parser.add_argument_group("poly_convert")
        group.add_argument("-mf", "--model-file", required=True, help="model that ParlAI saved, or zoo:...")
        group.add_argument("--out", required=True, help="model file to write")
        return parser

    def run(self):
        """Write the model and print its size."""
        import os

        from poly_agents.models.textranker import TextRanker

        source, out = self.opt["model_file"], self.opt["out"]
        if os.path.exists(out):
            raise ValueError(f"--out {out}: there is a file already; give another path")
        agent, size = TextRanker.convert(source, out).header()["agent"], os.path.getsize(out) / 2**20
        print(f"{source} is now {out}, a poly_agents/{agent} of {size:,.1f} MB")
