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
SHELL = sorted(path.name for path in LAUNCH.glob("*.s[hb]*"))
# Each with what its pods ask for, and what their node selectors begin with.
JOB_SETS = {
    "gke_jobset.yaml": ("nvidia.com/gpu", "cloud.google.com/gke-accelerator"),
    "gke_tpu_jobset.yaml": ("google.com/tpu", "cloud.google.com/gke-tpu-"),
}


def job_set(name):
    return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_parse(name):
    assert len(SHELL) >= 6
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


@pytest.mark.parametrize("name", JOB_SETS)
def test_the_job_set_has_what_its_schema_requires(name):
    document = job_set(name)
    resource, selector = JOB_SETS[name]
    assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and document["kind"] == "JobSet"
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(document["spec"]) <= {"failurePolicy", "replicatedJobs", "network", "successPolicy"}
    (workers,) = document["spec"]["replicatedJobs"]
    assert set(workers) == {"name", "replicas", "template"}
    job = workers["template"]["spec"]
    assert set(job) == {
        *("parallelism", "completions", "completionMode", "backoffLimit", "template")
    }
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    assert set(pod) == {
        *("restartPolicy", "terminationGracePeriodSeconds", "nodeSelector", "containers", "volumes")
    }
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    assert all(key.startswith(selector) for key in pod["nodeSelector"])
    (container,) = pod["containers"]
    assert {"name", "image", "command", "resources"} <= set(container)
    assert set(container["resources"]["limits"]) == {resource}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_tpu_pods_are_the_hosts_of_the_slice():
    job = job_set("gke_tpu_jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    columns, rows = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert int(columns) * int(rows) == job["completions"] * chips


def test_the_gpu_job_set_starts_as_many_processes_as_it_says():
    document = job_set("gke_jobset.yaml")
    (workers,) = document["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    command = job["template"]["spec"]["containers"][0]["command"]
    assert command[:3] == ["python", "-m", "m3po_jax.cli.train"]
    given = dict(argument.lstrip("-").partition("=")[::2] for argument in command[3:])
    assert given["num_processes"] == str(job["completions"])
    name = document["metadata"]["name"]
    assert given["coordinator"].startswith(f"{name}-{workers['name']}-0-0.{name}:")
    assert given["config"] in presets.names()


@pytest.mark.parametrize("name", ["tpu_worker.sh", "slurm.sbatch", *JOB_SETS])
def test_launchers_use_flags_of_the_training_command(name):
    text = (LAUNCH / name).read_text(encoding="utf-8")
    command = text[text.rindex("m3po_jax.cli.train") :]
    used = set(re.findall(r"--(\w+)", command if name in JOB_SETS else command.split("\n")[0]))
    known = set(re.findall(r"--(\w+)", train.__doc__))
    assert "distributed" in used and used <= known


# The options of the job and what sbatch(1) allows as their values.
SLURM_OPTIONS = {
    "job-name": r"\w+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "output": r"[\w.%-]+",
    "open-mode": r"append|truncate",
    "requeue": r"",
    "signal": r"(B:|R:)?[A-Z]+(@\d+)?",
}


def test_slurm_asks_for_a_process_per_gpu_and_a_signal_in_time():
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    asked = slurm_options()
    flags = {line.split()[1].partition("=")[0] for line in re.findall("^#SBATCH .*", text, re.M)}
    assert flags == {f"--{name}" for name in SLURM_OPTIONS}
    for name, form in SLURM_OPTIONS.items():
        assert re.fullmatch(form, asked.get(name, "")), name
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
    if name in JOB_SETS:
        job = job_set(name)["spec"]["replicatedJobs"][0]["template"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        devices = container["resources"]["limits"][JOB_SETS[name][0]]
        return container["command"], job["parallelism"] * devices
    text = (LAUNCH / name).read_text(encoding="utf-8")
    joined = re.sub(r"\\\n# *", "", text)
    command = re.search(rf"^# +\w+ launch/{re.escape(name)} (.+)$", joined, re.MULTILINE)[1]
    if name == "slurm.sbatch":
        asked = slurm_options()
        return shlex.split(command), int(asked["nodes"]) * int(asked["gpus-per-node"])
    return shlex.split(command), int(re.search(r"ACCELERATOR:-\w+-(\d+)\}", text)[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("tpu_pod.sh", 16), ("slurm.sbatch", 8), ("gke_jobset.yaml", 16), ("gke_tpu_jobset.yaml", 16)],
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


@pytest.mark.parametrize("name", JOB_SETS)
def test_no_restart_of_the_job_set_deletes_the_run(name):
    """Every restart runs the same command, and a comment says what that means."""
    command, _ = example(name)
    assert not any("overwrite" in argument for argument in command)
    text = (LAUNCH / name).read_text(encoding="utf-8")
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


def test_the_image_is_made_of_what_is_there_and_named_by_the_job_sets():
    """No Docker here: what its instructions name must exist, and be among what is sent."""
    text = (LAUNCH / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", text)
    steps = [line.split(maxsplit=1) for line in joined.splitlines() if re.match("[A-Z]", line)]
    assert [kind for kind, _ in steps][:2] == ["ARG", "FROM"]
    assert {kind for kind, _ in steps} == {*("ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "CMD")}
    ignore = (LAUNCH / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = [source for kind, rest in steps if kind == "COPY" for source in rest.split()[:-1]]
    assert copied and {source.partition("/")[0] for source in copied} == sent
    assert all((LAUNCH.parent / source).exists() for source in copied)
    (installs,) = [rest for kind, rest in steps if kind == "RUN" and "EXTRA" in rest]
    assert '-c requirements.txt ".[render${EXTRA:+,$EXTRA}]"' in installs
    python = re.search(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)[1]
    setup = (LAUNCH.parent / "setup.py").read_text(encoding="utf-8")
    assert f"Python :: {python}" in setup
    for name in JOB_SETS:
        job = job_set(name)["spec"]["replicatedJobs"][0]["template"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        extra = container["image"].rpartition(":")[2]
        assert f'"{extra}": ["jax[{extra}]' in setup
        comment = " ".join((LAUNCH / name).read_text(encoding="utf-8").split())
        assert f"launch/Dockerfile with EXTRA={extra}" in comment


def test_the_docs_say_what_finding_each_other_on_kubernetes_needs():
    page = LAUNCH.parent / "docs" / "scaling.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    passage = re.search(r"on Kubernetes too, where (.+?); elsewhere add (.+?)\. The JobSet", text)
    assert "jax[k8s]" in passage[1] and "service account may read pods" in passage[1]
    command, _ = example("gke_jobset.yaml")
    for flag in re.findall(r"--\w+", passage[2]):
        assert any(argument.startswith(f"{flag}=") for argument in command)
