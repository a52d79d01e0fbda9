// One source, two worlds: every scalar formula, once, for the GPU and for the CPU.
//
// CUDA (NVRTC or nvcc; in the tests fibers that stand in for a GPU's threads) and plain C++ compile
// the same formulas. Those of whole vectors (optimizers, for instance) are kernels for both worlds,
// too: `for_each` is many threads with 16-byte accesses there and a vectorised loop here. Formulas
// are free of branches, because a loop with branches does not vectorise.
#pragma once

#if defined(__CUDACC__) || defined(GPUMLP_FIBERS)
  #define GPUMLP_DEVICE
  #define SCALAR [[maybe_unused]] static __device__ __forceinline__
  #define INLINE  // after the parameters of a lambda
  #ifndef KERNEL
    #define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
  #endif
#else
  #include "native.h"
#endif

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;

// ---------------------------------------------------------------- bits

#define INFINITE float_of(0x7f800000u)

SCALAR float float_of(uint32 bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
#endif
}

SCALAR uint32 bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    uint32 bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
#endif
}

// ---------------------------------------------------------------- numbers of matrix units
//
// What a matrix product reads in a low precision. `rounded` is the nearest number that the format
// has, ties to even; NaN stays NaN. `bits` is how the format writes such a number in 16 bits.

// keep the upper bits of a float32, without the last SHIFT
template <int SHIFT>
SCALAR float without_last_bits(float value) {
    const uint32 bits = bits_of(value);
    const uint32 half = (1u << (SHIFT - 1)) - 1u + (bits >> SHIFT & 1u);
    return value == value ? float_of((bits + half) & ~((1u << SHIFT) - 1u)) : value;
}

struct Bfloat16 {  // the upper half of a float32
    SCALAR float rounded(float value) { return without_last_bits<16>(value); }
    SCALAR uint16 bits(float value) {
        const uint32 quiet = value == value ? 0u : 0x400000u;
        return (uint16)((bits_of(value) | quiet) >> 16);
    }
};

struct Float16 {  // 10 bits of mantissa; from 2^-24 to 65504
    SCALAR float rounded(float value) {
        const float size = value < 0.0f ? -value : value;
        const float normal = without_last_bits<13>(size);
        const float tiny = (size + 0.5f) - 0.5f;  // rounds to a multiple of 2^-24
        const float rounded = size < 6.103515625e-5f ? tiny : size < 65520.0f ? normal : INFINITE;
        const float keeps_nan = value == value ? rounded : value;
        return float_of((bits_of(keeps_nan) & 0x7fffffffu) | (bits_of(value) & 0x80000000u));
    }
    SCALAR uint16 bits(float value) {
        const float size = float_of(bits_of(value) & 0x7fffffffu);
        const uint32 normal = (bits_of(size) - 0x38000000u) >> 13;
        const uint32 tiny = (uint32)(int)((size < 1.0f ? size : 0.0f) * 16777216.0f);
        const uint32 large = size == INFINITE ? 0x7c00u : 0x7e00u;
        const uint32 finite = size < 6.103515625e-5f ? tiny : normal;
        return (uint16)((size <= 65504.0f ? finite : large) | (bits_of(value) >> 16 & 0x8000u));
    }
};

struct Tfloat32 {  // float32 with 10 bits of mantissa: has no 16 bits of its own
    SCALAR float rounded(float value) { return without_last_bits<13>(value); }
    SCALAR uint16 bits(float) { return 0; }
};

// run `body` with the format of that number (see gpumlp/backend/precision.py)
template <class Body>
SCALAR void with_format(int format, Body body) {
    switch (format) {
        case 0: body(Bfloat16()); break;
        case 1: body(Float16()); break;
        case 2: body(Tfloat32()); break;
    }
}

// Most kernels make no copies for products to read. Compiled with this as 0 they are smaller, and
// take fewer registers; their parameter `copy` must be null then.
#ifndef GPUMLP_COPIES
  #define GPUMLP_COPIES 1
#endif

// A number of a matrix: 16 bits on a GPU. The CPU multiplies floats, and so keeps the same numbers
// as floats.
#ifdef GPUMLP_DEVICE
typedef uint16 operand;
template <class Format>
SCALAR operand operand_of(Format format, float rounded) { return format.bits(rounded); }
#else
typedef float operand;
template <class Format>
SCALAR operand operand_of(Format, float rounded) { return rounded; }
#endif

// the copy that is to be made, or null
SCALAR operand* wanted(operand* copy) { return GPUMLP_COPIES ? copy : (operand*)nullptr; }

// a float32 as an operand of 16 bits: bfloat16, or float16 where the format's number is 1
SCALAR operand rounded_operand(float value, int format) {
    const operand bfloat16 = operand_of(Bfloat16(), Bfloat16::rounded(value));
    const operand float16 = operand_of(Float16(), Float16::rounded(value));
    return format ? float16 : bfloat16;
}

// ---------------------------------------------------------------- exponentials
//
// Ours instead of libm's, because g++ does not vectorise those, and so that both devices compute
// the same. All keep NaN. The polynomials are those of the Cephes library (S. Moshier 1989).

#define LOWEST -87.33654f   // log of the smallest normal number
#define HIGHEST 88.72283f   // log of the largest number
#define SMALLEST 1.17549435e-38f  // the smallest normal number

// x = n log 2 + r with |r| <= log(2)/2; `shifted` holds n in its lowest bits
struct Reduced { float shifted, r; };

SCALAR Reduced reduce(float x) {
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float n = shifted - 12582912.0f;
    return {shifted, (x - n * 0.693359375f) + n * 2.12194440e-4f};
}

// (e^r - 1 - r) / r^2
SCALAR float exp_tail(float r) {
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    return p * r + 5.0000001201e-1f;
}

// e^x for x in [LOWEST, HIGHEST], or NaN
SCALAR float exp_within(float x) {
    const Reduced x_ = reduce(x);
    const float p = exp_tail(x_.r) * (x_.r * x_.r) + (x_.r + 1.0f);
    return float_of(bits_of(p) + (bits_of(x_.shifted) << 23));
}

// e^x; 0 where the result would be below the smallest normal number
SCALAR float exp_(float x) {
    float inside = x < LOWEST ? LOWEST : x;
    inside = inside > HIGHEST ? HIGHEST : inside;
    float e = exp_within(inside);
    e = x < LOWEST ? 0.0f : e;
    return x > HIGHEST ? INFINITE : e;
}

// e^x - 1 for x <= 0, without cancellation
SCALAR float expm1_(float x) {
    const Reduced x_ = reduce(x < -20.0f ? -20.0f : x);
    const float p = exp_tail(x_.r) * (x_.r * x_.r) + x_.r;
    const float scale = float_of((bits_of(x_.shifted) << 23) + 0x3f800000u);
    return scale * p + (scale - 1.0f);
}

// log(1 + y) for y in [0, 1]
SCALAR float log1p_(float y) {
    const float u = 1.0f + y;
    const bool large = u > 1.41421356f;
    const float m = (large ? 0.5f * u : u) - 1.0f;  // u = 2^n (1 + m)
    const float n = large ? 1.0f : 0.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float r = p * m * (m * m) - n * 2.12194440e-4f;
    r = r - 0.5f * (m * m) + m;
    // what rounding took from 1 + y
    return r + n * 0.693359375f + (y - (u - 1.0f)) / u;
}

SCALAR float tanh_(float x) {
    const float e = expm1_(x < 0.0f ? 2.0f * x : -2.0f * x);
    const float t = -e / (e + 2.0f);
    return float_of((bits_of(t) & 0x7fffffffu) | (bits_of(x) & 0x80000000u));
}

// keeps its relative accuracy in the left tail, and stays at the smallest normal number there
SCALAR float sigmoid(float z) {
    float inside = z < LOWEST ? LOWEST : z;
    inside = inside > -LOWEST ? -LOWEST : inside;
    return 1.0f / (1.0f + exp_within(-inside));
}

// ---------------------------------------------------------------- activations
//
// Each has its function and its derivative, the latter in terms of what the activation keeps: its
// output a or its input z (see gpumlp/backend/activations.py, whose order these numbers follow).

struct Identity {
    SCALAR float value(float z) { return z; }
    SCALAR float slope(float) { return 1.0f; }
};

struct Sigmoid {
    SCALAR float value(float z) { return sigmoid(z); }
    SCALAR float slope(float a) { return a * (1.0f - a); }
};

struct Tanh {
    SCALAR float value(float z) { return tanh_(z); }
    SCALAR float slope(float a) { return 1.0f - a * a; }
};

struct Relu {
    SCALAR float value(float z) { return z < 0.0f ? 0.0f : z; }
    SCALAR float slope(float a) { return a > 0.0f ? 1.0f : 0.0f; }
};

struct LeakyRelu {
    SCALAR float value(float z) { return z > 0.0f ? z : 0.01f * z; }
    SCALAR float slope(float z) { return z > 0.0f ? 1.0f : 0.01f; }
};

struct Elu {
    SCALAR float value(float z) {
        const float below = expm1_(z > 0.0f ? 0.0f : z);
        return z > 0.0f ? z : below;
    }
    SCALAR float slope(float z) { return exp_(z > 0.0f ? 0.0f : z); }
};

// z sigmoid(z) = z s; far left s is 0 but for rounding, because z may be huge there
struct Silu {
    SCALAR float gate(float z) { return sigmoid(z) - SMALLEST; }
    SCALAR float value(float z) { return z * gate(z); }
    SCALAR float slope(float z) {
        const float s = gate(z);
        return s * (1.0f + z * (1.0f - s));
    }
};

// z (1 + tanh u) / 2 = z sigmoid(2u) with u = sqrt(2/pi) (z + 0.044715 z^3)
struct Gelu {
    static constexpr float FAR = 32.0f;
    SCALAR float doubled(float z) { return z * (1.59576912f + 0.0713548163f * (z * z)); }
    SCALAR float value(float z) { return z * Silu::gate(doubled(z)); }
    SCALAR float slope(float z) {
        float x = z < -FAR ? -FAR : z;  // beyond it the slope is 0 or 1, and z^3 overflows
        x = x > FAR ? FAR : x;
        const float s = Silu::gate(doubled(x));
        return s * (1.0f + x * ((1.0f - s) * (1.59576912f + 0.214064449f * (x * x))));
    }
};

struct Softplus {
    SCALAR float value(float z) {
        const float tail = log1p_(exp_(z < 0.0f ? z : -z));
        return (z > 0.0f ? z : 0.0f) + tail;
    }
    SCALAR float slope(float a) { return -expm1_(-a); }
};

// run `body` with the activation of that number
template <class Body>
SCALAR void with_activation(int activation, Body body) {
    switch (activation) {
        case 0: body(Identity()); break;
        case 1: body(Sigmoid()); break;
        case 2: body(Tanh()); break;
        case 3: body(Relu()); break;
        case 4: body(LeakyRelu()); break;
        case 5: body(Elu()); break;
        case 6: body(Gelu()); break;
        case 7: body(Silu()); break;
        case 8: body(Softplus()); break;
    }
}

// ---------------------------------------------------------------- losses of one output entry
//
// l(z, t) and its derivative by z; `p` is the loss's parameter (gpumlp/backend/pointwise.py)

struct BinaryCrossEntropy {  // p: label smoothing
    SCALAR float smoothed(float t, float p) { return t * (1.0f - p) + 0.5f * p; }
    SCALAR float value(float z, float t, float p) {
        const float tail = log1p_(exp_(z < 0.0f ? z : -z));
        return ((z > 0.0f ? 1.0f : 0.0f) - smoothed(t, p)) * z + tail;
    }
    SCALAR float slope(float z, float t, float p) { return sigmoid(z) - smoothed(t, p); }
};

struct SquaredError {
    SCALAR float value(float z, float t, float) { return (z - t) * (z - t); }
    SCALAR float slope(float z, float t, float) { return 2.0f * (z - t); }
};

struct AbsoluteError {
    SCALAR float value(float z, float t, float) { return z < t ? t - z : z - t; }
    SCALAR float slope(float z, float t, float) {
        const float d = z - t;
        return d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : d;
    }
};

struct Huber {  // p: where the square ends
    SCALAR float slope(float z, float t, float p) {
        const float d = z - t;
        return d < -p ? -p : d > p ? p : d;
    }
    SCALAR float value(float z, float t, float p) {
        const float c = slope(z, t, p);
        return c * (z - t - 0.5f * c);
    }
};

struct Poisson {
    SCALAR float value(float z, float t, float) { return exp_(z) - t * z; }
    SCALAR float slope(float z, float t, float) { return exp_(z) - t; }
};

// run `body` with the loss of that number
template <class Body>
SCALAR void with_loss(int loss, Body body) {
    switch (loss) {
        case 0: body(BinaryCrossEntropy()); break;
        case 1: body(SquaredError()); break;
        case 2: body(AbsoluteError()); break;
        case 3: body(Huber()); break;
        case 4: body(Poisson()); break;
    }
}

// ---------------------------------------------------------------- updates of one parameter

SCALAR void sgd(float& w, float g, float lr) { w -= lr * g; }

SCALAR void momentum(float& w, float& v, float g, float lr, float mu) {
    v = mu * v + g;
    w -= lr * v;
}

SCALAR void nesterov(float& w, float& v, float g, float lr, float mu) {
    v = mu * v + g;
    w -= lr * (mu * v + g);
}

SCALAR void adagrad(float& w, float& s, float g, float lr, float eps) {
    s += g * g;
    w -= lr * (g / (sqrtf(s) + eps));
}

SCALAR void rmsprop(float& w, float& s, float g, float lr, float rho, float one_less_rho, float eps) {
    s = rho * s + one_less_rho * (g * g);
    w -= lr * (g / (sqrtf(s) + eps));
}

struct AdamConstants { float beta1, one_less_beta1, beta2, one_less_beta2, eps; };

SCALAR void adam(float& w, float& m, float& v, float g, float lr, float correction, AdamConstants c) {
    m = c.beta1 * m + c.one_less_beta1 * g;
    v = c.beta2 * v + c.one_less_beta2 * (g * g);
    w -= lr * (m / (correction * sqrtf(v) + c.eps));
}

// what L2 and L1 add to a gradient
SCALAR float penalty_slope(float w, float weight_decay, float l1) {
    return weight_decay * w + l1 * (w > 0.0f ? 1.0f : w < 0.0f ? -1.0f : w);
}

// ---------------------------------------------------------------- counter-based random numbers

// 32 random bits for (row, unit, key): two multiply-xorshift rounds (C. Wellons' lowbias32), the
// key added once more between them
SCALAR uint32 random_bits(uint32 row, uint32 unit, uint32 key) {
    uint32 h = row * 0x9E3779B1u + unit * 0x85EBCA77u + key;
    h = (h ^ h >> 16) * 0x7FEB352Du;
    h = ((h ^ h >> 15) + key) * 0x846CA68Bu;
    return h ^ h >> 16;
}

// ---------------------------------------------------------------- visiting every entry

#ifdef GPUMLP_DEVICE
  #include "device.h"
#else

// an array whose old content is not read, which matters on a GPU only
template <class T>
SCALAR T* fresh(T* array) { return array; }

// body(array[i]...) for each i < n, in any order; the arrays do not overlap
template <class Body, class... T>
SCALAR void loop(size_t n, Body body, T*... arrays) {
#pragma omp simd
    for (size_t i = 0; i < n; ++i) body(arrays[i]...);
}

// whether this thread does what is done once
SCALAR bool first_thread() { return share(1).first < share(1).last; }

// the same for this thread's part of the entries
template <class Body, class... T>
SCALAR void for_each(size_t n, Body body, T*... arrays) {
    const Range mine = share(n, 16);
    loop(mine.last - mine.first, body, arrays + mine.first...);
}

#endif
