"""What there is to report of a run: read from its files, and measured with its weights and its data."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cupynn import data, models, serialization
from cupynn.data import Dataset
from cupynn.device import asarray
from cupynn.nn import Module
from cupynn.profile import Profile, profile
from cupynn.profile.floors import Ceilings, measure_where_kernels_run
from cupynn.profile.steps import TINY, training
from cupynn.reparam.expansion import expanded_layers
from cupynn.reparam.verification import Verification, contract_and_verify
from cupynn.train import Confusion, evaluate, read_config, recipes, throughput
from cupynn.train.comparison import Summary, find_runs

SPEED_BATCH, STEPS = 32, 5


@dataclass
class Network:
    """A network, and what was measured of it; None: it could not be.

    title: "smallnet", or "smallnet, contracted". shape: of an image. speeds: images per second of a training step, and
    of inference.
    """

    title: str
    model: Module
    shape: tuple[int, ...]
    parameters: int
    macs: int
    speeds: tuple[float, float]
    accuracy: float | None = None
    loss: float | None = None
    confusion: Confusion | None = None


@dataclass
class Findings:
    """All that a page tells. missing: sentences on what it does not, and why.

    summaries: one for each network of the run. networks: those whose weights are there, each expanded one with what it
    contracts to behind it. proofs: of the contraction of `main`, which is the last network that was trained.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    summaries: list[Summary]
    missing: list[str] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    main: Network | None = None
    compact: Module | None = None
    proofs: list[Verification] = field(default_factory=list)
    images: str = ""  # the test set that accuracies are of
    step: Profile | None = None
    ceilings: Ceilings | None = None

    def part(self, name: str) -> Mapping[str, Any]:
        """A table of config.json; empty where there is none."""
        part = self.config.get(name)
        return part if isinstance(part, dict) else {}

    def named(self) -> dict[str, Summary]:
        """Each network's summary by its own name, in the order in which they were trained."""
        order = list(self.part("networks"))
        if len(self.summaries) == 1:
            return {(order or ["model"])[0]: self.summaries[0]}
        found = {summary.name.rpartition(":")[2]: summary for summary in self.summaries}
        return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}


def find(path: pathlib.Path, data_folder: str | None = None) -> Findings:
    """Read a run and measure its networks, on the default device. The folder stays as it is.

    data_folder: where the run's data lies now. Raises FileNotFoundError where there is no run, ValueError where its
    config.json is damaged. What else is wrong becomes one of `missing`.
    """
    config = read_config(path)
    summaries = [summary for summary in find_runs(path) if summary.path == path]
    if not isinstance(config, dict) or not summaries:
        raise ValueError(f"{path} is no run folder: its config.json is not of a run")
    found = Findings(path, config, summaries)
    for summary in found.summaries:
        _look_for_gaps(found, summary)
    test_set = _test_set(found, data_folder)
    for network, summary in found.named().items():
        file = path / f"{network}.safetensors"
        try:
            model = serialization.load(file)
        except FileNotFoundError:
            found.missing.append(f"The weights {file.name} are not there, so nothing was measured with them.")
            continue
        except ValueError as error:
            found.missing.append(f"The weights {file.name} cannot be read: {error}")
            continue
        shape = tuple(config.get("input_shape") or model.input_shape)
        title = summary.model if len(summaries) == 1 else network
        found.main = _measured(title, model, shape, test_set)
        found.networks.append(found.main)
        found.compact, found.proofs = None, []
        if any(expanded_layers(model)):
            try:
                found.compact, found.proofs = contract_and_verify(model, shape)
            except ValueError as error:
                found.missing.append(f"{title} and what it contracts to are not the same: {error}")
                continue
            found.networks.append(_measured(f"{title}, contracted", found.compact, shape, test_set))
    if found.main is not None:
        _profile(found, found.main)
    return found


def _look_for_gaps(found: Findings, summary: Summary) -> None:
    found.missing += [f"{summary.name}: {fault}." for fault in summary.faults]
    if summary.planned is not None and summary.epochs < summary.planned:
        found.missing.append(
            f"{summary.name} has done {summary.epochs} of {summary.planned} epochs: it was stopped, or it still runs. "
            "What is measured here is of the weights as they are now."
        )


def _test_set(found: Findings, folder: str | None) -> Dataset | None:
    """The run's test set, framed and normalised as the run had it."""
    load = found.part("data").get("load")
    if not isinstance(load, dict):
        found.missing.append("config.json does not say how the data was loaded, so no network was evaluated.")
        return None
    try:
        trained_on = recipes.from_table(recipes.Data, {k: v for k, v in load.items() if k != "folder"}, "Data")
        sets = data.load(trained_on.name, folder or load.get("folder"), trained_on.pad_to)
        test_set = trained_on.prepare(*sets, seed=0)[1]  # the seed is for labels of training images
    except (ValueError, OSError, ModuleNotFoundError) as error:
        found.missing.append(f"The data could not be loaded, so no network was evaluated: {error}")
        return None
    found.images = f"{len(test_set):,} images of {test_set.name}"
    return test_set


def _measured(title: str, model: Module, shape: tuple[int, ...], test_set: Dataset | None) -> Network:
    count = models.count(model, shape)
    rng = np.random.default_rng(0)
    images = asarray(rng.standard_normal((SPEED_BATCH, *shape), dtype=np.float32))
    labels = asarray(np.zeros(SPEED_BATCH, np.int64))
    speeds = throughput(model, images, labels), throughput(model, images)
    network = Network(title, model, shape, count.parameters, count.macs, speeds)
    if test_set is not None and len(test_set):
        network.confusion = Confusion(test_set.class_names)
        score = evaluate(model, test_set, confusion=network.confusion)
        network.accuracy, network.loss = score.accuracy, score.loss
    return network


def _profile(found: Findings, network: Network) -> None:
    """One training step of a copy, whose weights may change."""
    steps = (training(copy.deepcopy(network.model), network.shape, batch) for batch in (SPEED_BATCH, TINY))
    found.step = profile(*steps, steps=STEPS)
    found.ceilings = measure_where_kernels_run()
    if found.ceilings is None:
        found.missing.append("No kernel has a floor: floors are measured for compiled kernels on the CPU only.")
