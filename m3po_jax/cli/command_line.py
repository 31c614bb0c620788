"""What all commands share: flags with config overrides, one-line refusals, the compile cache."""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from m3po_jax import presets
from m3po_jax.cli import config_argument, output
from m3po_jax.config import Config, ConfigError, UserError, unknown_key
from m3po_jax.envs import registry
from m3po_jax.version import VERSION
from m3po_jax.workdir import best, folder, record, streams
from m3po_jax.workdir.preemption import PREEMPTED, Preempted
from m3po_jax.workload import task_load

USER_ERROR = 2  # exit code of every refusal
INTERRUPTED = 130  # stopped outside of training, where there is nothing to save
CACHE_VARIABLE = "M3PO_COMPILE_CACHE"


def define_config_flag() -> None:
    """Defines `--config=NAME` and its overrides `--config.KEY=VALUE`."""
    config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
    flags.DEFINE_bool("list", False, "List the presets.")  # `run` does, before it parses


def define_log_flags() -> None:
    """Defines what a training command says and where it logs to."""
    flags.DEFINE_bool("quiet", False, "Print errors only.")
    flags.DEFINE_integer("log_every", None, "Iterations between rows.", lower_bound=1)
    flags.DEFINE_bool("tensorboard", True, "Write TensorBoard event files.")
    flags.DEFINE_bool("wandb", False, "Log to Weights & Biases.")
    for name in ("project", "entity", "group"):
        flags.DEFINE_string(f"wandb_{name}", None, f"With --wandb: the {name}.")
    flags.DEFINE_list("wandb_tags", [], "With --wandb: tags.")


def chosen_logs(config: Config, path: pathlib.Path) -> tuple[Config, list[Any]]:
    """Returns the config with `--log_every`, and the logs of the workdir that were asked for.

    Raises:
        UserError: `--wandb` without the package, or one of its flags without it.
    """
    from m3po_jax.workdir import event_logs

    values = flags.FLAGS
    if values.log_every is not None:
        train = dataclasses.replace(config.train, log_every=values.log_every)
        config = dataclasses.replace(config, train=train)
    where = {name: values[f"wandb_{name}"].value for name in ("project", "entity", "group")}
    given = {name: value for name, value in where.items() if value}
    if values.wandb_tags:
        given["tags"] = tuple(values.wandb_tags)
    if given and not values.wandb:
        raise ConfigError(f"--wandb_{next(iter(given))} has an effect only with --wandb; add it")
    # The flag goes before the service's own variable, and that before our name.
    given.setdefault("project", os.environ.get("WANDB_PROJECT") or "m3po_jax")
    place = event_logs.WandbPlace(**given) if values.wandb else None
    sinks = event_logs.make_sinks(path, tensorboard=values.tensorboard, wandb=place)
    return config, sinks


def define_checkpoint_flag() -> None:
    """Defines `--checkpoint`."""
    flags.DEFINE_enum("checkpoint", best.NEWEST, best.CHECKPOINTS, "Which checkpoint.")


def chosen_checkpoint(path: pathlib.Path, config: Config) -> int | None:
    """Returns the iteration of the checkpoint of `--checkpoint`, None for the newest.

    Raises:
        WorkdirError: There is none; said before anything slow.
    """
    folder.require_checkpoint(path)
    env_steps = task_load(config).env_steps
    step, note = best.chosen_step(path, flags.FLAGS.checkpoint, env_steps)
    if note:
        streams.say(note)
    return step


def define_process_flags() -> None:
    """Defines `--distributed` and what says where the other processes are."""
    flags.DEFINE_bool("distributed", False, "One of several processes.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
    flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0)


def open_run(
    path: pathlib.Path, config: Config, *, overwrite: bool
) -> contextlib.AbstractContextManager[Any]:
    """Opens the workdir, with `--distributed` together with the other processes.

    Raises:
        ConfigError: A flag of several processes stands without `--distributed`.
        UserError: The folder or the other processes are not as they must be.
    """
    values = flags.FLAGS
    where = (values.coordinator, values.num_processes, values.process_id)
    if not values.distributed:
        if where != (None, None, None):
            raise ConfigError("--coordinator, --num_processes and --process_id need --distributed")
        return folder.open_workdir(path, config, overwrite=overwrite)
    from m3po_jax.training import processes

    processes.join(*where)
    return processes.shared_workdir(path, config, overwrite=overwrite)


def settled(config: Config, path: pathlib.Path, *, overwrite: bool) -> Config:
    """Returns the config with the variations of its families: those of a run that is resumed.

    Raises:
        UserError: The folder holds a run that cannot be read.
    """
    resumes = folder.has_begun(path) and (path / record.CONFIG_FILE).exists() and not overwrite
    return registry.settled(config, folder.read_config(path) if resumes else None)


def tell(opened: folder.Workdir) -> None:
    """Prints what to know about the run that is resumed, unless `--quiet`."""
    if opened.note and not flags.FLAGS.quiet:
        streams.say(opened.note)


def run(main: Callable[[], None], usage: str, *, positional: str | None = None) -> None:
    """Parses the flags, calls `main` and exits; mistakes of the user end in a message and code 2.

    Args:
        main: The command; it reads `flags.FLAGS`.
        usage: Text of `--help`.
        positional: A flag that is needed and can also be given as arguments without a name.
    """

    def guarded(_: Sequence[str]) -> None:
        try:
            main()
        except UserError as error:
            fail(str(error), getattr(error, "exit_code", USER_ERROR))
        except Preempted as stopped:
            streams.say(f"{stopped}{_without_overwrite()}")
            sys.exit(PREEMPTED)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one has nothing to add
            trains = "overwrite" in flags.FLAGS
            goes_on = "; the same command resumes from the last checkpoint" if trains else ""
            streams.say(f"\nstopped{goes_on}{_without_overwrite()}")
            sys.exit(INTERRUPTED)
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            fail(_out_of_memory(error))

    def parse(argv: Sequence[str]) -> list[str]:
        if {"-h", "-help", "--help", "--helpshort"} & set(argv):
            print(usage.strip())
            sys.exit(0)
        if "--version" in argv:
            print(f"m3po_jax {VERSION}")
            sys.exit(0)
        if "--list" in argv and "config" in flags.FLAGS:
            print("\n".join(f"{name:8} {text}" for name, text in presets.descriptions().items()))
            sys.exit(0)
        try:
            rest = parse_flags(list(argv), positional=positional)
        except UserError as error:
            fail(str(error))
        # absl would go to INFO, where Orbax writes pages for every checkpoint
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)
        return rest

    output.print_anything()
    with output.delivered(USER_ERROR):
        app.run(guarded, flags_parser=parse)


def _without_overwrite() -> str:
    """What to omit from a command in order to resume its run."""
    values = flags.FLAGS
    asked = "overwrite" in values and values["overwrite"].value
    return " (without --overwrite, which would start from scratch)" if asked else ""


def fail(message: str, code: int = USER_ERROR) -> NoReturn:
    """Prints the message to stderr and exits, by default with the code of a refusal."""
    streams.say(f"error: {message}")
    sys.exit(code)


def _out_of_memory(error: Exception) -> str:
    what = next(iter(str(error).strip().splitlines()), "")[:300]
    return (
        f"there is not enough memory{what and f' ({what})'}; lower replay.capacity, env.num_envs "
        "(or --episodes), batch sizes or widths, or use more devices (train.num_devices). "
        "Everything saved so far is intact"
    )


def parse_flags(
    argv: list[str],
    flag_values: flags.FlagValues = flags.FLAGS,
    *,
    positional: str | None = None,
) -> list[str]:
    """Parses `argv` into the flags.

    Args:
        argv: Command line, the program first.
        flag_values: The flags to set.
        positional: A flag that arguments without a name go to, and that must have a value.

    Returns:
        The program name alone.

    Raises:
        ConfigError: An unknown flag or key, a wrong value, or a config file that does not load.
    """
    argv, source = config_argument.resolve(argv)
    flag_values.set_gnu_getopt(True)  # flags may follow arguments
    try:
        rest: list[str] = flag_values(argv)
    except flags.Error as error:
        raise ConfigError(_flag_message(error, source)) from error
    except Exception as error:  # a config file is the user's program: it can raise anything
        raise ConfigError(_file_message(error, source)) from error
    if positional is not None:
        rest = _take_arguments(rest, flag_values[positional])
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}; flags look like --name=value")
    return rest


def use_compile_cache() -> None:
    """Lets JAX keep compiled programs between runs; call it before JAX is imported.

    The folder is `M3PO_COMPILE_CACHE`, by default `~/.cache/m3po_jax/xla`; `off` switches it off.
    A `JAX_COMPILATION_CACHE_DIR` that the user has set stays.
    """
    choice = os.environ.get(CACHE_VARIABLE, "")
    if choice == "off" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not choice and base.startswith("~"):
        streams.say(
            "There is no home folder, so compiled programs are not kept for the next run; "
            f"{CACHE_VARIABLE}=FOLDER keeps them."
        )
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = choice or os.path.join(base, "m3po_jax", "xla")


def _take_arguments(rest: list[str], flag: flags.Flag) -> list[str]:
    """Gives the arguments without a name to the flag; only a repeated flag takes several."""
    many = isinstance(flag, flags.MultiFlag)
    while len(rest) > 1 and (many or flag.value is None):
        flag.parse(rest.pop(1))
    if flag.value is None:
        raise ConfigError(_flag_needed(flag.name))
    return rest


def _flag_message(error: flags.Error, source: str | None) -> str:
    text = str(error)
    if "Error whilst parsing config file" in text:  # the parser put a whole traceback in there
        return f"{source} does not load: {text.strip().splitlines()[-1]}"
    missing = re.match(r"flag --(\w+)=None: .* must have a value", text)
    if missing is None:
        return text
    if missing[1] == "config" and source is not None:
        return f"{source} does not load: get_config() returned nothing"
    return _flag_needed(missing[1])


def _flag_needed(name: str) -> str:
    return f"--{name} is required; --help shows how to call this command"


def _file_message(error: Exception, source: str | None) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == source]
    where = f"{source} (line {lines[-1]})" if lines else f"{source}"
    text = str(error.args[0] if isinstance(error, KeyError | AttributeError) else error)
    # a locked ConfigDict lists all of its fields; our own hint is shorter
    locked = re.search(r'Key "(\w+)" does not exist and cannot be added', text)
    text = str(unknown_key(locked[1])) if locked else f"{type(error).__name__}: {text}"
    return f"{where} does not load: {text} (a config starts from m3po_jax.default_config())"
