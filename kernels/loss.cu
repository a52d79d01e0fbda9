// Softmax and the losses: a team of lanes takes a row, and the gradient comes in the same pass.
//
// Bytes per entry: softmax 8, the losses 8 with labels and 12 with targets of their own shape. A
// row is visited up to three times, but only the first visit reads it from memory.
#include "portable.h"

// y = e^z / (row sums of e^z), shifted by the row's largest z
KERNEL(softmax, float* y, const float* z, size_t rows, size_t columns) {
    for_rows(rows, columns, [=](Team team, size_t row, size_t width) {
        const float* from = z + row * columns;
        const float top = team.top(width, [=](size_t column) { return from[column]; }).value;
        const auto e = [=](size_t column) { return exp_(from[column] - top); };
        const float total = team.sum_over(width, e);
        for (size_t column = team.lane; column < width; column += team.lanes)
            y[row * columns + column] = e(column) / total;
    });
}

// loss = -(row sums of ideal log y), dz = weight (y - ideal), with y = softmax(z) and the ideal
// (1 - smoothing) target + smoothing / columns
KERNEL(softmax_cross_entropy, float* loss, float* correct, float* dz, const float* z,
       const int64* labels, const float* distribution, size_t row_stride, size_t column_stride,
       const float* weight, size_t weight_stride, float smoothing, size_t rows, size_t columns) {
    const float rest = 1.0f - smoothing, even = smoothing / (float)columns;
    for_rows(rows, columns, [=](Team team, size_t row, size_t width) {
        const float* from = z + row * columns;
        const Top top = team.top(width, [=](size_t column) { return from[column]; });
        const float total = team.sum_over(width, [=](size_t column) {
            return exp_(from[column] - top.value);
        });
        const float w = width ? weight[row * weight_stride] : 0.0f;
        const size_t label = labels && width ? (size_t)labels[row] : 0;
        const auto target = [=](size_t column) {
            return labels ? (float)(column == label)
                          : distribution[row * row_stride + column * column_stride];
        };
        const float dot = team.sum_over(width, [=](size_t column) {
            const float ideal = rest * target(column) + even, shifted = from[column] - top.value;
            dz[row * columns + column] = w * (exp_(shifted) / total - ideal);
            const float term = ideal * shifted;
            return term < 0.0f ? term : 0.0f;  // 0 times -inf costs nothing
        });
        const bool leads = width && team.lane == 0;
        if (leads) loss[row] = logf(total) - dot;  // the ideal sums to 1
        if (!correct) return;
        const size_t goal = labels ? label : team.top(width, target).column;
        if (leads) correct[row] = total == total && top.column == goal;  // NaN is never right
    });
}

// loss = row means of l(z, target), dz = weight l'(z, target) / columns; correct where all outputs
// lie on their target's side
KERNEL(pointwise_loss, float* loss, float* correct, float* dz, const float* z, const float* target,
       size_t row_stride, size_t column_stride, const float* weight, size_t weight_stride,
       int formula, float parameter, size_t rows, size_t columns) {
    const float share = 1.0f / (float)columns;
    with_loss(formula, [=](auto l) {
        for_rows(rows, columns, [=](Team team, size_t row, size_t width) {
            const float w = width ? weight[row * weight_stride] : 0.0f;
            int wrong = 0;
            const float sum = team.sum_over(width, [&](size_t column) {
                const float z_ = z[row * columns + column];
                const float t = target[row * row_stride + column * column_stride];
                dz[row * columns + column] = w * l.slope(z_, t, parameter) * share;
                wrong |= (z_ > 0.0f) != (t > 0.5f);
                return l.value(z_, t, parameter);
            });
            wrong = team.sum(wrong);
            if (!width || team.lane != 0) return;
            loss[row] = sum * share;
            if (correct) correct[row] = wrong == 0;
        });
    });
}
