/* The kernels for any processor, and the choice among the sets. */
#define DEAL_KERNELS_SET deal_kernels_plain
#define DEAL_KERNELS_NAME "plain"
#include "kernels/kernels_body.h"

#include <stdlib.h>

const deal_kernels *
deal_kernels_get(void)
{
    const char *name = getenv("DEAL_ISA");
    (void)name;
#if defined(__x86_64__)
    __builtin_cpu_init();
    int has_avx2 = __builtin_cpu_supports("avx2");
    int has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                     __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512dq");
    if (has_avx512 && (!name || strcmp(name, "avx512") == 0))
        return &deal_kernels_avx512;
    if (has_avx2 && (!name || strcmp(name, "avx2") == 0))
        return &deal_kernels_avx2;
#endif
    return &deal_kernels_plain;
}

// Insertion into a short sorted list: a scan with one comparison for nearly every
// value.
void
deal_top_k(int32_t n, const float *x, int32_t k, int32_t *token, float *value)
{
    int32_t n_kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if (n_kept == k && !(x[i] > value[k - 1]))
            continue;
        int32_t at = n_kept < k ? n_kept++ : k - 1;
        for (; at > 0 && x[i] > value[at - 1]; at--) {
            value[at] = value[at - 1];
            token[at] = token[at - 1];
        }
        value[at] = x[i];
        token[at] = i;
    }
}
