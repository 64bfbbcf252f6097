/* The search: from a prompt to finished hypotheses, one decision at a time.
 *
 * A search is a resumable state machine: deal_search_step() takes one decision (one
 * token of sampling, one step of beam search, one DeAL decision of `commit` tokens), so
 * that a caller can stream, show progress or stop between steps. It owns the trie
 * references it holds and gives them back in deal_search_free(), also after a failed
 * step.
 *
 * It knows a language model through common/lm.h, a reward through common/reward.h, a
 * constraint through common/constraint.h and text through tokenizer/detok.h; nothing
 * else.
 */
#ifndef DEAL_SEARCH_SEARCH_H
#define DEAL_SEARCH_SEARCH_H

#include <stdbool.h>

#include "common/constraint.h"
#include "common/lm.h"
#include "common/reward.h"
#include "search/formula.h"
#include "search/memo.h"
#include "search/search_params.h"
#include "tokenizer/vocab.h"

typedef struct deal_search deal_search;

// One request. Everything is borrowed for the life of the search.
typedef struct deal_search_request {
    deal_lm *lm;
    const deal_controls *controls; // or NULL
    // NAIVE and EXACT: another model with the same vocabulary, which rolls out. Else
    // NULL: `lm` does.
    deal_lm *rollout_lm;
    const deal_controls *rollout_controls; // or NULL
    const deal_vocab *vocab;
    const int32_t *prompt; // (n_prompt,) token ids, n_prompt >= 1
    int32_t n_prompt;
    const char *prompt_text; // UTF-8, for the rewards
    size_t prompt_text_size;
    const int32_t
        *end_token; // (n_end,) a hypothesis ends with any of them; kept in ids
    int32_t n_end;
    const char *const *stop; // (n_stop,) zero-terminated, none empty; cut from the text
    int32_t n_stop;
    deal_reward *const *reward; // (n_reward,)
    const double *weight;       // (n_reward,) finite; h = sum of weight[i] * reward[i]
    int32_t n_reward;
    deal_formula formula; // h in place of that sum, where it has terms; borrowed
    // Which tokens may be taken, by candidates, rollouts and draws. Or NULL.
    const deal_constraint *constraint;
    // One of several searches over this prompt with these rewards in this order,
    // whatever their weights: what earlier ones were told. `lm` and rollout_lm are
    // then those of a recall (search/recall.h). Else NULL.
    deal_memo *memo;
    deal_search_params params;
} deal_search_request;

typedef enum deal_finish_reason {
    DEAL_FINISH_NONE = 0,   // still running
    DEAL_FINISH_END = 1,    // an end token: "stop"
    DEAL_FINISH_STOP = 2,   // a stop string: "stop"
    DEAL_FINISH_LENGTH = 3, // max_new_tokens or the context: "length"
    DEAL_FINISH_DEAD_END = 4, // an end token, the only one left to a constraint that
                              // does not accept the text: "dead_end"
} deal_finish_reason;

// One returned hypothesis; pointers borrowed from the search.
typedef struct deal_search_result {
    const int32_t *token; // (n_token,) generated ids, the end token included
    int32_t n_token;
    const char *text; // UTF-8, stop string cut
    size_t text_size;
    double logprob; // natural log, summed over the generated tokens
    double h;       // weighted sum of rewards of `text`, or what the formula makes
                    // of them; 0 without rewards
    const double *reward; // (n_reward,) unweighted; NULL without rewards
    double score;         // what the mode ranks by
    deal_finish_reason finish_reason;
} deal_search_result;

typedef struct deal_search_stats {
    int64_t n_prompt_tokens;
    int64_t n_forward_tokens; // evaluated, prompt included
    int64_t n_forward_passes;
    int64_t n_steps;          // decisions taken
    int64_t n_rollouts;       // candidates whose continuation was rolled out
    int64_t n_rollout_tokens; // tokens taken in rollouts
    int64_t n_skipped;        // decisions taken without rollouts, by skip_above
    // EXACT
    int64_t n_reused_tokens;  // of rollouts, known when their decision began
    int64_t n_pruned;         // candidates whose score did not matter
    int64_t n_settled;        // scores that were certain before the rollout's end
    int64_t n_draft_tokens;   // guessed tokens that were evaluated
    int64_t n_draft_accepted; // of those, right ones
    int64_t n_ahead_tokens;   // evaluated before a decision asked for them
    int64_t n_in_vain;        // of those, never asked for
    int64_t n_reward_calls;   // advance, score, score_texts and bounds calls
    int64_t n_reward_texts;   // completions scored
    // Of rollout_lm, its prompt included; the counts above are of lm
    int64_t n_rollout_model_tokens, n_rollout_model_passes;
    // Used contexts of both models that an earlier search with `memo` evaluated
    int64_t n_recalled_tokens;
    double seconds_prefill, seconds_forward, seconds_reward, seconds_total;
    double seconds_rollout_model;
} deal_search_stats;

// One candidate of one decision; rows lie in the order they were ranked in.
typedef struct deal_trace_row {
    int32_t i_step;      // decision, from 0
    int32_t i_beam;      // hypothesis of the beam that it extends
    int32_t n_committed; // tokens of that hypothesis before the candidate
    int32_t token;
    double logprob;    // of hypothesis and candidate
    double h;          // of hypothesis, candidate and rollout
    double score;      // logprob + reward_weight * h
    double low, high;  // range of the score; EXACT: h and score are NaN where unknown
    bool is_finished;  // candidate or rollout reached its end
    bool is_chosen;    // kept in the beam, or put among the finished
    bool is_skipped;   // by skip_above: no score was needed, unless it ended
    int32_t i_next;    // hypothesis that it is at the next decision; -1: of none
    int32_t n_rollout; // tokens rolled out after the candidate
    size_t i_rollout;  // their first index in deal_trace.rollout
} deal_trace_row;

typedef struct deal_trace {
    const deal_trace_row *row; // (n_row,)
    const double *reward;      // (n_row, n_reward) unweighted
    const int32_t *rollout;    // (n_rollout,) tokens of all rollouts
    size_t n_row, n_rollout;
} deal_trace;

// Checks the request, evaluates nothing. Fails with INVALID_ARG naming the parameter,
// or CONTEXT_FULL where the prompt leaves no room for a token. Caller frees with
// deal_search_free().
deal_status deal_search_new(const deal_search_request *request, deal_search **search,
                            deal_error *err);
void deal_search_free(deal_search *search);

// Takes one decision; the first also evaluates the prompt. `is_done` tells that all
// results are final; a further call does nothing. After a failure every further call
// fails with INVALID_ARG.
deal_status deal_search_step(deal_search *search, bool *is_done, deal_error *err);

// Ends a search of a single hypothesis before its time, as a stop string would: scores
// what there is, and makes it the result unless one that has ended scores higher. Does
// nothing where the search is done. Fails with INVALID_ARG where several hypotheses
// compete, in mode SEGMENT and before the first step.
deal_status deal_search_stop(deal_search *search, deal_error *err);

// Tokens of hypothesis 0 that are decided, (n_token,). None until the end where several
// hypotheses compete. Borrowed until the next step.
void deal_search_tokens(const deal_search *search, const int32_t **token,
                        int32_t *n_token);

// Text that is final and will not change, from the start, of hypothesis 0. Empty until
// the end where several hypotheses compete. Borrowed until the next step.
void deal_search_text(const deal_search *search, const char **text, size_t *size);

// Results by falling score (sampling: by stream). Only after is_done.
int32_t deal_search_n_result(const deal_search *search);
void deal_search_result_get(const deal_search *search, int32_t i_result,
                            deal_search_result *result);
void deal_search_stats_get(const deal_search *search, deal_search_stats *stats);
void deal_search_trace_get(const deal_search *search, deal_trace *trace);

#endif
