/* Parameters of a search, one struct for all modes.
 *
 * C names and the Python keywords that differ from them:
 *
 *     n_new_max        max_new_tokens           lookahead_len    lookahead
 *     beam_size        num_beams                n_return         num_return_sequences
 *     n_proposal       top_k of deal.Search
 */
#ifndef DEAL_SEARCH_SEARCH_PARAMS_H
#define DEAL_SEARCH_SEARCH_PARAMS_H

#include <stdint.h>

typedef enum deal_search_mode {
    DEAL_SEARCH_SAMPLE = 0, // temperature 0: greedy
    DEAL_SEARCH_BEAM = 1,
    DEAL_SEARCH_NAIVE = 2,   // DeAL as the paper writes it
    DEAL_SEARCH_EXACT = 3,   // the same decisions, without most of the work
    DEAL_SEARCH_SEGMENT = 4, // segments proposed, kept by reward alone; best of n
} deal_search_mode;

// What makes EXACT fast; or-ed together. None of it changes a decision.
enum {
    DEAL_TRICK_REUSE = 1 << 0,  // what was evaluated is kept while it can be reached
    DEAL_TRICK_BOUNDS = 1 << 1, // nothing is rolled out or asked that cannot matter
    DEAL_TRICK_DRAFTS = 1 << 2, // rollouts are guessed, and checked in one pass
    DEAL_TRICK_SPECULATION = 1 << 3, // room in a batch is filled with what may come
};

typedef struct deal_search_params {
    deal_search_mode mode;
    int32_t n_new_max; // >= 1
    int32_t n_return;  // >= 1; 1 in greedy, at most beam_size in the other modes

    // SAMPLE and SEGMENT, in this order, as transformers applies them
    double repetition_penalty; // > 0; 1 is off; over prompt and generated tokens
    double temperature;        // >= 0
    int32_t top_k;             // >= 0; 0 is off. DeAL: candidates per hypothesis, >= 1
    double top_p;              // (0, 1]; 1 is off
    double min_p;              // [0, 1]; 0 is off
    uint64_t seed;

    // All but SAMPLE
    int32_t beam_size;     // >= 1
    double length_penalty; // BEAM: finished hypotheses rank by logprob / n_token^this

    // NAIVE and EXACT
    int32_t lookahead_len; // >= 0 tokens of greedy rollout. SEGMENT: >= 1 of a segment
    double reward_weight;  // finite
    int32_t commit;        // in [1, lookahead_len + 1] tokens per decision
    uint32_t tricks;       // EXACT: DEAL_TRICK_*
    double skip_above;     // [0, 1]; 0 is off. Needs beam_size 1
    int32_t is_checked;    // 1: bounds of the rewards are held against their scores.
                           // SEGMENT too. EXACT then scores as NAIVE does

    // SEGMENT; temperature 0: beams within the segment
    int32_t n_proposal; // >= 1 continuations of each hypothesis
} deal_search_params;

#endif
