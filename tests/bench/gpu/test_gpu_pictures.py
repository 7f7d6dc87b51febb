"""The roofline and the texts of a result file, from figures that were made up."""

import itertools
import json
import pathlib

import pytest

from bench.gpu import roofline, text
from bench.gpu.results import rates

ROOT = pathlib.Path(__file__).parents[3]
SAMPLE = "SAMPLE, not measured: "


def sample(gpu="Sample GPU", date="2001-02-03"):
    """Figures of no device."""
    ceilings = [
        {"name": name, "unit": "bytes" if name == "copy" else "operations", "per_second": rate, "seconds": 1e-3}
        for name, rate in (("copy", 2e12), ("multiply-add", 3e13), ("TF32 product", 2e14), ("float16 product", 4e14))
    ]
    kernels = []
    for number in range(24):  # many of them in one place
        for which, factor in (("forward", 1.0), ("backward", 1.5)):
            moved, operations = 10**8, int(10 ** (7.5 + number // 4 * 0.5))
            seconds = factor * max(moved / 2e12, operations / 3e13) * (1.1 + 0.01 * number)
            row = {"kernel": f"kernel {number} fast", "layer": f"kernel {number}", "dtype": "float32", "bytes": moved}
            row |= {"pass": which, "shape": "8x64x56x56", "operations": operations, "seconds": seconds}
            kernels += [row, {**row, "kernel": f"kernel {number} slow", "seconds": 2 * seconds}]
    kernels.append({**kernels[0], "kernel": "broken", "failed": "no"} | {"pass": "step"})
    del kernels[-1]["seconds"]
    network = {"network": "Net", "precision": "float32", "image": 32, "seconds": 0.002, "images_per_second": 4000.0}
    network |= {"peak_bytes": 2**20, "eager_peak_bytes": 2**22, "eager_seconds": 0.004, "to_eager": 0.5}
    broken = {"network": "Net", "precision": "float16", "image": 32, "failed": "out of memory"}
    machine = {"gpu": {"name": gpu, "driver": "1", "cuda": "2"}}
    figures = {"sample": SAMPLE, "machine": machine, "date": date, "batch": 8, "how": "not at all"}
    return figures | {"ceilings": ceilings, "kernels": kernels, "networks": [network, broken]}


def test_the_roofline_has_a_point_for_each_pass_by_its_fastest_method():
    figures = sample()
    found = roofline.points(figures)
    assert len(found) == 48 and all("fast" in point["name"] for point in found)
    assert found[0]["name"] == "kernel 0 fast 64@56"
    first = figures["kernels"][0]
    assert found[0]["intensity"] == first["operations"] / first["bytes"]
    assert found[0]["rate"] == first["operations"] / first["seconds"]
    ceilings = rates(figures["ceilings"])
    assert all(p["rate"] <= min(ceilings["operations"], p["intensity"] * ceilings["bytes"]) for p in found)


def test_no_name_lies_on_another_or_on_the_roof():
    pytest.importorskip("matplotlib")
    from cupynn.pictures import DARK, draw_figure

    figures = sample()
    figure = draw_figure(lambda figure, theme: roofline.draw(figure, theme, figures), roofline.SIZE, DARK)
    (axes,) = figure.axes
    assert axes.get_title().startswith(SAMPLE + "Sample GPU") and "ridge 15.0" in axes.get_title()
    assert "operations per byte" in axes.get_xlabel() and "per second" in axes.get_ylabel()
    names = [each for each in axes.texts if each.get_text().startswith("kernel")]
    assert len(names) == 24  # one for each kernel, none for its backward pass
    renderer = figure.canvas.get_renderer()
    boxes = {each.get_text(): bare(each, renderer) for each in axes.texts}
    for (one, box), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(second), (one, other)
    roof = axes.lines[0].get_path().transformed(axes.transData)
    assert not [one for one, box in boxes.items() if one.startswith("kernel") and roof.intersects_bbox(box, False)]


def bare(annotation, renderer):
    """The extent of an annotation's text, without its line."""
    from matplotlib.text import Text

    return Text.get_window_extent(annotation, renderer)


def test_without_ceilings_or_times_nothing_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="ceilings are not known"):
        roofline.save(sample() | {"ceilings": []}, tmp_path / "a.json")
    with pytest.raises(ValueError, match="no kernel was timed"):
        roofline.save(sample() | {"kernels": []}, tmp_path / "a.json")
    assert not [*tmp_path.iterdir()]


def test_the_texts():
    printed = text.tables(sample())
    assert "Ceilings. Sample GPU, driver 1, CUDA 2, batch 8. not at all" in printed
    assert "out of memory" in printed and "TFLOP/s" in printed
    assert text.readme_table(sample()).splitlines()[2] == (
        "| Net     |   float32 | 2.0 ms |  4.0 ms |       0.50 |             - |                - |          0.25 |"
    )


def test_what_a_page_says_of_a_folder_of_results(tmp_path):
    assert text.statement(tmp_path) == "GPU figures are still to be measured"
    for number, (gpu, date) in enumerate([("New GPU", "2002-01-01"), ("Old GPU", "2001-01-01")]):
        (tmp_path / f"gpu-{number}.json").write_text(json.dumps(sample(gpu, date)))
    (tmp_path / "cpu-conv.json").write_text("{}")
    assert text.statement(tmp_path) == "measured on New GPU on 2002-01-01"


def test_readme_says_whether_a_gpu_was_measured():
    assert text.statement() in " ".join((ROOT / "README.md").read_text().split())


def test_no_made_up_figures_among_the_results():
    for path in text.RESULTS.glob("gpu-*.json"):
        assert "sample" not in json.loads(path.read_text())
