#include "common/reward_check.h"

#include <stdbool.h>

static deal_status
check_version(const deal_reward *r, deal_error *err)
{
    const char *hint = "rebuild the scorer with the headers in deal.get_include()";
    if (r->abi_version != DEAL_REWARD_ABI)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward: abi_version: expected %u, got %u; %s",
                         DEAL_REWARD_ABI, (unsigned)r->abi_version, hint);
    if (r->struct_size != sizeof *r)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward: struct_size: expected %zu, got %u; %s", sizeof *r,
                         (unsigned)r->struct_size, hint);
    return DEAL_OK;
}

static deal_status
check_form(const deal_reward *r, deal_error *err)
{
    bool has_all = r->init && r->advance && r->score;
    bool has_any = r->init || r->advance || r->score || r->fork || r->drop || r->bounds;
    if (r->score_texts ? has_any : !has_all)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\": expected init, advance and score, or "
                         "score_texts alone",
                         r->name);
    if (r->bounds_texts && !r->score_texts)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\": bounds_texts: expected NULL without "
                         "score_texts",
                         r->name);
    if (r->is_text_alone && !r->score_texts)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\": is_text_alone: expected 0 without "
                         "score_texts, got %d",
                         r->name, (int)r->is_text_alone);
    return DEAL_OK;
}

static deal_status
check_hidden(const deal_reward *r, deal_error *err)
{
    if (r->n_hidden_layers == 0 && !r->observe)
        return DEAL_OK;
    if (r->n_hidden_layers > 0 && r->hidden_layers && r->n_embd > 0 && r->observe &&
        !r->score_texts)
        return DEAL_OK;
    return deal_fail(err, DEAL_ERR_INVALID_ARG,
                     "reward \"%s\": hidden states: expected n_hidden_layers and "
                     "n_embd of at least 1, hidden_layers, and observe beside advance, "
                     "or none of these",
                     r->name);
}

deal_status
deal_reward_check(const deal_reward *r, deal_error *err)
{
    DEAL_TRY(check_version(r, err));
    if (!r->name)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward: name: expected a name, got NULL");
    if (!(r->low <= r->high)) // also where one of them is NaN
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "reward \"%s\": expected low <= high, got %g and %g", r->name,
                         r->low, r->high);
    DEAL_TRY(check_form(r, err));
    return check_hidden(r, err);
}
