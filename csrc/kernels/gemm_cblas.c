#include "kernels/gemm_cblas.h"

#include <cblas.h>

#ifdef DEAL_SCIPY_OPENBLAS // the wheel's symbols carry a prefix
#    define CBLAS(name) scipy_##name
#else
#    define CBLAS(name) name
#endif

void
deal_gemm_panel(int32_t n_out, int32_t n_in, const float *x, const float *w, float *y,
                size_t y_stride)
{
    CBLAS(cblas_sgemm)
    (CblasRowMajor, CblasNoTrans, CblasTrans, DEAL_GEMM_PANEL, n_out, n_in, 1.0f, x,
     n_in, w, n_in, 0.0f, y, (int)y_stride);
}

void
deal_gemm_init(void)
{
    CBLAS(openblas_set_num_threads)(1);
}

const char *
deal_gemm_config(void)
{
    return CBLAS(openblas_get_config)();
}
