"""Find model files by any address that ParlAI or this project knows."""

from parlai.core.build_data import modelzoo_path

from poly_agents import zoo


def local(path: str, datapath: str | None = None) -> str:
    """Return a path on this disk.

    Args:
        path: a path, `zoo:poly_agents/NAME/model`, or an address of ParlAI's own zoo. Checkpoints are fetched first.
        datapath: where ParlAI keeps its data; None: its default.
    """
    if path.startswith("zoo:") and not path.startswith(zoo.PREFIX):
        return modelzoo_path(zoo.data_folder(datapath), path)
    return zoo.local(path, datapath)
