"""Exports the agent of a run's checkpoint as programs that run without this package.

m3po-export --workdir=DIR --out=FOLDER [--checkpoint=newest|best]

--workdir=DIR  the folder of the run
--checkpoint=best   the one that scored best during training; by default the newest
--out=FOLDER   a new or empty folder, or an earlier export, which is replaced

Writes prior.stablehlo, planner.stablehlo (if there is a world model) and signature.json, which
describes how to load and call them: shapes, dtypes, tasks, versions. They run on CPU, CUDA and TPU.
"""

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.workdir import folder

FLAGS = flags.FLAGS


def main() -> None:
    """Checks the workdir before the slow imports, then exports and lists the files."""
    path, out = paths.named_by("workdir"), paths.named_by("out")
    command_line.chosen_checkpoint(path, folder.read_config(path))
    command_line.use_compile_cache()
    from m3po_jax.deploy import agent, export

    signature = export.export(agent.load(path, checkpoint=FLAGS.checkpoint), out)
    for name, program in signature["programs"].items():
        shapes = ", ".join(f"{x['name']} {x['shape']}" for x in program["inputs"])
        print(f"{FLAGS.out}/{program['file']}  {name}({shapes})")
    print(f"{FLAGS.out}/{export.SIGNATURE_FILE}  how to call them")


def run() -> None:
    """Entry point of `m3po-export`."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string("out", None, "Folder to write.")
    command_line.define_checkpoint_flag()
    flags.mark_flags_as_required(["workdir", "out"])
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
