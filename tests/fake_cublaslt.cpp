// A stand-in for libcublasLt in the tests: the same symbols, on the host's memory.
//
// It is as strict as the library about sizes of attributes and about what epilogues need. Algorithms
// differ in the order in which they add up, so that each leaves its own bits. A hook decides for
// each product whether it runs now or is kept, as in a captured stream.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#define API extern "C" __attribute__((visibility("default")))

enum Type { FLOAT16 = 2, BFLOAT16 = 14, TFLOAT32 = 77 };
enum Status { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };

struct Layout { int type; uint64_t rows, columns; int64_t ld; };
struct Description {
    int compute, scale, pointer_mode, transpose_a, transpose_b;
    uint32_t epilogue;
    void *bias, *aux;
    int64_t aux_ld;
    int bias_type;
};
struct Preference { uint64_t workspace; uint32_t alignment[4]; };
struct Algorithm { uint64_t data[8]; };
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

// a product as it was asked for; mirrored in fake_cuda.py
struct Product {
    int64_t m, n, k, lda, ldb, ldd, type;
    Description description;
    const void *alpha, *a, *b, *beta, *c;
    void* d;
    uint64_t algorithm;
    void* workspace;
    uint64_t workspace_bytes;
    void* stream;
    float host_alpha, host_beta;
};

static const uint64_t MAGIC = 0x6d6c7000;
static int algorithms_of = 3, refused_epilogue = 0;
static int (*hook)(Product*) = nullptr;
static Preference asked;

API size_t cublasLtGetVersion() { return 130000; }
API int cublasLtCreate(void** handle) { *handle = &asked; return OK; }

API int cublasLtMatmulDescCreate(Description** out, int compute, int scale) {
    *out = new Description();
    (*out)->compute = compute, (*out)->scale = scale, (*out)->epilogue = 1;
    return OK;
}
API int cublasLtMatmulDescDestroy(Description* description) { delete description; return OK; }

API int cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* value, size_t size) {
    void* into = nullptr;
    size_t expected = 4;
    switch (attribute) {
        case 2: into = &d->pointer_mode; break;
        case 3: into = &d->transpose_a; break;
        case 4: into = &d->transpose_b; break;
        case 7: into = &d->epilogue; break;
        case 8: into = &d->bias, expected = 8; break;
        case 11: into = &d->aux, expected = 8; break;
        case 12: into = &d->aux_ld, expected = 8; break;
        case 26: into = &d->bias_type; break;
    }
    if (!into || !value || size != expected) return INVALID_VALUE;
    memcpy(into, value, size);
    return OK;
}

API int cublasLtMatrixLayoutCreate(Layout** out, int type, uint64_t rows, uint64_t columns,
                                   int64_t ld) {
    if (ld < (int64_t)rows) return INVALID_VALUE;
    *out = new Layout{type, rows, columns, ld};
    return OK;
}
API int cublasLtMatrixLayoutDestroy(Layout* layout) { delete layout; return OK; }

API int cublasLtMatmulPreferenceCreate(Preference** out) {
    *out = new Preference{0, {256, 256, 256, 256}};
    return OK;
}
API int cublasLtMatmulPreferenceDestroy(Preference* preference) { delete preference; return OK; }
API int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value,
                                             size_t size) {
    if (attribute == 1 && size == 8) memcpy(&p->workspace, value, 8);
    else if (attribute >= 5 && attribute <= 8 && size == 4)
        memcpy(&p->alignment[attribute - 5], value, 4);
    else return INVALID_VALUE;
    return OK;
}

static bool has(const Description& d, unsigned bit) { return d.epilogue & bit; }
static bool takes_vector(const Description& d) { return has(d, 4) || has(d, 16) || d.epilogue >= 256; }

// what the library refuses
static int problem_with(const Description& d, const Layout& a, const Layout& b, const Layout& dd) {
    const uint64_t m = d.transpose_a ? a.columns : a.rows, k = d.transpose_a ? a.rows : a.columns;
    const uint64_t n = d.transpose_b ? b.rows : b.columns, k2 = d.transpose_b ? b.columns : b.rows;
    if (k != k2 || m != dd.rows || n != dd.columns) return INVALID_VALUE;
    const bool known = a.type == 0 || a.type == BFLOAT16 || a.type == FLOAT16;
    if (!known || a.type != b.type || dd.type || d.scale) return NOT_SUPPORTED;
    if (d.compute != 68 && (d.compute != TFLOAT32 || a.type)) return NOT_SUPPORTED;
    if ((int)d.epilogue == refused_epilogue) return NOT_SUPPORTED;
    if (takes_vector(d) && !d.bias) return INVALID_VALUE;
    if (has(d, 128)) {
        const bool relu = has(d, 2) || has(d, 8);
        if (!d.aux || d.aux_ld < (int64_t)m || d.aux_ld % (relu ? 128 : 8)) return INVALID_VALUE;
    }
    return OK;
}

static Heuristic result(uint64_t number) {
    Heuristic h = {};
    h.algorithm.data[0] = number, h.algorithm.data[1] = MAGIC;
    h.workspace = number == 3 ? 1024 : 0;
    return h;
}

API int cublasLtMatmulAlgoGetHeuristic(void*, Description* d, Layout* a, Layout* b, Layout*,
                                       Layout* dd, Preference* p, int wanted, Heuristic* results,
                                       int* found) {
    asked = *p;
    if (int status = problem_with(*d, *a, *b, *dd)) return status;
    *found = wanted < algorithms_of ? wanted : algorithms_of;
    for (int i = 0; i < *found; ++i) results[i] = ::result(i + 1);
    return *found ? OK : NOT_SUPPORTED;
}

API int cublasLtMatmulAlgoCheck(void*, Description* d, Layout* a, Layout* b, Layout*, Layout* dd,
                                const Algorithm* algorithm, Heuristic* out) {
    if (algorithm->data[1] != MAGIC || !algorithm->data[0] || algorithm->data[0] > 3)
        return INVALID_VALUE;
    *out = result(algorithm->data[0]);
    return problem_with(*d, *a, *b, *dd);
}

static float relu(float z) { return z < 0 ? 0 : z; }
static double inner(double z) { return 0.7978845608028654 * (z + 0.044715 * z * z * z); }
static float gelu(double z) { return (float)(0.5 * z * (1 + tanh(inner(z)))); }
static float gelu_slope(double z) {
    const double t = tanh(inner(z));
    return (float)(0.5 * (1 + t) +
                   0.5 * z * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * z * z));
}

static float of_bits(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }

static float of_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent ? ldexpf((float)(1024 + fraction), exponent - 25)
                                  : ldexpf((float)fraction, -24);
    return bits >> 15 ? -size : size;
}

// entry i of an operand as the matrix units see it; of a float32 TF32 keeps 10 bits of mantissa
static float seen(const void* array, int64_t i, int64_t type) {
    if (type == FLOAT16) return of_half(((const uint16_t*)array)[i]);
    if (type == BFLOAT16) return of_bits((uint32_t)((const uint16_t*)array)[i] << 16);
    const float value = ((const float*)array)[i];
    if (type != TFLOAT32 || !isfinite(value)) return value;
    int exponent;
    const double digits = ldexp(frexp(value, &exponent), 11);
    return (float)ldexp(nearbyint(digits), exponent - 11);
}

// computes it, and frees it
API void fake_run(Product* p) {
    const Description& e = p->description;
    const float alpha = e.pointer_mode ? *(const float*)p->alpha : p->host_alpha;
    const float beta = e.pointer_mode ? *(const float*)p->beta : p->host_beta;
    const float* C = (const float*)p->c;
    float *D = (float*)p->d, *vector = (float*)e.bias;
    const int64_t m = p->m, n = p->n, k = p->k;
    std::vector<float> left(m * k), right(n * k);
    for (int64_t i = 0; i < m; ++i)
        for (int64_t l = 0; l < k; ++l)
            left[i * k + l] = seen(p->a, e.transpose_a ? l + i * p->lda : i + l * p->lda, p->type);
    for (int64_t j = 0; j < n; ++j)
        for (int64_t l = 0; l < k; ++l)
            right[j * k + l] = seen(p->b, e.transpose_b ? j + l * p->ldb : l + j * p->ldb, p->type);
    std::vector<float> sums(e.epilogue & 16 ? m : 0);
    for (int64_t j = 0; j < n; ++j)
        for (int64_t i = 0; i < m; ++i) {
            float parts[8] = {}, sum = 0;
            const float *x = &left[i * k], *y = &right[j * k];
            int64_t l = 0;
            if (p->algorithm != 2)
                for (; l + 8 <= k; l += 8)
                    for (int part = 0; part < 8; ++part) parts[part] += x[l + part] * y[l + part];
            for (; l < k; ++l) sum += x[l] * y[l];
            for (float part : parts) sum += part;
            float value = alpha * sum;
            if (beta != 0) value += beta * C[i + j * p->ldd];
            if (has(e, 4)) value += vector[i];
            if (has(e, 2)) {
                if (has(e, 128)) {
                    const int64_t bit = i + j * e.aux_ld;
                    uint8_t& byte = ((uint8_t*)e.aux)[bit / 8];
                    byte = (byte & ~(1 << bit % 8)) | (value > 0) << bit % 8;
                }
                value = relu(value);
            }
            if (has(e, 32)) {
                if (has(e, 128)) ((float*)e.aux)[i + j * e.aux_ld] = value;
                value = gelu(value);
            }
            if (has(e, 8)) {
                const int64_t bit = i + j * e.aux_ld;
                value *= ((const uint8_t*)e.aux)[bit / 8] >> bit % 8 & 1;
            }
            if (has(e, 64)) value *= gelu_slope(((const float*)e.aux)[i + j * e.aux_ld]);
            if (e.epilogue & 16) sums[i] += value;
            D[i + j * p->ldd] = value;
        }
    if (e.epilogue & 16) memcpy(vector, sums.data(), m * sizeof(float));
    if (e.epilogue == 512)
        for (int64_t j = 0; j < n; ++j) {
            vector[j] = 0;
            for (int64_t l = 0; l < k; ++l) vector[j] += right[j * k + l];
        }
    if (p->algorithm == 3) memset(p->workspace, 0xab, 1024);
    delete p;
}

API int cublasLtMatmul(void*, Description* description, const void* alpha, const void* A, Layout* a,
                       const void* B, Layout* b, const void* beta, const void* C, Layout* c, void* D,
                       Layout* d, const Algorithm* algorithm, void* workspace, size_t bytes,
                       void* stream) {
    if (int status = problem_with(*description, *a, *b, *d)) return status;
    if (C != D || c != d || algorithm->data[1] != MAGIC) return INVALID_VALUE;
    if (algorithm->data[0] == 3 && (!workspace || bytes < 1024)) return INVALID_VALUE;
    Product* p = new Product{};
    p->m = d->rows, p->n = d->columns, p->k = description->transpose_a ? a->rows : a->columns;
    p->lda = a->ld, p->ldb = b->ld, p->ldd = d->ld;
    p->type = description->compute == TFLOAT32 ? TFLOAT32 : a->type;
    p->description = *description;
    p->alpha = alpha, p->a = A, p->b = B, p->beta = beta, p->c = C, p->d = D;
    p->algorithm = algorithm->data[0];
    p->workspace = workspace, p->workspace_bytes = bytes, p->stream = stream;
    if (!description->pointer_mode)  // read now, as the library does
        p->host_alpha = *(const float*)alpha, p->host_beta = *(const float*)beta;
    if (!hook || !hook(p)) fake_run(p);
    return OK;
}

// ---------------------------------------------------------------- for the tests

API void fake_set_hook(int (*function)(Product*)) { hook = function; }
API void fake_offer(int algorithms) { algorithms_of = algorithms; }
API void fake_refuse(int epilogue) { refused_epilogue = epilogue; }
API void fake_asked(uint64_t* out) {
    out[0] = asked.workspace;
    for (int i = 0; i < 4; ++i) out[i + 1] = asked.alignment[i];
}
API Product* fake_copy(const Product* p) { return new Product(*p); }
