"""Backend: every operation the library needs, each once as a plain array formula.

`Backend(numpy)` is the oracle of every faster one (`CpuBackend`, see `cpu.py`), and the backend of
float64; `Backend(cupy)` would be the unfused baseline on a GPU. A subclass overrides an operation
only to make it faster or where its array library spells it differently. Rules of an operation:

- outputs come first and are written in place; nothing is returned, and nothing is allocated that
  grows with the batch, so that a recorded step can be replayed on the same memory;
- `scratch` is memory of the stated shape that the formula may use; its content means nothing;
- a scalar that changes from step to step (learning rate, α, β) may be a 0-d array;
- in one call, all arrays of activation shape have one memory order, but targets may be in C order;
  matrix products take any.

Shapes: B rows (samples) in a batch, n units of a layer, C classes, P entries of the flat buffer.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib import import_module
from math import inf
from time import perf_counter
from typing import Any, Literal

import numpy as np

from .activations import Activation, Array
from .operations import Scalar, operation
from .pointwise import Pointwise
from .precision import (
    FP32,
    FP64,
    Matrix,
    Operand,
    Precision,
    bits,
    partial_products,
    split_parts,
)
from .system_memory import system_memory
from .updates import Updates

Order = Literal["C", "F"]
Call = Callable[[], None]  # an operation bound to its arguments
Plan = list[Call]  # a recorded step
SINGLE_THREADED = 2e6


@cache
def _linear_algebra() -> Any:
    """Return what sets the threads of the BLAS in this process; finding it takes 5 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _is(scalar: Scalar, value: float) -> bool:
    """Whether `scalar` is that constant; an array on a device is never looked into."""
    return isinstance(scalar, (int, float)) and scalar == value


class Backend(Updates):
    """Arrays and operations on one device, in one floating-point type.

    >>> import numpy
    >>> backend = Backend(numpy)
    >>> z = backend.asarray([[0.0, 2.0]])
    >>> a = backend.empty(z.shape)
    >>> backend.softmax(a, z)
    >>> a.round(3).tolist()
    [[0.11900000274181366, 0.8809999823570251]]
    """

    name = "cpu"
    # Memory order of activations in a workspace. In Fortran order a batch is, in memory, the notes'
    # own Z = W X with samples as columns, which the CPU's matrix products prefer (measured).
    workspace_order: Order = "F"
    # weights that are worth an update of their own while the backward pass goes on below them; on a
    # CPU it gains nothing (measured: 0.98 to 1.14 of the time)
    early_update: float = inf

    def __init__(
        self, xp: Any = np, dtype: str = "float32", precision: Precision | None = None
    ) -> None:
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self.precision = precision or (FP32 if self.dtype == "float32" else FP64)
        self.operand_dtype = self.dtype  # of the parts of operands
        self._constants: dict[tuple[str | int, int], Array] = {}

    def __repr__(self) -> str:
        low = "" if self.precision in (FP32, FP64) else f", {self.precision.name}"
        return f"{type(self).__name__}({self.name!r}, {self.dtype.name}{low})"

    def __eq__(self, other: object) -> bool:
        """Whether one can stand for the other: same class, device, type and precision."""
        return (
            type(self) is type(other)
            and isinstance(other, Backend)
            and (self.name, self.dtype, self.precision)
            == (other.name, other.dtype, other.precision)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.name, self.dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain, (self.xp.__name__, self.dtype.name, self.precision)

    # ---------------------------------------------------------------- arrays

    def empty(self, shape: tuple[int, ...], dtype: Any = None, order: Order | None = None) -> Array:
        """Return fresh memory, in C order unless asked otherwise."""
        return self.xp.empty(shape, dtype or self.dtype, order=order or "C")

    def scratch(self, like: Array) -> Array:
        """Return memory for the inside of one operation, shaped and ordered as `like`."""
        return self.xp.empty_like(like)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Return zeros in C order."""
        return self.xp.zeros(shape, dtype or self.dtype)

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Return `array` on this device in `dtype` (this backend's own by default)."""
        return self.xp.asarray(array, dtype=dtype or self.dtype)

    def to_numpy(self, array: Array) -> Any:
        """Return `array` on the host as a NumPy array."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    @property
    def choices(self) -> dict[str, Any]:
        """What was decided by measuring and changes last bits; JSON can hold it. Here nothing."""
        return {}

    def choose_as(self, choices: Mapping[str, Any]) -> None:
        """Decide as `choices` says, before the first step, instead of measuring."""

    def free_memory(self) -> int | None:
        """Return how many bytes could still be allocated; None where that is not known."""
        memory = system_memory()
        return None if memory is None else memory.free

    def threads_for(self, operations: float) -> AbstractContextManager[Any]:
        """Choose the threads of matrix products inside a `with` block, for the whole process.

        `operations` is the number of floating-point operations of the largest product. Below
        `SINGLE_THREADED` a second thread gains nothing on an idle machine, and on a busy one the
        threads wait for each other: steps took 2 to 40 times as long (measured).
        """
        if operations > SINGLE_THREADED:
            return nullcontext()
        limits: AbstractContextManager[Any] = _linear_algebra().limit(limits=1)
        return limits

    def _constant(self, kind: str | int, count: int) -> Array:
        """Return the first `count` entries of a constant vector.

        Vectors are made as long as the next power of two and kept: few, however many sizes occur,
        and none is replaced while a recorded step may hold it.
        """
        key = kind, (count - 1).bit_length()
        if key not in self._constants:
            xp, length = self.xp, 1 << key[1]
            if kind == "ones":
                array = xp.ones(length, self.dtype)
            elif kind == "numbers":
                array = xp.arange(length)
            elif kind == "ranks":  # falling: the first of equal maxima has the largest
                array = xp.arange(length, 0, -1).astype(self.dtype)
            else:  # 0, 1, 2, ... times an odd multiplier, modulo 2³²
                products = np.arange(length, dtype=np.uint64) * np.uint64(kind)
                array = xp.asarray(products.astype(np.uint32))
            self._constants[key] = array
        return self._constants[key][:count]

    # ------------------------------------------------------------- operands

    @property
    def operand_format(self) -> str | None:
        """What operands must be rounded to here; None: products read arrays as they are."""
        return self.precision.format

    def operand(self, x: Array) -> Matrix:
        """Return x (m, n) as matrix products read it: x itself, or rounded and split copies."""
        if self.operand_format is None:
            return x
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            x = self.xp.ascontiguousarray(x)
        operand = self.operand_memory(x.shape, "C" if x.flags.c_contiguous else "F")
        self.split(operand.parts, x, self.operand_format)
        return operand

    def operand_memory(self, shape: tuple[int, ...], order: Order = "C") -> Operand:
        """Return memory for a matrix of that shape as products read it."""
        count, dtype = self.precision.parts, self.operand_dtype
        return Operand([self.empty(shape, dtype, order) for _ in range(count)])

    # ------------------------------------------------------ recorded operations

    def bind(self, name: str, *args: Any, **kwargs: Any) -> Call:
        """Return the operation of that name bound to its arguments; calling it runs it."""
        return partial(getattr(self, name), *args, **kwargs)

    def replay(self, plan: Plan) -> Callable[[int], None]:
        """Return a function of n that runs the calls of a plan, in order, n times."""
        calls = tuple(plan)

        def repeat(n: int) -> None:
            for _ in range(n):
                for call in calls:
                    call()

        return repeat

    def calls(self, plan: Plan) -> list[Call]:
        """Return what `replay` really runs of a plan, call by call."""
        return [*plan]

    def seconds(self, call: Call, times: int) -> float:
        """Return the seconds of one of `times` runs of a call, one after another."""
        repeat = self.replay([call])
        repeat(1)
        self.synchronize()
        began = perf_counter()
        repeat(times)
        self.synchronize()
        return (perf_counter() - began) / times

    # ------------------------------------------------------- a step's inputs

    @operation
    def begin_step(self, clock: Array, rows: Sequence[Array], tables: Sequence[Array]) -> None:
        """Copy line `clock` of each table (steps, ...) to its row (...), then clock += 1.

        `clock` is a 0-d int64 array: which step of the epoch comes next.
        """
        for row, table in zip(rows, tables, strict=True):
            table.take(clock, 0, row, "clip")
        self.xp.add(clock, 1, out=clock)

    @operation
    def gather(self, out: Array, source: Array, index: Array) -> None:
        """out[i] = source[index[i]]: the rows of a batch; `out` has the type of `source`."""
        source.take(index, 0, out, "clip")

    @operation
    def gather_scaled(
        self, out: Array, source: Array, index: Array, factor: float, scratch: Array
    ) -> None:
        """out[i] = factor · source[index[i]]: bytes (N, n) become the numbers of a batch (B, n).

        `scratch` is uint8 (B, n).
        """
        self.gather(scratch, source, index)
        self.xp.multiply(scratch, factor, out=out, dtype=self.dtype)

    @operation
    def normalize(self, out: Array, weights: Array) -> None:
        """out = weights / Σ weights (B,); all zero where the sum is zero."""
        total = weights.sum()
        self.xp.divide(weights, self.xp.maximum(total, np.finfo(self.dtype).tiny), out=out)

    # --------------------------------------------------------------- network

    @operation
    def split(self, parts: Sequence[Array], x: Array, format: str) -> None:
        """parts[0] = x rounded to a format, parts[1] = what is left of x rounded, and so on.

        All have the shape and the order of x, and hold numbers or, in uint16, the format's bits.
        What is left of an infinite x is 0.
        """
        for part, value in zip(parts, split_parts(self.xp, x, format), strict=False):
            part[...] = bits(value, format) if part.dtype == "uint16" else value

    @operation
    def matmul(
        self,
        out: Array,
        a: Matrix,
        b: Matrix,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> None:
        """out ← β out + α a b, of arrays or operands. `scratch` has the shape of `out`.

        α = 1, β = 0 needs no scratch where operands have one part.
        """
        for left, right in partial_products(self.precision, a, b):
            if _is(alpha, 1) and _is(beta, 0):
                self.xp.matmul(left, right, out=out)
            else:
                value = self.scratch(out) if scratch is None else scratch
                self.xp.matmul(left, right, out=value)
                self._blend(out, value, alpha, beta)
            beta = 1.0

    def _blend(self, out: Array, value: Array, alpha: Scalar, beta: Scalar) -> None:
        """out ← β out + α value; `value` is destroyed."""
        if not _is(alpha, 1):
            value *= alpha
        if not _is(beta, 1):
            out *= beta
        out += value

    @operation
    def bias_activation_forward(
        self, a: Array, z: Array, bias: Array | None, activation: Activation
    ) -> None:
        """z += bias (n,) in place, then a = σ(z), both (B, n).

        `a` and `z` may be the same array when the activation keeps its output.
        """
        if bias is not None:
            z += bias
        activation.forward(self.xp, a, z)

    @operation
    def bias_activation_backward(
        self,
        dz: Array,
        bias_sink: Array | None,
        da: Array,
        kept: Array,
        activation: Activation,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> None:
        """dz = da ⊙ σ'(z) (B, n); bias_sink (n,) ← β bias_sink + α Σ_rows dz.

        `kept` is a or z, as the activation says; `scratch` is (B, n). For the identity dz may be
        da.
        """
        xp = self.xp
        if dz is not da:
            activation.derivative(xp, dz, kept, scratch)
            dz *= da
        if bias_sink is None:
            return
        ones = self._constant("ones", len(dz))
        if _is(alpha, 1) and _is(beta, 0):
            xp.matmul(ones, dz, out=bias_sink)
        else:
            sums = scratch[0] if len(dz) else xp.zeros_like(bias_sink)
            xp.matmul(ones, dz, out=sums)
            self._blend(bias_sink, sums, alpha, beta)

    @operation
    def dropout(
        self, out: Array, x: Array, key: Scalar, rate: float, first_row: int, scratch: Array
    ) -> None:
        """out = x ⊙ mask / (1 - rate), shape (B, n); forward and backward (Srivastava et al. 2014).

        The mask is a function of (key, row, unit) alone: an entry is kept where a 32-bit hash of
        them is at least rate · 2³². `key` is uint32; `first_row` is the batch's first row in the
        whole effective batch; `scratch` is uint32 (B, 2 n); `out` is not `x`.
        """
        xp, (rows, units) = self.xp, x.shape
        h, t = scratch[:, :units], scratch[:, units:]
        row = self._constant(0x9E3779B1, first_row + rows)[first_row:, None]
        unit = self._constant(0x85EBCA77, units)
        xp.add(row, unit, out=h)
        h += key
        # two multiply-xorshift rounds (Wellons' lowbias32), the key added once more between them
        xp.right_shift(h, 16, out=t)
        h ^= t
        h *= 0x7FEB352D
        xp.right_shift(h, 15, out=t)
        h ^= t
        h += key
        h *= 0x846CA68B
        xp.right_shift(h, 16, out=t)
        h ^= t
        xp.greater_equal(h, min(round(rate * 2**32), 2**32 - 1), out=out)
        out *= 1 / (1 - rate)
        out *= x

    # ------------------------------------------------------------------ loss

    @operation
    def softmax(self, y: Array, z: Array) -> None:
        """y_ij = e^z_ij / Σ_k e^z_ik, shape (B, C); the row's maximum is subtracted first."""
        self.xp.subtract(z, z.max(axis=1, keepdims=True), out=y)
        self.xp.exp(y, out=y)
        y /= y.sum(axis=1, keepdims=True)

    @operation
    def softmax_cross_entropy(
        self,
        loss: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        smoothing: float,
        scratch: Array,
    ) -> None:
        """Sample losses l = -Σ_k ŷ_k log y_k (B,) with y = softmax(z), and dz = weight (y - ŷ).

        `target` is integer labels (B,) or the distribution ŷ itself (B, C); with smoothing ε, ŷ
        becomes (1 - ε) ŷ + ε / C. `weight` is a scalar or (B,). `correct` (B,) becomes 1 where the
        largest output is the target's, the first one of equals. `z`, `dz`, `scratch` are (B, C).
        """
        xp, classes = self.xp, z.shape[1]
        z.max(axis=1, out=loss)
        xp.subtract(z, loss[:, None], out=dz)
        if correct is not None:
            self._count_correct(correct, dz, target, loss, scratch)
        self._target_distribution(scratch, target, smoothing, classes)
        scratch *= dz
        xp.fmin(scratch, 0, out=scratch)  # 0 · (-∞) is 0 here: what has no weight costs nothing
        xp.add.reduce(scratch, axis=1, out=loss)  # as `sum`, which small batches find slow
        xp.exp(dz, out=dz)
        total = scratch[:, 0]
        xp.add.reduce(dz, axis=1, out=total)
        dz /= total[:, None]
        xp.log(total, out=total)
        xp.subtract(total, loss, out=loss)  # Σ_k ŷ_k = 1, so log Σ e^z comes out of the sum
        self._target_distribution(scratch, target, smoothing, classes)
        dz -= scratch
        dz *= self._column(weight)

    def _target_distribution(
        self, out: Array, target: Array, smoothing: float, classes: int
    ) -> None:
        """out = (1 - ε) ŷ + ε / C, with ŷ one-hot where `target` holds labels."""
        if target.ndim == 1:
            self.xp.equal(target[:, None], self._constant("numbers", classes), out=out)
        else:
            out[...] = target
        if smoothing:
            out *= 1 - smoothing
            out += smoothing / classes

    def _count_correct(
        self, correct: Array, shifted: Array, target: Array, best: Array, scratch: Array
    ) -> None:
        """correct (B,) = [argmax shifted = argmax target]; `shifted` has row maximum 0.

        `best` (B,) is scratch, too.
        """
        xp, ranks = self.xp, self._constant("ranks", shifted.shape[1])
        xp.equal(shifted, 0, out=scratch)
        scratch *= ranks
        scratch.max(axis=1, out=correct)  # the first rank - argmax
        if target.ndim == 1:
            correct += target
            xp.equal(correct, ranks[:1], out=correct)
        else:
            target.max(axis=1, out=best)
            xp.equal(target, best[:, None], out=scratch)
            scratch *= ranks
            scratch.max(axis=1, out=best)
            xp.equal(correct, best, out=correct)

    @staticmethod
    def _column(weight: Scalar) -> Scalar:
        """A vector of sample weights as a column; a scalar as it is."""
        return weight[:, None] if getattr(weight, "ndim", 0) else weight

    @operation
    def pointwise_loss(
        self,
        loss: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        formula: Pointwise,
        parameter: float,
        scratch: Array,
    ) -> None:
        """Sample losses: the mean over the K outputs of l(z, target) (B,); dz = weight ∂l/∂z / K.

        `correct` (B,) becomes 1 where every output lies on the target's side: [z > 0] = [t > ½].
        `z`, `target`, `dz`, `scratch` are (B, K); `weight` is a scalar or (B,).
        """
        xp, outputs = self.xp, z.shape[1]
        if correct is not None:
            xp.greater(z, 0, out=dz)
            xp.greater(target, 0.5, out=scratch)
            xp.equal(dz, scratch, out=dz)
            dz.min(axis=1, out=correct)
        formula.value(xp, scratch, z, target, dz, parameter)
        xp.add.reduce(scratch, axis=1, out=loss)
        loss /= outputs
        formula.derivative(xp, dz, z, target, scratch, parameter)
        dz *= self._column(weight)
        if outputs > 1:
            dz /= outputs

    @operation
    def accumulate(
        self, total: Array, values: Array, weights: Array | None = None, scratch: Array = None
    ) -> None:
        """total += values, or weights ⊙ values; all (B,), `total` in float64."""
        if weights is not None:
            self.xp.multiply(values, weights, out=scratch)
            values = scratch
        total += values


def _plain(module: str, dtype: str, precision: Precision) -> Backend:
    """Return a backend that was pickled or copied; a module itself cannot be."""
    return Backend(import_module(module), dtype, precision)
