"""The page of a run, section by section."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cupynn.graph import draw
from cupynn.pictures import Draw, Page, Theme
from cupynn.profile import KernelRow
from cupynn.report.findings import SPEED_BATCH, Findings, find
from cupynn.train import Settings
from cupynn.train.confusion import heat_map
from cupynn.train.curves import SIZE, curves

BARS = 10  # kernels in the picture
STYLE = """.wide, picture { display: block; margin: 0.8rem 0; }
.wide svg { max-width: none; }
"""


def report(path: str | os.PathLike, data_folder: str | None = None) -> Page:
    """A page on the run in a folder, which stays as it is: networks are evaluated, timed, contracted and profiled anew.

    data_folder: where the run's data lies now, if not where it lay. What is missing, a file or the data, is said on the
    page. Raises FileNotFoundError where there is no run, ValueError where its config.json is damaged,
    ModuleNotFoundError with the pip command where matplotlib is missing.
    """
    found = find(pathlib.Path(path), data_folder)
    page = Page(f"Run {found.path.resolve().name}", css=STYLE)
    results = (_summary, _missing, _curves, _networks, _confusion, _contraction)
    for section in (*results, _kernels, _tape, _settings, _environment):
        section(page, found)
    return page


def _summary(page: Page, found: Findings) -> None:
    rows = []
    for name, run in found.named().items():
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.written)) if run.written == run.written else "-"
        rows.append(
            {
                "network": name,
                "made as": " ".join([run.model, *_pairs(run.options)]),
                "data": run.data,
                "epochs": f"{run.epochs} of {'?' if run.planned is None else run.planned}",
                "best test accuracy": _share(run.best["test_accuracy"]),
                "last": _share(run.last["test_accuracy"]),
                "training": f"{run.seconds:,.0f} s" if run.records else "-",
                "images/s": f"{run.images_per_second:,.0f}" if run.records else "-",
                "written": written,
            }
        )
    page.heading("Summary")
    page.table(rows)


def _missing(page: Page, found: Findings) -> None:
    page.heading("What is missing")
    for sentence in found.missing or ["Nothing: the run is done, and all of it could be read and measured."]:
        page.paragraph(sentence)


def _curves(page: Page, found: Findings) -> None:
    page.heading("Training curves")
    networks = found.named()
    records = [{"network": name, **record} for name, run in networks.items() for record in run.records]
    if records:
        names = {name: run.model for name, run in networks.items()} if len(networks) == 1 else {}
        page.picture(curves(records, names), SIZE, "Loss and test accuracy of each epoch, one line per network")
    else:
        page.paragraph("No epoch is done.")


def _networks(page: Page, found: Findings) -> None:
    page.heading("Networks")
    if not found.networks:
        page.paragraph("No weights could be read.")
        return
    rows = []
    for network in found.networks:
        training, inference = network.speeds
        rows.append(
            {
                "network": network.title,
                "parameters": f"{network.parameters:,}",
                "MACs": f"{network.macs:,}",
                "test accuracy": _share(network.accuracy),
                "test loss": "-" if network.loss is None else f"{network.loss:.4f}",
                "training images/s": f"{training:,.0f}",
                "inference images/s": f"{inference:,.0f}",
            }
        )
    page.table(rows)
    words = f"Speed was measured for this page, at batch {SPEED_BATCH}, in float32."
    words += f" Accuracy and loss are of {found.images}." if found.images else ""
    if found.compact is not None:
        words += " What an expanded network contracts to has the layers of the plain one."
    page.paragraph(words)


def _confusion(page: Page, found: Findings) -> None:
    page.heading("Confusion matrix")
    confusion = found.main.confusion if found.main else None
    if confusion is None:
        page.paragraph("No network could be evaluated.")
        return
    drawn, size = heat_map(confusion, f"{found.main.title}: {found.images}")
    page.picture(drawn, size, "How many images of each class were taken for which")
    names = confusion.class_names
    if largest := confusion.largest(5):
        worst = ", ".join(f"{names[true]} for {names[taken]} ({count})" for true, taken, count in largest)
        page.paragraph(f"Taken most often for another class: {worst}.")


def _contraction(page: Page, found: Findings) -> None:
    page.heading("Contraction")
    if not found.proofs:
        page.paragraph("There is no contracted network: the run's network has no expanded layers, or it is missing.")
        return
    page.paragraph(
        f"{found.main.title} run layer after layer, and the network it contracts to: their logits on 8 random images."
    )
    page.table(
        [
            {
                "computed in": proof.dtype,
                "largest difference": f"{proof.absolute:.1e}",
                "of the largest logit": f"{proof.relative:.1e}",
                "bound": f"{proof.bound:g}",
            }
            for proof in found.proofs
        ]
    )


def _kernels(page: Page, found: Findings) -> None:
    page.heading("Where a training step goes")
    if found.step is None:
        page.paragraph("No weights could be read.")
        return
    step = found.step
    words = f"One step of {found.main.title} at batch {SPEED_BATCH}, in float32, took {1e3 * step.seconds:.3g} ms, the "
    words += f"median of {step.steps}."
    if found.ceilings is not None:
        words += f" Floors are those of this machine's {found.ceilings}, measured in the same run."
    page.paragraph(words)
    shares = step.shares()
    page.table(
        [
            {"": name, "ms": round(1e3 * seconds, 3), "share": _share(shares[name])}
            for name, seconds in step.categories().items()
        ]
    )
    rows = step.kernels(found.ceilings)
    if not rows:
        page.paragraph("No kernel ran: references of NumPy alone.")
        return
    page.picture(_bars(rows[:BARS]), (10, 1.2 + 0.42 * len(rows[:BARS])), "Time of each kernel beside its floor")
    page.table(
        [
            {
                "kernel": row.name,
                "launches": row.launches,
                "ms": round(1e3 * row.seconds, 3),
                "floor ms": "-" if row.floor is None else round(1e3 * row.floor, 3),
                "of floor": "-" if row.of_floor is None else f"{row.of_floor:.0%}",
            }
            for row in rows
        ]
    )


def _bars(rows: Sequence[KernelRow]) -> Draw:
    def drawn(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        places = range(len(rows))
        axes.barh([p - 0.18 for p in places], [1e3 * row.seconds for row in rows], 0.36, label="measured")
        axes.barh([p + 0.18 for p in places], [1e3 * (row.floor or 0) for row in rows], 0.36, label="floor")
        axes.set_yticks(places, [row.name for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("time in a step (ms)")
        axes.grid(False, axis="y")
        axes.legend(loc="lower right")

    return drawn


def _tape(page: Page, found: Findings) -> None:
    page.heading("Tape")
    if found.main is None:
        page.paragraph("No weights could be read.")
        return
    subjects = {found.main.title: found.main.model}
    if found.compact is not None:
        subjects[f"{found.main.title}, contracted"] = found.compact
    page.paragraph(
        "What a forward pass in training records; each box has its time and the bytes it keeps for backward."
    )
    drawing = draw(*subjects.values(), input_shape=found.main.shape, titles=list(subjects))
    page.add(f'<div class="wide">{drawing.svg()}</div>')


def _settings(page: Page, found: Findings) -> None:
    page.heading("Settings")
    defaults = json.loads(json.dumps(dataclasses.asdict(Settings())))
    rows = [
        {"setting": name, "value": _text(value), "default": _text(defaults[name]) if name in defaults else "-"}
        for name, value in {**found.part("settings"), **_flat("data", found.part("data"))}.items()
    ]
    if rows:
        page.table(rows)
    else:
        page.paragraph("config.json has none.")


def _environment(page: Page, found: Findings) -> None:
    page.heading("Environment")
    table = {**found.part("environment"), **found.part("versions")}
    if table:
        page.table([{"": name, "of the run": _text(value)} for name, value in table.items()])
    else:
        page.paragraph("config.json does not tell.")


def _flat(name: str, part: Any) -> dict[str, Any]:
    """A table within a table as rows of one: data.load.name."""
    if not isinstance(part, Mapping):
        return {name: part}
    return {key: value for own, inner in part.items() for key, value in _flat(f"{name}.{own}", inner).items()}


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _share(share: float | None) -> str:
    return "-" if share is None or share != share else f"{share:.2%}"
