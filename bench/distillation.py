"""SmallNet-7, plain and expanded (CL, CK, CK+FC, with +Init), trained on few digits with and without a teacher.

    python -m bench distillation --json bench/results/cpu-distillation.json --page docs/results.md

For each seed a ResNet-20 is trained on all 4000 training digits, so that it knows more than its students, who get few
of them. Then each network is trained twice from the same weights with the same batches: on the labels alone, and with
distillation from that ResNet-20; with +Init, its nonlinear counterpart is trained in the same way first. The accuracy
is that of the contracted network on the 1000 test digits after the last epoch; no epoch and no setting is chosen by it.
"""

from __future__ import annotations

from bench.timing import THREADS  # first: it sets the threads' environment

# isort: split

import argparse
import dataclasses
import pathlib
import statistics
import time

import numpy as np

from bench.page import markdown_table, put_section
from bench.report import counted, machine, table, write


@dataclasses.dataclass(frozen=True)
class Student:
    """A SmallNet-7, expanded or not.

    init: begin with the weights of its nonlinear counterpart, trained by the same recipe: "+Init" [ExpandNets, A.1].
    """

    expand: str | None = None
    init: bool = False

    def make(self):
        import cupynn

        options = {} if self.expand is None else {"expand": self.expand, "rate": 4}
        return cupynn.models.create("smallnet", kernel_size=7, in_channels=1, **options)


NETWORKS = {
    "SmallNet-7": Student(),
    "ExpandNet-CL": Student("cl"),
    "ExpandNet-CL+Init": Student("cl", init=True),
    "ExpandNet-CK": Student("ck"),
    "ExpandNet-CK+Init": Student("ck", init=True),
    "ExpandNet-CK+FC": Student("ck+fc"),
    "ExpandNet-CK+FC+Init": Student("ck+fc", init=True),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How every network is trained: SGD with momentum 0.9, a cosine schedule, random crops, no weight decay.

    lr is the paper's for SmallNet [ExpandNets, Sec. 4.1].
    """

    epochs: int = 60
    lr: float = 0.01
    teacher_epochs: int = 6
    teacher_lr: float = 0.1
    batch_size: int = 64
    crop: int = 2
    temperature: float = 4.0
    weight: float = 0.9


def few(train_set, each: int):
    """The first `each` images of each digit."""
    chosen = np.concatenate([np.flatnonzero(train_set.labels == label)[:each] for label in range(10)])
    return dataclasses.replace(train_set, images=train_set.images[chosen], labels=train_set.labels[chosen])


def train(model, train_set, objective, recipe: Recipe, epochs: int, lr: float, seed: int) -> None:
    """Train `model` in place for an objective of `cupynn.transfer`."""
    from cupynn import Tensor, data, optim

    optimiser = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = optim.schedules.Cosine(epochs)
    crop = [data.RandomCrop(recipe.crop)]
    model.train()
    for epoch in range(epochs):
        steps = data.batches(train_set, recipe.batch_size, shuffle=True, seed=seed, epoch=epoch, transform=crop)
        for step, (images, labels) in enumerate(steps):
            optimiser.param_groups[0]["lr"] = lr * schedule(epoch + step / len(steps))
            optimiser.zero_grad()
            _, loss = objective(model, Tensor(images), labels)
            loss.backward()
            optimiser.step()


def run_seed(seed: int, each: int, teacher_each: int, recipe: Recipe) -> dict[str, float]:
    """Test accuracies of all that is trained with one seed: {"teacher", NAME, NAME + " distilled"}."""
    import cupynn
    from cupynn.train import evaluate
    from cupynn.transfer import CrossEntropy, Distillation, Teacher, initialise_from, nonlinear

    every, test_set = cupynn.data.load("digits", pad_to=32)
    train_set = few(every, each)
    cupynn.manual_seed(seed)
    resnet = cupynn.models.create("cifar_resnet", depth=20, in_channels=1)
    train(resnet, few(every, teacher_each), CrossEntropy(), recipe, recipe.teacher_epochs, recipe.teacher_lr, seed)
    accuracies = {"teacher": evaluate(resnet, test_set).accuracy}
    distil = Distillation(Teacher(resnet), recipe.temperature, recipe.weight)
    for name, student in NETWORKS.items():
        for suffix, objective in (("", CrossEntropy()), (" distilled", distil)):
            cupynn.manual_seed(seed)
            model = student.make()
            if student.init:
                twin = nonlinear(model)
                train(twin, train_set, objective, recipe, recipe.epochs, recipe.lr, seed)
                initialise_from(model, twin)
            train(model, train_set, objective, recipe, recipe.epochs, recipe.lr, seed)
            compact = cupynn.contract(model)
            if student.expand:
                cupynn.verify_contraction(model, compact, (1, 32, 32))
            accuracies[name + suffix] = evaluate(compact, test_set).accuracy
    return accuracies


def summary(values: list[float]) -> str:
    """Mean and sample deviation of shares, in percent."""
    mean, deviation = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def rows_of(results: list[dict[str, float]]) -> list[dict[str, str]]:
    """The table: a row per network, in percent."""
    rows = []
    for name, student in NETWORKS.items():
        plain, distilled = ([result[name + suffix] for result in results] for suffix in ("", " distilled"))
        rows.append(
            {
                "network": name,
                "weights in training": f"{sum(parameter.size for parameter in student.make().parameters()):,}",
                "labels": summary(plain),
                "labels and teacher": summary(distilled),
                "difference": summary([b - a for a, b in zip(plain, distilled, strict=True)]),
            }
        )
    teacher = {"network": "ResNet-20, the teacher", "labels": summary([result["teacher"] for result in results])}
    return [*rows, {**dict.fromkeys(rows[0], ""), **teacher}]


def page(rows: list[dict[str, str]], figures: dict) -> str:
    """What docs/results.md says."""
    recipe = Recipe(**figures["recipe"])
    return f"""## Distillation to SmallNet-7, plain and expanded

Accuracy in percent on the 1000 test digits of MNIST-5k, padded to 32x32: mean ± deviation over {figures["seeds"]}
seeds. The networks are trained on {10 * figures["each"]} digits, the first {figures["each"]} of each class; the
teacher, so that it knows more, on {10 * figures["teacher_each"]}. All contract to SmallNet-7, and that is what was
tested. Differences are taken seed by seed. Networks with +Init begin with the weights of their nonlinear counterpart,
trained by the same recipe before, so they had twice the epochs.

{markdown_table(rows)}

Recipe: SGD with momentum 0.9, batches of {recipe.batch_size}, crops of {recipe.crop} pixels, no weight decay, learning
rates that fall by a cosine: from {recipe.lr:g} in {recipe.epochs} epochs, the teacher's from {recipe.teacher_lr:g} in
{recipe.teacher_epochs}. Distillation at temperature {recipe.temperature:g} with weight {recipe.weight:g}. The last
epoch counts, and nothing was chosen on the test digits, of which one is 0.1 %.

Made in {figures["minutes"]:.0f} minutes with {counted(figures["machine"]["threads"], "thread")} of an
{figures["machine"]["processor"]} by `{figures["command"]}`."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench distillation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--each", type=int, default=50, help="training images of each digit (default 50)")
    parser.add_argument("--teacher-each", type=int, default=400, help="the teacher's (default 400, which is all)")
    for field in dataclasses.fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"default {field.default}")
    parser.add_argument("--json", help="write the figures to this file, anew after each seed")
    parser.add_argument("--page", help="put the table into this page, which may hold others")
    options = parser.parse_args(arguments)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
    command = " ".join(["python -m bench distillation", *arguments])
    figures = {"bench": "distillation", "command": command, "machine": machine(), "recipe": dataclasses.asdict(recipe)}
    figures |= {"each": options.each, "teacher_each": options.teacher_each, "results": []}
    began = time.perf_counter()
    for seed in range(options.seeds):
        figures["results"].append(run_seed(seed, options.each, options.teacher_each, recipe))
        figures["seeds"] = seed + 1
        figures["minutes"] = (time.perf_counter() - began) / 60
        print(f"seed {seed}, {figures['minutes']:.1f} min:", figures["results"][-1], flush=True)
        figures["rows"] = rows_of(figures["results"])
        if options.json:
            write(options.json, figures)
    print(
        table(
            figures["rows"],
            f"Test accuracy in percent, {10 * options.each} training images, {counted(THREADS, 'thread')}",
        )
    )
    if options.page:
        put_section(pathlib.Path(options.page), "distillation", page(figures["rows"], figures))
