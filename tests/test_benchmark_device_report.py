"""benchmarks/device_report.py: the tables, and the sentences for whatever was found."""

import json

import device_rows
import pytest
from device_rows import CELLS, LARGE, SMALL, cpu_rows, device_report, rows_of_both, tables

FASTER = {f"{SMALL}@16": 0.02, f"{SMALL}@256": 0.0125, f"{LARGE}@16": 0.005, f"{LARGE}@256": 1e-4}


def test_where_each_device_wins_is_said_with_numbers():
    assert device_report.sentences(rows_of_both(FASTER)) == [
        "The GPU is 100 times as fast as the CPU at 784-2048-10 @ 256, in the median 1.40 times, "
        "and faster in 2 of 4 combinations.",
        "The CPU wins in 2, with at most 2.6e+07 operations a step: 784-32-10 @ 16, 256.",
        "With every batch brought from the host's memory the GPU is faster in 4 of 4, at most "
        "2.50 times (784-32-10 @ 16).",
    ]


def test_a_cpu_that_wins_nowhere_is_told_where_it_came_nearest():
    seconds = dict.fromkeys(CELLS, 0.001) | {f"{SMALL}@16": 0.005}
    said = device_report.sentences(rows_of_both(seconds))
    assert said[1] == (
        "The CPU wins nowhere: at 784-32-10 @ 16 the GPU still is 2.00 times as fast."
    )


def test_a_gpu_that_wins_nowhere_is_not_called_fast():
    said = device_report.sentences(rows_of_both(0.1, fed=0.2))
    assert said[0] == (
        "The GPU is faster nowhere: at best it is 0.10 times as fast as the CPU at 784-32-10 @ 16."
    )
    assert said[1].startswith("The CPU wins in 4, with at most")
    assert "the GPU is faster in 0 of 4" in said[2]


def test_without_a_gpu_it_is_said_that_its_half_is_missing():
    said = device_report.sentences(cpu_rows(fused=0.01, plain=0.02))
    assert said[0].startswith("The CPU reaches 168 GFLOP/s, 168% of the floor's speed, at 784-2048")
    assert said[1] == (
        "Plain formulas take 2.00 times as long in the median, 2.00 to 2.00 in the middle half."
    )
    assert said[2].startswith("The GPU half is missing")


def test_many_nets_are_not_all_named():
    cells = [f"784-{width}-10@16" for width in range(32, 42)]
    seconds = dict.fromkeys(cells, 1.0)
    workers = {("cpu", "gpumlp"): device_rows.told("cpu", dict.fromkeys(cells, 0.5))}
    workers["cuda", "gpumlp"] = device_rows.told("cuda", seconds)
    said = device_report.sentences(device_rows.measured(workers, cells).rows)
    assert said[1].endswith("784-37-10 @ 16; and 4 nets more.")


def test_the_table_has_a_line_for_each_cell_and_device():
    lines = device_report.device_table(rows_of_both(FASTER)).splitlines()
    found = [line.split() for line in lines[1:] if line.startswith("784")]
    assert [(words[0], words[1], words[2]) for words in found] == [
        (net, batch, device) for net in (SMALL, LARGE) for batch in ("16", "256")
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert found[1][-4:] == ["0.25", "0.20", "0.50", "2.50"]
    assert found[0][-4:] == ["2.00", "-", "1.00", "-"]


def test_the_readmes_table_has_a_column_for_each_batch_and_marks_where_the_cpu_wins():
    head, lines, legend = device_report.compact(rows_of_both(FASTER))
    assert head == ["GPU / CPU at batch", "16", "256"]
    assert lines == [
        [SMALL, "**0.50** (2.50)", "**0.80** (2.50)"],
        [LARGE, "2.00 (2.50)", "100 (2.50)"],
    ]
    assert "bold: the CPU is faster" in legend[0]


def test_the_readmes_table_of_a_cpu_has_its_samples_and_its_floor():
    head, lines, legend = device_report.compact(cpu_rows())
    assert head == ["samples/s at batch", "16", "256"]
    assert lines[0][1].startswith("16,000 (")
    assert legend[-1].startswith("The GPU half is missing")


@pytest.mark.parametrize("rows", [cpu_rows(), rows_of_both(0.001)])
def test_the_readme_is_written_from_the_results(rows, tmp_path):
    environment = {"cpu": "A CPU", "cpu_count": 2, "python": "3.11.7", "date": "2026-01-02"}
    environment |= {"packages": {"gpumlp": "0.1.0"}}
    text = json.dumps({"environment": environment, "rows": rows})
    (tmp_path / "found.json").write_text(text)
    written = tables.table(tmp_path, "found.json").splitlines()
    assert [line.split(" | ")[0] for line in written[2:4]] == [f"| {SMALL}", f"| {LARGE}"]
    assert device_report.sentences(rows)[0] in written
    assert written[-1].startswith("A CPU, 2 cores")
