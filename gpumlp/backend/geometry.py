"""The grid and the block that each kernel is launched with on a GPU, by the sizes it is given.

A kernel is right for any of them (see `kernels/device.h`); they decide its speed alone.
"""

from collections.abc import Callable

Shape = tuple[tuple[int, ...], tuple[int, ...]]  # of the grid in blocks, of a block in threads

THREADS = 256
BLOCKS = 2048  # at most: enough for several on every multiprocessor; threads go on from there
SUMS = 1024  # at most so many blocks share in one sum


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def _blocks_for(threads: int, per_block: int, most: int = BLOCKS) -> int:
    return min(max(ceil_div(threads, per_block), 1), most)


def flat(n: int, most: int = BLOCKS) -> Shape:
    """A thread for four entries of a vector."""
    return (_blocks_for(n, 4 * THREADS, most),), (THREADS,)


def matrix(rows: int, columns: int, rows_each: int = 2) -> Shape:
    """A thread for four columns (one where they are no multiple of four) and so many rows."""
    vectors = columns // 4 if columns % 4 == 0 else columns
    x = min(power_of_two(vectors), 32)
    y = THREADS // x
    across = _blocks_for(vectors, x, most=SUMS)
    return (across, _blocks_for(rows, rows_each * y, max(BLOCKS // across, 1))), (x, y)


def teams(rows: int, columns: int) -> Shape:
    """A team of at most 32 lanes for a row."""
    lanes = min(power_of_two(columns), 32)
    return (_blocks_for(rows * lanes, 128),), (128,)


def copies(rows: int, units: int) -> Shape:
    """A thread for up to four units of a row."""
    x = min(power_of_two(units), THREADS)
    y = THREADS // x
    across = _blocks_for(units, 4 * x)
    return (across, _blocks_for(rows, y, max(BLOCKS // across, 1))), (x, y)


def units(size: int, *widths: int) -> int:
    """Return how many accesses of the first of these widths that divides it a row takes.

    >>> units(3136, 16, 4), units(10, 16, 4)
    (196, 10)
    """
    return size // next(width for width in (*widths, 1) if size % width == 0)


LAUNCH: dict[str, Callable[..., Shape]] = {  # its whole-number arguments by name → grid, block
    "sgd_step": lambda n, **_: flat(n),
    "momentum_step": lambda n, **_: flat(n),
    "nesterov_step": lambda n, **_: flat(n),
    "adagrad_step": lambda n, **_: flat(n),
    "rmsprop_step": lambda n, **_: flat(n),
    "adam_step": lambda n, **_: flat(n),
    "scale": lambda n, **_: flat(n),
    "add_penalty": lambda n, **_: flat(n),
    "accumulate": lambda n, **_: flat(n),
    "split": lambda n, **_: flat(n),
    "unscale": lambda n, **_: flat(n),
    "loss_scale_step": lambda **_: ((1,), (32,)),
    "bias_activation_forward": lambda rows, columns, **_: matrix(rows, columns),
    "bias_activation_backward": lambda rows, columns, **_: matrix(rows, columns, rows_each=8),
    "dropout": lambda rows, columns, **_: matrix(rows, columns),
    "softmax": lambda rows, columns, **_: teams(rows, columns),
    "softmax_cross_entropy": lambda rows, columns, **_: teams(rows, columns),
    "pointwise_loss": lambda rows, columns, **_: teams(rows, columns),
    "begin_step": lambda bytes_1, bytes_2, bytes_3, **_: flat(max(bytes_1, bytes_2, bytes_3) // 4),
    "gather": lambda rows, bytes, **_: copies(rows, units(bytes, 16, 4)),
    "gather_scaled": lambda rows, columns, **_: copies(rows, units(columns, 4)),
    "normalize": lambda rows, **_: ((1,), (512,)),
    "square_sum": lambda n, **_: flat(n, most=SUMS),
    "clip_scale": lambda n, **_: flat(n),
    "clip_rows": lambda rows, columns, **_: teams(rows, columns),
}
