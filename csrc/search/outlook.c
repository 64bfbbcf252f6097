/* What a candidate can still score.
 *
 * Its rollout is a fixed text, of which a part is known; every reward's bounds enclose
 * the scores of all texts that the known part can grow to, that one among them. The
 * range of the score is the naive search's own expression,
 *
 *     logprob + reward_weight * (0 + weight[0] * reward[0] + weight[1] * reward[1] ...)
 *
 * taken at the ends, each operation rounded as there. Rounding is monotone, so the
 * score never falls outside, and a range without width is the score, to the last bit.
 */
#include <math.h>
#include <string.h>

#include "common/clock.h"
#include "search/exact_internal.h"

int32_t
deal_exact_n_rolled(const deal_search *search, int32_t i)
{
    return search->slot[i].n_token - search->live[search->candidate[i].i_live].n_token -
           1;
}

bool
deal_exact_is_rolled(const deal_search *search, int32_t i)
{
    return search->slot[i].finish != DEAL_FINISH_NONE ||
           deal_exact_n_rolled(search, i) >= deal_search_rollout_len(search);
}

bool
deal_exact_has_last(const deal_search *search, int32_t i)
{
    const deal_exact *x = search->exact;
    const deal_hypothesis *slot = &search->slot[i];
    return slot->finish == DEAL_FINISH_END ||
           deal_known_child(&x->known, x->outlook[i].cursor,
                            slot->token[slot->n_token - 1]) != DEAL_KNOWN_NONE;
}

bool
deal_exact_is_end(const deal_search *search, int32_t token)
{
    for (int32_t i = 0; i < search->ending.n_end; i++)
        if (search->ending.end_token[i] == token)
            return true;
    return false;
}

static bool
is_all_scored(const deal_search *search, const deal_outlook *outlook)
{
    for (int32_t i = 0; i < search->rewards.n_reward; i++)
        if (!outlook->is_scored[i])
            return false;
    return true;
}

// A score outside of the bounds that the reward gave before refutes them.
static deal_status
put_score(deal_search *search, deal_outlook *outlook, int32_t i_reward, double score,
          deal_error *err)
{
    double low = outlook->reward_low[i_reward], high = outlook->reward_high[i_reward];
    if (score < low || score > high)
        return deal_fail(err, DEAL_ERR_REWARD,
                         "reward \"%s\" (%d): score %g is not in [%g, %g], the bounds "
                         "that it gave for the text's beginning",
                         search->request.reward[i_reward]->name, (int)i_reward, score,
                         low, high);
    outlook->reward_low[i_reward] = outlook->reward_high[i_reward] = score;
    outlook->is_scored[i_reward] = true;
    return DEAL_OK;
}

// What rewards lack of the states of a complete rollout; all its nodes are known.
static deal_status
observe(deal_search *search, int32_t i, deal_error *err)
{
    deal_hypothesis *slot = &search->slot[i];
    if (!deal_observe_lacks(search, slot))
        return DEAL_OK;
    deal_known *known = &search->exact->known;
    int32_t last = deal_known_child(known, search->exact->outlook[i].cursor,
                                    slot->token[slot->n_token - 1]);
    if (last != DEAL_KNOWN_NONE)
        deal_known_need(known, last);
    int32_t i_live = search->candidate[i].i_live;
    DEAL_TRY(deal_observe_add(search, slot,
                              known->entry[search->exact->at[i_live]].node,
                              search->live[i_live].n_token, err));
    DEAL_TRY(deal_observe_run(search, err));
    deal_search_release(search, slot); // the entries keep its nodes
    return DEAL_OK;
}

static deal_status
score_states(deal_search *search, int32_t i, deal_error *err)
{
    deal_reward_set *rewards = &search->rewards;
    deal_outlook *outlook = &search->exact->outlook[i];
    if (!rewards->has_incremental)
        return DEAL_OK;
    deal_reward_case one;
    DEAL_TRY(deal_hypothesis_case(&search->slot[i], rewards, &one, err));
    bool is_new = false;
    for (int32_t j = 0; j < rewards->n_reward; j++)
        is_new = is_new ||
                 (deal_reward_set_is_incremental(rewards, j) && !outlook->is_scored[j]);
    if (!is_new)
        return DEAL_OK;
    DEAL_TRY(observe(search, i, err));
    DEAL_TRY(deal_reward_set_score_states(rewards, &one, err));
    for (int32_t j = 0; j < rewards->n_reward; j++)
        if (deal_reward_set_is_incremental(rewards, j))
            DEAL_TRY(put_score(search, outlook, j, one.reward[j], err));
    return DEAL_OK;
}

int32_t
deal_exact_n_left(const deal_search *search, int32_t i)
{
    int32_t n_left = deal_search_rollout_len(search) - deal_exact_n_rolled(search, i);
    int32_t n_room = search->ending.n_new_max - search->slot[i].n_token;
    if (search->slot[i].finish != DEAL_FINISH_NONE)
        return 0; // it lacks hidden states alone
    return n_left < n_room ? n_left : n_room;
}

// Bounds of a rollout that goes on.
static deal_status
bound_states(deal_search *search, int32_t i, deal_error *err)
{
    const deal_hypothesis *slot = &search->slot[i];
    deal_outlook *outlook = &search->exact->outlook[i];
    if (deal_hypothesis_is_held(slot, &search->ending))
        return DEAL_OK;
    outlook->has_grown = search->exact->bounds_texts;
    return deal_hypothesis_bound_states(slot, &search->rewards,
                                        deal_exact_n_left(search, i),
                                        outlook->reward_low, outlook->reward_high, err);
}

static void
put_range(deal_search *search, int32_t i)
{
    deal_outlook *outlook = &search->exact->outlook[i];
    double weight = search->request.params.reward_weight;
    double logprob = search->candidate[i].logprob;
    deal_reward_set_sum_range(&search->rewards, outlook->reward_low,
                              outlook->reward_high, &outlook->h_low, &outlook->h_high);
    if (weight == 0.0 || isinf(logprob)) {
        outlook->low = outlook->high = logprob;
    } else if (weight > 0.0) {
        outlook->low = logprob + weight * outlook->h_low;
        outlook->high = logprob + weight * outlook->h_high;
    } else {
        outlook->low = logprob + weight * outlook->h_high;
        outlook->high = logprob + weight * outlook->h_low;
    }
    outlook->is_exact = outlook->low == outlook->high;
    search->slot[i].score = outlook->low;
    search->slot[i].h = outlook->h_low;
}

void
deal_outlook_begin(deal_search *search, int32_t i)
{
    deal_exact *x = search->exact;
    deal_outlook *outlook = &x->outlook[i];
    int32_t n_reward = search->rewards.n_reward;
    deal_reward_set_range(&search->rewards, outlook->reward_low, outlook->reward_high);
    memset(outlook->is_scored, 0, (size_t)n_reward * sizeof *outlook->is_scored);
    outlook->is_needed = outlook->has_rows = false;
    int32_t i_live = search->candidate[i].i_live;
    outlook->cursor =
        search->live[i_live].n_behind == 0 ? x->at[i_live] : DEAL_KNOWN_NONE;
    if (outlook->cursor != DEAL_KNOWN_NONE)
        deal_known_need(&x->known, outlook->cursor);
    put_range(search, i);
    outlook->hope = x->is_whole ? INFINITY : outlook->high;
}

static deal_status
put_whole(deal_search *search, int32_t i, deal_error *err)
{
    deal_outlook *outlook = &search->exact->outlook[i];
    deal_hypothesis *slot = &search->slot[i];
    double weight = search->request.params.reward_weight;
    slot->h = 0.0;
    if (search->rewards.n_reward > 0)
        DEAL_TRY(deal_reward_set_sum(&search->rewards, slot->reward, 0, &slot->h, err));
    if (!isfinite(weight * slot->h))
        return deal_fail(err, DEAL_ERR_REWARD,
                         "reward_weight: %g times the rewards' sum %g is not finite",
                         weight, slot->h);
    slot->score = search->candidate[i].logprob + weight * slot->h;
    outlook->h_low = outlook->h_high = slot->h;
    outlook->low = outlook->high = slot->score;
    outlook->is_exact = true;
    return DEAL_OK;
}

deal_status
deal_outlook_update(deal_search *search, int32_t i, deal_error *err)
{
    deal_exact *x = search->exact;
    deal_outlook *outlook = &x->outlook[i];
    const deal_hypothesis *slot = &search->slot[i];
    outlook->is_complete =
        deal_exact_is_rolled(search, i) &&
        (!deal_observe_lacks(search, slot) || deal_exact_has_last(search, i));
    outlook->has_grown = false;
    if (x->is_whole) {
        if (outlook->is_complete && is_all_scored(search, outlook))
            return put_whole(search, i, err);
        outlook->low = outlook->h_low = -INFINITY;
        outlook->high = outlook->h_high = INFINITY;
        outlook->is_exact = false;
        return DEAL_OK;
    }
    if (outlook->is_complete)
        DEAL_TRY(score_states(search, i, err));
    else
        DEAL_TRY(bound_states(search, i, err));
    if (outlook->is_complete && is_all_scored(search, outlook))
        return put_whole(search, i, err);
    put_range(search, i);
    return DEAL_OK;
}

// --- rewards on texts ----------------------------------------------------------------

deal_status
deal_outlook_bound(deal_search *search, deal_error *err)
{
    deal_exact *x = search->exact;
    size_t n = 0;
    for (int32_t i = 0; i < search->n_candidate; i++) {
        deal_outlook *outlook = &x->outlook[i];
        const deal_hypothesis *slot = &search->slot[i];
        if (!outlook->has_grown)
            continue;
        outlook->has_grown = false;
        x->beginning[n] =
            deal_hypothesis_beginning(slot, deal_exact_n_left(search, i),
                                      outlook->reward_low, outlook->reward_high);
        x->asked[n++] = i;
    }
    for (int32_t j = 0; j < search->rewards.n_reward && n > 0; j++)
        if (deal_reward_set_bounds_texts(&search->rewards, j))
            DEAL_TRY(
                deal_reward_set_bound_texts(&search->rewards, j, x->beginning, n, err));
    for (size_t c = 0; c < n; c++)
        put_range(search, x->asked[c]);
    return DEAL_OK;
}

// Scores all candidates with the call that naive makes.
static deal_status
ask_whole(deal_search *search, bool *is_asked, deal_error *err)
{
    deal_exact *x = search->exact;
    size_t n = (size_t)search->n_candidate;
    *is_asked = false;
    for (size_t i = 0; i < n; i++)
        if (!x->outlook[i].is_complete || x->outlook[i].is_exact)
            return DEAL_OK;
    DEAL_TRY(deal_search_reserve_cases(search, n, err));
    for (size_t i = 0; i < n; i++) {
        DEAL_TRY(observe(search, (int32_t)i, err));
        DEAL_TRY(deal_hypothesis_case(&search->slot[i], &search->rewards,
                                      &search->cases[i], err));
    }
    DEAL_TRY(deal_reward_set_score(&search->rewards, search->cases, n, err));
    for (int32_t i = 0; i < search->n_candidate; i++) {
        for (int32_t j = 0; j < search->rewards.n_reward; j++)
            DEAL_TRY(
                put_score(search, &x->outlook[i], j, search->slot[i].reward[j], err));
        DEAL_TRY(put_whole(search, i, err));
    }
    *is_asked = true;
    return DEAL_OK;
}

// The cheapest reward that was not asked about candidate i yet, or -1.
static int32_t
next_reward(const deal_search *search, int32_t i)
{
    const deal_exact *x = search->exact;
    int32_t found = -1;
    for (int32_t j = 0; j < search->rewards.n_reward; j++)
        if (!x->outlook[i].is_scored[j] &&
            (found < 0 || x->seconds[j] < x->seconds[found]))
            found = j;
    return found;
}

// Asks about `n` complete candidates x->asked.
static deal_status
ask(deal_search *search, int32_t i_reward, size_t n, deal_error *err)
{
    deal_exact *x = search->exact;
    DEAL_TRY(deal_search_reserve_cases(search, n, err));
    for (size_t c = 0; c < n; c++)
        DEAL_TRY(deal_hypothesis_case(&search->slot[x->asked[c]], &search->rewards,
                                      &search->cases[c], err));
    double start = deal_clock_seconds();
    DEAL_TRY(
        deal_reward_set_score_texts(&search->rewards, i_reward, search->cases, n, err));
    double seconds = (deal_clock_seconds() - start) / (double)n;
    x->seconds[i_reward] = x->seconds[i_reward] > 0.0
                               ? 0.9 * x->seconds[i_reward] + 0.1 * seconds
                               : seconds;
    for (size_t c = 0; c < n; c++) {
        int32_t i = x->asked[c];
        DEAL_TRY(put_score(search, &x->outlook[i], i_reward,
                           search->slot[i].reward[i_reward], err));
        DEAL_TRY(deal_outlook_update(search, i, err));
    }
    return DEAL_OK;
}

deal_status
deal_outlook_ask(deal_search *search, bool *is_asked, deal_error *err)
{
    deal_exact *x = search->exact;
    int32_t i_reward = -1;
    size_t n = 0;
    if (x->is_whole)
        return ask_whole(search, is_asked, err);
    for (int32_t i = 0; i < search->n_candidate; i++) {
        const deal_outlook *outlook = &x->outlook[i];
        if (!outlook->is_needed || !outlook->is_complete || next_reward(search, i) < 0)
            continue;
        if (i_reward < 0)
            i_reward = next_reward(search, i);
        if (!outlook->is_scored[i_reward])
            x->asked[n++] = i;
    }
    *is_asked = n > 0;
    return n > 0 ? ask(search, i_reward, n, err) : DEAL_OK;
}

deal_status
deal_outlook_score(deal_search *search, int32_t i, deal_error *err)
{
    int32_t i_reward;
    bool is_asked;
    if (!search->exact->outlook[i].is_complete)
        DEAL_TRY(deal_rows_last(search, i, err));
    if (search->exact->is_whole)
        return ask_whole(search, &is_asked, err);
    while ((i_reward = next_reward(search, i)) >= 0) {
        search->exact->asked[0] = i;
        DEAL_TRY(ask(search, i_reward, 1, err));
    }
    return DEAL_OK;
}
