/* An Aho-Corasick automaton (A. V. Aho and M. J. Corasick, "Efficient string matching",
 * CACM 18(6), 1975) over case-folded UTF-8, whose patterns are whole words or phrases.
 *
 * Whole words are part of the patterns. Text is read as its folded bytes, with the
 * symbol EDGE, a byte that UTF-8 never uses, before every character and after the last,
 * unless it would stand between two word characters. A form becomes the same kind of
 * string, EDGE at both its ends, and so matches just where it cuts no word:
 *
 *     form "cat"          | c a t |
 *     text "Cat, catty"   | c a t | , |   | c a t t y |
 *
 * Forms belong to concepts. They match as written, spaces included; nothing is
 * normalised. Every match ends with an EDGE.
 */
#ifndef DEAL_REWARD_AUTOMATON_H
#define DEAL_REWARD_AUTOMATON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define DEAL_AUTOMATON_EDGE 0xFFu
#define DEAL_AUTOMATON_NO_TEXT 0xFEu // a byte that is no text: in no form, and no word
#define DEAL_AUTOMATON_N_SYMBOL 256

// The whole pattern of one form, of `size` symbols at `first` in `symbol`.
typedef struct deal_automaton_pattern {
    size_t first, size;
    int64_t n_raw_min; // fewest bytes of text that can spell it
    int32_t i_concept;
    bool begins_word, ends_word; // that end is a word character
} deal_automaton_pattern;

// Every array is made once; nodes are numbered from the root, 0, parents first.
typedef struct deal_automaton {
    int32_t n_concept, n_form;
    int32_t n_node, n_class;
    uint8_t class_of[DEAL_AUTOMATON_N_SYMBOL]; // class of a symbol; 0: in no pattern
    uint8_t class_of_ascii[128];               // class of a folded character
    int32_t *next;                             // (n_node, n_class)
    int32_t *fail;       // (n_node,) longest proper suffix that is a node
    int32_t *depth;      // (n_node,) symbols
    int32_t *end;        // (n_node,) longest suffix that ends a form, or 0
    size_t *cover_first; // (n_node + 1,) rows of `cover`; empty unless end[i] == i
    int32_t *cover;      // (cover_first[n_node],) concepts, each once in a row
    int32_t *cover_size; // the same: symbols of the shortest form that matches there
    deal_automaton_pattern *form; // (n_form,) by rising i_concept
    int32_t *form_first;          // (n_concept + 1,) rows of `form`
    uint8_t *symbol;              // (n_symbol,) all patterns, end to end
    int32_t *path;                // (n_symbol,) node after each symbol
    uint8_t *raw_min;             // (n_symbol,) bytes still needed for it; 0 inside one
    size_t n_symbol;
} deal_automaton;

// Forms are UTF-8, `form[i]` of `form_size[i]` bytes, and belong to concept
// `i_concept[i]` in [0, n_concept). Copies all. `what` begins the messages. Fails with
// INVALID_ARG on an empty form, a form that is not UTF-8, or a concept without forms.
// Zero-initialise `a`; free with deal_automaton_free(), also after a failure.
deal_status deal_automaton_init(deal_automaton *a, const char *what, int32_t n_concept,
                                int32_t n_form, const char *const *form,
                                const size_t *form_size, const int32_t *i_concept,
                                deal_error *err);
void deal_automaton_free(deal_automaton *a);

static inline int32_t
deal_automaton_step(const deal_automaton *a, int32_t node, uint8_t class_of_symbol)
{
    return a->next[(size_t)node * (size_t)a->n_class + class_of_symbol];
}

static inline int32_t
deal_automaton_edge(const deal_automaton *a, int32_t node)
{
    return deal_automaton_step(a, node, a->class_of[DEAL_AUTOMATON_EDGE]);
}

// Whether the text that leads to node `of` ends with the text that leads to `node`.
static inline bool
deal_automaton_is_suffix(const deal_automaton *a, int32_t node, int32_t of)
{
    while (a->depth[of] > a->depth[node])
        of = a->fail[of];
    return of == node;
}

#endif
