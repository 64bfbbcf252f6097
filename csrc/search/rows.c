/* Forward passes of the exact search: rows that are wanted, in one batch. */
#include <string.h>

#include "common/alloc.h"
#include "search/exact_internal.h"

// Rollouts are asked for all candidates of a later decision at once, unless that is
// so many that it would cost more than it saves.
#define N_TOP_ALWAYS 64

static deal_status
reserve(deal_search *search, size_t n, deal_error *err)
{
    deal_exact *x = search->exact;
    if (n <= x->row_cap)
        return DEAL_OK;
    size_t n_old = (size_t)x->n_row, k = (size_t)search->n_expand;
    size_t cap = deal_grow_cap(x->row_cap, n);
    void *block = deal_realloc(x->row, n_old, cap, sizeof *x->row);
    if (!block)
        return deal_fail_memory(err, "batch");
    x->row = block;
    block = deal_realloc(x->row_token, 0, cap, k * sizeof *x->row_token);
    if (!block)
        return deal_fail_memory(err, "batch");
    x->row_token = block;
    block = deal_realloc(x->row_logit, 0, cap, k * sizeof *x->row_logit);
    if (!block)
        return deal_fail_memory(err, "batch");
    x->row_logit = block;
    x->row_cap = cap;
    return DEAL_OK;
}

deal_status
deal_rows_add(deal_search *search, const deal_row *row, int32_t *i_row, deal_error *err)
{
    deal_exact *x = search->exact;
    *i_row = -1;
    if (row->i_parent < 0 &&
        deal_known_child(&x->known, row->at, row->token) != DEAL_KNOWN_NONE)
        return DEAL_OK;
    for (int32_t i = 0; i < x->n_row; i++)
        if (x->row[i].i_parent == row->i_parent && x->row[i].token == row->token &&
            (row->i_parent >= 0 || x->row[i].at == row->at)) {
            x->row[i].is_ahead = x->row[i].is_ahead && row->is_ahead;
            *i_row = i;
            return DEAL_OK;
        }
    DEAL_TRY(reserve(search, (size_t)x->n_row + 1, err));
    deal_row *added = &x->row[x->n_row];
    *added = *row;
    added->entry = DEAL_KNOWN_NONE;
    added->n_top = search->n_expand <= N_TOP_ALWAYS ? search->n_expand : row->n_top;
    *i_row = x->n_row++;
    return DEAL_OK;
}

static void
take_row(deal_search *search, int32_t i)
{
    deal_exact *x = search->exact;
    deal_known *known = &x->known;
    deal_row *row = &x->row[i];
    deal_node node = search->item[i].node;
    int32_t parent = row->at;
    if (row->i_parent >= 0) {
        parent = x->row[row->i_parent].entry;
        if (parent == DEAL_KNOWN_NONE || deal_known_best(known, parent) != row->token) {
            search->request.lm->ops->release(search->request.lm, node);
            return;
        }
    }
    size_t at = (size_t)i * (size_t)search->n_expand;
    row->entry =
        deal_known_add(known, parent, row->token, node, row->n_top, x->row_token + at,
                       x->row_logit + at, search->item[i].log_z);
    known->entry[row->entry].is_ahead = row->is_ahead;
}

deal_status
deal_rows_run(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    int32_t n = x->n_row;
    if (n == 0)
        return DEAL_OK;
    x->n_row = 0; // also after a failure
    DEAL_TRY(deal_search_reserve_items(search, (size_t)n, err));
    DEAL_TRY(deal_known_reserve(&x->known, n, err));
    for (int32_t i = 0; i < n; i++) {
        const deal_row *row = &x->row[i];
        size_t at = (size_t)i * (size_t)search->n_expand;
        search->item[i] = (deal_lm_item){
            .parent = row->i_parent < 0 ? x->known.entry[row->at].node : DEAL_NODE_NONE,
            .i_parent = row->i_parent,
            .token = row->token,
            .want = DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
            .top_k = row->n_top,
            .top_token = x->row_token + at,
            .top_logit = x->row_logit + at,
        };
    }
    DEAL_TRY(deal_search_extend(search, n, err));
    for (int32_t i = 0; i < n; i++)
        take_row(search, i);
    return DEAL_OK;
}

deal_status
deal_rows_follow(deal_search *search, int32_t i, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_outlook *outlook = &x->outlook[i];
    deal_hypothesis *slot = &search->slot[i];
    int32_t n_left = deal_exact_rollout_len(search) - deal_exact_n_rolled(search, i);
    for (; n_left > 0 && slot->finish == DEAL_FINISH_NONE; n_left--) {
        int32_t child = deal_known_child(&x->known, outlook->cursor,
                                         slot->token[slot->n_token - 1]);
        if (child == DEAL_KNOWN_NONE)
            break;
        x->known.entry[child].is_ahead = false;
        outlook->cursor = child;
        DEAL_TRY(deal_hypothesis_push(slot, deal_known_best(&x->known, child),
                                      &search->ending, &search->rewards, err));
    }
    return deal_outlook_update(search, i, err);
}

deal_status
deal_rows_roll(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        deal_outlook *outlook = &x->outlook[i];
        const deal_hypothesis *slot = &search->slot[i];
        if (!outlook->is_needed || outlook->is_complete)
            continue;
        int32_t i_row;
        deal_row row = {.at = outlook->cursor,
                        .i_parent = -1,
                        .token = slot->token[slot->n_token - 1],
                        .n_top = 1};
        DEAL_TRY(deal_rows_add(search, &row, &i_row, err));
        search->stats.n_rollouts += !outlook->has_rows;
        outlook->has_rows = true;
    }
    DEAL_TRY(deal_rows_run(search, err));
    for (int32_t i = 0; i < search->n_candidate; i++) {
        if (!x->outlook[i].is_needed || x->outlook[i].is_complete)
            continue;
        int32_t n_before = search->slot[i].n_token;
        DEAL_TRY(deal_rows_follow(search, i, err));
        search->stats.n_rollout_tokens += search->slot[i].n_token - n_before;
    }
    return DEAL_OK;
}
