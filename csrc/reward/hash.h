/* 64-bit hashes of words and n-grams, built up character by character.
 *
 * Two texts of one scorer that share a hash would be taken for one another; with a
 * million of them that has a probability of 3e-8. Not made to withstand an adversary.
 */
#ifndef DEAL_REWARD_HASH_H
#define DEAL_REWARD_HASH_H

#include <stdint.h>

#define DEAL_HASH_PRIME UINT64_C(0x9E3779B97F4A7C15)

// The hash of what came before, which may be any number for nothing, and of `code`.
static inline uint64_t
deal_hash_put(uint64_t hash, uint64_t code)
{
    hash = (hash ^ code) * DEAL_HASH_PRIME;
    return hash ^ hash >> 29;
}

// Spreads the last characters over the high bits, where slots are taken from.
static inline uint64_t
deal_hash_end(uint64_t hash)
{
    hash = (hash ^ hash >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    return hash ^ hash >> 32;
}

#endif
