"""The reference of the command line, from its parsers: every command, every option."""

from __future__ import annotations

import argparse
import os
import pathlib
import re

from builder import text
from cupynn import cli

README = pathlib.Path(__file__).parents[2] / "README.md"


def page() -> str:
    """The page, as MyST Markdown."""
    os.environ["COLUMNS"] = "100"  # the width of a usage
    whole = cli.parser()
    (subparsers,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    summaries = [f"- [{choice.dest}](#cupynn-{choice.dest}): {choice.help}" for choice in subparsers._choices_actions]
    parts = ["# Command line\n", text.markdown_line(whole.description), "", *summaries, "", _epilog(whole)]
    for name, parser in subparsers.choices.items():
        parts += [f"## cupynn {name}\n", text.markdown(parser.description), f"```text\n{_usage(parser)}\n```\n"]
        parts += [_group(group, parser.prog) for group in parser._action_groups if group._group_actions]
        parts.append(_epilog(parser))
    return "\n".join([*parts, "## Environment\n", _switches()])


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ").rstrip()


def _group(group: argparse._ArgumentGroup, prog: str) -> str:
    shown = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
    options = [action for action in shown if not isinstance(action, argparse._HelpAction)]
    if not options:
        return ""
    lines = [f"**{group.title.capitalize()}**\n"]
    for action in options:
        says = (action.help or "") % {**vars(action), "prog": prog}
        lines.append(f"`{_invocation(action)}`\n: {text.markdown_line(says)}\n")
    return "\n".join(lines)


def _invocation(action: argparse.Action) -> str:
    """What one types: `--batch-size N`."""
    value = "" if action.nargs == 0 else argparse.HelpFormatter("")._format_args(action, _metavar(action))
    return ", ".join(f"{name} {value}".strip() for name in action.option_strings) or _metavar(action)


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.metavar or (action.dest.upper() if action.option_strings else action.dest)


def _epilog(parser: argparse.ArgumentParser) -> str:
    """Examples as code, sentences as paragraphs."""
    parts = []
    for paragraph in (parser.epilog or "").split("\n\n"):
        lines = paragraph.splitlines()
        code = any(line.startswith("  ") for line in lines)
        parts.append(f"```text\n{paragraph.rstrip()}\n```\n" if code else text.markdown(paragraph))
    return "\n".join(parts)


def _switches() -> str:
    """The README's table of environment variables."""
    return re.search(r"## Switches\n\n(.*?\n)\n", README.read_text(), re.S)[1]
