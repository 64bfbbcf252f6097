#include "search/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/alloc.h"
#include "search/hypothesis.h"

#define N_HORIZON ((size_t)2) // the rollouts, the request
#define N_QUOTED ((size_t)32) // bytes of a text's end that a message shows

void
deal_check_free(deal_check *check)
{
    deal_free(check->range);
    *check = (deal_check){0};
}

static deal_status
reserve(deal_check *check, const deal_reward_set *set, deal_error *err)
{
    size_t n_reward = (size_t)set->n_reward;
    if (!check->range)
        check->range = deal_alloc(n_reward, N_HORIZON * sizeof *check->range);
    return check->range ? DEAL_OK : deal_fail_memory(err, "bounds to check");
}

deal_status
deal_check_copy(deal_check *to, const deal_check *from, const deal_reward_set *set,
                deal_error *err)
{
    if (!set->is_checked || !from->range)
        return DEAL_OK;
    DEAL_TRY(reserve(to, set, err));
    memcpy(to->range, from->range,
           N_HORIZON * (size_t)set->n_reward * sizeof *to->range);
    to->n_rolled_max = from->n_rolled_max;
    return DEAL_OK;
}

// The declared ranges of all rewards.
static void
put_declared(deal_check_range *range, const deal_reward_set *set)
{
    for (int32_t i = 0; i < set->n_reward; i++) {
        range[i].low = (deal_check_end){set->reward[i]->low, 0, -1};
        range[i].high = (deal_check_end){set->reward[i]->high, 0, -1};
    }
}

// The end of the first `size` bytes of a text, on one line.
typedef struct quoted {
    char text[N_QUOTED + 4];
} quoted;

static quoted
quote(const deal_reward_text *of, size_t size)
{
    quoted q = {""};
    const char *text = of->text;
    size = size < of->size ? size : of->size;
    size_t from = size > N_QUOTED ? size - N_QUOTED : 0, n = 0;
    while (from > 0 && from < size && ((unsigned char)text[from] & 0xC0) == 0x80)
        from++; // into a character
    if (from > 0)
        for (; n < 3; n++)
            q.text[n] = '.';
    for (; from < size; from++)
        q.text[n++] = (unsigned char)text[from] < ' ' ? ' ' : text[from];
    return q;
}

// A number in the fewest digits that tell it from all others.
typedef struct number {
    char text[32];
} number;

static number
show(double value)
{
    number shown;
    for (int n_digit = 15; n_digit <= 17; n_digit++) {
        snprintf(shown.text, sizeof shown.text, "%.*g", n_digit, value);
        if (strtod(shown.text, NULL) == value)
            break;
    }
    return shown;
}

// --- bounds --------------------------------------------------------------------------

static deal_status
narrow(const deal_reward_set *set, int32_t i, deal_check_range *range,
       const deal_check_range *stated, const deal_reward_text *text, deal_error *err)
{
    bool is_above = stated->low.value > range->high.value;
    if (is_above || stated->high.value < range->low.value) {
        const deal_check_end *old = is_above ? &range->high : &range->low;
        return deal_fail(err, DEAL_ERR_REWARD,
                         "reward \"%.40s\" (%d): bounds [%s, %s] after \"%s\" "
                         "are %s %s, stated after \"%s\"",
                         set->reward[i]->name, (int)i, show(stated->low.value).text,
                         show(stated->high.value).text,
                         quote(text, stated->low.text_size).text,
                         is_above ? "above" : "below", show(old->value).text,
                         quote(text, old->text_size).text);
    }
    if (stated->low.value > range->low.value)
        range->low = stated->low;
    if (stated->high.value < range->high.value)
        range->high = stated->high;
    return DEAL_OK;
}

// Asks all rewards for what at most `n_left` tokens can do.
static deal_status
ask(deal_hypothesis *hypothesis, deal_reward_set *set, int32_t n_left,
    deal_check_range *range, deal_error *err)
{
    double *low = set->ends, *high = set->ends + set->n_reward;
    deal_reward_set_range(set, low, high);
    DEAL_TRY(deal_hypothesis_bound_states(hypothesis, set, n_left, low, high, err));
    deal_reward_beginning beginning =
        deal_hypothesis_beginning(hypothesis, n_left, low, high);
    for (int32_t i = 0; i < set->n_reward; i++)
        if (deal_reward_set_bounds_texts(set, i))
            DEAL_TRY(deal_reward_set_bound_texts(set, i, &beginning, 1, err));
    for (int32_t i = 0; i < set->n_reward; i++) {
        const deal_check_range stated = {
            {low[i], hypothesis->final_size, n_left},
            {high[i], hypothesis->final_size, n_left},
        };
        DEAL_TRY(narrow(set, i, &range[i], &stated, &beginning.text, err));
    }
    return DEAL_OK;
}

deal_status
deal_check_bounds(deal_hypothesis *hypothesis, const deal_ending *ending,
                  deal_reward_set *set, deal_error *err)
{
    deal_check *check = &hypothesis->check;
    if (!set->is_checked || hypothesis->finish != DEAL_FINISH_NONE)
        return DEAL_OK;
    bool is_first = !check->range;
    DEAL_TRY(reserve(check, set, err));
    if (!set->ends)
        set->ends = deal_alloc((size_t)set->n_reward, 2 * sizeof *set->ends);
    if (!set->ends)
        return deal_fail_memory(err, "bounds to check");
    deal_check_range *rollouts = check->range, *request = rollouts + set->n_reward;
    if (is_first || hypothesis->n_token == 0)
        put_declared(request, set);
    if (is_first || hypothesis->n_token == 0 ||
        check->n_rolled_max != set->n_rolled_max)
        put_declared(rollouts, set); // a new decision looks further
    check->n_rolled_max = set->n_rolled_max;
    if (deal_hypothesis_is_held(hypothesis, ending))
        return DEAL_OK;
    int32_t n_left = set->n_rolled_max - hypothesis->n_token;
    if (n_left >= 0)
        DEAL_TRY(ask(hypothesis, set, n_left, rollouts, err));
    n_left = ending->n_new_max - hypothesis->n_token;
    return ask(hypothesis, set, n_left, request, err);
}

// --- scores --------------------------------------------------------------------------

deal_status
deal_check_scores(const deal_reward_set *set, const deal_reward_case *one,
                  deal_error *err)
{
    const deal_reward_text *text = &one->text;
    size_t n_reward = (size_t)set->n_reward, n_range = N_HORIZON * n_reward;
    if (!one->check)
        return DEAL_OK;
    // A candidate that ends at once may hold what was stated for shorter texts.
    bool has_rollouts = text->n_tokens <= one->check->n_rolled_max;
    for (size_t r = has_rollouts ? 0 : n_reward; r < n_range; r++) {
        int32_t i = (int32_t)(r % n_reward);
        const deal_check_range *range = &one->check->range[r];
        double score = one->reward[i];
        bool is_above = score > range->high.value;
        if (!is_above && score >= range->low.value)
            continue;
        const deal_check_end *end = is_above ? &range->high : &range->low;
        return deal_fail(err, DEAL_ERR_REWARD,
                         "reward \"%.40s\" (%d): score %s of \"%s\" is %s its bound "
                         "%s, stated after \"%s\" for %d tokens left",
                         set->reward[i]->name, (int)i, show(score).text,
                         quote(text, text->size).text, is_above ? "above" : "below",
                         show(end->value).text, quote(text, end->text_size).text,
                         (int)end->n_tokens_left);
    }
    return DEAL_OK;
}
