/* gemm_cblas.h in plain C, for builds without OpenBLAS: make test-neon. */
#include "kernels/gemm_cblas.h"

void
deal_gemm(int32_t n_row, int32_t n_out, int32_t n_in, const float *x, const float *w,
          float *y, size_t y_stride)
{
    for (int32_t r = 0; r < n_row; r++)
        for (int32_t o = 0; o < n_out; o++) {
            float sum = 0.0f;
            for (int32_t i = 0; i < n_in; i++)
                sum += x[(size_t)r * (size_t)n_in + (size_t)i] *
                       w[(size_t)o * (size_t)n_in + (size_t)i];
            y[(size_t)r * y_stride + (size_t)o] = sum;
        }
}

deal_gemm_sizes
deal_gemm_sizes_get(int32_t n_out, int32_t n_in)
{
    (void)n_out;
    (void)n_in;
    return UINT32_MAX; // a row's sum is the same in any company
}

void
deal_gemm_init(void)
{
}

const char *
deal_gemm_config(void)
{
    return "no OpenBLAS";
}
