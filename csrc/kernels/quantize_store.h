/* Where the numbers of one row and group go in a tile; shared by the kernel sets. */
#ifndef DEAL_KERNELS_QUANTIZE_STORE_H
#define DEAL_KERNELS_QUANTIZE_STORE_H

#include <string.h>

#include "kernels/panels.h"

// `q` (8,) quads of int8, their scale and sum; `to` as in deal_kernels.quantize.
static inline void
quantize_store(const int32_t *q, float scale, int32_t sum, int32_t n_row, int32_t *to)
{
    size_t step = (size_t)n_row;
    float total = scale * (float)sum;
    for (size_t k = 0; k < 8; k++)
        to[k * step] = q[k];
    memcpy(to + 8 * step, &scale, sizeof scale);
    memcpy(to + 9 * step, &total, sizeof total);
    to[10 * step] = -128 * sum;
}

#endif
