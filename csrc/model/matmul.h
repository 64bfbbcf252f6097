/* y = x W^T for the matrices of a model, f32 or int8, over the session's threads. */
#ifndef DEAL_MODEL_MATMUL_H
#define DEAL_MODEL_MATMUL_H

#include "common/parallel.h"
#include "kernels/kernels.h"
#include "model/weights.h"

// Activations of a batch, as one kind of compute needs them.
typedef struct deal_activations {
    int32_t n_row, n_in;
    const float *x;   // (n_row rounded up to whole DEAL_GEMM_PANEL, n_in); F32
    deal_tiles tiles; // INT8
} deal_activations;

// One product of a batch: y (n_row, n_out) (+)= x W^T + bias.
typedef struct deal_product {
    const deal_matrix *w;
    const float *bias; // (n_out,) or NULL
    float *y;
    bool adds; // to what y holds
} deal_product;

#define DEAL_PRODUCTS_MAX 3 // run together

typedef struct deal_matmul {
    const deal_kernels *kernels;
    deal_pool *pool;
    deal_compute compute;
    int32_t *tiles; // scratch for one batch of quantised activations; INT8
    float *chunk;   // (n_thread, DEAL_GEMM_ROWS_MAX, DEAL_MATMUL_CHUNK); F32
    size_t size;    // bytes of scratch
} deal_matmul;

deal_status deal_matmul_init(deal_matmul *matmul, deal_pool *pool, deal_compute compute,
                             int32_t n_row_max, int32_t n_in_max, deal_error *err);
void deal_matmul_free(deal_matmul *matmul); // also of a zeroed one

// Begins a batch x (n_row, n_in), with room for whole panels of rows; each row is then
// put once it is complete, by any thread. Valid until the next batch begins.
deal_activations deal_matmul_begin(deal_matmul *matmul, int32_t n_row, int32_t n_in,
                                   float *x);
void deal_matmul_put_row(const deal_matmul *matmul, const deal_activations *x,
                         int32_t i_row);

// Puts every row of a batch that is complete as a whole.
void deal_matmul_put_rows(deal_matmul *matmul, const deal_activations *x);

// All products of a batch in one parallel loop.
void deal_matmul_run(deal_matmul *matmul, const deal_activations *x,
                     const deal_product *products, int32_t n_product);

// Outputs [i_out, i_out + n_out) of one product for every row, on thread `i_thread`;
// i_out is a multiple of DEAL_PANEL_LEN (INT8) or of DEAL_MATMUL_CHUNK, n_out at most
// DEAL_MATMUL_CHUNK. y and bias start at
// output i_out; y rows are `y_stride` apart.
void deal_matmul_chunk(const deal_matmul *matmul, const deal_activations *x,
                       const deal_matrix *w, int32_t i_out, int32_t n_out,
                       const float *bias, bool adds, float *y, size_t y_stride,
                       int32_t i_thread);

#endif
