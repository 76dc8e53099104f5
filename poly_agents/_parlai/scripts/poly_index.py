"""`parlai poly_index -mf MODEL -fcp FILE --out FOLDER`: encode any number of candidates into a store, once."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

DESCRIPTION = """Encode candidates into a store. Give it to other commands as -fcp FOLDER, in place of a file.

Candidates that the store has already are not encoded again. A killed run resumes. If the file
changes, only the new candidates are encoded, and the missing ones are removed. With several processes:

  torchrun --nproc-per-node 2 $(which parlai) poly_index ...
"""


@register_script("poly_index")
class PolyIndex(ParlaiScript):
    """Encodes candidates into a store or a Milvus collection."""

    @classmethod
    def setup_args(cls):
        """Declare the flags of the command."""
        from poly_agents.candidates.vectors import PRECISIONS

        parser = ParlaiParser(True, False, DESCRIPTION)
        group = parser.add_argument_group("poly_index")
        group.add_argument("-mf", "--model-file", required=True, help="trained model that encodes the candidates")
        group.add_argument(
            "-fcp",
            "--fixed-candidates-path",
            required=True,
            help="candidates, one per line; in a .jsonl file each line is an object with a `text` and any other fields",
        )
        group.add_argument("--out", required=True, help="folder of the store, or milvus:URI#COLLECTION")
        group.add_argument(
            "--store-precision",
            default="auto",
            choices=PRECISIONS,
            help="type of the stored vectors; auto: the type that the encoder computes in",
        )
        group.add_argument(
            "--add", action="store_true", help="keep the candidates of the store that are not in the file"
        )
        return parser

    def run(self):
        """Encode the candidates and print how many there are."""
        from poly_agents import load, processes
        from poly_agents.candidates import milvus

        opt = self.opt
        with processes.launched() as rank:
            model = load(opt["model_file"])
            if milvus.is_address(opt["out"]):
                self._fill_collection(model)
                return
            store = model.index(opt["out"], opt["fixed_candidates_path"], opt["store_precision"], opt["add"], rank == 0)
            if rank == 0:
                print(f"{len(store):,} candidates in {opt['out']}, {store.size / 2**20:,.1f} MB in {store.precision}")

    def _fill_collection(self, model) -> None:
        from poly_agents.candidates import milvus, milvus_writer
        from poly_agents.candidates.reading import read_candidates
        from poly_agents.candidates.writer import Recipe

        address, recipe = milvus.parse_address(self.opt["out"]), Recipe(model.encode, model.fingerprint)
        candidates = read_candidates(self.opt["fixed_candidates_path"])
        store = milvus_writer.build(address, candidates, recipe, keep=self.opt["add"])
        if store is not None:
            print(f"{len(store):,} candidates in {self.opt['out']}")
