// The native library: the kernels for the CPU, and the loop that runs a recorded step.
//
// Kernels of whole vectors come from update.cu and operand.cu as they are. Those of matrices stand here once more
// as loops, with the names, parameters and scalar formulas of their GPU siblings: on the CPU a
// matrix (rows, columns) is in Fortran order, so a column is contiguous and its rows are what a
// loop vectorises over. Some may be run in parts (threads.h), each by a thread of its own.
#include "operand.cu"
#include "update.cu"

// needed by linkers that take this for a Python module; it is loaded with ctypes
EXPORT void* PyInit__gpumlp_native() { return nullptr; }

// ---------------------------------------------------------------- a recorded step

// Runs all calls in order, `times` times, by at most so many threads. The last two are BLAS's
// functions that read and set its own number of threads.
EXPORT void gpumlp_run(const Call* calls, size_t count, size_t times, size_t threads,
                       int (*blas_threads)(), void (*set_blas_threads)(int)) {
    size_t parts = 1;
    for (size_t i = 0; i < count; ++i) parts = calls[i].parts > parts ? calls[i].parts : parts;
    if (threads > parts) threads = parts;
    if (parts > 1) {
        team->run({calls, count, times, threads}, {blas_threads, set_blas_threads});
    } else {
        for (size_t time = 0; time < times; ++time)
            for (size_t i = 0; i < count; ++i) calls[i].function(calls[i].slots);
    }
}

// How many threads a run may take: as many as BLAS takes when none is under way.
EXPORT int gpumlp_threads(int (*blas_threads)()) { return team->threads(blas_threads); }

// c = alpha a b + beta c in column-major order, by the BLAS function at that address; `wide`: its
// integers have 64 bits. alpha and beta lie in memory because they may change from step to step.
// A part has its share of the longer side of c.
KERNEL(gemm, void* function, int wide, int transpose_a, int transpose_b, int64 m, int64 n, int64 k,
       const float* alpha, const float* a, int64 lda, const float* b, int64 ldb, const float* beta,
       float* c, int64 ldc) {
    const int column_major = 102, flag[] = {111, 112};
    const bool by_rows = m > n;
    const Range mine = share((size_t)(by_rows ? m : n), 16);
    const int64 first = (int64)mine.first, length = (int64)mine.last - first;
    if (length <= 0) return;
    if (by_rows) {
        a += transpose_a ? first * lda : first;
        c += first, m = length;
    } else {
        b += transpose_b ? first : first * ldb;
        c += first * ldc, n = length;
    }
    const int ta = flag[transpose_a], tb = flag[transpose_b];
    if (wide) {
        typedef void (*Gemm)(int, int, int, int64, int64, int64, float, const float*, int64,
                             const float*, int64, float, float*, int64);
        reinterpret_cast<Gemm>(function)(column_major, ta, tb, m, n, k, *alpha, a, lda, b, ldb,
                                         *beta, c, ldc);
    } else {
        typedef void (*Gemm)(int, int, int, int, int, int, float, const float*, int, const float*,
                             int, float, float*, int);
        reinterpret_cast<Gemm>(function)(column_major, ta, tb, m, n, k, *alpha, a, lda, b, ldb,
                                         *beta, c, ldc);
    }
}

// ---------------------------------------------------------------- batches

// line *clock of each table to its row, then clock += 1
KERNEL(begin_step, int64* clock, uint8* row_1, const uint8* table_1, size_t bytes_1, uint8* row_2,
       const uint8* table_2, size_t bytes_2, uint8* row_3, const uint8* table_3, size_t bytes_3,
       uint32* tickets) {
    (void)tickets;
    const size_t line = (size_t)*clock;
    if (bytes_1) memcpy(row_1, table_1 + line * bytes_1, bytes_1);
    if (bytes_2) memcpy(row_2, table_2 + line * bytes_2, bytes_2);
    if (bytes_3) memcpy(row_3, table_3 + line * bytes_3, bytes_3);
    *clock += 1;
}

// row i of out = row index[i] of source
KERNEL(gather, uint8* out, const uint8* source, const int64* index, size_t rows, size_t bytes) {
    const Range mine = share(rows);
    for (size_t row = mine.first; row < mine.last; ++row)
        memcpy(out + row * bytes, source + index[row] * bytes, bytes);
}

// row i of out = row index[i] of source, times factor
KERNEL(gather_scaled, float* out, const uint8* source, const int64* index, float factor, size_t rows,
       size_t columns) {
    const Range mine = share(rows);
    for (size_t row = mine.first; row < mine.last; ++row)
        loop(columns, [=](float& out, uint8 value) INLINE { out = value * factor; },
                 out + row * columns, source + index[row] * columns);
}

// out = weights / sum, or 0 where the sum is 0
KERNEL(normalize, float* out, const float* weights, size_t rows) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t row = 0; row < rows; ++row) sum += weights[row];
    const float total = (float)sum < SMALLEST ? SMALLEST : (float)sum;  // keeps NaN
    loop(rows, [=](float& out, float weight) INLINE { out = weight / total; }, out, weights);
}

// ---------------------------------------------------------------- layers

// So many columns at once that a loop over their entries is worth its ends, and few enough that
// they are still in the first cache when they are visited a second time.
SCALAR size_t columns_at_once(size_t rows) { return rows < 4096 ? 4096 / (rows + 1) + 1 : 1; }

SCALAR size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// copy = values rounded to the format, where it is not null
SCALAR void write_copy(operand* copy, const float* values, size_t n, int format) {
    if (!copy) return;
    with_format(format, [=](auto f) INLINE {
        loop(n, [=](operand& copy, float value) INLINE {
            copy = operand_of(f, f.rounded(value));
        }, copy, values);
    });
}

// z += bias in place, a = sigma(z), copy = a rounded
KERNEL(bias_activation_forward, float* a, operand* copy, float* z, const float* bias, int activation,
       int format, size_t rows, size_t columns) {
    const Range mine = share(columns);
    const size_t some = columns_at_once(rows);
    with_activation(activation, [=](auto sigma) INLINE {
        for (size_t first = mine.first; first < mine.last; first += some) {
            const size_t last = smaller(first + some, mine.last), n = (last - first) * rows;
            for (size_t column = first; bias && column < last; ++column) {
                const float b = bias[column];
                loop(rows, [=](float& z) INLINE { z += b; }, z + column * rows);
            }
            if (a == z)
                loop(n, [=](float& a) INLINE { a = sigma.value(a); }, a + first * rows);
            else
                loop(n, [=](float& a, float z) INLINE { a = sigma.value(z); }, a + first * rows,
                         z + first * rows);
            write_copy(copy ? copy + first * rows : nullptr, a + first * rows, n, format);
        }
    });
}

SCALAR float sum(const float* values, size_t n) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (size_t i = 0; i < n; ++i) total += values[i];
    return total;
}

// dz = da sigma'(z), copy = dz rounded, bias_sink = beta bias_sink + alpha (column sums of dz). On the
// CPU dz is null for the identity alone, where it is da.
KERNEL(bias_activation_backward, float* dz, operand* copy, float* bias_sink, const float* da,
       const float* kept, const float* alpha, const float* beta, int activation, int format,
       size_t rows, size_t columns, float* partial, uint32* tickets) {
    (void)partial, (void)tickets;  // for the GPU, where many blocks share a column
    const Range mine = share(columns);
    const size_t some = columns_at_once(rows);
    with_activation(activation, [=](auto sigma) INLINE {
        for (size_t first = mine.first; first < mine.last; first += some) {
            const size_t last = smaller(first + some, mine.last), start = first * rows;
            if (dz)
                loop((last - first) * rows, [=](float& dz, float da, float kept) INLINE {
                    dz = da * sigma.slope(kept);
                }, dz + start, da + start, kept + start);
            write_copy(copy ? copy + start : nullptr, (dz ? dz : da) + start,
                       (last - first) * rows, format);
            for (size_t column = first; bias_sink && column < last; ++column) {
                const float kept_part = *beta ? *beta * bias_sink[column] : 0.0f;
                bias_sink[column] = kept_part + *alpha * sum((dz ? dz : da) + column * rows, rows);
            }
        }
    });
}

// out = x factor where the random bits reach the threshold, else 0
KERNEL(dropout, float* out, const float* x, const uint32* key, uint32 threshold, float factor,
       size_t first_row, size_t rows, size_t columns) {
    const Range mine = share(columns);
    const uint32 seed = *key, start = (uint32)first_row;
    for (size_t column = mine.first; column < mine.last; ++column) {
        const float* from = x + column * rows;
        float* to = out + column * rows;
#pragma omp simd
        for (uint32 row = 0; row < (uint32)rows; ++row) {
            const bool keep = random_bits(start + row, (uint32)column, seed) >= threshold;
            to[row] = keep ? from[row] * factor : 0.0f;
        }
    }
}

// ---------------------------------------------------------------- losses

// Losses visit a block of rows column after column, with what they know of each row in arrays.
static const size_t BLOCK = 256;

// top = the largest of each row, first = the column where it stands first
SCALAR void row_maxima(float* top, float* first, const float* z, size_t row_stride,
                       size_t column_stride, size_t n, size_t columns) {
    for (size_t row = 0; row < n; ++row) top[row] = z[row * row_stride], first[row] = 0.0f;
    for (size_t column = 1; column < columns; ++column) {
        const float* from = z + column * column_stride;
        const float number = (float)column;
#pragma omp simd
        for (size_t row = 0; row < n; ++row) {
            const float value = from[row * row_stride];
            const bool larger = value > top[row];
            first[row] = larger ? number : first[row];
            top[row] = larger ? value : top[row];
        }
    }
}

// e = e^(z - top), total = row sums of e
SCALAR void exponentials(float* e, float* total, const float* z, const float* top, size_t stride,
                         size_t n, size_t columns) {
    for (size_t row = 0; row < n; ++row) total[row] = 0.0f;
    for (size_t column = 0; column < columns; ++column)
        loop(n, [=](float& e, float& total, float z, float top) INLINE {
            e = exp_(z - top);
            total += e;
        }, e + column * stride, total, z + column * stride, top);
}

// y = e^z / (row sums of e^z)
KERNEL(softmax, float* y, const float* z, size_t rows, size_t columns) {
    float top[BLOCK], first[BLOCK], total[BLOCK];
    for (size_t start = 0; columns && start < rows; start += BLOCK) {
        const size_t n = smaller(BLOCK, rows - start);
        row_maxima(top, first, z + start, 1, rows, n, columns);
        exponentials(y + start, total, z + start, top, rows, n, columns);
        for (size_t column = 0; column < columns; ++column)
            loop(n, [=](float& y, float total) INLINE { y /= total; },
                     y + column * rows + start, total);
    }
}

// loss = -(row sums of ideal log y), dz = weight (y - ideal), with y = softmax(z) and the ideal
// (1 - smoothing) target + smoothing / columns
KERNEL(softmax_cross_entropy, float* loss, float* correct, float* dz, const float* z,
       const int64* labels, const float* distribution, size_t row_stride, size_t column_stride,
       const float* weight, size_t weight_stride, float smoothing, size_t rows, size_t columns) {
    float top[BLOCK], first[BLOCK], total[BLOCK], dot[BLOCK], w[BLOCK], best[BLOCK];
    const float rest = 1.0f - smoothing, even = smoothing / (float)columns;
    for (size_t start = 0; columns && start < rows; start += BLOCK) {
        const size_t n = smaller(BLOCK, rows - start);
        const float* from = z + start;
        float* to = dz + start;
        row_maxima(top, first, from, 1, rows, n, columns);
        exponentials(to, total, from, top, rows, n, columns);
        for (size_t row = 0; row < n; ++row) {
            dot[row] = 0.0f;
            w[row] = weight[(start + row) * weight_stride];
        }
        if (distribution) {
            const float* target = distribution + start * row_stride;
            for (size_t column = 0; column < columns; ++column) {
                const float* t = target + column * column_stride;
#pragma omp simd
                for (size_t row = 0; row < n; ++row) {
                    const float ideal = rest * t[row * row_stride] + even;
                    const float term = ideal * (from[column * rows + row] - top[row]);
                    dot[row] += term < 0.0f ? term : 0.0f;  // 0 times -inf costs nothing
                    const float y = to[column * rows + row] / total[row];
                    to[column * rows + row] = w[row] * (y - ideal);
                }
            }
            if (correct) {
                row_maxima(w, best, target, row_stride, column_stride, n, columns);
                for (size_t row = 0; row < n; ++row)
                    correct[start + row] = total[row] == total[row] && first[row] == best[row];
            }
        } else {
            for (size_t column = 0; column < columns; ++column)
                loop(n, [=](float& dz, float& dot, float z, float top, float total,
                                float w) INLINE {
                    dz = w * (dz / total - even);
                    const float term = even * (z - top);
                    dot += term < 0.0f ? term : 0.0f;
                }, to + column * rows, dot, from + column * rows, top, total, w);
            for (size_t row = 0; row < n; ++row) {
                const size_t label = (size_t)labels[start + row];
                const bool number = total[row] == total[row];  // NaN is never right
                if (correct) correct[start + row] = number && first[row] == (float)label;
                if (label >= columns) continue;  // as in the plain formula: no class is the target
                dot[row] += rest * (from[label * rows + row] - top[row]);
                to[label * rows + row] -= rest * w[row];
            }
        }
        for (size_t row = 0; row < n; ++row) loss[start + row] = logf(total[row]) - dot[row];
    }
}

// loss = row means of l(z, target), dz = weight l'(z, target) / columns
KERNEL(pointwise_loss, float* loss, float* correct, float* dz, const float* z, const float* target,
       size_t row_stride, size_t column_stride, const float* weight, size_t weight_stride,
       int formula, float parameter, size_t rows, size_t columns) {
    const float share = 1.0f / (float)columns;
    with_loss(formula, [=](auto l) INLINE {
        float sums[BLOCK], right[BLOCK], t[BLOCK], w[BLOCK];
        for (size_t start = 0; columns && start < rows; start += BLOCK) {
            const size_t n = smaller(BLOCK, rows - start);
            for (size_t row = 0; row < n; ++row) {
                sums[row] = 0.0f, right[row] = 1.0f;
                w[row] = weight[(start + row) * weight_stride];
            }
            for (size_t column = 0; column < columns; ++column) {
                const float* from = target + start * row_stride + column * column_stride;
                for (size_t row = 0; row < n; ++row) t[row] = from[row * row_stride];
                loop(n, [=](float& sum, float& right, float& dz, float z, float t,
                                float w) INLINE {
                    sum += l.value(z, t, parameter);
                    dz = w * l.slope(z, t, parameter) * share;
                    right = (z > 0.0f) == (t > 0.5f) ? right : 0.0f;
                }, sums, right, dz + column * rows + start, z + column * rows + start, t, w);
            }
            for (size_t row = 0; row < n; ++row) loss[start + row] = sums[row] * share;
            for (size_t row = 0; correct && row < n; ++row) correct[start + row] = right[row];
        }
    });
}

// ---------------------------------------------------------------- norms

SCALAR double squares(const float* values, size_t n) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (size_t i = 0; i < n; ++i) total += (double)values[i] * values[i];
    return total;
}

// what scales a vector of that norm to `limit` where it is longer; NaN where the norm is NaN
SCALAR float clipping(double norm, float limit) { return (float)(limit / (norm < limit ? limit : norm)); }

// sum = g . g
KERNEL(square_sum, double* sum, double* partial, uint32* tickets, const float* g, size_t n) {
    (void)partial, (void)tickets;
    *sum = squares(g, n);
}

// g *= limit / max(sqrt(sum), limit)
KERNEL(clip_scale, float* g, const double* sum, float limit, size_t n) {
    const double norm = sqrt(*sum);
    const float factor = clipping(norm, limit);
    for_each(n, [=](float& g) INLINE { g *= factor; }, g);
}

// g /= scale, and overflow = 1 if any entry is not finite then
KERNEL(unscale, float* g, float* overflow, const float* scale, size_t n) {
    const Range mine = share(n, 16);
    const float by = 1.0f / *scale;
    float rest = 0.0f;  // of numbers that are finite nothing is left
#pragma omp simd reduction(+ : rest)
    for (size_t i = mine.first; i < mine.last; ++i) {
        g[i] *= by;
        rest += g[i] - g[i];
    }
    if (rest != 0.0f) *overflow = 1.0f;  // whoever finds one writes the same
}

// each row whose norm exceeds the limit is scaled to it; rows are contiguous
KERNEL(clip_rows, float* w, float limit, size_t rows, size_t columns) {
    const Range mine = share(rows);
    for (size_t row = mine.first; row < mine.last; ++row) {
        float* entries = w + row * columns;
        const double norm = sqrt(squares(entries, columns));
        const float factor = clipping(norm, limit);
        loop(columns, [=](float& w) INLINE { w *= factor; }, entries);
    }
}
