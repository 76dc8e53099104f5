"""`parlai poly_zoo`: the checkpoints there are, fetching them, and cards and folders for publishing one's own."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

DESCRIPTION = """Checkpoints by name.

  parlai poly_zoo                            the list
  parlai poly_zoo NAME                       fetch one, or check the one that is here
  parlai poly_zoo card -mf MODEL             write MODEL.README.md: what it is, its metrics, how to load it
  parlai poly_zoo publish FOLDER -mf MODEL   make a folder that is ready to be pushed; --push ORG/NAME pushes it

Whatever takes a model file takes zoo:poly_agents/NAME/model, and what was pushed as
zoo:poly_agents/hub/ORG/NAME/model.
"""


@register_script("poly_zoo")
class PolyZoo(ParlaiScript):
    @classmethod
    def setup_args(cls):
        parser = ParlaiParser(False, False, DESCRIPTION)
        parser.add_parlai_data_path()
        group = parser.add_argument_group("poly_zoo")
        group.add_argument("words", nargs="*", metavar="NAME", help="nothing; a name; card; or publish and a folder")
        group.add_argument("--markdown", action="store_true", help="the list as the table of zoo/README.md")
        group.add_argument(
            "--zoo-mirror",
            help="an address, or a folder that is looked in first, for what does not come from HuggingFace's hub "
            "(HF_ENDPOINT is the hub's); other commands read it from the variable POLY_AGENTS_ZOO",
        )
        group.add_argument("-mf", "--model-file", help="card, publish: the trained model")
        group.add_argument(
            "--report",
            help="card, publish: files that `eval_model --report-filename FILE --confidence true` wrote, parted by "
            "commas; without them the card has what train_model found when it ended (MODEL.trainstats)",
        )
        group.add_argument("--license", help="card, publish: by the hub's names, as mit or apache-2.0")
        group.add_argument("--language", default="en", help="card, publish: of the data, as en")
        group.add_argument("--push", help="publish: ORG/NAME on HuggingFace's hub, to push the folder to")
        group.add_argument("--token", help="publish: for the hub; else HF_TOKEN, or that of `hf auth login`")
        return parser

    def run(self):
        import os

        from poly_agents.zoo import listing, sources

        opt, words = self.opt, self.opt["words"]
        if opt["zoo_mirror"]:
            os.environ[sources.MIRROR] = opt["zoo_mirror"]
        if words and words[0] in ("card", "publish"):
            return self._publish(words)
        if len(words) > 1:
            raise ValueError(f"one name at a time, or card, or publish and a folder; got {' '.join(words)}")
        if words:
            return self._fetch(words[0])
        print(listing.markdown() if opt["markdown"] else listing.plain())

    def _fetch(self, name: str) -> None:
        from poly_agents import zoo
        from poly_agents.zoo import sources

        name = name.removeprefix("zoo:poly_agents/").removesuffix("/model")
        path = zoo.fetch(name, self.opt["datapath"], check=True)
        entry, address = zoo.find(name), f"zoo:poly_agents/{name}/model"
        print(f"{name} is in {path.parent}, whole and unchanged ({path.stat().st_size / 1e6:,.0f} MB)\n")
        print(f"  parlai eval_model -mf {address} -t TASK")
        candidates = path.with_name(sources.CANDIDATES)  # some models come with responses to chat with
        print(f"  parlai interactive -mf {address} -fcp {candidates if candidates.is_file() else 'FILE'}")
        print(f"  parlai train_model -m poly_agents/{entry.agent or 'AGENT'} --init-model {address} -t TASK -mf MODEL")

    def _publish(self, words: list[str]) -> None:
        from poly_agents.zoo import publishing

        opt = self.opt
        if not opt["model_file"]:
            raise ValueError(f"{words[0]} needs -mf MODEL, the trained model")
        reports = [path for path in (opt["report"] or "").split(",") if path]
        told = {"reports": reports, "licence": opt["license"], "language": opt["language"]}
        if words == ["card"]:
            print(publishing.write_card(opt["model_file"], **told))
        elif words[0] == "publish" and len(words) == 2:
            print(publishing.prepare_folder(words[1], opt["model_file"], name=opt["push"], **told))
            if opt["push"]:
                print(publishing.push(words[1], opt["push"], opt["token"]))
        else:
            raise ValueError(f"it is `card -mf MODEL` or `publish FOLDER -mf MODEL`; got {' '.join(words)}")
