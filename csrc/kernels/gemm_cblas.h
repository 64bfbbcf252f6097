/* f32 matrix products through OpenBLAS; gemm_cblas.c is the only file that names it.
 *
 * Batch invariance: sgemm picks its inner kernel by the shape, so that one row's result
 * may change with the number of rows, the row's place or the number of threads.
 * Products here always run in panels of exactly DEAL_GEMM_PANEL rows by DEAL_GEMM_CHUNK
 * outputs, on one BLAS thread each; 8 rows is a multiple of what every OpenBLAS kernel
 * unrolls by without passing the point where some of them switch (tests/c/test_gemm.c).
 */
#ifndef DEAL_KERNELS_GEMM_CBLAS_H
#define DEAL_KERNELS_GEMM_CBLAS_H

#include <stddef.h>
#include <stdint.h>

#define DEAL_GEMM_PANEL 8

// y[r, o] = sum_i x[r, i] w[o, i] for one panel of DEAL_GEMM_PANEL rows and `n_out`
// outputs; x (DEAL_GEMM_PANEL, n_in), w (n_out, n_in), y rows are `y_stride` apart.
// Thread-safe.
void deal_gemm_panel(int32_t n_out, int32_t n_in, const float *x, const float *w,
                     float *y, size_t y_stride);

// Holds OpenBLAS to one thread for each caller; once, at load.
void deal_gemm_init(void);

// "OpenBLAS 0.3.34 ... SkylakeX"; borrowed, static.
const char *deal_gemm_config(void);

#endif
