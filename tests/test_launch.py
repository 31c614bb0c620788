"""The launchers: they parse, name what exists, and start the right commands of stand-in tools."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from m3po_jax import presets
from m3po_jax.cli import command_line, train
from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.workload import device_conflict

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
GPU = "nvidia.com/gpu"


def job_set():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["tpu_pod.sh", "slurm.sbatch", "local.sh", "seeds.sh", "setup_env.sh"]
)
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
    assert given["config"] in presets.names()


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sbatch", "gke_jobset.yaml"])
def test_launchers_use_flags_of_the_training_command(name):
    text = (LAUNCH / name).read_text(encoding="utf-8")
    command = text[text.rindex("m3po_jax.cli.train") :]
    used = set(re.findall(r"--(\w+)", command))
    known = set(re.findall(r"--(\w+)", train.__doc__))
    assert "distributed" in used and used <= known


def test_slurm_asks_for_a_process_per_gpu_and_a_signal_in_time():
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    asked = slurm_options()
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("TERM@")
    # Slurm reads its lines up to the first command.
    first_command = text.index("set -uo")
    assert text.rindex("#SBATCH") < first_command


def slurm_options():
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))


def example(name):
    """The training command as a launcher shows it, and the number of its devices."""
    if name == "gke_jobset.yaml":
        job = job_set()["spec"]["replicatedJobs"][0]["template"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        return container["command"], job["parallelism"] * container["resources"]["limits"][GPU]
    text = (LAUNCH / name).read_text(encoding="utf-8")
    joined = re.sub(r"\\\n# *", "", text)
    command = re.search(rf"^# +\w+ launch/{re.escape(name)} (.+)$", joined, re.MULTILINE)[1]
    if name == "slurm.sbatch":
        asked = slurm_options()
        return shlex.split(command), int(asked["nodes"]) * int(asked["gpus-per-node"])
    return shlex.split(command), int(re.search(r"ACCELERATOR:-\w+-(\d+)\}", text)[1])


@pytest.mark.parametrize(
    ("name", "expected"), [("tpu_pod.sh", 16), ("slurm.sbatch", 8), ("gke_jobset.yaml", 16)]
)
def test_the_example_of_each_launcher_splits_over_its_devices(name, expected, monkeypatch):
    arguments, devices = example(name)
    assert devices == expected
    monkeypatch.chdir(LAUNCH.parent)
    argv = ["train", *(given for given in arguments if given.startswith("--config"))]
    monkeypatch.setattr(sys, "argv", argv)  # where overrides are looked for
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    command_line.parse_flags(argv, values)
    config = from_config_dict(values.config)
    validate(config)
    assert device_conflict(config, devices) is None
    assert config.train.num_devices in (0, devices)


def test_no_restart_of_the_job_set_deletes_the_run():
    """Every restart runs the same command, and a comment says what that means."""
    command, _ = example("gke_jobset.yaml")
    assert not any("overwrite" in argument for argument in command)
    text = (LAUNCH / "gke_jobset.yaml").read_text(encoding="utf-8")
    assert re.search(r"# No --overwrite here.*\n *command:", text)


def stand_in(folder, name, text):
    """Puts a script in front of the tool of that name."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def call(script, *arguments, tools, cwd, **environment):
    """Runs a launcher with the stand-ins, and nothing of the surroundings that it reads."""
    read = ("SLURM_", "SRUN_", "GIT_", "M3PO_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(read) and k != "WORKDIR"}
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**kept, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **environment},
        timeout=60,
    )


@pytest.fixture
def slurm(tmp_path):
    """Starts the job; returns the result, the arguments of srun and the CPUs it was told."""
    tools, log = tmp_path / "bin", tmp_path / "srun.log"
    stand_in(
        tools,
        "srun",
        f'printf "%s\\n" "${{SRUN_CPUS_PER_TASK:-none}}" "$@" >"{log}"; exit "${{SRUN_EXIT:-0}}"',
    )
    stand_in(tools, "scontrol", f'echo "$*" >"{tmp_path / "scontrol.log"}"')

    def start(*arguments, **environment):
        given = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", **environment}
        script = LAUNCH / "slurm.sbatch"
        result = call(script, *arguments, tools=tools, cwd=tmp_path, **given)
        cpus, *passed = log.read_text(encoding="utf-8").splitlines()
        return result, passed, cpus

    return start


@pytest.mark.parametrize("spelled", ["--overwrite", "-overwrite", "--overwrite=true"])
def test_a_requeued_job_does_not_overwrite_again(slurm, tmp_path, spelled):
    others = ("--config=my config.py", "--config.seed=1")
    arguments = (others[0], spelled, others[1])
    result, passed, _ = slurm(*arguments, SRUN_EXIT="75")
    assert result.returncode == 75
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 7\n"
    assert passed[-3:] == list(arguments)
    for count in ("0", "1", "12"):
        result, passed, _ = slurm(*arguments, SLURM_RESTART_COUNT=count)
        assert result.returncode == 0, result.stderr
        first = count == "0"
        assert passed[passed.index("--distributed") + 2 :] == list(arguments if first else others)
        assert result.stdout.count("dropping --overwrite") == (not first)
    result, passed, _ = slurm(*others, SLURM_RESTART_COUNT="1")
    assert tuple(passed[-2:]) == others and result.stdout == result.stderr == ""
    result, passed, _ = slurm(spelled, SLURM_RESTART_COUNT="1")
    assert passed[-1].startswith("--workdir=") and result.stderr == ""


def test_srun_gets_the_cpus_that_the_job_asked_for(slurm):
    assert slurm(SLURM_CPUS_PER_TASK="8")[2] == "8"
    result, _, cpus = slurm()
    assert cpus == "none" and result.returncode == 0 and result.stderr == ""


@pytest.fixture
def clone(tmp_path):
    """A clone with the launchers, all committed, and what it takes to commit more."""
    root = tmp_path / "my clone"
    shutil.copytree(LAUNCH, root / "launch")
    for name in ("requirements.txt", "setup.py"):
        shutil.copy(LAUNCH.parent / name, root / name)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false")
    for arguments in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "-m", "all")):
        subprocess.run(["git", *arguments], cwd=root, env=kept, check=True)
    return root


@pytest.fixture
def tpu(clone, tmp_path):
    """Starts the slice; returns the result and the calls of gcloud."""
    tools, log = tmp_path / "bin", tmp_path / "gcloud.log"
    describe = 'eval "$DESCRIBE"; exit'
    stand_in(
        tools,
        "gcloud",
        f'printf "%s\\n" "${{*//$\'\\n\'/ }}" >>"{log}"\n'
        f'case "$*" in *describe*) {describe};; esac',
    )
    # ends a loop that would wait for ever
    stand_in(tools, "sleep", "exit 9")

    def start(*arguments, describe):
        log.write_text("", encoding="utf-8")
        script = clone / "launch" / "tpu_pod.sh"
        result = call(script, *arguments, tools=tools, cwd=tmp_path, DESCRIBE=describe)
        return result, log.read_text(encoding="utf-8").splitlines()

    return start


def test_a_slice_that_is_ready_gets_the_package_and_the_arguments(tpu):
    result, calls = tpu("--config=my config.py", describe="echo ACTIVE")
    assert result.returncode == 0, result.stderr
    assert not any("queued-resources create" in text for text in calls)
    assert any("tpu-vm scp" in text for text in calls)
    assert "m3po_jax.cli.train --distributed" in calls[-1]
    assert r"--config=my\ config.py" in calls[-1]


def test_a_slice_that_is_not_ready_is_waited_for_or_reported(tpu):
    waiting, _ = tpu(describe="echo PROVISIONING")
    assert waiting.returncode == 9 and "waiting for the slice m3po: PROVISIONING" in waiting.stdout
    failed, _ = tpu(describe="echo FAILED")
    assert failed.returncode == 1 and "m3po is FAILED" in failed.stderr


@pytest.mark.parametrize("name", ["launch/tpu_pod.sh", "new.py"])
def test_changes_that_the_workers_would_lack_are_refused(tpu, clone, name):
    with open(clone / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    result, calls = tpu(describe="echo ACTIVE")
    assert result.returncode == 2
    assert "commit them first" in result.stderr and result.stderr.count("\n") == 1
    assert calls == []


def test_a_slice_without_a_state_ends_with_what_gcloud_says(tpu):
    result, calls = tpu(describe="echo 'ERROR: please log in' >&2; false")
    assert result.returncode == 1
    assert any("queued-resources create" in text for text in calls)
    said, ours = result.stderr.splitlines()
    assert said == "ERROR: please log in"
    assert ours.startswith("error: gcloud reports no state for the slice m3po")
    assert "waiting" not in result.stdout


@pytest.fixture
def local(clone, tmp_path):
    """Starts the local launcher; returns the result and the module and folder of each command."""
    log = tmp_path / "python.log"
    stand_in_python = (
        f'case "$2" in pip) exit;; m3po_jax.*) printf "%s\\n" "$*" >>"{log}"; exit;; esac\n'
        f'exec "{sys.executable}" "$@"'
    )
    (clone / ".venv").mkdir()
    stand_in(clone / ".venv" / "bin", "python", stand_in_python)
    (clone / ".venv" / ".m3po-root").write_text(f"{clone}\n", encoding="utf-8")

    def start(*arguments, **environment):
        log.write_text("", encoding="utf-8")
        script = clone / "launch" / "local.sh"
        tools = tmp_path / "bin"
        result = call(script, *arguments, tools=tools, cwd=tmp_path, **environment)
        calls = log.read_text(encoding="utf-8").splitlines()
        return result, [re.findall(r"m3po_jax\.cli\.(\w+).* --workdir=(\S+)", c) for c in calls]

    return start


@pytest.mark.parametrize("folder", [None, "runs/seed1", "/runs/seed1"])
def test_all_three_steps_use_the_same_folder(local, clone, folder):
    result, calls = local("--config.seed=1", **({"WORKDIR": folder} if folder else {}))
    assert result.returncode == 0, result.stderr
    folder = folder or "runs/classic"
    assert calls == [[(step, folder)] for step in ("train", "evaluate", "report")]
    assert f"train into {folder}," in result.stdout
    assert f"Everything is in {clone / folder}:\n" in result.stdout
    assert f"open {clone / folder}/report/report.html\n" in result.stdout
    # only without it does a second call go on
    assert result.stdout.count("without --overwrite") == 2


@pytest.mark.parametrize("given", [["--workdir=runs/a"], ["--workdir", "runs/a"], ["-workdir=a"]])
def test_a_folder_for_one_step_alone_is_refused(local, given):
    result, calls = local("--config.seed=1", *given)
    assert result.returncode == 2 and calls == []
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert "WORKDIR=DIR" in result.stderr


def test_the_docs_say_what_finding_each_other_on_kubernetes_needs():
    page = LAUNCH.parent / "docs" / "scaling.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    passage = re.search(r"on Kubernetes too, where (.+?); elsewhere add (.+?)\. The JobSet", text)
    assert "jax[k8s]" in passage[1] and "service account may read pods" in passage[1]
    command, _ = example("gke_jobset.yaml")
    for flag in re.findall(r"--\w+", passage[2]):
        assert any(argument.startswith(f"{flag}=") for argument in command)
