"""cupynn runs"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cupynn.cli.common import BAD_USE, CommandError, expected, table
from cupynn.train import Settings, recipes
from cupynn.train.comparison import Summary, find_runs
from cupynn.train.comparison_curves import draw_comparison

EPILOG = """\
examples:
  cupynn runs runs                                       all runs below the folder, the most accurate first
  cupynn runs runs --filter smallnet --filter lr=0.1     with every word; NAME=VALUE is an option or a setting
  cupynn runs runs --sort speed --picture runs.png       curves of loss and accuracy, those of the first 12 named
  cupynn runs runs --json | jq '.[] | {run, best_accuracy}'

Accuracies are those of the test set after each epoch. Seconds and images/s are those of training, evaluation left out.
Settings, those of the data too, are shown where the runs differ in them. ! marks a run with something broken, told
below the table."""

SORTS: dict[str, tuple[Callable[[Summary], Any], bool]] = {  # what to sort by, and whether the largest comes first
    "accuracy": (lambda run: run.best["test_accuracy"], True),
    "last": (lambda run: run.last["test_accuracy"], True),
    "loss": (lambda run: run.last["test_loss"], False),
    "speed": (lambda run: run.images_per_second, True),
    "seconds": (lambda run: run.seconds, False),
    "parameters": (lambda run: math.nan if run.parameters is None else run.parameters, False),
    "epochs": (lambda run: run.epochs, True),
    "when": (lambda run: run.written, True),
}
BY_DATA = ("classes", "in_channels", "image_size")  # options that the data decides
NO_NUMBER_CHANGES = ("epochs", "workers", "keep", "checkpoint_seconds", "checkpoint_steps")  # epochs have a column
DATA_DEFAULTS = {field.name: field.default for field in dataclasses.fields(recipes.Data) if field.name != "name"}
DEFAULTS = json.loads(json.dumps(dataclasses.asdict(Settings()) | DATA_DEFAULTS))


def add_to(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "runs",
        help="compare runs: a table and a picture",
        description="Compare all runs in a folder and the folders within it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", default="runs", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--sort", choices=("run", *SORTS), default="accuracy", help="default: %(default)s")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="WORD", help="only runs that hold the word; may be repeated"
    )
    parser.add_argument("--picture", metavar="FILE", help="draw the curves to a .png, .svg or .pdf")
    parser.add_argument("--dark", action="store_true", help="draw them for a dark page")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.dark and not arguments.picture:
        raise CommandError("--dark is for --picture FILE", BAD_USE)
    with expected(NotADirectoryError):
        found = find_runs(arguments.folder)
    if not found:
        raise CommandError(f"there is no run in {arguments.folder} or below it")
    chosen = [run for run in found if all(_holds(run, word) for word in arguments.filter)]
    if not chosen:
        raise CommandError(
            f"none of the {len(found)} runs in {arguments.folder} holds {' and '.join(arguments.filter)}"
        )
    chosen = _sorted(chosen, arguments.sort)
    if arguments.picture:
        with expected(ModuleNotFoundError, OSError, ValueError):
            draw_comparison(chosen, arguments.picture, arguments.dark)
    if arguments.json:
        print(json.dumps([_record(run) for run in chosen], indent=1))
        return
    differing = _differing(chosen)
    print(table(_rows(chosen, differing), left=5 if differing else 4))
    for run in chosen:
        for fault in run.faults:
            print(f"! {run.name}: {fault}")
    if arguments.picture:
        print(f"curves in {arguments.picture}")


def _holds(run: Summary, word: str) -> bool:
    """Whether NAME=VALUE is one of a run's options or settings, or another word in what the table shows."""
    word = word.lower()
    options = _pairs(run.options)
    if "=" in word:
        return word in [pair.lower() for pair in options + _pairs(_settings(run))]
    return word in " ".join([run.name, run.model, run.data, *options]).lower()


def _settings(run: Summary) -> dict[str, Any]:
    """A run's settings, those of its data too. One that is new since the run was made had its default then."""
    return {**DEFAULTS, **run.settings, **run.preparation} if run.settings else {}


def _sorted(runs: Sequence[Summary], name: str) -> list[Summary]:
    """By one column, best first; what has no figure comes last."""
    if name == "run":
        return list(runs)
    figure, largest_first = SORTS[name]
    known = [run for run in runs if not math.isnan(figure(run))]
    return sorted(known, key=figure, reverse=largest_first) + [run for run in runs if math.isnan(figure(run))]


def _differing(runs: Sequence[Summary]) -> list[str]:
    """The settings that the runs do not share."""
    tables = [_settings(run) for run in runs if run.settings]
    names = [name for name in dict.fromkeys(name for own in tables for name in own) if name not in NO_NUMBER_CHANGES]
    return [name for name in names if len({json.dumps(own.get(name)) for own in tables}) > 1]


def _rows(runs: Sequence[Summary], differing: Sequence[str]) -> list[list[str]]:
    header = ["run", "network", "options", "data", "settings", "epochs", "best", "last", "test loss", "images/s"]
    rows = [[*header, "seconds", "parameters", "when"]]
    for run in runs:
        options = {n: v for n, v in run.options.items() if n not in BY_DATA and (n, v) != ("composition", "kernel")}
        settings = _settings(run)
        rows.append(
            [
                run.name + (" !" if run.faults else ""),
                run.model,
                " ".join(_pairs(options)),
                run.data,
                " ".join(_pairs({name: settings[name] for name in differing if name in settings})),
                f"{run.epochs}/{'?' if run.planned is None else run.planned}",
                _figure(run.best["test_accuracy"], ".2%"),
                _figure(run.last["test_accuracy"], ".2%"),
                _figure(run.last["test_loss"], ".4f"),
                _figure(run.images_per_second, ",.0f"),
                _figure(run.seconds, ",.1f"),
                "-" if run.parameters is None else f"{run.parameters:,}",
                "-" if math.isnan(run.written) else time.strftime("%Y-%m-%d %H:%M", time.localtime(run.written)),
            ]
        )
    return rows if differing else [row[:4] + row[5:] for row in rows]


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    """A value as a person would type it, without blanks."""
    if isinstance(value, str):
        return value
    if type(value) is float:
        return f"{value:g}"
    return json.dumps(value, separators=(",", ":"))


def _record(run: Summary) -> dict[str, Any]:
    figures = {
        "best_accuracy": run.best["test_accuracy"],
        "best_epoch": run.best["epoch"],
        "last_accuracy": run.last["test_accuracy"],
        "test_loss": run.last["test_loss"],
        "train_loss": run.last["train_loss"],
        "images_per_second": run.images_per_second,
        "seconds": run.seconds,
        "written": run.written,
    }
    return {
        "run": run.name,
        "path": str(run.path),
        "network": run.model,
        "options": run.options,
        "data": run.data,
        "settings": run.settings,
        "preparation": run.preparation,
        "epochs": run.epochs,
        "planned": run.planned,
        **{name: None if math.isnan(value) else value for name, value in figures.items()},
        "parameters": run.parameters,
        "faults": list(run.faults),
    }
