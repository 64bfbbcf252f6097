/* f32 matrix products through OpenBLAS; gemm_cblas.c is the only file that names it.
 *
 * Batch invariance: sgemm picks its inner kernel by the shape, so that one row's result
 * may change with the number of rows, the row's place or the number of threads.
 * Products here run on one BLAS thread each, in panels of exactly DEAL_GEMM_PANEL rows:
 * 8 rows is a multiple of what every OpenBLAS kernel unrolls by without passing the
 * point where some of them switch. More rows at once spare packing the weights again,
 * and are taken where the processor's kernel was seen to give the bits of panels
 * (tests/c/test_gemm.c).
 */
#ifndef DEAL_KERNELS_GEMM_CBLAS_H
#define DEAL_KERNELS_GEMM_CBLAS_H

#include <stddef.h>
#include <stdint.h>

#define DEAL_GEMM_PANEL 8
#define DEAL_GEMM_ROWS_MAX 128

// Set of numbers of rows, bit r / DEAL_GEMM_PANEL - 1 for r rows; a panel always.
typedef uint32_t deal_gemm_sizes;

// y[r, o] = sum_i x[r, i] w[o, i] for `n_row` rows, a multiple of DEAL_GEMM_PANEL and
// at most DEAL_GEMM_ROWS_MAX, and `n_out` outputs; x (n_row, n_in), w (n_out, n_in), y
// rows are `y_stride` apart. Thread-safe.
void deal_gemm(int32_t n_row, int32_t n_out, int32_t n_in, const float *x,
               const float *w, float *y, size_t y_stride);

// Numbers of rows whose products of this shape have the bits of panels. Tried with
// random numbers, which the choice of a kernel does not look at, and remembered by
// shape; thread-safe. Where there is no memory to try, a panel.
deal_gemm_sizes deal_gemm_sizes_get(int32_t n_out, int32_t n_in);

// Holds OpenBLAS to one thread for each caller; once, at load.
void deal_gemm_init(void);

// "OpenBLAS 0.3.34 ... SkylakeX"; borrowed, static.
const char *deal_gemm_config(void);

#endif
