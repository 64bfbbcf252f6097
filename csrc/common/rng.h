/* Counter-based random numbers: the n-th draw of stream (seed, stream) is a pure
 * function of the three numbers, so a sample does not depend on batching or threads.
 *
 * Philox4x32-10: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011, section 3.3.
 */
#ifndef DEAL_COMMON_RNG_H
#define DEAL_COMMON_RNG_H

#include <stdint.h>

// One Philox4x32-10 block: out (4,) = bijection of counter (4,) under key (2,).
void deal_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

// Uniform in [0, 1), a multiple of 2^-53: draw `i_draw` of stream `i_stream`.
double deal_rng_uniform(uint64_t seed, uint64_t i_stream, uint64_t i_draw);

#endif
