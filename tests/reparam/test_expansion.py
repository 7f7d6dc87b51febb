"""expand, contract and verify_contraction on whole models."""

import numpy as np
import pytest

import cupynn
from cupynn import models, nn, ops
from cupynn.autograd import Tensor
from cupynn.nn.contractible import Contractible
from cupynn.nn.expanded import ExpandedConv2d, ExpandedLinear
from cupynn.reparam import contract, expand, verify_contraction

STRATEGIES = ["cl", "ck", "fc", "cl+fc", "ck+fc", "do", "ac", "fc+do", "ck+fc+do", "ac+do"]


def trained(model, dtype, steps=3):
    """A few steps of plain gradient descent on random data: biases and running statistics move away from the start."""
    rng = np.random.default_rng(0)
    model.astype(dtype).train()
    for parameter in model.parameters():
        parameter.data += rng.uniform(-0.05, 0.05, parameter.shape).astype(dtype)
    for _ in range(steps):
        x = Tensor(rng.standard_normal((4, 3, 16, 16)).astype(dtype))
        model.zero_grad()
        ops.cross_entropy(model(x), rng.integers(0, 10, 4)).backward()
        for parameter in model.parameters():
            parameter.data -= 0.01 * parameter.grad
    return model


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-10)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trained_then_contracted_gives_the_same_logits(strategy, dtype, bound):
    cupynn.manual_seed(1)
    options = {
        "kernel_size": 5 if "do" in strategy else 7,
        "image_size": 16,
    }  # DO-Conv's feature maps are 25 or 49 fold
    plain = models.create("smallnet", **options)
    model = trained(models.create("smallnet", **options, expand=strategy, rate=2), dtype)
    compact = contract(model)
    result = verify_contraction(model, compact, (3, 16, 16))
    assert result.bound == bound and result.dtype == dtype
    assert result.absolute < bound and 0 < result.relative < 100 * bound
    before, after = plain.state_dict(), compact.state_dict()
    assert [(name, array.shape) for name, array in before.items()] == [(name, a.shape) for name, a in after.items()]
    assert {array.dtype.name for array in after.values()} == {dtype, "int64"}
    for name, array in model[1].state_dict().items():  # batch norm is not touched
        np.testing.assert_array_equal(array, compact[1].state_dict()[name])
    assert model[1].running_mean.any() and model[1].num_batches_tracked == 3


def test_both_compositions_train_alike():
    """Three training steps in float64, layer after layer and through the contracted kernel: the same weights."""
    results = []
    for composition in ("kernel", "feature"):
        cupynn.manual_seed(2)
        options = {"kernel_size": 5, "image_size": 16, "expand": "ck+fc", "rate": 2}
        model = models.create("smallnet", **options, composition=composition)
        results.append(trained(model, "float64").state_dict())
    assert results[0].keys() == results[1].keys()
    for name, array in results[0].items():
        np.testing.assert_allclose(array, results[1][name], rtol=0, atol=1e-11, err_msg=name)


def small():
    return nn.Sequential(
        nn.Conv2d(2, 4, 5, padding=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False)),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.Linear(8, 8),
        nn.Linear(8, 3),
    )


def kinds(model):
    return {name: type(layer) for name, layer in model.named_modules() if isinstance(layer, Contractible)}


def test_which_layers_are_expanded():
    assert kinds(expand(small(), "cl")) == {"0": ExpandedConv2d, "3.1": ExpandedConv2d}
    assert kinds(expand(small(), "ck")) == {"0": ExpandedConv2d}
    assert kinds(expand(small(), "do")) == {"0": nn.DOConv2d, "3.1": nn.DOConv2d}
    assert kinds(expand(small(), "ac")) == {"0": nn.ACBlock, "3.1": nn.ACBlock}
    assert kinds(expand(small(), "fc")) == {"5": ExpandedLinear}
    assert kinds(expand(small(), "ck+fc")) == {"0": ExpandedConv2d, "5": ExpandedLinear}
    depthwise = expand(small(), "cl", rate=2)[3][1]
    assert [part.weight.shape for part in depthwise.layers] == [(8, 1, 1, 1), (8, 2, 3, 3), (4, 2, 1, 1)]
    assert all(part.bias is None for part in depthwise.layers)


def test_do_keeps_what_was_learned_and_draws_nothing():
    model = trained(models.create("smallnet", kernel_size=5, image_size=16, expand="ac"), "float64")
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 16, 16)))
    for learned in (model, contract(model)):
        cupynn.manual_seed(4)
        expanded = expand(learned, "do")
        drawn = cupynn.device.generator().random()
        cupynn.manual_seed(4)
        assert drawn == cupynn.device.generator().random()
        # The identity composes W to itself, bit for bit; the convolutions are the same ones.
        np.testing.assert_array_equal(expanded.eval()(x).data, learned.eval()(x).data)


@pytest.mark.parametrize("strategy", ["do", "ac", "ck+do"])
def test_two_trainings_give_the_same_bits(strategy):
    states = []
    for _ in range(2):
        cupynn.manual_seed(6)
        model = models.create("smallnet", kernel_size=5, image_size=16, expand=strategy, rate=1)
        states.append(trained(model, "float32", steps=5).state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


def test_what_was_done_to_a_created_model_is_known():
    one = models.create("smallnet", expand="ck+do", rate=2)
    other = expand(models.create("smallnet", expand="ck", rate=2), "do")
    assert one.creation == other.creation and one.creation["options"]["expand"] == "ck+do"
    assert list(one.state_dict()) == list(other.state_dict())
    assert contract(one).creation == {**one.creation, "contracted": True}
    folded = contract(one, fold_batch_norm=True)
    assert folded.creation == {**one.creation, "contracted": True, "folded": True}
    assert not hasattr(expand(folded, "do"), "creation")


@pytest.mark.parametrize("strategy", ["do", "ac", "ck+fc+do", "ac+do"])
def test_expanded_and_contracted_models_are_saved_and_loaded(strategy, tmp_path):
    options = {"kernel_size": 5, "image_size": 16, "expand": strategy, "rate": 1}
    model = trained(models.create("smallnet", **options), "float32", steps=1)
    for saved in (model, contract(model), contract(model, fold_batch_norm=True)):
        cupynn.save(saved, tmp_path / "model.safetensors")
        again = cupynn.load(tmp_path / "model.safetensors")
        assert again.creation == saved.creation
        before, after = saved.state_dict(), again.state_dict()
        assert list(before) == list(after)
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_input_is_untouched_and_shares_nothing():
    model = small().astype("float64").eval()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    expanded = expand(model, "cl+fc")
    compact = contract(expanded)
    for other in (expanded, compact):
        assert not any(module.training for module in other.modules())
        for array in other.state_dict().values():
            assert array.dtype == "float64" or array.dtype.kind == "i"
            array[...] = 7
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert list(compact.state_dict()) == list(before)


def test_a_shared_layer_stays_shared():
    shared = nn.Conv2d(2, 2, 5, padding=2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    expanded = expand(model, "ck")
    assert expanded[0] is expanded[2] and type(expanded[0]) is ExpandedConv2d
    compact = contract(expanded)
    assert compact[0] is compact[2] and type(compact[0]) is nn.Conv2d
    verify_contraction(expanded, compact, (2, 6, 6))


def test_a_single_layer_is_a_model():
    layer = nn.Conv2d(2, 3, 5)
    expanded = expand(layer, "cl")
    assert type(expanded) is ExpandedConv2d and type(contract(expanded)) is nn.Conv2d


def test_verification_leaves_modes_and_composition():
    model = models.create("smallnet", kernel_size=5, image_size=16, expand="ck", rate=1)
    model[1].eval()
    compact = contract(model)
    verify_contraction(model, compact, (2, 3, 16, 16))
    assert model.training and not model[1].training and compact.training and not compact[1].training
    assert model[0].composition == "kernel"


@pytest.mark.parametrize("value", [1e-3, np.nan])
def test_verification_refuses_a_wrong_model(value):
    model = models.create("smallnet", kernel_size=5, image_size=16, expand="ck", rate=1).astype("float64")
    compact = contract(model)
    compact[0].weight.data[0, 0, 0, 0] += value
    with pytest.raises(ValueError, match=r"verify_contraction: the logits differ by .*; the bound in float64 is 1e-10"):
        verify_contraction(model, compact, (3, 16, 16))


def test_verification_finds_padding_in_the_wrong_layer():
    """The expanded model runs layer after layer, so a chain that is not one convolution is found out."""
    model = expand(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1)), "cl")
    compact = contract(model)
    verify_contraction(model, compact, (2, 6, 6))
    model[0].layers[0].padding, model[0].layers[1].padding = (0, 0), (1, 1)
    with pytest.raises(ValueError, match="the logits differ"):
        verify_contraction(model, compact, (2, 6, 6))


def test_errors():
    for strategy in ("dw", "", "fc+cl", "cl+ac", "do+do"):
        with pytest.raises(ValueError, match="expand: strategy must be one of cl, ck, ac, fc, do, or several"):
            expand(small(), strategy)
    with pytest.raises(ValueError, match="expand: Sequential has no layer that 'fc' expands"):
        expand(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(4, 2)), "cl+fc")
    with pytest.raises(ValueError, match="has expanded layers already"):
        expand(expand(small(), "cl"), "fc")
    with pytest.raises(ValueError, match="has expanded layers already"):
        expand(expand(small(), "do"), "do")
    with pytest.raises(ValueError, match="no layer that 'ac' expands"):
        expand(nn.Sequential(nn.Conv2d(2, 2, (1, 3)), nn.Conv2d(2, 2, 4)), "ac")
    with pytest.raises(TypeError, match="float64 and float32"):
        verify_contraction(small().astype("float64"), small(), (2, 4, 4))


class Staged(nn.Sequential):
    """Three convolutions, of which a paper would expand the first and the last; two stages behind a stem."""

    def __init__(self):
        body = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, groups=4))
        super().__init__(nn.Conv2d(3, 4, 3), body, nn.Flatten(), nn.Linear(4 * 3 * 3, 3))
        self.stages = ("0", ("1.0",), "1.1")
        self.expansion_layers = {"cl": ("0", "1.1")}


@pytest.mark.parametrize(
    ("strategy", "options", "wanted"),
    [
        ("cl", {}, ["0", "1.1"]),
        ("do", {}, ["0", "1.0", "1.1"]),
        ("cl", {"layers": ["1"]}, ["1.0", "1.1"]),
        ("cl", {"layers": ("1.0",)}, ["1.0"]),
        ("do", {"stages": [1]}, ["1.0"]),
        ("do", {"stages": [0, 2]}, ["0", "1.1"]),
        ("cl", {"stages": [1, 2]}, ["1.1"]),
        ("cl", {"stages": [1, 2], "layers": ["1"]}, ["1.0", "1.1"]),
    ],
)
def test_what_is_expanded_can_be_chosen(strategy, options, wanted):
    model = Staged()
    expanded = expand(model, strategy, 2, **options)
    assert list(kinds(expanded)) == wanted
    assert not kinds(model)
    verify_contraction(expanded, contract(expanded), (3, 14, 14))


def test_do_on_a_stage_takes_what_cl_made_of_it():
    expanded = expand(expand(Staged(), "cl", 2), "do", stages=[0])
    assert [name for name, kind in kinds(expanded).items() if kind is nn.DOConv2d] == ["0.layers.1"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": ["2.7"]}, "layers names '2.7', which Staged has not"),
        ({"stages": [3]}, r"stages must be numbers below 3, the stages of Staged; got \[3\]"),
        ({"stages": ["stem"]}, "stages must be numbers"),
        ({"layers": ["3"]}, "Staged has no layer that 'cl' expands"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(options, text):
    with pytest.raises(ValueError, match=f"expand: {text}"):
        expand(Staged(), "cl", **options)


@pytest.mark.parametrize(
    ("options", "strides", "groups"),
    [
        ({}, [1, 2, 1], [4, 4, 4]),
        ({"stride_last": True}, [1, 1, 2], [4, 4, 4]),
        ({"mixing": False}, [1, 2, 1], [4, 12, 4]),
    ],
)
def test_variants_of_a_depthwise_cl(options, strides, groups):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4, padding=1, bias=False))
    expanded = expand(model, "cl", 3, **options)
    assert [layer.stride[0] for layer in expanded[0].layers] == strides
    assert [layer.groups for layer in expanded[0].layers] == groups
    verify_contraction(expanded, contract(expanded), (4, 9, 9))


def test_creation_keeps_the_choice():
    model = models.create("smallnet", expand="ck", layers=["0", "4"])
    assert model.creation["options"] == {
        "expand": "ck",
        "rate": 4,
        "composition": "kernel",
        "layers": ["0", "4"],
    }
    assert expand(models.create("smallnet"), "ck", layers=["0", "4"]).creation == model.creation
    assert list(kinds(models.create(model.creation["name"], **model.creation["options"]))) == ["0", "4"]


@pytest.mark.parametrize("option", [{"rate": 2}, {"composition": "feature"}, {"layers": ["0"]}, {"mixing": False}])
def test_create_refuses_options_of_expand_without_it(option):
    with pytest.raises(ValueError, match=rf"create: {next(iter(option))} is an option of expand"):
        models.create("smallnet", **option)
