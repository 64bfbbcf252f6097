/* A session: one trie over one model, the implementation of common/lm.h on weights.
 *
 * Used by one thread at a time; the model may be shared by any number of sessions.
 */
#ifndef DEAL_MODEL_SESSION_H
#define DEAL_MODEL_SESSION_H

#include "common/lm.h"
#include "model/model.h"
#include "model/trie.h"

typedef struct deal_session deal_session;

typedef struct deal_session_params {
    int32_t n_ctx;        // longest path, in [1, n_ctx_train]
    int32_t n_thread;     // at least 1
    deal_kv_type kv_type; // of the cells
    size_t kv_budget;     // most bytes of KV cells, a page or more; 0: no limit
} deal_session_params;

// The model is borrowed and must outlive the session. Caller frees with
// deal_session_free().
deal_status deal_session_new(const deal_model *model, const deal_session_params *params,
                             deal_session **session, deal_error *err);
void deal_session_free(deal_session *session);

// Bytes of a page of KV cells, the least that a budget can be.
size_t deal_session_page_size(const deal_model *model, deal_kv_type kv_type);

// The seam; borrowed from `session`.
deal_lm *deal_session_lm(deal_session *session);

// Asked during long calls, about ten times a second and on the thread of the call; a
// status other than DEAL_OK ends the call with it. NULL, the default, asks nobody.
typedef deal_status (*deal_session_poll)(void *user, deal_error *err);
void deal_session_set_poll(deal_session *session, deal_session_poll poll, void *user);

// Bytes of KV cells and scratch, bytes of KV cells, and the number of live trie nodes.
size_t deal_session_size(const deal_session *session);
size_t deal_session_kv_size(const deal_session *session);
int32_t deal_session_n_live(const deal_session *session);

#endif
