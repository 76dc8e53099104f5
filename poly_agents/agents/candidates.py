"""A pool of candidates by its path: a file, a store made before, or a collection of a vector database."""

from pathlib import Path

from poly_agents.candidates import milvus
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.candidates.store import HEADER, Store
from poly_agents.models.textranker import TextRanker


def check(path: str) -> None:
    """Refuse what is none of these, before a model is loaded."""
    if not (milvus.is_address(path) or Path(path).is_file() or Path(path, HEADER).is_file()):
        raise ValueError(f"--fixed-candidates-path {path}: there is no such file, and no candidate store")


def beside(model_file: str, path: str) -> str:
    """Where the encodings of a file of candidates are kept, unless told otherwise."""
    return f"{model_file}.{Path(path).stem}.store"


def open_pool(
    path: str, model: TextRanker, options: SearchOptions, folder: str, progress: bool = True
) -> Search | milvus.MilvusSearch:
    """The candidates of a file, encoded and kept in `folder`; or those that were encoded before."""
    if milvus.is_address(path):
        return milvus.open_search(path, model, options)
    if Path(path).is_dir():
        return Search(Store(path, model.maker), options)
    return Search(model.index(folder, path, options.store_precision, progress=progress), options)
