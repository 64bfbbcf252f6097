/* Kernels against double-precision twins on awkward sizes, for every set that this
 * processor runs. The int8 product is in test_panels.c.
 */
#include <float.h>
#include <stdlib.h>

#include "check.h"
#include "common/rng.h"
#include "kernels/kernels.h"

// f32 sums of n terms of size 1: the error grows like n times the rounding of one.
#define TOLERANCE(n) (1e-6 * (double)(n) + 1e-6)

#define N_MAX 1023
static const int size[] = {1, 2, 3, 5, 7, 15, 16, 17, 31, 32, 33, 64, 100, 576, 1023};
#define N_SIZE (sizeof size / sizeof *size)

static float a[N_MAX], b[N_MAX], c[N_MAX];

static void
fill(float *x, int n, uint64_t stream, double scale)
{
    for (int i = 0; i < n; i++)
        x[i] = (float)((deal_rng_uniform(11, stream, (uint64_t)i) - 0.5) * 2.0 * scale);
}

static void
test_rms_norm(const deal_kernels *k)
{
    for (size_t s = 0; s < N_SIZE; s++) {
        int n = size[s];
        fill(a, n, 1, 3.0);
        fill(b, n, 2, 1.0);
        k->rms_norm(n, a, b, 1e-5f, c);
        double sum = 0.0;
        for (int i = 0; i < n; i++)
            sum += (double)a[i] * a[i];
        for (int i = 0; i < n; i++)
            CHECK_NEAR(c[i], a[i] * b[i] / sqrt(sum / n + 1e-5), TOLERANCE(3));
        k->rms_norm(n, a, b, 1e-5f, a); // in place
        CHECK(memcmp(a, c, (size_t)n * sizeof *a) == 0);
    }
}

static void
test_silu_mul(const deal_kernels *k)
{
    const double scale[] = {1.0, 30.0, 200.0};
    for (int s = 0; s < 3; s++) {
        fill(a, N_MAX, 3, scale[s]);
        fill(b, N_MAX, 4, 1.0);
        memcpy(c, a, sizeof a);
        k->silu_mul(N_MAX, b, c);
        for (int i = 0; i < N_MAX; i++)
            CHECK_NEAR(c[i], a[i] / (1.0 + exp(-(double)a[i])) * b[i],
                       1e-6 * (1.0 + fabs((double)a[i])));
    }
    for (int i = 0; i < N_MAX; i++)
        c[i] = NAN; // stays what it is, and no undefined shift on the way
    k->silu_mul(N_MAX, b, c);
    for (int i = 0; i < N_MAX; i++)
        CHECK(isnan(c[i]));
}

static void
test_gelu_mul(const deal_kernels *k)
{
    const double scale[] = {1.0, 30.0, 1e6};
    for (int s = 0; s < 3; s++) {
        fill(a, N_MAX, 3, scale[s]);
        fill(b, N_MAX, 4, 1.0);
        memcpy(c, a, sizeof a);
        k->gelu_mul(N_MAX, b, c);
        for (int i = 0; i < N_MAX; i++) {
            double x = a[i], u = sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x);
            CHECK_NEAR(c[i], x * (1.0 + tanh(u)) / 2.0 * b[i], 1e-6 * (1.0 + fabs(x)));
        }
    }
}

static void
test_softcap(const deal_kernels *k)
{
    const double scale[] = {0.1, 3.0, 60.0, 1e6};
    for (int s = 0; s < 4; s++) {
        fill(a, N_MAX, 3, scale[s]);
        memcpy(c, a, sizeof a);
        k->softcap(N_MAX, 30.0f, c);
        for (int i = 0; i < N_MAX; i++)
            CHECK_NEAR(c[i], 30.0 * tanh(a[i] / 30.0), 30.0 * 5e-7);
    }
}

static void
test_rope(const deal_kernels *k)
{
    enum { N = 20, N_PAIR = 7 }; // the last 6 dimensions are not rotated
    float cosine[N_PAIR], sine[N_PAIR];
    for (int i = 0; i < N_PAIR; i++) {
        cosine[i] = (float)cos(0.3 * i + 0.1);
        sine[i] = (float)sin(0.3 * i + 0.1);
    }
    for (int has_halves = 0; has_halves < 2; has_halves++) {
        fill(a, N, 5, 1.0);
        memcpy(c, a, sizeof(float) * N);
        k->rope(2 * N_PAIR, has_halves, cosine, sine, c);
        for (int i = 0; i < N_PAIR; i++) {
            int i0 = has_halves ? i : 2 * i, i1 = has_halves ? i + N_PAIR : 2 * i + 1;
            CHECK_NEAR(c[i0], a[i0] * cosine[i] - a[i1] * sine[i], 1e-6);
            CHECK_NEAR(c[i1], a[i0] * sine[i] + a[i1] * cosine[i], 1e-6);
        }
        CHECK(memcmp(c + 2 * N_PAIR, a + 2 * N_PAIR, 6 * sizeof *c) == 0);
    }
}

static void
test_transpose(const deal_kernels *k)
{
    enum { HEAD_DIM = 20, STRIDE = 100 };
    static float cell[DEAL_BLOCK_LEN][STRIDE], kt[32 * DEAL_BLOCK_LEN];
    const float *base[DEAL_BLOCK_LEN];
    for (int j = 0; j < DEAL_BLOCK_LEN; j++) {
        fill(cell[j], STRIDE, (uint64_t)(20 + j), 1.0);
        base[j] = cell[j];
    }
    const int n_key[] = {1, 15, 16, 17, DEAL_BLOCK_LEN};
    for (int s = 0; s < 5; s++) {
        memset(kt, 1, sizeof kt);
        k->transpose_keys(n_key[s], HEAD_DIM, base, 5, kt);
        int n_set = (n_key[s] + 15) / 16 * 16;
        for (int d = 0; d < HEAD_DIM; d++)
            for (int j = 0; j < n_set; j++)
                CHECK(kt[d * DEAL_BLOCK_LEN + j] ==
                      (j < n_key[s] ? cell[j][5 + d] : 0.0f));
    }
}

// One block after another from key `i_begin` on, the last one cut short.
static void
test_attention(const deal_kernels *k, int head_dim, int n_q, int i_begin, float cap)
{
    enum { N_KEY = 3 * DEAL_BLOCK_LEN, STRIDE = 100 };
    static float cell[N_KEY][STRIDE], q[5 * 40], state[5 * 64];
    static float kt[48 * DEAL_BLOCK_LEN];
    const float *base[N_KEY];
    for (int j = 0; j < N_KEY; j++) {
        fill(cell[j], STRIDE, (uint64_t)(20 + j), 1.0);
        memset(cell[j] + 50 + head_dim, 0, (size_t)(50 - head_dim) * sizeof(float));
        base[j] = cell[j];
    }
    fill(q, n_q * head_dim, 6, 4.0);
    int len = DEAL_ATTENTION_LEN(head_dim), n_pad = DEAL_HEAD_PAD(head_dim);
    const int n_key[] = {1, 2, 15, 63, 64, 65, 128, 150, N_KEY};
    for (int s = 0; s < 9; s++) {
        int n = n_key[s];
        if (n <= i_begin)
            continue;
        memset(state, 0, sizeof state);
        for (int h = 0; h < n_q; h++)
            state[h * len + n_pad] = -INFINITY;
        for (int j = i_begin / DEAL_BLOCK_LEN * DEAL_BLOCK_LEN; j < n;
             j += DEAL_BLOCK_LEN) {
            int n_listed = N_KEY - j < DEAL_BLOCK_LEN ? N_KEY - j : DEAL_BLOCK_LEN;
            k->transpose_keys(n_listed, head_dim, base + j, 5, kt);
            k->attend(i_begin > j ? i_begin - j : 0,
                      n - j < DEAL_BLOCK_LEN ? n - j : DEAL_BLOCK_LEN, n_q, head_dim,
                      0.3f, cap, q, kt, base + j, 50, state);
        }
        for (int h = 0; h < n_q; h++) {
            double weight[N_KEY], total = 0.0;
            for (int j = i_begin; j < n; j++) {
                double dot = 0.0;
                for (int i = 0; i < head_dim; i++)
                    dot += (double)q[h * head_dim + i] * (double)cell[j][5 + i];
                double score = 0.3 * dot;
                weight[j] = exp(cap > 0.0f ? cap * tanh(score / cap) : score);
                total += weight[j];
            }
            for (int i = 0; i < head_dim; i++) {
                double y = 0.0;
                for (int j = i_begin; j < n; j++)
                    y += weight[j] / total * (double)cell[j][50 + i];
                CHECK_NEAR(state[h * len + i] / state[h * len + n_pad + 1], y, 1e-5);
            }
        }
    }
}

// Halfway from an f16 to the next, exactly.
static float
tie_after(int bits)
{
    float x = deal_f16_to_f32((uint16_t)bits);
    return x + (deal_f16_to_f32((uint16_t)(bits + 1)) - x) / 2.0f;
}

// Every f16 there is, and back; NaN need not keep its bits.
static void
test_half(const deal_kernels *k)
{
    enum { HEAD_DIM = 20, N_PAD = DEAL_HEAD_PAD(HEAD_DIM), OFFSET = 5, N = 1 << 16 };
    static uint16_t half[OFFSET + N], bits[N_MAX + 1];
    static float wide[2][N_PAD];
    for (int i = 0; i < N; i++)
        half[OFFSET + i] = (uint16_t)i;
    for (int i = 0; i < N; i += N_PAD) { // from both ends
        const uint16_t *cell[2] = {half + i, half + N - N_PAD - i};
        k->widen(2, HEAD_DIM, cell, OFFSET, wide[0]);
        for (int r = 0; r < 2; r++) {
            k->narrow(N_PAD, wide[r], bits);
            for (int j = 0; j < N_PAD; j++) {
                float expected = deal_f16_to_f32(cell[r][OFFSET + j]);
                if (isnan(expected))
                    CHECK(isnan(wide[r][j]) && (bits[j] & 0x7fff) > 0x7c00);
                else
                    CHECK(wide[r][j] == expected && bits[j] == cell[r][OFFSET + j]);
            }
        }
    }
    // Between two of them, on any length.
    for (size_t s = 0; s < N_SIZE; s++) {
        int n = size[s];
        float largest = 0.0f;
        fill(a, n, 70 + s, 6.0);
        for (int i = 0; i < n; i++) {
            if (i % 3 == 0)
                a[i] = ldexpf(a[i], i % 60 - 40); // from below the smallest on
            if (i % 3 == 1)
                a[i] = tie_after(i * 37 % 0x7bff);
            largest = fmaxf(largest, fabsf(a[i]));
        }
        bits[n] = 0xabcd;
        CHECK(k->narrow(n, a, bits) == largest);
        CHECK_EQ_INT(bits[n], 0xabcd);
        for (int i = 0; i < n; i++)
            CHECK_EQ_INT(bits[i], deal_f32_to_f16(a[i]));
    }
    const float edge[] = {65504.0f, 65519.9f, 65520.0f, -65520.0f, NAN, 1.0f};
    const uint16_t expected[] = {0x7bff, 0x7bff, 0x7c00, 0xfc00};
    CHECK(k->narrow(6, edge, bits) == 65520.0f);
    CHECK(memcmp(bits, expected, sizeof expected) == 0);
    CHECK((bits[4] & 0x7fff) > 0x7c00);
    const float endless[] = {-INFINITY, 2.0f};
    CHECK(k->narrow(2, endless, bits) == INFINITY);
}

static void
test_quantize(const deal_kernels *k)
{
    enum { N_ROW = 3 };
    static int32_t tile[33 * DEAL_TILE_WORDS * N_ROW];
    const int length[] = {1, 31, 32, 33, 172, 576, 1023};
    for (int s = 0; s < 7; s++) {
        int n = length[s], n_group = (n + 31) / 32;
        for (int r = 0; r < N_ROW; r++) {
            fill(a, n, (uint64_t)(30 + r), 5.0);
            k->quantize(n, a, N_ROW, tile + DEAL_TILE_WORDS * r);
            for (int g = 0; g < n_group; g++) {
                const int32_t *at = tile + DEAL_TILE_WORDS * (g * N_ROW + r);
                float scale, total;
                memcpy(&scale, at + 8, 4);
                memcpy(&total, at + 9, 4);
                int sum = 0;
                for (int i = 0; i < 32; i++) {
                    int8_t q = ((const int8_t *)(at + i / 4))[i % 4];
                    int j = g * 32 + i;
                    CHECK(q >= -127);
                    CHECK_NEAR(scale * (float)q, j < n ? a[j] : 0.0f,
                               0.5001 * (double)scale);
                    sum += q;
                }
                CHECK_EQ_INT(at[10], -128 * sum);
                CHECK(total == scale * (float)sum);
            }
        }
    }
    // NaN or infinity anywhere makes the group's scale one; its neighbours stay.
    for (int i = 0; i < 64; i++) {
        float scale[2], endless = i % 3 == 0 ? -INFINITY : NAN;
        fill(a, 64, 33, 5.0);
        a[i] = endless;
        k->quantize(64, a, 1, tile);
        for (int g = 0; g < 2; g++)
            memcpy(&scale[g], tile + DEAL_TILE_WORDS * g + 8, 4);
        CHECK(isnan(endless) ? isnan(scale[i / 32]) : isinf(scale[i / 32]));
        CHECK(isfinite(scale[1 - i / 32]));
    }
    // Numbers that have no finite inverse are as good as zero.
    for (int i = 0; i < 32; i++)
        a[i] = 1e-41f;
    k->quantize(32, a, 1, tile);
    for (int i = 0; i < 8; i++)
        CHECK_EQ_INT(tile[i], 0);
    // A group of zeros has scale 0 and does not divide by it.
    memset(a, 0, sizeof a);
    k->quantize(32, a, 1, tile);
    for (int i = 0; i < DEAL_TILE_WORDS; i++)
        CHECK_EQ_INT(tile[i], 0);
}

static void
test_head(const deal_kernels *k)
{
    for (size_t s = 0; s < N_SIZE; s++) {
        int n = size[s];
        fill(a, n, 50, 20.0);
        double sum = 0.0;
        float max = a[0];
        for (int i = 0; i < n; i++)
            max = a[i] > max ? a[i] : max;
        for (int i = 0; i < n; i++)
            sum += exp((double)a[i] - (double)max);
        CHECK(k->max(n, a) == max);
        CHECK_NEAR(k->sum_exp(n, a, max), sum, 1e-6 * sum);
    }
}

static void
test_set(const deal_kernels *k)
{
    printf("kernels: %s\n", k->name);
    test_rms_norm(k);
    test_silu_mul(k);
    test_gelu_mul(k);
    test_softcap(k);
    test_rope(k);
    test_transpose(k);
    const int i_begin[] = {0, 1, 63, 64, 100};
    for (int i = 0; i < 5; i++) {
        test_attention(k, 20, 3, i_begin[i], 0.0f);
        test_attention(k, 6, 2, i_begin[i], 0.0f);
        test_attention(k, 32, 5, i_begin[i], 0.0f);
        test_attention(k, 40, 1, i_begin[i], 0.0f);
        test_attention(k, 32, 5, i_begin[i], 2.0f);
    }
    test_half(k);
    test_quantize(k);
    test_head(k);
}

// Sets round differently in between; see TOLERANCE.
static void
test_sets_agree(const deal_kernels *k)
{
    const deal_kernels *plain = deal_kernels_find("plain");
    static float x[N_MAX], y[N_MAX];
    for (size_t s = 0; s < N_SIZE; s++) {
        int n = size[s];
        fill(a, n, 60, 3.0);
        fill(b, n, 61, 3.0);
        k->rms_norm(n, a, b, 1e-5f, x);
        plain->rms_norm(n, a, b, 1e-5f, y);
        for (int i = 0; i < n; i++)
            CHECK_NEAR(x[i], y[i], TOLERANCE(3) * 10);
        memcpy(x, a, sizeof a);
        memcpy(y, a, sizeof a);
        k->silu_mul(n, b, x);
        plain->silu_mul(n, b, y);
        for (int i = 0; i < n; i++)
            CHECK_NEAR(x[i], y[i], TOLERANCE(3) * 10);
    }
}

int
main(void)
{
    const char *name[] = {"plain", "avx2", "avxvnni", "avx512", "neon"};
    for (int i = 0; i < 5; i++) {
        const deal_kernels *k = deal_kernels_find(name[i]);
        if (!k)
            continue;
        test_set(k);
        test_sets_agree(k);
    }
    CHECK(deal_kernels_find("no such set") == NULL);
    return check_report("test_kernels");
}
