#include "search/reward_set.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"

#define STATE_ALIGNMENT ((size_t)16)

static bool
is_incremental(const deal_reward *reward)
{
    return reward->score_texts == NULL;
}

static void *
state_of(const deal_reward_set *set, const deal_reward_states *states, int32_t i)
{
    return states->block + set->i_state[i];
}

// --- checks --------------------------------------------------------------------------

static deal_status
check_form(const deal_reward *reward, int32_t i, deal_error *err)
{
    bool has_any = reward->init || reward->advance || reward->score;
    bool has_all = reward->init && reward->advance && reward->score;
    if (reward->score_texts ? has_any : !has_all)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\" (%d): expected init, advance and score, or "
                         "score_texts alone",
                         reward->name, (int)i);
    if (!(reward->low <= reward->high))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\" (%d): expected low <= high, got %g and %g",
                         reward->name, (int)i, reward->low, reward->high);
    return deal_reward_hidden_check(reward, i, err);
}

static deal_status
check_reward(const deal_reward *reward, double weight, int32_t i, deal_error *err)
{
    if (!reward)
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "reward %d: expected one, got NULL",
                         (int)i);
    if (reward->abi_version != DEAL_REWARD_ABI)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward %d: abi_version: expected %u, got %u", (int)i,
                         DEAL_REWARD_ABI, (unsigned)reward->abi_version);
    if (reward->struct_size < sizeof *reward)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward %d: struct_size: expected %zu, got %u", (int)i,
                         sizeof *reward, (unsigned)reward->struct_size);
    if (!reward->name)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward %d: expected a name, got NULL", (int)i);
    if (!isfinite(weight))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\" (%d): weight: expected a finite number, got %g",
                         reward->name, (int)i, weight);
    return check_form(reward, i, err);
}

static deal_status
reserve_block(deal_reward_set *set, deal_reward_states *states, deal_error *err)
{
    if (states->block)
        return DEAL_OK;
    states->block = deal_alloc(set->block_size, 1);
    return states->block ? DEAL_OK : deal_fail_memory(err, "states of the rewards");
}

deal_status
deal_reward_set_init(deal_reward_set *set, deal_reward *const *reward,
                     const double *weight, int32_t n_reward,
                     const deal_reward_prompt *prompt, deal_error *err)
{
    *set = (deal_reward_set){.prompt = *prompt};
    for (int32_t i = 0; i < n_reward; i++)
        DEAL_TRY(check_reward(reward[i], weight[i], i, err));
    set->i_state = deal_alloc_zero((size_t)n_reward, sizeof *set->i_state);
    if (!set->i_state)
        return deal_fail_memory(err, "rewards");
    set->reward = reward;
    set->weight = weight;
    for (int32_t i = 0; i < n_reward; i++) {
        set->i_state[i] = set->block_size;
        if (!is_incremental(reward[i]))
            continue;
        size_t size = reward[i]->state_size;
        if (size > SIZE_MAX / 4 - set->block_size)
            return deal_fail_memory(err, "states of the rewards");
        size = (size + STATE_ALIGNMENT - 1) / STATE_ALIGNMENT * STATE_ALIGNMENT;
        set->block_size += size;
        set->has_incremental = true;
    }
    set->n_reward = n_reward;
    return set->has_incremental ? reserve_block(set, &set->scratch, err) : DEAL_OK;
}

void
deal_reward_set_free(deal_reward_set *set)
{
    deal_reward_states_free(set, &set->scratch);
    deal_memo_free(&set->memo);
    deal_reward_hidden_free(&set->hidden);
    deal_free(set->i_state);
    deal_free(set->i_entry);
    deal_free(set->i_new);
    deal_free(set->text);
    deal_free(set->score);
    *set = (deal_reward_set){0};
}

// --- what a reward returned ----------------------------------------------------------

deal_status
deal_reward_set_check(const deal_reward_set *set, int32_t i, int code, char *message,
                      deal_error *err)
{
    if (code == 0)
        return DEAL_OK;
    if (code == DEAL_REWARD_RAISED) {
        if (err)
            err->code = DEAL_ERR_CALLBACK; // the exception is the message
        return DEAL_ERR_CALLBACK;
    }
    const char *name = set->reward[i]->name;
    if (code != 1)
        return deal_fail(
            err, DEAL_ERR_REWARD,
            "reward \"%s\" (%d): expected 0 or 1 from its function, got %d", name,
            (int)i, code);
    message[DEAL_REWARD_MESSAGE_SIZE - 1] = '\0';
    return deal_fail(err, DEAL_ERR_REWARD, "reward \"%s\" (%d): %s", name, (int)i,
                     message[0] ? message : "failed without a message");
}

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

// --- states --------------------------------------------------------------------------

void
deal_reward_states_drop(deal_reward_set *set, deal_reward_states *states)
{
    for (int32_t i = 0; i < states->n_live; i++) {
        const deal_reward *reward = set->reward[i];
        if (is_incremental(reward) && reward->drop)
            reward->drop(reward->self, state_of(set, states, i));
    }
    states->n_live = states->n_told = 0;
}

void
deal_reward_states_free(deal_reward_set *set, deal_reward_states *states)
{
    deal_reward_states_drop(set, states);
    deal_free(states->block);
    *states = (deal_reward_states){0};
}

deal_status
deal_reward_states_init(deal_reward_set *set, deal_reward_states *states,
                        deal_error *err)
{
    if (!set->has_incremental)
        return DEAL_OK;
    double start = deal_clock_seconds();
    deal_reward_states_drop(set, states);
    DEAL_TRY(reserve_block(set, states, err));
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < set->n_reward && status == DEAL_OK; i++) {
        const deal_reward *reward = set->reward[i];
        if (is_incremental(reward)) {
            int code = reward->init(reward->self, state_of(set, states, i),
                                    &set->prompt, message);
            status = deal_reward_set_check(set, i, code, message, err);
        }
        states->n_live += status == DEAL_OK;
    }
    set->seconds += deal_clock_seconds() - start;
    return status;
}

static int
fork_state(const deal_reward *reward, void *to, const void *from, char *message)
{
    if (reward->fork)
        return reward->fork(reward->self, to, from, message);
    if (reward->state_size > 0)
        memcpy(to, from, reward->state_size);
    return 0;
}

deal_status
deal_reward_states_fork(deal_reward_set *set, deal_reward_states *to,
                        const deal_reward_states *from, deal_error *err)
{
    if (!set->has_incremental)
        return DEAL_OK;
    double start = deal_clock_seconds();
    deal_reward_states_drop(set, to);
    DEAL_TRY(reserve_block(set, to, err));
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < from->n_live && status == DEAL_OK; i++) {
        if (is_incremental(set->reward[i])) {
            int code = fork_state(set->reward[i], state_of(set, to, i),
                                  state_of(set, from, i), message);
            status = deal_reward_set_check(set, i, code, message, err);
        }
        to->n_live += status == DEAL_OK;
    }
    to->n_told = from->n_told;
    set->seconds += deal_clock_seconds() - start;
    return status;
}

deal_status
deal_reward_states_advance(deal_reward_set *set, deal_reward_states *states,
                           int32_t token, const uint8_t *bytes, size_t size,
                           deal_error *err)
{
    if (!set->has_incremental)
        return DEAL_OK;
    double start = deal_clock_seconds();
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    const char *text = size ? (const char *)bytes : "";
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < states->n_live && status == DEAL_OK; i++) {
        const deal_reward *reward = set->reward[i];
        if (!is_incremental(reward))
            continue;
        set->n_calls++;
        int code = reward->advance(reward->self, state_of(set, states, i), token, text,
                                   size, message);
        status = deal_reward_set_check(set, i, code, message, err);
    }
    set->seconds += deal_clock_seconds() - start;
    return status;
}

// --- scores --------------------------------------------------------------------------

static deal_status
reserve_cases(deal_reward_set *set, size_t n_cases, deal_error *err)
{
    if (n_cases <= set->case_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(set->case_cap, n_cases);
    set->case_cap = 0;
    deal_free(set->i_entry);
    deal_free(set->i_new);
    deal_free(set->text);
    deal_free(set->score);
    set->i_entry = deal_alloc(cap, sizeof *set->i_entry);
    set->i_new = deal_alloc(cap, sizeof *set->i_new);
    set->text = deal_alloc(cap, sizeof *set->text);
    set->score = deal_alloc(cap, sizeof *set->score);
    if (!set->i_entry || !set->i_new || !set->text || !set->score)
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
    return deal_reward_set_check(set, i, code, message, err);
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
        if (!is_incremental(set->reward[i]))
            continue;
        status = score_state(set, i, state_of(set, states, i), one->text.is_finished,
                             &one->reward[i], err);
        if (status == DEAL_OK)
            status = check_score(set, i, one->reward[i], i_case, err);
    }
    deal_reward_states_drop(set, &set->scratch);
    set->seconds += deal_clock_seconds() - start;
    return status;
}

// Looks the cases up; those that were never seen go into `text`.
static deal_status
collect_new(deal_reward_set *set, int32_t i_reward, const deal_reward_case *cases,
            size_t n_cases, size_t *n_new, deal_error *err)
{
    *n_new = 0;
    for (size_t i = 0; i < n_cases; i++) {
        bool is_new;
        DEAL_TRY(deal_memo_find(&set->memo, i_reward, &cases[i].text, &set->i_entry[i],
                                &is_new, err));
        if (!is_new)
            continue;
        set->text[*n_new] = cases[i].text;
        set->i_new[(*n_new)++] = set->i_entry[i];
    }
    return DEAL_OK;
}

static deal_status
score_on_texts(deal_reward_set *set, int32_t i_reward, const deal_reward_case *cases,
               size_t n_cases, deal_error *err)
{
    const deal_reward *reward = set->reward[i_reward];
    size_t n_new;
    DEAL_TRY(collect_new(set, i_reward, cases, n_cases, &n_new, err));
    if (n_new > INT32_MAX)
        return deal_fail_memory(err, "completions to score");
    if (n_new > 0) {
        char message[DEAL_REWARD_MESSAGE_SIZE] = "";
        for (size_t i = 0; i < n_new; i++)
            set->score[i] = NAN;
        set->n_calls++;
        double start = deal_clock_seconds();
        int code = reward->score_texts(reward->self, set->prompt.text, set->prompt.size,
                                       set->text, (int32_t)n_new, set->score, message);
        set->seconds += deal_clock_seconds() - start;
        DEAL_TRY(deal_reward_set_check(set, i_reward, code, message, err));
    }
    for (size_t i = 0; i < n_new; i++) {
        DEAL_TRY(check_score(set, i_reward, set->score[i], i, err));
        set->memo.entry[set->i_new[i]].score = set->score[i];
    }
    for (size_t i = 0; i < n_cases; i++)
        cases[i].reward[i_reward] = set->memo.entry[set->i_entry[i]].score;
    return DEAL_OK;
}

deal_status
deal_reward_set_score(deal_reward_set *set, const deal_reward_case *cases,
                      size_t n_cases, deal_error *err)
{
    DEAL_TRY(reserve_cases(set, n_cases, err));
    deal_memo_trim(&set->memo);
    for (size_t i = 0; i < n_cases; i++)
        DEAL_TRY(score_states(set, &cases[i], i, err));
    for (int32_t i = 0; i < set->n_reward; i++)
        if (!is_incremental(set->reward[i]))
            DEAL_TRY(score_on_texts(set, i, cases, n_cases, err));
    set->n_texts += (int64_t)n_cases * set->n_reward;
    for (size_t i = 0; i < n_cases; i++)
        DEAL_TRY(deal_reward_set_sum(set, cases[i].reward, i, cases[i].h, err));
    return DEAL_OK;
}

// --- parts of that -------------------------------------------------------------------

bool
deal_reward_set_is_incremental(const deal_reward_set *set, int32_t i)
{
    return is_incremental(set->reward[i]);
}

deal_status
deal_reward_set_score_states(deal_reward_set *set, const deal_reward_case *one,
                             deal_error *err)
{
    for (int32_t i = 0; i < set->n_reward; i++)
        set->n_texts += is_incremental(set->reward[i]);
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
    for (int32_t i = 0; i < set->n_reward; i++) {
        double weight = set->weight[i];
        least += term(weight, weight > 0.0 ? low[i] : high[i]);
        most += term(weight, weight > 0.0 ? high[i] : low[i]);
    }
    *h_low = isnan(least) ? -INFINITY : least; // infinities that cancel say nothing
    *h_high = isnan(most) ? INFINITY : most;
}

static deal_status
bounds_of(deal_reward_set *set, int32_t i, const void *state, int32_t n_tokens_left,
          double *low, double *high, deal_error *err)
{
    const deal_reward *reward = set->reward[i];
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    double from = NAN, to = NAN;
    set->n_calls++;
    int code = reward->bounds(reward->self, state, n_tokens_left, &from, &to, message);
    DEAL_TRY(deal_reward_set_check(set, i, code, message, err));
    if (!(from <= to) || from > *high || to < *low)
        return deal_fail(err, DEAL_ERR_REWARD,
                         "reward \"%s\" (%d): expected bounds low <= high within its "
                         "range [%g, %g], got %g and %g",
                         reward->name, (int)i, *low, *high, from, to);
    *low = from > *low ? from : *low;
    *high = to < *high ? to : *high;
    return DEAL_OK;
}

deal_status
deal_reward_set_bounds(deal_reward_set *set, const deal_reward_states *states,
                       int32_t n_tokens_left, double *low, double *high,
                       deal_error *err)
{
    deal_status status = DEAL_OK;
    double start = deal_clock_seconds();
    for (int32_t i = 0; i < set->n_reward && status == DEAL_OK; i++) {
        const deal_reward *reward = set->reward[i];
        low[i] = reward->low;
        high[i] = reward->high;
        if (states && is_incremental(reward) && reward->bounds)
            status = bounds_of(set, i, state_of(set, states, i), n_tokens_left, &low[i],
                               &high[i], err);
    }
    set->seconds += deal_clock_seconds() - start;
    return status;
}
