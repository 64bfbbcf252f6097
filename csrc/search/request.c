#include "search/request.h"

#include <math.h>

static deal_status
check_int(const char *name, int64_t value, int64_t low, int64_t high, deal_error *err)
{
    if (value >= low && value <= high)
        return DEAL_OK;
    if (high == INT32_MAX)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "%s: expected at least %lld, got %lld", name, (long long)low,
                         (long long)value);
    return deal_fail(err, DEAL_ERR_INVALID_ARG, "%s: expected %lld to %lld, got %lld",
                     name, (long long)low, (long long)high, (long long)value);
}

static deal_status
check_real(const char *name, double value, bool holds, const char *expected,
           deal_error *err)
{
    if (isfinite(value) && holds)
        return DEAL_OK;
    return deal_fail(err, DEAL_ERR_INVALID_ARG, "%s: expected %s, got %g", name,
                     expected, value);
}

static deal_status
check_tokens(const char *name, const int32_t *token, int32_t n, int32_t n_vocab,
             deal_error *err)
{
    for (int32_t i = 0; i < n; i++)
        if (token[i] < 0 || token[i] >= n_vocab)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "%s: expected ids in [0, %d), got %d at position %d", name,
                             (int)n_vocab, (int)token[i], (int)i);
    return DEAL_OK;
}

static deal_status
check_draw(const deal_search_params *p, deal_error *err)
{
    DEAL_TRY(check_real("repetition_penalty", p->repetition_penalty,
                        p->repetition_penalty > 0.0, "a number above 0", err));
    DEAL_TRY(check_real("temperature", p->temperature, p->temperature >= 0.0,
                        "a number of at least 0", err));
    DEAL_TRY(check_int("top_k", p->top_k, 0, INT32_MAX, err));
    DEAL_TRY(check_real("top_p", p->top_p, p->top_p > 0.0 && p->top_p <= 1.0,
                        "a number in (0, 1]", err));
    return check_real("min_p", p->min_p, p->min_p >= 0.0 && p->min_p <= 1.0,
                      "a number in [0, 1]", err);
}

static deal_status
check_sample(const deal_search_params *p, deal_error *err)
{
    DEAL_TRY(check_draw(p, err));
    if (p->temperature == 0.0 && p->n_return > 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "num_return_sequences: greedy decoding has 1 result, got %d",
                         (int)p->n_return);
    return check_int("num_return_sequences", p->n_return, 1, DEAL_SEARCH_N_LIVE_MAX,
                     err);
}

static deal_status
check_beams(const deal_search_params *p, int32_t n_vocab, deal_error *err)
{
    DEAL_TRY(check_int("num_beams", p->beam_size, 1, DEAL_SEARCH_N_LIVE_MAX, err));
    DEAL_TRY(check_int("num_return_sequences", p->n_return, 1, p->beam_size, err));
    if (p->mode == DEAL_SEARCH_BEAM)
        return check_real("length_penalty", p->length_penalty, true, "a finite number",
                          err);
    DEAL_TRY(check_int("top_k", p->top_k, 1, n_vocab, err));
    DEAL_TRY(check_int("lookahead", p->lookahead_len, 0, INT32_MAX, err));
    DEAL_TRY(check_real("skip_above", p->skip_above,
                        p->skip_above >= 0.0 && p->skip_above <= 1.0,
                        "a value in [0, 1]", err));
    if (p->skip_above > 0.0 && p->beam_size != 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "skip_above: needs num_beams 1, got num_beams %d",
                         (int)p->beam_size);
    DEAL_TRY(check_int("commit", p->commit, 1, (int64_t)p->lookahead_len + 1, err));
    return check_real("reward_weight", p->reward_weight, true, "a finite number", err);
}

static deal_status
check_segment(const deal_search_request *request, deal_error *err)
{
    const deal_search_params *p = &request->params;
    if (request->n_reward < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "rewards: a segment search keeps by reward; expected at "
                         "least 1, got none");
    DEAL_TRY(check_draw(p, err));
    DEAL_TRY(check_int("num_beams", p->beam_size, 1, DEAL_SEARCH_N_LIVE_MAX, err));
    DEAL_TRY(check_int("num_return_sequences", p->n_return, 1, p->beam_size, err));
    DEAL_TRY(check_int("lookahead", p->lookahead_len, 1, INT32_MAX, err));
    if (p->temperature > 0.0)
        return check_int("top_k", p->n_proposal, 1, DEAL_SEARCH_N_LIVE_MAX, err);
    if (p->repetition_penalty != 1.0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "repetition_penalty: beams within a segment have none; "
                         "expected 1 with temperature 0, got %g",
                         p->repetition_penalty);
    int32_t n_vocab = request->lm->n_vocab;
    int32_t high = n_vocab < DEAL_SEARCH_N_LIVE_MAX ? n_vocab : DEAL_SEARCH_N_LIVE_MAX;
    return check_int("top_k", p->n_proposal, 1, high, err);
}

// The model of rollouts sees the same tokens, and has room for as many.
static deal_status
check_rollout_lm(const deal_search_request *request, deal_error *err)
{
    const deal_lm *lm = request->lm, *other = request->rollout_lm;
    deal_search_mode mode = request->params.mode;
    if (!other)
        return DEAL_OK;
    if (mode != DEAL_SEARCH_NAIVE && mode != DEAL_SEARCH_EXACT)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "rollout_model: only modes \"naive\" and \"exact\" roll out");
    if (other == lm)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "rollout_model: expected another session than the search's");
    if (other->n_vocab != lm->n_vocab)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "rollout_model: expected the model's %d tokens, got %d",
                         (int)lm->n_vocab, (int)other->n_vocab);
    if (request->rollout_controls && !other->ops->controlled_root)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "controls: the language model of rollouts has none");
    int32_t n_new = lm->n_ctx - request->n_prompt;
    n_new = n_new < request->params.n_new_max ? n_new : request->params.n_new_max;
    if (request->n_prompt > other->n_ctx - n_new)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                         "rollout_model: its context of %d does not hold the prompt's "
                         "%d tokens and %d new ones (max_new_tokens)",
                         (int)other->n_ctx, (int)request->n_prompt, (int)n_new);
    return DEAL_OK;
}

deal_status
deal_search_request_check(const deal_search_request *request, deal_error *err)
{
    const deal_search_params *p = &request->params;
    int32_t n_vocab = request->lm->n_vocab, n_ctx = request->lm->n_ctx;
    if (deal_vocab_size(request->vocab) < n_vocab)
        return deal_fail(
            err, DEAL_ERR_INVALID_ARG,
            "vocabulary: expected a piece for each of the model's %d tokens, "
            "got %d",
            (int)n_vocab, (int)deal_vocab_size(request->vocab));
    if (request->controls && !request->lm->ops->controlled_root)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "controls: this language model has none");
    if (request->n_prompt < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "prompt: expected at least 1 token, got an empty one");
    DEAL_TRY(check_int("stop", request->n_stop, 0, INT32_MAX, err));
    DEAL_TRY(check_int("rewards", request->n_reward, 0, INT32_MAX, err));
    DEAL_TRY(check_tokens("prompt", request->prompt, request->n_prompt, n_vocab, err));
    DEAL_TRY(
        check_tokens("eos_token_id", request->end_token, request->n_end, n_vocab, err));
    DEAL_TRY(check_int("max_new_tokens", p->n_new_max, 1, INT32_MAX, err));
    switch (p->mode) {
    case DEAL_SEARCH_SAMPLE:
        DEAL_TRY(check_sample(p, err));
        break;
    case DEAL_SEARCH_BEAM:
    case DEAL_SEARCH_NAIVE:
    case DEAL_SEARCH_EXACT:
        DEAL_TRY(check_beams(p, n_vocab, err));
        break;
    case DEAL_SEARCH_SEGMENT:
        DEAL_TRY(check_segment(request, err));
        break;
    default:
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "mode: expected 0 to %d, got %d",
                         (int)DEAL_SEARCH_SEGMENT, (int)p->mode);
    }
    if (request->n_prompt >= n_ctx)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                         "prompt: its %d tokens leave no room for a new one in the "
                         "context of %d",
                         (int)request->n_prompt, (int)n_ctx);
    return check_rollout_lm(request, err);
}
