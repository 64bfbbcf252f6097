/* Random numbers: Philox against the published known-answer vectors; uniforms. */
#include "check.h"
#include "common/rng.h"

int
main(void)
{
    // Known answers of Random123, philox4x32 with 10 rounds.
    const uint32_t zero[4] = {0}, zero_key[2] = {0};
    uint32_t out[4];
    deal_philox(zero, zero_key, out);
    CHECK(out[0] == 0x6627e8d5u && out[1] == 0xe169c58du && out[2] == 0xbc57ac4cu &&
          out[3] == 0x9b00dbd8u);
    const uint32_t ones[4] = {~0u, ~0u, ~0u, ~0u}, ones_key[2] = {~0u, ~0u};
    deal_philox(ones, ones_key, out);
    CHECK(out[0] == 0x408f276du && out[1] == 0x41c83b0eu && out[2] == 0xa20bc7c6u &&
          out[3] == 0x6d5451fdu);
    double sum = 0.0, square = 0.0;
    for (uint64_t i = 0; i < 100000; i++) {
        double u = deal_rng_uniform(5, 3, i);
        if (!(u >= 0.0 && u < 1.0))
            CHECK(0);
        sum += u;
        square += u * u;
    }
    CHECK_NEAR(sum / 1e5, 0.5, 0.005);
    CHECK_NEAR(square / 1e5, 1.0 / 3.0, 0.005);
    CHECK(deal_rng_uniform(5, 3, 0) != deal_rng_uniform(5, 4, 0));
    CHECK(deal_rng_uniform(5, 3, 0) != deal_rng_uniform(6, 3, 0));
    CHECK(deal_rng_uniform(5, 3, 7) == deal_rng_uniform(5, 3, 7));
    return check_report("test_rng");
}
