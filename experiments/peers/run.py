"""Compares speed with other implementations: `python -m experiments.peers.run --help`.

Nothing of them is in this package or needed by it. Each peer is run by a Python of its own:

- `--tdmpc2=PYTHON --tdmpc2_source=FOLDER`: tdmpc2-jax, which is not on PyPI. FOLDER holds
  its sources (the folder `tdmpc2_jax` of ShaneFlandermeyer/tdmpc2-jax on GitHub), and PYTHON has
  what it imports: `python -m venv V && V/bin/pip install jax==0.10.2 flax optax einops jaxtyping`.
- `--brax=PYTHON`: Brax's PPO, which needs an older JAX: `python -m venv V && V/bin/pip install
  brax==0.14.2 jax==0.7.2 jaxlib==0.7.2`.

One that is absent is skipped with a message. With `--precisions` our own programs of the first
comparison run with products of bfloat16 inputs against float32. Start this on one core
(`taskset -c 0`) to count the time that each computes rather than the time that passes, where others
use the machine too.
"""

import argparse
import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

from experiments.peers import sizes, turns
from m3po_jax.workdir import record

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "experiments" / "results"


def tdmpc2(
    python: pathlib.Path, source: pathlib.Path, precision: str, *, rounds: int
) -> list[dict[str, Any]]:
    """One update and one plan at equal sizes; ours as TD-MPC2 and, for orientation, as M3PO."""
    folder = f"{source}:{HERE}"
    pairs = [("update", "update"), ("plan", "plan")]
    pairs += [("m3po_update", "update"), ("m3po_plan", "plan")]
    ours = _ours("tdmpc2", precision)
    theirs = [str(python), str(HERE / "tdmpc2_worker.py"), precision]
    with turns.worker(ours, ROOT) as a, turns.worker(theirs, folder) as b:
        rows = turns.compare(a, b, pairs, rounds=rounds, calls=1)
    return [{"precision": precision, **row} for row in rows]


def brax(python: pathlib.Path, *, rounds: int) -> list[dict[str, Any]]:
    """One iteration of PPO: the same environment steps, network widths, epochs and minibatches."""
    theirs = [str(python), str(HERE / "brax_worker.py")]
    with turns.worker(_ours("ppo"), ROOT) as a, turns.worker(theirs, HERE) as b:
        rows = turns.compare(a, b, [("iteration", "iteration")], rounds=rounds, calls=1)
    steps = sizes.PPO_ENVS * sizes.PPO_UNROLL
    for row in rows:
        for side in ("our", "their"):
            row[f"{side}_env_steps_per_second"] = round(steps / float(row[f"{side}_seconds"]))
    return rows


def precisions(*, rounds: int) -> list[dict[str, Any]]:
    """Ours with products of bfloat16 inputs against float32."""
    reference, other = sizes.PRECISIONS
    names = ("update", "plan", "m3po_update", "m3po_plan")
    pairs = [(name, name) for name in names]
    a, b = (_ours("tdmpc2", precision) for precision in (other, reference))
    with turns.worker(a, ROOT) as ours, turns.worker(b, ROOT) as theirs:
        return turns.compare(ours, theirs, pairs, rounds=rounds, calls=1)


def made_with(python: pathlib.Path) -> dict[str, str]:
    """When and with what both sides were timed; `python` is the peer's."""
    ask = "from importlib.metadata import version; print(version('jax'))"
    theirs = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": record.commit() or "",
        "our_jax": importlib.metadata.version("jax"),
        "their_jax": theirs.stdout.strip(),
        "hardware": platform.machine(),
    }


def _ours(*what: str) -> list[str]:
    return [sys.executable, "-m", "experiments.peers.our_worker", *what]


def main() -> None:
    """Runs the peers that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tdmpc2", type=pathlib.Path, help="a Python")
    parser.add_argument("--tdmpc2_source", type=pathlib.Path, default=HERE, help="a folder")
    parser.add_argument("--brax", type=pathlib.Path, help="a Python")
    parser.add_argument("--precisions", action="store_true", help="compare ours with itself")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the CSVs")
    given = parser.parse_args()
    source = given.tdmpc2_source
    if given.precisions:
        rows, us = precisions(rounds=given.rounds), pathlib.Path(sys.executable)
        turns.write(given.out / "peers_precision.csv", [row | made_with(us) for row in rows])
    if turns.available("tdmpc2-jax", given.tdmpc2, "tdmpc2_jax.tdmpc2", source):
        rows = [
            row
            for precision in sizes.PRECISIONS
            for row in tdmpc2(given.tdmpc2, source, precision, rounds=given.rounds)
        ]
        turns.write(given.out / "peers_tdmpc2.csv", [row | made_with(given.tdmpc2) for row in rows])
    if turns.available("Brax's PPO", given.brax, "brax.training.agents.ppo.train", HERE):
        rows = brax(given.brax, rounds=given.rounds)
        turns.write(given.out / "peers_brax.csv", [row | made_with(given.brax) for row in rows])


if __name__ == "__main__":
    main()
