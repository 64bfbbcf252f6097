/* Hidden states of hypotheses, told to the rewards that ask for them.
 *
 * A node of the trie keeps its states, so that those of a rollout are read off the
 * nodes that it was made with: no token is evaluated for its state, but for the last
 * one, whose successor nobody has asked for yet. A hypothesis is walked from a node
 * above, the prompt's last if need be; what a reward knows already is not told again.
 */
#ifndef DEAL_SEARCH_OBSERVE_H
#define DEAL_SEARCH_OBSERVE_H

#include "search/hypothesis.h"

struct deal_search;

typedef struct deal_observed {
    deal_hypothesis *hypothesis; // borrowed
    deal_node from;              // where its first `n_from` tokens lead
    int32_t n_from;
} deal_observed;

// Zero-initialise; free with deal_observer_free(). Idle where no reward asks.
typedef struct deal_observer {
    deal_node prompt; // the prompt's last node, one reference while is_on
    bool is_on;
    float *prompt_hidden; // (n_layer, n_embd) its states
    deal_observed *queue; // (n_queue,)
    size_t n_queue, queue_cap;
    float *hidden; // (hidden_cap, n_layer, n_embd)
    size_t hidden_cap;
} deal_observer;

// Checks the rewards against the model and makes room. Nothing to do where none asks.
deal_status deal_observer_init(struct deal_search *search, deal_error *err);
void deal_observer_free(deal_observer *observer);

// Around the prompt's pass: readies the root and the item of its last token, and takes
// a reference to that one's node.
deal_status deal_observe_root(struct deal_search *search, deal_node root,
                              deal_lm_item *last, deal_error *err);
void deal_observe_prompt(struct deal_search *search, deal_node node);

// Gives that reference back.
void deal_observe_end(struct deal_search *search);

// Keeps a node of a hypothesis in the trie, where its states are still to be read.
void deal_observe_hold(struct deal_search *search, deal_hypothesis *hypothesis,
                       deal_node node);

// Whether the rewards do not know all states of a hypothesis that they score.
bool deal_observe_lacks(const struct deal_search *search,
                        const deal_hypothesis *hypothesis);

// Puts a hypothesis in the queue, unless nothing is lacking. `from`: a live node after
// its first `n_from` tokens.
deal_status deal_observe_add(struct deal_search *search, deal_hypothesis *hypothesis,
                             deal_node from, int32_t n_from, deal_error *err);

// Tells the rewards what they lack of all in the queue, in one call of the model.
// `tip` of each is then the node of its last token but an end token, where it has one.
deal_status deal_observe_run(struct deal_search *search, deal_error *err);

// Both, of `n` hypotheses, walked from the prompt.
deal_status deal_observe_all(struct deal_search *search, deal_hypothesis *hypothesis,
                             int32_t n, deal_error *err);

#endif
