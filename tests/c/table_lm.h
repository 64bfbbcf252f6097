/* A language model read from a table: the logits are a function of the last n_back
 * tokens. It keeps the trie of common/lm.h as any model does, counts, and fails on
 * request, so that a search can be tested without weights.
 */
#ifndef DEAL_TESTS_TABLE_LM_H
#define DEAL_TESTS_TABLE_LM_H

#include <stdbool.h>
#include <stddef.h>

#include "common/lm.h"

#define DEAL_TABLE_LAYERS 3 // of an LM with hidden states

typedef struct deal_table_node {
    deal_node parent;
    int32_t token, depth;
    int32_t n_ref, n_child;
    deal_node first_child, next; // next sibling, or next free node
} deal_table_node;

typedef struct deal_table_lm {
    deal_lm lm; // first
    int32_t n_back;
    size_t n_context; // (n_vocab + 1)^n_back; digit n_vocab: no such token
    float *table;     // (n_context, n_vocab) logits; the last token is the last digit
    deal_table_node *node;
    int32_t n_node, node_cap, n_live;
    deal_node free_node;
    int32_t fail_in; // the extend call that fails, 1 = the next; 0: none
    bool is_full;    // it fails for want of KV cells
    int32_t nan_in;  // the extend call that answers with NaN
    int32_t n_extend;
    int32_t kept[DEAL_TABLE_LAYERS + 1]; // (n_kept,) layers of HIDDEN, of the last root
    int32_t n_kept;
} deal_table_lm;

// `table` is copied; NULL: random multiples of 1/2 in [-4, 4] by `seed`. Caller frees
// with deal_table_lm_free().
deal_status deal_table_lm_new(int32_t n_vocab, int32_t n_ctx, int32_t n_back,
                              const float *table, uint64_t seed, deal_table_lm **out,
                              deal_error *err);

// Gives it hidden states of `n_embd` features, multiples of 1/4 in [-1, 1] that are a
// hash of the context, the layer and the feature.
void deal_table_lm_set_states(deal_table_lm *lm, int32_t n_embd);
void deal_table_lm_free(deal_table_lm *lm);

#endif
