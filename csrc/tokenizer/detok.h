/* Incremental detokenizer: token ids -> UTF-8 text, token by token.
 *
 * What it has emitted is final and whole characters only; what may still change with
 * the next token (half a character, a run of byte pieces) is pending. At every point
 *     emitted + pending = the library's own decode(ids, skip_special_tokens=True).
 */
#ifndef DEAL_TOKENIZER_DETOK_H
#define DEAL_TOKENIZER_DETOK_H

#include <stdbool.h>

#include "common/bytes.h"
#include "tokenizer/vocab.h"

// Plain data; copy by assignment to fork. Fields are private to detok.c.
typedef struct deal_detok {
    int32_t n_pending; // the last tokens whose text is not emitted yet
    int32_t n_skip;    // bytes of the first pending token that are emitted already
    bool is_start;     // no text yet, and a leading space would be dropped
} deal_detok;

// `continues`: the text goes on from a prompt, so a leading space is kept.
void deal_detok_init(deal_detok *detok, const deal_vocab *vocab, bool continues);

// Appends to `out` the text that became final when tokens[n_tokens - 1] was added.
// `tokens` is the whole sequence since deal_detok_init(), so that pending pieces can be
// read again; only its tail is touched. Ids outside [0, n_vocab) fail with INVALID_ARG.
deal_status deal_detok_push(const deal_vocab *vocab, deal_detok *detok,
                            const int32_t *tokens, int32_t n_tokens, deal_bytes *out,
                            deal_error *err);

// Appends what is pending, as decode() would show it were this the end; `detok` stays.
deal_status deal_detok_pending(const deal_vocab *vocab, const deal_detok *detok,
                               const int32_t *tokens, int32_t n_tokens, deal_bytes *out,
                               deal_error *err);

// How many of the last tokens are not emitted yet, or not in full.
int32_t deal_detok_n_pending(const deal_detok *detok);

#endif
