"""Patch of `parlai vacuum`, which would unpickle our model files: they are safetensors."""

OF_TRAINING = (
    "optimizer_groups",
    "optimizer_type",
    "lr_scheduler",
    "lr_scheduler_type",
    "warmup_scheduler",
    "number_training_updates",
    "examples_seen",
    "train_stats",
)


def patch_vacuum(script) -> None:
    """Have `parlai vacuum` take the optimizer out of our checkpoints too, and say so where there is none.

    This patch can go when ParlAI leaves the reading and writing of a checkpoint to its agent.
    """
    own_run = script.Vacuum.run

    def run(self):
        import os
        import shutil

        from poly_agents.errors import InputError
        from poly_agents.files import checkpoint

        path = self.opt["path"]
        try:
            header = checkpoint.read_header(path or "")
        except InputError:  # a file of ParlAI's, or none
            return own_run(self)
        if "optimizer_groups" not in header:
            print(f"nothing to do: {path} holds no optimizer")
            return
        before, saved = os.path.getsize(path), checkpoint.read(path)
        if not self.opt["no_backup"]:
            shutil.copyfile(path, f"{path}.unvacuumed")
        checkpoint.write(path, {key: header[key] for key in header if key not in OF_TRAINING}, saved.weights)
        print(f"{path} had {before / 1e6:,.1f} MB and has {os.path.getsize(path) / 1e6:,.1f} MB without its optimizer")

    script.Vacuum.run = run
