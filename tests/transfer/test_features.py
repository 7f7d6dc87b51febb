"""Outputs of modules inside a model, and a teacher that gives them."""

import numpy as np
import pytest

import cupynn
from cupynn import nn, ops
from cupynn.autograd import Tensor
from cupynn.transfer import Teacher, recorded_outputs


def small(**options):
    cupynn.manual_seed(0)
    return cupynn.models.create("smallnet", kernel_size=5, in_channels=1, image_size=16, **options)


def images(seed=0):
    return np.random.default_rng(seed).standard_normal((3, 1, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_has_its_own_output_and_nothing_else_changes(training):
    plain, watched = small().train(training), small().train(training)
    wanted = plain(Tensor(images()))
    with recorded_outputs(watched, [str(i) for i in range(len(watched))]) as outputs:
        logits = watched(Tensor(images()))
    np.testing.assert_array_equal(logits.data, wanted.data)
    np.testing.assert_array_equal(watched[1].running_mean, plain[1].running_mean)
    assert watched[1].num_batches_tracked == int(training)
    assert not any("forward" in vars(module) for module in watched.modules())
    # each module's output is what it makes of the one before it, ReLU's too, which batch norm applies by itself
    watched.eval()
    plain.eval()
    with recorded_outputs(watched, [str(i) for i in range(len(watched))]) as outputs:
        watched(Tensor(images()))
    x = Tensor(images())
    for name, module in plain.named_children():
        x = module(x)
        np.testing.assert_array_equal(outputs[name].data, x.data, err_msg=name)


def test_one_of_a_fused_pair():
    model = small().eval()
    with recorded_outputs(model, ["2"]) as rectified:
        model(Tensor(images()))
    with recorded_outputs(model, ["1"]) as normalised:
        model(Tensor(images()))
    assert normalised["1"].data.min() < 0
    np.testing.assert_array_equal(ops.relu(normalised["1"]).data, rectified["2"].data)


def test_gradients_flow_through_an_output():
    model = small()
    with recorded_outputs(model, ["4"]) as outputs:
        model(Tensor(images()))
    outputs["4"].sum().backward()
    assert model[0].weight.grad is not None and model[4].weight.grad is not None
    assert model[8].weight.grad is None


def test_blocks_nest_and_clean_up_after_an_error():
    model = small()
    with recorded_outputs(model, ["0"]) as outer:
        with recorded_outputs(model, ["0", "3"]) as inner:
            model(Tensor(images()))
        assert outer["0"] is inner["0"]
        again = model(Tensor(images(1)))
        assert outer["0"] is not inner["0"] and "3" not in outer
    with pytest.raises(RuntimeError), recorded_outputs(model, ["0", "2"]):
        raise RuntimeError
    assert not any("forward" in vars(module) for module in model.modules())
    assert again.shape == (3, 10)


def test_a_residual_network_gives_its_stages():
    cupynn.manual_seed(0)
    model = cupynn.models.create("cifar_resnet", depth=8)
    x = np.zeros((2, 3, 8, 8), np.float32)
    with recorded_outputs(model, ["layer1", "layer2", "layer3.0.conv1"]) as outputs:
        model(Tensor(x))
    assert outputs["layer1"].shape == (2, 16, 8, 8)
    assert outputs["layer2"].shape == (2, 32, 4, 4)
    assert outputs["layer3.0.conv1"].shape == (2, 64, 2, 2)


def test_faults_are_named():
    model = small(expand="cl")
    with pytest.raises(ValueError, match="recorded_outputs: SmallNet has no module 'head'; there are "):
        with recorded_outputs(model, ["0", "head"]):
            pass
    assert "forward" not in vars(model[0])
    with recorded_outputs(model, ["0", "0.layers.1"]) as outputs:
        model(Tensor(images()))
    with pytest.raises(KeyError, match=r'0\.layers\.1 has no output: .*composition="kernel"; there are 0'):
        outputs["0.layers.1"]


def test_a_teacher_learns_nothing():
    model = small()
    model(Tensor(images(1)))  # running statistics that are not the first ones
    before = {name: array.copy() for name, array in model.state_dict().items()}
    model.train()
    model[5].eval()
    logits, outputs = Teacher(model, ["5"])(images())
    assert model.training and model[0].training and not model[5].training
    assert not logits.requires_grad and not outputs["5"].requires_grad and outputs["5"].shape == (3, 16, 8, 8)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    np.testing.assert_array_equal(logits.data, model.eval()(Tensor(images())).data)
    with pytest.raises(ValueError, match="no module 'head'"):
        Teacher(model, ["head"])


def test_a_layer_in_two_places_gives_its_last_output():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32))
    with recorded_outputs(model, ["0"]) as outputs:
        y = model(x)
    assert outputs["0"] is y


def test_a_teacher_from_a_run_folder_and_from_a_file(tmp_path):
    model = small(expand="cl", rate=2)
    cupynn.save(model, tmp_path / "model.safetensors")
    wanted, _ = Teacher(model)(images())
    for path in (tmp_path, tmp_path / "model.safetensors"):
        np.testing.assert_array_equal(Teacher.load(path, ["5"])(images())[0].data, wanted.data)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Teacher.load(tmp_path / "nothing")
