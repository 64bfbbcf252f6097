/* Segment search: propose continuations, keep those that the rewards like best.
 *
 * A decision is a round. Every unfinished hypothesis proposes n_proposal continuations
 * of lookahead_len tokens, fewer where they end; the beam_size best of all go on, by
 * reward alone. A finished hypothesis stands for its place again, as it is. The search
 * is over when all that are kept are finished.
 *
 * Proposals are drawn, or with temperature 0 they are the result of a beam search
 * within the segment, n_proposal wide, one for each hypothesis; there ended ones keep
 * their places by their log-prob. All proposals of all hypotheses grow in lockstep, one
 * batch for each position. A segment as long as the completion makes one round of it:
 * best of n (sampled, or beam search reranked).
 *
 * This is the search that IBM's AISteer360 ships under the name of DeAL (beams
 * within the segment). It has no log-prob in its score and is not the paper's.
 *
 * Hypothesis g proposes in slots [g * n_proposal, ...), n_member[g] of them. The draw
 * at position j of slot i is number (seed, i, j), so that best of n chooses among what
 * sampling returns with n streams.
 */
#include <math.h>

#include "common/alloc.h"
#include "search/search_internal.h"

deal_status
deal_segment_init(deal_search *search, deal_error *err)
{
    size_t n_expand = (size_t)search->n_expand;
    search->spare = deal_alloc_zero(n_expand, sizeof *search->spare);
    for (size_t m = 0; search->spare && m < n_expand; m++)
        search->spare[m].node = search->spare[m].tip = search->spare[m].roll =
            DEAL_NODE_NONE;
    search->n_member = deal_alloc((size_t)search->n_live_max, sizeof *search->n_member);
    search->slot_row = deal_alloc(search->n_slot, sizeof *search->slot_row);
    search->option = deal_alloc(n_expand, sizeof *search->option);
    bool has_all =
        search->spare && search->n_member && search->slot_row && search->option;
    return has_all ? DEAL_OK : deal_fail_memory(err, "segments");
}

static int32_t
group_of(const deal_search *search, int32_t i_slot)
{
    return i_slot / search->n_expand;
}

static bool
is_beams(const deal_search *search)
{
    return search->request.params.temperature == 0.0;
}

// Tokens that the hypothesis had before the round; of a finished one all but the last.
static int32_t
n_base(const deal_search *search, int32_t i_slot)
{
    const deal_hypothesis *live = &search->live[group_of(search, i_slot)];
    return live->n_token - (live->finish != DEAL_FINISH_NONE);
}

// --- proposals -----------------------------------------------------------------------

// A copy of every live hypothesis, or as many as will be drawn from it.
static deal_status
begin(deal_search *search, deal_error *err)
{
    deal_lm *lm = search->request.lm;
    for (int32_t g = 0; g < search->n_live; g++) {
        const deal_hypothesis *live = &search->live[g];
        bool is_single = live->finish != DEAL_FINISH_NONE || is_beams(search);
        search->n_member[g] = is_single ? 1 : search->n_expand;
        if (live->finish == DEAL_FINISH_NONE)
            search->stats.n_rollouts += search->n_expand;
        for (int32_t m = 0; m < search->n_member[g]; m++) {
            int32_t i = g * search->n_expand + m;
            deal_hypothesis *slot = &search->slot[i];
            DEAL_TRY(deal_hypothesis_copy(slot, live, &search->rewards, err));
            if (live->finish != DEAL_FINISH_NONE)
                continue;
            slot->node = live->node;
            lm->ops->retain(lm, slot->node);
            search->slot_row[i] = search->i_row[g];
        }
    }
    return DEAL_OK;
}

// Evaluates the last token of every slot that goes on; the number of them.
static deal_status
evaluate(deal_search *search, uint32_t want, int32_t *n_items, deal_error *err)
{
    int32_t n = 0;
    DEAL_TRY(deal_search_reserve_items(search, search->n_slot, err));
    for (int32_t g = 0; g < search->n_live; g++)
        for (int32_t m = 0; m < search->n_member[g]; m++) {
            int32_t i = g * search->n_expand + m;
            const deal_hypothesis *slot = &search->slot[i];
            if (slot->finish != DEAL_FINISH_NONE)
                continue;
            search->item[n] = (deal_lm_item){.parent = slot->node,
                                             .i_parent = -1,
                                             .token = slot->token[slot->n_token - 1]};
            deal_search_fill_want(search, &search->item[n], n, want, search->n_expand);
            search->slot_row[i] = n++;
        }
    *n_items = n;
    if (n == 0)
        return DEAL_OK;
    DEAL_TRY(deal_search_extend(search, n, err));
    for (int32_t g = 0; g < search->n_live; g++)
        for (int32_t m = 0; m < search->n_member[g]; m++) {
            int32_t i = g * search->n_expand + m;
            deal_hypothesis *slot = &search->slot[i];
            if (slot->finish != DEAL_FINISH_NONE)
                continue;
            deal_search_release(search, slot);
            slot->node = search->item[search->slot_row[i]].node;
        }
    for (int32_t i = 0; i < n; i++)
        search->log_z[i] = search->item[i].log_z;
    return DEAL_OK;
}

static deal_status
push(deal_search *search, deal_hypothesis *slot, int32_t token, double logprob,
     deal_error *err)
{
    DEAL_TRY(deal_hypothesis_push(slot, token, &search->ending, &search->rewards, err));
    slot->logprob += logprob;
    search->stats.n_rollout_tokens++;
    if (slot->finish != DEAL_FINISH_NONE && !search->observer.is_on)
        deal_search_release(search, slot);
    return DEAL_OK;
}

static deal_status
draw_group(deal_search *search, int32_t g, deal_error *err)
{
    for (int32_t m = 0; m < search->n_member[g]; m++) {
        int32_t i = g * search->n_expand + m, token;
        deal_hypothesis *slot = &search->slot[i];
        double logprob;
        if (slot->finish != DEAL_FINISH_NONE)
            continue;
        DEAL_TRY(deal_sample_choose(search, slot, (uint64_t)i, search->slot_row[i],
                                    &token, &logprob, err));
        DEAL_TRY(push(search, slot, token, logprob, err));
    }
    return DEAL_OK;
}

// --- beams within the segment --------------------------------------------------------

// An ended member stays before others of its log-prob, having no token to compare.
static bool
is_likelier(const deal_segment_option *a, const deal_segment_option *b)
{
    if (a->total != b->total)
        return a->total > b->total;
    return a->token != b->token ? a->token < b->token : a->i_slot < b->i_slot;
}

// Keeps the n_expand likeliest, by rank.
static void
offer(deal_search *search, int32_t *n, deal_segment_option offered)
{
    deal_segment_option *option = search->option;
    int32_t i = *n;
    if (i == search->n_expand && !is_likelier(&offered, &option[i - 1]))
        return;
    if (i == search->n_expand)
        i--;
    else
        (*n)++;
    for (; i > 0 && is_likelier(&offered, &option[i - 1]); i--)
        option[i] = option[i - 1];
    option[i] = offered;
}

static int32_t
rank_options(deal_search *search, int32_t g)
{
    int32_t k = search->n_expand, n = 0;
    for (int32_t i = g * k; i < g * k + search->n_member[g]; i++) {
        const deal_hypothesis *slot = &search->slot[i];
        if (slot->finish != DEAL_FINISH_NONE) {
            offer(search, &n, (deal_segment_option){i, -1, 0.0, slot->logprob});
            continue;
        }
        size_t i_row = (size_t)search->slot_row[i];
        for (int32_t j = 0; j < k; j++) {
            size_t i_top = i_row * (size_t)k + (size_t)j;
            if (search->masks && search->top_logit[i_top] == -INFINITY)
                break; // so are all that follow: forbidden
            double logprob =
                (double)search->top_logit[i_top] - (double)search->log_z[i_row];
            offer(search, &n,
                  (deal_segment_option){i, search->top_token[i_top], logprob,
                                        slot->logprob + logprob});
        }
    }
    return n;
}

// The members become the likeliest of their continuations.
static deal_status
beam_group(deal_search *search, int32_t g, deal_error *err)
{
    deal_lm *lm = search->request.lm;
    int32_t n = rank_options(search, g);
    deal_hypothesis *slot = &search->slot[g * search->n_expand];
    for (int32_t m = 0; m < n; m++) {
        const deal_segment_option *option = &search->option[m];
        const deal_hypothesis *from = &search->slot[option->i_slot];
        deal_hypothesis *to = &search->spare[m];
        DEAL_TRY(deal_hypothesis_copy(to, from, &search->rewards, err));
        if (from->node != DEAL_NODE_NONE) {
            to->node = from->node;
            lm->ops->retain(lm, to->node);
        }
        if (option->token >= 0)
            DEAL_TRY(push(search, to, option->token, option->logprob, err));
    }
    for (int32_t m = 0; m < search->n_expand; m++) {
        deal_hypothesis old = slot[m];
        slot[m] = search->spare[m];
        search->spare[m] = old;
        deal_search_release(search, &search->spare[m]);
    }
    search->n_member[g] = n;
    return DEAL_OK;
}

static deal_status
propose(deal_search *search, uint32_t want, deal_error *err)
{
    DEAL_TRY(begin(search, err));
    for (int32_t j = 0; j < search->request.params.lookahead_len; j++) {
        int32_t n_items = 1;
        if (j > 0)
            DEAL_TRY(evaluate(search, want, &n_items, err));
        if (n_items == 0)
            break;
        for (int32_t g = 0; g < search->n_live; g++) {
            if (search->live[g].finish != DEAL_FINISH_NONE)
                continue;
            if (is_beams(search))
                DEAL_TRY(beam_group(search, g, err));
            else
                DEAL_TRY(draw_group(search, g, err));
        }
    }
    return DEAL_OK;
}

// --- what is kept --------------------------------------------------------------------

static deal_status
score(deal_search *search, deal_error *err)
{
    size_t n = 0;
    DEAL_TRY(deal_search_reserve_cases(search, search->n_slot, err));
    for (int32_t g = 0; g < search->n_live; g++)
        for (int32_t m = 0; m < search->n_member[g]; m++) {
            int32_t i = g * search->n_expand + m;
            search->rank[n] = i;
            DEAL_TRY(deal_observe_add(search, &search->slot[i], search->live[g].node,
                                      search->live[g].n_token, err));
            DEAL_TRY(deal_hypothesis_case(&search->slot[i], &search->rewards,
                                          &search->cases[n++], err));
        }
    search->n_candidate = (int32_t)n;
    DEAL_TRY(deal_observe_run(search, err));
    DEAL_TRY(deal_reward_set_score(&search->rewards, search->cases, n, err));
    for (size_t r = 0; r < n; r++) {
        deal_hypothesis *slot = &search->slot[search->rank[r]];
        slot->score = slot->h;
    }
    return DEAL_OK;
}

static bool
is_better(const deal_search *search, int32_t i, int32_t j)
{
    const deal_hypothesis *a = &search->slot[i], *b = &search->slot[j];
    if (a->score != b->score)
        return a->score > b->score;
    if (a->logprob != b->logprob)
        return a->logprob > b->logprob;
    for (int32_t t = 0; t < a->n_token && t < b->n_token; t++)
        if (a->token[t] != b->token[t])
            return a->token[t] < b->token[t];
    return a->n_token != b->n_token ? a->n_token < b->n_token : i < j;
}

static void
rank_slots(deal_search *search)
{
    for (int32_t r = 1; r < search->n_candidate; r++) {
        int32_t i = search->rank[r], place = r;
        for (; place > 0 && is_better(search, i, search->rank[place - 1]); place--)
            search->rank[place] = search->rank[place - 1];
        search->rank[place] = i;
    }
}

// `live` is still that before the round.
static deal_status
record(deal_search *search, int32_t n_next, bool is_last, deal_error *err)
{
    for (int32_t r = 0; r < search->n_candidate; r++) {
        int32_t i = search->rank[r], first = n_base(search, i);
        const deal_hypothesis *slot = &search->slot[i];
        deal_trace_row row = {
            .i_step = (int32_t)search->stats.n_steps,
            .i_beam = group_of(search, i),
            .n_committed = first,
            .token = slot->token[first],
            .logprob = slot->logprob,
            .h = slot->h,
            .score = slot->score,
            .is_finished =
                slot->finish == DEAL_FINISH_END || slot->finish == DEAL_FINISH_STOP,
            .is_chosen = r < n_next,
            .i_next = r < n_next && !is_last ? r : -1,
            .n_rollout = slot->n_token - first - 1,
        };
        DEAL_TRY(deal_trace_log_append(&search->trace, &row, slot->reward,
                                       search->rewards.n_reward,
                                       slot->token + first + 1, err));
    }
    return DEAL_OK;
}

deal_status
deal_segment_step(deal_search *search, bool *is_done, deal_error *err)
{
    uint32_t want = search->logits ? DEAL_WANT_LOGITS : DEAL_WANT_TOP_K;
    want |= DEAL_WANT_LOG_Z;
    DEAL_TRY(deal_search_evaluate(search, want, search->n_expand, err));
    DEAL_TRY(deal_observe_all(search, search->live, search->n_live, err));
    DEAL_TRY(propose(search, want, err));
    DEAL_TRY(score(search, err));
    rank_slots(search);
    int32_t n_next = search->n_candidate;
    if (n_next > search->n_live_max)
        n_next = search->n_live_max;
    bool is_last = true;
    for (int32_t r = 0; r < n_next; r++)
        is_last = is_last && search->slot[search->rank[r]].finish != DEAL_FINISH_NONE;
    DEAL_TRY(record(search, n_next, is_last, err));
    for (int32_t r = 0; r < n_next; r++) {
        deal_hypothesis *slot = &search->slot[search->rank[r]];
        deal_hypothesis kept = *slot;
        *slot = search->next[r]; // its buffers serve again
        search->next[r] = kept;
    }
    for (int32_t r = 0; r < search->n_candidate; r++)
        deal_search_release(search, &search->slot[search->rank[r]]);
    deal_search_swap(search, n_next);
    *is_done = is_last;
    return DEAL_OK;
}
