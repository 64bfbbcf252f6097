/* Numeric kernels, chosen once at run time for the processor at hand.
 *
 * Every kernel is void, cannot fail and keeps a fixed order of summation that depends
 * on the lengths alone, so that a row's result never depends on what else is in the
 * batch. One C source (kernels_body.h) is compiled for each instruction set; only the
 * int8 product is written for each by hand. Sets differ in the last bits, by what they
 * round in between: a set is part of "the build" in which results are reproducible.
 * Matrix products in f32 are OpenBLAS's (gemm_cblas.h).
 */
#ifndef DEAL_KERNELS_KERNELS_H
#define DEAL_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/panels.h"
#include "kernels/quant.h"

#define DEAL_BLOCK_LEN 64     // keys of one attention block
#define DEAL_HEAD_DIM_MAX 512 // dimensions of a head

// Floats that a vector over a head's dimensions is padded to.
#define DEAL_HEAD_PAD(head_dim) (((head_dim) + 15) / 16 * 16)
// Floats of one query's running attention: (head_dim padded,) sum, its maximum, total.
#define DEAL_ATTENTION_LEN(head_dim) (DEAL_HEAD_PAD(head_dim) + 16)

typedef struct deal_kernels {
    const char *name;
    bool is_unsigned; // symmetric 8-bit weights are wanted with an offset of 128

    // y[i] = x[i] w[i] / sqrt(mean(x^2) + eps);  x, w, y (n,); y may be x
    void (*rms_norm)(int32_t n, const float *x, const float *w, float eps, float *y);

    // x[i] += y[i];  x, y (n,)
    void (*add)(int32_t n, const float *y, float *x);

    // gate[i] = silu(gate[i]) up[i], silu(a) = a / (1 + exp(-a));  gate, up (n,)
    void (*silu_mul)(int32_t n, const float *up, float *gate);

    // gate[i] = gelu(gate[i]) up[i], gelu(a) = a (1 + tanh(u)) / 2 with
    // u = sqrt(2 / pi) (a + 0.044715 a^3);  gate, up (n,)
    void (*gelu_mul)(int32_t n, const float *up, float *gate);

    // x[i] = cap tanh(x[i] / cap);  x (n,)
    void (*softcap)(int32_t n, float cap, float *x);

    // Rotates pairs of one head: x (head_dim,), cos and sin (rope_dim / 2,). Pair i is
    // (2i, 2i + 1), or (i, i + rope_dim / 2) where `has_halves`.
    void (*rope)(int32_t rope_dim, int has_halves, const float *cosine,
                 const float *sine, float *x);

    // kt[d][j] = cell[j][k_offset + d] for j < n_key; kt (DEAL_HEAD_PAD(head_dim),
    // DEAL_BLOCK_LEN). Rows of a cell are padded to DEAL_HEAD_PAD(head_dim); columns up
    // to the next multiple of 16 become 0, those beyond are left alone.
    void (*transpose_keys)(int32_t n_key, int32_t head_dim, const float *const *cell,
                           size_t k_offset, float *kt);

    // Adds a block of keys and values to the running attention of `n_q` queries that
    // share a key-value head:  softmax over all blocks of (scale q . k[j]), times v[j];
    // scores go through softcap() first where `cap` is not 0.
    // q (n_q, head_dim); columns [i_first, n_key) of kt count, one at least; value j
    // lies at cell[j] + v_offset, padded to DEAL_HEAD_PAD(head_dim);
    // state (n_q, DEAL_ATTENTION_LEN(head_dim)). A block's own sums are made first and
    // then merged, so that the result does not depend on how blocks are visited.
    void (*attend)(int32_t i_first, int32_t n_key, int32_t n_q, int32_t head_dim,
                   float scale, float cap, const float *q, const float *kt,
                   const float *const *cell, size_t v_offset, float *state);

    // to[j][d] = cell[j][offset + d], f16 as f32, for j < n_row; both are padded to
    // DEAL_HEAD_PAD(head_dim), which is what is read and written. Exact.
    void (*widen)(int32_t n_row, int32_t head_dim, const uint16_t *const *cell,
                  size_t offset, float *to);

    // y[i] = x[i] as f16, to nearest, ties to even, infinite from 65520 on; returns the
    // largest |x[i]|, NaN left out.  x, y (n,)
    float (*narrow)(int32_t n, const float *x, uint16_t *y);

    // Quantises a row to 8 bits in groups of 32: x[i] ~ scale[g] q[i], q in [-127, 127]
    // to nearest, ties to even. x (n,); `to` is the row's first word in its tile, which
    // has `n_row` rows (panels.h). The last group is padded with zeros.
    void (*quantize)(int32_t n, const float *x, int32_t n_row, int32_t *to);

    // y[r, o] (+)= bias[o] + sum_g x_scale[r, g] w_scale[o, g] (q[r, g] . u[o, g])
    //                              + x_total[r, g] w_min[o, g]
    // for the outputs of panels [i_panel, i_panel + n_panel), u less its offset. Output
    // 0 of y (n_row, y_stride) and of bias (or NULL) is the first of panel i_panel;
    // y is added to where `adds`.
    void (*multiply)(const deal_panels *w, int32_t i_panel, int32_t n_panel,
                     const deal_tiles *x, const float *bias, bool adds, float *y,
                     size_t y_stride);

    // sum(exp(x - max)) of x (n,), n >= 1
    float (*sum_exp)(int32_t n, const float *x, float max);

    // Largest of x (n,), n >= 1; of no use where x holds a NaN.
    float (*max)(int32_t n, const float *x);

    // For probe.h: sum of the 64-bit words of data (size,), a multiple of 64 bytes; and
    // `n_quad` times the step that multiplies a quad of inputs of 16 outputs.
    uint64_t (*probe_read)(size_t size, const uint8_t *data);
    uint64_t (*probe_multiply)(int64_t n_quad);
} deal_kernels;

// The fastest set that the processor runs; the environment variable DEAL_ISA ("plain",
// "avx2", "avxvnni", "avx512", "neon") picks another, for tests. A name it cannot serve
// gives "plain".
const deal_kernels *deal_kernels_get(void);

// The set called `name`, or NULL where this build or processor has none.
const deal_kernels *deal_kernels_find(const char *name);

#endif
