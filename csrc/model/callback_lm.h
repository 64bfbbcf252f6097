/* A language model whose forward pass is somebody else's: the trie of common/lm.h over
 * a function that evaluates rows of tokens.
 *
 * A batch of nodes becomes rows: chains of tokens, each of which continues the one
 * before it, after a context of nodes that were evaluated before. Chains that hang
 * below others of the same batch come in a later call. The function keeps what it needs
 * of a node, its keys and values, under the node's number; numbers of nodes that were
 * freed come again.
 *
 * Logits are kept with the nodes that were asked for them, of so many nodes at most;
 * what was dropped is evaluated anew. Results are as good as the function: where its
 * logits depend on the batch in their last bits, so do those of this LM.
 */
#ifndef DEAL_MODEL_CALLBACK_LM_H
#define DEAL_MODEL_CALLBACK_LM_H

#include "common/lm.h"

typedef struct deal_callback_rows {
    int32_t n_row, n_past, n_new;
    const int32_t *past;  // (n_row, n_past) nodes of the context, the last one
                          // rightmost; -1 left of the first
    const int32_t *node;  // (n_row, n_new) from the left; -1 right of the last
    const int32_t *token; // (n_row, n_new) of those nodes; 0 right of the last
    float *const *logits; // (n_row, n_new) where (n_vocab,) go; NULL where not wanted
} deal_callback_rows;

// Evaluates the nodes of the rows and writes the logits that are wanted.
typedef deal_status (*deal_callback_evaluate)(void *user,
                                              const deal_callback_rows *rows,
                                              deal_error *err);

typedef struct deal_callback_params {
    int32_t n_vocab, n_ctx;
    int32_t n_row_max;    // rows of one call; at least 1
    int32_t n_logits_max; // nodes that keep their logits between calls; at least 1
    int32_t n_node_max;   // nodes there may be at once, roots too; 0: no limit
} deal_callback_params;

typedef struct deal_callback_lm deal_callback_lm;

// Caller frees with deal_callback_lm_free().
deal_status deal_callback_lm_new(const deal_callback_params *params,
                                 deal_callback_evaluate evaluate, void *user,
                                 deal_callback_lm **lm, deal_error *err);
void deal_callback_lm_free(deal_callback_lm *lm);

deal_lm *deal_callback_lm_lm(deal_callback_lm *lm); // borrowed

// From now on; nodes that are there stay. KV_BUDGET where a new one has no room.
void deal_callback_lm_set_node_max(deal_callback_lm *lm, int32_t n_node_max);

int32_t deal_callback_lm_n_live(const deal_callback_lm *lm);     // nodes in use
int32_t deal_callback_lm_n_logits(const deal_callback_lm *lm);   // with their logits
int32_t deal_callback_lm_n_node_cap(const deal_callback_lm *lm); // numbers ever used

#endif
