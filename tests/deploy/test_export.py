import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from m3po_jax.deploy.export import ExportError, export

ROOT = pathlib.Path(__file__).parents[2]

# A program of someone who has JAX and the folder alone.
READER = """
import json, pathlib, sys
import jax, numpy as np
folder = pathlib.Path(sys.argv[1])
signature = json.loads((folder / "signature.json").read_text())
rng = np.random.default_rng(0)
result = {}
for name, about in signature["programs"].items():
    program = jax.export.deserialize(bytearray((folder / about["file"]).read_bytes()))
    for rows in (1, 3) if name == "prior" else (3,):
        inputs = {}
        for x in about["inputs"]:
            shape = [rows if n == "b" else n for n in x["shape"]]
            inputs[x["name"]] = np.zeros(shape, x["dtype"])
        for row in range(rows):
            task = signature["tasks"][row]
            size = task["observation_size"]
            inputs["task_id"][row] = task["id"]
            inputs["observation"][row, :size] = 0.1 * np.arange(1, size + 1)
        if "seed" in inputs:
            inputs["seed"] = np.uint32(5)
        outputs = program.call(*inputs.values())
        for output, x in zip(outputs, about["outputs"], strict=True):
            shape = [rows if n == "b" else n for n in x["shape"]]
            assert list(output.shape) == shape and str(output.dtype) == x["dtype"], x
        result[f"{name}/{rows}"] = np.asarray(outputs[0]).tolist()
assert not [module for module in sys.modules if module.startswith("m3po_jax")]
print(json.dumps(result))
"""


def test_a_program_without_this_package_acts_like_the_agent(agent, tmp_path):
    out = tmp_path / "a policy"
    signature = export(agent, out)
    assert {path.name for path in out.iterdir()} == {
        "signature.json",
        "prior.stablehlo",
        "planner.stablehlo",
    }
    assert json.loads((out / "signature.json").read_text()) == signature
    for program in signature["programs"].values():
        data = (out / program["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == program["sha256"]
    assert [task["name"] for task in signature["tasks"]] == list(agent.tasks)
    assert signature["versions"]["jax"] == jax.__version__
    assert signature["platforms"] == ["cpu", "cuda", "tpu"]

    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", READER, out],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=kept,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    acted = json.loads(result.stdout)
    observation = np.zeros((3, 3), np.float32)
    for row, size in enumerate((2, 2, 3)):
        observation[row, :size] = 0.1 * np.arange(1, size + 1)
    for policy in ("planner", "prior"):
        own = agent.act(observation, agent.tasks, key=jax.random.key(5), policy=policy)
        np.testing.assert_allclose(acted[f"{policy}/3"], own, atol=1e-5)
    np.testing.assert_allclose(acted["prior/1"], own[:1], atol=1e-5)


def test_an_earlier_export_is_replaced_whole(agent, model_free, tmp_path):
    export(model_free, tmp_path)
    (tmp_path / "planner.stablehlo").write_bytes(b"of another agent")
    assert list(export(model_free, tmp_path)["programs"]) == ["prior"]
    assert not (tmp_path / "planner.stablehlo").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("thesis.tex", "", "'thesis.tex'"),
        ("signature.json", '{"format": "another"}', "no signature.json of an export"),
        ("prior.stablehlo", "", "no signature.json of an export"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_left_alone(
    model_free, tmp_path, name, text, message
):
    (tmp_path / name).write_text(text)
    with pytest.raises(ExportError, match=message):
        export(model_free, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_the_way_is_named(model_free, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ExportError, match="cannot use .*out"):
        export(model_free, tmp_path / "out")


def test_the_command_refuses_a_folder_without_a_run(tmp_path):
    command = [sys.executable, "-m", "m3po_jax.cli.export"]
    flags = [f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}"]
    result = subprocess.run(
        [*command, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert result.returncode == 2
    assert "holds no run" in result.stderr
