/* Stop strings: where a text ends, and what of it may still turn out to be an end. */
#ifndef DEAL_SEARCH_STOP_H
#define DEAL_SEARCH_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

typedef struct deal_stop_set {
    const char *const *text; // (n,) zero-terminated, none empty; borrowed
    size_t *text_size;       // (n,)
    int32_t n;
    size_t size_max; // bytes of the longest; 0 without any
} deal_stop_set;

// Fails with INVALID_ARG where a string is empty or not UTF-8. Caller frees with
// deal_stop_set_free(); a zeroed set is valid and empty.
deal_status deal_stop_set_init(deal_stop_set *set, const char *const *text, int32_t n,
                               deal_error *err);
void deal_stop_set_free(deal_stop_set *set);

// Whether a stop string occurs in text[i_from:]; `*i_at` is where the first one starts.
bool deal_stop_find(const deal_stop_set *set, const uint8_t *text, size_t size,
                    size_t i_from, size_t *i_at);

// Bytes at the end of `text` that begin a stop string without completing it: the
// longest suffix that is a proper prefix of one.
size_t deal_stop_held_size(const deal_stop_set *set, const uint8_t *text, size_t size);

#endif
