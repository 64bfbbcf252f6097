/* What is asked of the distribution after a node, answered without its logits.
 *
 * The head's outputs come in chunks of DEAL_MATMUL_CHUNK; every chunk is reduced for
 * each row while it is in the cache, to what the row wants: the best tokens, the parts
 * of log Z, one target, or a copy. Best tokens are kept for each thread and merged, by
 * falling logit and rising id, an order that leaves nothing to chance; the parts of
 * log Z are added up in the order of the chunks.
 */
#ifndef DEAL_MODEL_HEAD_H
#define DEAL_MODEL_HEAD_H

#include "common/lm.h"
#include "model/matmul.h"

#define DEAL_HEAD_ROWS 64 // most rows of one product with the head

typedef struct deal_head {
    const deal_matrix *w; // (n_vocab, n_embd)
    float softcap;        // of logits; 0: none
    deal_matmul *matmul;  // borrowed
    int32_t n_chunk;
    deal_lm_item *const *item; // (n_row,) of the batch at hand
    deal_activations inputs;
    float *x;           // (DEAL_HEAD_ROWS, n_embd) hidden states
    float *logits;      // (n_thread, DEAL_HEAD_ROWS, DEAL_MATMUL_CHUNK)
    float *chunk_max;   // (DEAL_HEAD_ROWS, n_chunk)
    float *chunk_sum;   // (DEAL_HEAD_ROWS, n_chunk) sum(exp(logit - maximum))
    int32_t *top_token; // (n_thread, sum of the rows' top_k)
    float *top_logit;
    int32_t *n_top; // (n_thread, DEAL_HEAD_ROWS) tokens found so far
    size_t top_begin[DEAL_HEAD_ROWS + 1], top_cap;
    size_t size; // bytes of scratch
} deal_head;

deal_status deal_head_init(deal_head *head, const deal_matrix *w, float softcap,
                           deal_matmul *matmul, deal_error *err);
void deal_head_free(deal_head *head); // also of a zeroed one

// Answers `n_row` <= DEAL_HEAD_ROWS items from their hidden states hidden[r] (n_embd,).
deal_status deal_head_run(deal_head *head, deal_lm_item *const *item,
                          const float *const *hidden, int32_t n_row, deal_error *err);

#endif
