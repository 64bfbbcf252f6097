/* The kernels compiled for AVX2; setup.py gives this file its flags. */
#if defined(__x86_64__)
#    define DEAL_KERNELS_SET deal_kernels_avx2
#    define DEAL_KERNELS_NAME "avx2"
#    include "kernels/kernels_body.h"
#else
typedef int deal_kernels_avx2; // ISO C forbids an empty file
#endif
