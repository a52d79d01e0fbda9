// How a gradient changes the parameters: one kernel for each optimizer, on the flat buffers.
//
// Both worlds run these. `lr` and what else changes from step to step lie in memory, so that a
// recorded step stays valid. Bytes per parameter: SGD 12, momentum 20, Adam 28, and 2 for a copy.
#include "portable.h"

// Where `skip` is not null and holds 1, nothing is done: the gradient had overflowed.
SCALAR bool skipped(const float* skip) { return skip && *skip != 0.0f; }

// body(w, others...) for each parameter; where `copy` is not null, it becomes w rounded to `format`
template <class Body, class... T>
SCALAR void update(size_t n, operand* copy, int format, Body body, float* w, T*... others) {
    if (!wanted(copy)) return for_each(n, body, w, others...);
    with_format(format, [=](auto f) INLINE {
        for_each(n, [=](float& w, operand& copy, auto&... others) INLINE {
            body(w, others...);
            copy = operand_of(f, f.rounded(w));
        }, w, fresh(copy), others...);
    });
}

// w -= lr g
KERNEL(sgd_step, float* w, operand* copy, const float* g, const float* lr, const float* skip,
       int format, size_t n) {
    if (skipped(skip)) return;
    const float rate = *lr;
    update(n, copy, format, [=](float& w, float g) INLINE { sgd(w, g, rate); }, w, g);
}

// v = mu v + g, w -= lr v
KERNEL(momentum_step, float* w, operand* copy, float* v, const float* g, const float* lr, float mu,
       const float* skip, int format, size_t n) {
    if (skipped(skip)) return;
    const float rate = *lr;
    update(n, copy, format, [=](float& w, float& v, float g) INLINE {
        momentum(w, v, g, rate, mu);
    }, w, v, g);
}

// v = mu v + g, w -= lr (g + mu v)
KERNEL(nesterov_step, float* w, operand* copy, float* v, const float* g, const float* lr, float mu,
       const float* skip, int format, size_t n) {
    if (skipped(skip)) return;
    const float rate = *lr;
    update(n, copy, format, [=](float& w, float& v, float g) INLINE {
        nesterov(w, v, g, rate, mu);
    }, w, v, g);
}

// s += g^2, w -= lr g / (sqrt(s) + eps)
KERNEL(adagrad_step, float* w, operand* copy, float* s, const float* g, const float* lr, float eps,
       const float* skip, int format, size_t n) {
    if (skipped(skip)) return;
    const float rate = *lr;
    update(n, copy, format, [=](float& w, float& s, float g) INLINE {
        adagrad(w, s, g, rate, eps);
    }, w, s, g);
}

// s = rho s + (1 - rho) g^2, w -= lr g / (sqrt(s) + eps)
KERNEL(rmsprop_step, float* w, operand* copy, float* s, const float* g, const float* lr, float rho,
       float one_less_rho, float eps, const float* skip, int format, size_t n) {
    if (skipped(skip)) return;
    const float rate = *lr;
    update(n, copy, format, [=](float& w, float& s, float g) INLINE {
        rmsprop(w, s, g, rate, rho, one_less_rho, eps);
    }, w, s, g);
}

// m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, w -= lr m / (correction sqrt(v) + eps)
KERNEL(adam_step, float* w, operand* copy, float* m, float* v, const float* g, const float* lr,
       const float* correction, float beta1, float one_less_beta1, float beta2,
       float one_less_beta2, float eps, const float* skip, int format, size_t n) {
    if (skipped(skip)) return;
    const float rate = *lr, corrected = *correction;
    const AdamConstants constants = {beta1, one_less_beta1, beta2, one_less_beta2, eps};
    update(n, copy, format, [=](float& w, float& m, float& v, float g) INLINE {
        adam(w, m, v, g, rate, corrected, constants);
    }, w, m, v, g);
}

// w *= factor
KERNEL(scale, float* w, const float* factor, const float* skip, size_t n) {
    if (skipped(skip)) return;
    const float by = *factor;
    for_each(n, [=](float& w) INLINE { w *= by; }, w);
}

// g += weight_decay w + l1 sign(w)
KERNEL(add_penalty, float* g, const float* w, float weight_decay, float l1, size_t n) {
    for_each(n, [=](float& g, float w) INLINE { g += penalty_slope(w, weight_decay, l1); }, g, w);
}

// total += weights * values, or values where there are no weights
KERNEL(accumulate, double* total, const float* values, const float* weights, size_t n) {
    if (weights)
        for_each(n, [=](double& total, float value, float weight) INLINE {
            total += value * weight;
        }, total, values, weights);
    else
        for_each(n, [=](double& total, float value) INLINE { total += value; }, total, values);
}
