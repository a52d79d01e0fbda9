"""benchmarks/grid.py: which nets and batches are measured, and which are said to be too large."""

import pytest
from device_rows import Net, grid


def test_the_grid_has_every_combination_by_depth_and_width():
    made = [str(net) for net in grid.grid([32, 128], [1, 2], [16, 64])]
    assert made == [
        *("784-32-10@16", "784-32-10@64", "784-128-10@16", "784-128-10@64"),
        *("784-32-32-10@16", "784-32-32-10@64", "784-128-128-10@16", "784-128-128-10@64"),
    ]


def test_the_standard_grid_has_sixty_combinations_of_which_one_is_too_large():
    nets = grid.grid(grid.WIDTHS, grid.DEPTHS, grid.BATCHES)
    assert len({str(net) for net in nets}) == 60
    kept, left_out = grid.split(nets, grid.MOST_OPERATIONS)
    assert len(kept) == 59
    (row,) = left_out
    assert (row["net"], row["batch"]) == ("784-2048-2048-2048-2048-10", 4096)
    assert row["flops"] == 4096 * (6 * (784 * 2048 + 3 * 2048**2 + 20480) - 2 * 784 * 2048)
    assert row["why"] == "3.4e+11 operations a step, more than the limit of 2e+11"


def test_a_step_of_exactly_the_limit_is_measured():
    net = Net.parse("784-32-10@16")
    assert grid.split([net], net.flops(16)) == ([net], [])
    assert grid.split([net], net.flops(16) - 1)[0] == []


def test_named_nets_get_all_batches_and_keep_their_own():
    nets = grid.with_batches([Net.parse("12-8-3@50"), Net.parse("5-4@16")], [64, 16])
    assert [str(n) for n in nets] == [
        *("12-8-3@16", "12-8-3@50", "12-8-3@64"), "5-4@16", "5-4@64"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("net", "width", "depth"),
    [
        ("784-32-10@1", 32, 1),
        ("784-32-32-10@1", 32, 2),
        ("784-64-32-10@1", None, 2),
        ("784-10@1", None, 0),
    ],
)
def test_a_net_has_a_width_where_its_hidden_layers_are_alike(net, width, depth):
    assert grid.shape_of(Net.parse(net)) == {"width": width, "depth": depth}


def test_numbers_are_sorted_and_each_taken_once():
    assert grid.numbers("batches", "64,16,64") == [16, 64]
    assert grid.numbers("batches", "") == []


@pytest.mark.parametrize("text", ["16,x", "0", "-1", "1.5", "16,", "٣"])
def test_what_is_no_list_of_positive_integers_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match="widths must be positive integers, as in 16,64, got"):
        grid.numbers("widths", text)
