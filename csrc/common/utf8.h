/* UTF-8 as the Unicode standard has it (table 3-7): no overlong forms, no surrogates,
 * nothing above U+10FFFF. Invalid bytes become U+FFFD, one for each maximal subpart
 * ("substitution of maximal subparts", Unicode 15, section 3.9).
 */
#ifndef DEAL_COMMON_UTF8_H
#define DEAL_COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"

#define DEAL_UTF8_SIZE_MAX 4         // bytes of the longest character
#define DEAL_UTF8_REPLACEMENT_SIZE 3 // bytes of U+FFFD

extern const uint8_t deal_utf8_replacement[DEAL_UTF8_REPLACEMENT_SIZE];

typedef enum deal_utf8_state {
    DEAL_UTF8_VALID = 0,   // a whole character
    DEAL_UTF8_INVALID = 1, // a maximal subpart: becomes one U+FFFD
    DEAL_UTF8_PARTIAL = 2, // the text ends inside what may become a character
} deal_utf8_state;

// Looks at the character that starts at text[0]; size >= 1. `*n_byte` is what it takes
// up, in [1, min(size, DEAL_UTF8_SIZE_MAX)]; all of `size` where PARTIAL.
deal_utf8_state deal_utf8_scan(const uint8_t *text, size_t size, size_t *n_byte);

bool deal_utf8_is_valid(const uint8_t *text, size_t size);

// Bytes of `text` after invalid parts became U+FFFD, a partial end included.
size_t deal_utf8_lossy_size(const uint8_t *text, size_t size);

// Appends `text` with invalid parts, a partial end included, as U+FFFD.
deal_status deal_utf8_append_lossy(deal_bytes *out, const uint8_t *text, size_t size,
                                   deal_error *err);

#endif
