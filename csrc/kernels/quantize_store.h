/* Where the numbers of one row and group go in a tile; shared by the kernel sets. */
#ifndef DEAL_KERNELS_QUANTIZE_STORE_H
#define DEAL_KERNELS_QUANTIZE_STORE_H

#include <string.h>

#include "kernels/panels.h"

// `q` (8,) quads of int8, their scale and sum; to (DEAL_TILE_WORDS,).
static inline void
quantize_store(const int32_t *q, float scale, int32_t sum, int32_t *to)
{
    float total = scale * (float)sum;
    memcpy(to, q, 8 * sizeof *q);
    memcpy(to + 8, &scale, sizeof scale);
    memcpy(to + 9, &total, sizeof total);
    to[10] = -128 * sum;
    to[11] = 0;
}

#endif
