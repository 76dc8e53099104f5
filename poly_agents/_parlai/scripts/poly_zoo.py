"""`parlai poly_zoo`: list and download checkpoints, write a model's card, publish a model."""

from parlai.core.params import ParlaiParser
from parlai.core.script import ParlaiScript, register_script

from poly_agents.errors import InputError

DESCRIPTION = """Checkpoints by name.

  parlai poly_zoo                            the list
  parlai poly_zoo NAME                       download a checkpoint, or verify the downloaded one
  parlai poly_zoo card -mf MODEL             write MODEL.README.md: what it is, its metrics, how to load it
  parlai poly_zoo publish FOLDER -mf MODEL   make a folder for HuggingFace's hub; --push ORG/NAME pushes it

Every option that takes a model file also takes zoo:poly_agents/NAME/model, and zoo:poly_agents/hub/ORG/NAME/model for
a model that was pushed to the hub.
"""


@register_script("poly_zoo")
class PolyZoo(ParlaiScript):
    @classmethod
    def setup_args(cls):
        parser = ParlaiParser(False, False, DESCRIPTION)
        parser.add_parlai_data_path()
        group = parser.add_argument_group("poly_zoo")
        group.add_argument(
            "words",
            nargs="*",
            metavar="NAME",
            help="a checkpoint's name, `card`, or `publish FOLDER`; without it, print the list",
        )
        group.add_argument("--markdown", action="store_true", help="print the list as the tables of zoo/README.md")
        group.add_argument(
            "--zoo-mirror",
            help="mirror of what is not on HuggingFace's hub: a URL, or a folder that is searched first; "
            "for other commands set the variable POLY_AGENTS_ZOO, for the hub set HF_ENDPOINT",
        )
        group.add_argument("-mf", "--model-file", help="card, publish: the trained model")
        group.add_argument(
            "--report",
            help="card, publish: reports of `eval_model --report-filename FILE --confidence true`, comma-separated; "
            "default: the results of train_model's final evaluation (MODEL.trainstats)",
        )
        group.add_argument("--license", help="card, publish: the licence, as the hub names it (mit, apache-2.0)")
        group.add_argument("--language", default="en", help="card, publish: the language of the data")
        group.add_argument("--push", help="publish: push the folder to ORG/NAME on HuggingFace's hub")
        group.add_argument(
            "--token", help="publish: token for the hub; default: HF_TOKEN, or the login of `hf auth login`"
        )
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")
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
            raise InputError(f"one name at a time, or card, or publish and a folder; got {' '.join(words)}")
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
            raise InputError(f"{words[0]} needs -mf MODEL, the trained model")
        reports = [path for path in (opt["report"] or "").split(",") if path]
        details = {"reports": reports, "licence": opt["license"], "language": opt["language"]}
        if words == ["card"]:
            print(publishing.write_card(opt["model_file"], **details))
        elif words[0] == "publish" and len(words) == 2:
            print(publishing.prepare_folder(words[1], opt["model_file"], name=opt["push"], **details))
            if opt["push"]:
                print(publishing.push(words[1], opt["push"], opt["token"]))
        else:
            raise InputError(f"it is `card -mf MODEL` or `publish FOLDER -mf MODEL`; got {' '.join(words)}")
