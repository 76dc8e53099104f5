"""`parlai poly_layers --cross-model MODEL -t TASK`: how well every layer of a cross-encoder embeds."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script


@register_script("poly_layers")
class PolyLayers(ParlaiScript):
    @classmethod
    def setup_args(cls):
        parser = ParlaiParser(True, False, "Rank with every layer of a cross-encoder, to choose --early-layer by.")
        group = parser.add_argument_group("poly_layers")
        group.add_argument("--cross-model", required=True, help="a trained -m poly_agents/cross")
        group.add_argument("--bi-model", help="a trained -m poly_agents/bi, to put its layers beside")
        group.add_argument("-ne", "--num-examples", type=int, default=1000, help="of -dt, first to last; -1: all")
        group.add_argument("--out", help="folder for layers.json, layers.md, layers.png; default: beside the model")
        parser.set_defaults(datatype="valid")
        return parser

    def run(self):
        from poly_agents.models import layer_sweep

        print(layer_sweep.run(self.opt))
