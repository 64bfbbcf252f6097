/* What a reward set is asked: scores, and bounds on them; both checked. */
#include <math.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "search/check.h"
#include "search/reward_set.h"
#include "search/reward_set_internal.h"

// --- scores --------------------------------------------------------------------------

static deal_status
check_score(const deal_reward_set *set, int32_t i, double score, size_t i_case,
            deal_error *err)
{
    const deal_reward *reward = set->reward[i];
    if (!isfinite(score))
        return deal_fail(
            err, DEAL_ERR_REWARD,
            "reward \"%s\" (%d): score %g for completion %zu is not finite",
            reward->name, (int)i, score, i_case);
    if (score < reward->low || score > reward->high)
        return deal_fail(
            err, DEAL_ERR_REWARD,
            "reward \"%s\" (%d): score %g for completion %zu is not in its "
            "range [%g, %g]",
            reward->name, (int)i, score, i_case, reward->low, reward->high);
    return DEAL_OK;
}

void
deal_reward_set_free_cases(deal_reward_set *set)
{
    deal_free(set->i_entry);
    deal_free(set->i_new);
    deal_free(set->text);
    deal_free(set->score);
    deal_free(set->high);
    deal_free(set->n_tokens_left);
}

static deal_status
reserve_cases(deal_reward_set *set, size_t n_cases, deal_error *err)
{
    if (n_cases <= set->case_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(set->case_cap, n_cases);
    set->case_cap = 0;
    deal_reward_set_free_cases(set);
    set->i_entry = deal_alloc(cap, sizeof *set->i_entry);
    set->i_new = deal_alloc(cap, sizeof *set->i_new);
    set->text = deal_alloc(cap, sizeof *set->text);
    set->score = deal_alloc(cap, sizeof *set->score);
    set->high = deal_alloc(cap, sizeof *set->high);
    set->n_tokens_left = deal_alloc(cap, sizeof *set->n_tokens_left);
    if (!set->i_entry || !set->i_new || !set->text || !set->score || !set->high ||
        !set->n_tokens_left)
        return deal_fail_memory(err, "completions to score");
    set->case_cap = cap;
    return DEAL_OK;
}

static deal_status
score_state(deal_reward_set *set, int32_t i, const void *state, int32_t is_finished,
            double *score, deal_error *err)
{
    const deal_reward *reward = set->reward[i];
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    *score = NAN; // where the reward forgets to write one
    set->n_calls++;
    int code = reward->score(reward->self, state, is_finished, score, message);
    return deal_reward_set_check_code(set, i, code, message, err);
}

static deal_status
score_states(deal_reward_set *set, const deal_reward_case *one, size_t i_case,
             deal_error *err)
{
    if (!set->has_incremental)
        return DEAL_OK;
    const deal_reward_states *states = one->states;
    if (one->pending_size > 0) {
        DEAL_TRY(deal_reward_states_fork(set, &set->scratch, states, err));
        const char *pending = one->text.text + (one->text.size - one->pending_size);
        DEAL_TRY(deal_reward_states_advance(
            set, &set->scratch, -1, (const uint8_t *)pending, one->pending_size, err));
        states = &set->scratch;
    }
    double start = deal_clock_seconds();
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < set->n_reward && status == DEAL_OK; i++) {
        if (!deal_reward_is_incremental(set->reward[i]))
            continue;
        status = score_state(set, i, deal_reward_set_state_of(set, states, i),
                             one->text.is_finished, &one->reward[i], err);
        if (status == DEAL_OK)
            status = check_score(set, i, one->reward[i], i_case, err);
    }
    deal_reward_states_drop(set, &set->scratch);
    set->seconds += deal_clock_seconds() - start;
    return status;
}

// What tells a text apart from others that the reward was asked about.
static deal_reward_text
key_of(const deal_reward *reward, const deal_reward_text *text)
{
    deal_reward_text key = *text;
    if (reward->is_text_alone)
        key.n_tokens = key.is_finished = 0;
    return key;
}

// Looks the cases up; those that were never seen go into `text`.
static deal_status
collect_new(deal_reward_set *set, int32_t i_reward, const deal_reward_case *cases,
            size_t n_cases, size_t *n_new, deal_error *err)
{
    *n_new = 0;
    for (size_t i = 0; i < n_cases; i++) {
        bool is_new;
        deal_reward_text key = key_of(set->reward[i_reward], &cases[i].text);
        DEAL_TRY(deal_memo_find(set->memo, i_reward, &key, DEAL_MEMO_SCORE,
                                &set->i_entry[i], &is_new, err));
        if (!is_new)
            continue;
        set->text[*n_new] = cases[i].text;
        set->i_new[(*n_new)++] = set->i_entry[i];
    }
    return DEAL_OK;
}

// One call about the first `n` in `text`; their scores, checked.
static deal_status
ask_scores(deal_reward_set *set, int32_t i_reward, size_t n, deal_error *err)
{
    const deal_reward *reward = set->reward[i_reward];
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    if (n > INT32_MAX)
        return deal_fail_memory(err, "completions to score");
    for (size_t i = 0; i < n; i++)
        set->score[i] = NAN;
    set->n_calls++;
    double start = deal_clock_seconds();
    int code = reward->score_texts(reward->self, set->prompt.text, set->prompt.size,
                                   set->text, (int32_t)n, set->score, message);
    set->seconds += deal_clock_seconds() - start;
    DEAL_TRY(deal_reward_set_check_code(set, i_reward, code, message, err));
    for (size_t i = 0; i < n; i++)
        DEAL_TRY(check_score(set, i_reward, set->score[i], i, err));
    return DEAL_OK;
}

static deal_status
score_on_texts(deal_reward_set *set, int32_t i_reward, const deal_reward_case *cases,
               size_t n_cases, deal_error *err)
{
    size_t n_new;
    if (set->reward[i_reward]->is_impure) { // what it said before tells nothing
        for (size_t i = 0; i < n_cases; i++)
            set->text[i] = cases[i].text;
        if (n_cases > 0)
            DEAL_TRY(ask_scores(set, i_reward, n_cases, err));
        for (size_t i = 0; i < n_cases; i++)
            cases[i].reward[i_reward] = set->score[i];
        return DEAL_OK;
    }
    DEAL_TRY(collect_new(set, i_reward, cases, n_cases, &n_new, err));
    if (n_new > 0)
        DEAL_TRY(ask_scores(set, i_reward, n_new, err));
    for (size_t i = 0; i < n_new; i++) {
        deal_memo_entry *entry = &set->memo->entry[set->i_new[i]];
        entry->low = entry->high = set->score[i];
    }
    for (size_t i = 0; i < n_cases; i++)
        cases[i].reward[i_reward] = set->memo->entry[set->i_entry[i]].low;
    return DEAL_OK;
}

deal_status
deal_reward_set_score(deal_reward_set *set, const deal_reward_case *cases,
                      size_t n_cases, deal_error *err)
{
    DEAL_TRY(reserve_cases(set, n_cases, err));
    deal_memo_trim(set->memo);
    for (size_t i = 0; i < n_cases; i++)
        DEAL_TRY(score_states(set, &cases[i], i, err));
    for (int32_t i = 0; i < set->n_reward; i++)
        if (!deal_reward_is_incremental(set->reward[i]))
            DEAL_TRY(score_on_texts(set, i, cases, n_cases, err));
    set->n_texts += (int64_t)n_cases * set->n_reward;
    for (size_t i = 0; i < n_cases; i++)
        DEAL_TRY(deal_check_scores(set, &cases[i], err));
    for (size_t i = 0; i < n_cases; i++)
        DEAL_TRY(deal_reward_set_sum(set, cases[i].reward, i, cases[i].h, err));
    return DEAL_OK;
}

// --- parts of that -------------------------------------------------------------------

bool
deal_reward_set_is_incremental(const deal_reward_set *set, int32_t i)
{
    return deal_reward_is_incremental(set->reward[i]);
}

deal_status
deal_reward_set_score_states(deal_reward_set *set, const deal_reward_case *one,
                             deal_error *err)
{
    for (int32_t i = 0; i < set->n_reward; i++)
        set->n_texts += deal_reward_is_incremental(set->reward[i]);
    return score_states(set, one, 0, err);
}

deal_status
deal_reward_set_score_texts(deal_reward_set *set, int32_t i_reward,
                            const deal_reward_case *cases, size_t n_cases,
                            deal_error *err)
{
    DEAL_TRY(reserve_cases(set, n_cases, err));
    set->n_texts += (int64_t)n_cases;
    return score_on_texts(set, i_reward, cases, n_cases, err);
}

// One term of the sum. A reward of weight 0 adds nothing, whatever its range.
static double
term(double weight, double score)
{
    return weight == 0.0 ? 0.0 : weight * score;
}

deal_status
deal_reward_set_sum(const deal_reward_set *set, const double *reward, size_t i_case,
                    double *h, deal_error *err)
{
    double sum = 0.0;
    if (set->formula.n_term > 0)
        sum = deal_formula_value(&set->formula, reward, set->position);
    else
        for (int32_t i = 0; i < set->n_reward; i++)
            sum += term(set->weight[i], reward[i]);
    if (!isfinite(sum))
        return deal_fail(err, DEAL_ERR_REWARD,
                         "rewards: their weighted sum %g for completion %zu is not "
                         "finite",
                         sum, i_case);
    *h = sum;
    return DEAL_OK;
}

void
deal_reward_set_sum_range(const deal_reward_set *set, const double *low,
                          const double *high, double *h_low, double *h_high)
{
    double least = 0.0, most = 0.0;
    if (set->formula.n_term > 0) {
        deal_formula_range(&set->formula, low, high, set->position, h_low, h_high);
        return;
    }
    for (int32_t i = 0; i < set->n_reward; i++) {
        double weight = set->weight[i];
        least += term(weight, weight > 0.0 ? low[i] : high[i]);
        most += term(weight, weight > 0.0 ? high[i] : low[i]);
    }
    *h_low = isnan(least) ? -INFINITY : least; // infinities that cancel say nothing
    *h_high = isnan(most) ? INFINITY : most;
}

// --- bounds --------------------------------------------------------------------------

bool
deal_reward_set_is_pure(const deal_reward_set *set)
{
    for (int32_t i = 0; i < set->n_reward; i++)
        if (set->reward[i]->is_impure)
            return false;
    return true;
}

void
deal_reward_set_range(const deal_reward_set *set, double *low, double *high)
{
    for (int32_t i = 0; i < set->n_reward; i++) {
        low[i] = set->reward[i]->low;
        high[i] = set->reward[i]->high;
    }
}

// Every range that was given holds, so what is left is where they meet.
static deal_status
narrow(const deal_reward_set *set, int32_t i, double from, double to, double *low,
       double *high, deal_error *err)
{
    if (!(from <= to))
        return deal_fail(err, DEAL_ERR_REWARD,
                         "reward \"%s\" (%d): expected bounds low <= high, got %g and "
                         "%g",
                         set->reward[i]->name, (int)i, from, to);
    if (from > *high || to < *low)
        return deal_fail(
            err, DEAL_ERR_REWARD,
            "reward \"%s\" (%d): bounds [%g, %g] do not meet [%g, %g], its "
            "range or the bounds that it gave for the text's beginning",
            set->reward[i]->name, (int)i, from, to, *low, *high);
    *low = from > *low ? from : *low;
    *high = to < *high ? to : *high;
    return DEAL_OK;
}

deal_status
deal_reward_set_bound_states(deal_reward_set *set, const deal_reward_states *states,
                             int32_t n_tokens_left, double *low, double *high,
                             deal_error *err)
{
    deal_status status = DEAL_OK;
    double start = deal_clock_seconds();
    for (int32_t i = 0; i < set->n_reward && status == DEAL_OK; i++) {
        const deal_reward *reward = set->reward[i];
        if (!deal_reward_is_incremental(reward) || !reward->bounds || reward->is_impure)
            continue;
        char message[DEAL_REWARD_MESSAGE_SIZE] = "";
        double from = NAN, to = NAN;
        set->n_calls++;
        int code =
            reward->bounds(reward->self, deal_reward_set_state_of(set, states, i),
                           n_tokens_left, &from, &to, message);
        status = deal_reward_set_check_code(set, i, code, message, err);
        if (status == DEAL_OK)
            status = narrow(set, i, from, to, &low[i], &high[i], err);
    }
    set->seconds += deal_clock_seconds() - start;
    return status;
}

bool
deal_reward_set_bounds_texts(const deal_reward_set *set, int32_t i)
{
    const deal_reward *reward = set->reward[i];
    return !deal_reward_is_incremental(reward) && reward->bounds_texts &&
           !reward->is_impure;
}

// One call about the first `n` in `text`.
static deal_status
ask_bounds(deal_reward_set *set, int32_t i_reward, size_t n, deal_error *err)
{
    const deal_reward *reward = set->reward[i_reward];
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    if (n > INT32_MAX)
        return deal_fail_memory(err, "completions to bound");
    for (size_t i = 0; i < n; i++)
        set->score[i] = set->high[i] = NAN;
    set->n_calls++;
    double start = deal_clock_seconds();
    int code = reward->bounds_texts(reward->self, set->prompt.text, set->prompt.size,
                                    set->text, set->n_tokens_left, (int32_t)n,
                                    set->score, set->high, message);
    set->seconds += deal_clock_seconds() - start;
    return deal_reward_set_check_code(set, i_reward, code, message, err);
}

deal_status
deal_reward_set_bound_texts(deal_reward_set *set, int32_t i_reward,
                            const deal_reward_beginning *beginnings, size_t n,
                            deal_error *err)
{
    DEAL_TRY(reserve_cases(set, n, err));
    size_t n_new = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_new;
        deal_reward_text key = key_of(set->reward[i_reward], &beginnings[i].text);
        DEAL_TRY(deal_memo_find(set->memo, i_reward, &key, beginnings[i].n_tokens_left,
                                &set->i_entry[i], &is_new, err));
        if (!is_new)
            continue;
        set->text[n_new] = beginnings[i].text;
        set->n_tokens_left[n_new] = beginnings[i].n_tokens_left;
        set->i_new[n_new++] = set->i_entry[i];
    }
    if (n_new > 0)
        DEAL_TRY(ask_bounds(set, i_reward, n_new, err));
    for (size_t i = 0; i < n_new; i++) {
        set->memo->entry[set->i_new[i]].low = set->score[i];
        set->memo->entry[set->i_new[i]].high = set->high[i];
    }
    for (size_t i = 0; i < n; i++) {
        const deal_memo_entry *entry = &set->memo->entry[set->i_entry[i]];
        DEAL_TRY(narrow(set, i_reward, entry->low, entry->high,
                        &beginnings[i].low[i_reward], &beginnings[i].high[i_reward],
                        err));
    }
    return DEAL_OK;
}
