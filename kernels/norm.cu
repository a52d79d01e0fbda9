// The norms that clipping needs, summed in double precision: squares of large entries do not overflow.
#include "portable.h"

// sum = g . g, in two stages: each block its share, then the last block what all found. Bytes per
// entry: 4. One dimension, at most as many blocks as `partial` has entries.
KERNEL(square_sum, double* sum, double* partial, uint32* tickets, const float* g, size_t n) {
    double own = 0.0;
    for_each(n, [&](float g) { own += (double)g * g; }, g);
    const double of_block = block_sum(own);
    if (threadIdx.x == 0) partial[blockIdx.x] = of_block;
    if (!last_of(gridDim.x, tickets)) return;
    double total = 0.0;
    for (uint32 i = threadIdx.x; i < gridDim.x; i += blockDim.x) total += partial[i];
    total = block_sum(total);
    if (threadIdx.x == 0) *sum = total;
}

// what scales a vector of that norm to `limit` where it is longer; NaN where the norm is NaN
SCALAR float clipping(double norm, float limit) {
    return (float)(limit / (norm < limit ? limit : norm));
}

// g *= limit / max(sqrt(sum), limit). Bytes per entry: 8.
KERNEL(clip_scale, float* g, const double* sum, float limit, size_t n) {
    const float factor = clipping(sqrt(*sum), limit);
    for_each(n, [=](float& g) { g *= factor; }, g);
}

// each row whose norm exceeds the limit is scaled to it. Bytes per entry: 8, or 4 where none is.
KERNEL(clip_rows, float* w, float limit, size_t rows, size_t columns) {
    for_rows(rows, columns, [=](Team team, size_t row, size_t width) {
        float* entries = w + row * columns;
        const double squares = team.sum_over(width, [=](size_t column) {
            return (double)entries[column] * entries[column];
        });
        const double norm = sqrt(squares);
        if (norm <= limit) return;
        const float factor = clipping(norm, limit);
        for (size_t column = team.lane; column < width; column += team.lanes)
            entries[column] *= factor;
    });
}

// g /= scale, and overflow = 1 if any entry is not finite then. Bytes per entry: 8.
KERNEL(unscale, float* g, float* overflow, const float* scale, size_t n) {
    const float by = 1.0f / *scale;
    bool finite = true;
    for_each(n, [=, &finite](float& g) {
        g *= by;
        finite &= g - g == 0.0f;
    }, g);
    if (!finite) *overflow = 1.0f;  // whoever finds one writes the same
}
