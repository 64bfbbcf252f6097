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
attention(int32_t n, int32_t n_q, int32_t head_dim, float scale, const float *restrict q,
          const float *const *k_base, size_t k_offset, size_t v_offset,
          float *restrict scores, float *restrict out)
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
quantize_group(const float *restrict x, int8_t *restrict q, float *scale, float *total)
{
    float max = 0.0f;
    for (int i = 0; i < DEAL_QUANT_GROUP; i++) {
        float a = fabsf(x[i]);
        max = a > max ? a : max;
    }
    float step = max / 127.0f;
    float inverse = step > 0.0f ? 1.0f / step : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < DEAL_QUANT_GROUP; i++) {
        float rounded = x[i] * inverse + 12582912.0f; // 1.5 * 2^23 rounds to even
        int32_t value = (int32_t)(rounded - 12582912.0f);
        q[i] = (int8_t)value;
        sum += value;
    }
    *scale = step;
    *total = step * (float)sum;
}

static void
quantize(int32_t n, const float *restrict x, int8_t *restrict q, float *restrict scale,
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

// sum_i a[i] b[i] over one group; exact in int32
static inline int32_t
dot_group(const int8_t *restrict a, const int8_t *restrict b)
{
    int32_t sum = 0;
    for (int i = 0; i < DEAL_QUANT_GROUP; i++)
        sum += (int32_t)((int16_t)a[i] * (int16_t)b[i]);
    return sum;
}

static void
dot_rows(int32_t n_group, const int8_t *restrict wq, const float *restrict wscale,
         const float *restrict wmin, int32_t n_row, const int8_t *restrict xq,
         const float *restrict xscale, const float *restrict xtotal, float *restrict y,
         size_t y_stride)
{
    for (int32_t r = 0; r < n_row; r++) {
        float lane[N_LANE] = {0};
        for (int32_t g0 = 0; g0 < n_group; g0 += N_LANE) {
            int32_t n = n_group - g0 < N_LANE ? n_group - g0 : N_LANE;
            float product[N_LANE];
            for (int32_t l = 0; l < n; l++)
                product[l] = (float)dot_group(wq + (g0 + l) * DEAL_QUANT_GROUP,
                                              xq + (g0 + l) * DEAL_QUANT_GROUP);
            for (int32_t l = 0; l < n; l++)
                lane[l] += product[l] * (wscale[g0 + l] * xscale[g0 + l]) +
                           wmin[g0 + l] * xtotal[g0 + l];
        }
        y[(size_t)r * y_stride] = sum_lanes(lane);
        xq += n_group * DEAL_QUANT_GROUP;
        xscale += n_group;
        xtotal += n_group;
    }
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
    .dot_rows = dot_rows,
    .log_sum_exp = log_sum_exp,
    .argmax = argmax,
};
