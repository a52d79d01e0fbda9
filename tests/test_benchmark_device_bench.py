"""benchmarks/device_bench.py: paired rounds, and what is left out and said so."""

import pytest
from device_rows import CELLS, RIGHT, ToldWorker, cpu_rows, measured, rounds, rows_of_both, told
from device_rows import worker as workers_module


def test_a_speed_up_is_the_median_over_rounds_and_not_the_ratio_of_medians():
    workers = {
        ("cpu", "gpumlp"): ToldWorker("cpu", iter([9, 9, 4, 6, 8])),
        ("cuda", "gpumlp"): ToldWorker("cuda", iter([5, 5, 1, 3, 2])),
    }
    bench = measured(workers, ["4-3-3@5"], rounds_of_each=3)
    cpu, cuda = bench.rows
    assert (cpu["seconds"]["median"], cuda["seconds"]["median"]) == (6, 2)
    assert (cpu["speed_up"], cuda["speed_up"]) == (1, 4)  # of 4, 2, 4


def test_each_variant_is_compared_with_its_own_kind_on_the_cpu():
    rows = [row for row in rows_of_both(0.001) if row["batch"] == 16][:5]
    found = [(r["device"], r["variant"], r["ratio"], r["speed_up"]) for r in rows]
    assert found == [
        ("cpu", "fused", 1.0, 1.0),
        ("cpu", "plain", 2.0, 1.0),
        ("cuda", "fused", 1.0, pytest.approx(10)),
        ("cuda", "plain", pytest.approx(5), pytest.approx(4)),
        ("cuda", "transfers", pytest.approx(4), pytest.approx(2.5)),
    ]


def test_only_steps_that_bring_their_batch_have_transfers():
    for row in rows_of_both(0.001):
        fed = row["variant"] == "transfers"
        assert {"transfer_seconds", "transfer_bytes"} & set(row) == (
            {"transfer_seconds", "transfer_bytes"} if fed else set()
        )
        if fed:
            assert row["transfer_seconds"] == pytest.approx(0.003)
            assert row["transfer_bytes"] == row["batch"] * (784 * 4 + 8)


def test_a_contender_that_computes_something_else_is_not_timed_and_said_so(capsys):
    wrong = ToldWorker("cpu", dict.fromkeys(CELLS, 0.001), RIGHT | {"norms": [1.0, 2.02]})
    workers = {("cpu", "gpumlp"): told("cpu", 0.001), ("cpu", "gpumlp-plain"): wrong}
    bench = measured(workers, CELLS[:1])
    assert [row["system"] for row in bench.rows] == ["gpumlp"]
    (error,) = bench.failures
    assert isinstance(error, rounds.CheckError)
    (left_out,) = bench.left_out
    assert left_out["system"] == "gpumlp-plain on cpu"
    assert "does not train what gpumlp trains: after 3 steps" in left_out["why"]
    assert "gpumlp-plain on cpu left out: " in capsys.readouterr().err


def test_a_gpu_without_memory_for_a_net_leaves_that_net_to_the_cpu():
    class Full(ToldWorker):
        def ask(self, command, **given):
            if command == "build" and given["net"] == CELLS[1]:
                raise workers_module.WorkerError("gpumlp: OutOfMemoryError")
            return super().ask(command, **given)

    cuda = Full("cuda", dict.fromkeys(CELLS, 0.001))
    bench = measured({("cpu", "gpumlp"): told("cpu", 0.01), ("cuda", "gpumlp"): cuda})
    found = [(row["device"], f"{row['net']}@{row['batch']}") for row in bench.rows]
    assert found == [
        *(("cpu", CELLS[0]), ("cuda", CELLS[0]), ("cpu", CELLS[1])),
        *(("cpu", CELLS[2]), ("cuda", CELLS[2]), ("cpu", CELLS[3]), ("cuda", CELLS[3])),
    ]
    assert [type(error) for error in bench.failures] == [workers_module.WorkerError]


@pytest.mark.parametrize("command", ["build", "check", "run"])
def test_a_gpu_that_fails_at_anything_leaves_the_cpus_half(command):
    class Broken(ToldWorker):
        def ask(self, asked, **given):
            if asked == command:
                raise workers_module.WorkerError("gpumlp: illegal memory access")
            return super().ask(asked, **given)

    cuda = Broken("cuda", dict.fromkeys(CELLS, 0.001))
    bench = measured({("cpu", "gpumlp"): told("cpu", 0.01), ("cuda", "gpumlp"): cuda})
    assert [row["device"] for row in bench.rows] == ["cpu"] * 4
    assert bench.failures


@pytest.mark.parametrize("command", ["peak", "bandwidth"])
def test_a_ceiling_that_cannot_be_measured_costs_no_row(command):
    class Shy(ToldWorker):
        def ask(self, asked, **given):
            if asked == command:
                raise workers_module.WorkerError("gpumlp: illegal memory access")
            return super().ask(asked, **given)

    cuda = Shy("cuda", dict.fromkeys(CELLS, 0.001))
    bench = measured({("cpu", "gpumlp"): told("cpu", 0.01), ("cuda", "gpumlp"): cuda})
    assert [row["device"] for row in bench.rows] == ["cpu", "cuda"] * 4
    assert len(bench.failures) == 2  # once for each net
    assert all(row["floor_seconds"] > 0 for row in bench.rows)  # by the other ceiling


def test_a_contender_that_ends_in_the_rounds_takes_only_that_net_along():
    class Ending(ToldWorker):
        turns = 0

        def ask(self, command, **given):
            self.turns += command == "run" and self.net == CELLS[0]
            if self.turns == 3:  # the first in the rounds
                self.turns += 1
                raise workers_module.WorkerError("gpumlp-plain: its process ended")
            return super().ask(command, **given)

    plain = Ending("cpu", dict.fromkeys(CELLS, 0.1))
    bench = measured({("cpu", "gpumlp"): told("cpu", 0.01), ("cpu", "gpumlp-plain"): plain})
    assert {f"{row['net']}@{row['batch']}" for row in bench.rows} == {*CELLS[1:]}
    assert bench.left_out[0]["why"] == "gpumlp-plain: its process ended"


def test_without_gpumlp_on_the_cpu_there_is_no_speed_up_and_no_guess():
    wrong = ToldWorker("cpu", dict.fromkeys(CELLS, 0.001), RIGHT | {"loss": 2.0})
    bench = measured({("cpu", "gpumlp"): wrong, ("cuda", "gpumlp"): told("cuda", 0.001)})
    assert [(row["device"], row["speed_up"]) for row in bench.rows] == [("cuda", None)] * 4


def test_what_comes_after_the_time_is_up_is_named(capsys):
    bench = measured({("cpu", "gpumlp"): told("cpu", 0.001)}, seconds=0)
    assert bench.rows == []
    assert [row["why"] for row in bench.left_out] == ["the time was up"] * 4
    assert "784-32-10@16: all left out: the time was up" in capsys.readouterr().err


def test_rows_are_values_that_json_holds():
    for row in cpu_rows():
        assert {type(value) for value in row.values()} <= {str, int, float, dict}
