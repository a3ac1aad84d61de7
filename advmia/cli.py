"""Every flag, declared once; choices come from the registries. Spellings in circulation work in any letter case."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from advmia import processes
from advmia.attacks import ATTACKS
from advmia.data.phantoms import FOLDERS
from advmia.data.prepare import DOWNLOADS, SPLITS
from advmia.data.specs import DATASETS
from advmia.errors import UserError
from advmia.formats import EXTENSIONS
from advmia.models import MODELS
from advmia.precision import PRECISIONS
from advmia.runtime import say
from advmia.stopping import Stopped, stoppable
from advmia.tasks import Task


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something, as they are typed, and the example as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or isinstance(default, bool):
            return action.help
        if isinstance(default, list):
            typed = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default)
            return f"{action.help} (default: {typed})" if typed else action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Takes flags in any letter case, and says what is wrong in one line."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        spellings = {flag.lower(): flag for action in self._actions for flag in action.option_strings}
        words = []
        for word in sys.argv[1:] if args is None else args:
            flag, equals, value = word.partition("=")
            words.append(spellings.get(flag.lower(), flag) + equals + value)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def run(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], *, shared: bool = False) -> int:
    """Runs a command: bad input ends in one line and status 2; a signal in one line and 128 plus its number.

    `shared`: whether several devices share the work, each with a process of its own.
    """
    _take_any_text()
    try:
        with redirect_stdout(_Output(sys.stdout)):
            try:
                return _status(parser, command, shared)
            except SystemExit as stop:  # of the parser: a wrong argument, or --help
                return int(stop.code or 0)
            finally:
                sys.stdout.flush()
    except _OutputLostError as lost:
        if isinstance(lost.cause, BrokenPipeError):  # as of `| head`
            say(f"{parser.prog}: stopped: nobody reads its standard output any more; what was saved before is kept")
            return 128 + signal.SIGPIPE
        say(f"{parser.prog}: error: cannot write to standard output ({lost.cause.strerror}): send it to another place")
        return 2
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"{parser.prog}: error: {reason}; check that place, or name another")
        return 2
    finally:
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)


def _take_any_text() -> None:
    """File names may hold what the terminal's encoding does not, and the streams may be closed."""
    for name, errors in (("stdin", "surrogateescape"), ("stdout", "backslashreplace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115 - until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _let_go(stream: TextIO) -> None:
    """What could not be written goes nowhere: at its end the interpreter would try again, and fail with a traceback."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _OutputLostError(Exception):
    """Standard output could not be written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Output:
    """Standard output, whose faults are told from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _OutputLostError(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _OutputLostError(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _status(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], shared: bool) -> int:
    """The exit status of the command, which has said what went wrong."""
    args = parser.parse_args()
    try:
        if shared and processes.are_wanted(args.gpu):
            return processes.start(args.gpu)
        with stoppable(), processes.joined():
            _within_memory(command, args)
    except UserError as error:
        place = f" (in process {processes.number()})" if processes.number() else ""
        say(f"{parser.prog}: error: {' '.join(str(error).split())}{place}")
        return 2
    except Stopped as stop:
        say(f"{parser.prog}: stopped{f'; {stop.advice}' if stop.advice else ''}")
        return 128 + stop.number
    except KeyboardInterrupt:  # the second: nothing was waited for
        say(f"{parser.prog}: stopped at once; what was saved before is kept")
        return 128 + signal.SIGINT
    return 0


def _within_memory(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Runs the command. Raises `UserError` when memory is full, which says what would take less."""
    try:
        command(args)
    except torch.OutOfMemoryError as error:
        less = _less(args)
        if getattr(args, "autoBatch", False):  # the batch was not --bs, but what seemed to fit
            less = "leave out --autoBatch, which took more images at once than fit"
        raise UserError(f"the GPU's memory is full{_gpu_memory()}: {less}") from error
    except MemoryError as error:
        raise UserError(f"the memory is full: {_less(args)}") from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # torch has no class of its own for it
            raise
        raise UserError(f"the memory is full: {_less(args)}") from error


def _gpu_memory() -> str:
    """Who holds how much of this process' GPU."""
    if not torch.cuda.is_available():
        return ""
    free, whole = torch.cuda.mem_get_info()
    ours = torch.cuda.memory_reserved()
    held = [f"{part / 2**30:.1f} GiB" for part in (ours, whole, max(whole - free - ours, 0))]
    return f" (this run holds {held[0]} of {held[1]}, others {held[2]})"


def _less(args: argparse.Namespace) -> str:
    """What would take less memory; nobody knows how much the whole batch would have taken."""
    size = getattr(args, "bs", None)
    if size is None:
        return "make or take fewer or smaller images"
    least = max(len(args.gpu or [""]), 1)  # an image for each device
    if size > least:
        return (
            f"try --bs {max(size // 2, least)}, which takes about half of what --bs {size} does, or a smaller --imgSize"
        )
    return f"--bs {size} is the least; try a smaller --imgSize, or --precision bf16"


def train_parser(task: Task, description: str | None) -> Parser:
    parser = _parser(description)
    need = parser.add_argument_group("what to train")
    _add_dataset(need, task)
    need.add_argument(
        "--method", required=True, type=_one_of(task.methods), help=_listed("training method", task.methods)
    )
    need.add_argument("--model", required=True, type=_one_of(task.models), help=_listed("network", task.models))
    if "hat" in task.methods:
        need.add_argument("--helperModel", type=_one_of(task.models), help="hat only: network of the natural helper")
        need.add_argument("--helperWeight", type=Path, help="hat only: checkpoint of the natural helper")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--eps", type=grey_level, default=8.0, help="training budget in grey levels out of 255; nat has none"
    )
    how.add_argument("--epoch", type=_whole(1), default=100, help="epochs")
    how.add_argument("--lr", type=_positive, default=task.default_lr, help="(maximum) learning rate")
    how.add_argument("--wd", type=_non_negative, default=1e-3, help="weight decay")
    pretrained = [name for name in task.models if MODELS[name].load_imagenet]
    how.add_argument(
        "--init",
        type=_one_of(("imagenet", "random")),
        help=f"first weights: random, or imagenet, which {pretrained[0]} alone has, and begins with by default"
        if pretrained
        else "first weights: random; these networks have no others",
    )
    if "trades" in task.methods:
        how.add_argument("--beta", type=_non_negative, help="weight of the robustness term (default: the survey's)")
        how.add_argument("--gamma", type=_non_negative, default=1.0, help="hat only: weight of the helper's term")
        how.add_argument("--hatStep", type=_positive, default=3.5, help="hat only: h of its helper's images")
    how.add_argument(
        "--valFraction",
        type=_share,
        help="choose the epoch on this held-out share of the training list, drawn by image, not by patient"
        " (default: on the test list, as the survey)",
    )
    _add_common(parser, bs=32)
    parser.add_argument("--saveDir", type=Path, default=Path(task.checkpoint_folder), help="where checkpoints go")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where the same training was stopped or killed. A finished training is skipped, with --resume or"
        " without; an unfinished one is renamed without it (to .earlier-1) and begun anew",
    )
    parser.add_argument(
        "--saveEvery",
        type=_positive,
        metavar="MINUTES",
        help="save for --resume within an epoch too, this often (default: after each epoch)",
    )
    return parser


def test_parser(task: Task, description: str | None) -> Parser:
    parser = _parser(description)
    what = parser.add_argument_group("what to test")
    _add_dataset(what, task)
    network = _one_of(task.models)
    what.add_argument("--targetModel", required=True, type=network, help=_listed("attacked network", task.models))
    what.add_argument("--targetWeight", "--targetPath", required=True, type=Path, help="its checkpoint")
    what.add_argument("--surrogateModel", type=network, help="network that attacks are made on (default: the target's)")
    what.add_argument("--surrogateWeight", "--surrogatePath", type=Path, help="its checkpoint (default: the target's)")
    how = parser.add_argument_group("how")
    _add_attacks(how, task, list(task.quick_attacks))
    _add_common(parser, bs=16)
    parser.add_argument(
        "--autoBatch", action="store_true", help="on a GPU, take as many images at once as its memory allows"
    )
    parser.add_argument("--resultDir", type=Path, default=Path("results"), help="where result files go")
    return parser


def visual_parser(task: Task, description: str | None) -> Parser:
    parser = _parser(description)
    what = parser.add_argument_group("what to look at")
    _add_dataset(what, task, {"mel": "melBin", "xray": "xrayBin"})
    what.add_argument("--model", required=True, type=_one_of(task.models), help=_listed("network", task.models))
    what.add_argument("--weight", required=True, type=Path, help="its checkpoint")
    what.add_argument("--saveDir", required=True, type=Path, help="folder for the pictures; made, never emptied")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--overlayOn",
        type=_one_of(("attacked", "clean")),
        default="attacked",
        help="image under an attacked image's map; the published code drew the clean one",
    )
    _add_attacks(how, task, ["pgd"])
    _add_common(parser, bs=16)
    return parser


def tools_parser() -> Parser:
    """`python -m advmia`: what is done around training and testing."""
    parser = _parser("Prepares data, makes generated stand-ins, and tables results.", prog="python -m advmia")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="prepare | phantoms | tables | where")

    def add(name: str, brief: str, description: str, example: str) -> argparse.ArgumentParser:
        text = f"{description}\n\nexample: {example}"
        return tools.add_parser(name, help=brief, description=text, formatter_class=_Help)

    prepare = add(
        "prepare",
        "official download -> the layout that the scripts read",
        "Turns an unpacked official download into the layout that the scripts read, and reports what is in it.\n"
        "Never replaces a different file, and may be run again.",
        "python -m advmia prepare --dataset isic2017 --source downloads/isic2017",
    )
    prepare.add_argument("--dataset", required=True, type=_one_of(DOWNLOADS), help=_listed("download", DOWNLOADS))
    prepare.add_argument("--source", required=True, type=Path, help="folder of the unpacked download, or the .npz file")
    prepare.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    prepare.add_argument(
        "--meta", type=Path, help="folder of the survey's published lists (default: lists are derived)"
    )
    prepare.add_argument(
        "--split",
        type=_one_of(SPLITS),
        default="published",
        help="; ".join(f"{name}: {meaning}" for name, meaning in SPLITS.items()),
    )
    placing = prepare.add_mutually_exclusive_group()
    placing.add_argument("--link", action="store_true", help="link to the download's images")
    placing.add_argument("--copy", action="store_false", dest="link", help="copy the download's images (the default)")

    phantoms = add(
        "phantoms",
        "generated images in the layouts, to try things on",
        "Draws images, masks and lists that fill the layouts of the four data sets, so that every command runs\n"
        "without a download. Results on them say [phantom].",
        "python -m advmia phantoms --dataRoot phantoms --count 800 --size 64",
    )
    folders = {spec.name: spec.folder for spec in DATASETS.values() if spec.name not in FOLDERS}
    phantoms.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    phantoms.add_argument(
        "--dataset", nargs="+", type=_one_of(FOLDERS, folders), default=list(FOLDERS), help=_listed("folders", FOLDERS)
    )
    phantoms.add_argument("--count", type=_whole(1), default=800, help="images a folder")
    phantoms.add_argument("--size", type=_whole(1), default=64, help="side of the images in pixels")
    phantoms.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, help="another seed gives other images")

    tables = add(
        "tables",
        "result files -> tables and curves",
        "Prints tables of all results named: scores by attack and eps, findings, seconds an epoch, transfer between\n"
        "networks. With --out, writes them to a file, and the curves over eps beside it.",
        "python -m advmia tables results --out tables",
    )
    tables.add_argument("results", nargs="+", type=Path, help="result files (.json) or folders of them")
    tables.add_argument(
        "--format", type=_one_of(EXTENSIONS), default="md", help=_listed("of the tables' file", EXTENSIONS)
    )
    tables.add_argument("--out", type=Path, help="write the tables, and curves as PNG and PDF, to this folder")
    tables.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME", help="further scores to table, as result rows name them"
    )

    add(
        "where",
        "command lines of the training and test scripts -> the file that each will write; nothing is run",
        "Reads command lines of the training and test scripts from standard input, one a line, and prints for each\n"
        "the checkpoint or the result record that it will write. Runs none, and refuses what the script would refuse.",
        "echo trainCls.py --dataset melBin --method nat --model res18 | python -m advmia where",
    )
    return parser


def _parser(description: str | None, prog: str | None = None) -> Parser:
    return Parser(prog=prog, description=description, formatter_class=_Help, allow_abbrev=False)


def _add_dataset(group: argparse._ArgumentGroup, task: Task, more: dict[str, str] | None = None) -> None:
    if len(task.datasets) == 1:
        group.set_defaults(dataset=task.datasets[0])
        return
    aliases = {alias: name for name in task.datasets for alias in DATASETS[name].aliases} | (more or {})
    group.add_argument(
        "--dataset", required=True, type=_one_of(task.datasets, aliases), help=_listed("data set", task.datasets)
    )


def _add_attacks(group: argparse._ArgumentGroup, task: Task, default: list[str]) -> None:
    group.add_argument(
        "--attacks",
        nargs="+",
        type=_one_of(task.attacks),
        default=default,
        help="; ".join(f"{name}: {ATTACKS[name].phrase}" for name in task.attacks),
    )
    group.add_argument(
        "--epsilons", nargs="+", type=grey_level, default=[1.0, 2.0, 4.0, 8.0], help="grey levels out of 255"
    )


def _add_common(parser: argparse.ArgumentParser, *, bs: int) -> None:
    parser.add_argument("--bs", type=_whole(1), default=bs, help="batch size, over all GPUs together")
    parser.add_argument(
        "--gpu",
        nargs="+",
        metavar="ID",
        help="CUDA device ids, or cpu (default: 0, or cpu without CUDA); several share each batch",
    )
    parser.add_argument(
        "--precision",
        type=_one_of(PRECISIONS),
        help=_listed("rounding of networks (default: tf32 on CUDA, fp32 on a CPU)", PRECISIONS),
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the attacked network by torch.compile: slow to start, for long runs",
    )
    parser.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--imgSize", type=_whole(8, 2**13), help="image side in pixels (default: the data set's)")
    parser.add_argument("--limit", type=_whole(1), metavar="N", help="only the first N rows of each list")
    parser.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, help="of everything random")
    parser.add_argument(
        "--workers", type=_whole(1), default=os.cpu_count() or 1, help="threads that decode images once"
    )


def _one_of(names: Iterable[str], aliases: dict[str, str] | None = None) -> Callable[[str], str]:
    """Takes a name or an alias in any letter case; an unknown one lists the known."""
    known = {name.lower(): name for name in names}
    spellings = known | {alias.lower(): name for alias, name in (aliases or {}).items()}

    def parse(text: str) -> str:
        if text.lower() not in spellings:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}: known are {', '.join(known.values())}")
        return spellings[text.lower()]

    return parse


def _whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.lstrip("+").isdecimal() or int(text[:99]) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        if int(text[:99]) > most:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {most}, got {text!r}")
        return int(text)

    return parse


def _number(fits: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not fits(value):
            raise argparse.ArgumentTypeError(f"expected a number {expected}, got {text!r}")
        return value

    return parse


_positive = _number(lambda value: value > 0, "above 0")
_non_negative = _number(lambda value: value >= 0, "of at least 0")
_share = _number(lambda value: 0 < value < 1, "between 0 and 1")
grey_level = _number(lambda value: 0 <= value <= 255, "of grey levels from 0 to 255")  # --eps, --epsilons


def _listed(what: str, names: Iterable[str]) -> str:
    return f"{what}: {', '.join(names)}"
