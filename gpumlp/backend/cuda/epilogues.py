"""Elementwise calls that the matrix product beside them can do itself, as it stores its result.

A recorded step has a product, then a kernel that adds the bias and applies σ; or a product, then a
kernel that multiplies by σ' and adds up the bias gradient. cuBLASLt has epilogues for the identity,
ReLU and GELU (for no sigmoid and no tanh), which save a pass over memory. Each one is used only
where it leaves the same numbers as the calls it replaces, tried on the step's own arrays, and where
it measures faster.
"""

from collections.abc import Sequence
from math import isnan

import numpy as np

from ..activations import Array
from ..fused import ACTIVATION_NUMBERS
from ..geometry import ceil_div
from .cublaslt import Epilogue
from .launch import DeviceCall, KernelCall, Span, span_of
from .products import Extra, ProductCall, Products

NUMBER = {activation.name: number for activation, number in ACTIVATION_NUMBERS.items()}
IDENTITY, RELU, GELU = NUMBER["identity"], NUMBER["relu"], NUMBER["gelu"]
MASK_BITS = 128  # the rows of ReLU's bit mask are a multiple of it
GELU_UNITS = 8  # and those of GELU's input of this
TOLERANCE = 1e-3  # of the largest entry: what is wrong is so by far more, rounding by far less


def with_epilogues(calls: Sequence[DeviceCall], products: Products) -> list[DeviceCall]:
    """Return a step's calls with kernels taken over by products, where that is right and faster.

    Runs some of the calls, so what the step computes anew each time is overwritten.
    """
    return _Step(calls, products).fused()


class _Step:
    """The calls of a step, some of which are replaced one after another."""

    def __init__(self, calls: Sequence[DeviceCall], products: Products) -> None:
        self._calls: list[DeviceCall | None] = [*calls]
        self._products = products
        self._masks: dict[Span, Extra] = {}  # a ReLU layer's output → the epilogue that wrote it

    def fused(self) -> list[DeviceCall]:
        """Try every pair of a product and a kernel that fit each other."""
        for i, kernel in enumerate(self._calls):
            if isinstance(kernel, KernelCall) and kernel.name == "bias_activation_forward":
                self._forward(i, kernel)
            elif isinstance(kernel, KernelCall) and kernel.name == "bias_activation_backward":
                self._backward(i, kernel)
        return [call for call in self._calls if call is not None]

    def _forward(self, i: int, kernel: KernelCall) -> None:
        """z = x Wᵀ, then z + b and a = σ(z)."""
        a, z, bias = (kernel.arguments[name] for name in ("a", "z", "bias"))
        activation, in_place = kernel.arguments["activation"], span_of(a) == span_of(z)
        if activation == IDENTITY and in_place and bias is None:
            self._calls[i] = None  # nothing is done at all
            return
        where = self._product_before(i, z)
        if where is None or bias is None:
            return
        if activation == IDENTITY and in_place:
            extra = Extra(Epilogue.BIAS, bias)
        elif activation == RELU and in_place:
            bits = ceil_div(z.shape[1], MASK_BITS) * MASK_BITS
            mask = self._products.empty((len(z) * bits // 8,), np.uint8)
            extra = Extra(Epilogue.RELU_AUX_BIAS, bias, mask, bits)
        elif activation == GELU and not in_place and z.shape[1] % GELU_UNITS == 0:
            extra = Extra(Epilogue.GELU_AUX_BIAS, bias, z, z.shape[1])
        else:
            return
        outputs = [a, z] if activation == GELU else [a]
        if self._replace(where, i, a.T, extra, outputs) and activation == RELU:
            self._masks[span_of(a)] = extra

    def _backward(self, i: int, kernel: KernelCall) -> None:
        """da = dz W of the layer above, then dz = da ⊙ σ' and its column sums; or only the sums."""
        dz, da, kept, sink = (kernel.arguments[name] for name in ("dz", "da", "kept", "bias_sink"))
        activation = kernel.arguments["activation"]
        one, zero = self._products.plain_scalars
        plain = kernel.arguments["alpha"] is one and kernel.arguments["beta"] is zero
        if sink is None or not plain:
            return  # the library writes the sums themselves, and knows no α and β for them
        if dz is None:  # the identity
            where = self._product_of_gradient(i, da)
            if where is not None:
                self._replace(where, i, None, Extra(Epilogue.BGRADB, sink), [sink])
            return
        where, mask = self._product_before(i, da), self._masks.get(span_of(kept))
        if where is None or span_of(dz) == span_of(da):
            return
        if activation == RELU and mask is not None:
            extra = Extra(Epilogue.DRELU_BGRAD, sink, mask.aux, mask.aux_ld)
        elif activation == GELU and kept.shape[1] % GELU_UNITS == 0:
            extra = Extra(Epilogue.DGELU_BGRAD, sink, kept, kept.shape[1])
        else:
            return
        self._replace(where, i, dz.T, extra, [dz, sink])

    def _product_before(self, i: int, result: Array) -> int | None:
        """Return which plain product writes what call i reads, if no other call reads it."""
        span = span_of(result)
        for j in reversed(range(i)):
            call = self._calls[j]
            if isinstance(call, ProductCall) and span_of(call.product.c) == span:
                return j if call.is_plain else None
            if call is not None and _touches(call, [span]):
                return None
        return None

    def _product_of_gradient(self, i: int, dz: Array) -> int | None:
        """Return which plain product after call i is dW = dzᵀ x."""
        for j in range(i + 1, len(self._calls)):
            call = self._calls[j]
            if not isinstance(call, ProductCall) or span_of(call.product.b) != span_of(dz):
                continue
            if call.product.transpose_b:  # dX = dz W has it the other way round
                return j if call.is_plain else None
        return None

    def _replace(
        self, where: int, i: int, out: Array | None, extra: Extra, outputs: Sequence[Array]
    ) -> bool:
        """Let the product at `where` do the work of call i as well; False where it will not.

        `out` is what it writes then, in column-major order; `outputs` is all that counts.
        """
        product, kernel = self._calls[where], self._calls[i]
        assert isinstance(product, ProductCall)
        assert kernel is not None
        fused = self._products.with_epilogue(product, out, extra)
        if fused is None:
            return False
        first, last = min(where, i), max(where, i)
        for call in self._calls[first + 1 : last]:  # it writes earlier, or later, than was said
            if call is not None and _touches(call, fused.writes):
                return False
        apart = [product, kernel] if where < i else [kernel, product]
        if not (self._equal(fused, apart, outputs) and self._keeps_nan(fused)):
            return False
        if not self._products.prefers(fused, apart):
            return False
        self._calls[where], self._calls[i] = fused, None
        return True

    def _equal(
        self, fused: ProductCall, apart: Sequence[DeviceCall], outputs: Sequence[Array]
    ) -> bool:
        """Whether one call leaves the numbers that the calls it replaces leave."""
        for call in apart:
            call()
        expected = [array.copy("K") for array in outputs]
        fused()
        for array, right in zip(outputs, expected, strict=True):
            if not float(abs(array - right).max()) <= TOLERANCE * float(abs(right).max()):
                return False
        return True

    def _keeps_nan(self, fused: ProductCall) -> bool:
        """Whether ReLU keeps NaN: else a network that has diverged would look well."""
        if fused.extra.epilogue != Epilogue.RELU_AUX_BIAS:
            return True
        vector = fused.extra.vector.copy()  # a bias
        vector[:1] = float("nan")
        out = fused.product.c.copy("F")
        poisoned = fused.extra._replace(vector=vector)
        probe = self._products.with_epilogue(fused, out, poisoned)
        if probe is None:
            return False
        probe()
        fused()  # the mask is that of the step again
        return isnan(float(out[:1, :1].sum()))


def _touches(call: DeviceCall, spans: Sequence[Span]) -> bool:
    return any(a.start < b.end and b.start < a.end for a in call.reads for b in spans)
