/* The transformer's forward pass over trie nodes (Llama and its relatives).
 *
 *     x = embd_scale embedding[token]
 *     each layer:  h = rms_norm(x);  q, k, v = Wq h, Wk h, Wv h;
 *                  q, k = rope(norm(q)), rope(norm(k))
 *                  x += norm(Wo attention(q, keys and values of the path))
 *                  h = rms_norm(x);  x += norm(Wdown (act(Wgate h) * (Wup h)))
 *     hidden = rms_norm(x);  logits = softcap(Whead hidden)
 *
 * norm is RMSNorm where the hyper-parameters have it, else nothing; act is SiLU or
 * GELU. One row is one node. Rows of a batch share nothing but the time their weights
 * are read.
 */
#ifndef DEAL_MODEL_FORWARD_H
#define DEAL_MODEL_FORWARD_H

#include "model/attention.h"
#include "model/controlled.h"
#include "model/matmul.h"
#include "model/model.h"
#include "model/trie.h"

#define DEAL_FORWARD_ROWS 256 // most rows of one pass; a multiple of DEAL_GEMM_PANEL

typedef struct deal_forward {
    const deal_model *model;
    deal_pool *pool;
    const deal_kernels *kernels;
    deal_matmul *matmul; // borrowed
    deal_trie *trie;
    deal_attention attention;
    deal_controlled controlled; // rows with controls

    const deal_node *node; // (n_row,) of the pass at hand
    int32_t n_row, i_layer;
    const float *norm;       // weight of the norm at hand
    deal_activations inputs; // of the product at hand
    float *x;                // (DEAL_FORWARD_ROWS, n_embd) residual stream
    float *h;                // (DEAL_FORWARD_ROWS, n_embd) normed
    float *q, *attended;     // (DEAL_FORWARD_ROWS, n_head * head_dim)
    float *k, *v;            // (DEAL_FORWARD_ROWS, n_head_kv * head_dim)
    float *gate, *up;        // (DEAL_FORWARD_ROWS, n_ff)
    float *cosine, *sine;    // (DEAL_FORWARD_ROWS, deal_hparams_n_freq)
    int32_t *i_overflow;     // (DEAL_FORWARD_ROWS,) last layer with a key or value that
                             // is too large for f16 cells, or -1
    size_t size;             // bytes of scratch
} deal_forward;

// `matmul` has room for DEAL_FORWARD_ROWS rows of the model's widest input.
deal_status deal_forward_init(deal_forward *forward, const deal_model *model,
                              deal_trie *trie, deal_matmul *matmul, deal_error *err);
void deal_forward_free(deal_forward *forward); // also of a zeroed one

// Evaluates `n_row` <= DEAL_FORWARD_ROWS nodes, parents before children: fills their
// cells and hidden states, and writes what their controls tap to `tap` (n_row,), which
// may hold NULLs or be NULL. FORMAT, with controls CONTROL, where a hidden state is not
// finite; INVALID_ARG where a key or value is too large for cells in f16.
deal_status deal_forward_run(deal_forward *forward, const deal_node *node,
                             float *const *tap, int32_t n_row, deal_error *err);

#endif
