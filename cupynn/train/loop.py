"""The training loop."""

from __future__ import annotations

import math
import time
from typing import Any

from cupynn import ops
from cupynn.autograd import Tensor
from cupynn.data import ArrayDataset, batches
from cupynn.device import manual_seed, xp_of
from cupynn.nn import Module
from cupynn.optim import SGD
from cupynn.train.environment import environment, versions
from cupynn.train.evaluation import RunningScore, evaluate
from cupynn.train.interruption import Interrupted, StopRequest, signals_as_request
from cupynn.train.run_folder import RunFolder
from cupynn.train.settings import Settings

LOOK_EVERY = 0.25  # seconds between looks at the loss, each of which waits for the device


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


def fit(
    model: Module,
    train_set: ArrayDataset,
    test_set: ArrayDataset,
    settings: Settings,
    run_folder: RunFolder,
    network: str = "model",
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Train `model` in place and return one record per epoch, as they stand in metrics.jsonl.

    Each epoch ends with an evaluation on `test_set`, a line in metrics.jsonl, and the weights in
    `run_folder/NETWORK.safetensors`. Two runs from the same weights with the same settings give the same bits.
    `quiet` leaves out the progress bar and the line per epoch.

    Raises Interrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM: the batch at hand is finished and the weights are
    saved first. Raises Diverged, an ArithmeticError, where the loss or a weight is not finite: the file keeps the
    weights of the last epoch that ended well. Raises ValueError for an empty training set.
    """
    if not len(train_set):
        raise ValueError("fit: the training set holds no images")
    manual_seed(settings.seed)
    run_folder.add_config(
        settings=settings,
        data={"name": train_set.name.removesuffix(" train"), "train": len(train_set), "test": len(test_set)},
        input_shape=train_set.images.shape[1:],
        networks={network: getattr(model, "creation", None)},
        versions=versions(),
        environment=environment(),
    )
    optimizer = SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    records = []
    with signals_as_request() as stop:
        for epoch in range(settings.epochs):
            start = time.perf_counter()
            running = _train_epoch(model, optimizer, train_set, settings, epoch, stop, quiet)
            train = running.score()  # waits for the device
            seconds = time.perf_counter() - start
            if not math.isfinite(train.loss):
                raise _diverged(f"the loss became {train.loss}", epoch, settings, run_folder, network)
            if name := _not_finite(model):
                raise _diverged(f"{name} is no longer finite", epoch, settings, run_folder, network)
            test = None
            if stop.signal is None:
                test = evaluate(model, test_set)
                if len(test_set) and not math.isfinite(test.loss):
                    raise _diverged(f"the test loss became {test.loss}", epoch, settings, run_folder, network)
            weights = run_folder.save(model, network)
            if test is not None:
                record = {
                    "network": network,
                    "epoch": epoch + 1,
                    "train_loss": train.loss,
                    "train_accuracy": train.accuracy,
                    "test_loss": test.loss,
                    "test_accuracy": test.accuracy,
                    "seconds": seconds,
                    "images_per_second": running.images / seconds,
                }
                run_folder.add_metrics(record)
                records.append(record)
                if not quiet:
                    print(_line(record, settings.epochs), flush=True)
            if stop.signal is not None:
                raise Interrupted(
                    f"stopped in epoch {epoch + 1} of {settings.epochs}; the weights as they were are in {weights}",
                    stop.signal,
                )
    return records


def _train_epoch(
    model: Module,
    optimizer: SGD,
    train_set: ArrayDataset,
    settings: Settings,
    epoch: int,
    stop: StopRequest,
    quiet: bool,
) -> RunningScore:
    """One pass over the training set, or as much of it as there was until a signal came or the loss was lost."""
    from tqdm import tqdm

    steps = batches(
        train_set,
        settings.batch_size,
        shuffle=True,
        seed=settings.seed,
        epoch=epoch,
        transform=settings.transforms(),
    )
    lr_factor = settings.lr_factor()
    running = RunningScore()
    looked = time.perf_counter()
    model.train()
    with tqdm(
        total=len(train_set),
        desc=f"epoch {epoch + 1}/{settings.epochs}",
        unit=" images",
        leave=False,
        disable=True if quiet else None,  # None: only on a terminal
    ) as bar:
        for step, (images, labels) in enumerate(steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * lr_factor(epoch + step / len(steps))
            optimizer.zero_grad()
            logits = model(Tensor(images))
            loss = ops.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            running.add(loss, logits, labels)
            bar.update(len(labels))
            if time.perf_counter() - looked > LOOK_EVERY:
                so_far = running.score()
                if not math.isfinite(so_far.loss):
                    break
                bar.set_postfix_str(f"loss {so_far.loss:.4f}, accuracy {so_far.accuracy:.1%}")
                looked = time.perf_counter()
            if stop.signal is not None:
                break
    return running


def _line(record: dict[str, Any], epochs: int) -> str:
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.4f}  "
        f"accuracy {record['train_accuracy']:6.1%}  test {record['test_accuracy']:6.1%}  "
        f"{record['seconds']:.1f} s  {record['images_per_second']:,.0f} images/s"
    )


def _not_finite(model: Module) -> str | None:
    """The name of the first parameter or buffer that holds NaN or infinity."""
    for name, array in model.state_dict().items():
        if array.dtype.kind == "f" and not xp_of(array).isfinite(array).all():
            return name
    return None


def _diverged(what: str, epoch: int, settings: Settings, run_folder: RunFolder, network: str) -> Diverged:
    kept = f"{run_folder.weights(network)} keeps the weights of epoch {epoch}" if epoch else "no weights were saved"
    return Diverged(
        f"fit: {what} in epoch {epoch + 1} of {settings.epochs} at lr={settings.lr}; "
        f"try a smaller learning rate; {kept}"
    )
