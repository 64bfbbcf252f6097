/* The kernels for AVX2; setup.py gives this file its flags. */
#if defined(__x86_64__)
#    include "kernels/half_avx2.h"
#    include "kernels/multiply_avx2.h"

#    define DEAL_KERNELS_SET deal_kernels_avx2
#    define DEAL_KERNELS_NAME "avx2"
#    define DEAL_KERNELS_UNSIGNED false
#    define N_VEC 8
#    define N_QUERY 1
#    include "kernels/kernels_body.h"
#else
typedef int deal_kernels_avx2; // ISO C forbids an empty file
#endif
