"""The checks of the kernels find mistakes made on purpose, among them each missing barrier."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from kernel_checks import OF_VECTORS, check_kernel
from kernels_on_fibers import build, require_compiler

from gpumlp.backend.kernel_sources import kernel_folder, kernel_source

# those that show most come first
SHAPES = [(33, 31), (32, 32), (9, 260), (3, 5), (0, 4)]
SIZES = [257, 256, 5000, 33, 0, 1]
BARRIER = "__syncthreads();"

MUTATIONS = [  # kernel that is to fail, source, right, wrong
    ("sgd_step", "update.cu", "w -= lr * g;", "w += lr * g;"),
    ("adam_step", "update.cu", "copy = operand_of(f, f.rounded(w));", "copy = f.bits(w);"),
    ("sgd_step", "update.cu", "skip && *skip != 0.0f", "skip && *skip == 0.0f"),
    ("split", "operand.cu", "low = take(x);", "low = operand_of(f, 0.0f);"),
    ("split", "operand.cu", "rest = left == left ? left : 0.0f;", "rest = left;"),
    ("split", "operand.cu", "(1u << (SHIFT - 1)) - 1u + (bits >> SHIFT & 1u)", "1u << (SHIFT - 1)"),
    ("split", "operand.cu", "size < 65520.0f ? normal : INFINITE", "normal"),
    ("split", "operand.cu", "size <= 65504.0f ? finite : large", "finite"),
    ("unscale", "norm.cu", "if (!finite) *overflow", "if (finite) *overflow"),
    ("loss_scale_step", "operand.cu", "overflow || grow ? 0.0f", "grow ? 0.0f"),
    ("loss_scale_step", "operand.cu", "if (!first_thread()) return;", ""),
    ("scale", "update.cu", "4 * fours + thread_x()", "4 * fours + 1 + thread_x()"),
    ("scale", "update.cu", "aligned<4>(arrays...) ? n / 4 : 0", "n / 4"),
    ("scale", "update.cu", "? n / 4 : 0", "? (n + 3) / 4 : 0"),
    ("scale", "update.cu", "i += COUNT * stride", "i += stride"),
    ("scale", "update.cu", "k * stride < end - i", "k * stride <= end - i"),
    ("accumulate", "update.cu", "total += value * weight", "total += value"),
    ("bias_activation_forward", "activation.cu", "biased = z + b;", "biased = z;"),
    (
        *("bias_activation_forward", "activation.cu"),
        *("if (columns % 4 == 0 && aligned<4>(arrays...))", "if (aligned<4>(arrays...))"),
    ),
    (
        *("bias_activation_forward", "activation.cu"),
        *("own = rounded_operand(a, format);", "own = rounded_operand(z, format);"),
    ),
    (
        *("bias_activation_backward", "activation.cu"),
        *("own = rounded_operand(dz, format);", "own = rounded_operand(da, format);"),
    ),
    ("bias_activation_backward", "activation.cu", "aligned<4>(dz, copy, da", "aligned<4>(dz, da"),
    ("bias_activation_forward", "activation.cu", "log1p_(exp_(z <", "log1p_(exp_(z >"),
    ("bias_activation_backward", "activation.cu", "a * (1.0f - a)", "a * (1.0f + a)"),
    ("bias_activation_backward", "activation.cu", "return 1.0f - a * a;", "return 1.0f + a * a;"),
    ("bias_activation_backward", "activation.cu", "0.214064449f", "0.0713548163f"),
    (
        "bias_activation_backward",
        "activation.cu",
        "*beta ? *beta * bias_sink[column] :",
        "false ? 0 :",
    ),
    ("bias_activation_backward", "activation.cu", "*beta ? *beta * bias", "true ? *beta * bias"),
    ("bias_activation_backward", "activation.cu", "== blocks - 1", "== blocks"),
    ("bias_activation_backward", "activation.cu", "if (last) *ticket = 0;", ""),
    ("bias_activation_backward", "activation.cu", "strip[y * width + i]", "strip[y * threads + i]"),
    ("bias_activation_backward", "activation.cu", "if (blockIdx.y < rows) partial", "partial"),
    ("bias_activation_backward", "activation.cu", "first_column + i < columns", "true"),
    ("dropout", "activation.cu", "start + (uint32)row", "(uint32)row"),
    ("softmax", "loss.cu", "- top);", "- 0 * top);"),
    ("softmax", "loss.cu", "other = lanes / 2; other > 0", "other = lanes / 2; other > 1"),
    ("softmax", "loss.cu", "row < rows ? columns : 0", "columns"),
    ("softmax_cross_entropy", "loss.cu", "b.column < a.column", "b.column > a.column"),
    ("softmax_cross_entropy", "loss.cu", "return term < 0.0f ? term : 0.0f;", "return term;"),
    ("softmax_cross_entropy", "loss.cu", "rest * target(column) + even", "rest * target(column)"),
    ("softmax_cross_entropy", "loss.cu", "total == total && ", ""),
    ("softmax_cross_entropy", "loss.cu", "weight[row * weight_stride]", "weight[row]"),
    ("softmax_cross_entropy", "loss.cu", "column * column_stride]", "column]"),
    ("pointwise_loss", "loss.cu", "parameter) * share;", "parameter);"),
    ("pointwise_loss", "loss.cu", "d < -p ? -p", "d < -p ? p"),
    ("begin_step", "batch.cu", "table + line * bytes", "table + line"),
    ("begin_step", "batch.cu", "(int64)line + 1", "(int64)line + 2"),
    ("begin_step", "batch.cu", "last_of(gridDim.x, tickets) &&", "blockIdx.x == 0 &&"),
    ("begin_step", "batch.cu", "row_3, table_3, line, bytes_3", "row_3, table_2, line, bytes_3"),
    ("gather", "batch.cu", "bytes % 16 == 0 && aligned<16>", "bytes % 4 == 0 && aligned<16>"),
    ("gather", "batch.cu", "aligned<16>(out, source)", "aligned<16>(out)"),
    ("gather_scaled", "batch.cu", "index[row] * columns", "row * columns"),
    ("normalize", "batch.cu", "total < SMALLEST ? SMALLEST : total", "total"),
    ("square_sum", "norm.cu", "own += (double)g * g;", "own += g * g;"),
    (
        "square_sum",
        "norm.cu",
        "i = threadIdx.x; i < gridDim.x",
        "i = threadIdx.x + 1; i < gridDim.x",
    ),
    ("clip_rows", "norm.cu", "norm < limit ? limit : norm", "limit"),
]
# kernels with the sums of all threads that headers offer
COOPERATIVE = {
    "activation.cu": "bias_activation_backward",
    "batch.cu": "begin_step",
    "norm.cu": "square_sum",
}


def barriers():
    """Yield each barrier of the sources as (file, its number there)."""
    for path in sorted([*kernel_folder().glob("*.cu"), *kernel_folder().glob("*.h")]):
        for number in range(path.read_text(encoding="utf-8").count(BARRIER)):
            yield path.name, number


def without_barrier(text, file, number):
    """Return a source text with the headers pasted in, less one barrier of that file."""
    own = (kernel_folder() / file).read_text(encoding="utf-8")
    position = -1
    for _ in range(number + 1):
        position = own.index(BARRIER, position + 1)
    around = own[position - 150 : position]
    assert text.count(around + BARRIER) == 1
    return text.replace(around + BARRIER, around + ";")


def mutants():
    """Yield an identifier, a kernel, a source name and its wrong text."""
    for number, (kernel, name, right, wrong) in enumerate(MUTATIONS):
        text = kernel_source(name)
        assert right in text, right
        yield f"{number}-{kernel}-{wrong[:20]}", kernel, {name: text.replace(right, wrong)}
    for file, number in barriers():
        sources = [file] if file in COOPERATIVE else COOPERATIVE
        for name in sources:
            yield (
                f"barrier {number} of {file} in {name}",
                COOPERATIVE[name],
                {name: without_barrier(kernel_source(name), file, number)},
            )


MUTANTS = list(mutants())


def failure(kernels, kernel):
    """Return what the checks say of a kernel; None where they find nothing."""
    try:
        for shape in SIZES if kernel in OF_VECTORS else SHAPES:
            check_kernel(kernels, kernel, shape)
    except AssertionError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function that builds mutant i, and the next ones at the same time."""
    require_compiler()
    base, futures = tmp_path_factory.mktemp("mutants"), {}

    def build_one(i):
        (base / str(i)).mkdir()
        return build(base / str(i), MUTANTS[i][2], "-O0")

    with ThreadPoolExecutor(2) as pool:

        def get(i):
            for later in range(i, min(i + 4, len(MUTANTS))):
                if later not in futures:
                    futures[later] = pool.submit(build_one, later)
            return futures[i].result()

        yield get


def test_kernels_without_a_mistake_pass(tmp_path):
    kernels = build(
        tmp_path, {name: kernel_source(name) for name in ("batch.cu", "norm.cu")}, "-O0"
    )
    for kernel in kernels.parameters:
        assert failure(kernels, kernel) is None


@pytest.mark.parametrize(
    "i", range(len(MUTATIONS)), ids=[name for name, *_ in MUTANTS][: len(MUTATIONS)]
)
def test_a_mistake_is_found(built, i):
    assert failure(built(i), MUTANTS[i][1])


@pytest.mark.parametrize("barrier", list(barriers()), ids=str)
def test_a_missing_barrier_is_found(built, barrier):
    file, number = barrier
    found = {}
    for i, (name, kernel, _) in enumerate(MUTANTS):
        if name.startswith(f"barrier {number} of {file}"):
            found[name] = failure(built(i), kernel)
    assert any(found.values()), found
