/* The trie of contexts and its KV cells.
 *
 * Node i owns cell i: the keys and values of its token in every layer, and the final
 * normed state. Cells lie in pages of DEAL_PAGE_LEN that are never moved, so the cache
 * grows without copying. Layout of a page:
 *
 *     kv      (n_layer, n_head_kv, 2, DEAL_PAGE_LEN, head_pad)  f32 or f16, keys after
 *                                                               RoPE, and values
 *     hidden  (DEAL_PAGE_LEN, n_embd)                           f32
 *
 * with head_pad = DEAL_HEAD_PAD(head_dim), the rest zeros: the keys of one head lie
 * together, in rows of whole vectors. Where a root keeps layers, nodes below it also
 * have their states after those, in a block beside the page.
 *
 * Cells of released nodes are used again by the next ones. Memory goes back to the
 * system when the last node is released, as at the end of every request: all pages but
 * DEAL_PAGE_KEEP, so that an idle trie is small and short requests allocate nothing.
 */
#ifndef DEAL_MODEL_TRIE_H
#define DEAL_MODEL_TRIE_H

#include <stddef.h>

#include "common/lm.h"
#include "kernels/kernels.h"

#define DEAL_PAGE_LEN 64
#define DEAL_PAGE_KEEP 8 // most pages of a trie without nodes

typedef enum deal_kv_type { DEAL_KV_F32 = 0, DEAL_KV_F16 = 1 } deal_kv_type;

typedef struct deal_trie_node {
    deal_node parent;      // DEAL_NODE_NONE for a root; next free node where free
    deal_node first_child; // DEAL_NODE_NONE for a leaf
    deal_node next_sibling;
    int32_t token;   // -1 for a root
    int32_t n_ref;   // references handed out plus children
    int32_t depth;   // tokens on the path, this one included; 0 for a root
    uint32_t i_pass; // forward pass that last wrote i_block; attention.c's
    int32_t i_block; // attention block of that pass that holds this node
    int32_t i_set;   // controls of the root, or -1
} deal_trie_node;

// Controls of one root, and the layers that it keeps.
typedef struct deal_trie_set {
    const deal_controls *controls; // borrowed, or NULL
    int32_t n_prompt;              // tokens of the prompt; next free set where free
    int32_t *layer;                // (n_layer,) -1: the final state, which all have
    int32_t n_layer;
} deal_trie_set;

// States of a page's nodes that their roots keep.
typedef struct deal_trie_kept {
    float *state; // (DEAL_PAGE_LEN, n_layer, n_embd), or NULL
    int32_t n_layer;
} deal_trie_kept;

typedef struct deal_trie {
    deal_trie_node *node; // (node_cap,)
    unsigned char **page; // (n_page,) of deal_trie_page_size() bytes
    deal_trie_kept *kept; // (n_page,)
    int32_t n_page, page_cap;
    int32_t n_node;      // nodes ever used; those beyond are fresh
    int32_t n_live;      // nodes in use, roots included
    deal_node free_node; // list of released nodes, linked by `parent`
    deal_trie_set *set;  // (set_cap,)
    int32_t n_set;       // roots with controls or layers to keep
    int32_t set_cap, free_set;
    int32_t n_layer, n_head_kv, head_pad, n_embd;
    deal_kv_type kv_type;
    size_t budget;    // most bytes of pages
    size_t kept_size; // bytes of blocks beside them
} deal_trie;

// `budget` in bytes, 0 for no limit.
void deal_trie_init(deal_trie *trie, int32_t n_layer, int32_t n_head_kv,
                    int32_t head_dim, int32_t n_embd, deal_kv_type kv_type,
                    size_t budget);
void deal_trie_free(deal_trie *trie); // also of a zeroed trie

// `controls` may be NULL. A new node fails with KV_BUDGET where it needs a page that
// the budget has no room for, and leaves the trie as it is.
deal_status deal_trie_root(deal_trie *trie, const deal_controls *controls,
                           int32_t n_prompt, deal_node *root, deal_error *err);
// Makes nodes below a root that has none keep their states after `layer` (n_layer,),
// which is copied.
deal_status deal_trie_keep(deal_trie *trie, deal_node root, const int32_t *layer,
                           int32_t n_layer, deal_error *err);

// A new child, with one reference; the caller has made sure that there is none yet.
deal_status deal_trie_add(deal_trie *trie, deal_node parent, int32_t token,
                          deal_node *node, deal_error *err);
deal_node deal_trie_child(const deal_trie *trie, deal_node parent, int32_t token);
void deal_trie_retain(deal_trie *trie, deal_node node);
void deal_trie_release(deal_trie *trie, deal_node node);
int deal_trie_is_live(const deal_trie *trie, deal_node node);

// Where cell `node` starts: its key in layer 0, head 0, numbers of `kv_type`. Another
// head's key lies deal_trie_key_offset numbers on, its value deal_trie_value_offset.
void *deal_trie_cell(const deal_trie *trie, deal_node node);
size_t deal_trie_key_offset(const deal_trie *trie, int32_t i_layer, int32_t i_head_kv);
size_t deal_trie_value_offset(const deal_trie *trie, int32_t i_layer,
                              int32_t i_head_kv);
float *deal_trie_hidden(const deal_trie *trie, deal_node node); // (n_embd,)

// A node's set, or NULL, and its state after the i_kept-th layer of that: (n_embd,).
const deal_trie_set *deal_trie_set_of(const deal_trie *trie, deal_node node);
float *deal_trie_state(const deal_trie *trie, deal_node node, int32_t i_kept);
size_t deal_trie_page_size(const deal_trie *trie); // bytes of DEAL_PAGE_LEN cells
size_t deal_trie_kv_size(const deal_trie *trie);   // bytes of pages held
size_t deal_trie_size(const deal_trie *trie);      // bytes held, with nodes

#endif
