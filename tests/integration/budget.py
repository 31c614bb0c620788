"""Counts of a small run that a clock is not needed for, and their committed budget.

python -m tests.integration.budget --renew    # after a change that is meant to cost or save work

`programs` are the XLA programs of a whole run, `flops` and `bytes` those of one training iteration
with all of its updates. They depend on JAX's version, so the budget names it.
"""

import json
import pathlib
import sys
import tempfile
from importlib import metadata

BUDGET = pathlib.Path(__file__).with_name("budget.json")
COMPILED = "/jax/core/compile/backend_compile_duration"


def count():
    """The counts of the tiny configuration's run."""
    import jax

    from experiments.program_costs import cost_of
    from m3po_jax.benchmark import parts
    from m3po_jax.config import from_config_dict
    from m3po_jax.training import loop, sharding
    from m3po_jax.training.experiment import make_experiment, on_one_device
    from m3po_jax.workdir.folder import open_workdir
    from tests.integration import tiny_config

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **details: compiled.append(details) if event == COMPILED else None
    )
    config = from_config_dict(tiny_config.get_config())
    with tempfile.TemporaryDirectory() as folder, open_workdir(folder, config) as run:
        loop.train_and_evaluate(config, run.path, quiet=True)
    programs = len(compiled)
    experiment = make_experiment(on_one_device(config))
    step = (
        sharding.shard_train_step(experiment.mesh, experiment)
        .lower(experiment.state_shapes())
        .compile()
    )
    cost = cost_of(step, trips=float(parts.updates_per_iteration(experiment)))
    return {
        "jax": metadata.version("jax"),
        "programs": programs,
        "flops": cost.flops,
        "bytes": cost.bytes,
    }


if __name__ == "__main__":
    counts = count()
    if sys.argv[1:] == ["--renew"]:
        BUDGET.write_text(json.dumps(counts, indent=1) + "\n")
    print(json.dumps(counts))
