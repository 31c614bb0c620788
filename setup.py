"""All packaging metadata of m3po_jax; requirements.txt holds the versions that were tested."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^VERSION = "(.+)"$', (ROOT / "m3po_jax" / "version.py").read_text(), re.MULTILINE
)
assert VERSION is not None

# Gymnasium imports imageio for its MuJoCo tasks and does not require it.
GYMNASIUM = ["gymnasium>=1.1", "imageio"]
TEST = [*GYMNASIUM, "hypothesis", "ipykernel", "nbclient", "pytest>=8", "pytest-xdist", "pyyaml"]
DOCS = ["mkdocs-material>=9", "mkdocstrings[python]>=0.27", "ziamath"]
# Meta-World itself pins a mujoco that the rest does not run with: pip install --no-deps metaworld.
METAWORLD = [*GYMNASIUM, "scipy>=1.4.1"]
RENDER = ["imageio-ffmpeg>=0.5"]

setuptools.setup(
    name="m3po_jax",
    version=VERSION.group(1),
    description="Multi-task model-based policy optimization (M3PO) in JAX: a reconstruction",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["m3po_jax", "m3po_jax.*"]),
    package_data={"m3po_jax": ["py.typed"], "m3po_jax.report": ["*.css"]},
    python_requires=">=3.11",
    # matplotlib, pillow and tensorboardX are not extras: Brax and Playground install them anyway.
    install_requires=[
        "absl-py>=2",
        "brax>=0.14,<0.15",
        "chex>=0.1.90",
        "flatbuffers>=24",
        "flax>=0.12,<0.14",
        "jax>=0.10,<0.13",
        "matplotlib>=3.9",
        "ml-collections>=1",
        "mujoco>=3.3",
        "mujoco-mjx>=3.3",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.30",
        "pillow>=10.1",
        "playground>=0.2,<0.3",
        "rich>=13",
        "tensorboardX>=2.6",
    ],
    extras_require={
        "test": TEST,
        "wandb": ["wandb>=0.19"],
        "docs": DOCS,
        "gymnasium": GYMNASIUM,
        "metaworld": METAWORLD,
        "render": RENDER,
        "dev": [*TEST, *DOCS, *RENDER, "mypy", "pre-commit", "ruff"],
        "cuda12": ["jax[cuda12]>=0.10,<0.13"],
        "cuda13": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
    },
    entry_points={
        "console_scripts": [
            "m3po-train = m3po_jax.cli.train:run",
            "m3po-evaluate = m3po_jax.cli.evaluate:run",
            "m3po-finetune = m3po_jax.cli.finetune:run",
            "m3po-tasks = m3po_jax.cli.tasks:run",
            "m3po-report = m3po_jax.cli.report:run",
            "m3po-export = m3po_jax.cli.export:run",
            "m3po-render = m3po_jax.cli.render:run",
            "m3po-benchmark = m3po_jax.cli.benchmark:run",
            "m3po-replay-fault = m3po_jax.cli.replay_fault:run",
        ]
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
