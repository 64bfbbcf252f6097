#include "search/hypothesis.h"

#include <string.h>

#include "common/alloc.h"

deal_status
deal_hypothesis_reset(deal_hypothesis *hypothesis, const deal_ending *ending,
                      deal_reward_set *rewards, deal_error *err)
{
    hypothesis->n_token = 0;
    hypothesis->text.size = 0;
    hypothesis->final_size = 0;
    hypothesis->finish = DEAL_FINISH_NONE;
    hypothesis->logprob = hypothesis->h = hypothesis->score = 0.0;
    deal_detok_init(&hypothesis->detok, ending->vocab, true);
    if (!rewards)
        return DEAL_OK;
    DEAL_TRY(deal_reward_states_init(rewards, &hypothesis->states, err));
    return deal_check_bounds(hypothesis, ending, rewards, err);
}

static deal_status
reserve_tokens(deal_hypothesis *hypothesis, int32_t n_token, deal_error *err)
{
    if (!deal_reserve(&hypothesis->token, &hypothesis->token_cap,
                      (size_t)hypothesis->n_token, (size_t)n_token,
                      sizeof *hypothesis->token))
        return deal_fail_memory(err, "tokens of a hypothesis");
    return DEAL_OK;
}

deal_status
deal_hypothesis_reserve(deal_hypothesis *hypothesis, int32_t n_token, size_t text_size,
                        deal_error *err)
{
    DEAL_TRY(reserve_tokens(hypothesis, n_token, err));
    return deal_bytes_reserve(&hypothesis->text, text_size, err);
}

static deal_status
reserve_reward(deal_hypothesis *hypothesis, int32_t n_reward, deal_error *err)
{
    if (!hypothesis->reward)
        hypothesis->reward = deal_alloc((size_t)n_reward, sizeof *hypothesis->reward);
    return hypothesis->reward ? DEAL_OK : deal_fail_memory(err, "rewards");
}

deal_status
deal_hypothesis_copy(deal_hypothesis *to, const deal_hypothesis *from,
                     deal_reward_set *rewards, deal_error *err)
{
    DEAL_TRY(reserve_tokens(to, from->n_token, err));
    to->text.size = 0;
    DEAL_TRY(deal_bytes_append(&to->text, from->text.data, from->text.size, err));
    if (rewards) {
        DEAL_TRY(deal_reward_states_fork(rewards, &to->states, &from->states, err));
        DEAL_TRY(deal_check_copy(&to->check, &from->check, rewards, err));
    }
    if (from->n_token > 0)
        memcpy(to->token, from->token, (size_t)from->n_token * sizeof *to->token);
    to->n_token = from->n_token;
    to->final_size = from->final_size;
    to->detok = from->detok;
    to->finish = from->finish;
    to->logprob = from->logprob;
    to->h = from->h;
    to->score = from->score;
    return DEAL_OK;
}

static bool
is_end(const deal_ending *ending, int32_t token)
{
    for (int32_t i = 0; i < ending->n_end; i++)
        if (ending->end_token[i] == token)
            return true;
    return false;
}

deal_status
deal_hypothesis_push(deal_hypothesis *hypothesis, int32_t token, deal_ending *ending,
                     deal_reward_set *rewards, deal_error *err)
{
    DEAL_TRY(reserve_tokens(hypothesis, hypothesis->n_token + 1, err));
    hypothesis->token[hypothesis->n_token++] = token;
    if (is_end(ending, token)) {
        hypothesis->finish = DEAL_FINISH_END;
        return DEAL_OK;
    }
    deal_bytes *text = &hypothesis->text;
    size_t i_new = hypothesis->final_size;
    text->size = i_new;
    DEAL_TRY(deal_detok_push(ending->vocab, &hypothesis->detok, hypothesis->token,
                             hypothesis->n_token, text, err));
    hypothesis->final_size = text->size;
    DEAL_TRY(deal_detok_pending(ending->vocab, &hypothesis->detok, hypothesis->token,
                                hypothesis->n_token, text, err));
    // What was final before was searched before, but for the beginning of a stop
    // string.
    size_t n_back = ending->stop.size_max ? ending->stop.size_max - 1 : 0;
    size_t i_from = i_new > n_back ? i_new - n_back : 0, i_cut;
    if (deal_stop_find(&ending->stop, text->data, text->size, i_from, &i_cut)) {
        hypothesis->finish = DEAL_FINISH_STOP;
        text->size = i_cut;
        if (hypothesis->final_size > i_cut)
            hypothesis->final_size = i_cut;
        if (i_cut < i_new && rewards) // the states have seen bytes that are cut
            return deal_hypothesis_replay(hypothesis, ending, rewards, err);
    } else if (hypothesis->n_token == ending->n_new_max) {
        hypothesis->finish = DEAL_FINISH_LENGTH;
    }
    if (!rewards)
        return DEAL_OK;
    size_t n_new = hypothesis->final_size > i_new ? hypothesis->final_size - i_new : 0;
    DEAL_TRY(deal_reward_states_advance(rewards, &hypothesis->states, token,
                                        n_new ? text->data + i_new : NULL, n_new, err));
    return deal_check_bounds(hypothesis, ending, rewards, err);
}

deal_status
deal_hypothesis_replay(deal_hypothesis *hypothesis, deal_ending *ending,
                       deal_reward_set *rewards, deal_error *err)
{
    if (!rewards->has_incremental)
        return DEAL_OK;
    DEAL_TRY(deal_reward_states_init(rewards, &hypothesis->states, err));
    int32_t n_token = hypothesis->n_token - (hypothesis->finish == DEAL_FINISH_END);
    deal_detok detok;
    deal_detok_init(&detok, ending->vocab, true);
    size_t i_final = 0; // bytes that the states have seen
    ending->scratch.size = 0;
    for (int32_t i = 0; i < n_token; i++) {
        DEAL_TRY(deal_detok_push(ending->vocab, &detok, hypothesis->token, i + 1,
                                 &ending->scratch, err));
        size_t size = ending->scratch.size;
        if (size > hypothesis->final_size)
            size = hypothesis->final_size;
        const uint8_t *bytes = size > i_final ? hypothesis->text.data + i_final : NULL;
        DEAL_TRY(deal_reward_states_advance(rewards, &hypothesis->states,
                                            hypothesis->token[i], bytes, size - i_final,
                                            err));
        i_final = size;
    }
    return DEAL_OK;
}

deal_status
deal_hypothesis_case(deal_hypothesis *hypothesis, deal_reward_set *rewards,
                     deal_reward_case *out, deal_error *err)
{
    DEAL_TRY(reserve_reward(hypothesis, rewards->n_reward, err));
    bool has_end = hypothesis->finish == DEAL_FINISH_END;
    bool is_finished = has_end || hypothesis->finish == DEAL_FINISH_STOP;
    size_t size = hypothesis->text.size;
    *out = (deal_reward_case){
        .states = &hypothesis->states,
        .text = {.text = size ? (const char *)hypothesis->text.data : "",
                 .size = size,
                 .n_tokens = hypothesis->n_token - has_end,
                 .is_finished = is_finished},
        .pending_size = size - hypothesis->final_size,
        .reward = hypothesis->reward,
        .h = &hypothesis->h,
        .check = hypothesis->check.range ? &hypothesis->check : NULL,
    };
    return DEAL_OK;
}

bool
deal_hypothesis_is_held(const deal_hypothesis *hypothesis, const deal_ending *ending)
{
    return deal_stop_held_size(&ending->stop, hypothesis->text.data,
                               hypothesis->final_size) > 0;
}

deal_status
deal_hypothesis_bound_states(const deal_hypothesis *hypothesis,
                             deal_reward_set *rewards, int32_t n_left, double *low,
                             double *high, deal_error *err)
{
    n_left += hypothesis->text.size > hypothesis->final_size;
    return deal_reward_set_bound_states(rewards, &hypothesis->states, n_left, low, high,
                                        err);
}

deal_reward_beginning
deal_hypothesis_beginning(const deal_hypothesis *hypothesis, int32_t n_left,
                          double *low, double *high)
{
    size_t size = hypothesis->final_size;
    int32_t n_pending = deal_detok_n_pending(&hypothesis->detok);
    return (deal_reward_beginning){
        .text = {.text = size ? (const char *)hypothesis->text.data : "",
                 .size = size,
                 .n_tokens = hypothesis->n_token - n_pending},
        .n_tokens_left = n_left + n_pending,
        .low = low,
        .high = high,
    };
}

void
deal_hypothesis_free(deal_hypothesis *hypothesis, deal_reward_set *rewards)
{
    deal_reward_states_free(rewards, &hypothesis->states);
    deal_free(hypothesis->token);
    deal_free(hypothesis->reward);
    deal_bytes_free(&hypothesis->text);
    deal_check_free(&hypothesis->check);
    *hypothesis = (deal_hypothesis){
        .node = DEAL_NODE_NONE, .tip = DEAL_NODE_NONE, .roll = DEAL_NODE_NONE};
}
