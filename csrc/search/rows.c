/* Forward passes of the exact search: rows that are wanted, in one batch. */
#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "search/exact_internal.h"
#include "search/masked_lm.h"

// Rollouts are asked for all candidates of a later decision at once, unless that is
// so many that it would cost more than it saves.
#define N_TOP_ALWAYS 64

#define N_GIVEN 32 // tokens that a constraint is asked to guess at once

deal_status
deal_rows_reserve(deal_search *search, size_t n, deal_error *err)
{
    deal_exact *x = search->exact;
    if (n <= x->row_cap)
        return DEAL_OK;
    size_t n_old = (size_t)x->n_row, k = (size_t)x->n_top;
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
            if (row->ahead == DEAL_AHEAD_NOT)
                x->row[i].ahead = DEAL_AHEAD_NOT;
            *i_row = i;
            return DEAL_OK;
        }
    DEAL_TRY(deal_rows_reserve(search, (size_t)x->n_row + 1, err));
    deal_row *added = &x->row[x->n_row];
    *added = *row;
    added->entry = DEAL_KNOWN_NONE;
    added->n_top = x->n_top <= N_TOP_ALWAYS ? x->n_top : row->n_top;
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
        bool is_right =
            parent != DEAL_KNOWN_NONE && deal_known_best(known, parent) == row->token;
        if (parent != DEAL_KNOWN_NONE)
            deal_draft_count(&x->draft, row->order, is_right);
        search->stats.n_draft_accepted += is_right;
        if (!is_right) {
            known->lm->ops->release(known->lm, node);
            return;
        }
    }
    size_t at = (size_t)i * (size_t)x->n_top;
    row->entry =
        deal_known_add(known, parent, row->token, node, row->n_top, x->row_token + at,
                       x->row_logit + at, search->item[i].log_z);
    known->entry[row->entry].ahead = row->ahead;
    known->entry[row->entry].chance = row->chance;
    int32_t context[DEAL_DRAFT_ORDER], i_above = row->entry;
    for (int32_t j = 0; j < DEAL_DRAFT_ORDER; j++) {
        context[j] = i_above == DEAL_KNOWN_NONE ? -1 : known->entry[i_above].token;
        i_above = i_above == DEAL_KNOWN_NONE ? i_above : known->entry[i_above].parent;
    }
    deal_draft_learn(&x->draft, context, deal_known_best(known, row->entry));
}

// An entry that is needed, and all above it.
static void
need_path(deal_known *known, int32_t i)
{
    for (; i != DEAL_KNOWN_NONE; i = known->entry[i].parent)
        deal_known_need(known, i);
}

// Gives up what is evaluated without need, where the KV budget leaves no room for it:
// drafts and rows ahead of this pass, entries ahead of earlier ones, and all rows ahead
// from now on. False where there was none of that.
static bool
shed(deal_search *search, int32_t *n)
{
    deal_exact *x = search->exact;
    int32_t n_all = *n;
    bool was_tight = x->is_tight;
    x->is_tight = true;
    *n = 0;
    for (int32_t i = 0; i < n_all; i++) {
        const deal_row *row = &x->row[i];
        search->stats.n_draft_tokens -= row->i_parent >= 0;
        search->stats.n_ahead_tokens -= row->ahead != DEAL_AHEAD_NOT;
        if (row->i_parent < 0 && row->ahead == DEAL_AHEAD_NOT)
            x->row[(*n)++] = *row;
    }
    for (int32_t i = 0; i < search->n_live; i++)
        need_path(&x->known, x->at[i]);
    for (int32_t i = 0; i < search->n_candidate; i++)
        need_path(&x->known, x->outlook[i].cursor);
    for (int32_t i = 0; i < *n; i++)
        need_path(&x->known, x->row[i].at);
    deal_known_shed(&x->known);
    return *n < n_all || !was_tight;
}

static deal_status
evaluate(deal_search *search, int32_t n, deal_error *err)
{
    deal_exact *x = search->exact;
    DEAL_TRY(deal_search_reserve_items(search, (size_t)n, err));
    DEAL_TRY(deal_known_reserve(&x->known, n, err));
    // Of another model only what it says next counts.
    uint32_t want = DEAL_WANT_TOP_K;
    want |= search->request.rollout_lm ? DEAL_WANT_IDS : DEAL_WANT_LOG_Z;
    for (int32_t i = 0; i < n; i++) {
        const deal_row *row = &x->row[i];
        size_t at = (size_t)i * (size_t)x->n_top;
        search->item[i] = (deal_lm_item){
            .parent = row->i_parent < 0 ? x->known.entry[row->at].node : DEAL_NODE_NONE,
            .i_parent = row->i_parent,
            .token = row->token,
            .want = want,
            .top_k = row->n_top,
            .top_token = x->row_token + at,
            .top_logit = x->row_logit + at,
        };
    }
    double start = deal_clock_seconds();
    const deal_lm *lm = x->known.lm;
    int64_t n_before = lm->n_forward_tokens, n_company = lm->n_company_tokens;
    DEAL_TRY(deal_search_extend_rollouts(search, n, err));
    int64_t n_evaluated = lm->n_forward_tokens - n_before;
    n_company = lm->n_company_tokens - n_company;
    if (n_evaluated > 0) // else all were recalled
        deal_cost_add(&x->cost, (int32_t)n_evaluated, (int32_t)n_company,
                      deal_clock_seconds() - start);
    return DEAL_OK;
}

deal_status
deal_rows_run(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    int32_t n = x->n_row;
    if (n == 0)
        return DEAL_OK;
    x->n_row = 0; // also after a failure
    deal_status status = evaluate(search, n, err);
    if (status == DEAL_ERR_KV_BUDGET && shed(search, &n))
        status = evaluate(search, n, err);
    DEAL_TRY(status);
    for (int32_t i = 0; i < n; i++)
        take_row(search, i);
    return DEAL_OK;
}

// Takes up token `token` after entry `at` where an earlier search has evaluated it.
static deal_status
take_recalled(deal_search *search, int32_t at, int32_t token, int32_t *child,
              deal_error *err)
{
    deal_known *known = &search->exact->known;
    const deal_lm_ops *ops = known->lm->ops;
    deal_row row = {.at = at, .i_parent = -1, .token = token, .n_top = 1};
    int32_t i_row;
    if (!search->request.memo ||
        ops->child(known->lm, known->entry[at].node, token) == DEAL_NODE_NONE)
        return DEAL_OK;
    DEAL_TRY(deal_rows_add(search, &row, &i_row, err));
    DEAL_TRY(deal_rows_run(search, err));
    *child = deal_known_child(known, at, token);
    return DEAL_OK;
}

deal_status
deal_rows_follow(deal_search *search, int32_t i, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_outlook *outlook = &x->outlook[i];
    deal_hypothesis *slot = &search->slot[i];
    int32_t n_left = deal_search_rollout_len(search) - deal_exact_n_rolled(search, i);
    n_left = outlook->cursor != DEAL_KNOWN_NONE ? n_left : 0;
    for (; n_left > 0 && slot->finish == DEAL_FINISH_NONE; n_left--) {
        int32_t token = slot->token[slot->n_token - 1];
        int32_t child = deal_known_child(&x->known, outlook->cursor, token);
        if (child == DEAL_KNOWN_NONE)
            DEAL_TRY(take_recalled(search, outlook->cursor, token, &child, err));
        if (child == DEAL_KNOWN_NONE)
            break;
        outlook->cursor = child;
        DEAL_TRY(deal_hypothesis_push(slot, deal_known_best(&x->known, child),
                                      &search->ending, &search->rewards, err));
    }
    return deal_outlook_update(search, i, err);
}

// A guess of what comes after a row: what a constraint leaves, or what came before.
typedef struct guess {
    int32_t place; // of the row in the masks, with a reference, or DEAL_MASK_NONE
    int32_t given[N_GIVEN];
    int32_t i_given, n_given;
    int32_t token, order; // order 0: none
} guess;

static deal_status
guess_next(deal_search *search, const int32_t *context, guess *g, deal_error *err)
{
    deal_masks *masks = search->masks;
    const deal_draft *draft = &search->exact->draft;
    if (!masks) {
        g->order = deal_draft_guess(draft, context, &g->token);
        return DEAL_OK;
    }
    deal_mask mask;
    DEAL_TRY(deal_masks_get(masks, g->place, &mask, err));
    if (g->i_given == g->n_given) {
        g->i_given = 0;
        DEAL_TRY(
            deal_masks_guess(masks, g->place, g->given, N_GIVEN, &g->n_given, err));
    }
    if (g->i_given < g->n_given) {
        g->token = g->given[g->i_given++];
        g->order = DEAL_DRAFT_GIVEN;
    } else {
        g->order = deal_draft_guess(draft, context, &g->token);
    }
    if (g->order > 0 && !deal_mask_allows(&mask, g->token))
        g->order = 0;
    return DEAL_OK;
}

// Moves a guess on, past its token or the one that is given.
static deal_status
guess_move(deal_search *search, guess *g, int32_t token, deal_error *err)
{
    int32_t next;
    if (!search->masks)
        return DEAL_OK;
    DEAL_TRY(deal_masks_child(search->masks, g->place, token, &next, err));
    deal_masks_release(search->masks, g->place);
    g->place = next;
    return DEAL_OK;
}

// Guesses how the rollout of candidate i goes on after row `i_row`, as far as that pays
// in a batch of `n_lane` rollouts.
static deal_status
add_drafts(deal_search *search, int32_t i, int32_t i_row, int32_t n_lane, guess *g,
           deal_error *err)
{
    deal_exact *x = search->exact;
    const deal_search_request *request = &search->request;
    const deal_hypothesis *slot = &search->slot[i];
    // With hidden states the last token is evaluated, too.
    int32_t n_left = deal_exact_n_left(search, i) + search->observer.is_on;
    int32_t context[DEAL_DRAFT_ORDER];
    for (int32_t j = 0; j < DEAL_DRAFT_ORDER; j++) {
        int32_t at = slot->n_token - 1 - j, before = request->n_prompt + at;
        context[j] = at >= 0       ? slot->token[at]
                     : before >= 0 ? request->prompt[before]
                                   : -1;
    }
    double chance = 1.0, least = deal_cost_chance(&x->cost, n_lane);
    for (int32_t n = n_left; n > 1; n--) {
        DEAL_TRY(guess_next(search, context, g, err));
        if (g->order == 0 || deal_exact_is_end(search, g->token))
            break;
        chance *= x->draft.rate[g->order - 1];
        if (chance < least)
            break;
        deal_row row = {.at = DEAL_KNOWN_NONE,
                        .i_parent = i_row,
                        .token = g->token,
                        .n_top = 1,
                        .order = g->order};
        DEAL_TRY(deal_rows_add(search, &row, &i_row, err));
        search->stats.n_draft_tokens++;
        memmove(context + 1, context, (DEAL_DRAFT_ORDER - 1) * sizeof *context);
        context[0] = g->token;
        DEAL_TRY(guess_move(search, g, g->token, err));
    }
    return DEAL_OK;
}

static deal_status
add_draft(deal_search *search, int32_t i, int32_t i_row, int32_t n_lane,
          deal_error *err)
{
    guess g = {.place = DEAL_MASK_NONE};
    const deal_row *row = &search->exact->row[i_row];
    deal_status status = DEAL_OK;
    if (search->masks) {
        deal_node node = search->exact->known.entry[row->at].node;
        g.place = deal_masked_lm_place(search->roll_lm, node);
        deal_masks_retain(search->masks, g.place);
        status = guess_move(search, &g, row->token, err);
    }
    if (status == DEAL_OK)
        status = add_drafts(search, i, i_row, n_lane, &g, err);
    if (search->masks)
        deal_masks_release(search->masks, g.place);
    return status;
}

static deal_status
add_rollout(deal_search *search, int32_t i, int32_t n_lane, deal_error *err)
{
    deal_outlook *outlook = &search->exact->outlook[i];
    const deal_hypothesis *slot = &search->slot[i];
    int32_t i_row;
    deal_row row = {.at = outlook->cursor,
                    .i_parent = -1,
                    .token = slot->token[slot->n_token - 1],
                    .n_top = 1};
    DEAL_TRY(deal_rows_add(search, &row, &i_row, err));
    bool has_drafts = (search->request.params.tricks & DEAL_TRICK_DRAFTS) != 0;
    if (deal_exact_is_rolled(search, i)) // a row for its states alone
        return DEAL_OK;
    search->stats.n_rollouts += !outlook->has_rows;
    outlook->has_rows = true;
    if (i_row >= 0 && has_drafts)
        DEAL_TRY(add_draft(search, i, i_row, n_lane, err));
    return DEAL_OK;
}

// With rollout_lm: makes up there for what the live hypotheses have got since a rollout
// was last asked for. Each of those that were behind gets an entry of its own.
static deal_status
catch_up(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_lm *lm = x->known.lm;
    bool is_behind = false;
    for (int32_t i = 0; i < search->n_live; i++)
        is_behind =
            is_behind || x->at[i] == DEAL_KNOWN_NONE || search->live[i].n_behind > 0;
    if (!is_behind)
        return DEAL_OK;
    DEAL_TRY(deal_known_reserve(&x->known, search->n_live, err));
    for (int32_t i = 0; i < search->n_live; i++) {
        deal_hypothesis *live = &search->live[i];
        if (x->at[i] != DEAL_KNOWN_NONE) {
            live->roll = x->known.entry[x->at[i]].node;
            lm->ops->retain(lm, live->roll);
        }
        if (live->n_behind > 0)
            x->at[i] = DEAL_KNOWN_NONE;
    }
    DEAL_TRY(deal_search_catch_up(search, err));
    for (int32_t i = 0; i < search->n_live; i++) {
        deal_hypothesis *live = &search->live[i];
        int32_t last = live->n_token > 0
                           ? live->token[live->n_token - 1]
                           : search->request.prompt[search->request.n_prompt - 1];
        if (x->at[i] == DEAL_KNOWN_NONE)
            x->at[i] =
                deal_known_add(&x->known, DEAL_KNOWN_NONE, last, live->roll, 1,
                               &search->roll_token[i], &search->roll_logit[i], 0.0f);
        else
            lm->ops->release(lm, live->roll);
        live->roll = DEAL_NODE_NONE;
    }
    for (int32_t i = 0; i < search->n_candidate; i++)
        if (x->outlook[i].cursor == DEAL_KNOWN_NONE)
            x->outlook[i].cursor = x->at[search->candidate[i].i_live];
    return DEAL_OK;
}

deal_status
deal_rows_last(deal_search *search, int32_t i, deal_error *err)
{
    DEAL_TRY(add_rollout(search, i, 1, err));
    DEAL_TRY(deal_rows_run(search, err));
    return deal_rows_follow(search, i, err);
}

deal_status
deal_rows_roll(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    int32_t n_lane = 0;
    for (int32_t i = 0; i < search->n_candidate; i++)
        n_lane += x->outlook[i].is_needed && !x->outlook[i].is_complete;
    if (search->request.rollout_lm && n_lane > 0)
        DEAL_TRY(catch_up(search, err));
    for (int32_t i = 0; i < search->n_candidate; i++)
        if (x->outlook[i].is_needed && !x->outlook[i].is_complete)
            DEAL_TRY(add_rollout(search, i, n_lane, err));
    DEAL_TRY(deal_ahead_fill(search, err));
    DEAL_TRY(deal_rows_run(search, err));
    for (int32_t i = 0; i < search->n_candidate; i++) {
        if (!x->outlook[i].is_needed || x->outlook[i].is_complete)
            continue;
        int32_t n_before = search->slot[i].n_token;
        DEAL_TRY(deal_rows_follow(search, i, err));
        search->stats.n_rollout_tokens += search->slot[i].n_token - n_before;
    }
    return deal_outlook_bound(search, err);
}
