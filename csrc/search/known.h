/* What is known of the contexts that a search may still reach: a tree beside the trie.
 *
 * An entry is an evaluated node, which it keeps in the trie, with the most likely
 * tokens after it. A greedy continuation that was ever computed is read off the tree
 * without a forward pass, and so are the candidates of the next decision. After a
 * decision the tree is trimmed to what lies below the hypotheses that go on.
 */
#ifndef DEAL_SEARCH_KNOWN_H
#define DEAL_SEARCH_KNOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "common/lm.h"

#define DEAL_KNOWN_NONE (-1) // no entry

// What an entry was evaluated ahead of its need for.
typedef enum deal_ahead {
    DEAL_AHEAD_NOT = 0, // it was needed, or has been since
    DEAL_AHEAD_TIP,     // the end of a likely path
    DEAL_AHEAD_NOW,     // a rollout of this decision that stands back
    DEAL_AHEAD_LATER,   // one of a later decision
    DEAL_N_AHEAD,
} deal_ahead;

typedef struct deal_known_entry {
    deal_node node;                 // one reference; DEAL_NODE_NONE where free
    int32_t token;                  // that leads here
    int32_t parent, child, sibling; // entries, or DEAL_KNOWN_NONE; `sibling` of a
                                    // free entry is the next free one
    int32_t n_top;                  // tokens known: 1 or n_top_max
    float log_z;
    deal_ahead ahead;
    float chance; // that it will be needed, as was thought when it was evaluated ahead
    bool is_kept; // while trimming
} deal_known_entry;

// Zero-initialise, then init; free with deal_known_free().
typedef struct deal_known {
    deal_lm *lm;
    int32_t n_top_max;       // tokens of a full answer
    deal_known_entry *entry; // (entry_cap,)
    int32_t *top_token;      // (entry_cap, n_top_max)
    float *top_logit;        // (entry_cap, n_top_max)
    int32_t *stack;          // (entry_cap,)
    size_t entry_cap;
    int32_t n_entry, n_live, free_entry;
    int64_t n_in_vain; // entries ahead that were freed before they were needed
    double n_needed[DEAL_N_AHEAD], n_hoped[DEAL_N_AHEAD]; // recent ones, by chance
} deal_known;

void deal_known_init(deal_known *known, deal_lm *lm, int32_t n_top_max);
void deal_known_free(deal_known *known); // gives all nodes back

// Makes room, so that adding `n` entries cannot fail.
deal_status deal_known_reserve(deal_known *known, int32_t n, deal_error *err);

// Adds a node below `parent` (or none), with its `n_top` best tokens; takes over the
// reference. There is room, and no such child yet.
int32_t deal_known_add(deal_known *known, int32_t parent, int32_t token, deal_node node,
                       int32_t n_top, const int32_t *top_token, const float *top_logit,
                       float log_z);

// Replaces what is known of the tokens after entry `i` by a full answer.
void deal_known_fill(deal_known *known, int32_t i, const int32_t *top_token,
                     const float *top_logit, float log_z);

int32_t deal_known_child(const deal_known *known, int32_t i, int32_t token);

// Frees every entry that was evaluated ahead and not needed since, and all below it.
void deal_known_shed(deal_known *known);

// Tells that entry `i` is needed.
void deal_known_need(deal_known *known, int32_t i);

// By how much the chances of entries ahead have to be multiplied, as they turned out.
double deal_known_luck(const deal_known *known, deal_ahead ahead);

// The most likely token after entry `i`, and its log-prob.
int32_t deal_known_best(const deal_known *known, int32_t i);
double deal_known_best_logprob(const deal_known *known, int32_t i);

// Frees what does not lie at or below one of `root` (n_root,); not `is_deep`: or below.
void deal_known_trim(deal_known *known, const int32_t *root, int32_t n_root,
                     bool is_deep);

#endif
