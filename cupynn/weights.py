"""Weights that another library trained, from a safetensors file with PyTorch's names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors

from cupynn.nn import Module

PREFIXES = ("module.", "model.", "_orig_mod.")  # of wrappers: several GPUs, training frameworks, torch.compile
DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "?"}
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SHOWN = 10  # lines of each kind of what does not match
COUNTER = "num_batches_tracked"  # of batch norm: no result depends on it

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` found, by the model's names: which arrays it loaded; shapes of those that the file has not
    (missing), that the model has not (unexpected), and that differ (the model's and the file's)."""

    loaded: tuple[str, ...]
    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    different: Mapping[str, tuple[Shape, Shape]]

    @property
    def complete(self) -> bool:
        """Whether every array has its counterpart."""
        return not (self.missing or self.unexpected or self.different)

    def __str__(self) -> str:
        """Up to `SHOWN` lines of each kind."""
        lines = [f"{len(self.loaded)} arrays match"]
        for kind, faults, others in (
            ("the file has not", self.missing, self.unexpected),
            ("the model has not", self.unexpected, self.missing),
        ):
            shown = [f"{name} {shape}{_nearest(name, others)}" for name, shape in islice(faults.items(), SHOWN)]
            lines += _of_kind(kind, shown, len(faults))
        shapes = islice(self.different.items(), SHOWN)
        shown = [f"{name}: {ours}, in the file {theirs}" for name, (ours, theirs) in shapes]
        return "\n  ".join([*lines, *_of_kind("shapes differ", shown, len(self.different))])


def _of_kind(kind: str, shown: list[str], count: int) -> list[str]:
    more = [f"and {count - len(shown)} more"] if count > len(shown) else []
    return [f"{kind}: {fault}" for fault in shown + more]


def _nearest(name: str, others: Mapping[str, Shape]) -> str:
    found = difflib.get_close_matches(name, others, 1)
    return f"; the nearest is {found[0]} {others[found[0]]}" if found else ""


def load_weights(model: Module, path: str | os.PathLike, strict: bool = True) -> LoadedWeights:
    """Copy the arrays of a safetensors file into `model`'s parameters and buffers of the same names.

    The names of our layers are PyTorch's, and those of resnet (v1b), mobilenet_v2 and shufflenet_v2 torchvision's.
    Prefixes of wrappers ("module.", "model.", "_orig_mod.") are taken off names that the model has not;
    `num_batches_tracked` is not looked at. Every array of the model keeps its dtype: float16 and bfloat16 become
    float32. strict=False loads what has the same name and shape, and leaves the rest of the model as it was.

    Raises ValueError with strict=True where anything does not match, saying what; where nothing at all does; for a file
    that is cut short or of another format; FileNotFoundError where there is none. The model is unchanged then.
    """
    own = {name: array for name, array in model.state_dict().items() if not name.endswith(COUNTER)}
    state = _named(_read(Path(path)), own, path)
    shared = {name: (own[name].shape, array.shape) for name, array in state.items() if name in own}
    report = LoadedWeights(
        loaded=tuple(name for name, (ours, theirs) in shared.items() if ours == theirs),
        missing={name: array.shape for name, array in own.items() if name not in state},
        unexpected={name: array.shape for name, array in state.items() if name not in own},
        different={name: shapes for name, shapes in shared.items() if shapes[0] != shapes[1]},
    )
    if not report.loaded or (strict and not report.complete):
        raise ValueError(f"load_weights: {path} does not fit {type(model).__name__}, which is unchanged\n  {report}")
    model.load_state_dict({**model.state_dict(), **{name: state[name] for name in report.loaded}})
    return report


def _named(state: Mapping[str, np.ndarray], own: Mapping, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays under the model's names, as far as it has them."""
    named, origins = {}, {}
    for origin, array in state.items():
        name = origin
        while name not in own and (prefix := next((p for p in PREFIXES if name.startswith(p)), None)):
            name = name.removeprefix(prefix)
        name = name if name in own else origin
        if name in named:
            raise ValueError(f"load_weights: {path} has two arrays for {name}: {origins[name]} and {origin}")
        if not name.endswith(COUNTER):
            named[name], origins[name] = array, origin
    return named


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, bfloat16 as float32."""
    if path.suffix in PICKLES:
        raise ValueError(
            f"load_weights: {path} is a pickle, which may run any program; where it came from, write it with "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        )
    if not path.is_file():
        raise FileNotFoundError(f"load_weights: there is no file {path}")
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(f"load_weights: {path} ({size} bytes) is no whole safetensors file: {error}") from error
    arrays = {}
    for name, entry in sorted(entries):
        if entry["dtype"] == "BF16":  # the upper half of a float32
            array = (np.frombuffer(entry["data"], "<u2").astype("<u4") << 16).view("<f4")
        elif entry["dtype"] in DTYPES:
            array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
        else:
            raise ValueError(f"load_weights: {path}: {name} is {entry['dtype']}; known are BF16, {', '.join(DTYPES)}")
        arrays[name] = array.reshape(entry["shape"])
    return arrays
