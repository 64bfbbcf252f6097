/* The decisions of mode naive, at a fraction of their cost.
 *
 * Naive rolls out every candidate, scores all, ranks them and keeps the best. Here
 * every candidate has an outlook, a range that its score cannot leave (outlook.c), and
 * only what the outcome still hangs on is looked into: rollouts by a batch of rows
 * (rows.c), most of them known before, and rewards by one call. Candidates are taken in
 * the order of rank as soon as a rank is certain: the one of the highest upper end has
 * it where its lower end is above all other upper ends, or equal and first of equals.
 *
 * What naive does with ranks, the pool, commits and the end, is done here on the same
 * numbers in the same order. docs/exact-search.md has the proof.
 */
#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "search/exact.h"
#include "search/exact_internal.h"

#define N_KNOWN_RESERVED ((size_t)4096) // entries
#define N_ROW_RESERVED ((size_t)256)

// --- new and free --------------------------------------------------------------------

deal_status
deal_exact_new(deal_search *search, deal_error *err)
{
    deal_exact *x = deal_alloc_zero(1, sizeof *x);
    if (!x)
        return deal_fail_memory(err, "exact search");
    search->exact = x;
    size_t n_live = (size_t)search->n_live_max,
           n_reward = (size_t)search->rewards.n_reward;
    size_t n_slot = n_live * (size_t)search->n_expand;
    x->n_top = search->request.rollout_lm ? 1 : search->n_expand;
    deal_known_init(&x->known, search->roll_lm, x->n_top);
    x->at = deal_alloc(n_live, sizeof *x->at);
    x->next_at = deal_alloc(n_live, sizeof *x->next_at);
    x->next_candidate = deal_alloc(n_live, sizeof *x->next_candidate);
    x->outlook = deal_alloc_zero(n_slot, sizeof *x->outlook);
    x->ends = deal_alloc(n_slot, 2 * n_reward * sizeof *x->ends);
    x->flags = deal_alloc(n_slot, n_reward * sizeof *x->flags);
    x->lows = deal_alloc(n_live, sizeof *x->lows);
    x->order = deal_alloc(n_slot, sizeof *x->order);
    x->asked = deal_alloc(n_slot, sizeof *x->asked);
    x->beginning = deal_alloc(n_slot, sizeof *x->beginning);
    x->seconds = deal_alloc_zero(n_reward, sizeof *x->seconds);
    x->path = deal_alloc(n_live, sizeof *x->path);
    x->slack = deal_alloc(n_live, sizeof *x->slack);
    deal_draft_init(&x->draft);
    x->win_rate = 0.95;
    if (!x->at || !x->next_at || !x->next_candidate || !x->outlook || !x->ends ||
        !x->flags || !x->lows || !x->order || !x->asked || !x->beginning ||
        !x->seconds || !x->path || !x->slack)
        return deal_fail_memory(err, "exact search");
    for (size_t i = 0; i < n_slot; i++) {
        x->outlook[i].reward_low = x->ends + 2 * n_reward * i;
        x->outlook[i].reward_high = x->outlook[i].reward_low + n_reward;
        x->outlook[i].is_scored = x->flags + n_reward * i;
    }
    x->is_whole = (search->request.params.tricks & DEAL_TRICK_BOUNDS) == 0 ||
                  search->rewards.is_checked ||
                  !deal_reward_set_is_pure(&search->rewards);
    for (int32_t j = 0; j < search->rewards.n_reward; j++)
        x->bounds_texts =
            x->bounds_texts || deal_reward_set_bounds_texts(&search->rewards, j);
    // Room for what a decision and the rows ahead of it keep, so that steps allocate
    // nothing; what would be too much at once grows as it comes.
    size_t len = (size_t)deal_search_rollout_len(search) + 2;
    size_t n_known = len < N_KNOWN_RESERVED / 2 && n_slot < N_KNOWN_RESERVED / len / 2
                         ? 2 * n_slot * len
                         : N_KNOWN_RESERVED;
    size_t n_row = n_known < N_ROW_RESERVED ? n_known : N_ROW_RESERVED;
    DEAL_TRY(deal_rows_reserve(search, n_row, err));
    DEAL_TRY(deal_search_reserve_items(search, n_row, err));
    return deal_known_reserve(&x->known, (int32_t)n_known, err);
}

void
deal_exact_free(deal_exact *x)
{
    if (!x)
        return;
    if (x->known.lm)
        deal_known_free(&x->known);
    void *const block[] = {
        x->at,   x->next_at,   x->next_candidate, x->outlook,   x->ends, x->flags,
        x->lows, x->order,     x->asked,          x->seconds,   x->path, x->slack,
        x->row,  x->row_token, x->row_logit,      x->beginning,
    };
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
    deal_free(x);
}

// --- candidates ----------------------------------------------------------------------

// The prompt's last node becomes the first entry; with rollout_lm that comes later.
static deal_status
start(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    DEAL_TRY(deal_known_reserve(&x->known, 1, err));
    DEAL_TRY(deal_search_evaluate(search, DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
                                  search->n_expand, err));
    x->at[0] = DEAL_KNOWN_NONE;
    if (!search->request.rollout_lm) {
        x->at[0] = deal_known_add(
            &x->known, DEAL_KNOWN_NONE,
            search->request.prompt[search->request.n_prompt - 1], search->live[0].node,
            search->n_expand, search->top_token, search->top_logit, search->log_z[0]);
        search->live[0].node = DEAL_NODE_NONE;
    }
    const int32_t *prompt = search->request.prompt;
    for (int32_t i = 0; i + 1 < search->request.n_prompt; i++) {
        int32_t context[DEAL_DRAFT_ORDER];
        for (int32_t j = 0; j < DEAL_DRAFT_ORDER; j++)
            context[j] = i >= j ? prompt[i - j] : -1;
        deal_draft_learn(&x->draft, context, prompt[i + 1]);
    }
    return DEAL_OK;
}

static deal_status
evaluate_live(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    for (int32_t i = 0; i < search->n_live; i++) {
        const deal_hypothesis *live = &search->live[i];
        deal_row row = {.at = x->at[i],
                        .i_parent = -1,
                        .token = live->token[live->n_token - 1],
                        .n_top = search->n_expand};
        int32_t i_row;
        if (live->n_behind > 0)
            DEAL_TRY(deal_rows_add(search, &row, &i_row, err));
    }
    DEAL_TRY(deal_rows_run(search, err));
    for (int32_t i = 0; i < search->n_live; i++) {
        deal_hypothesis *live = &search->live[i];
        if (live->n_behind > 0)
            x->at[i] =
                deal_known_child(&x->known, x->at[i], live->token[live->n_token - 1]);
        deal_known_need(&x->known, x->at[i]);
        live->n_behind = 0;
    }
    return DEAL_OK;
}

// What is known after each live hypothesis, where deal_beam_expand() looks for it.
static void
show_tops(deal_search *search)
{
    const deal_exact *x = search->exact;
    size_t k = (size_t)search->n_expand;
    for (int32_t i = 0; i < search->n_live; i++) {
        size_t from = (size_t)x->at[i] * k, to = (size_t)i * k;
        memcpy(search->top_token + to, x->known.top_token + from,
               k * sizeof *search->top_token);
        memcpy(search->top_logit + to, x->known.top_logit + from,
               k * sizeof *search->top_logit);
        search->log_z[i] = x->known.entry[x->at[i]].log_z;
        search->i_row[i] = i;
    }
}

static deal_status
expand(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    if (!search->is_started)
        DEAL_TRY(start(search, err));
    else if (search->request.rollout_lm)
        DEAL_TRY(deal_search_evaluate(search, DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
                                      search->n_expand, err));
    else
        DEAL_TRY(evaluate_live(search, err));
    if (!search->request.rollout_lm)
        show_tops(search);
    DEAL_TRY(deal_observe_all(search, search->live, search->n_live, err));
    DEAL_TRY(deal_beam_expand(search, &search->rewards, err));
    deal_skip_check(search);
    deal_memo_trim(search->rewards.memo);
    for (int32_t i = 0; i < search->n_candidate; i++) {
        deal_outlook_begin(search, i);
        x->order[i] = i;
        int32_t n_before = search->slot[i].n_token;
        if (deal_skip_is_blind(search))
            break;
        DEAL_TRY(deal_rows_follow(search, i, err));
        search->stats.n_reused_tokens += search->slot[i].n_token - n_before;
    }
    DEAL_TRY(deal_outlook_bound(search, err));
    for (int32_t i = 0; i < search->n_candidate; i++)
        x->outlook[i].reach = x->outlook[i].high;
    x->has_pooled = false;
    x->bar = -INFINITY;
    return DEAL_OK;
}

// --- what is looked into -------------------------------------------------------------

// Which rows were needed for the decision: those of candidates that, for all that was
// known before any of their rollout was, could have been among the first.
static void
count_needed(deal_search *search)
{
    deal_exact *x = search->exact;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        const deal_hypothesis *slot = &search->slot[i];
        int32_t i_live = search->candidate[i].i_live, entry = x->at[i_live];
        bool is_rolled = entry != DEAL_KNOWN_NONE && search->live[i_live].n_behind == 0;
        if (!is_rolled || !(x->outlook[i].hope >= x->bar))
            continue;
        for (int32_t j = search->live[i_live].n_token; j < slot->n_token; j++) {
            entry = deal_known_child(&x->known, entry, slot->token[j]);
            if (entry == DEAL_KNOWN_NONE)
                break;
            deal_known_need(&x->known, entry);
        }
    }
}

// One call of a reward, or one pass.
static deal_status
refine(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    bool is_open = false, is_asked = false;
    for (int32_t i = 0; i < search->n_candidate; i++)
        is_open = is_open || (x->outlook[i].is_needed && !x->outlook[i].is_complete &&
                              x->outlook[i].high == INFINITY);
    if (!is_open) // else no score of another one can spare it its rollout
        DEAL_TRY(deal_outlook_ask(search, &is_asked, err));
    if (is_asked)
        return DEAL_OK;
    deal_ranks_lead(search);
    return deal_rows_roll(search, err);
}

static deal_status
decide(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    if (deal_skip_is_blind(search)) { // it goes on: one that ends is weighed
        search->winner[0] = 0;
        search->n_winner = 1;
        return DEAL_OK;
    }
    for (;;) {
        bool is_decided = false, is_all_known = true;
        for (int32_t i = 0; i < search->n_candidate; i++)
            is_all_known = is_all_known && x->outlook[i].is_exact;
        if (!x->is_whole || is_all_known)
            DEAL_TRY(deal_ranks_settle(search, &is_decided, err));
        for (int32_t i = 0; i < search->n_candidate; i++)
            x->outlook[i].is_needed = !x->outlook[i].is_exact;
        if (!x->is_whole)
            deal_ranks_need(search);
        if (is_decided)
            break;
        DEAL_TRY(refine(search, err));
    }
    count_needed(search);
    // A winner takes the beginning of its rollout along.
    for (bool is_short = true; is_short;) {
        is_short = false;
        for (int32_t i = 0; i < search->n_candidate; i++)
            x->outlook[i].is_needed = false;
        for (int32_t w = 0; w < search->n_winner; w++) {
            int32_t i = search->winner[w];
            if (search->slot[i].finish == DEAL_FINISH_NONE &&
                deal_exact_n_rolled(search, i) + 1 < search->request.params.commit)
                x->outlook[i].is_needed = is_short = true;
        }
        if (is_short)
            DEAL_TRY(deal_rows_roll(search, err));
    }
    return DEAL_OK;
}

// --- commit --------------------------------------------------------------------------

// The hypothesis that winner `i` becomes, or its place in the pool.
static deal_status
commit_one(deal_search *search, int32_t i, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_hypothesis *slot = &search->slot[i];
    int32_t i_live = search->candidate[i].i_live,
            commit = search->request.params.commit;
    int32_t first = search->live[i_live].n_token, n = slot->n_token - first;
    bool is_whole = n <= commit && slot->finish != DEAL_FINISH_NONE;
    n = n < commit ? n : commit;
    int32_t entry = x->at[i_live]; // with rollout_lm deal_commit_logprobs() has added
    for (int32_t j = 0; !search->request.rollout_lm && j + 1 < n; j++) {
        entry = deal_known_child(&x->known, entry, slot->token[first + j]);
        slot->logprob += deal_known_best_logprob(&x->known, entry);
    }
    double weight = search->request.params.reward_weight;
    if (is_whole) {
        DEAL_TRY(deal_outlook_score(search, i, err));
        slot->score = slot->logprob + weight * slot->h;
        return deal_beam_pool(search, i, err);
    }
    int32_t i_next = x->n_next++;
    deal_hypothesis *next = &search->next[i_next];
    DEAL_TRY(deal_hypothesis_copy(next, &search->live[i_live], &search->rewards, err));
    for (int32_t j = 0; j < n; j++)
        DEAL_TRY(deal_hypothesis_push(next, slot->token[first + j], &search->ending,
                                      &search->rewards, err));
    next->logprob = slot->logprob;
    x->next_candidate[i_next] = i;
    if (search->request.rollout_lm)
        deal_commit_move(search, next, i);
    search->candidate[i].i_next = i_next;
    return DEAL_OK;
}

// Whether a winner goes on as the model that rolls out would.
static bool
is_best(const deal_search *search, int32_t i)
{
    const deal_exact *x = search->exact;
    int32_t i_live = search->candidate[i].i_live;
    int32_t first, n;
    deal_beam_range(search, i_live, &first, &n);
    if (x->at[i_live] == DEAL_KNOWN_NONE || search->live[i_live].n_behind > 0)
        return i == first; // it was not asked
    return deal_known_best(&x->known, x->at[i_live]) == search->candidate[i].token;
}

static deal_status
commit(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    double n_won = 0.0;
    for (int32_t w = 0; w < search->n_winner; w++)
        n_won += is_best(search, search->winner[w]);
    if (search->n_winner > 0)
        x->win_rate += 0.05 * (n_won / search->n_winner - x->win_rate);
    if (search->request.rollout_lm)
        DEAL_TRY(deal_commit_logprobs(search, err));
    x->n_next = 0;
    for (int32_t w = 0; w < search->n_winner; w++)
        DEAL_TRY(commit_one(search, search->winner[w], err));
    for (int32_t w = 0; w < search->n_winner; w++) // pooled ones still hold a node
        deal_search_release(search, &search->slot[search->winner[w]]);
    return DEAL_OK;
}

// Whether none of those that would go on can enter the pool any more, as
// deal_beam_is_done() tells from scores.
static deal_status
check_done(deal_search *search, bool *is_done, deal_error *err)
{
    deal_exact *x = search->exact;
    *is_done = x->n_next == 0;
    if (*is_done || search->n_pool < search->n_live_max)
        return DEAL_OK;
    double worst = search->pool[search->n_pool - 1].score;
    double weight = search->request.params.reward_weight;
    for (;;) {
        bool is_open = false;
        for (int32_t i = 0; i < search->n_candidate; i++)
            x->outlook[i].is_needed = false;
        for (int32_t n = 0; n < x->n_next; n++) {
            deal_outlook *outlook = &x->outlook[x->next_candidate[n]];
            double logprob = search->next[n].logprob;
            double ends[2] = {logprob, logprob};
            if (weight != 0.0 && !isinf(logprob)) {
                ends[weight < 0.0] = logprob + weight * outlook->h_low;
                ends[weight > 0.0] = logprob + weight * outlook->h_high;
            }
            if (ends[0] > worst)
                return DEAL_OK;
            outlook->is_needed = ends[1] > worst;
            is_open = is_open || outlook->is_needed;
        }
        if (!is_open)
            break;
        DEAL_TRY(refine(search, err));
    }
    *is_done = true;
    return DEAL_OK;
}

// --- the decision --------------------------------------------------------------------

static deal_status
record(deal_search *search, bool is_last, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_ranks_sort(search);
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = x->order[r];
        deal_hypothesis *slot = &search->slot[i];
        const deal_outlook *outlook = &x->outlook[i];
        deal_reward_case unused;
        if (search->rewards.n_reward > 0) // makes room for its scores
            DEAL_TRY(deal_hypothesis_case(slot, &search->rewards, &unused, err));
        for (int32_t j = 0; j < search->rewards.n_reward; j++)
            slot->reward[j] = outlook->reward_low[j] == outlook->reward_high[j]
                                  ? outlook->reward_low[j]
                                  : NAN;
        const deal_row_scores scores = {
            .h = outlook->h_low == outlook->h_high ? outlook->h_low : NAN,
            .score = outlook->is_exact ? outlook->low : NAN,
            .low = outlook->low,
            .high = outlook->high,
        };
        DEAL_TRY(deal_search_record(search, i, is_last, &scores, err));
        if (search->is_skipped)
            continue;
        search->stats.n_pruned += !outlook->is_exact;
        search->stats.n_settled += outlook->is_exact && !outlook->is_complete;
    }
    return DEAL_OK;
}

// Finds what is known of the hypotheses that go on, with what has come since they were
// chosen.
static void
find_entries(deal_search *search)
{
    deal_exact *x = search->exact;
    for (int32_t i = 0; i < x->n_next; i++) {
        deal_hypothesis *next = &search->next[i];
        int32_t i_live = search->candidate[x->next_candidate[i]].i_live;
        const deal_hypothesis *live = &search->live[i_live];
        int32_t entry = x->at[i_live];
        next->n_behind = live->n_behind;
        for (int32_t j = live->n_token; j < next->n_token; j++) {
            int32_t child = DEAL_KNOWN_NONE;
            if (entry != DEAL_KNOWN_NONE && next->n_behind == 0)
                child = deal_known_child(&x->known, entry, next->token[j]);
            if (child != DEAL_KNOWN_NONE)
                entry = child;
            else
                next->n_behind++;
        }
        x->next_at[i] = entry;
    }
}

// Asks for all candidates of the next decision where a rollout has asked for the best
// one alone. The nodes above are still there to ask with.
static deal_status
fill_tops(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_lm *lm = search->request.lm;
    for (int32_t i = 0; i < x->n_next; i++) {
        const deal_known_entry *entry = &x->known.entry[x->next_at[i]];
        if (search->next[i].n_behind > 0 || entry->n_top == search->n_expand)
            continue;
        DEAL_TRY(deal_search_reserve_items(search, 1, err));
        search->item[0] = (deal_lm_item){
            .parent = x->known.entry[entry->parent].node,
            .i_parent = -1,
            .token = entry->token,
            .want = DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
            .top_k = search->n_expand,
            .top_token = search->top_token,
            .top_logit = search->top_logit,
        };
        DEAL_TRY(deal_search_extend(search, 1, err));
        lm->ops->release(lm, search->item[0].node);
        deal_known_fill(&x->known, x->next_at[i], search->top_token, search->top_logit,
                        search->item[0].log_z);
    }
    return DEAL_OK;
}

// Keeps what lies below the hypotheses that go on; without reuse, no more of it than
// naive does.
static void
trim(deal_search *search, int32_t n_next)
{
    deal_exact *x = search->exact;
    for (int32_t i = 0; i < search->n_candidate; i++)
        x->outlook[i].cursor = DEAL_KNOWN_NONE; // it may go
    if (n_next > 0 && x->next_at[0] == DEAL_KNOWN_NONE)
        n_next = 0; // rollout_lm was not asked yet
    deal_known_trim(&x->known, x->next_at, n_next,
                    (search->request.params.tricks & DEAL_TRICK_REUSE) != 0);
    int32_t *at = x->at;
    x->at = x->next_at;
    x->next_at = at;
}

deal_status
deal_exact_step(deal_search *search, bool *is_done, deal_error *err)
{
    deal_exact *x = search->exact;
    bool is_last = false;
    DEAL_TRY(expand(search, err));
    DEAL_TRY(decide(search, err));
    DEAL_TRY(commit(search, err));
    DEAL_TRY(check_done(search, &is_last, err));
    DEAL_TRY(record(search, is_last, err));
    find_entries(search);
    if (!is_last && !search->request.rollout_lm)
        DEAL_TRY(fill_tops(search, err));
    trim(search, is_last ? 0 : x->n_next);
    deal_search_swap(search, x->n_next);
    search->stats.n_in_vain = x->known.n_in_vain;
    *is_done = is_last;
    return DEAL_OK;
}
