"""Each kernel for the GPU, run on fibers, equals the plain formula in float64 and PyTorch."""

from itertools import product

import numpy as np
import pytest
from kernel_checks import CHECKS, NUMBERS, Draw, check_kernel, nothing, random_bits, shapes
from kernels_on_fibers import LAUNCH, ONE_BLOCK, build, parameters_of, shipped_kernels, source_names

from gpumlp.backend import ACTIVATIONS, POINTWISE
from gpumlp.backend.kernel_sources import kernel_source
from gpumlp.backend.precision import FORMATS, rounded


@pytest.fixture(scope="module")
def kernels():
    return shipped_kernels()


def test_every_kernel_is_checked_and_has_a_geometry():
    declared = parameters_of("\n".join(kernel_source(name) for name in source_names()))
    assert sorted(CHECKS) == sorted(declared)
    assert sorted(LAUNCH) == sorted(declared)


def test_numbers_of_activations_and_losses_are_those_of_the_sources():
    text = kernel_source("portable.h")

    def listed(function):
        body = text[text.index(f"void {function}(") :].split("}\n")[0]
        return [
            line.split("body(")[1].split("(")[0] for line in body.splitlines() if "case" in line
        ]

    names = [name.title().replace("_", "") for name in ACTIVATIONS]
    assert listed("with_activation") == names
    names = ["BinaryCrossEntropy", "SquaredError", "AbsoluteError", "Huber", "Poisson"]
    assert listed("with_loss") == names
    assert listed("with_format") == ["Bfloat16", "Float16", "Tfloat32"]
    assert FORMATS == ("bf16", "fp16", "tf32")
    assert list(POINTWISE) == ["bce", "mse", "mae", "huber", "poisson"]


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in CHECKS for shape in shapes(name)], ids=str
)
def test_a_kernel_equals_the_plain_formula(kernels, name, shape):
    check_kernel(kernels, name, shape)


@pytest.mark.parametrize("name", LAUNCH)
def test_grids_and_blocks_are_within_what_a_gpu_and_the_kernel_take(name):
    for rows, columns in product([0, 1, 10, 1000, 2**16, 2**26], [0, 1, 4, 10, 784, 2**20]):
        sizes = {"n": rows * columns, "rows": rows, "columns": columns, "bytes": 4 * columns}
        sizes |= {f"bytes_{table}": 4 * columns for table in (1, 2, 3)}
        grid, block = LAUNCH[name](**sizes)
        assert len(grid) == len(block)
        assert all(size >= 1 for size in (*grid, *block))
        assert (*grid, 1)[1] <= 65535
        threads = int(np.prod(block))
        assert threads <= 1024
        assert threads % 32 == 0
        if name == "bias_activation_backward":
            assert threads <= 256
            assert grid[0] <= 1024  # tickets
        if name == "square_sum":
            assert grid[0] <= 1024  # partial sums
        if name in ONE_BLOCK:
            assert grid == (1,)


# ------------------------------------------------------------------ formulas by themselves

FORMULAS = """
KERNEL(round_to, float* out, const float* x, int format, size_t n) {
    with_format(format, [=](auto f) {
        for_each(n, [=](float& out, float x) { out = f.rounded(x); }, fresh(out), x);
    });
}
KERNEL(bits_in, uint16* out, const float* x, int format, size_t n) {
    with_format(format, [=](auto f) {
        for_each(n, [=](uint16& out, float x) { out = f.bits(x); }, fresh(out), x);
    });
}
KERNEL(bits, uint32* out, const uint32* row, const uint32* unit, uint32 key, size_t n) {
    for_each(n, [=](uint32& out, uint32 row, uint32 unit) { out = random_bits(row, unit, key); },
             fresh(out), row, unit);
}
"""


@pytest.fixture(scope="module")
def formulas(tmp_path_factory):
    text = kernel_source("portable.h") + FORMULAS
    return build(tmp_path_factory.mktemp("formulas"), {"formulas.cu": text})


def run_formula(formulas, name, out, **arguments):
    shape = (4,), (64,)
    return formulas.run(name, {"out": out} | arguments | {"n": out.size}, shape)["out"]


@pytest.mark.parametrize("format", FORMATS)
def test_formats_round_to_the_nearest_and_halves_to_even(formulas, rng, format):
    whole = rng.integers(2**32, size=200_000, dtype=np.uint32)
    halves = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000
    near = [halves, halves - 1, halves + 1, halves ^ 0x8000, halves >> 3, (halves >> 3) + 1]
    x = np.concatenate([whole, *near, *(n ^ np.uint32(2**31) for n in near)]).view(np.float32)
    largest, digits, smallest = {
        "bf16": (np.ldexp(255 / 256, 128), 8, -133),
        "fp16": (65504, 11, -24),
        "tf32": (np.ldexp(2047 / 2048, 128), 11, -136),
    }[format]
    with np.errstate(invalid="ignore"):
        _, exponent = np.frexp(x.astype(np.float64))
        last = np.ldexp(1.0, np.maximum(exponent - digits, smallest))
        expected = np.rint(x / last) * last
    expected = np.where(np.abs(expected) > largest, np.copysign(np.inf, x), expected)
    expected = np.where(np.isfinite(x), expected, x)
    arguments = {"x": x, "format": FORMATS.index(format)}
    actual = run_formula(formulas, "round_to", nothing(x.size), **arguments)
    np.testing.assert_array_equal(actual, expected.astype(np.float64))
    with np.errstate(all="ignore"):
        plain = rounded(np, x, format)
    np.testing.assert_array_equal(plain, actual)


@pytest.mark.parametrize("format", ["bf16", "fp16"])
def test_every_number_of_16_bits_is_written_as_it_is(formulas, format):
    bits = np.arange(2**16, dtype=np.uint16)
    if format == "fp16":
        value = bits.view(np.float16).astype(np.float32)
    else:
        value = (bits.astype(np.uint32) << 16).view(np.float32)
    out = nothing(2**16, dtype=np.uint16)
    actual = run_formula(formulas, "bits_in", out, x=value, format=FORMATS.index(format))
    is_nan = np.isnan(value)
    np.testing.assert_array_equal(actual[~is_nan], bits[~is_nan])
    exponent = 0x7C00 if format == "fp16" else 0x7F80
    assert ((actual[is_nan] & exponent) == exponent).all()
    assert ((actual[is_nan] & 0x7FFF) > exponent).all()


@pytest.mark.parametrize("key", [0, 1, 12345, 2**32 - 1])
def test_random_bits_are_those_of_the_definition(formulas, rng, key):
    row, unit = rng.integers(2**32, size=(2, 5000), dtype=np.uint32)
    row[:2], unit[:3] = (0, 2**32 - 1), (0, 0, 2**32 - 1)
    out = nothing(5000, dtype=np.uint32)
    actual = run_formula(formulas, "bits", out, row=row, unit=unit, key=key)
    expected = random_bits(row.astype(np.uint64), unit.astype(np.uint64), key)
    np.testing.assert_array_equal(actual, expected)


# -------------------------------------------------------------------------------- PyTorch


def arguments_of(name, number, shape=(33, 31)):
    """Return the arguments of a check's case."""
    return list(CHECKS[name](Draw(shape), *shape))[number][0]


def test_cross_entropy_is_that_of_pytorch(kernels):
    torch = pytest.importorskip("torch")
    arguments = arguments_of("softmax_cross_entropy", 0)
    arguments["z"] = Draw([1]).normal(33, 31)
    z = torch.tensor(arguments["z"], requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        z, torch.tensor(arguments["labels"]), label_smoothing=0.1, reduction="none"
    )
    (loss * torch.tensor(arguments["weight"])).sum().backward()
    result = kernels.run("softmax_cross_entropy", arguments)
    np.testing.assert_allclose(result["loss"], loss.detach(), 1e-5)
    np.testing.assert_allclose(result["dz"], z.grad, 1e-4, 1e-6)


@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "softplus", "tanh", "sigmoid"])
def test_activations_are_those_of_pytorch(kernels, name):
    torch = pytest.importorskip("torch")
    functions = {"gelu": lambda z: torch.nn.functional.gelu(z, approximate="tanh")}
    sigma = functions.get(name, getattr(torch.nn.functional, name))
    z = 3 * Draw([2]).normal(33, 31)
    x = torch.tensor(z, requires_grad=True)
    a = sigma(x)
    a.sum().backward()
    forward = arguments_of("bias_activation_forward", 0)
    forward |= {"z": z, "bias": None, "activation": NUMBERS[name]}
    forward = kernels.run("bias_activation_forward", forward)
    np.testing.assert_allclose(forward["a"], a.detach(), 1e-5, 2e-7)
    backward = arguments_of("bias_activation_backward", 0)
    kept = forward["a"] if ACTIVATIONS[name].keeps == "output" else z
    backward |= {"da": np.ones_like(z), "kept": kept, "activation": NUMBERS[name]}
    backward = kernels.run("bias_activation_backward", backward)
    np.testing.assert_allclose(backward["dz"], x.grad, 1e-4, 1e-6)
    np.testing.assert_allclose(backward["bias_sink"], x.grad.sum(axis=0), 1e-4, 1e-5)


def test_adam_is_that_of_pytorch(kernels):
    torch = pytest.importorskip("torch")
    draw = Draw([3])
    w = torch.nn.Parameter(torch.tensor(draw.normal(257)))
    optimizer = torch.optim.Adam([w], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    ours = {"w": w.detach().numpy().copy(), "m": np.zeros(257, "f4"), "v": np.zeros(257, "f4")}
    for step in range(1, 4):
        g = draw.normal(257)
        w.grad = torch.tensor(g)
        optimizer.step()
        lr = np.array([0.1 / (1 - 0.9**step)], np.float32)
        correction = np.array([(1 - 0.99**step) ** -0.5], np.float32)
        constants = {"beta1": 0.9, "one_less_beta1": 0.1, "beta2": 0.99, "one_less_beta2": 0.01}
        arguments = {"w": ours.pop("w"), "copy": None} | ours
        arguments |= {"g": g, "lr": lr, "correction": correction} | constants | {"eps": 1e-3}
        result = kernels.run("adam_step", arguments | {"skip": None, "format": 0, "n": 257})
        ours = {name: result[name] for name in ("w", "m", "v")}
    np.testing.assert_allclose(ours["w"], w.detach(), 1e-5, 1e-6)
