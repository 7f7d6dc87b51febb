"""cupynn models: the list, its filters, one network layer by layer. Run in this process."""

import json
import re

from cupynn import cli, models
from cupynn.models.catalogue import ENTRIES


def printed(capsys, *arguments):
    status = cli.main(["models", *arguments])
    output = capsys.readouterr()
    assert status == 0, output.err
    return output.out


def refused(capsys, *arguments):
    status = cli.main(["models", *arguments])
    output = capsys.readouterr()
    assert status == 2 and not output.out
    return output.err


def test_the_list_holds_every_network_and_the_paper_s_figures(capsys):
    text = printed(capsys)
    assert re.search(r"^SmallNet-7/cifar10 +32x32 +66,186 +66.19K +4,448,896 +4.49M +thop$", text, re.MULTILINE)
    for key in ENTRIES:
        assert re.search(rf"^{re.escape(key)} ", text, re.MULTILINE), key


def test_filters_are_words_of_the_name(capsys):
    lines = printed(capsys, "--filter", "smallnet-7", "--filter", "CK").splitlines()
    named = [line for line in lines[1:] if not line.startswith("[")]
    assert len(named) == sum("SmallNet-7" in key and "+CK" in key for key in ENTRIES) > 5
    assert all("SmallNet-7+CK" in line for line in named)


def test_differs_shows_only_what_the_paper_prints_otherwise_and_why(capsys):
    text = printed(capsys, "--differs")
    assert "SmallNet-7/cifar10 " not in text
    assert re.search(r"^ResNet-18 .*1800M +\+0\.8 %", text, re.MULTILINE)
    notes = re.findall(r"\[(\d+)\] ", text)
    assert notes and set(notes) <= set(re.findall(r"^\[(\d+)\] \S", text, re.MULTILINE))


def test_json_has_what_create_takes(capsys):
    records = json.loads(printed(capsys, "--json"))
    assert [record["id"] for record in records] == list(ENTRIES)
    record = next(record for record in records if record["id"] == "SmallNet-7+CK/cifar10")
    wanted = {"name": "smallnet", "input": [32, 32], "params": 186_982, "macs": 23_808_528, "paper_params": "187.0K"}
    assert {key: record[key] for key in wanted} == wanted
    assert models.create(record["name"], **record["options"]).creation["options"]["expand"] == "ck"


def test_one_network_layer_by_layer(capsys):
    lines = [line.split() for line in printed(capsys, "SmallNet-7/cifar10").splitlines()]
    assert ["0", "Conv2d", "8x32x32", "1,184", "1,204,224"] in lines
    assert ["13", "Linear", "64", "32,832", "32,768"] in lines
    assert lines[-1] == ["66,186", "4,448,896"]


def test_an_expanded_network_beside_what_it_contracts_to(capsys):
    lines = [line.split() for line in printed(capsys, "smallnet", "--expand", "ck", "--rate", "4").splitlines()]
    convolution = ["0", "Conv2d", "8x32x32", "1,184", "1,204,224", "Conv2d", "Conv2d", "Conv2d", "3,292", "3,463,056"]
    assert convolution in lines
    assert ["1", "BatchNorm2d", "8x32x32", "16", "0"] in lines
    assert lines[-1] == ["66,186", "4,448,896", "186,982", "23,808,528"]


def test_bad_use_is_refused(capsys):
    assert "there is no network 'lenet'; there are" in refused(capsys, "lenet")
    assert "smallnet has no option 'depth'" in refused(capsys, "smallnet", "--option", "depth=3")
    assert "--json, --filter and --differs are for the list" in refused(capsys, "smallnet", "--json")
    assert "--option takes NAME=VALUE; got 'depth'" in refused(capsys, "smallnet", "--option", "depth")
    assert "rate is an option of expand" in refused(capsys, "smallnet", "--rate", "2")
