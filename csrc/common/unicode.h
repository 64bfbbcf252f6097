/* What rewards need to know of characters: which belong to words, and case folding.
 *
 * Exact for ASCII. Elsewhere by a table made from the Unicode character database: word
 * characters are letters, marks, numbers and the underscore; folding is the simple one
 * (one code point to one: no "ss" for sharp s). No normalisation, no locale.
 */
#ifndef DEAL_COMMON_UNICODE_H
#define DEAL_COMMON_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What deal_unicode_next() gives for a byte that starts no whole character.
#define DEAL_UNICODE_INVALID 0xFFFFFFFFu

// The code point at text[0], size >= 1, and the bytes that it takes up; INVALID and 1
// where no whole character starts there.
uint32_t deal_unicode_next(const uint8_t *text, size_t size, size_t *n_byte);

// Writes a code point as UTF-8 and returns its number of bytes, 1 to 4.
size_t deal_unicode_put(uint32_t code, uint8_t out[4]);

// What a byte is, as bits, so that ASCII needs no call.
#define DEAL_ASCII_WORD 1u
#define DEAL_ASCII_SPACE 2u
#define DEAL_ASCII_UPPER 4u
#define DEAL_ASCII_NOT 0x80u // not ASCII: ask the functions below
extern const uint8_t deal_unicode_ascii[256];

bool deal_unicode_is_word(uint32_t code);

// Characters at which Python's str.split() splits: White_Space and U+001C to U+001F.
bool deal_unicode_is_space(uint32_t code);

// As Python's str.islower() and str.isupper() take single characters; title case is
// what both refuse, such as U+01C5.
typedef enum deal_unicode_case {
    DEAL_CASE_NONE = 0,
    DEAL_CASE_LOWER = 1,
    DEAL_CASE_UPPER = 2,
    DEAL_CASE_TITLE = 3,
} deal_unicode_case;

deal_unicode_case deal_unicode_case_of(uint32_t code);

// Simple case folding; the code point itself where it has none.
uint32_t deal_unicode_fold(uint32_t code);

// Fewest bytes of a character that folds to `code`, itself a folded one.
size_t deal_unicode_fold_size_min(uint32_t code);

#endif
