"""CIFAR from a folder: tiny archives in both layouts, as the real ones are written, and damaged and hostile ones."""

import dataclasses
import io
import os
import pickle

import numpy as np
import pytest

from cupynn import data
from cupynn.data import cifar
from cupynn.data.unpickle import unpickle

COUNT = 4  # images in a file of the tiny archives


def tiny(archive):
    return dataclasses.replace(archive, images_per_file=dict.fromkeys(archive.images_per_file, COUNT))


ARCHIVES = [tiny(cifar.CIFAR10), tiny(cifar.CIFAR100)]
TEN, HUNDRED = ARCHIVES


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2's pickle, protocol 2, wrote: strings are byte strings, by the opcodes of that time."""

    def save_string(self, value):
        raw = value.encode("ascii") if isinstance(value, str) else value
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}  # noqa: RUF012


def python2_pickle(content):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    # NumPy 2 moved the module; the archives name its old place.
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def contents(archive):
    """Images (COUNT, 3072) and labels of every file, by name."""
    generator = np.random.default_rng(20)
    result = {}
    for name in (*archive.train, archive.test):
        pixels = generator.integers(0, 256, (COUNT, 3072), dtype=np.uint8)
        result[name] = pixels, generator.integers(0, archive.classes, COUNT).tolist()
    return result


def class_names(archive):
    return [f"class_{number}" for number in range(archive.classes)]


def batch(archive, pixels, labels):
    content = {"batch_label": "batch", archive.labels: labels, "data": pixels}
    if archive.label_bytes == 2:
        content["coarse_labels"] = [0] * len(labels)
    return {**content, "filenames": [f"image_{i}.png" for i in range(len(labels))]}


def write_python(archive, folder):
    folder.mkdir(exist_ok=True)
    for name, (pixels, labels) in contents(archive).items():
        (folder / name).write_bytes(python2_pickle(batch(archive, pixels, labels)))
    (folder / archive.meta).write_bytes(python2_pickle({archive.meta_names: class_names(archive), "num_vis": 3072}))


def write_binary(archive, folder):
    folder.mkdir(exist_ok=True)
    for name, (pixels, labels) in contents(archive).items():
        heads = [np.full((COUNT, 1), 17, dtype=np.uint8)] if archive.label_bytes == 2 else []
        record = np.concatenate([*heads, np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(record.tobytes())
    (folder / archive.binary_names).write_text("\n".join(class_names(archive)) + "\n\n")


WRITERS = {"python": write_python, "binary": write_binary}
by_archive = pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name)
by_layout = pytest.mark.parametrize("layout", WRITERS)


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_python2_pickler_writes_the_archives_stream():
    """Its global names, opcodes and order are those at the start of the real data_batch files."""
    stream = python2_pickle({"labels": [6, 9], "data": np.zeros((1, 3072), dtype=np.uint8)})
    assert stream.startswith(b"\x80\x02}q\x00(U\x06labelsq\x01]q\x02(K\x06K\te")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in stream and b"cnumpy\ndtype\n" in stream
    plain = pickle.loads(stream, encoding="bytes")
    assert plain[b"labels"] == [6, 9] and plain[b"data"].shape == (1, 3072) and plain[b"data"].dtype == np.uint8


@by_archive
def test_both_layouts_give_identical_arrays(archive, tmp_path):
    for layout, write in WRITERS.items():
        write(archive, tmp_path / layout)
    from_python = cifar.load_archive(archive, tmp_path / "python")
    from_binary = cifar.load_archive(archive, tmp_path / "binary")
    for one, other in zip(from_python, from_binary, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert (one.class_names, one.mean, one.std) == (other.class_names, other.mean, other.std)

    written = contents(archive)
    train, test = from_python
    pixels = np.concatenate([written[name][0] for name in archive.train])
    np.testing.assert_array_equal(train.images, pixels.reshape(-1, 3, 32, 32))
    assert train.labels.tolist() == [label for name in archive.train for label in written[name][1]]
    assert test.labels.tolist() == written[archive.test][1]
    assert train.class_names == tuple(class_names(archive))


@by_archive
@by_layout
def test_folder_above_the_unpacked_one(archive, layout, tmp_path):
    WRITERS[layout](archive, tmp_path / archive.folders[layout == "python"])
    train, test = cifar.load_archive(archive, tmp_path)
    assert len(train) == COUNT * len(archive.train) and len(test) == COUNT


def test_column_major_data(tmp_path):
    """NumPy pickles a column-major array column by column, and says so."""
    pixels = np.random.default_rng(3).integers(0, 256, (COUNT, 3072), dtype=np.uint8)
    file = tmp_path / "batch"
    file.write_bytes(python2_pickle({"data": np.asfortranarray(pixels)}))
    np.testing.assert_array_equal(unpickle("cifar10", file)["data"], pixels)


def test_real_sizes_are_asked_for(tmp_path):
    """The public loader wants the archives' 10,000 images a file, so one cut between two records is found too."""
    write_binary(TEN, tmp_path)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: expected 10000 records of 3073 bytes.*found 12292 bytes"):
        data.load("cifar10", folder=tmp_path)
    write_python(HUNDRED, tmp_path / "cifar-100-python")
    with pytest.raises(ValueError, match=r"train: expected 'data' of shape \(50000, 3072\).*found shape \(4, 3072\)"):
        data.load("cifar100", folder=tmp_path)


def refused(archive, folder, file, expected, found, error=ValueError):
    with pytest.raises(error) as caught:
        cifar.load_archive(archive, folder)
    message = str(caught.value)
    assert message.startswith(f"{archive.name}: ") and str(file) in message
    assert expected in message and found in message, message


@by_archive
@by_layout
def test_missing_files(archive, layout, tmp_path):
    refused(archive, tmp_path / "nowhere", "nowhere", "", "is no folder", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(archive, tmp_path / "empty", "empty", f"{archive.test}.bin", "found nothing", FileNotFoundError)
    (tmp_path / "empty" / "notes.txt").touch()
    refused(archive, tmp_path / "empty", "empty", archive.folders[1], "found notes.txt", FileNotFoundError)

    suffix = ".bin" if layout == "binary" else ""
    names_file = archive.binary_names if layout == "binary" else archive.meta
    for name in (archive.test + suffix, names_file):
        place = tmp_path / f"without {name}"
        WRITERS[layout](archive, place)
        (place / name).unlink()
        refused(archive, place, place / name, "expected the file", archive.train[0] + suffix, FileNotFoundError)


@by_archive
@by_layout
@pytest.mark.parametrize("size", [0, 1, 100, 3073, 3074, -1])
def test_truncated_file(archive, layout, size, tmp_path):
    WRITERS[layout](archive, tmp_path)
    file = tmp_path / (archive.test + (".bin" if layout == "binary" else ""))
    file.write_bytes(file.read_bytes()[:size])
    if layout == "binary":
        record = 3072 + archive.label_bytes
        left = file.stat().st_size
        refused(archive, tmp_path, file, f"expected 4 records of {record} bytes", f"found {left} bytes")
    else:
        refused(archive, tmp_path, file, "expected a pickled dictionary", "found ")


@by_archive
@by_layout
def test_foreign_file(archive, layout, tmp_path):
    WRITERS[layout](archive, tmp_path)
    file = tmp_path / (archive.train[-1] + (".bin" if layout == "binary" else ""))
    file.write_bytes(b"GIF89a" + bytes(range(256)) * 50)
    refused(archive, tmp_path, file, "expected ", "found ")


@by_archive
def test_bytes_after_the_end(archive, tmp_path):
    for layout, found in (("binary", "4 records and 1 bytes"), ("python", "more bytes after its end")):
        place = tmp_path / layout
        WRITERS[layout](archive, place)
        file = place / (archive.test + (".bin" if layout == "binary" else ""))
        file.write_bytes(file.read_bytes() + b"x")
        refused(archive, place, file, "expected", found)


@by_archive
@by_layout
def test_labels_out_of_range(archive, layout, tmp_path):
    WRITERS[layout](archive, tmp_path)
    if layout == "binary":
        file = tmp_path / f"{archive.test}.bin"
        content = bytearray(file.read_bytes())
        content[archive.label_bytes - 1] = archive.classes
        file.write_bytes(content)
    else:
        file = tmp_path / archive.test
        pixels, labels = contents(archive)[archive.test]
        file.write_bytes(python2_pickle(batch(archive, pixels, [archive.classes, *labels[1:]])))
    refused(archive, tmp_path, file, f"0..{archive.classes - 1}", "found")


PIXELS, LABELS = contents(TEN)[TEN.test]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "found a pickled list"),
        ({"labels": LABELS}, "expected 'data' to be of type ndarray; found the keys ['labels']"),
        ({"data": PIXELS}, "expected 'labels' to be of type list; found the keys ['data']"),
        ({"data": "text", "labels": LABELS}, "it is of type str"),
        ({"data": PIXELS[:, :-1], "labels": LABELS}, "found shape (4, 3071) and 4 labels"),
        ({"data": PIXELS, "labels": LABELS[:-1]}, "found shape (4, 3072) and 3 labels"),
        ({"data": PIXELS, "labels": [0.5] * 4}, "found float"),
        ({"data": PIXELS.astype(np.float32), "labels": LABELS}, "not of uint8"),
        ({"data": np.array([None]), "labels": LABELS}, "not of uint8"),
    ],
    ids=lambda value: None if isinstance(value, (dict, list)) else value,
)
def test_pickle_of_something_else(content, found, tmp_path):
    write_python(TEN, tmp_path)
    (tmp_path / TEN.test).write_bytes(python2_pickle(content))
    refused(TEN, tmp_path, tmp_path / TEN.test, "expected", found)


def test_class_names_of_something_else(tmp_path):
    write_python(TEN, tmp_path / "python")
    write_binary(TEN, tmp_path / "binary")
    meta = tmp_path / "python" / TEN.meta
    for content, found in [({"label_names": ["cat"]}, "found 1"), ({"label_names": [1] * 10}, "found others")]:
        meta.write_bytes(python2_pickle(content))
        refused(TEN, tmp_path / "python", meta, "expected", found)
    text = tmp_path / "binary" / TEN.binary_names
    for content, found in [(b"cat\n", "found 1"), (b"\xff\xfe", "can't decode")]:
        text.write_bytes(content)
        refused(TEN, tmp_path / "binary", text, "expected", found)


class Payload:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["whole", "value", "key", "list"])
def test_payload_is_not_run(protocol, place, tmp_path):
    trap = tmp_path / "trap"
    payload = Payload(trap)
    content = {"whole": payload, "value": {"data": payload}, "key": {payload: 1}, "list": {"labels": [0, payload]}}
    stream = pickle.dumps(content[place], protocol=protocol)
    write_python(TEN, tmp_path)
    (tmp_path / TEN.train[0]).write_bytes(stream)
    refused(
        TEN, tmp_path, tmp_path / TEN.train[0], "expected a pickled dictionary", "mkdir, which CIFAR's files do not"
    )
    assert not trap.exists()
    pickle.loads(stream)  # the plain unpickler runs it: the test's payload is a real one
    assert trap.exists()


GLOBALS = {
    "call eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "inst opcode": b"(S'1'\nios\nsystem\n.",
    "obj opcode": b"(cos\nsystem\nS'1'\no.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x011\x85R.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__base__\x93.",
    "numpy's loader": b"cnumpy\nload\n(S'x'\ntR.",
    "numpy's moved module": b"cnumpy._core.multiarray\n_reconstruct\n.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "persistent id": b"Pname\n.",
    "extension": b"\x80\x02\x82\x01.",
    "subclass of ndarray": b"cnumpy.core.multiarray\n_reconstruct\n(S'recarray'\n(I0\ntS'b'\ntR.",
    "new object": b"\x80\x02cnumpy\nndarray\n(tx\x81.",
    "call of ndarray": b"cnumpy\nndarray\n(I9\ntR.",
    "object dtype": b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
    "attributes of an admitted name": b"cnumpy.core.multiarray\n_reconstruct\n}S'a'\nI1\nsb.",
    "slots of an admitted name": b"cnumpy\ndtype\n(N}S'__call__'\nI1\nstb.",
    "attributes of ndarray": b"cnumpy\nndarray\n}S'a'\nI1\nsb.",
}


@pytest.mark.parametrize("stream", GLOBALS.values(), ids=GLOBALS)
def test_hostile_stream(stream, tmp_path):
    file = tmp_path / "batch"
    file.write_bytes(stream)
    with pytest.raises(ValueError) as caught:
        unpickle("cifar10", file)
    assert str(caught.value).startswith(f"cifar10: {file}: expected a pickled dictionary")
    assert "found a pickled" not in str(caught.value)  # it was stopped on the way, not for what came out
    # and the next, honest file is read as ever
    file.write_bytes(python2_pickle({"data": PIXELS}))
    np.testing.assert_array_equal(unpickle("cifar10", file)["data"], PIXELS)


@pytest.mark.parametrize("shape", [(4, 3071), (-4, -3072), (4.0, 3072), (10**30, 3072), 12288, (True, 12288)])
def test_array_state_that_lies(shape, tmp_path):
    file = tmp_path / "batch"
    honest = python2_pickle({"data": PIXELS})
    written = python2_pickle((4, 3072))[2:-1].replace(b"q\x00", b"")
    assert honest.count(written) == 1
    body = pickle.dumps(shape, protocol=2)[2:-1].replace(b"q\x00", b"")
    file.write_bytes(honest.replace(written, body))
    with pytest.raises(ValueError, match="an array"):
        unpickle("cifar10", file)
