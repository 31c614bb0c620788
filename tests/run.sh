#!/usr/bin/env bash
# Runs the tests: bash tests/run.sh [pytest arguments]. Sets up .venv first, as launch/local.sh does.
set -euo pipefail

# shellcheck source=launch/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup_env.sh"
cd "$M3PO_ROOT"

# Two processes: compiling, which most of the time goes into, uses one core each.
exec "$M3PO_PY" -m pytest -n "${M3PO_TEST_PROCESSES:-2}" --dist worksteal --durations=10 "$@"
