"""Numbers that an argument takes, and what is said of those that it does not."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from gpumlp.ranges import check_number, whole_number


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), 2**80])
def test_integers_of_every_kind_become_int(value):
    assert whole_number("n", value, 3) == value
    assert type(whole_number("n", value, 3)) is int


@pytest.mark.parametrize("value", [2, 3.0, np.float64(3), "3", None, True, [3], Decimal(3)])
def test_what_is_no_integer_of_that_size_is_refused(value):
    with pytest.raises(
        ValueError, match=r"^n must be a whole number, at least 3 or all, got "
    ) as e:
        whole_number("n", value, 3, " or all")
    assert str(e.value).endswith(repr(value))


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1), Fraction(1, 3)])
def test_real_numbers_of_every_kind_are_taken(value):
    check_number("x", value, "> 0", lambda number: number > 0)


@pytest.mark.parametrize("value", [0, -1.5, float("inf"), float("nan"), "1", None, True, [1.0], 1j])
def test_what_is_no_number_in_the_range_is_refused(value):
    with pytest.raises(ValueError, match=r"^x must be > 0 and finite, got ") as error:
        check_number("x", value, "> 0", lambda number: number > 0)
    assert str(error.value).endswith(repr(value))
