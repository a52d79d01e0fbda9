import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.data.splits import split
from gpumlp.errors import DataError

labels_strategy = st.lists(st.integers(0, 6), min_size=2, max_size=300).map(np.array)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**63 - 1)


def try_split(n, fraction, **how):
    """Split, or check that the refusal is right and return None."""
    if 0 < round(fraction * n) < n:
        return split(n, fraction, **how)
    with pytest.raises(DataError):
        split(n, fraction, **how)
    return None


@given(labels_strategy, fractions, seeds, st.booleans(), st.booleans())
def test_both_sides_are_ascending_disjoint_complete_and_of_exact_size(
    labels, fraction, seed, stratify, shuffle
):
    n = len(labels)
    how = {"seed": seed, "part": 1, "shuffle": shuffle, "labels": labels if stratify else None}
    if (sides := try_split(n, fraction, **how)) is None:
        return
    rest, held = sides
    assert rest.dtype == held.dtype == np.int64
    assert (np.diff(rest) > 0).all()
    assert (np.diff(held) > 0).all()
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(n))
    assert len(held) == round(fraction * n)


@given(labels_strategy, fractions, seeds, st.booleans())
def test_each_class_is_held_out_in_proportion_within_one_row(labels, fraction, seed, shuffle):
    sides = try_split(len(labels), fraction, seed=seed, part=1, labels=labels, shuffle=shuffle)
    if sides is None:
        return
    held = sides[1]
    for label in np.unique(labels):
        share = np.sum(labels == label) * len(held) / len(labels)
        assert abs(np.sum(labels[held] == label) - share) < 1


def test_an_unstratified_split_does_not_follow_the_classes():
    labels = np.repeat([0, 1], 50)
    counts = {int(labels[split(100, 0.2, seed=s, part=1)[1]].sum()) for s in range(20)}
    assert len(counts) > 1


def test_without_shuffling_the_last_rows_are_held_out():
    assert split(10, 0.3, seed=0, part=1, shuffle=False)[1].tolist() == [7, 8, 9]


def test_without_shuffling_the_last_rows_of_each_class_are_held_out():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
    held = split(10, 0.5, seed=0, part=1, labels=labels, shuffle=False)[1]
    assert held.tolist() == [4, 6, 7, 8, 9]
    labels = np.arange(3000) % 3
    held = split(3000, 0.2, seed=0, part=1, labels=labels, shuffle=False)[1]
    assert held.tolist() == list(range(2400, 3000))


def test_classes_of_one_row_are_split_without_fuss():
    rest, held = split(5, 0.4, seed=0, part=1, labels=np.arange(5))
    assert (len(rest), len(held)) == (3, 2)


def test_seed_and_part_each_give_another_draw():
    draws = [split(1000, 0.5, seed=s, part=p)[1] for s, p in ((0, 1), (0, 2), (1, 1), (1, 2))]
    assert len({draw.tobytes() for draw in draws}) == 4


def test_every_row_is_held_out_by_some_seed():
    labels = np.repeat([0, 1], 10)
    held = [split(20, 0.2, seed=s, part=1, labels=labels)[1] for s in range(100)]
    assert np.array_equal(np.unique(np.concatenate(held)), np.arange(20))


def test_a_fresh_process_draws_the_same_rows():
    here = split(1000, 0.2, seed=7, part=1, labels=np.arange(1000) % 3)[1].tolist()
    program = (
        "import numpy as np; from gpumlp.data.splits import split;"
        "print(split(1000, 0.2, seed=7, part=1, labels=np.arange(1000) % 3)[1].tolist())"
    )
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(here)


@pytest.mark.parametrize(("n", "fraction"), [(3, 0.1), (3, 0.9), (1, 0.5)])
def test_a_side_without_rows_is_refused(n, fraction):
    with pytest.raises(DataError, match=rf"my\.npz: test: a fraction of {fraction} of {n} rows"):
        split(n, fraction, seed=0, part=1, source="my.npz: test")
