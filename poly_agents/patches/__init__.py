"""Patches for ParlAI 1.7.2, which does not run as released on current torch, or without a GPU.

Each patch says when it can go. A module of ParlAI is patched once, right after its import: by the import hook in
`poly_agents.plugin`, or by `poly_agents.agents` where the hook is switched off. The hook is in every Python process, so
this file imports nothing heavy, and a file of patches is imported when ParlAI imports what it patches.
"""

import importlib

# module of ParlAI -> file in this folder, function in it
PATCHES = {
    "parlai.core.script": ("commands", "patch_script"),
    "parlai.core.params": ("commands", "patch_parser"),
    "parlai.core.opt": ("loading", "patch_load"),
    "parlai.utils.pickle": ("loading", "patch_pickle"),
    "parlai.utils.misc": ("printing", "patch_display"),
    "parlai.utils.logging": ("printing", "patch_logging"),
    "parlai.nn.lr_scheduler": ("training", "patch_plateau"),
    "parlai.scripts.train_model": ("training", "patch_loop"),
    "parlai.scripts.eval_model": ("reports", "patch_evaluation"),
    "parlai.utils.distributed": ("distributed", "patch_distributed"),
    "parlai.utils.fsdp": ("distributed", "patch_join"),
    "parlai.scripts.vacuum": ("vacuum", "patch_vacuum"),
    "parlai.scripts.interactive_web": ("chats", "patch_web"),
    "parlai.agents.local_human.local_human": ("chats", "patch_human"),
    "parlai.scripts.multiprocessing_train": ("distributed", "patch_training"),
    "parlai.scripts.multiprocessing_eval": ("distributed", "patch_evaluation"),
}


def apply(module) -> None:
    """Patch a module of ParlAI, unless that was done before."""
    if not getattr(module, "patched_by_poly_agents", False):
        file, function = PATCHES[module.__name__]
        getattr(importlib.import_module(f"{__name__}.{file}"), function)(module)
        module.patched_by_poly_agents = True
