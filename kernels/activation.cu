// The layers' entrywise work, forward and backward: matrices (rows, columns) in C order.
#include "portable.h"

// z += bias in place, a = sigma(z), copy = a rounded to the format where it is not null. Bytes per
// entry: 8 where a is z or there is no bias, else 12; and 2 for the copy.
KERNEL(bias_activation_forward, float* a, operand* copy, float* z, const float* bias, int activation,
       int format, size_t rows, size_t columns) {
    copy = wanted(copy);
    const auto bias_of = [=](size_t column) { return bias ? bias[column] : 0.0f; };
    float* const biased = a == z || !bias ? (float*)nullptr : z;
    with_activation(activation, [=](auto sigma) {
        for_matrix(rows, columns, bias_of,
                   [=](size_t, float b, float& a, operand& own, float& biased, float z) {
            biased = z + b;
            a = sigma.value(biased);
            if (copy) own = rounded_operand(a, format);
        }, fresh(a), fresh(copy), fresh(biased), (const float*)z);
    });
}

// ---------------------------------------------------------------- backward
//
// A block's threads stand in rows (y) and columns (x), each with WIDTH neighbouring columns: a strip
// of columns. It walks down the strip and adds up its columns; then the last block of a strip adds
// what all of them found. Both are the same sum, first over rows of dz, then over rows of `partial`.

#define MOST_THREADS 256

template <int WIDTH>
struct Width { static const int value = WIDTH; };

__shared__ float strip[4 * MOST_THREADS];

// add the threads' sums of their columns: column i of the strip is the business of thread i, which
// passes it on to take(column, sum)
template <int WIDTH, class Take>
SCALAR void take_sums(const float* sums, size_t first_column, size_t columns, Take take) {
    const uint32 width = WIDTH * blockDim.x, threads = blockDim.x * blockDim.y;
#pragma unroll
    for (int lane = 0; lane < WIDTH; ++lane)
        strip[threadIdx.y * width + threadIdx.x * WIDTH + lane] = sums[lane];
    __syncthreads();
#pragma unroll 1
    for (uint32 i = thread_in_block(); i < width && first_column + i < columns; i += threads) {
        float sum = 0.0f;
#pragma unroll 1
        for (uint32 y = 0; y < blockDim.y; ++y) sum += strip[y * width + i];
        take(first_column + i, sum);
    }
    __syncthreads();  // the next strip may overwrite this one
}

// take(column, sum) for the columns of this block's strips. walk_down(column, sums) adds a thread's
// own entries from that column on to its sums.
template <int WIDTH, class WalkDown, class Take>
SCALAR void sum_strips(size_t columns, WalkDown walk_down, Take take) {
    const size_t width = WIDTH * blockDim.x;
    for (size_t first = blockIdx.x * width; first < columns; first += gridDim.x * width) {
        const size_t column = first + WIDTH * threadIdx.x;
        float sums[WIDTH] = {};
        if (column < columns) walk_down(column, sums);
        take_sums<WIDTH>(sums, first, columns, take);
    }
}

// dz = da sigma'(kept) in this block's rows, copy = dz rounded, and the sums as a row of `partial`
template <int WIDTH>
SCALAR void own_rows(float* dz, operand* copy, const float* da, const float* kept, int activation,
                     int format, size_t rows, size_t columns, float* partial) {
    const auto keep = [=](size_t column, float sum) {
        if (blockIdx.y < rows) partial[blockIdx.y * columns + column] = sum;
    };
    with_activation(activation, [=](auto sigma) {
        sum_strips<WIDTH>(columns, [=](size_t column, float* sums) {
            walk<WIDTH, 2>(thread_y(), threads_y(), rows, column, columns,
                           [=](size_t, int lane, float& dz, operand& own, float da, float kept) {
                dz = da * sigma.slope(kept);
                if (copy) own = rounded_operand(dz, format);
                sums[lane] += dz;
            }, fresh(dz), fresh(copy), da, kept);
        }, keep);
    });
}

// take(column, sum) for the sums of the first rows of `partial`
template <int WIDTH, class Take>
SCALAR void sum_partial(const float* partial, size_t rows, size_t columns, Take take) {
    sum_strips<WIDTH>(columns, [=](size_t column, float* sums) {
        walk<WIDTH, 4>(threadIdx.y, blockDim.y, rows, column, columns,
                       [=](size_t, int lane, float sum) { sums[lane] += sum; }, partial);
    }, take);
}

// dz = da sigma'(kept), copy = dz rounded to the format, bias_sink = beta bias_sink + alpha (column
// sums of dz). What is null is not written: the copy, or dz, where nobody reads it or (for the
// identity) it is da. Bytes per entry: 8, 4 for dz and 2 for the copy. A block has at most
// MOST_THREADS threads, and the grid at most as many columns as there are tickets.
KERNEL(bias_activation_backward, float* dz, operand* copy, float* bias_sink, const float* da,
       const float* kept, const float* alpha, const float* beta, int activation, int format,
       size_t rows, size_t columns, float* partial, uint32* tickets) {
    copy = wanted(copy);
    const size_t partial_rows = gridDim.y < rows ? gridDim.y : rows;
    const auto add_to_sink = [=](size_t column, float sum) {
        if (!bias_sink) return;
        const float kept_part = *beta ? *beta * bias_sink[column] : 0.0f;
        bias_sink[column] = kept_part + *alpha * sum;
    };
    const auto run = [=](auto width) {
        constexpr int WIDTH = decltype(width)::value;
        own_rows<WIDTH>(dz, copy, da, kept, activation, format, rows, columns, partial);
        if (gridDim.y == 1 || last_of(gridDim.y, tickets + blockIdx.x))
            sum_partial<WIDTH>(partial, partial_rows, columns, add_to_sink);
    };
    if (columns % 4 == 0 && aligned<4>(dz, copy, da, kept, partial))
        run(Width<4>());
    else
        run(Width<1>());
}

// out = x factor where the random bits reach the threshold, else 0. Bytes per entry: 8.
KERNEL(dropout, float* out, const float* x, const uint32* key, uint32 threshold, float factor,
       size_t first_row, size_t rows, size_t columns) {
    const uint32 seed = *key, start = (uint32)first_row;
    for_matrix(rows, columns, [](size_t column) { return (uint32)column; },
               [=](size_t row, uint32 column, float& out, float x) {
        const bool keep = random_bits(start + (uint32)row, column, seed) >= threshold;
        out = keep ? x * factor : 0.0f;
    }, fresh(out), x);
}
