/* y = x W^T for the matrices of a model, f32 or int8, over the session's threads. */
#ifndef DEAL_MODEL_MATMUL_H
#define DEAL_MODEL_MATMUL_H

#include "common/parallel.h"
#include "kernels/kernels.h"
#include "model/weights.h"

// Activations of a batch, as one kind of compute needs them. Rows are padded to whole
// panels of DEAL_GEMM_PANEL (F32) and whole groups of 32 (INT8).
typedef struct deal_activations {
    int32_t n_row, n_in;
    const float *x; // (n_row rounded up to panels, n_in)
    float *q;       // (n_row, 32 n_group) integers; INT8 only, as are the two below
    float *scale;   // (n_row, n_group)
    float *total;   // (n_row, n_group)
} deal_activations;

typedef struct deal_matmul {
    const deal_kernels *kernels;
    deal_pool *pool;
    deal_compute compute;
    int32_t n_in_max;
    // scratch
    float *q;             // (n_row_max, n_in_max rounded up to groups)
    float *scale, *total; // (n_row_max, n_group)
    int8_t *packed;       // (n_thread, n_in_max rounded up to groups) one weight row
    float *wq;            // (n_thread, 4, n_in_max rounded up to groups) four of them
    float *wscale, *wmin; // (n_thread, 4, n_group)
    size_t size;          // bytes of scratch
} deal_matmul;

deal_status deal_matmul_init(deal_matmul *matmul, deal_pool *pool, deal_compute compute,
                             int32_t n_row_max, int32_t n_in_max, deal_error *err);
void deal_matmul_free(deal_matmul *matmul); // also of a zeroed one

// Makes x (n_row, n_in) ready. `x` must have room for whole panels; rows past n_row are
// zeroed. Valid until the next call.
deal_activations deal_matmul_prepare(deal_matmul *matmul, int32_t n_row, int32_t n_in,
                                     float *x);

// y (n_row rounded up to panels, n_out) = x W^T + bias; `bias` (n_out,) or NULL. What
// lies in rows past n_row is of no use.
void deal_matmul_run(deal_matmul *matmul, const deal_activations *x,
                     const deal_matrix *w, const float *bias, float *y);

#endif
