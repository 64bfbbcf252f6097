#include "search/observe.h"

#include "common/alloc.h"
#include "search/search_internal.h"

#define N_ITEM_RESERVED ((size_t)1 << 14)
#define N_ROW_RESERVED ((size_t)1 << 10)

static deal_status
reserve(deal_search *search, size_t n_row, deal_error *err)
{
    deal_observer *observer = &search->observer;
    const deal_reward_hidden *hidden = &search->rewards.hidden;
    if (n_row <= observer->hidden_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(observer->hidden_cap, n_row);
    size_t row = (size_t)hidden->n_layer * (size_t)hidden->n_embd;
    deal_free(observer->hidden);
    observer->hidden_cap = 0;
    observer->hidden = deal_alloc(cap, row * sizeof *observer->hidden);
    if (!observer->hidden)
        return deal_fail_memory(err, "hidden states");
    observer->hidden_cap = cap;
    return DEAL_OK;
}

// Room for what the candidates of a decision are told, and for walks to all hypotheses,
// so that steps allocate nothing; what would be too much at once grows as it comes.
static deal_status
reserve_all(deal_search *search, deal_error *err)
{
    size_t n_live = (size_t)search->n_live_max, n_walk = N_ITEM_RESERVED;
    size_t len = (size_t)search->request.params.lookahead_len + 1,
           n_row = N_ROW_RESERVED;
    if ((size_t)search->ending.n_new_max < n_walk / n_live)
        n_walk = (size_t)search->ending.n_new_max * n_live;
    if (search->n_slot < n_row / len)
        n_row = search->n_slot * len;
    DEAL_TRY(deal_search_reserve_items(search, n_walk > n_row ? n_walk : n_row, err));
    return reserve(search, n_row, err);
}

deal_status
deal_observer_init(deal_search *search, deal_error *err)
{
    const deal_lm *lm = search->request.lm;
    deal_observer *observer = &search->observer;
    DEAL_TRY(deal_reward_hidden_init(&search->rewards, lm->n_embd, lm->n_layer, err));
    const deal_reward_hidden *hidden = &search->rewards.hidden;
    if (hidden->n_layer == 0)
        return DEAL_OK;
    if (search->request.rollout_lm)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "rewards: one of them scores hidden states, which a rollout "
                         "by another model (rollout_model) has not got");
    observer->prompt_hidden =
        deal_alloc((size_t)hidden->n_layer,
                   (size_t)hidden->n_embd * sizeof *observer->prompt_hidden);
    if (!observer->prompt_hidden)
        return deal_fail_memory(err, "hidden states");
    return deal_search_is_steered(search) ? reserve_all(search, err) : DEAL_OK;
}

void
deal_observer_free(deal_observer *observer)
{
    deal_free(observer->prompt_hidden);
    deal_free(observer->queue);
    deal_free(observer->hidden);
    *observer = (deal_observer){0};
}

// --- the prompt ----------------------------------------------------------------------

deal_status
deal_observe_root(deal_search *search, deal_node root, deal_lm_item *last,
                  deal_error *err)
{
    deal_lm *lm = search->request.lm;
    const deal_reward_hidden *hidden = &search->rewards.hidden;
    if (hidden->n_layer == 0)
        return DEAL_OK;
    bool is_final_alone = hidden->n_layer == 1 && hidden->layer[0] == -1;
    if (!is_final_alone)
        DEAL_TRY(lm->ops->keep_layers(lm, root, hidden->layer, hidden->n_layer, err));
    last->want |= DEAL_WANT_HIDDEN;
    last->hidden = search->observer.prompt_hidden;
    return DEAL_OK;
}

void
deal_observe_prompt(deal_search *search, deal_node node)
{
    if (search->rewards.hidden.n_layer == 0)
        return;
    search->request.lm->ops->retain(search->request.lm, node);
    search->observer.prompt = node;
    search->observer.is_on = true;
}

void
deal_observe_end(deal_search *search)
{
    if (search->observer.is_on)
        search->request.lm->ops->release(search->request.lm, search->observer.prompt);
    search->observer.is_on = false;
}

void
deal_observe_hold(deal_search *search, deal_hypothesis *hypothesis, deal_node node)
{
    deal_lm *lm = search->request.lm;
    if (!search->observer.is_on)
        return;
    lm->ops->release(lm, hypothesis->node);
    lm->ops->retain(lm, node);
    hypothesis->node = node;
}

// --- hypotheses ----------------------------------------------------------------------

// Tokens that have states: an end token is not evaluated.
static int32_t
n_stated(const deal_hypothesis *hypothesis)
{
    return hypothesis->n_token - (hypothesis->finish == DEAL_FINISH_END);
}

bool
deal_observe_lacks(const deal_search *search, const deal_hypothesis *hypothesis)
{
    return search->observer.is_on && hypothesis->states.n_told <= n_stated(hypothesis);
}

deal_status
deal_observe_add(deal_search *search, deal_hypothesis *hypothesis, deal_node from,
                 int32_t n_from, deal_error *err)
{
    deal_observer *observer = &search->observer;
    if (!deal_observe_lacks(search, hypothesis))
        return DEAL_OK;
    size_t n = observer->n_queue;
    if (!deal_reserve(&observer->queue, &observer->queue_cap, n, n + 1,
                      sizeof *observer->queue))
        return deal_fail_memory(err, "hidden states");
    bool is_below = hypothesis->states.n_told > n_from; // all up to there are known
    observer->queue[observer->n_queue++] = (deal_observed){
        hypothesis, is_below ? from : observer->prompt, is_below ? n_from : 0};
    return DEAL_OK;
}

// Items of an entry of the queue, and how many of them the rewards lack.
static int32_t
n_item_of(const deal_observed *observed)
{
    return n_stated(observed->hypothesis) - observed->n_from;
}

static int32_t
n_row_of(const deal_observed *observed)
{
    int32_t n_told = observed->hypothesis->states.n_told;
    return n_stated(observed->hypothesis) - (n_told > 0 ? n_told - 1 : 0);
}

// A chain of items for each of the queue's first `n`.
static deal_status
make_items(deal_search *search, size_t n, int32_t *n_items, deal_error *err)
{
    deal_observer *observer = &search->observer;
    size_t n_item = 0, n_row = 0;
    size_t row =
        (size_t)search->rewards.hidden.n_layer * (size_t)search->rewards.hidden.n_embd;
    for (size_t q = 0; q < n; q++) {
        n_item += (size_t)n_item_of(&observer->queue[q]);
        n_row += (size_t)n_row_of(&observer->queue[q]);
    }
    DEAL_TRY(deal_search_reserve_items(search, n_item, err));
    DEAL_TRY(reserve(search, n_row, err));
    deal_lm_item *item = search->item;
    float *hidden = observer->hidden;
    for (size_t q = 0; q < n; q++) {
        const deal_observed *observed = &observer->queue[q];
        int32_t n_each = n_item_of(observed), n_known = n_each - n_row_of(observed);
        for (int32_t j = 0; j < n_each; j++, item++) {
            int32_t i_above = (int32_t)(item - search->item) - 1;
            *item = (deal_lm_item){
                .parent = observed->from,
                .i_parent = j == 0 ? -1 : i_above,
                .token = observed->hypothesis->token[observed->n_from + j]};
            if (j < n_known)
                continue;
            item->want = DEAL_WANT_HIDDEN;
            item->hidden = hidden;
            hidden += row;
        }
    }
    *n_items = (int32_t)n_item;
    return DEAL_OK;
}

// Leaves each hypothesis its last node as the tip and gives the others back.
static void
take_nodes(deal_search *search, size_t n)
{
    deal_lm *lm = search->request.lm;
    const deal_lm_item *item = search->item;
    for (size_t q = 0; q < n; q++) {
        deal_hypothesis *hypothesis = search->observer.queue[q].hypothesis;
        int32_t n_each = n_item_of(&search->observer.queue[q]);
        for (int32_t j = 0; j + 1 < n_each; j++)
            lm->ops->release(lm, item[j].node);
        if (n_each > 0) {
            lm->ops->release(lm, hypothesis->tip);
            hypothesis->tip = item[n_each - 1].node;
        }
        item += n_each;
    }
}

deal_status
deal_observe_run(deal_search *search, deal_error *err)
{
    deal_observer *observer = &search->observer;
    size_t n = observer->n_queue;
    observer->n_queue = 0; // also after a failure
    if (n == 0)
        return DEAL_OK;
    int32_t n_items;
    DEAL_TRY(make_items(search, n, &n_items, err));
    if (n_items > 0)
        DEAL_TRY(deal_search_extend(search, n_items, err));
    take_nodes(search, n);
    size_t row =
        (size_t)search->rewards.hidden.n_layer * (size_t)search->rewards.hidden.n_embd;
    const float *hidden = observer->hidden;
    for (size_t q = 0; q < n; q++) {
        deal_reward_states *states = &observer->queue[q].hypothesis->states;
        int32_t n_row = n_row_of(&observer->queue[q]);
        if (states->n_told == 0)
            DEAL_TRY(deal_reward_states_observe(&search->rewards, states,
                                                observer->prompt_hidden, err));
        for (; n_row > 0; n_row--, hidden += row)
            DEAL_TRY(deal_reward_states_observe(&search->rewards, states, hidden, err));
    }
    return DEAL_OK;
}

deal_status
deal_observe_all(deal_search *search, deal_hypothesis *hypothesis, int32_t n,
                 deal_error *err)
{
    for (int32_t i = 0; i < n; i++)
        DEAL_TRY(
            deal_observe_add(search, &hypothesis[i], search->observer.prompt, 0, err));
    return deal_observe_run(search, err);
}
