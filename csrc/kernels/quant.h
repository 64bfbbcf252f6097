/* Weight types of checkpoint files, and how a row of each becomes numbers.
 *
 * Block layouts are ggml's, little-endian. Every type of up to 8 bits is, exactly,
 *     w[i] = scale[g] * q[i] + min[g],   g = i / 32,   q in [-128, 127],
 * (Q6_K has groups of 16 and is requantised where integers are needed).
 */
#ifndef DEAL_KERNELS_QUANT_H
#define DEAL_KERNELS_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum deal_type {
    DEAL_TYPE_F32 = 0, // values are ggml's type numbers
    DEAL_TYPE_F16 = 1,
    DEAL_TYPE_Q4_0 = 2,
    DEAL_TYPE_Q4_1 = 3,
    DEAL_TYPE_Q5_0 = 6,
    DEAL_TYPE_Q5_1 = 7,
    DEAL_TYPE_Q8_0 = 8,
    DEAL_TYPE_Q4_K = 12,
    DEAL_TYPE_Q5_K = 13,
    DEAL_TYPE_Q6_K = 14,
    DEAL_TYPE_BF16 = 30,
} deal_type;

#define DEAL_QUANT_GROUP 32

// Whether the number is one of the above.
bool deal_type_is_known(int32_t type);
const char *deal_type_name(deal_type type); // "Q4_1"; borrowed, static
// Weights in one block: 1, 32 or 256. Rows are whole blocks.
int32_t deal_type_block_len(deal_type type);
size_t deal_type_block_size(deal_type type); // bytes
// Bytes of a row of `n` weights; `n` is a multiple of the block length.
size_t deal_type_row_size(deal_type type, int64_t n);

// y[i] = weight i of the row; row: `n` weights of `type` (any alignment), y (n,).
void deal_type_dequantize(deal_type type, const void *row, int64_t n, float *y);

// Whether deal_type_unpack serves this type: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K.
bool deal_type_is_grouped(deal_type type);
// q (n,) integers, scale (n / 32,), min (n / 32,) with w = scale * q + min, exactly as
// deal_type_dequantize gives up to the rounding of that sum. Where the type has no
// minimum, min is 0.
void deal_type_unpack(deal_type type, const void *row, int64_t n, int8_t *q,
                      float *scale, float *min);

float deal_f16_to_f32(uint16_t bits);
float deal_bf16_to_f32(uint16_t bits);
uint16_t deal_f32_to_f16(float x); // round to nearest even; overflow to infinity

#endif
