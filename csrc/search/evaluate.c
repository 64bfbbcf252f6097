/* What a search asks of the language model: batches of items, the prompt, and the last
 * tokens of its live hypotheses.
 */
#include <math.h>

#include "search/search_internal.h"

#include "common/alloc.h"
#include "common/clock.h"

deal_status
deal_search_reserve_items(deal_search *search, size_t n, deal_error *err)
{
    if (n <= search->item_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(search->item_cap, n);
    deal_free(search->item);
    search->item_cap = 0;
    search->item = deal_alloc(cap, sizeof *search->item);
    if (!search->item)
        return deal_fail_memory(err, "batch");
    search->item_cap = cap;
    return DEAL_OK;
}

deal_status
deal_search_reserve_cases(deal_search *search, size_t n, deal_error *err)
{
    if (n <= search->case_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(search->case_cap, n);
    deal_free(search->cases);
    search->case_cap = 0;
    search->cases = deal_alloc(cap, sizeof *search->cases);
    if (!search->cases)
        return deal_fail_memory(err, "completions to score");
    search->case_cap = cap;
    return DEAL_OK;
}

static deal_status
check_hidden(const deal_search *search, const deal_lm_item *item, deal_error *err)
{
    const deal_reward_hidden *hidden = &search->rewards.hidden;
    size_t n = (size_t)hidden->n_layer * (size_t)hidden->n_embd;
    for (size_t i = 0; (item->want & DEAL_WANT_HIDDEN) && i < n; i++)
        if (!isfinite(item->hidden[i]))
            return deal_fail(err, DEAL_ERR_FORMAT,
                             "model: its hidden states after token %d hold NaN or "
                             "infinity",
                             (int)item->token);
    return DEAL_OK;
}

// All logits are checked where they are read, in draw.c.
static deal_status
check_item(const deal_lm_item *item, deal_error *err)
{
    bool is_sound = true;
    if (item->want & DEAL_WANT_LOG_Z)
        is_sound = isfinite(item->log_z);
    if (item->want & DEAL_WANT_TARGET)
        is_sound = is_sound && !isnan(item->target_logit);
    if (item->want & DEAL_WANT_TOP_K)
        for (int32_t i = 0; i < item->top_k; i++)
            is_sound = is_sound && !isnan(item->top_logit[i]);
    return is_sound ? DEAL_OK
                    : deal_fail(err, DEAL_ERR_FORMAT,
                                "model: its logits after token %d hold NaN or infinity",
                                (int)item->token);
}

deal_status
deal_search_extend(deal_search *search, int32_t n_items, deal_error *err)
{
    deal_lm *lm = search->request.lm;
    double start = deal_clock_seconds();
    deal_status status = lm->ops->extend(lm, search->item, n_items, err);
    double seconds = deal_clock_seconds() - start;
    if (search->is_started)
        search->stats.seconds_forward += seconds;
    else
        search->stats.seconds_prefill += seconds;
    DEAL_TRY(status);
    for (int32_t i = 0; i < n_items && status == DEAL_OK; i++)
        status = check_item(&search->item[i], err);
    for (int32_t i = 0; i < n_items && status == DEAL_OK; i++)
        status = check_hidden(search, &search->item[i], err);
    for (int32_t i = 0; i < n_items && status != DEAL_OK; i++)
        lm->ops->release(lm, search->item[i].node);
    return status;
}

void
deal_search_fill_want(deal_search *search, deal_lm_item *item, int32_t i_row,
                      uint32_t want, int32_t top_k)
{
    item->want = want;
    if (want & DEAL_WANT_TOP_K) {
        size_t i_top = (size_t)i_row * (size_t)top_k;
        item->top_k = top_k;
        item->top_token = search->top_token + i_top;
        item->top_logit = search->top_logit + i_top;
    }
    if (want & DEAL_WANT_LOGITS)
        item->logits =
            search->logits + (size_t)i_row * (size_t)search->request.lm->n_vocab;
}

// Evaluates the prompt; the live hypotheses are empty and share its last node, row 0.
static deal_status
prefill(deal_search *search, uint32_t want, int32_t top_k, deal_error *err)
{
    const deal_search_request *request = &search->request;
    deal_lm *lm = request->lm;
    int32_t n = request->n_prompt;
    bool is_sample = request->params.mode == DEAL_SEARCH_SAMPLE;
    search->n_live = is_sample ? search->n_live_max : 1;
    for (int32_t i = 0; i < search->n_live; i++)
        DEAL_TRY(deal_hypothesis_reset(
            &search->live[i], &search->ending,
            deal_search_is_steered(search) ? &search->rewards : NULL, err));
    DEAL_TRY(deal_search_reserve_items(search, (size_t)n, err));
    deal_node root;
    if (request->controls)
        DEAL_TRY(lm->ops->controlled_root(lm, request->controls, n, &root, err));
    else
        DEAL_TRY(lm->ops->root(lm, &root, err));
    for (int32_t i = 0; i < n; i++)
        search->item[i] = (deal_lm_item){
            .parent = root, .i_parent = i - 1, .token = request->prompt[i]};
    deal_search_fill_want(search, &search->item[n - 1], 0, want, top_k);
    deal_status status = deal_observe_root(search, root, &search->item[n - 1], err);
    if (status == DEAL_OK)
        status = deal_search_extend(search, n, err);
    lm->ops->release(lm, root);
    DEAL_TRY(status);
    deal_observe_prompt(search, search->item[n - 1].node);
    for (int32_t i = 0; i + 1 < n; i++)
        lm->ops->release(lm, search->item[i].node);
    search->log_z[0] = search->item[n - 1].log_z;
    for (int32_t i = 0; i < search->n_live; i++) {
        search->i_row[i] = 0;
        search->live[i].node = search->item[n - 1].node;
        if (i > 0)
            lm->ops->retain(lm, search->live[i].node);
    }
    search->is_started = true;
    return DEAL_OK;
}

deal_status
deal_search_evaluate(deal_search *search, uint32_t want, int32_t top_k, deal_error *err)
{
    if (!search->is_started)
        return prefill(search, want, top_k, err);
    DEAL_TRY(deal_search_reserve_items(search, (size_t)search->n_live, err));
    int32_t n = 0;
    for (int32_t i = 0; i < search->n_live; i++) {
        const deal_hypothesis *live = &search->live[i];
        if (live->finish != DEAL_FINISH_NONE)
            continue;
        search->item[n] = (deal_lm_item){.parent = live->node,
                                         .i_parent = -1,
                                         .token = live->token[live->n_token - 1]};
        deal_search_fill_want(search, &search->item[n], n, want, top_k);
        search->i_row[i] = n++;
    }
    DEAL_TRY(deal_search_extend(search, n, err));
    for (int32_t i = 0; i < search->n_live; i++) {
        deal_hypothesis *live = &search->live[i];
        if (live->finish != DEAL_FINISH_NONE)
            continue;
        deal_search_release(search, live);
        live->node = search->item[search->i_row[i]].node;
        search->log_z[search->i_row[i]] = search->item[search->i_row[i]].log_z;
    }
    return DEAL_OK;
}

void
deal_search_swap(deal_search *search, int32_t n_next)
{
    for (int32_t i = 0; i < search->n_live; i++)
        deal_search_release(search, &search->live[i]);
    deal_hypothesis *next = search->next;
    search->next = search->live;
    search->live = next;
    search->n_live = n_next;
}
