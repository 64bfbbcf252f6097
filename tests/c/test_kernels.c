/* Kernels against double-precision twins on awkward sizes; all sets of kernels agree
 * bit for bit.
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
test_attention(const deal_kernels *k)
{
    enum { N_KEY = 75, HEAD_DIM = 20, N_Q = 3, STRIDE = 100 };
    static float cell[N_KEY][STRIDE], q[N_Q * HEAD_DIM], out[N_Q * HEAD_DIM];
    static float scores[N_Q * N_KEY];
    const float *base[N_KEY];
    for (int j = 0; j < N_KEY; j++) {
        fill(cell[j], STRIDE, (uint64_t)(20 + j), 1.0);
        base[j] = cell[j];
    }
    fill(q, N_Q * HEAD_DIM, 6, 4.0);
    const int n_key[] = {1, 2, 15, 16, 17, N_KEY};
    for (int s = 0; s < 6; s++) {
        int n = n_key[s];
        k->attention(n, N_Q, HEAD_DIM, 0.3f, q, base, 5, 60, scores, out);
        for (int h = 0; h < N_Q; h++) {
            double weight[N_KEY], total = 0.0;
            for (int j = 0; j < n; j++) {
                double dot = 0.0;
                for (int i = 0; i < HEAD_DIM; i++)
                    dot += (double)q[h * HEAD_DIM + i] * cell[j][5 + i];
                weight[j] = exp(0.3 * dot);
                total += weight[j];
            }
            for (int i = 0; i < HEAD_DIM; i++) {
                double y = 0.0;
                for (int j = 0; j < n; j++)
                    y += weight[j] / total * cell[j][60 + i];
                CHECK_NEAR(out[h * HEAD_DIM + i], y, 1e-5);
            }
        }
    }
}

static float wq[33 * 32], wscale[33], wmin[33];
static float xq[4 * 33 * 32], xscale[4 * 33], xtotal[4 * 33];

static void
test_quantize(const deal_kernels *k, int n)
{
    int n_group = (n + 31) / 32;
    for (int r = 0; r < 4; r++) {
        fill(a, n, (uint64_t)(30 + r), 5.0);
        float *q = xq + r * n_group * 32;
        float *scale = xscale + r * n_group, *total = xtotal + r * n_group;
        k->quantize(n, a, q, scale, total);
        for (int i = 0; i < n_group * 32; i++) {
            CHECK(q[i] == rintf(q[i]) && fabsf(q[i]) <= 127.0f);
            CHECK_NEAR(scale[i / 32] * q[i], i < n ? a[i] : 0.0f,
                       0.5001 * (double)scale[i / 32]);
        }
        for (int g = 0; g < n_group; g++) {
            double sum = 0.0;
            for (int i = 0; i < 32; i++)
                sum += (double)q[g * 32 + i];
            CHECK_NEAR(total[g], (double)scale[g] * sum, 1e-4);
        }
    }
}

static void
test_int8(const deal_kernels *k)
{
    const int length[] = {1, 31, 32, 33, 172, 576, 1023};
    for (int s = 0; s < 7; s++) {
        int n = length[s], n_group = (n + 31) / 32;
        test_quantize(k, n);
        int8_t packed[33 * 32];
        for (int i = 0; i < n_group * 32; i++)
            packed[i] = (int8_t)(deal_rng_uniform(1, 9, (uint64_t)i) * 256 - 128);
        k->widen(n_group * 32, packed, wq);
        for (int i = 0; i < n_group * 32; i++)
            CHECK(wq[i] == (float)packed[i]);
        fill(wscale, n_group, 40, 0.01);
        fill(wmin, n_group, 41, 0.5);
        float y[8], turned[4];
        k->dot4(n_group, wq, wscale, wmin, xq, xscale, xtotal, y, 2);
        for (int r = 0; r < 4; r++) {
            double sum = 0.0;
            for (int i = 0; i < n_group * 32; i++) {
                int g = i / 32;
                sum += ((double)wscale[g] * (double)wq[i] + (double)wmin[g]) *
                       (double)xscale[r * n_group + g] *
                       (double)xq[r * n_group * 32 + i];
            }
            CHECK_NEAR(y[r * 2], sum, TOLERANCE(n_group) * 100);
            // The other way round, against four copies of the weight row: the same bits.
            float w4[4 * 33 * 32], scale4[4 * 33], min4[4 * 33];
            for (int i = 0; i < 4; i++) {
                memcpy(w4 + i * n_group * 32, wq, (size_t)n_group * 32 * sizeof *wq);
                memcpy(scale4 + i * n_group, wscale, (size_t)n_group * sizeof *wscale);
                memcpy(min4 + i * n_group, wmin, (size_t)n_group * sizeof *wmin);
            }
            k->dot4(n_group, xq + r * n_group * 32, xscale + r * n_group,
                    xtotal + r * n_group, w4, scale4, min4, turned, 1);
            CHECK(memcmp(&turned[r], &y[r * 2], sizeof(float)) == 0);
        }
    }
    // A group of zeros has scale 0 and does not divide by it.
    memset(a, 0, sizeof a);
    k->quantize(32, a, xq, xscale, xtotal);
    CHECK(xscale[0] == 0.0f && xtotal[0] == 0.0f && xq[5] == 0.0f);
}

static void
test_head(const deal_kernels *k)
{
    for (size_t s = 0; s < N_SIZE; s++) {
        int n = size[s];
        fill(a, n, 50, 20.0);
        double sum = 0.0;
        for (int i = 0; i < n; i++) {
            a[i] = rintf(a[i]); // ties
            sum += exp((double)a[i]);
        }
        CHECK_NEAR(k->log_sum_exp(n, a), log(sum), 5e-6);
        int best = 0;
        for (int i = 1; i < n; i++)
            if (a[i] > a[best])
                best = i;
        CHECK_EQ_INT(k->argmax(n, a), best);
        int32_t token[N_MAX];
        for (int top = 1; top <= n; top = top < n && 2 * top > n ? n : 2 * top) {
            deal_top_k(n, a, top, token, b);
            CHECK_EQ_INT(token[0], best);
            for (int i = 0; i < top; i++)
                CHECK(b[i] == a[token[i]] &&
                      (i == 0 || b[i] < b[i - 1] ||
                       (b[i] == b[i - 1] && token[i] > token[i - 1])));
            int n_above = 0; // nothing larger was left out
            for (int i = 0; i < n; i++)
                n_above += a[i] > b[top - 1];
            CHECK(n_above < top);
            if (top == n)
                break;
        }
    }
}

static void
test_set(const deal_kernels *k)
{
    printf("kernels: %s\n", k->name);
    test_rms_norm(k);
    test_silu_mul(k);
    test_rope(k);
    test_attention(k);
    test_int8(k);
    test_head(k);
}

// The same source without fused multiply-adds: equal bits at any vector width.
static void
test_sets_agree(const deal_kernels *k)
{
    const deal_kernels *plain = &deal_kernels_plain;
    static float x[N_MAX], y[N_MAX];
    for (size_t s = 0; s < N_SIZE; s++) {
        int n = size[s];
        fill(a, n, 60, 3.0);
        fill(b, n, 61, 3.0);
        k->rms_norm(n, a, b, 1e-5f, x);
        plain->rms_norm(n, a, b, 1e-5f, y);
        CHECK(memcmp(x, y, (size_t)n * sizeof *x) == 0);
        memcpy(x, a, sizeof a);
        memcpy(y, a, sizeof a);
        k->silu_mul(n, b, x);
        plain->silu_mul(n, b, y);
        CHECK(memcmp(x, y, (size_t)n * sizeof *x) == 0);
        CHECK(k->log_sum_exp(n, a) == plain->log_sum_exp(n, a));
    }
}

int
main(void)
{
    test_set(&deal_kernels_plain);
    if (deal_kernels_get() != &deal_kernels_plain) {
        test_set(deal_kernels_get());
        test_sets_agree(deal_kernels_get());
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        test_set(&deal_kernels_avx2);
        test_sets_agree(&deal_kernels_avx2);
    }
#endif
    return check_report("test_kernels");
}
