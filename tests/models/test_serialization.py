import concurrent.futures
import json

import numpy as np
import pytest
import safetensors.numpy

import cupynn
from cupynn import models, nn, serialization
from cupynn.reparam import contract, expand


def saved(tmp_path, model):
    path = tmp_path / "model.safetensors"
    serialization.save(model, path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"kernel_size": 5, "expand": "ck+fc", "rate": 2, "composition": "feature"}])
def test_round_trip_keeps_every_bit_the_options_and_the_dtype(tmp_path, options, dtype):
    cupynn.manual_seed(0)
    model = models.create("smallnet", classes=7, **options).astype(dtype)
    model[1].running_mean[...] = np.arange(8)
    model[1].num_batches_tracked += 3
    path = saved(tmp_path, model)
    again = serialization.load(path)
    assert again.creation == model.creation
    before, after = model.state_dict(), again.state_dict()
    assert list(before) == list(after)
    for name in before:
        assert before[name].dtype == after[name].dtype and before[name].shape == after[name].shape, name
        np.testing.assert_array_equal(before[name], after[name])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_numpy_numbers_as_options_can_be_saved(tmp_path):
    model = models.create("smallnet", classes=np.int64(7), expand="cl", rate=np.float64(0.5))
    assert serialization.load(saved(tmp_path, model)).creation == model.creation


def test_a_link_stays_a_link_and_threads_do_not_meet(tmp_path):
    target, link = tmp_path / "far.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(target)
    model = models.create("smallnet")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: serialization.save(model, link), range(20)))
    assert link.is_symlink() and serialization.load(target).creation == model.creation
    assert sorted(file.name for file in tmp_path.iterdir()) == [target.name, link.name]


def test_contracted_model_loads_as_the_plain_network(tmp_path):
    options = {"kernel_size": 5, "expand": "cl", "rate": 2}
    compact = contract(models.create("smallnet", **options))
    again = serialization.load(saved(tmp_path, compact))
    # the file also tells how the network was trained
    assert again.creation == compact.creation
    assert again.creation["contracted"] and again.creation["options"]["expand"] == "cl"
    assert type(again[0]) is nn.Conv2d
    np.testing.assert_array_equal(again[0].weight.data, compact[0].weight.data)


def test_a_model_expanded_after_create_is_rebuilt_expanded(tmp_path):
    model = expand(models.create("smallnet"), "ck", rate=1)
    again = serialization.load(saved(tmp_path, model))
    assert list(again.state_dict()) == list(model.state_dict())


def test_arrays_with_other_strides_round_trip(tmp_path):
    model = models.create("smallnet")
    weight = np.random.default_rng(0).standard_normal((10, 2 * 64)).astype("float32")
    model[15].weight.data = weight[:, ::2]
    model[13].weight.data = np.asfortranarray(model[13].weight.data)
    again = serialization.load(saved(tmp_path, model))
    np.testing.assert_array_equal(again[15].weight.data, weight[:, ::2])
    np.testing.assert_array_equal(again[13].weight.data, model[13].weight.data)


def test_a_hand_built_model_keeps_its_arrays(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    path = saved(tmp_path, model)
    with pytest.raises(ValueError, match=r"models.create did not make.*load_state"):
        serialization.load(path)
    state, metadata = serialization.load_state(path)
    assert metadata["version"] == cupynn.__version__
    other = nn.Sequential(nn.Linear(3, 2))
    other.load_state_dict(state)
    np.testing.assert_array_equal(other[0].weight.data, model[0].weight.data)


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        serialization.load(tmp_path / "nothing.safetensors")
    path = saved(tmp_path, models.create("smallnet"))
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"model\.safetensors \({length} bytes\) is no whole safetensors file"):
            serialization.load(path)
    path.write_bytes(b"PK\x03\x04" + bytes(5000))
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        serialization.load(path)
    safetensors.numpy.save_file({"weight": np.zeros(3, "float32")}, path)
    with pytest.raises(ValueError, match=r"was not written by cupynn\.save"):
        serialization.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "largenet"}, "there is no network 'largenet'"),
        ({"options": json.dumps({"depth": 3})}, "has no option 'depth'"),
        ({"options": json.dumps({"classes": 11})}, r"15\.weight.*\(11, 64\).*\(10, 64\)"),
        ({"options": "{"}, "model.safetensors"),
    ],
)
def test_metadata_that_does_not_fit_is_an_error_naming_the_file(tmp_path, change, message):
    path = saved(tmp_path, models.create("smallnet"))
    state, metadata = serialization.load_state(path)
    safetensors.numpy.save_file(state, path, {**metadata, **change})
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        serialization.load(path)
    assert "model.safetensors" in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.model\.safetensors cannot be written: there is no folder .*no$"):
        cupynn.save(models.create("smallnet"), tmp_path / "no" / "model.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path, models.create("smallnet"))
    before = path.read_bytes()
    monkeypatch.setattr(serialization.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        serialization.save(models.create("smallnet", classes=3), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
