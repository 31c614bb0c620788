"""Writes a report of runs: one HTML page, with its pictures and numbers as separate files.

m3po-report DIR [DIR ...] [--out=FOLDER]

DIR            folder of a run, also as --workdir=DIR; runs that differ only in the seed are
               shown as one, with intervals
--out=FOLDER   where to write; by default DIR/report, or report next to the folders of several
               runs

The page needs no network. It can be made while a run is training.
"""

from absl import flags

from m3po_jax.cli import command_line, paths

FLAGS = flags.FLAGS


def main() -> None:
    """Reads the runs, writes the report and says where it is."""
    from m3po_jax.report import write

    workdirs = [paths.local("workdir", text) for text in FLAGS.workdir]
    out = None if FLAGS.out is None else paths.named_by("out")
    print(f"wrote {write.write_report(workdirs, out)}")


def run() -> None:
    """Entry point of `m3po-report`."""
    flags.DEFINE_multi_string("workdir", None, "Folder of a run.")
    flags.DEFINE_string("out", None, "Folder of the report.")
    command_line.run(main, __doc__, positional="workdir")


if __name__ == "__main__":
    run()
