#include "kernels/quant.h"

#include <string.h>

typedef struct type_facts {
    const char *name; // NULL: not a type
    int32_t block_len;
    size_t block_size;
    bool is_grouped;
} type_facts;

static const type_facts facts[] = {
    [DEAL_TYPE_F32] = {"F32", 1, 4, false},
    [DEAL_TYPE_F16] = {"F16", 1, 2, false},
    [DEAL_TYPE_Q4_0] = {"Q4_0", 32, 18, true},
    [DEAL_TYPE_Q4_1] = {"Q4_1", 32, 20, true},
    [DEAL_TYPE_Q5_0] = {"Q5_0", 32, 22, true},
    [DEAL_TYPE_Q5_1] = {"Q5_1", 32, 24, true},
    [DEAL_TYPE_Q8_0] = {"Q8_0", 32, 34, true},
    [DEAL_TYPE_Q4_K] = {"Q4_K", 256, 144, true},
    [DEAL_TYPE_Q5_K] = {"Q5_K", 256, 176, true},
    [DEAL_TYPE_Q6_K] = {"Q6_K", 256, 210, false},
    [DEAL_TYPE_BF16] = {"BF16", 1, 2, false},
};
#define N_FACTS ((int32_t)(sizeof facts / sizeof *facts))

bool
deal_type_is_known(int32_t type)
{
    return type >= 0 && type < N_FACTS && facts[type].name != NULL;
}

const char *
deal_type_name(deal_type type)
{
    return facts[type].name;
}

int32_t
deal_type_block_len(deal_type type)
{
    return facts[type].block_len;
}

size_t
deal_type_block_size(deal_type type)
{
    return facts[type].block_size;
}

size_t
deal_type_row_size(deal_type type, int64_t n)
{
    return (size_t)(n / facts[type].block_len) * facts[type].block_size;
}

bool
deal_type_is_grouped(deal_type type)
{
    return facts[type].is_grouped;
}

float
deal_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
    union {
        uint32_t u;
        float f;
    } x;
    if (exponent == 0x1f) { // infinity and NaN
        x.u = sign | 0x7f800000u | fraction << 13;
    } else if (exponent > 0) {
        x.u = sign | (exponent + 112) << 23 | fraction << 13;
    } else { // subnormal: fraction * 2^-24
        x.f = (float)fraction * 0x1p-24f;
        x.u |= sign;
    }
    return x.f;
}

float
deal_bf16_to_f32(uint16_t bits)
{
    union {
        uint32_t u;
        float f;
    } x = {.u = (uint32_t)bits << 16};
    return x.f;
}

uint16_t
deal_f32_to_f16(float value)
{
    union {
        float f;
        uint32_t u;
    } x = {.f = value};
    uint16_t sign = (uint16_t)(x.u >> 16 & 0x8000u);
    uint32_t magnitude = x.u & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) // rounds to 2^16 or more
        return sign | 0x7c00u;
    if (magnitude < 0x38800000u) { // below 2^-14: a multiple of 2^-24
        x.u = magnitude;
        float rounded =
            x.f * 0x1p24f + 8388608.0f; // 2^23 rounds to an integer, to even
        return sign | (uint16_t)(rounded - 8388608.0f);
    }
    uint32_t odd = magnitude >> 13 & 1u;
    return sign | (uint16_t)((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}

static uint16_t
load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float
load_f16(const uint8_t *p)
{
    return deal_f16_to_f32(load_u16(p));
}

// Q4_0: f16 d, 16 bytes; low halves are weights 0..15, high halves 16..31; w = d (q -
// 8)
static void
unpack_q4_0(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    *scale = load_f16(block);
    *min = 0.0f;
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((block[2 + i] & 0x0f) - 8);
        q[i + 16] = (int8_t)((block[2 + i] >> 4) - 8);
    }
}

// Q4_1: f16 d, f16 m, 16 bytes as in Q4_0; w = d q + m
static void
unpack_q4_1(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    *scale = load_f16(block);
    *min = load_f16(block + 2);
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)(block[4 + i] & 0x0f);
        q[i + 16] = (int8_t)(block[4 + i] >> 4);
    }
}

// The fifth bits of 32 weights, in one little-endian word, and their low four bits.
static void
unpack_5bit(const uint8_t *high, const uint8_t *low, int offset, int8_t *q)
{
    for (int i = 0; i < 16; i++) {
        int bit0 = high[i / 8] >> (i % 8) & 1, bit1 = high[2 + i / 8] >> (i % 8) & 1;
        q[i] = (int8_t)((low[i] & 0x0f) + 16 * bit0 - offset);
        q[i + 16] = (int8_t)((low[i] >> 4) + 16 * bit1 - offset);
    }
}

// Q5_0: f16 d, 4 bytes of high bits, 16 bytes; w = d (q - 16)
static void
unpack_q5_0(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    *scale = load_f16(block);
    *min = 0.0f;
    unpack_5bit(block + 2, block + 6, 16, q);
}

// Q5_1: f16 d, f16 m, 4 bytes of high bits, 16 bytes; w = d q + m
static void
unpack_q5_1(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    *scale = load_f16(block);
    *min = load_f16(block + 2);
    unpack_5bit(block + 4, block + 8, 0, q);
}

// Q8_0: f16 d, 32 int8; w = d q
static void
unpack_q8_0(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    *scale = load_f16(block);
    *min = 0.0f;
    memcpy(q, block + 2, 32);
}

// The 6-bit scale and minimum of sub-block j of 8 in a K block's 12 bytes: the first
// four lie in the low bits of bytes j and j + 4; the others are split, low four bits in
// byte j + 4, high two in the top of bytes j - 4 and j.
static void
k_scale(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 0x0f) | (s[j - 4] >> 6) << 4;
        *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

// Q4_K: f16 d, f16 dmin, 12 bytes of scales, 128 bytes; each 32 bytes hold two
// sub-blocks of 32, low and high halves. w = d scale q - dmin min
static void
unpack_q4_k(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    float d = load_f16(block), dmin = load_f16(block + 2);
    for (int j = 0; j < 8; j++) {
        int s, m;
        k_scale(block + 4, j, &s, &m);
        scale[j] = d * (float)s;
        min[j] = -(dmin * (float)m);
        const uint8_t *half = block + 16 + 32 * (j / 2);
        for (int i = 0; i < 32; i++)
            q[32 * j + i] = (int8_t)(j % 2 ? half[i] >> 4 : half[i] & 0x0f);
    }
}

// Q5_K: as Q4_K, with 32 bytes of fifth bits before the 128: bit j of byte i belongs to
// weight i of sub-block j.
static void
unpack_q5_k(const uint8_t *block, int8_t *q, float *scale, float *min)
{
    float d = load_f16(block), dmin = load_f16(block + 2);
    const uint8_t *high = block + 16;
    for (int j = 0; j < 8; j++) {
        int s, m;
        k_scale(block + 4, j, &s, &m);
        scale[j] = d * (float)s;
        min[j] = -(dmin * (float)m);
        const uint8_t *half = block + 48 + 32 * (j / 2);
        for (int i = 0; i < 32; i++) {
            int low = j % 2 ? half[i] >> 4 : half[i] & 0x0f;
            q[32 * j + i] = (int8_t)(low + 16 * (high[i] >> j & 1));
        }
    }
}

void
deal_type_unpack(deal_type type, const void *row, int64_t n, int8_t *q, float *scale,
                 float *min)
{
    const uint8_t *block = row;
    size_t size = facts[type].block_size;
    int32_t len = facts[type].block_len, n_group = len / DEAL_QUANT_GROUP;
    for (int64_t i = 0; i < n; i += len, block += size) {
        switch (type) {
        case DEAL_TYPE_Q4_0:
            unpack_q4_0(block, q, scale, min);
            break;
        case DEAL_TYPE_Q4_1:
            unpack_q4_1(block, q, scale, min);
            break;
        case DEAL_TYPE_Q5_0:
            unpack_q5_0(block, q, scale, min);
            break;
        case DEAL_TYPE_Q5_1:
            unpack_q5_1(block, q, scale, min);
            break;
        case DEAL_TYPE_Q8_0:
            unpack_q8_0(block, q, scale, min);
            break;
        case DEAL_TYPE_Q4_K:
            unpack_q4_k(block, q, scale, min);
            break;
        case DEAL_TYPE_Q5_K:
            unpack_q5_k(block, q, scale, min);
            break;
        default:
            break; // not a grouped type: the caller's mistake
        }
        q += len;
        scale += n_group;
        min += n_group;
    }
}

// Q6_K: 128 bytes of low halves, 64 of high pairs, 16 int8 scales, f16 d. Each half
// block of 128 weights takes 64 and 32 bytes: weight i of quarter k has its low four
// bits in byte i + 32 (k % 2), low or high half by k / 2, and its high two in bits 2k
// of byte i.
static void
dequantize_q6_k(const uint8_t *block, float *y)
{
    float d = load_f16(block + 208);
    for (int h = 0; h < 2; h++) {
        const uint8_t *low = block + 64 * h, *high = block + 128 + 32 * h;
        const uint8_t *scale = block + 192 + 8 * h;
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < 32; i++) {
                int byte = low[i + 32 * (k % 2)];
                int q = (k / 2 ? byte >> 4 : byte & 0x0f) | (high[i] >> 2 * k & 3) << 4;
                int s = (int8_t)scale[2 * k + i / 16];
                y[128 * h + 32 * k + i] = d * (float)s * (float)(q - 32);
            }
    }
}

static void
dequantize_groups(deal_type type, const uint8_t *block, int64_t n, float *y)
{
    int8_t q[256];
    float scale[8], min[8];
    int32_t len = facts[type].block_len;
    for (int64_t i = 0; i < n; i += len, block += facts[type].block_size) {
        deal_type_unpack(type, block, len, q, scale, min);
        for (int32_t j = 0; j < len; j++)
            y[i + j] = scale[j / 32] * (float)q[j] + min[j / 32];
    }
}

void
deal_type_dequantize(deal_type type, const void *row, int64_t n, float *y)
{
    const uint8_t *p = row;
    switch (type) {
    case DEAL_TYPE_F32:
        memcpy(y, p, (size_t)n * sizeof *y);
        break;
    case DEAL_TYPE_F16:
        for (int64_t i = 0; i < n; i++)
            y[i] = load_f16(p + 2 * i);
        break;
    case DEAL_TYPE_BF16:
        for (int64_t i = 0; i < n; i++)
            y[i] = deal_bf16_to_f32(load_u16(p + 2 * i));
        break;
    case DEAL_TYPE_Q6_K:
        for (int64_t i = 0; i < n; i += 256, p += 210)
            dequantize_q6_k(p, y + i);
        break;
    default:
        dequantize_groups(type, p, n, y);
    }
}
