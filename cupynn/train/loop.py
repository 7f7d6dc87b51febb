"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from cupynn.data import Dataset, batches
from cupynn.device import default_device, manual_seed
from cupynn.nn import Module
from cupynn.train.checkpoints import Checkpoints
from cupynn.train.descent import Descent, Objective
from cupynn.train.diagnosis import Diverged, Lost, lost_array
from cupynn.train.environment import environment, versions
from cupynn.train.evaluation import RunningScore, Score, evaluate
from cupynn.train.interruption import Interrupted, StopRequest, signals_as_request
from cupynn.train.progress import Progress
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
) -> list[dict[str, Any]]:
    """Train `model` in place and return one record per epoch, as they stand in metrics.jsonl.

    Each epoch ends with an evaluation on `test_set`, a line in metrics.jsonl, the weights in
    `run_folder/NETWORK.safetensors`, and a checkpoint. Two runs from the same weights with the same settings give the
    same bits. `quiet` leaves out the progress bar and the line per epoch.

    resume: go on from the newest whole checkpoint of `network` in run_folder, or from the start where there is none,
    to the bits of a run that never stopped, on the same device with the same number of threads.
    objective: what to train for, one of `cupynn.transfer` for example; the settings' if not given.

    Raises Interrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM: the batch at hand is finished, weights and a
    checkpoint are saved first. Raises Diverged, an ArithmeticError, where the loss or a weight is not finite, with the
    step, the layer where that first appeared, and the last checkpoint. Raises OSError where a file cannot be written:
    the checkpoints before it stay whole. Raises ValueError for an empty training set and, with `resume`, for
    checkpoints that are all damaged, or of another model or other settings.
    """
    if not len(train_set):
        raise ValueError("fit: the training set holds no images")
    run = _Run(model, train_set, test_set, settings, run_folder, network, quiet, objective)
    manual_seed(settings.seed)
    with signals_as_request() as stop:
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
    ):
        self.model, self.train_set, self.test_set, self.settings = model, train_set, test_set, settings
        self.run_folder, self.network, self.quiet = run_folder, network, quiet
        self.descent = Descent(model, settings, objective)
        self.checkpoints = Checkpoints(run_folder.path, network, settings.keep)
        self.progress = Progress()
        self.running = RunningScore()
        self.records: list[dict[str, Any]] = []
        self.saved = time.monotonic()  # the last checkpoint

    def begin(self, resume: bool) -> None:
        """Be where the newest checkpoint says, or at the start."""
        if resume:
            self._need_same_data()
        if resume and self._restore():
            if not self.quiet:
                print(f"going on after {self.progress} of {self.settings.epochs}", flush=True)
            return
        if resume and self.run_folder.keep_metrics(self.network, self.settings.epochs):
            raise ValueError(f"fit: {self.run_folder.path} has no checkpoint to go on from, and epochs of it are done")
        with self._writing():
            self.run_folder.add_config(
                settings=self.settings,
                data=self._data(),
                input_shape=self.train_set.image_shape,
                networks={self.network: getattr(self.model, "creation", None)},
                versions=versions(),
                environment=environment(),
            )
        self._checkpoint()

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
        progress = self.progress
        train = self.running.score()
        test = None
        if stop.signal is None:
            test = evaluate(self.model, self.test_set)
            if len(self.test_set) and not math.isfinite(test.loss):
                raise self._diverged(Lost(f"the test loss became {test.loss}"))
        with self._writing():
            weights = self.run_folder.save(self.model, self.network)
            if test is not None:
                self._finish(train, test)
        self._checkpoint()
        if stop.signal is not None:
            by_command = "load" in self.run_folder.config["data"]  # how `cupynn train` finds the data again
            raise Interrupted(
                f"stopped in epoch {min(progress.epoch + 1, settings.epochs)} of {settings.epochs}; "
                f"the weights as they were are in {weights}"
                + (f"; cupynn train --resume {self.run_folder.path} goes on" if settings.keep and by_command else ""),
                stop.signal,
            )

    def _finish(self, train: Score, test: Score) -> None:
        """Write down what the epoch came to, and count it as done."""
        progress = self.progress
        record = {
            "network": self.network,
            "epoch": progress.epoch + 1,
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
            "seconds": progress.seconds,
            "images_per_second": self.running.images / progress.seconds,
        }
        if test.accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_epoch = test.accuracy, record["epoch"]
            if self.settings.keep:
                self.checkpoints.save_best(self.model)
        self.run_folder.add_metrics(record)
        self.records.append(record)
        if not self.quiet:
            print(_line(record, self.settings.epochs), flush=True)
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
            if watch or not self._restore():
                raise diverged from None
            print(f"{lost}; looking for the step, from after {self.progress} on", flush=True)
            self._train(stop, watch=True)

    def _steps(self, stop: StopRequest, watch: bool) -> None:
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
        whole = progress.step + len(steps)
        training_mode(self.model)
        began = time.perf_counter() - progress.seconds
        looked = time.perf_counter()
        with self._bar() as bar:
            for images, labels in steps:
                loss, logits = self.descent.step(images, labels, progress.epoch + progress.step / whole, watch)
                self.running.add(loss, logits, labels)
                progress.step += 1
                progress.seconds = time.perf_counter() - began
                bar.update(len(labels))
                if time.perf_counter() - looked > LOOK_EVERY:
                    so_far = self.running.score()
                    if not math.isfinite(so_far.loss):
                        raise Lost(f"the loss became {so_far.loss}")
                    bar.set_postfix_str(f"loss {so_far.loss:.4f}, accuracy {so_far.accuracy:.1%}")
                    looked = time.perf_counter()
                if self._checkpoint_is_due():
                    self._need_finite()
                    self._checkpoint()
                if stop.signal is not None:
                    break
        self._need_finite()  # waits for the device
        progress.seconds = time.perf_counter() - began

    def _need_finite(self) -> None:
        """Raise Lost where the loss or the model is not finite, before either is written down."""
        loss = self.running.score().loss
        if not math.isfinite(loss):
            raise Lost(f"the loss became {loss}")
        if name := lost_array(self.model):
            raise Lost(f"{name} is no longer finite")

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=len(self.train_set),
            initial=self.running.images,
            desc=f"epoch {self.progress.epoch + 1}/{self.settings.epochs}",
            unit=" images",
            leave=False,
            disable=True if self.quiet else None,  # None: only on a terminal
        )

    def _checkpoint_is_due(self) -> bool:
        if not self.settings.keep:
            return False
        if self.settings.checkpoint_steps and self.progress.step % self.settings.checkpoint_steps == 0:
            return True
        return time.monotonic() - self.saved > self.settings.checkpoint_seconds

    def _checkpoint(self) -> None:
        if not self.settings.keep:
            return
        self.progress.images, self.progress.loss, self.progress.hits = self.running.sums()
        with self._writing():
            self.checkpoints.save(self.model, self.descent.optimizer, self.settings, self.progress)
        self.saved = time.monotonic()

    def _restore(self) -> bool:
        """Go to the newest whole checkpoint; False where there is none."""
        checkpoint = self.checkpoints.newest(lambda text: print(text, flush=True)) if self.settings.keep else None
        if checkpoint is None:
            return False
        self.progress = progress = checkpoint.restore(self.model, self.descent.optimizer, self.settings)
        self.running = RunningScore(progress.images, progress.loss, progress.hits)
        self.records = self.run_folder.keep_metrics(self.network, progress.epoch)
        self.saved = time.monotonic()
        return True

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
        if self.checkpoints.last is None:
            return "there is no checkpoint"
        return f"the last good checkpoint is {self.checkpoints.last}"


def _looks_cost_nothing() -> bool:
    """Whether a loss can be read without waiting for the device."""
    return default_device() == "cpu"


def _line(record: dict[str, Any], epochs: int) -> str:
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.4f}  "
        f"accuracy {record['train_accuracy']:6.1%}  test {record['test_accuracy']:6.1%}  "
        f"{record['seconds']:.1f} s  {record['images_per_second']:,.0f} images/s"
    )
