/* The kernels in plain C: included once for each instruction set by kernels_<isa>.c,
 * which defines DEAL_KERNELS_SET and DEAL_KERNELS_NAME. Loops over 16 lanes are written
 * so that the compiler turns them into vectors of any width.
 */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

#define N_LANE 16

static inline float
sum_lanes(const float lane[N_LANE])
{
    float s8[8], s4[4];
    for (int i = 0; i < 8; i++)
        s8[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++)
        s4[i] = s8[i] + s8[i + 4];
    return (s4[0] + s4[2]) + (s4[1] + s4[3]);
}

// sum_i a[i] b[i]
static inline float
dot(int32_t n, const float *restrict a, const float *restrict b)
{
    float lane[N_LANE] = {0};
    int32_t i = 0;
    for (; i + N_LANE <= n; i += N_LANE)
        for (int l = 0; l < N_LANE; l++)
            lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++)
        lane[l] += a[i] * b[i];
    return sum_lanes(lane);
}

// e^x for x <= 88, relative error below 2e-7; below -87 it is 0. e^x = 2^m e^r with
// |r| <= ln(2) / 2, and the Taylor polynomial of degree 7 for e^r.
static inline float
exp_approx(float x)
{
    float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float m = clamped * 1.44269504f + 12582912.0f; // 1.5 * 2^23 rounds to an integer
    float n = m - 12582912.0f;
    float r = clamped - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        int32_t i;
        float f;
    } power = {.i = ((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : p * power.f;
}

static void
rms_norm(int32_t n, const float *restrict x, const float *restrict w, float eps,
         float *restrict y)
{
    float mean = dot(n, x, x) / (float)n;
    float factor = 1.0f / sqrtf(mean + eps);
    for (int32_t i = 0; i < n; i++)
        y[i] = x[i] * factor * w[i];
}

static void
add(int32_t n, const float *restrict y, float *restrict x)
{
    for (int32_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void
silu_mul(int32_t n, const float *restrict up, float *restrict gate)
{
    for (int32_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + exp_approx(-gate[i])) * up[i];
}

static void
rope(int32_t rope_dim, int has_halves, const float *restrict cosine,
     const float *restrict sine, float *restrict x)
{
    int32_t n_pair = rope_dim / 2;
    if (has_halves) {
        for (int32_t i = 0; i < n_pair; i++) {
            float a = x[i], b = x[i + n_pair];
            x[i] = a * cosine[i] - b * sine[i];
            x[i + n_pair] = a * sine[i] + b * cosine[i];
        }
    } else {
        for (int32_t i = 0; i < n_pair; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * cosine[i] - b * sine[i];
            x[2 * i + 1] = a * sine[i] + b * cosine[i];
        }
    }
}

// scores (n,) -> exp(scores - max); returns their sum
static inline float
exp_minus_max(int32_t n, const float *x, float *y, int keeps)
{
    float max = x[0];
    for (int32_t j = 1; j < n; j++)
        max = x[j] > max ? x[j] : max;
    float lane[N_LANE] = {0};
    int32_t j = 0;
    for (; j + N_LANE <= n; j += N_LANE)
        for (int l = 0; l < N_LANE; l++) {
            float e = exp_approx(x[j + l] - max);
            lane[l] += e;
            if (keeps)
                y[j + l] = e;
        }
    for (int l = 0; j < n; j++, l++) {
        float e = exp_approx(x[j] - max);
        lane[l] += e;
        if (keeps)
            y[j] = e;
    }
    return sum_lanes(lane);
}

static void
attention(int32_t n, int32_t n_q, int32_t head_dim, float scale,
          const float *restrict q, const float *const *k_base, size_t k_offset,
          size_t v_offset, float *restrict scores, float *restrict out)
{
    for (int32_t j = 0; j < n; j++) {
        const float *k = k_base[j] + k_offset; // (head_dim,)
        for (int32_t h = 0; h < n_q; h++)
            scores[(size_t)h * (size_t)n + (size_t)j] =
                scale * dot(head_dim, q + (size_t)h * (size_t)head_dim, k);
    }
    for (int32_t h = 0; h < n_q; h++) {
        float *p = scores + (size_t)h * (size_t)n; // (n,)
        float total = exp_minus_max(n, p, p, 1);
        float *y = out + (size_t)h * (size_t)head_dim;
        memset(y, 0, (size_t)head_dim * sizeof *y);
        for (int32_t j = 0; j < n; j++) {
            const float *v = k_base[j] + v_offset; // (head_dim,)
            for (int32_t i = 0; i < head_dim; i++)
                y[i] += p[j] * v[i];
        }
        float factor = 1.0f / total;
        for (int32_t i = 0; i < head_dim; i++)
            y[i] *= factor;
    }
}

static void
quantize_group(const float *restrict x, float *restrict q, float *scale, float *total)
{
    float max = 0.0f;
    for (int i = 0; i < DEAL_QUANT_GROUP; i++) {
        float a = fabsf(x[i]);
        max = a > max ? a : max;
    }
    float step = max / 127.0f;
    float inverse = step > 0.0f ? 1.0f / step : 0.0f;
    float lane[N_LANE] = {0};
    for (int i = 0; i < DEAL_QUANT_GROUP; i++)
        q[i] =
            (x[i] * inverse + 12582912.0f) - 12582912.0f; // 1.5 * 2^23 rounds to even
    for (int l = 0; l < N_LANE; l++)
        lane[l] = q[l] + q[l + N_LANE];
    *scale = step;
    *total = step * sum_lanes(lane);
}

static void
quantize(int32_t n, const float *restrict x, float *restrict q, float *restrict scale,
         float *restrict total)
{
    int32_t n_whole = n / DEAL_QUANT_GROUP;
    for (int32_t g = 0; g < n_whole; g++)
        quantize_group(x + g * DEAL_QUANT_GROUP, q + g * DEAL_QUANT_GROUP, scale + g,
                       total + g);
    int32_t n_rest = n - n_whole * DEAL_QUANT_GROUP;
    if (n_rest > 0) {
        float padded[DEAL_QUANT_GROUP] = {0};
        memcpy(padded, x + n_whole * DEAL_QUANT_GROUP, (size_t)n_rest * sizeof *x);
        quantize_group(padded, q + n_whole * DEAL_QUANT_GROUP, scale + n_whole,
                       total + n_whole);
    }
}

static void
widen(int32_t n, const int8_t *restrict q, float *restrict y)
{
    for (int32_t i = 0; i < n; i++)
        y[i] = (float)q[i];
}

// NB: four named accumulators and one loop over lanes; arrays of rows keep the compiler
// from holding them in registers, at a tenth of the speed.
static void
dot4(int32_t n_group, const float *restrict a, const float *restrict a_scale,
     const float *restrict a_extra, const float *restrict b,
     const float *restrict b_scale, const float *restrict b_extra, float *restrict y,
     size_t y_stride)
{
    const float *b0 = b, *b1 = b0 + n_group * DEAL_QUANT_GROUP;
    const float *b2 = b1 + n_group * DEAL_QUANT_GROUP;
    const float *b3 = b2 + n_group * DEAL_QUANT_GROUP;
    float y0[N_LANE] = {0}, y1[N_LANE] = {0}, y2[N_LANE] = {0}, y3[N_LANE] = {0};
    float e0 = 0.0f, e1 = 0.0f, e2 = 0.0f, e3 = 0.0f;
    for (int32_t g = 0; g < n_group; g++) {
        float s0 = a_scale[g] * b_scale[g], s1 = a_scale[g] * b_scale[g + n_group];
        float s2 = a_scale[g] * b_scale[g + 2 * n_group];
        float s3 = a_scale[g] * b_scale[g + 3 * n_group];
        int32_t i = g * DEAL_QUANT_GROUP;
        for (int l = 0; l < N_LANE; l++) {
            float low = a[i + l], high = a[i + l + N_LANE];
            y0[l] += (low * b0[i + l] + high * b0[i + l + N_LANE]) * s0;
            y1[l] += (low * b1[i + l] + high * b1[i + l + N_LANE]) * s1;
            y2[l] += (low * b2[i + l] + high * b2[i + l + N_LANE]) * s2;
            y3[l] += (low * b3[i + l] + high * b3[i + l + N_LANE]) * s3;
        }
        e0 += a_extra[g] * b_extra[g];
        e1 += a_extra[g] * b_extra[g + n_group];
        e2 += a_extra[g] * b_extra[g + 2 * n_group];
        e3 += a_extra[g] * b_extra[g + 3 * n_group];
    }
    y[0] = sum_lanes(y0) + e0;
    y[y_stride] = sum_lanes(y1) + e1;
    y[2 * y_stride] = sum_lanes(y2) + e2;
    y[3 * y_stride] = sum_lanes(y3) + e3;
}

static float
log_sum_exp(int32_t n, const float *x)
{
    float max = x[0];
    for (int32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max + logf(exp_minus_max(n, x, NULL, 0));
}

// Finds the maximum first, which vectorises, then its first place.
static int32_t
argmax(int32_t n, const float *x)
{
    float max = x[0];
    for (int32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int32_t i = 0; i < n; i++)
        if (x[i] == max)
            return i;
    return 0; // only where x holds a NaN, which the caller refuses
}

const deal_kernels DEAL_KERNELS_SET = {
    .name = DEAL_KERNELS_NAME,
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .rope = rope,
    .attention = attention,
    .quantize = quantize,
    .widen = widen,
    .dot4 = dot4,
    .log_sum_exp = log_sum_exp,
    .argmax = argmax,
};
