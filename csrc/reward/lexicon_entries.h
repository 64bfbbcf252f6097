/* The entries of a lexicon: a hash table of their words, and a tree of words over which
 * phrases are found. lexicon.c reads text against it.
 *
 * An entry is cut at white space into chunks. A chunk of words, joined by hyphens or
 * not, is as many words; an apostrophe between word characters belongs to the word. Any
 * other chunk, an emoticon or a word in part of symbols, is one unit as it stands.
 */
#ifndef DEAL_REWARD_LEXICON_ENTRIES_H
#define DEAL_REWARD_LEXICON_ENTRIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

// Units of the longest entry, and its characters.
#define DEAL_LEXICON_UNITS_MAX 8
#define DEAL_LEXICON_CHARACTERS_MAX 256

// Where the hashes of the two kinds of units begin.
#define DEAL_LEXICON_WORD UINT64_C(0x51)
#define DEAL_LEXICON_CHUNK UINT64_C(0xA3)

// Sums are integers, multiples of 2^-24, so that they do not depend on the order.
#define DEAL_LEXICON_SCALE 16777216.0
#define DEAL_LEXICON_WEIGHT_MAX 65536.0

typedef struct deal_lexicon_unit {
    uint64_t hash;
    int32_t node; // of entries that begin with it; -1: none
    bool is_negator;
    bool is_used; // this place of the table is taken
} deal_lexicon_unit;

typedef struct deal_lexicon_node {
    int64_t value, negated; // fixed point; what the entry adds, after a negator or not
    bool is_entry, has_children;
} deal_lexicon_node;

typedef struct deal_lexicon_edge {
    int32_t parent, unit; // parent -1: the place is free
    int32_t child;
} deal_lexicon_edge;

typedef struct deal_lexicon_entries {
    deal_lexicon_unit *unit;           // (n_unit_place,) open addressing
    deal_lexicon_edge *edge;           // (n_edge_place,) open addressing
    deal_lexicon_node *node;           // (n_node,)
    size_t n_unit_place, n_edge_place; // powers of two
    int32_t n_node;
    bool has_chunks;              // units that are chunks
    int32_t chunk_size_max;       // characters of the longest of them
    int64_t value_min, value_max; // of one match
    int32_t size_min;             // bytes of the shortest entry
    // Most and least that matches in n bytes can add, (n_reach + 1,): entries end to
    // end with one byte between two, of at least as many bytes as the folded characters
    // can have. Past n_reach, `rate` for each byte.
    int64_t *most, *least;
    int32_t n_reach;
    double rate_most, rate_least;
} deal_lexicon_entries;

// Entries are UTF-8 with finite weights (n_entry,); of those that are one after folding
// the last one counts. Fails with INVALID_ARG on no entries, one without text or too
// long, and a weight that is not finite or beyond DEAL_LEXICON_WEIGHT_MAX. `negation`
// is what a negated weight is multiplied by. Negators are single words. `e` is zero
// before; free it also on failure, with deal_lexicon_entries_free().
deal_status deal_lexicon_entries_init(deal_lexicon_entries *e, int32_t n_entry,
                                      const char *const *entry, const size_t *size,
                                      const double *weight, int32_t n_negator,
                                      const char *const *negator,
                                      const size_t *negator_size, double negation,
                                      deal_error *err);
void deal_lexicon_entries_free(deal_lexicon_entries *e);

// The place of the unit with this hash in `unit`, or -1.
static inline int32_t
deal_lexicon_find(const deal_lexicon_entries *e, uint64_t hash)
{
    size_t mask = e->n_unit_place - 1;
    for (size_t i = hash & mask; e->unit[i].is_used; i = (i + 1) & mask)
        if (e->unit[i].hash == hash)
            return (int32_t)i;
    return -1;
}

// The node of the entries that go on from `parent` with `unit`, or -1.
int32_t deal_lexicon_child(const deal_lexicon_entries *e, int32_t parent, int32_t unit);

// A character as units see it: folded, the typographic apostrophe as the plain one.
uint32_t deal_lexicon_fold(uint32_t code);

// Most and least that matches within n bytes can add, fixed point.
int64_t deal_lexicon_most(const deal_lexicon_entries *e, int64_t n);
int64_t deal_lexicon_least(const deal_lexicon_entries *e, int64_t n);

#endif
