/* Life of a search: what it allocates, the step, its results. The decisions themselves
 * are in sample.c, beam.c, naive.c, exact.c and segment.c.
 */
#include "search/search.h"

#include "common/alloc.h"
#include "common/clock.h"
#include "common/utf8.h"
#include "search/exact.h"
#include "search/request.h"
#include "search/search_internal.h"

// What a search makes room for when it starts: at most so many tokens of all its
// hypotheses together and of its rollouts, bytes of text for each, rows of its trace.
#define N_TOKEN_RESERVED ((size_t)1 << 20)
#define TOKEN_SIZE_RESERVED ((size_t)8)
#define N_ROW_RESERVED ((size_t)1 << 16)

static bool
is_deal(const deal_search *search)
{
    deal_search_mode mode = search->request.params.mode;
    return mode == DEAL_SEARCH_NAIVE || mode == DEAL_SEARCH_EXACT;
}

bool
deal_search_is_steered(const deal_search *search)
{
    return is_deal(search) || search->request.params.mode == DEAL_SEARCH_SEGMENT;
}

// --- new and free --------------------------------------------------------------------

// Most bytes one token can add to the final text, by the rule for raw bytes: it may
// settle up to three bytes that were pending, or with RUN a run of any length.
static int32_t
token_size_max(const deal_vocab *vocab, int32_t n_new_max)
{
    size_t n_pending = 3;
    if (deal_vocab_byte_rule(vocab) == DEAL_BYTE_RULE_RUN)
        n_pending = (size_t)n_new_max;
    size_t size = deal_vocab_piece_size_max(vocab);
    if (size > INT32_MAX || n_pending > (INT32_MAX - size) / 3)
        return INT32_MAX;
    return (int32_t)(size + 3 * n_pending);
}

static deal_status
new_hypotheses(size_t n, deal_hypothesis **out, deal_error *err)
{
    deal_hypothesis *hypothesis = deal_alloc_zero(n, sizeof *hypothesis);
    if (!hypothesis)
        return deal_fail_memory(err, "hypotheses");
    for (size_t i = 0; i < n; i++)
        hypothesis[i].node = hypothesis[i].tip = hypothesis[i].roll = DEAL_NODE_NONE;
    *out = hypothesis;
    return DEAL_OK;
}

static size_t
product_up_to(size_t a, size_t b, size_t max)
{
    return b != 0 && a > max / b ? max : a * b;
}

static deal_status
reserve_tokens(deal_search *search, deal_hypothesis *hypothesis, size_t n,
               int32_t n_token, deal_error *err)
{
    // The detokenizer wants room for the worst that one more token can bring.
    size_t size = deal_vocab_piece_size_max(search->request.vocab);
    size = (size < 256 ? size : 256) + DEAL_UTF8_SIZE_MAX;
    size = DEAL_UTF8_REPLACEMENT_SIZE * size + TOKEN_SIZE_RESERVED * (size_t)n_token;
    for (size_t i = 0; i < n; i++)
        DEAL_TRY(deal_hypothesis_reserve(&hypothesis[i], n_token, size, err));
    return DEAL_OK;
}

// Makes room for all that the search can grow to, so that its steps allocate nothing
// but for the memo of rewards. What would be too much at once grows as it comes.
static deal_status
reserve_all(deal_search *search, deal_error *err)
{
    const deal_search_params *params = &search->request.params;
    size_t n_live = (size_t)search->n_live_max,
           n_token = (size_t)search->ending.n_new_max;
    size_t n_slot = search->n_slot;
    bool is_sample = params->mode == DEAL_SEARCH_SAMPLE;
    size_t n_each = N_TOKEN_RESERVED / (is_sample ? n_live : 3 * n_live + n_slot);
    int32_t n = (int32_t)(n_token < n_each ? n_token : n_each);
    DEAL_TRY(reserve_tokens(search, search->live, n_live, n, err));
    if (is_sample)
        return DEAL_OK;
    DEAL_TRY(reserve_tokens(search, search->next, n_live, n, err));
    DEAL_TRY(reserve_tokens(search, search->pool, n_live, n, err));
    DEAL_TRY(reserve_tokens(search, search->slot, n_slot, n, err));
    if (search->spare)
        DEAL_TRY(
            reserve_tokens(search, search->spare, (size_t)search->n_expand, n, err));
    if (params->mode == DEAL_SEARCH_BEAM)
        return DEAL_OK;
    bool is_segment = params->mode == DEAL_SEARCH_SEGMENT;
    int32_t n_taken = is_segment ? params->lookahead_len : params->commit;
    size_t n_step = (n_token - 1) / (size_t)n_taken + 1;
    size_t n_row = product_up_to(n_step, n_slot, N_ROW_RESERVED);
    size_t n_roll =
        product_up_to(n_row, (size_t)params->lookahead_len, N_TOKEN_RESERVED);
    return deal_trace_log_reserve(&search->trace, n_row, search->rewards.n_reward,
                                  n_roll, err);
}

// What beams need besides the live hypotheses.
static deal_status
init_beams(deal_search *search, deal_error *err)
{
    size_t n_live = (size_t)search->n_live_max,
           n_reward = (size_t)search->rewards.n_reward;
    size_t n_slot = search->n_slot;
    if (n_slot > INT32_MAX)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "num_beams and top_k: expected at most %d candidates, got %zu",
                         (int)INT32_MAX, n_slot);
    DEAL_TRY(new_hypotheses(n_live, &search->next, err));
    DEAL_TRY(new_hypotheses(n_live, &search->pool, err));
    DEAL_TRY(new_hypotheses(n_slot, &search->slot, err));
    bool has_all = true;
    for (size_t i = 0; n_reward > 0 && i < n_live; i++) {
        search->pool[i].reward = deal_alloc(n_reward, sizeof *search->pool[i].reward);
        has_all = has_all && search->pool[i].reward;
    }
    search->candidate = deal_alloc(n_slot, sizeof *search->candidate);
    search->rank = deal_alloc(n_slot, sizeof *search->rank);
    search->winner = deal_alloc(n_live, sizeof *search->winner);
    search->roll_token = deal_alloc(n_slot, sizeof *search->roll_token);
    search->roll_logit = deal_alloc(n_slot, sizeof *search->roll_logit);
    has_all = has_all && search->candidate && search->rank && search->winner &&
              search->roll_token && search->roll_logit;
    return has_all ? DEAL_OK : deal_fail_memory(err, "candidates");
}

static deal_status
init_outputs(deal_search *search, deal_error *err)
{
    const deal_search_params *params = &search->request.params;
    size_t n_vocab = (size_t)search->request.lm->n_vocab;
    size_t n_live = (size_t)search->n_live_max, n_row = n_live;
    bool is_segment = params->mode == DEAL_SEARCH_SEGMENT;
    if (is_segment && search->n_slot > n_row)
        n_row = search->n_slot;
    size_t n_top = search->n_expand ? (size_t)search->n_expand : 1;
    search->i_row = deal_alloc(n_live, sizeof *search->i_row);
    search->log_z = deal_alloc(n_row, sizeof *search->log_z);
    bool has_all = search->i_row && search->log_z;
    bool is_drawn = params->temperature > 0.0 || params->repetition_penalty != 1.0;
    is_drawn = is_drawn && (params->mode == DEAL_SEARCH_SAMPLE || is_segment);
    if (is_drawn) {
        DEAL_TRY(deal_draw_init(&search->draw, (int32_t)n_vocab, err));
        search->logits = deal_alloc(n_row, n_vocab * sizeof *search->logits);
        has_all = has_all && search->logits;
    } else {
        search->top_token = deal_alloc(n_row, n_top * sizeof *search->top_token);
        search->top_logit = deal_alloc(n_row, n_top * sizeof *search->top_logit);
        has_all = has_all && search->top_token && search->top_logit;
    }
    return has_all ? DEAL_OK : deal_fail_memory(err, "outputs of the model");
}

static deal_status
init(deal_search *search, const deal_search_request *request, deal_error *err)
{
    const deal_search_params *params = &request->params;
    int32_t n_vocab = request->lm->n_vocab;
    int32_t n_new_max = request->lm->n_ctx - request->n_prompt;
    if (n_new_max > params->n_new_max)
        n_new_max = params->n_new_max;
    search->request = *request;
    DEAL_TRY(deal_search_constrain(search, err));
    search->roll_lm =
        search->request.rollout_lm ? search->request.rollout_lm : search->request.lm;
    search->ending = (deal_ending){
        .vocab = request->vocab,
        .end_token = request->end_token,
        .n_end = request->n_end,
        .n_new_max = n_new_max,
    };
    DEAL_TRY(
        deal_stop_set_init(&search->ending.stop, request->stop, request->n_stop, err));
    deal_reward_prompt prompt = {
        .text = request->prompt_text ? request->prompt_text : "",
        .size = request->prompt_text ? request->prompt_text_size : 0,
        .n_new_max = n_new_max,
        .token_size_max = token_size_max(request->vocab, n_new_max),
    };
    DEAL_TRY(deal_reward_set_init(&search->rewards, request->reward, request->weight,
                                  request->n_reward, &request->formula, &prompt, err));
    if (request->memo)
        search->rewards.memo = request->memo;
    search->rewards.is_checked = params->is_checked && request->n_reward > 0;
    bool is_sample = params->mode == DEAL_SEARCH_SAMPLE;
    search->n_live_max = is_sample ? params->n_return : params->beam_size;
    if (is_deal(search)) {
        search->n_expand = params->top_k;
    } else if (params->mode == DEAL_SEARCH_BEAM) {
        // Enough for beam_size to be left when every end token is among them.
        int64_t n = (int64_t)params->beam_size *
                    (request->n_end > 0 ? (int64_t)request->n_end + 1 : 2);
        search->n_expand = n < n_vocab ? (int32_t)n : n_vocab;
    } else if (params->mode == DEAL_SEARCH_SEGMENT) {
        search->n_expand = params->n_proposal;
    }
    // A segment that reaches the end is proposed in one round, from the prompt alone.
    bool is_single = params->mode == DEAL_SEARCH_SEGMENT &&
                     params->lookahead_len >= search->ending.n_new_max;
    search->n_slot =
        (is_single ? 1 : (size_t)search->n_live_max) * (size_t)search->n_expand;
    search->stats.n_prompt_tokens = request->n_prompt;
    DEAL_TRY(new_hypotheses((size_t)search->n_live_max, &search->live, err));
    if (!is_sample)
        DEAL_TRY(init_beams(search, err));
    if (params->mode == DEAL_SEARCH_SEGMENT)
        DEAL_TRY(deal_segment_init(search, err));
    DEAL_TRY(reserve_all(search, err));
    DEAL_TRY(deal_observer_init(search, err));
    if (params->mode == DEAL_SEARCH_EXACT)
        DEAL_TRY(deal_exact_new(search, err));
    return init_outputs(search, err);
}

deal_status
deal_search_new(const deal_search_request *request, deal_search **out, deal_error *err)
{
    DEAL_TRY(deal_search_request_check(request, err));
    deal_search *search = deal_alloc_zero(1, sizeof *search);
    if (!search)
        return deal_fail_memory(err, "search");
    deal_status status = init(search, request, err);
    if (status != DEAL_OK) {
        deal_search_free(search);
        return status;
    }
    *out = search;
    return DEAL_OK;
}

void
deal_search_release(deal_search *search, deal_hypothesis *hypothesis)
{
    deal_lm *lm = search->request.lm;
    lm->ops->release(lm, hypothesis->node);
    lm->ops->release(lm, hypothesis->tip);
    search->roll_lm->ops->release(search->roll_lm, hypothesis->roll);
    hypothesis->node = hypothesis->tip = hypothesis->roll = DEAL_NODE_NONE;
}

static void
free_hypotheses(deal_search *search, deal_hypothesis *hypothesis, size_t n)
{
    for (size_t i = 0; hypothesis && i < n; i++) {
        deal_search_release(search, &hypothesis[i]);
        deal_hypothesis_free(&hypothesis[i], &search->rewards);
    }
    deal_free(hypothesis);
}

void
deal_search_free(deal_search *search)
{
    if (!search)
        return;
    size_t n_live = (size_t)search->n_live_max;
    free_hypotheses(search, search->live, n_live);
    free_hypotheses(search, search->next, n_live);
    free_hypotheses(search, search->pool, n_live);
    free_hypotheses(search, search->slot, search->n_slot);
    free_hypotheses(search, search->spare, (size_t)search->n_expand);
    void *const block[] = {
        search->candidate, search->rank,     search->winner,     search->item,
        search->cases,     search->i_row,    search->top_token,  search->top_logit,
        search->log_z,     search->logits,   search->roll_token, search->roll_logit,
        search->n_member,  search->slot_row, search->option,
    };
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
    deal_exact_free(search->exact);
    deal_observe_end(search);
    deal_observer_free(&search->observer);
    deal_draw_free(&search->draw);
    deal_trace_log_free(&search->trace);
    deal_reward_set_free(&search->rewards);
    deal_stop_set_free(&search->ending.stop);
    deal_bytes_free(&search->ending.scratch);
    deal_search_unconstrain(search);
    deal_free(search);
}

// --- step ----------------------------------------------------------------------------

static deal_status
take_decision(deal_search *search, bool *is_done, deal_error *err)
{
    switch (search->request.params.mode) {
    case DEAL_SEARCH_SAMPLE:
        return deal_sample_step(search, is_done, err);
    case DEAL_SEARCH_BEAM:
        return deal_beam_step(search, is_done, err);
    case DEAL_SEARCH_EXACT:
        return deal_exact_step(search, is_done, err);
    case DEAL_SEARCH_SEGMENT:
        return deal_segment_step(search, is_done, err);
    case DEAL_SEARCH_NAIVE:
        break;
    }
    return deal_naive_step(search, is_done, err);
}

static deal_hypothesis *
results(const deal_search *search, int32_t *n)
{
    const deal_search_params *params = &search->request.params;
    bool is_live =
        params->mode == DEAL_SEARCH_SAMPLE || params->mode == DEAL_SEARCH_SEGMENT;
    *n = is_live ? search->n_live : search->n_pool;
    if (*n > params->n_return)
        *n = params->n_return;
    return is_live ? search->live : search->pool;
}

// Scores the results of a mode in which rewards have not steered.
static deal_status
score_results(deal_search *search, deal_error *err)
{
    int32_t n;
    deal_hypothesis *result = results(search, &n);
    DEAL_TRY(deal_search_reserve_cases(search, (size_t)n, err));
    for (int32_t i = 0; i < n; i++) {
        DEAL_TRY(
            deal_hypothesis_replay(&result[i], &search->ending, &search->rewards, err));
        DEAL_TRY(
            deal_hypothesis_case(&result[i], &search->rewards, &search->cases[i], err));
    }
    search->rewards.position = INT32_MAX;
    DEAL_TRY(deal_observe_all(search, result, n, err));
    return deal_reward_set_score(&search->rewards, search->cases, (size_t)n, err);
}

// What is left to score, and then the trie is given back.
static deal_status
finish(deal_search *search, deal_error *err)
{
    if (!deal_search_is_steered(search) && search->rewards.n_reward > 0)
        DEAL_TRY(score_results(search, err));
    int32_t n;
    deal_hypothesis *result = results(search, &n);
    for (int32_t i = 0; search->masks && i < n; i++)
        DEAL_TRY(deal_search_check_end(search, &result[i], err));
    for (int32_t i = 0; i < search->n_live; i++)
        deal_search_release(search, &search->live[i]);
    for (int32_t i = 0; i < search->n_pool; i++)
        deal_search_release(search, &search->pool[i]);
    deal_observe_end(search);
    return DEAL_OK;
}

static deal_status
step(deal_search *search, deal_error *err)
{
    bool is_done = false;
    const deal_search_params *params = &search->request.params;
    int32_t n_token = search->live[0].n_token;
    int32_t n_left = search->ending.n_new_max - n_token; // at least 1
    int32_t n_rolled =
        params->lookahead_len < n_left ? params->lookahead_len + 1 : n_left;
    search->rewards.position = n_token;
    search->rewards.n_rolled_max = n_token + n_rolled;
    DEAL_TRY(take_decision(search, &is_done, err));
    search->stats.n_steps++;
    if (is_done)
        DEAL_TRY(finish(search, err));
    search->is_done = is_done;
    return DEAL_OK;
}

static int64_t
n_recalled_by(const deal_search *search)
{
    const deal_lm *lm = search->request.lm, *other = search->request.rollout_lm;
    return lm->n_recalled_tokens + (other ? other->n_recalled_tokens : 0);
}

deal_status
deal_search_step(deal_search *search, bool *is_done, deal_error *err)
{
    if (search->is_failed)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "search: it has failed and cannot go on");
    if (!search->is_done) {
        const deal_lm *lm = search->request.lm, *roll_lm = search->request.rollout_lm;
        deal_search_stats *stats = &search->stats;
        double start = deal_clock_seconds();
        int64_t n_tokens = lm->n_forward_tokens, n_passes = lm->n_forward_passes;
        int64_t n_roll_tokens = roll_lm ? roll_lm->n_forward_tokens : 0;
        int64_t n_roll_passes = roll_lm ? roll_lm->n_forward_passes : 0;
        int64_t n_recalled = n_recalled_by(search);
        deal_status status = step(search, err);
        stats->n_forward_tokens += lm->n_forward_tokens - n_tokens;
        stats->n_forward_passes += lm->n_forward_passes - n_passes;
        stats->n_recalled_tokens += n_recalled_by(search) - n_recalled;
        if (roll_lm) {
            stats->n_rollout_model_tokens += roll_lm->n_forward_tokens - n_roll_tokens;
            stats->n_rollout_model_passes += roll_lm->n_forward_passes - n_roll_passes;
        }
        stats->seconds_total += deal_clock_seconds() - start;
        search->is_failed = status != DEAL_OK;
        if (search->is_failed) // entries that were to be answered
            deal_memo_clear(search->rewards.memo);
        DEAL_TRY(status);
    }
    *is_done = search->is_done;
    return DEAL_OK;
}

// The live hypothesis as a result, in the pool where the mode has one.
static deal_status
stop(deal_search *search, deal_error *err)
{
    deal_hypothesis *live = &search->live[0], *best = &search->pool[0];
    live->finish = DEAL_FINISH_STOP;
    if (!is_deal(search))
        return finish(search, err);
    deal_reward_case one;
    DEAL_TRY(deal_hypothesis_case(live, &search->rewards, &one, err));
    search->rewards.position = INT32_MAX;
    DEAL_TRY(deal_observe_all(search, live, 1, err));
    DEAL_TRY(deal_reward_set_score(&search->rewards, &one, 1, err));
    live->score = live->logprob + search->request.params.reward_weight * live->h;
    if (search->n_pool == 0 || live->score > best->score) {
        deal_hypothesis found = *live;
        *live = *best;
        *best = found;
        search->n_pool = 1;
    }
    return finish(search, err);
}

deal_status
deal_search_stop(deal_search *search, deal_error *err)
{
    if (search->is_done)
        return DEAL_OK;
    if (search->is_failed || !search->is_started || search->n_live_max != 1 ||
        search->request.params.mode == DEAL_SEARCH_SEGMENT)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "stop: expected a running search of one hypothesis");
    deal_status status = stop(search, err);
    search->is_failed = status != DEAL_OK;
    search->is_done = status == DEAL_OK;
    return status;
}

// --- what comes out ------------------------------------------------------------------

void
deal_search_text(const deal_search *search, const char **text, size_t *size)
{
    const deal_hypothesis *first = NULL;
    size_t n_byte = 0;
    if (search->is_done) {
        int32_t n;
        first = results(search, &n);
        n_byte = first->text.size;
    } else if (search->n_live_max == 1) {
        first = &search->live[0];
        n_byte = first->final_size;
        if (first->finish == DEAL_FINISH_NONE)
            n_byte -=
                deal_stop_held_size(&search->ending.stop, first->text.data, n_byte);
    }
    *text = n_byte ? (const char *)first->text.data : "";
    *size = n_byte;
}

void
deal_search_tokens(const deal_search *search, const int32_t **token, int32_t *n_token)
{
    int32_t n = 0;
    const deal_hypothesis *first = search->is_done ? results(search, &n) : NULL;
    if (!first && search->n_live_max == 1)
        first = &search->live[0];
    *token = first ? first->token : NULL;
    *n_token = first ? first->n_token : 0;
}

int32_t
deal_search_n_result(const deal_search *search)
{
    int32_t n;
    results(search, &n);
    return search->is_done ? n : 0;
}

void
deal_search_result_get(const deal_search *search, int32_t i_result,
                       deal_search_result *result)
{
    int32_t n;
    const deal_hypothesis *found = &results(search, &n)[i_result];
    *result = (deal_search_result){
        .token = found->token,
        .n_token = found->n_token,
        .text = found->text.size ? (const char *)found->text.data : "",
        .text_size = found->text.size,
        .logprob = found->logprob,
        .h = found->h,
        .reward = found->reward,
        .score = found->score,
        .finish_reason = found->finish,
    };
}

void
deal_search_stats_get(const deal_search *search, deal_search_stats *stats)
{
    *stats = search->stats;
    stats->n_reward_calls = search->rewards.n_calls;
    stats->n_reward_texts = search->rewards.n_texts;
    stats->seconds_reward = search->rewards.seconds;
}

void
deal_search_trace_get(const deal_search *search, deal_trace *trace)
{
    *trace = (deal_trace){
        .row = search->trace.row,
        .reward = search->trace.reward,
        .rollout = search->trace.rollout,
        .n_row = search->trace.n_row,
        .n_rollout = search->trace.n_rollout,
    };
}
