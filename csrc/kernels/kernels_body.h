/* The kernels in C: included once for each instruction set by kernels_<isa>.c, which
 * defines DEAL_KERNELS_SET, _NAME and _UNSIGNED, N_VEC (floats of a vector, 4 to 16),
 * N_QUERY (queries that attend together, up to 3) and functions multiply() and
 * probe_multiply(). Loops over lanes are written so that the compiler turns them into
 * vectors of any width; attention is written in vectors.
 */
#include <math.h>
#include <string.h>

#include "common/compiler.h"
#include "kernels/kernels.h"
#include "kernels/quantize_store.h"

#define N_LANE 16
#define N_BLOCK_VEC (DEAL_BLOCK_LEN / N_VEC)
#define N_KEY_VEC (N_BLOCK_VEC < 8 ? N_BLOCK_VEC : 8) // sums of one query in registers

#ifndef LARGER // of two floats; of no use for a NaN
#    define LARGER(a, b) ((a) > (b) ? (a) : (b))
#endif

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

static inline float
max_lanes(const float lane[N_LANE])
{
    float m8[8], m4[4];
    for (int i = 0; i < 8; i++)
        m8[i] = LARGER(lane[i], lane[i + 8]);
    for (int i = 0; i < 4; i++)
        m4[i] = LARGER(m8[i], m8[i + 4]);
    return LARGER(LARGER(m4[0], m4[2]), LARGER(m4[1], m4[3]));
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
    // The last bits of m's representation are n. Taken from there, and not from a
    // conversion, which NaN has none of; its p is NaN, and so is the result.
    union {
        float f;
        uint32_t u;
    } power = {.f = m};
    power.u = (power.u + 127) << 23;
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
gelu_mul(int32_t n, const float *restrict up, float *restrict gate)
{
    const float twice =
        1.59576912f; // 2 sqrt(2 / pi): (1 + tanh(u)) / 2 is 1 / (1 + e^-2u)
    for (int32_t i = 0; i < n; i++) {
        float a = gate[i];
        gate[i] = a / (1.0f + exp_approx(-twice * (a + 0.044715f * a * a * a))) * up[i];
    }
}

static void
softcap(int32_t n, float cap, float *x)
{
    float twice = 2.0f / cap;
    for (int32_t i = 0; i < n; i++)
        x[i] = cap - 2.0f * cap / (exp_approx(x[i] * twice) + 1.0f);
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
            lane[l] = LARGER(x[i + l], lane[l]);
    for (; i < n; i++)
        lane[0] = LARGER(x[i], lane[0]);
    return max_lanes(lane);
}

// --- attention -----------------------------------------------------------------------

#ifndef DEAL_HAS_TRANSPOSE_16
// to[d][j] = from[j][d] for 16 rows of 16, `stride` floats from one `to` to the next
static inline void
transpose_16(const float *const *from, size_t offset, float *restrict to, size_t stride)
{
    for (size_t j0 = 0; j0 < N_LANE; j0 += 4) { // squares of four stay in registers
        const float *a = from[j0] + offset, *b = from[j0 + 1] + offset;
        const float *c = from[j0 + 2] + offset, *d = from[j0 + 3] + offset;
        for (size_t i = 0; i < N_LANE; i++) {
            float row[4] = {a[i], b[i], c[i], d[i]};
            memcpy(to + i * stride + j0, row, sizeof row);
        }
    }
}
#endif

// Sixteen keys by sixteen dimensions at a time; rows are padded to whole vectors, and
// what is padding in kt is not read.
static void
transpose_keys(int32_t n_key, int32_t head_dim, const float *const *cell,
               size_t k_offset, float *restrict kt)
{
    static const float zeros[DEAL_HEAD_DIM_MAX];
    for (int32_t j0 = 0; j0 < n_key; j0 += N_LANE) {
        const float *from[N_LANE];
        for (int32_t j = 0; j < N_LANE; j++)
            from[j] = j0 + j < n_key ? cell[j0 + j] + k_offset : zeros;
        for (int32_t d = 0; d < head_dim; d += N_LANE)
            transpose_16(from, (size_t)d, kt + (size_t)d * DEAL_BLOCK_LEN + j0,
                         DEAL_BLOCK_LEN);
    }
}

// s[h][j] = q[h] . kt[:, j] for `n_q` <= 3 queries and `n_part` sixteens of keys from
// j0 on, constants where this is inlined.
static DEAL_INLINE void
score_queries(const int n_q, const int n_part, int32_t head_dim, const float *q,
              const float *kt, int j0, float (*s)[DEAL_BLOCK_LEN])
{
    const int n_vec = n_part * N_LANE / N_VEC;
    vec acc[3][N_KEY_VEC];
    DEAL_UNROLL(3)
    for (int h = 0; h < n_q; h++)
        DEAL_UNROLL(8)
    for (int i = 0; i < n_vec; i++)
        acc[h][i] = (vec){0};
    for (int32_t d = 0; d < head_dim; d++, kt += DEAL_BLOCK_LEN) {
        vec k[N_KEY_VEC];
        DEAL_UNROLL(8)
        for (int i = 0; i < n_vec; i++)
            k[i] = load(kt + j0 + i * N_VEC);
        DEAL_UNROLL(3)
        for (int h = 0; h < n_q; h++)
            DEAL_UNROLL(8)
        for (int i = 0; i < n_vec; i++)
            acc[h][i] += q[h * head_dim + d] * k[i];
    }
    DEAL_UNROLL(3)
    for (int h = 0; h < n_q; h++)
        DEAL_UNROLL(8)
    for (int i = 0; i < n_vec; i++)
        store(s[h] + j0 + i * N_VEC, acc[h][i]);
}

// The same for as many of `n_part` sixteens as sums fit into the registers.
static DEAL_INLINE void
score_some(const int n_q, int n_part, int32_t head_dim, const float *q, const float *kt,
           int j0, float (*s)[DEAL_BLOCK_LEN])
{
    enum { N_PART_MAX = N_KEY_VEC * N_VEC / N_LANE };
    switch (n_part < N_PART_MAX ? n_part : N_PART_MAX) {
    case 1:
        score_queries(n_q, 1, head_dim, q, kt, j0, s);
        break;
#if N_KEY_VEC * N_VEC >= 32
    case 2:
        score_queries(n_q, 2, head_dim, q, kt, j0, s);
        break;
#endif
#if N_KEY_VEC * N_VEC >= 64
    case 3:
        score_queries(n_q, 3, head_dim, q, kt, j0, s);
        break;
    case 4:
        score_queries(n_q, 4, head_dim, q, kt, j0, s);
        break;
#endif
    }
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
               float scale, float cap, const float *q, const float *kt,
               const float *const *cell, size_t v_offset, float *state)
{
    enum { STEP = 4 };
    float s[3][DEAL_BLOCK_LEN], max[3], total[3], y[3][DEAL_HEAD_DIM_MAX];
    int32_t n_pad = DEAL_HEAD_PAD(head_dim);
    const int32_t n_score = (n_key + N_LANE - 1) / N_LANE * N_LANE;
    for (int j0 = 0; j0 < n_score; j0 += N_KEY_VEC * N_VEC)
        score_some(n_q, (n_score - j0) / N_LANE, head_dim, q, kt, j0, s);
    for (int h = 0; h < n_q; h++) {
        for (int j = 0; j < n_score; j++)
            s[h][j] *= scale;
        if (cap > 0.0f)
            softcap(n_score, cap, s[h]);
        for (int j = 0; j < n_score; j++)
            s[h][j] = j >= i_first && j < n_key ? s[h][j] : -INFINITY;
        max[h] = max_of(n_score, s[h]);
        float lane[N_LANE] = {0};
        for (int j = 0; j < n_score; j += N_LANE)
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
       float cap, const float *q, const float *kt, const float *const *cell,
       size_t v_offset, float *state)
{
    size_t n_state = (size_t)DEAL_ATTENTION_LEN(head_dim);
    int32_t h = 0;
    for (; h + N_QUERY <= n_q; h += N_QUERY)
        attend_queries(N_QUERY, i_first, n_key, head_dim, scale, cap, q + h * head_dim,
                       kt, cell, v_offset, state + (size_t)h * n_state);
    for (; h < n_q; h++)
        attend_queries(1, i_first, n_key, head_dim, scale, cap, q + h * head_dim, kt,
                       cell, v_offset, state + (size_t)h * n_state);
}

// --- half precision ------------------------------------------------------------------

#ifndef DEAL_HAS_HALF
static inline void
widen_16(const uint16_t *x, float *y)
{
    for (int l = 0; l < N_LANE; l++)
        y[l] = deal_f16_to_f32(x[l]);
}

static inline void
narrow_16(const float *x, uint16_t *y)
{
    for (int l = 0; l < N_LANE; l++)
        y[l] = deal_f32_to_f16(x[l]);
}
#endif

static void
widen(int32_t n_row, int32_t head_dim, const uint16_t *const *cell, size_t offset,
      float *to)
{
    int32_t n_pad = DEAL_HEAD_PAD(head_dim);
    for (int32_t j = 0; j < n_row; j++, to += n_pad)
        for (int32_t d = 0; d < n_pad; d += N_LANE)
            widen_16(cell[j] + offset + d, to + d);
}

static float
narrow(int32_t n, const float *x, uint16_t *y)
{
    float largest[N_LANE] = {0};
    for (int32_t i = 0; i < n; i += N_LANE) {
        int32_t n_lane = n - i < N_LANE ? n - i : N_LANE;
        float part[N_LANE] = {0};
        uint16_t bits[N_LANE];
        memcpy(part, x + i, (size_t)n_lane * sizeof *x);
        narrow_16(part, bits);
        memcpy(y + i, bits, (size_t)n_lane * sizeof *y);
        for (int l = 0; l < N_LANE; l++)
            largest[l] = LARGER(fabsf(part[l]), largest[l]);
    }
    return max_lanes(largest);
}

// --- quantised rows ------------------------------------------------------------------

#ifndef DEAL_HAS_QUANTIZE_GROUP
static inline void
quantize_group(const float *restrict x, int32_t *restrict to)
{
    int32_t bits[DEAL_QUANT_GROUP];
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < DEAL_QUANT_GROUP; i++)
        bits[i] &= QUANTIZE_MAGNITUDE;
    for (int n = DEAL_QUANT_GROUP / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            bits[i] = bits[i] > bits[i + n] ? bits[i] : bits[i + n];
    float max;
    memcpy(&max, bits, sizeof max);
    if (bits[0] >= QUANTIZE_ENDLESS) {
        quantize_store_endless(max, to);
        return;
    }
    float step = max / 127.0f;
    float inverse = step >= FLT_MIN ? 1.0f / step : 0.0f;
    int8_t q[DEAL_QUANT_GROUP];
    int32_t quad[8], sum = 0;
    for (int i = 0; i < DEAL_QUANT_GROUP; i++) {
        // 1.5 * 2^23 rounds to an integer, ties to even
        int32_t rounded = (int32_t)((x[i] * inverse + 12582912.0f) - 12582912.0f);
        q[i] = (int8_t)rounded;
        sum += rounded;
    }
    memcpy(quad, q, sizeof quad);
    quantize_store(quad, step, sum, to);
}
#endif

static void
quantize(int32_t n, const float *x, int32_t n_row, int32_t *to)
{
    for (; n >= DEAL_QUANT_GROUP; n -= DEAL_QUANT_GROUP, x += DEAL_QUANT_GROUP) {
        quantize_group(x, to);
        to += DEAL_TILE_WORDS * (size_t)n_row;
    }
    if (n > 0) {
        float padded[DEAL_QUANT_GROUP] = {0};
        memcpy(padded, x, (size_t)n * sizeof *x);
        quantize_group(padded, to);
    }
}

static uint64_t
probe_read(size_t size, const uint8_t *data)
{
    typedef DEAL_VECTOR(uint64_t, N_VEC / 2) words;
    words sum[4] = {{0}};
    for (; size >= sizeof sum; size -= sizeof sum)
        DEAL_UNROLL(4)
    for (int i = 0; i < 4; i++, data += sizeof *sum) {
        words w;
        memcpy(&w, data, sizeof w);
        sum[i] += w;
    }
    uint64_t total = 0;
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < N_VEC / 2; l++)
            total += sum[i][l];
    return total;
}

const deal_kernels DEAL_KERNELS_SET = {
    .name = DEAL_KERNELS_NAME,
    .is_unsigned = DEAL_KERNELS_UNSIGNED,
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .softcap = softcap,
    .rope = rope,
    .transpose_keys = transpose_keys,
    .attend = attend,
    .widen = widen,
    .narrow = narrow,
    .quantize = quantize,
    .multiply = multiply,
    .sum_exp = sum_exp,
    .max = max_of,
    .probe_read = probe_read,
    .probe_multiply = probe_multiply,
};
