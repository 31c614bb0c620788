"""Measures how fast an agent trains here, part by part, and the limits of this machine.

m3po-benchmark --config=NAME [--config.KEY=VALUE ...] [--json=FILE] ...

--config=NAME       as for m3po-train; nothing is trained for long, and nothing is kept
--json=FILE         writes all numbers there ('-' prints them instead of the table)
--repetitions=N     rounds in which each program is timed once; reports the median (default 7)
--clock=wall|cpu    cpu counts the CPU time of this process instead of wall-clock time, for
                    shared machines; on one core only (taskset -c 0)
--compile_cache     loads compiled programs from the cache; compile seconds are then meaningless

The machine's rates are the best that matrix products and copies reach here. The parts of an
iteration are timed on one device in alternation, warm, until their results are ready.
"""

import json

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate

FLAGS = flags.FLAGS


def main() -> None:
    """Checks settings and flags before the slow imports, then measures and prints."""
    config = from_config_dict(FLAGS.config)
    validate(config)
    path = None if FLAGS.json in (None, "-") else paths.file_to_write("json")
    if FLAGS.compile_cache:
        command_line.use_compile_cache()
    import jax

    jax.config.update("jax_enable_compilation_cache", FLAGS.compile_cache)
    from m3po_jax.benchmark import measure, table

    record = measure.benchmark(config, repetitions=FLAGS.repetitions, clock=FLAGS.clock)
    text = json.dumps(record, indent=1)
    print(text if FLAGS.json == "-" else table.table(record), flush=True)
    if path is not None:
        paths.write_or_print(path, text + "\n")


def run() -> None:
    """Entry point of the command."""
    command_line.define_config_flag()
    flags.DEFINE_string("json", None, "File of all numbers.")
    flags.DEFINE_integer("repetitions", 7, "Rounds of timing.", lower_bound=1)
    flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "What counts as time.")
    flags.DEFINE_bool("compile_cache", False, "Load compiled programs from the cache.")
    flags.mark_flag_as_required("config")
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
