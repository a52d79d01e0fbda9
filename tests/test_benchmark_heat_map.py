"""benchmarks/heat_map.py: what is in the cells, and where the colours part."""

import pytest
from device_rows import LARGE, SMALL, cpu_rows, heat_map, measured, rows_of_both, told

pytest.importorskip("matplotlib")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_gpu_has_panels_of_its_speed_up_resident_with_transfers_and_plain():
    rows = rows_of_both({f"{SMALL}@16": 0.02, f"{SMALL}@256": 0.01} | dict.fromkeys(
        (f"{LARGE}@16", f"{LARGE}@256"), 0.0001))  # fmt: skip
    panels = heat_map.draw_heat_maps(rows).axes
    assert [axes.get_title().split(",")[0] for axes in panels] == [
        *("GPU / CPU", "GPU with transfers / CPU", "GPU / CPU"),
    ]
    assert texts(panels[0]) == ["0.50", "1.00", "100", "100"]
    assert texts(panels[1]) == ["2.50"] * 4
    assert texts(panels[2]) == ["4.00"] * 4


def test_the_cpu_alone_has_panels_of_its_floor_and_of_what_fusing_saves():
    panels = heat_map.draw_heat_maps(cpu_rows(fused=0.001, plain=0.003)).axes
    assert len(panels) == 2
    assert all(text.endswith("%") for text in texts(panels[0]))
    assert texts(panels[1]) == ["3.00"] * 4


def test_the_colours_part_at_1_wherever_the_ratios_lie():
    for ratios in ([8.0, 0.5], [3.0, 9.0], [0.5, 0.25], [1.0]):
        cells = {("net", batch): ratio for batch, ratio in enumerate(ratios)}
        low, high = heat_map.limits(heat_map.Quantity("", cells, True))
        assert low == -high < 0


def test_each_depth_has_a_panel_and_what_was_left_out_is_a_dash():
    cells = ["784-32-10@16", "784-32-10@64", "784-32-32-10@16"]
    worker = told("cpu", dict.fromkeys(cells, 0.001))
    panels = heat_map.draw_heat_maps(measured({("cpu", "gpumlp"): worker}, cells).rows).axes
    assert [axes.get_title() for axes in panels] == [
        "share of the floor, 1 hidden layer",
        "share of the floor, 2 hidden layers",
    ]
    assert len(texts(panels[0])) == len(texts(panels[1])) == 2
    assert texts(panels[1])[1] == "–"
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["32"]


def test_nets_that_a_width_does_not_tell_apart_are_named():
    cells = ["12-8-3@16", "20-8-3@16"]
    worker = told("cpu", dict.fromkeys(cells, 0.001))
    (axes,) = heat_map.draw_heat_maps(measured({("cpu", "gpumlp"): worker}, cells).rows).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["12-8-3", "20-8-3"]
    assert axes.get_ylabel() == ""
