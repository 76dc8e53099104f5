"""The import hook by which the bare `parlai` command finds poly_agents.

`poly_agents.pth` imports this module at every interpreter start, in spawned workers too, and calls `install`. ParlAI
looks for agents, tasks, worlds and commands only inside its own packages. The finder below lets each of those packages
look in `poly_agents/_parlai/` as well, and repairs some of ParlAI's modules as they are imported (`patches/`). No
file of ParlAI is edited. Neither ParlAI nor torch is imported before somebody else imports it.

`POLY_AGENTS_PLUGIN=0` switches the hook off. `-m poly_agents.agents:PolyAgent` then still works.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

from poly_agents import patches
from poly_agents.errors import InputError

AGENTS = "parlai.agents.poly_agents."
CHECKPOINTS = "parlai.zoo.poly_agents."
EXTENDED = ("parlai.agents", "parlai.tasks", "parlai.zoo", "parlai.scripts", "parlai.mutators")
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_parlai")

# Saved options can name an agent by the module it was in up to version 0.1: `poly_agents.poly:PolyAgent`.
OLD_MODULES = {f"poly_agents.{name}" for name in "bi cascade cross early ed2lm late mix poly tfidf uni".split()}


class AgentLoader:
    """Loads a module that holds one agent class: `PolyAgent` in `parlai.agents.poly_agents.poly`."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        from poly_agents.agents import agent_class

        name = module.__name__.rpartition(".")[2]
        setattr(module, "".join(map(str.capitalize, name.split("_"))) + "Agent", agent_class(name))


class CheckpointLoader:
    """Loads `parlai.zoo.poly_agents.NAME`. Its only function is `download`, as ParlAI expects for `zoo:` addresses."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        def download(datapath):
            from poly_agents import zoo
            from poly_agents.errors import DownloadError

            name = module.__name__.removeprefix(CHECKPOINTS)
            if name == "build":  # ParlAI makes this name of an address with two parts
                raise InputError("a checkpoint is given as zoo:poly_agents/NAME/model; `parlai poly_zoo` lists them")
            if name.startswith("hub."):
                name = name.replace(".", "/", 2)  # the name of a repository may have further dots
            try:
                zoo.fetch(name, datapath)
            except ImportError as error:  # ParlAI would report it as an unknown name
                raise DownloadError(f"{name} cannot be made: {error}") from error

        module.download = download


class PatchingLoader:
    """Loads a module with ParlAI's own loader, then patches it."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def exec_module(self, module):
        self.loader.exec_module(module)
        patches.apply(module)


class PluginFinder:
    """Extends the search path of ParlAI's packages by our folder, and patches some of its modules on import."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith("parlai."):
            return None
        if name.startswith(AGENTS):
            return ModuleSpec(name, AgentLoader())
        if name.startswith(CHECKPOINTS):
            return ModuleSpec(name, CheckpointLoader(), is_package=True)  # a name with a dot is imported part by part
        if name not in patches.PATCHES and name not in EXTENDED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        if name in patches.PATCHES:
            spec.loader = PatchingLoader(spec.loader)
        elif os.path.isdir(folder := os.path.join(FOLDER, name.rpartition(".")[2])):
            spec.submodule_search_locations = [*spec.submodule_search_locations, folder]
        return spec


class OldNameFinder:
    """Finds agents under the full names of earlier versions, such as `poly_agents.poly`."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return ModuleSpec(name, AgentLoader()) if name in OLD_MODULES else None


def install() -> None:
    """Put the finder first in line, once. `poly_agents.pth` calls this."""
    if os.environ.get("POLY_AGENTS_PLUGIN") != "0" and PluginFinder not in sys.meta_path:
        sys.meta_path.insert(0, PluginFinder)


def install_old_names() -> None:
    """Let the full names of earlier versions be imported, whether the hook is on or off."""
    if OldNameFinder not in sys.meta_path:
        sys.meta_path.append(OldNameFinder)
