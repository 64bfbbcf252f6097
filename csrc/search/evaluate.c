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
    if (!deal_reserve(&search->item, &search->item_cap, 0, n, sizeof *search->item))
        return deal_fail_memory(err, "batch");
    return DEAL_OK;
}

deal_status
deal_search_reserve_cases(deal_search *search, size_t n, deal_error *err)
{
    if (!deal_reserve(&search->cases, &search->case_cap, 0, n, sizeof *search->cases))
        return deal_fail_memory(err, "completions to score");
    return DEAL_OK;
}

int32_t
deal_search_rollout_len(const deal_search *search)
{
    const deal_search_params *params = &search->request.params;
    if (search->is_skipped)
        return 0;
    int32_t len =
        search->rewards.n_reward > 0 ? params->lookahead_len : params->commit - 1;
    return len < search->ending.n_new_max ? len : search->ending.n_new_max;
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

static deal_status
extend(deal_search *search, deal_lm *lm, int32_t n_items, double *seconds,
       deal_error *err)
{
    double start = deal_clock_seconds();
    deal_status status = lm->ops->extend(lm, search->item, n_items, err);
    *seconds += deal_clock_seconds() - start;
    DEAL_TRY(status);
    for (int32_t i = 0; i < n_items && status == DEAL_OK; i++)
        status = check_item(&search->item[i], err);
    for (int32_t i = 0; i < n_items && status == DEAL_OK; i++)
        status = check_hidden(search, &search->item[i], err);
    for (int32_t i = 0; i < n_items && status != DEAL_OK; i++)
        lm->ops->release(lm, search->item[i].node);
    return status;
}

deal_status
deal_search_extend(deal_search *search, int32_t n_items, deal_error *err)
{
    deal_search_stats *stats = &search->stats;
    return extend(
        search, search->request.lm, n_items,
        search->is_started ? &stats->seconds_forward : &stats->seconds_prefill, err);
}

deal_status
deal_search_extend_rollouts(deal_search *search, int32_t n_items, deal_error *err)
{
    if (!search->request.rollout_lm)
        return deal_search_extend(search, n_items, err);
    deal_error fault = {.message = ""};
    deal_status status = extend(search, search->roll_lm, n_items,
                                &search->stats.seconds_rollout_model, &fault);
    return status == DEAL_OK
               ? DEAL_OK
               : deal_fail(err, status, "rollout_model: %s", fault.message);
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

// Evaluates the prompt with `lm` or rollout_lm. What `last` asks is answered in the
// item of its last token, whose node is the caller's.
static deal_status
run_prompt(deal_search *search, bool is_rollout, const deal_lm_item *last,
           deal_error *err)
{
    const deal_search_request *request = &search->request;
    deal_lm *lm = is_rollout ? request->rollout_lm : request->lm;
    const deal_controls *controls =
        is_rollout ? request->rollout_controls : request->controls;
    int32_t n = request->n_prompt;
    DEAL_TRY(deal_search_reserve_items(search, (size_t)n, err));
    deal_node root;
    if (controls)
        DEAL_TRY(lm->ops->controlled_root(lm, controls, n, &root, err));
    else
        DEAL_TRY(lm->ops->root(lm, &root, err));
    for (int32_t i = 0; i < n; i++) {
        search->item[i] = i + 1 < n ? (deal_lm_item){0} : *last;
        search->item[i].parent = root;
        search->item[i].i_parent = i - 1;
        search->item[i].token = request->prompt[i];
    }
    deal_status status =
        is_rollout ? DEAL_OK
                   : deal_observe_root(search, root, &search->item[n - 1], err);
    if (status == DEAL_OK)
        status = is_rollout ? deal_search_extend_rollouts(search, n, err)
                            : deal_search_extend(search, n, err);
    lm->ops->release(lm, root);
    DEAL_TRY(status);
    if (!is_rollout)
        deal_observe_prompt(search, search->item[n - 1].node);
    for (int32_t i = 0; i + 1 < n; i++)
        lm->ops->release(lm, search->item[i].node);
    return DEAL_OK;
}

// The live hypotheses are empty and share the prompt's last node, row 0.
static deal_status
prefill(deal_search *search, uint32_t want, int32_t top_k, deal_error *err)
{
    deal_lm *lm = search->request.lm;
    int32_t n = search->request.n_prompt;
    bool is_sample = search->request.params.mode == DEAL_SEARCH_SAMPLE;
    search->n_live = is_sample ? search->n_live_max : 1;
    for (int32_t i = 0; i < search->n_live; i++)
        DEAL_TRY(deal_hypothesis_reset(
            &search->live[i], &search->ending,
            deal_search_is_steered(search) ? &search->rewards : NULL, err));
    deal_lm_item last = {0};
    deal_search_fill_want(search, &last, 0, want, top_k);
    DEAL_TRY(run_prompt(search, false, &last, err));
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
    deal_lm *lm = search->request.lm;
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
        lm->ops->release(lm, live->node);
        lm->ops->release(lm, live->tip);
        live->node = search->item[search->i_row[i]].node;
        live->tip = DEAL_NODE_NONE;
        search->log_z[search->i_row[i]] = search->item[search->i_row[i]].log_z;
    }
    return DEAL_OK;
}

static deal_lm_item
ask_best(deal_search *search, int32_t i)
{
    return (deal_lm_item){
        .want = DEAL_WANT_TOP_K,
        .top_k = 1,
        .top_token = &search->roll_token[i],
        .top_logit = &search->roll_logit[i],
    };
}

static deal_status
prefill_rollouts(deal_search *search, deal_error *err)
{
    deal_lm *lm = search->roll_lm;
    deal_lm_item last = ask_best(search, 0);
    DEAL_TRY(run_prompt(search, true, &last, err));
    for (int32_t i = 0; i < search->n_live; i++) {
        search->live[i].roll = search->item[search->request.n_prompt - 1].node;
        if (i > 0)
            lm->ops->retain(lm, search->live[i].roll);
    }
    return DEAL_OK;
}

deal_status
deal_search_catch_up(deal_search *search, deal_error *err)
{
    deal_lm *lm = search->roll_lm;
    size_t n_behind = 0;
    if (search->live[0].roll == DEAL_NODE_NONE)
        DEAL_TRY(prefill_rollouts(search, err));
    for (int32_t i = 0; i < search->n_live; i++)
        n_behind += (size_t)search->live[i].n_behind;
    if (n_behind == 0)
        return DEAL_OK;
    DEAL_TRY(deal_search_reserve_items(search, n_behind, err));
    int32_t n = 0;
    for (int32_t i = 0; i < search->n_live; i++) {
        const deal_hypothesis *live = &search->live[i];
        for (int32_t j = live->n_behind; j > 0; j--, n++) {
            search->item[n] = j == 1 ? ask_best(search, i) : (deal_lm_item){0};
            search->item[n].parent = live->roll;
            search->item[n].i_parent = j == live->n_behind ? -1 : n - 1;
            search->item[n].token = live->token[live->n_token - j];
        }
    }
    DEAL_TRY(deal_search_extend_rollouts(search, n, err));
    n = 0;
    for (int32_t i = 0; i < search->n_live; i++) {
        deal_hypothesis *live = &search->live[i];
        for (; live->n_behind > 0; live->n_behind--) {
            lm->ops->release(lm, live->roll);
            live->roll = search->item[n++].node;
        }
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

deal_status
deal_search_record(deal_search *search, int32_t i_candidate, bool is_last,
                   const deal_row_scores *scores, deal_error *err)
{
    const deal_candidate *candidate = &search->candidate[i_candidate];
    deal_hypothesis *slot = &search->slot[i_candidate];
    int32_t first = deal_commit_n_base(search, i_candidate);
    deal_trace_row row = {
        .i_step = (int32_t)search->stats.n_steps,
        .i_beam = candidate->i_live,
        .n_committed = first,
        .token = candidate->token,
        .logprob = candidate->logprob,
        .h = scores->h,
        .score = scores->score,
        .low = scores->low,
        .high = scores->high,
        .is_finished =
            slot->finish == DEAL_FINISH_END || slot->finish == DEAL_FINISH_STOP,
        .is_chosen = candidate->is_pooled || (candidate->i_next >= 0 && !is_last),
        .i_next = is_last ? -1 : candidate->i_next,
        .n_rollout = slot->n_token - first - 1,
    };
    deal_skip_mark(search, &row, slot->reward);
    return deal_trace_log_append(&search->trace, &row, slot->reward,
                                 search->rewards.n_reward, slot->token + first + 1,
                                 err);
}
