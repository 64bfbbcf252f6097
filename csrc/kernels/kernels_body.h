/* The kernels in C: included once for each instruction set by kernels_<isa>.c, which
 * defines DEAL_KERNELS_SET, _NAME and _UNSIGNED, N_VEC (floats of a vector, 4 to 16)
 * and a function multiply(). Loops over lanes are written so that the compiler turns
 * them into vectors of any width; attention is written in vectors.
 */
#include <math.h>
#include <string.h>

#include "common/compiler.h"
#include "kernels/kernels.h"

#define N_LANE 16
#define N_BLOCK_VEC (DEAL_BLOCK_LEN / N_VEC)

typedef DEAL_VECTOR(float, N_VEC) vec;

static inline vec
load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void
store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

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

// --- rows ----------------------------------------------------------------------------

static void
rms_norm(int32_t n, const float *x, const float *restrict w, float eps, float *y)
{
    float lane[N_LANE] = {0};
    int32_t i = 0;
    for (; i + N_LANE <= n; i += N_LANE)
        for (int l = 0; l < N_LANE; l++)
            lane[l] += x[i + l] * x[i + l];
    for (int l = 0; i < n; i++, l++)
        lane[l] += x[i] * x[i];
    float factor = 1.0f / sqrtf(sum_lanes(lane) / (float)n + eps);
    for (i = 0; i < n; i++)
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

static float
sum_exp(int32_t n, const float *x, float max)
{
    float lane[N_LANE] = {0};
    int32_t i = 0;
    for (; i + N_LANE <= n; i += N_LANE)
        for (int l = 0; l < N_LANE; l++)
            lane[l] += exp_approx(x[i + l] - max);
    for (int l = 0; i < n; i++, l++)
        lane[l] += exp_approx(x[i] - max);
    return sum_lanes(lane);
}

static float
max_of(int32_t n, const float *x)
{
    float lane[N_LANE];
    int32_t i = 0;
    for (int l = 0; l < N_LANE; l++)
        lane[l] = x[0];
    for (; i + N_LANE <= n; i += N_LANE)
        for (int l = 0; l < N_LANE; l++)
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++)
        lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int l = 1; l < N_LANE; l++)
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

// --- attention -----------------------------------------------------------------------

static void
transpose_keys(int32_t n_key, int32_t head_dim, const float *const *cell,
               size_t k_offset, float *restrict kt)
{
    for (int32_t j0 = 0; j0 < DEAL_BLOCK_LEN; j0 += N_LANE) {
        if (j0 >= n_key) { // whole vectors of zeros
            for (int32_t d = 0; d < head_dim; d++)
                memset(kt + d * DEAL_BLOCK_LEN + j0, 0, N_LANE * sizeof *kt);
            continue;
        }
        static const float zeros[N_LANE];
        for (int32_t d0 = 0; d0 < head_dim; d0 += N_LANE) {
            float from[N_LANE][N_LANE];
            int32_t n_d = head_dim - d0 < N_LANE ? head_dim - d0 : N_LANE;
            for (int32_t j = 0; j < N_LANE; j++) // rows are padded to whole vectors
                memcpy(from[j], j0 + j < n_key ? cell[j0 + j] + k_offset + d0 : zeros,
                       sizeof from[j]);
            for (int32_t d = 0; d < n_d; d++) {
                float *to = kt + (d0 + d) * DEAL_BLOCK_LEN + j0;
                for (int j = 0; j < N_LANE; j++)
                    to[j] = from[j][d];
            }
        }
    }
}

// s[h][j] = q[h] . kt[:, j] for `n_q` <= 3 queries, a constant where this is inlined.
static DEAL_INLINE void
score_queries(const int n_q, int32_t head_dim, const float *q, const float *kt,
              float (*s)[DEAL_BLOCK_LEN])
{
    vec acc[3][N_BLOCK_VEC];
    DEAL_UNROLL(3)
    for (int h = 0; h < n_q; h++)
        DEAL_UNROLL(16)
    for (int i = 0; i < N_BLOCK_VEC; i++)
        acc[h][i] = (vec){0};
    for (int32_t d = 0; d < head_dim; d++, kt += DEAL_BLOCK_LEN) {
        vec k[N_BLOCK_VEC];
        DEAL_UNROLL(16)
        for (int i = 0; i < N_BLOCK_VEC; i++)
            k[i] = load(kt + i * N_VEC);
        DEAL_UNROLL(3)
        for (int h = 0; h < n_q; h++)
            DEAL_UNROLL(16)
        for (int i = 0; i < N_BLOCK_VEC; i++)
            acc[h][i] += q[h * head_dim + d] * k[i];
    }
    DEAL_UNROLL(3)
    for (int h = 0; h < n_q; h++)
        DEAL_UNROLL(16)
    for (int i = 0; i < N_BLOCK_VEC; i++)
        store(s[h] + i * N_VEC, acc[h][i]);
}

// y[h] = sum_j p[h][j] v[j] over `n_vec` vectors of dimensions from `d` on.
static DEAL_INLINE void
weigh_values(const int n_q, const int n_vec, int32_t i_first, int32_t n_key,
             float (*p)[DEAL_BLOCK_LEN], const float *const *cell, size_t at, float *y,
             size_t y_stride)
{
    vec acc[3][4];
    DEAL_UNROLL(3)
    for (int h = 0; h < n_q; h++)
        DEAL_UNROLL(4)
    for (int i = 0; i < n_vec; i++)
        acc[h][i] = (vec){0};
    for (int32_t j = i_first; j < n_key; j++) {
        const float *v = cell[j] + at;
        DEAL_UNROLL(4)
        for (int i = 0; i < n_vec; i++) {
            vec value = load(v + i * N_VEC);
            DEAL_UNROLL(3)
            for (int h = 0; h < n_q; h++)
                acc[h][i] += p[h][j] * value;
        }
    }
    DEAL_UNROLL(3)
    for (int h = 0; h < n_q; h++)
        DEAL_UNROLL(4)
    for (int i = 0; i < n_vec; i++)
        store(y + (size_t)h * y_stride + i * N_VEC, acc[h][i]);
}

// The block's sums and maximum join those of the blocks before.
static inline void
merge(int32_t n, const float *restrict y, float max, float total, float *restrict state)
{
    float *state_max = state + n, *state_total = state + n + 1;
    float both = max > *state_max ? max : *state_max;
    float old = exp_approx(*state_max - both), new = exp_approx(max - both);
    for (int32_t i = 0; i < n; i++)
        state[i] = state[i] * old + y[i] * new;
    *state_total = *state_total * old + total * new;
    *state_max = both;
}

static DEAL_INLINE void
attend_queries(const int n_q, int32_t i_first, int32_t n_key, int32_t head_dim,
               float scale, const float *q, const float *kt, const float *const *cell,
               size_t v_offset, float *state)
{
    enum { STEP = 4 };
    float s[3][DEAL_BLOCK_LEN], max[3], total[3], y[3][DEAL_HEAD_DIM_MAX];
    int32_t n_pad = DEAL_HEAD_PAD(head_dim);
    score_queries(n_q, head_dim, q, kt, s);
    for (int h = 0; h < n_q; h++) {
        for (int j = 0; j < DEAL_BLOCK_LEN; j++)
            s[h][j] = j >= i_first && j < n_key ? s[h][j] * scale : -INFINITY;
        max[h] = max_of(DEAL_BLOCK_LEN, s[h]);
        float lane[N_LANE] = {0};
        for (int j = 0; j < DEAL_BLOCK_LEN; j += N_LANE)
            for (int l = 0; l < N_LANE; l++) {
                s[h][j + l] = exp_approx(s[h][j + l] - max[h]);
                lane[l] += s[h][j + l];
            }
        total[h] = sum_lanes(lane);
    }
    int32_t d = 0;
    for (; d + STEP * N_VEC <= n_pad; d += STEP * N_VEC)
        weigh_values(n_q, STEP, i_first, n_key, s, cell, v_offset + (size_t)d, y[0] + d,
                     DEAL_HEAD_DIM_MAX);
    for (; d < n_pad; d += N_VEC)
        weigh_values(n_q, 1, i_first, n_key, s, cell, v_offset + (size_t)d, y[0] + d,
                     DEAL_HEAD_DIM_MAX);
    for (int h = 0; h < n_q; h++)
        merge(n_pad, y[h], max[h], total[h], state + h * DEAL_ATTENTION_LEN(head_dim));
}

static void
attend(int32_t i_first, int32_t n_key, int32_t n_q, int32_t head_dim, float scale,
       const float *q, const float *kt, const float *const *cell, size_t v_offset,
       float *state)
{
    size_t n_state = (size_t)DEAL_ATTENTION_LEN(head_dim);
    int32_t h = 0;
    for (; h + N_QUERY <= n_q; h += N_QUERY)
        attend_queries(N_QUERY, i_first, n_key, head_dim, scale, q + h * head_dim, kt,
                       cell, v_offset, state + (size_t)h * n_state);
    for (; h < n_q; h++)
        attend_queries(1, i_first, n_key, head_dim, scale, q + h * head_dim, kt, cell,
                       v_offset, state + (size_t)h * n_state);
}

// --- quantised rows ------------------------------------------------------------------

static inline void
quantize_group(const float *restrict x, int32_t n_row, int32_t *restrict to)
{
    float lane[N_LANE];
    for (int l = 0; l < N_LANE; l++) {
        float a = fabsf(x[l]), b = fabsf(x[l + N_LANE]);
        lane[l] = a > b ? a : b;
    }
    float max = 0.0f;
    for (int l = 0; l < N_LANE; l++)
        max = lane[l] > max ? lane[l] : max;
    float step = max / 127.0f;
    float inverse = step > 0.0f ? 1.0f / step : 0.0f;
    int8_t q[DEAL_QUANT_GROUP];
    int32_t sum = 0;
    for (int i = 0; i < DEAL_QUANT_GROUP; i++) {
        // 1.5 * 2^23 rounds to an integer, ties to even
        int32_t rounded = (int32_t)((x[i] * inverse + 12582912.0f) - 12582912.0f);
        q[i] = (int8_t)rounded;
        sum += rounded;
    }
    for (int k = 0; k < 8; k++)
        memcpy(to + (size_t)k * (size_t)n_row, q + 4 * k, 4);
    float total = step * (float)sum;
    memcpy(to + 8 * (size_t)n_row, &step, 4);
    memcpy(to + 9 * (size_t)n_row, &total, 4);
    to[10 * (size_t)n_row] = -128 * sum;
}

static void
quantize(int32_t n, const float *x, int32_t n_row, int32_t *to)
{
    for (; n >= DEAL_QUANT_GROUP; n -= DEAL_QUANT_GROUP, x += DEAL_QUANT_GROUP) {
        quantize_group(x, n_row, to);
        to += DEAL_TILE_WORDS * (size_t)n_row;
    }
    if (n > 0) {
        float padded[DEAL_QUANT_GROUP] = {0};
        memcpy(padded, x, (size_t)n * sizeof *x);
        quantize_group(padded, n_row, to);
    }
}

const deal_kernels DEAL_KERNELS_SET = {
    .name = DEAL_KERNELS_NAME,
    .is_unsigned = DEAL_KERNELS_UNSIGNED,
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .rope = rope,
    .transpose_keys = transpose_keys,
    .attend = attend,
    .quantize = quantize,
    .multiply = multiply,
    .sum_exp = sum_exp,
    .max = max_of,
};
