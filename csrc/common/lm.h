/* Seam 1: a language model is a trie that grows.
 *
 * A node is one token in one context; the path from its root is the context. One call,
 * extend, evaluates a batch of nodes, each (parent, token), in one forward pass and
 * returns for each what was asked about the distribution of the token that follows it.
 * Fork, rollback, beams, rollouts and shared prefixes are all this one operation.
 *
 * Exactness: a node's outputs depend on its path only, bit for bit; never on what else
 * was in the batch, on the order of extension or on the number of threads. Asking again
 * for a node that is still in the trie costs no forward pass.
 *
 * References: every node handed out carries one reference, given back with release. A
 * child keeps its parent. A node without references and children is freed.
 *
 * model/ implements this over weights, tests/c/table_lm.c over a table. Search knows a
 * language model through this header alone. An LM is used by one thread at a time.
 */
#ifndef DEAL_COMMON_LM_H
#define DEAL_COMMON_LM_H

#include <stdint.h>

#include "common/status.h"

typedef int32_t deal_node;
#define DEAL_NODE_NONE ((deal_node)-1)

typedef struct deal_lm deal_lm;
typedef struct deal_controls deal_controls; // common/controls.h

// What extend is asked to fill in; or-ed together. 0 only evaluates.
enum {
    DEAL_WANT_TOP_K = 1 << 0,   // top_token and top_logit; top_k = 1 is the arg-max
    DEAL_WANT_LOG_Z = 1 << 1,   // log_z; log-prob of a token = its logit - log_z
    DEAL_WANT_LOGITS = 1 << 2,  // all logits
    DEAL_WANT_HIDDEN = 1 << 3,  // the final normed state, or what keep_layers says
    DEAL_WANT_TARGET = 1 << 4,  // target_logit, the logit of one given token
    DEAL_WANT_TARGETS = 1 << 5, // target_logits, those of several
    DEAL_WANT_TAPS = 1 << 6,    // what the root's controls tap; the node must be new
    DEAL_WANT_IDS = 1 << 7,     // with TOP_K: top_logit will not be read
};

typedef struct deal_lm_item {
    // in
    deal_node parent; // a live node of this LM; ignored where i_parent >= 0
    int32_t i_parent; // >= 0: the parent is that earlier item of this batch; else -1
    int32_t token;    // in [0, n_vocab)
    uint32_t want;    // DEAL_WANT_*
    int32_t top_k;    // in [1, n_vocab] where DEAL_WANT_TOP_K
    int32_t target;   // in [0, n_vocab) where DEAL_WANT_TARGET
    const int32_t *targets; // (n_target,) in [0, n_vocab) where DEAL_WANT_TARGETS
    int32_t n_target;
    // out, in the caller's buffers; written only where wanted
    int32_t *top_token;   // (top_k,) by falling logit, equal logits by rising id
    float *top_logit;     // (top_k,)
    float *logits;        // (n_vocab,)
    float *hidden;        // (n_embd,) after the final norm, before the head; below a
                          // root that keeps layers: (n_layer, n_embd)
    float *target_logits; // (n_target,)
    float *taps; // (controls->tap_len,) written while the node is evaluated, so that
                 // the item that makes the node is the one that can ask
    float log_z; // natural log of sum(exp(logits))
    float target_logit; // of token `target`
    // out
    deal_node node; // with one reference for the caller
} deal_lm_item;

typedef struct deal_lm_ops {
    // A fresh empty context: no token, no outputs; its children are first tokens. Two
    // roots never share nodes.
    deal_status (*root)(deal_lm *lm, deal_node *root, deal_error *err);

    // Finds or makes every item's node, evaluates the new ones in one forward pass
    // (very long batches in several) and fills in what was asked. All or nothing: on
    // failure no reference is handed out and no node is added. Fails with CONTEXT_FULL
    // where a path would pass n_ctx tokens, KV_BUDGET where the nodes need more memory
    // than the LM may hold, FORMAT where the model yields a NaN.
    deal_status (*extend)(deal_lm *lm, deal_lm_item *items, int32_t n_items,
                          deal_error *err);

    // The same with edits and taps for all nodes below, and the length of the prompt
    // that they go by. `controls` is borrowed until the last of the nodes is freed.
    // NULL: this LM knows no controls.
    deal_status (*controlled_root)(deal_lm *lm, const deal_controls *controls,
                                   int32_t n_prompt, deal_node *root, deal_error *err);

    // Makes nodes below a root that has none yet keep their states after these layers,
    // edits included: what HIDDEN then gives, (n_layer, n_embd), new or not. From 0:
    // the residual stream after that layer; -1: the final normed state. Fails with
    // INVALID_ARG for a layer that there is not. NULL: only the final state is kept.
    deal_status (*keep_layers)(deal_lm *lm, deal_node root, const int32_t *layer,
                               int32_t n_layer, deal_error *err);

    void (*retain)(deal_lm *lm, deal_node node);
    void (*release)(deal_lm *lm, deal_node node); // DEAL_NODE_NONE is a no-op

    // The evaluated child of `parent` with `token`, without a reference, or
    // DEAL_NODE_NONE.
    deal_node (*child)(const deal_lm *lm, deal_node parent, int32_t token);
} deal_lm_ops;

// The head of every implementation, which embeds it as its first member.
struct deal_lm {
    const deal_lm_ops *ops;
    int32_t n_vocab;
    int32_t n_embd;  // 0: no hidden states
    int32_t n_layer; // whose states can be kept; 0: the final ones alone
    int32_t n_ctx;   // longest path, in tokens
    // counters, only ever growing
    int64_t n_forward_tokens; // nodes evaluated
    int64_t n_forward_passes;
    int64_t n_recalled_tokens; // used nodes that an earlier search evaluated; 0 but for
                               // LMs that remember (search/recall.h)
    int64_t n_company_tokens;  // nodes that the same passes evaluated for others; 0 but
                               // for LMs of a batch (search/batch.h)
};

#endif
