"""How far an iteration and its parts are from the limits of this machine.

python -m experiments.floors --config=NAME [--config.KEY=VALUE ...] [--json=FILE] ...

--config=NAME       as for m3po-benchmark, whose table this prints with the operations and bytes of
                    each program and its floor: the time that these would take at the best rate
                    that matrix products and copies reach here
--json=FILE         writes all numbers there
--repetitions=N     see m3po-benchmark (default 7)
--clock=wall|cpu    see m3po-benchmark
"""

import json

import jax
from absl import flags

from experiments.program_costs import cost_of
from m3po_jax.benchmark import measure, table
from m3po_jax.cli import command_line, paths
from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate

FLAGS = flags.FLAGS


def count(compiled: jax.stages.Compiled, trips: float) -> tuple[float, float]:
    """Operations and bytes of a program, as `measure.benchmark` takes them."""
    cost = cost_of(compiled, trips=trips)
    return cost.flops, cost.bytes


def main() -> None:
    """Measures the config of the command line and prints the table."""
    config = from_config_dict(FLAGS.config)
    validate(config)
    path = None if FLAGS.json is None else paths.file_to_write("json")
    record = measure.benchmark(
        config, repetitions=FLAGS.repetitions, clock=FLAGS.clock, count=count
    )
    print(table.table(record), flush=True)
    if path is not None:
        paths.write_or_print(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    command_line.define_config_flag()
    flags.DEFINE_string("json", None, "File of all numbers.")
    flags.DEFINE_integer("repetitions", 7, "Rounds of timing.", lower_bound=1)
    flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "What counts as time.")
    flags.mark_flag_as_required("config")
    command_line.run(main, __doc__)
