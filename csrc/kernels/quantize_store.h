/* Where the numbers of one row and group go in a tile; shared by the kernel sets. */
#ifndef DEAL_KERNELS_QUANTIZE_STORE_H
#define DEAL_KERNELS_QUANTIZE_STORE_H

#include <float.h>
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

// A group in which something is NaN or infinite: so is its scale, with which all it is
// multiplied with becomes NaN. `magnitude` is the largest of its numbers.
static inline void
quantize_store_endless(float magnitude, int32_t *to)
{
    static const int32_t zero[8];
    quantize_store(zero, magnitude, 0, to);
}

// The bits of a float without its sign are in the order of its magnitude, with infinity
// above all numbers and NaN, which comparisons of floats would pass over, above that.
#define QUANTIZE_MAGNITUDE 0x7fffffff
#define QUANTIZE_ENDLESS 0x7f800000

#endif
