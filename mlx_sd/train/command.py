"""The command python -m mlx_sd.train: one kind of training, its settings as flags, progress and the result."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..core import command
from ..core.errors import InputError
from ..core.parser import Parser, program
from ..core.suggestions import unknown
from ..ranks import launch
from ..ranks.exchange import Ranks
from ..setting import settings_of
from ..setting_flags import add_setting, path, spell_setting
from .kind_table import KINDS, Kind
from .learning.settings import TrainSettings
from .progress_line import ProgressLine
from .run import settings_file
from .session import Session

Settings = TypeVar("Settings", bound=TrainSettings)
NAME = "mlx_sd.train"
_EXAMPLES = {
    "lora": """examples:
  python -m mlx_sd.train lora --data photos/ --out me.safetensors --steps 800
  python -m mlx_sd.train lora --model models/sd15 --data style/ --out style.safetensors --rank 16 --text-rate 5e-5
  python -m mlx_sd.train lora --data photos/ --out me.safetensors --steps 1200 --resume
""",
    "embedding": """examples:
  python -m mlx_sd.train embedding --data toy/ --token mytoy --like toy --out mytoy.safetensors
""",
    "unet": """examples:
  python -m mlx_sd.train unet --model models/sd15 --data pictures/ --out tuned/ --average 0.999
""",
    "distill": """examples:
  python -m mlx_sd.train distill --data pictures/ --out fast.safetensors --steps 4000
  python -m mlx_sd.generate "a lighthouse" --lora fast.safetensors --sampler tcd --steps 4 --guidance 1
""",
    "prune": """examples:
  python -m mlx_sd.train prune --model models/sd15 --data pictures/ --out small/ --remove 0.3 --steps 10000
  python -m mlx_sd.train prune --model models/sd15 --data pictures/ --out small/ --shape small --steps 50000
""",
    "control": """examples:
  python -m mlx_sd.train control --model models/sd15 --data pictures/ --images edges --out edges-net/
  python -m mlx_sd.train control --data pictures/ --images edges --out edges.safetensors --rank 16 --steps 5000
""",
}
_GROUPS = {"kind": "of this kind of training"}


def overview() -> Parser:
    """Returns the parser whose help lists the kinds."""
    width = max(map(len, KINDS))
    listing = "\n".join(f"  {name:{width}}  {kind.summary}" for name, kind in KINDS.items())
    p = Parser(
        prog=program(NAME),
        usage=f"{program(NAME)} KIND --data DIR --out PATH ...",
        description="Train on your own pictures: adapters, words, networks.",
        epilog=f"kinds:\n{listing}\n\n{program(NAME)} KIND --help lists the options of a kind.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return p


def parser() -> Parser:
    """Returns a parser of all kinds together, by which shells complete; `kind_parser` is that of one."""
    p = Parser(prog=program(NAME))
    p.add_argument("kind", choices=tuple(KINDS), help="the kind of training")
    described = {field: setting for kind in KINDS.values() for field, setting in settings_of(kind.settings).items()}
    for field, setting in described.items():
        add_setting(p, field, setting)
    _add_command(p, "a .safetensors file or a folder")
    return p


def kind_parser(name: str) -> Parser:
    """Returns the parser of one kind."""
    kind = KINDS[name]
    p = Parser(
        prog=f"{program(NAME)} {name}",
        description=f"Train {kind.summary}.",
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, Any] = {group: p.add_argument_group(group, line) for group, line in _GROUPS.items()}
    defaults = kind.settings()
    for field, setting in settings_of(kind.settings).items():
        action = add_setting(groups.get(setting.group, p), field, setting)
        default = getattr(defaults, field)
        if not isinstance(default, bool) and default not in (None, "", ()):
            action.help = f"{action.help} (default: {default})"
        if setting.kind in (int, float):
            action.metavar = "N"
        spell_setting(p, action, setting)
    _add_command(p, kind.result)
    return p


def _add_command(p: Parser, result: str) -> None:
    """Adds the flags of the command itself."""
    work = p.add_argument_group("command", "where the result goes, and how to go on")
    out = work.add_argument("--out", type=path, metavar="PATH", help=f"the result, {result}")
    p.add_spellings(out, aliases="output o output-dir output-name")
    work.add_argument(
        "--run", type=path, metavar="DIR", help="folder of checkpoints, log and samples (default: OUT-training)"
    )
    work.add_argument("--resume", action="store_true", help="go on with the run in that folder, with its settings")
    work.add_argument("--force", action="store_true", help="replace a result that is there")
    work.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard too")
    work.add_argument("--plan", action="store_true", help="print the memory that a step needs, and train nothing")
    work.add_argument("--quiet", action="store_true", help="print errors, and nothing else")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = f"{program(NAME)} {words[0]}" if words and words[0] in KINDS else program(NAME)
    return command.run(name, lambda: launch.run(lambda ranks: _run(words, ranks)), "--quiet" in words)


def _run(words: list[str], ranks: Ranks) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        overview().print_help()
        return
    if words[0] not in KINDS:
        raise InputError(unknown("kind of training", words[0], tuple(KINDS)))
    _train(words[0], kind_parser(words[0]).parse_args(words[1:]), ranks)


def _train(name: str, arguments: argparse.Namespace, ranks: Ranks) -> None:
    if arguments.out is None and not arguments.plan:
        raise InputError("--out is missing: where the result goes")
    out = arguments.out or Path("plan")
    kind, folder = KINDS[name], arguments.run or out.with_name(f"{out.name}-training")
    settings = kind.settings() if ranks.rank else _settings(kind, arguments, folder)
    if ranks.size > 1:  # other hosts need not see the run's folder, which may hold the settings
        text = ranks.share_text(json.dumps(settings.to_json()))
        settings = kind.settings.from_json(json.loads(text), "the settings of rank 0")
    line = ProgressLine(together=ranks.size > 1, quiet=arguments.quiet or ranks.rank > 0)
    session = Session(
        name,
        settings,
        out,
        folder,
        resume=arguments.resume,
        force=arguments.force,
        tensorboard=arguments.tensorboard,
        show=line.show,
        planned=line.plan,
        ranks=ranks,
    )
    if arguments.plan:
        if not ranks.rank:
            _print_plan(session)
        return
    try:
        out = session.run()
    finally:
        line.end()
    if not arguments.quiet:
        print(out)


def _settings(kind: Kind, arguments: argparse.Namespace, folder: Path) -> Any:
    """Returns the settings of the flags; a run that is resumed has its own, over which flags are put."""
    settings = kind.settings()
    if arguments.resume:
        if not (folder / settings_file.NAME).is_file():
            raise InputError(f"{folder} holds no run to go on with; leave out --resume to begin one")
        settings = settings_file.read(folder, kind.settings)
    return with_flags(settings, arguments)


def with_flags(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """Returns settings with the values of those flags of their kind's parser that a command line has."""
    described = settings_of(type(settings))
    flags = {name: getattr(arguments, name) for name in described if getattr(arguments, name) is not None}
    changed: Settings = settings.with_values(**flags)
    return changed


def _print_plan(session: Session) -> None:
    """Prints the memory that a step needs, and what would need less where the machine has not so much."""
    plan = session.plan()
    print("\n".join(plan.lines()))
    if not plan.fits:
        print(plan.advice(session.settings))
