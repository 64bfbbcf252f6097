#include "search/reward_set.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "common/reward_check.h"
#include "search/reward_set_internal.h"

#define STATE_ALIGNMENT ((size_t)16)

// --- checks --------------------------------------------------------------------------

static deal_status
check_reward(const deal_reward *reward, double weight, int32_t i, deal_error *err)
{
    if (!reward)
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "reward %d: expected one, got NULL",
                         (int)i);
    DEAL_TRY(deal_reward_check(reward, err));
    if (!isfinite(weight))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\" (%d): weight: expected a finite number, got %g",
                         reward->name, (int)i, weight);
    return DEAL_OK;
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
                     const deal_formula *formula, const deal_reward_prompt *prompt,
                     deal_error *err)
{
    *set = (deal_reward_set){.prompt = *prompt};
    set->memo = &set->own_memo;
    if (formula && formula->n_term > 0) {
        DEAL_TRY(deal_formula_check(formula, n_reward, err));
        set->formula = *formula;
    }
    for (int32_t i = 0; i < n_reward; i++)
        DEAL_TRY(check_reward(reward[i], weight[i], i, err));
    set->i_state = deal_alloc_zero((size_t)n_reward, sizeof *set->i_state);
    if (!set->i_state)
        return deal_fail_memory(err, "rewards");
    set->reward = reward;
    set->weight = weight;
    for (int32_t i = 0; i < n_reward; i++) {
        set->i_state[i] = set->block_size;
        if (!deal_reward_is_incremental(reward[i]))
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
    deal_memo_free(&set->own_memo);
    deal_reward_hidden_free(&set->hidden);
    deal_free(set->i_state);
    deal_free(set->ends);
    deal_reward_set_free_cases(set);
    *set = (deal_reward_set){0};
}

// --- what a reward returned ----------------------------------------------------------

deal_status
deal_reward_set_check_code(const deal_reward_set *set, int32_t i, int code,
                           char *message, deal_error *err)
{
    if (code == 0)
        return DEAL_OK;
    const char *name = set->reward[i]->name;
    if (code == DEAL_REWARD_RAISED) // the exception is the message, where one is set
        return deal_fail(err, DEAL_ERR_CALLBACK,
                         "reward \"%s\" (%d): DEAL_REWARD_RAISED without an exception",
                         name, (int)i);
    if (code != 1)
        return deal_fail(
            err, DEAL_ERR_REWARD,
            "reward \"%s\" (%d): expected 0 or 1 from its function, got %d", name,
            (int)i, code);
    message[DEAL_REWARD_MESSAGE_SIZE - 1] = '\0';
    return deal_fail(err, DEAL_ERR_REWARD, "reward \"%s\" (%d): %s", name, (int)i,
                     message[0] ? message : "failed without a message");
}

// --- states --------------------------------------------------------------------------

void
deal_reward_states_drop(deal_reward_set *set, deal_reward_states *states)
{
    for (int32_t i = 0; i < states->n_live; i++) {
        const deal_reward *reward = set->reward[i];
        if (deal_reward_is_incremental(reward) && reward->drop)
            reward->drop(reward->self, deal_reward_set_state_of(set, states, i));
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
        if (deal_reward_is_incremental(reward)) {
            int code =
                reward->init(reward->self, deal_reward_set_state_of(set, states, i),
                             &set->prompt, message);
            status = deal_reward_set_check_code(set, i, code, message, err);
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
        if (deal_reward_is_incremental(set->reward[i])) {
            int code = fork_state(set->reward[i], deal_reward_set_state_of(set, to, i),
                                  deal_reward_set_state_of(set, from, i), message);
            status = deal_reward_set_check_code(set, i, code, message, err);
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
        if (!deal_reward_is_incremental(reward))
            continue;
        set->n_calls++;
        int code =
            reward->advance(reward->self, deal_reward_set_state_of(set, states, i),
                            token, text, size, message);
        status = deal_reward_set_check_code(set, i, code, message, err);
    }
    set->seconds += deal_clock_seconds() - start;
    return status;
}
