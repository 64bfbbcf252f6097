/* Numeric kernels, chosen once at run time for the processor at hand.
 *
 * Every kernel is void, cannot fail and keeps a fixed order of summation that depends
 * on the lengths alone: 16 interleaved partial sums, added up pairwise at the end.
 * Hence a row's result never depends on what else is in the batch. The plain C source
 * is compiled once for each instruction set; without contraction to fused multiply-adds
 * all of them give the same bits. Matrix products in f32 are OpenBLAS's (gemm_cblas.h).
 */
#ifndef DEAL_KERNELS_KERNELS_H
#define DEAL_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

typedef struct deal_kernels {
    const char *name; // "plain", "avx2", "avx512"

    // y[i] = x[i] w[i] / sqrt(mean(x^2) + eps);  x, w, y (n,)
    void (*rms_norm)(int32_t n, const float *x, const float *w, float eps, float *y);

    // x[i] += y[i];  x, y (n,)
    void (*add)(int32_t n, const float *y, float *x);

    // gate[i] = silu(gate[i]) up[i], silu(a) = a / (1 + exp(-a));  gate, up (n,)
    void (*silu_mul)(int32_t n, const float *up, float *gate);

    // Rotates pairs of one head: x (head_dim,), cos and sin (rope_dim / 2,). Pair i is
    // (2i, 2i + 1), or (i, i + rope_dim / 2) where `has_halves`.
    void (*rope)(int32_t rope_dim, int has_halves, const float *cosine,
                 const float *sine, float *x);

    // Attention of the `n_q` query heads that share one key-value head, over `n` keys:
    //     out[h] = sum_j softmax_j(scale q[h] . k[j]) v[j]
    // q, out (n_q, head_dim); key j starts at k_base[j] + k_offset, its value at
    // k_base[j] + v_offset; scores (n_q, n) is scratch.
    void (*attention)(int32_t n, int32_t n_q, int32_t head_dim, float scale,
                      const float *q, const float *const *k_base, size_t k_offset,
                      size_t v_offset, float *scores, float *out);

    // Quantises a row to 8 bits in groups of 32: x[i] ~ scale[g] q[i], q an integer in
    // [-127, 127] (to nearest, ties to even). x (n,); q (n rounded up to groups, padded
    // with 0) holds the integers as floats, in which products and sums of a group's
    // pairs are exact and vectorise on every processor; scale (n_group,); total[g] =
    // scale[g] sum(q in g) (n_group,).
    void (*quantize)(int32_t n, const float *x, float *q, float *scale, float *total);

    // y[i] = (float)q[i];  q, y (n,)
    void (*widen)(int32_t n, const int8_t *q, float *y);

    // Products of one quantised row `a` with four rows `b`, weights with activations or
    // the other way round:
    //     y[r y_stride] = sum_g a_scale[g] b_scale[r, g] (a[g] . b[r, g])
    //                           + a_extra[g] b_extra[r, g]
    // where `extra` is a weight row's minimum and an activation row's total.
    // a (32 n_group,), a_scale, a_extra (n_group,); b (4, 32 n_group),
    // b_scale, b_extra (4, n_group). The result does not depend on which side is which.
    void (*dot4)(int32_t n_group, const float *a, const float *a_scale,
                 const float *a_extra, const float *b, const float *b_scale,
                 const float *b_extra, float *y, size_t y_stride);

    // max(x) + log(sum(exp(x - max(x)))); x (n,), n >= 1
    float (*log_sum_exp)(int32_t n, const float *x);

    // Index of the largest of x (n,), the lowest among equals.
    int32_t (*argmax)(int32_t n, const float *x);
} deal_kernels;

// The fastest set that the processor runs; the environment variable DEAL_ISA ("plain",
// "avx2", "avx512") picks another, for tests. A name it cannot serve gives "plain".
const deal_kernels *deal_kernels_get(void);

extern const deal_kernels deal_kernels_plain;
#if defined(__x86_64__)
extern const deal_kernels deal_kernels_avx2;
extern const deal_kernels deal_kernels_avx512;
#endif

// The `k` largest of x (n,) by falling value, equal values by rising index; k <= n.
// token, value (k,).
void deal_top_k(int32_t n, const float *x, int32_t k, int32_t *token, float *value);

#endif
