"""Draws depend on the named integers and on nothing else."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.randomness import _mix, _splitmix64, dropout_keys, generator, permutation

whole = st.integers(0, 2**64 - 1)
keys = st.lists(whole, max_size=4).map(tuple)

# Found on the day they were first drawn. A change of them changes what every seed means.
PARAMETERS_0_0 = [7561027572268635254, 3158988782794519627]
DROPOUT_7 = [[2328149616, 1128043356], [711332490, 2211001253]]


def bits(purpose, *key):
    return generator(purpose, *key).integers(2**64, size=2, dtype=np.uint64).tolist()


@given(keys, keys)
def test_equal_keys_and_only_equal_keys_draw_the_same_bits(key, other):
    assert (bits("split", *key) == bits("split", *other)) == (key == other)


def test_keys_that_look_alike_as_words_or_differ_in_zeros_draw_different_bits():
    numbers = (0, 1, 5, 2**32, 2**32 + 5)
    alike = [key for n in range(4) for key in itertools.product(numbers, repeat=n)]
    assert len({tuple(bits("parameters", *key)) for key in alike}) == len(alike)


def test_every_purpose_draws_different_bits():
    purposes = ("parameters", "shuffle", "split", "dropout")
    assert len({tuple(bits(purpose, 0)) for purpose in purposes}) == 4


def test_the_bits_of_a_key_never_change():
    assert bits("parameters", 0, 0) == PARAMETERS_0_0
    assert dropout_keys(seed=7, layers=2, first_step=3, steps=2).tolist() == DROPOUT_7


def test_a_fresh_process_draws_the_same():
    code = (
        "from gpumlp.randomness import *;"
        "print(permutation(5, 1, 2).tolist(), generator('split', 3).random(),"
        " dropout_keys(4, 2, 5, 3).tolist())"
    )
    here = (
        f"{permutation(5, 1, 2).tolist()} {generator('split', 3).random()}"
        f" {dropout_keys(4, 2, 5, 3).tolist()}"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        )
        assert done.stdout.strip() == here


def test_an_unknown_purpose_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'augment'; known: parameters, shuffle, split, dropout"):
        generator("augment", 0)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_that_is_not_64_bits_is_refused(number):
    for draw in (
        lambda: generator("split", number),
        lambda: permutation(5, number, 0),
        lambda: dropout_keys(number, 1, 0, 1),
        lambda: dropout_keys(0, 1, number, 1),
        lambda: dropout_keys(0, 1, number - 1, 2),
    ):
        with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
            draw()


def test_a_fraction_is_refused_rather_than_cut():
    with pytest.raises(TypeError):
        generator("split", 1.5)


@given(st.integers(0, 200), whole, whole)
def test_a_permutation_holds_every_number_once(n, seed, epoch):
    order = permutation(n, seed, epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_a_permutation_depends_on_seed_and_on_epoch():
    orders = {tuple(permutation(50, s, e).tolist()) for s in range(5) for e in range(5)}
    assert len(orders) == 25


def test_every_sample_comes_to_every_place_equally_often():
    draws, n = 4000, 8
    places = np.stack([permutation(n, 0, epoch) for epoch in range(draws)])
    counts = np.stack([(places == value).sum(axis=0) for value in range(n)])
    sigma = math.sqrt(draws * (1 / n) * (1 - 1 / n))
    assert np.abs(counts - draws / n).max() < 5 * sigma


def test_a_negative_number_of_samples_is_refused():
    with pytest.raises(ValueError, match="at least 0, not -1"):
        permutation(-1, 0, 0)


def test_splitmix64_gives_the_published_numbers():
    # from Vigna's splitmix64.c, the generator that seeds xoshiro: state 1234567
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    drawn = _splitmix64(np.array([1234567], np.uint64), np.arange(5, dtype=np.uint64))
    assert drawn.tolist() == expected


@given(whole, st.integers(0, 2**40), st.lists(st.integers(0, 40), max_size=5).map(sorted))
def test_dropout_keys_are_the_same_in_any_chunks(seed, first, cuts):
    edges = [0, *cuts, 40]
    chunks = [dropout_keys(seed, 3, first + a, b - a) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(chunks), dropout_keys(seed, 3, first, 40))


@given(whole, whole.filter(lambda step: step < 2**63))
def test_a_key_does_not_depend_on_how_many_layers_follow(seed, step):
    many = dropout_keys(seed, 5, step, 1)
    np.testing.assert_array_equal(dropout_keys(seed, 2, step, 1), many[:, :2])


def test_dropout_keys_have_a_row_a_step_and_a_column_a_layer():
    table = dropout_keys(seed=3, layers=4, first_step=7, steps=6)
    assert table.shape == (6, 4)
    assert table.dtype == np.uint32
    assert dropout_keys(0, 0, 0, 6).shape == (6, 0)
    assert dropout_keys(0, 4, 0, 0).shape == (0, 4)


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_dropout_keys_collide_no_more_than_chance_and_have_balanced_bits(seed):
    table = dropout_keys(seed, layers=4, first_step=0, steps=10_000).ravel()
    collisions = table.size - np.unique(table).size
    expected = table.size * (table.size - 1) / 2 / 2**32  # 0.19: birthdays
    assert collisions <= expected + 5 * math.sqrt(expected)
    ones = ((table[:, None] >> np.arange(32, dtype=np.uint32)) & 1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / math.sqrt(table.size)


def test_seeds_a_step_of_splitmix64_apart_share_no_keys():
    one, other = (dropout_keys(seed, 4, 0, 100) for seed in (5, 5 + 0x9E3779B97F4A7C15))
    assert len(np.intersect1d(one, other)) == 0


def test_neighbouring_keys_of_dropout_differ_in_half_of_their_bits():
    table = np.stack([dropout_keys(seed, 8, 0, 1000) for seed in range(4)])  # seed, step, layer
    for axis, name in enumerate(("seed", "step", "layer")):
        left, right = np.delete(table, -1, axis), np.delete(table, 0, axis)
        differing = np.bitwise_count(left ^ right) / 32
        assert abs(differing.mean() - 0.5) < 5 * 0.5 / math.sqrt(32 * differing.size), name


def test_each_bit_that_goes_into_the_mix_flips_half_of_those_that_come_out():
    words = generator("split", 0).integers(2**64, size=4000, dtype=np.uint64)
    for bit in np.uint64(1) << np.arange(64, dtype=np.uint64):
        flipped = np.bitwise_count(_mix(words) ^ _mix(words ^ bit)).mean()
        assert abs(flipped - 32) < 0.5
