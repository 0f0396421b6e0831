"""The command line: `grpo-rewards VERB …`. Exit codes: 0 ok, 1 a finding, 2 wrong usage.

A command is a function named after its verb in a module of this folder, and an entry of `COMMANDS`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import typer

from grpo_rewards.cli.audit import attack_command, calibrate_command, diff_command
from grpo_rewards.cli.explain import explain_command
from grpo_rewards.cli.fuzz import fuzz_command
from grpo_rewards.cli.grade import format_command, grade_command
from grpo_rewards.cli.options import err, tell_options
from grpo_rewards.cli.report import report_command
from grpo_rewards.cli.rulesets import check_command, fmt_command, rules_command, test_command
from grpo_rewards.cli.score import INTERRUPTED, score_command
from grpo_rewards.cli.serve import serve_command
from grpo_rewards.errors import MissingFileError, OverwriteError, RewardError
from grpo_rewards.lsp.server import lsp_command


class Command(NamedTuple):
    """A verb, the function that it runs, and the group under which `--help` lists it. The
    function's docstring is the help of the command, its parameters are arguments and options."""

    verb: str
    function: Callable[..., None]
    group: str


#: Every command, in the order of `--help` and of the README's table.
COMMANDS = (
    Command("check", check_command, "Write rulesets"),
    Command("fmt", fmt_command, "Write rulesets"),
    Command("test", test_command, "Write rulesets"),
    Command("score", score_command, "Score data"),
    Command("explain", explain_command, "Score data"),
    Command("attack", attack_command, "Examine a ruleset"),
    Command("fuzz", fuzz_command, "Examine a ruleset"),
    Command("diff", diff_command, "Examine a ruleset"),
    Command("calibrate", calibrate_command, "Examine a ruleset"),
    Command("grade", grade_command, "Look at one text"),
    Command("format", format_command, "Look at one text"),
    Command("rules", rules_command, "Write rulesets"),
    Command("report", report_command, "Score data"),
    Command("serve", serve_command, "Score data"),
    Command("lsp", lsp_command, "Write rulesets"),
)


def _told_by_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors name options where the library's name arguments."""

    @functools.wraps(function)  # Typer reads the parameters of the function inside
    def command(**arguments: Any) -> None:
        try:
            function(**arguments)
        except RewardError as error:
            tell_options(error)
            raise

    return command


app = typer.Typer(
    name="grpo-rewards",
    help="Author, test and run reward rulesets for reinforcement learning on language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb, function, group in COMMANDS:
    app.command(verb, rich_help_panel=group)(_told_by_options(function))


def main() -> None:
    """Entry point: what the library raises becomes one message and exit code 1, or 2 where the
    command itself is at fault: it names a file that is not there, or would write over its input."""
    try:
        app()
    except RewardError as error:
        err.print(str(error), markup=False)
        sys.exit(2 if isinstance(error, MissingFileError | OverwriteError) else 1)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        sys.exit(0)
