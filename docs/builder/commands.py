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
    parts = ["# Command line\n", text.markdown_line(whole.description), "", *_summaries(whole), "", _epilog(whole)]
    for parser in _commands(whole).values():
        parts += _command(parser, "##")
    return "\n".join([*parts, "## Environment\n", _switches()])


def _command(parser: argparse.ArgumentParser, heading: str) -> list[str]:
    """A section of one command, and of its own commands, which some have."""
    parts = [f"{heading} {parser.prog}\n", text.markdown(parser.description), f"```text\n{_usage(parser)}\n```\n"]
    parts += [*_summaries(parser), ""]
    parts += [_group(group, parser.prog) for group in parser._action_groups]
    parts.append(_epilog(parser))
    for command in _commands(parser).values():
        parts += _command(command, f"{heading}#")
    return parts


def _choices(parser: argparse.ArgumentParser) -> argparse._SubParsersAction | None:
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return choices.choices if (choices := _choices(parser)) else {}


def _summaries(parser: argparse.ArgumentParser) -> list[str]:
    """A line for each command."""
    helps = {choice.dest: choice.help for choice in choices._choices_actions} if (choices := _choices(parser)) else {}
    anchor = parser.prog.replace(" ", "-")
    return [f"- [{name}](#{anchor}-{name}): {text.markdown_line(says)}" for name, says in helps.items()]


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ").rstrip()


def _group(group: argparse._ArgumentGroup, prog: str) -> str:
    shown = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
    options = [action for action in shown if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)]
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
