/* Hidden states for the rewards that ask for them. */
#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "search/reward_set.h"
#include "search/reward_set_internal.h"

static deal_status
check_model(const deal_reward *reward, int32_t i, int32_t n_embd, int32_t n_layer,
            deal_error *err)
{
    if (n_embd == 0)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "reward \"%s\" (%d): it scores hidden states, and this "
                         "language model has none",
                         reward->name, (int)i);
    if (reward->n_embd != n_embd)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\" (%d): expected hidden states of %d features "
                         "(the model's n_embd), got %d (the reward's)",
                         reward->name, (int)i, (int)n_embd, (int)reward->n_embd);
    for (int32_t j = 0; j < reward->n_hidden_layers; j++) {
        int32_t layer = reward->hidden_layers[j];
        if (layer < -1 || layer >= n_layer)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "reward \"%s\" (%d): layers: expected -1 to %d (the "
                             "model's), got %d",
                             reward->name, (int)i, (int)n_layer - 1, (int)layer);
    }
    return DEAL_OK;
}

static void
insert(deal_reward_hidden *hidden, int32_t layer)
{
    int32_t at = hidden->n_layer;
    for (int32_t i = 0; i < hidden->n_layer; i++)
        if (hidden->layer[i] == layer)
            return;
    for (; at > 0 && hidden->layer[at - 1] > layer; at--)
        hidden->layer[at] = hidden->layer[at - 1];
    hidden->layer[at] = layer;
    hidden->n_layer++;
}

deal_status
deal_reward_hidden_init(deal_reward_set *set, int32_t n_embd, int32_t n_layer,
                        deal_error *err)
{
    deal_reward_hidden *hidden = &set->hidden;
    size_t n = 0, n_most = 0;
    for (int32_t i = 0; i < set->n_reward; i++) {
        const deal_reward *reward = set->reward[i];
        if (reward->n_hidden_layers == 0)
            continue;
        DEAL_TRY(check_model(reward, i, n_embd, n_layer, err));
        size_t n_asked = (size_t)reward->n_hidden_layers;
        n += n_asked;
        n_most = n_asked > n_most ? n_asked : n_most;
    }
    if (n == 0)
        return DEAL_OK;
    hidden->layer = deal_alloc(n, sizeof *hidden->layer);
    hidden->gather = deal_alloc(n_most, (size_t)n_embd * sizeof *hidden->gather);
    if (!hidden->layer || !hidden->gather)
        return deal_fail_memory(err, "hidden states of the rewards");
    for (int32_t i = 0; i < set->n_reward; i++)
        for (int32_t j = 0; j < set->reward[i]->n_hidden_layers; j++)
            insert(hidden, set->reward[i]->hidden_layers[j]);
    hidden->n_embd = n_embd;
    return DEAL_OK;
}

void
deal_reward_hidden_free(deal_reward_hidden *hidden)
{
    deal_free(hidden->layer);
    deal_free(hidden->gather);
    *hidden = (deal_reward_hidden){0};
}

// The states of the layers that one reward asks for, in its order.
static const float *
gather(const deal_reward_hidden *hidden, const deal_reward *reward, const float *states)
{
    size_t n_embd = (size_t)hidden->n_embd;
    if (hidden->n_layer == 1 && reward->n_hidden_layers == 1)
        return states;
    for (int32_t j = 0; j < reward->n_hidden_layers; j++) {
        size_t from = 0;
        while (hidden->layer[from] != reward->hidden_layers[j])
            from++;
        memcpy(hidden->gather + (size_t)j * n_embd, states + from * n_embd,
               n_embd * sizeof *states);
    }
    return hidden->gather;
}

deal_status
deal_reward_states_observe(deal_reward_set *set, deal_reward_states *states,
                           const float *hidden, deal_error *err)
{
    double start = deal_clock_seconds();
    char message[DEAL_REWARD_MESSAGE_SIZE] = "";
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < states->n_live && status == DEAL_OK; i++) {
        const deal_reward *reward = set->reward[i];
        if (reward->n_hidden_layers == 0)
            continue;
        set->n_calls++;
        int code = reward->observe(
            reward->self, deal_reward_set_state_of(set, states, i), states->n_told,
            gather(&set->hidden, reward, hidden), message);
        status = deal_reward_set_check_code(set, i, code, message, err);
    }
    states->n_told++;
    set->seconds += deal_clock_seconds() - start;
    return status;
}
