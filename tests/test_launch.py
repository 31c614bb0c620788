"""The launchers of clusters, which no test can start: they parse, and name what exists."""

import pathlib
import re
import subprocess

import pytest
import yaml

from m3po_jax.cli import train

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"


def job_set():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sbatch", "local.sh", "setup_env.sh"])
def test_shell_scripts_parse(name):
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


def test_the_job_set_has_what_its_schema_requires():
    document = job_set()
    assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and document["kind"] == "JobSet"
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(document["spec"]) <= {"failurePolicy", "replicatedJobs", "network", "successPolicy"}
    (workers,) = document["spec"]["replicatedJobs"]
    assert set(workers) == {"name", "replicas", "template"}
    job = workers["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    (container,) = pod["containers"]
    assert {"name", "image", "command", "resources"} <= set(container)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_job_set_starts_as_many_processes_as_it_says():
    document = job_set()
    (workers,) = document["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    command = job["template"]["spec"]["containers"][0]["command"]
    assert command[:3] == ["python", "-m", "m3po_jax.cli.train"]
    given = dict(argument.lstrip("-").partition("=")[::2] for argument in command[3:])
    assert given["num_processes"] == str(job["completions"])
    name = document["metadata"]["name"]
    assert given["coordinator"].startswith(f"{name}-{workers['name']}-0-0.{name}:")
    assert (LAUNCH.parent / given["config"]).is_file()


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sbatch", "gke_jobset.yaml"])
def test_launchers_use_flags_of_the_training_command(name):
    text = (LAUNCH / name).read_text(encoding="utf-8")
    command = text[text.rindex("m3po_jax.cli.train") :]
    used = set(re.findall(r"--(\w+)", command))
    known = set(re.findall(r"--(\w+)", train.__doc__))
    assert "distributed" in used and used <= known


def test_slurm_asks_for_a_process_per_gpu_and_a_signal_in_time():
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("TERM@")
    # Slurm reads its lines up to the first command.
    first_command = text.index("set -uo")
    assert text.rindex("#SBATCH") < first_command
