/* Sampling and greedy decoding: streams in lockstep, one batch a step.
 *
 * Stream i draws its token at position j with uniform number (seed, i, j), so a stream
 * depends neither on the others nor on when it is evaluated.
 */
#include "common/rng.h"
#include "search/search_internal.h"

deal_status
deal_sample_choose(deal_search *search, const deal_hypothesis *stream,
                   uint64_t i_stream, int32_t i_row, int32_t *token, double *logprob,
                   deal_error *err)
{
    const deal_search_request *request = &search->request;
    const deal_search_params *params = &request->params;
    double log_z = (double)search->log_z[i_row];
    if (!search->logits) {
        *token = search->top_token[i_row];
        *logprob = (double)search->top_logit[i_row] - log_z;
        return DEAL_OK;
    }
    deal_draw *draw = &search->draw;
    const float *logits = search->logits + (size_t)i_row * (size_t)request->lm->n_vocab;
    DEAL_TRY(deal_draw_load(draw, logits, err));
    if (params->repetition_penalty != 1.0) {
        deal_draw_penalise(draw, params->repetition_penalty, request->prompt,
                           request->n_prompt);
        deal_draw_penalise(draw, params->repetition_penalty, stream->token,
                           stream->n_token);
    }
    if (params->temperature == 0.0) {
        *token = deal_draw_argmax(draw);
    } else {
        double u = deal_rng_uniform(params->seed, i_stream, (uint64_t)stream->n_token);
        *token = deal_draw_token(draw, params, u);
    }
    *logprob = (double)logits[*token] - log_z;
    return DEAL_OK;
}

deal_status
deal_sample_step(deal_search *search, bool *is_done, deal_error *err)
{
    uint32_t want = search->logits ? DEAL_WANT_LOGITS : DEAL_WANT_TOP_K;
    DEAL_TRY(deal_search_evaluate(search, want | DEAL_WANT_LOG_Z, 1, err));
    *is_done = true;
    for (int32_t i = 0; i < search->n_live; i++) {
        deal_hypothesis *stream = &search->live[i];
        if (stream->finish != DEAL_FINISH_NONE)
            continue;
        int32_t token;
        double logprob;
        DEAL_TRY(deal_sample_choose(search, stream, (uint64_t)i, search->i_row[i],
                                    &token, &logprob, err));
        DEAL_TRY(deal_hypothesis_push(stream, token, &search->ending, NULL, err));
        stream->logprob += logprob;
        stream->score = stream->logprob;
        if (stream->finish == DEAL_FINISH_NONE)
            *is_done = false;
        else if (!search->observer.is_on) // else its states are still to be read
            deal_search_release(search, stream);
    }
    return DEAL_OK;
}
