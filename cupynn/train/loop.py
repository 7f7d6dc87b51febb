"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cupynn.data import Batches, Dataset, batches
from cupynn.device import default_device, manual_seed
from cupynn.distributed import World, shard, synchronise_batch_norm
from cupynn.nn import Module
from cupynn.train.checkpoints import Checkpoints
from cupynn.train.descent import Descent, Objective
from cupynn.train.diagnosis import Diverged, Lost, lost_array
from cupynn.train.environment import environment, versions
from cupynn.train.evaluation import RunningScore, Score, evaluate
from cupynn.train.events import Events
from cupynn.train.folder_lock import locked
from cupynn.train.interruption import Interrupted, StopRequest, signals_as_request
from cupynn.train.last_words import last_words
from cupynn.train.progress import Progress
from cupynn.train.progress_line import ProgressLine, say
from cupynn.train.run_folder import RunFolder
from cupynn.train.settings import Settings
from cupynn.transfer import training_mode

LOOK_EVERY = 0.25  # seconds between looks at the loss, each of which waits for the device


def fit(
    model: Module,
    train_set: Dataset,
    test_set: Dataset,
    settings: Settings,
    run_folder: RunFolder,
    network: str = "model",
    quiet: bool = False,
    resume: bool = False,
    objective: Objective | None = None,
    events: Events | None = None,
    world: World | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place and return one record per epoch, as they stand in metrics.jsonl.

    Each epoch ends with an evaluation on `test_set`, a line in metrics.jsonl, the weights in
    `run_folder/NETWORK.safetensors`, and a checkpoint. Two runs from the same weights with the same settings give the
    same bits. `quiet` leaves out the line of progress, which only a terminal gets, and the line per epoch.

    resume: go on from the newest whole checkpoint of `network` in run_folder, or from the start where there is none,
    to the bits of a run that never stopped, on the same device with the same number of threads and of ranks.
    objective: what to train for, one of `cupynn.transfer` for example; the settings' if not given.
    events: gets the record of each epoch, and loss and learning rate every `events.every` steps, for TensorBoard; it is
    begun here, and closed. It changes no bit of the run.
    world: the ranks that train the model together, see `cupynn.distributed`; every one of them calls `fit`, each reads
    its part of every batch of settings.batch_size images, and rank 0 alone writes. None: this process alone.

    Raises Interrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM: the batch at hand is finished, weights and a
    checkpoint are saved first. Raises Diverged, an ArithmeticError, where the loss or a weight is not finite, with the
    step, the layer where that first appeared, and the last checkpoint. Raises OSError where a file cannot be written:
    the checkpoints before it stay whole. Raises BlockingIOError where another process trains in run_folder. Raises
    ValueError for an empty training set and, with `resume`, for checkpoints that are all damaged, or of another model
    or other settings.
    """
    if not len(train_set):
        raise ValueError("fit: the training set holds no images")
    run = _Run(model, train_set, test_set, settings, run_folder, network, quiet, objective, events, world or World())
    manual_seed(settings.seed)
    lock = contextlib.nullcontext() if run.world.rank else locked(run_folder.path)
    with lock, signals_as_request() as stop, events or contextlib.nullcontext(), run.last_words():
        run.begin(resume)
        while run.progress.epoch < settings.epochs:
            run.epoch(stop)
    return run.records


class _Run:
    """One network on its way through the epochs."""

    def __init__(
        self,
        model: Module,
        train_set: Dataset,
        test_set: Dataset,
        settings: Settings,
        run_folder: RunFolder,
        network: str,
        quiet: bool,
        objective: Objective | None,
        events: Events | None,
        world: World,
    ):
        self.model, self.train_set, self.test_set, self.settings = model, train_set, test_set, settings
        self.run_folder, self.network, self.quiet, self.world = run_folder, network, quiet or world.rank > 0, world
        self.events = events if world.rank == 0 else None
        self.steps_per_epoch = math.ceil(len(train_set) / settings.batch_size)
        if settings.synchronise_batch_norm:
            synchronise_batch_norm(model, world)
        self.descent = Descent(model, settings, objective, world)
        self.checkpoints = Checkpoints(run_folder.path, network, settings.keep)
        self.progress = Progress()
        self.line = ProgressLine(settings.epochs, len(train_set), self.quiet)
        self.running = RunningScore()
        self.records: list[dict[str, Any]] = []
        self.saved = time.monotonic()  # the last checkpoint
        steps = self._batches()
        next(iter(dataclasses.replace(steps, order=steps.order[:1], workers=0)))  # errors before anything is written

    def begin(self, resume: bool) -> None:
        """Be where the newest checkpoint says, or at the start: rank 0 first, then the others."""
        going_on = self.world.copied(self._begin(resume) if self.world.rank == 0 else None)
        if self.world.size > 1:
            optimizer = self.descent.optimizer
            self.progress, self.records = self.world.copied((self.progress, self.records))
            optimizer.load_state_dict(self.world.copied(optimizer.state_dict()))
            self._take_loss_scale()
            self.world.broadcast(self.model.state_dict().values())
        if not going_on:
            self._checkpoint()

    def _begin(self, resume: bool) -> bool:
        """What rank 0 does first; whether there was a checkpoint."""
        if resume:
            self._need_same_data()
        if resume and self._restore():
            if not self.quiet:
                say(f"going on after {self.progress} of {self.settings.epochs}")
            return True
        if resume and self.run_folder.keep_metrics(self.network, self.settings.epochs):
            raise ValueError(f"fit: {self.run_folder.path} has no checkpoint to go on from, and epochs of it are done")
        with self._writing():
            self.run_folder.add_config(
                settings=self.settings,
                data=self._data(),
                input_shape=self.train_set.image_shape,
                normalisation={"mean": self.train_set.mean, "std": self.train_set.std},
                networks={self.network: getattr(self.model, "creation", None)},
                versions=versions(),
                environment={**environment(), "ranks": self.world.size},
            )
            if self.events:
                self.events.begin()
        return False

    def _data(self) -> dict[str, Any]:
        """What config.json says of the data."""
        name = self.train_set.name.removesuffix(" train")
        return {"name": name, "train": len(self.train_set), "test": len(self.test_set)}

    def _need_same_data(self) -> None:
        here, there = self._data(), self.run_folder.config.get("data", {})
        there = {key: there.get(key, here[key]) for key in here}
        if here != there:
            raise ValueError(f"fit: {self.run_folder.path} was trained on the data {there}; this is {here}")

    def epoch(self, stop: StopRequest) -> None:
        """The rest of the epoch at hand, its evaluation, and what is written of it."""
        settings = self.settings
        self._train(stop, watch=_looks_cost_nothing())
        progress, everyones = self.progress, self.running.over(self.world)
        test = None
        _, signal = self._agree(stop)
        if not signal:
            self.world.broadcast(self.model.state_dict().values())  # running statistics are each rank's own
            test = evaluate(self.model, self.test_set, world=self.world, workers=settings.workers)
            if len(self.test_set) and not math.isfinite(test.loss):
                raise self._diverged(Lost(f"the test loss became {test.loss}"))
        with self._writing():
            if self.world.rank == 0:
                self.run_folder.save(self.model, self.network)
            if test is not None:
                self._finish(everyones, test)
        self._checkpoint()
        if signal:
            epoch, weights = min(progress.epoch + 1, settings.epochs), self.run_folder.weights(self.network)
            parts = [f"stopped in epoch {epoch} of {settings.epochs}", f"the weights as they were are in {weights}"]
            raise Interrupted("; ".join(filter(None, [*parts, self._how_to_go_on()])), signal)

    def last_words(self) -> contextlib.AbstractContextManager[None]:
        """Inside a `with` block, should ranks be killed, somebody is left to say which checkpoint is the last."""
        processes = self.world.table(np.array([os.getpid()], np.int64))[:, 0]
        if self.world.size == 1 or self.world.rank > 0:
            return contextlib.nullcontext()
        what = f"one of {self.world.size} ranks failed or was killed, and that ended all of them (processes, by rank: "
        what += f"{', '.join(map(str, processes))})"
        return last_words(what, self.checkpoints.folder, self.checkpoints.pattern, self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        """The command, where `cupynn train` finds all that it needs; or ""."""
        if not self.settings.keep or "load" not in self.run_folder.config.get("data", {}):
            return ""
        ranks = f"mpiexec -n {self.world.size} python -m mpi4py -m " if self.world.size > 1 else ""
        return f"{ranks}cupynn train --resume {self.run_folder.path} goes on"

    def _agree(self, stop: StopRequest) -> tuple[bool, int]:
        """Whether a checkpoint is due, and the number of the signal that came, or 0: the same on every rank, whose
        clocks and signals differ."""
        due, signal = self.world.largest(self._checkpoint_is_due(), stop.signal or 0)
        return due > 0, int(signal)

    def _finish(self, running: RunningScore, test: Score) -> None:
        """Write down what the epoch came to, and count it as done."""
        progress, train = self.progress, running.score()
        record = {
            "network": self.network,
            "epoch": progress.epoch + 1,
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
            "seconds": progress.seconds,
            "images_per_second": running.images / progress.seconds,
        }
        if test.accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_epoch = test.accuracy, record["epoch"]
            if self.settings.keep and self.world.rank == 0:
                self.checkpoints.save_best(self.model)
        if self.world.rank == 0:
            self.run_folder.add_metrics(record)
        if self.events:
            self.events.add_epoch(record)
        self.records.append(record)
        if not self.quiet:
            say(_line(record, self.settings.epochs))
        progress.next_epoch()
        self.running = RunningScore()

    def _train(self, stop: StopRequest, watch: bool) -> None:
        """The steps of the epoch at hand that are left, or as many as there were until a signal came.

        A look at the loss of each step costs nothing on the CPU, and names the step and the layer where it is lost. On
        a GPU the host would wait each time: there it looks now and then, and when the loss is lost, all since the last
        checkpoint is done again, with a look at each step.
        """
        try:
            self._steps(stop, watch)
        except Lost as lost:
            diverged = self._diverged(lost)
            if watch or self.world.size > 1 or not self._restore():  # ranks do not turn back together
                raise diverged from None
            say(f"{lost}; looking for the step, from after {self.progress} on")
            self._train(stop, watch=True)

    def _steps(self, stop: StopRequest, watch: bool) -> None:
        settings, progress = self.settings, self.progress
        steps = self._batches()
        whole = progress.step + len(steps)
        training_mode(self.model)
        began = time.perf_counter() - progress.seconds
        looked = time.perf_counter()
        with self.line:
            for images, labels in steps:
                self.world.seed(settings.seed, progress.epoch, progress.step)
                loss, logits = self.descent.step(images, labels, progress.epoch + progress.step / whole, watch)
                self.running.add(loss, logits, labels)
                progress.step += 1
                progress.seconds = time.perf_counter() - began
                if time.perf_counter() - looked > LOOK_EVERY:
                    so_far = self.running.score()
                    if not math.isfinite(so_far.loss):
                        raise Lost(f"the loss became {so_far.loss}")
                    self.descent.need_scale()
                    self.line.show(progress, whole, self._images(), so_far)
                    looked = time.perf_counter()
                if self.events and self.events.due(self._steps_in_all()):
                    self._add_step_event(float(loss.data))
                due, signal = self._agree(stop)
                if due:
                    self._need_finite()
                    self._checkpoint()
                if signal:
                    break
        self._need_finite()  # waits for the device
        progress.seconds = time.perf_counter() - began

    def _batches(self) -> Batches:
        """This rank's part of what is left of the epoch at hand."""
        settings, progress = self.settings, self.progress
        steps = batches(
            self.train_set,
            settings.batch_size,
            shuffle=True,
            seed=settings.seed,
            epoch=progress.epoch,
            transform=settings.transforms(),
            workers=settings.workers,
            start=progress.step,
        )
        return shard(steps, self.world)

    def _images(self) -> int:
        """How many images of the epoch at hand all ranks together have read."""
        return min(self.progress.step * self.settings.batch_size, len(self.train_set))

    def _steps_in_all(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def _add_step_event(self, loss: float) -> None:
        """Write the loss of the batch at hand, beside what else moves within an epoch."""
        speed = self._images() / self.progress.seconds
        with self._writing():
            self.events.add_step(
                self._steps_in_all(), {"train_loss": loss, "lr": self.descent.lr, "images_per_second": speed}
            )

    def _need_finite(self) -> None:
        """Raise Lost where the loss or the model is not finite, before either is written down."""
        loss = self.running.over(self.world).score().loss
        if not math.isfinite(loss):
            raise Lost(f"the loss became {loss}")
        self.descent.need_scale()
        if name := lost_array(self.model):
            raise Lost(f"{name} is no longer finite")

    def _checkpoint_is_due(self) -> bool:
        if not self.settings.keep:
            return False
        if self.settings.checkpoint_steps and self.progress.step % self.settings.checkpoint_steps == 0:
            return True
        return time.monotonic() - self.saved > self.settings.checkpoint_seconds

    def _checkpoint(self) -> None:
        if not self.settings.keep:
            return
        everyones = self.running.over(self.world)
        # What a resumed run has counted is with rank 0; here too, so that the rest is added in the same order.
        self.running = everyones if self.world.rank == 0 else RunningScore()
        if self.world.rank == 0:
            self.progress.images, self.progress.loss, self.progress.hits = everyones.sums()
            if scale := self.descent.loss_scale:
                self.progress.loss_scale, self.progress.good_steps = scale.scale, scale.good_steps
            with self._writing():
                if self.events:
                    self.events.flush()  # before a checkpoint that counts these steps as done
                self.checkpoints.save(self.model, self.descent.optimizer, self.settings, self.progress)
        self.saved = time.monotonic()

    def _restore(self) -> bool:
        """Go to the newest whole checkpoint; False where there is none."""
        checkpoint = self.checkpoints.newest(say) if self.settings.keep else None
        if checkpoint is None:
            return False
        self.progress = progress = checkpoint.restore(self.model, self.descent.optimizer, self.settings)
        self.running = RunningScore(progress.images, progress.loss, progress.hits)
        self._take_loss_scale()
        self.records = self.run_folder.keep_metrics(self.network, progress.epoch)
        self.saved = time.monotonic()
        if self.events:
            with self._writing():
                self.events.begin(progress.epoch, self._steps_in_all())
        return True

    def _take_loss_scale(self) -> None:
        """Go on with the loss scale of a checkpoint, if there is one."""
        if self.descent.loss_scale and self.progress.loss_scale:
            self.descent.loss_scale.scale = self.progress.loss_scale
            self.descent.loss_scale.good_steps = self.progress.good_steps

    def _diverged(self, lost: Lost) -> Diverged:
        step = f"in step {self.progress.step + 1}" if lost.where else f"by step {self.progress.step}"
        what = f"fit: {lost} {step} of epoch {self.progress.epoch + 1} of {self.settings.epochs}"
        parts = [f"{what}, at lr={self.descent.lr:g}", lost.where, "try a smaller learning rate", self._last_good()]
        return Diverged("; ".join(filter(None, parts)))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Inside a `with` block an error of the disk says which checkpoint is left."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            place = error.filename or self.run_folder.path
            raise type(error)(f"fit: cannot write to {place}: {reason}; {self._last_good()}") from error

    def _last_good(self) -> str:
        last = self.checkpoints.last
        if last is None and self.world.rank:  # rank 0 writes them; the others can only look
            last = next(reversed(self.checkpoints.files()), None)
        return "there is no checkpoint" if last is None else f"the last good checkpoint is {last}"


def _looks_cost_nothing() -> bool:
    """Whether a loss can be read without waiting for the device."""
    return default_device() == "cpu"


def _line(record: dict[str, Any], epochs: int) -> str:
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.4f}  "
        f"accuracy {record['train_accuracy']:6.1%}  test {record['test_accuracy']:6.1%}  "
        f"{record['seconds']:.1f} s  {record['images_per_second']:,.0f} images/s"
    )
