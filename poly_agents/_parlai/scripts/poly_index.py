"""`parlai poly_index -mf MODEL -fcp FILE --out FOLDER`: encode any number of candidates into a store, once."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

DESCRIPTION = """Encode candidates into a store, which -fcp FOLDER then takes in the place of a file.

What the folder holds already is not encoded again: a killed run goes on where it was, and after a change of the file
only what is new is encoded, and what is gone is taken out. With several processes:

  torchrun --nproc-per-node 2 $(which parlai) poly_index ...
"""


@register_script("poly_index")
class PolyIndex(ParlaiScript):
    @classmethod
    def setup_args(cls):
        from poly_agents.candidates.vectors import PRECISIONS

        parser = ParlaiParser(True, False, DESCRIPTION)
        group = parser.add_argument_group("poly_index")
        group.add_argument("-mf", "--model-file", required=True, help="the trained model, of a ranker that keeps them")
        group.add_argument(
            "-fcp",
            "--fixed-candidates-path",
            required=True,
            help="one candidate a line; in a .jsonl an object each, with a text and whatever else (id, metadata)",
        )
        group.add_argument("--out", required=True, help="folder of the store; or milvus:URI#COLLECTION")
        group.add_argument(
            "--store-precision", default="auto", choices=PRECISIONS, help="auto: as the encoder computes"
        )
        group.add_argument("--add", action="store_true", help="keep what the folder holds besides")
        return parser

    def run(self):
        from poly_agents import load, processes
        from poly_agents.candidates import milvus, store

        opt = self.opt
        with processes.launched() as rank:
            model = load(opt["model_file"])
            if milvus.is_address(opt["out"]):
                candidates = store.read_candidates(opt["fixed_candidates_path"])
                where = milvus.address(opt["out"])
                filled = milvus.build(*where, candidates, model.encode, model.maker, keep=opt["add"])
                print(f"{len(filled):,} candidates in {opt['out']}")
                return
            store = model.index(opt["out"], opt["fixed_candidates_path"], opt["store_precision"], opt["add"], rank == 0)
            if rank == 0:
                print(f"{len(store):,} candidates in {opt['out']}, {store.size / 2**20:,.1f} MB in {store.precision}")
