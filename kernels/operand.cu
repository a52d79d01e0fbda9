// Matrices as products in a low precision read them, and the scale of gradients in float16.
//
// Both worlds run these, as they are kernels of whole vectors.
#include "portable.h"

// high = x rounded, middle = what is left of x rounded, low = what is left then. Parts that are not
// wanted are null. What is left of an infinite x is nothing. Bytes per entry: 4, and 2 for each part.
KERNEL(split, operand* high, operand* middle, operand* low, const float* x, int format, size_t n) {
    with_format(format, [=](auto f) INLINE {
        const auto take = [=](float& rest) INLINE {
            const float part = f.rounded(rest), left = rest - part;
            rest = left == left ? left : 0.0f;
            return operand_of(f, part);
        };
        if (low)
            for_each(n, [=](operand& high, operand& middle, operand& low, float x) INLINE {
                high = take(x);
                middle = take(x);
                low = take(x);
            }, fresh(high), fresh(middle), fresh(low), x);
        else if (middle)
            for_each(n, [=](operand& high, operand& middle, float x) INLINE {
                high = take(x);
                middle = take(x);
            }, fresh(high), fresh(middle), x);
        else
            for_each(n, [=](operand& high, float x) INLINE { high = take(x); }, fresh(high), x);
    });
}

// ---------------------------------------------------------------- loss scaling

// The scale after a step: halved after an overflow, doubled after `patience` steps without one.
// state: the scale, steps since its last change, steps that were skipped, whether this one was.
KERNEL(loss_scale_step, float* state, float patience, float largest) {
    if (!first_thread()) return;
    const bool overflow = state[3] != 0.0f, grow = !overflow && state[1] + 1.0f >= patience;
    const float doubled = 2.0f * state[0] > largest ? largest : 2.0f * state[0];
    state[0] = overflow ? 0.5f * state[0] : grow ? doubled : state[0];
    state[1] = overflow || grow ? 0.0f : state[1] + 1.0f;
    state[2] += overflow ? 1.0f : 0.0f;
    state[3] = 0.0f;
}
