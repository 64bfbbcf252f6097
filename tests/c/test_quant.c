/* Weight types: facts, half precision over all bit patterns, known blocks by hand, and
 * that integers with scale and minimum give what dequantising gives. Every type against
 * an independent implementation is in tests/parity.
 */
#include "check.h"
#include "common/rng.h"
#include "kernels/quant.h"

static const deal_type all[] = {
    DEAL_TYPE_F32,  DEAL_TYPE_F16,  DEAL_TYPE_BF16, DEAL_TYPE_Q4_0,
    DEAL_TYPE_Q4_1, DEAL_TYPE_Q5_0, DEAL_TYPE_Q5_1, DEAL_TYPE_Q8_0,
    DEAL_TYPE_Q4_K, DEAL_TYPE_Q5_K, DEAL_TYPE_Q6_K,
};
#define N_TYPE (sizeof all / sizeof *all)

static void
test_facts(void)
{
    int n_known = 0;
    for (int32_t type = -5; type < 200; type++)
        n_known += deal_type_is_known(type);
    CHECK_EQ_INT(n_known, N_TYPE);
    CHECK_STR(deal_type_name(DEAL_TYPE_Q4_K), "Q4_K");
    CHECK_EQ_INT(deal_type_row_size(DEAL_TYPE_Q4_1, 576), 360);
    CHECK_EQ_INT(deal_type_row_size(DEAL_TYPE_Q6_K, 512), 420);
    CHECK_EQ_INT(deal_type_row_size(DEAL_TYPE_BF16, 7), 14);
}

static void
test_half(void)
{
    int n_bad = 0;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float x = deal_f16_to_f32((uint16_t)bits);
        uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
        if (exponent == 31 && fraction) {
            n_bad += !isnan(x) || !isnan(deal_f16_to_f32(deal_f32_to_f16(x)));
            continue;
        }
        double value = exponent == 31
                           ? INFINITY
                           : (exponent ? ldexp(1024 + fraction, (int)exponent - 25)
                                       : ldexp(fraction, -24));
        n_bad += (double)x != (bits & 0x8000 ? -value : value);
        n_bad += deal_f32_to_f16(x) != bits;
    }
    CHECK_EQ_INT(n_bad, 0);
    CHECK_EQ_INT(deal_f32_to_f16(65519.0f), 0x7bff); // rounds down to the largest
    CHECK_EQ_INT(deal_f32_to_f16(65520.0f), 0x7c00); // rounds up to infinity
    CHECK_EQ_INT(deal_f32_to_f16(1.0f + 0x1p-11f), 0x3c00); // a tie goes to even
    CHECK_EQ_INT(deal_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    CHECK_EQ_INT(deal_f32_to_f16(0x1p-25f), 0);
    CHECK_EQ_INT(deal_f32_to_f16(0x1.8p-25f), 1);
    CHECK(deal_bf16_to_f32(0x3fc0) == 1.5f);
}

// d = 0.5 (0x3800), m = -1 (0xbc00); byte i holds i and 15 - i.
static void
test_known_blocks(void)
{
    uint8_t q4_1[20] = {0x00, 0x38, 0x00, 0xbc}, q8_0[34] = {0x00, 0x38};
    float y[256];
    for (int i = 0; i < 16; i++)
        q4_1[4 + i] = (uint8_t)(i | (15 - i) << 4);
    deal_type_dequantize(DEAL_TYPE_Q4_1, q4_1, 32, y);
    for (int i = 0; i < 16; i++) {
        CHECK_NEAR(y[i], 0.5 * i - 1.0, 0.0);
        CHECK_NEAR(y[i + 16], 0.5 * (15 - i) - 1.0, 0.0);
    }
    for (int i = 0; i < 32; i++)
        q8_0[2 + i] = (uint8_t)(int8_t)(4 * i - 64);
    deal_type_dequantize(DEAL_TYPE_Q8_0, q8_0, 32, y);
    for (int i = 0; i < 32; i++)
        CHECK_NEAR(y[i], 0.5 * (4 * i - 64), 0.0);
}

static void
test_unpack(void)
{
    for (size_t t = 0; t < N_TYPE; t++) {
        deal_type type = all[t];
        if (!deal_type_is_grouped(type))
            continue;
        uint8_t row[24 * 256];
        float y[512], scale[16], min[16];
        int8_t q[512];
        for (size_t i = 0; i < deal_type_row_size(type, 512); i++)
            row[i] = (uint8_t)(deal_rng_uniform(3, t, i) * 256);
        for (size_t i = 1; i < deal_type_row_size(type, 512); i += 2)
            row[i] &= 0xbf; // keeps every half-precision number finite
        deal_type_dequantize(type, row, 512, y);
        deal_type_unpack(type, row, 512, q, scale, min);
        for (int i = 0; i < 512; i++)
            CHECK(y[i] == scale[i / 32] * (float)q[i] + min[i / 32]);
    }
}

int
main(void)
{
    test_facts();
    test_half();
    test_known_blocks();
    test_unpack();
    return check_report("test_quant");
}
