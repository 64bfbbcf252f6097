/* The checks of the format reward, one character at a time; see format.h. */
#ifndef DEAL_REWARD_FORMAT_CHECKS_H
#define DEAL_REWARD_FORMAT_CHECKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reward/format.h"

// What checks see of a character, as bits.
enum {
    DEAL_KIND_SPACE = 1 << 0,
    DEAL_KIND_NEWLINE = 1 << 1, // also SPACE
    DEAL_KIND_STAR = 1 << 2,
    DEAL_KIND_DASH = 1 << 3,
    DEAL_KIND_OPEN = 1 << 4,  // [
    DEAL_KIND_CLOSE = 1 << 5, // ]
    DEAL_KIND_LESS = 1 << 6,
    DEAL_KIND_GREATER = 1 << 7,
    DEAL_KIND_QUOTE = 1 << 8, // the straight double one
    DEAL_KIND_COMMA = 1 << 9,
    DEAL_KIND_DOT = 1 << 10,
    DEAL_KIND_P = 1 << 11, // also LOWER or UPPER
    DEAL_KIND_S = 1 << 12,
    DEAL_KIND_LOWER = 1 << 13,
    DEAL_KIND_UPPER = 1 << 14,
    DEAL_KIND_TITLE_CASE = 1 << 15,
};

#define DEAL_FORMAT_CHUNK 256

// Some characters in a row.
typedef struct deal_format_chunk {
    uint16_t kind[DEAL_FORMAT_CHUNK]; // (n,)
    uint32_t code[DEAL_FORMAT_CHUNK]; // (n,) folded; only where a phrase is looked for
    size_t n;                         // at least 1
    uint16_t any, all;                // bits that any, that all of them have
} deal_format_chunk;

// A phrase as folded characters.
typedef struct deal_format_phrase {
    uint32_t *code; // (n,)
    size_t *fail;   // (n + 1,) longest proper border of each beginning
    int64_t *need;  // (n + 1,) fewest bytes that the rest takes
    size_t n;
} deal_format_phrase;

typedef struct deal_format_state {
    int32_t token_size_max;
    bool has_comma, has_lower, has_upper, has_title_case;
    bool is_first_quote, is_last_quote; // of the characters that are not white space
    uint8_t n_text;                     // how many of these there are, at most 2
    uint8_t title, n_greater;           // see advance_title
    bool has_title_text, has_title;
    uint8_t postscript; // bit i: the pattern's elements 0 to i match up to here
    bool has_postscript;
    uint8_t star, dash;       // see advance_bullets
    uint8_t n_star;           // at the end of the text, less those of separators
    bool has_text;            // the last paragraph is not blank; `n_star` not counted
    bool is_first_blank;      // of the paragraphs before a separator
    bool has_blank_paragraph; // between two separators
    bool is_open;             // of placeholders
    uint8_t single, pair;     // see advance_highlights
    uint8_t start, end;       // see advance_start and advance_end
    int64_t n_bullet, n_separator, n_placeholder, n_highlight;
    size_t n_start, n_end; // characters of the phrase that match
} deal_format_state;

// What is checked.
typedef struct deal_format_plan {
    deal_format_options options; // the phrases' bytes are not kept
    deal_format_phrase starts, ends;
} deal_format_plan;

// Whether a check passes now, can pass, and is sure to pass, whatever bytes follow.
typedef struct deal_format_verdict {
    bool is_met, can_be, is_kept;
} deal_format_verdict;

typedef struct deal_format_check {
    void (*advance)(const deal_format_plan *plan, deal_format_state *s,
                    const deal_format_chunk *c);
    // `n_left` bytes at most come before the end, at least 1.
    deal_format_verdict (*look)(const deal_format_plan *plan,
                                const deal_format_state *s, int64_t n_left);
} deal_format_check;

#define DEAL_FORMAT_N_CHECK 11

// Writes the checks that `plan` asks for and returns their number.
int deal_format_checks_of(const deal_format_plan *plan,
                          deal_format_check check[DEAL_FORMAT_N_CHECK]);

#endif
