/* Controls: a set of edits and taps of the forward pass, at three sites.
 *
 * A set is immutable and belongs to the trie root that was made with it; all nodes
 * below inherit it. Where a root has none, nothing here runs.
 *
 * A node counts as part of the prompt or of the completion by its depth, against the
 * prompt's length that was given with the root. For edits of the final state the line
 * is one token earlier: a final state belongs to the token that is predicted from it,
 * so the prompt's last state is the completion's first.
 *
 * Edits of one site run in the order they were given in. Taps read a site after its
 * edits, what the model goes on with.
 */
#ifndef DEAL_COMMON_CONTROLS_H
#define DEAL_COMMON_CONTROLS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/control.h"
#include "common/status.h"

typedef enum deal_site {
    DEAL_SITE_RESIDUAL = 0, // the residual stream after a layer
    DEAL_SITE_HEAD = 1,     // the output of an attention head, before its projection
    DEAL_SITE_FINAL = 2,    // the final normed state, the input of the head
} deal_site;

typedef enum deal_where {
    DEAL_WHERE_ALL = 0,
    DEAL_WHERE_PROMPT = 1,
    DEAL_WHERE_COMPLETION = 2,
    DEAL_WHERE_LAST = 3, // the prompt's last token
} deal_where;

typedef struct deal_edit {
    deal_site site;
    deal_where where;
    int32_t i_layer;             // RESIDUAL, HEAD
    int32_t i_head;              // HEAD: query head
    const float *matrix;         // HEAD: (head_dim, head_dim), NULL: the identity
    const float *vector;         // RESIDUAL: (n_embd,); HEAD: (head_dim,) or NULL
    const deal_control *control; // FINAL
} deal_edit;

// A site to read. HEAD reads all heads of the layer, (n_head, head_dim).
typedef struct deal_tap {
    deal_site site;
    int32_t i_layer; // RESIDUAL, HEAD
} deal_tap;

// The model that a set is for.
typedef struct deal_controls_shape {
    int32_t n_layer, n_head, head_dim, n_embd;
} deal_controls_shape;

typedef struct deal_controls {
    deal_controls_shape shape;
    deal_edit *edit;     // (n_edit,) by layer, those of the final state last
    int32_t *edit_begin; // (n_layer + 2,) a layer's first; n_layer: the final state's
    deal_tap *tap;       // (n_tap,)
    int32_t n_edit, n_tap;
    size_t tap_len;     // floats of all taps of one node, one after the other
    bool is_positional; // an edit asks for the prompt's length
    float *data;        // matrices (transposed) and vectors of the edits
} deal_controls;

// Copies edits and taps; the `deal_control`s of the edits are borrowed. Fails with
// INVALID_ARG for a layer or head that the model has not. Caller frees with
// deal_controls_free(), after every node that has the set.
deal_status deal_controls_new(const deal_controls_shape *shape, const deal_edit *edit,
                              int32_t n_edit, const deal_tap *tap, int32_t n_tap,
                              deal_controls **controls, deal_error *err);
void deal_controls_free(deal_controls *controls);

// Floats that a tap reads.
size_t deal_tap_len(const deal_controls_shape *shape, const deal_tap *tap);

// Whether an edit applies to the `depth`-th token of a path with that prompt.
bool deal_edit_applies(const deal_edit *edit, int32_t depth, int32_t n_prompt);

#endif
