/* Those rows of a forward pass that have controls or keep layers, and what their sets
 * do to them.
 *
 * Rows of one pass may have different sets. A row's edits depend on its own numbers
 * alone. `n` is 0 where no row has a set, and then nothing else is looked at.
 */
#ifndef DEAL_MODEL_CONTROLLED_H
#define DEAL_MODEL_CONTROLLED_H

#include "common/controls.h"
#include "common/parallel.h"
#include "model/trie.h"

typedef struct deal_controlled {
    const deal_trie *trie;
    deal_pool *pool;
    deal_controls_shape shape;
    const deal_node *node; // (n_row,) of the pass at hand
    float *const *tap;     // (n_row,) where a row's taps go, NULL for none; or NULL
    int32_t n;             // rows that have a set
    int32_t *row;          // (n,) by rising index
    int32_t i_layer;       // of the call at hand
    float *x;              // (n_row, ...) its activations
    float *scratch;        // (n_thread, head_dim)
} deal_controlled;

deal_status deal_controlled_init(deal_controlled *controlled, const deal_trie *trie,
                                 const deal_controls_shape *shape, deal_pool *pool,
                                 int32_t n_row_max, deal_error *err);
void deal_controlled_free(deal_controlled *controlled); // also of a zeroed one

// `tap` may be NULL; both arrays are borrowed for the pass.
void deal_controlled_begin(deal_controlled *controlled, const deal_node *node,
                           float *const *tap, int32_t n_row);

// attended (n_row, n_head * head_dim), before the projection.
void deal_controlled_heads(deal_controlled *controlled, int32_t i_layer,
                           float *attended);

// x (n_row, n_embd), after the layer.
void deal_controlled_residual(deal_controlled *controlled, int32_t i_layer, float *x);

// The normed states, in the trie. `scratch` (n_row, n_embd). CONTROL or CALLBACK where
// a control fails.
deal_status deal_controlled_final(deal_controlled *controlled, float *scratch,
                                  deal_error *err);

#endif
