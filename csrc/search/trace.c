#include "search/trace.h"

#include <string.h>

#include "common/alloc.h"

static deal_status
reserve_rows(deal_trace_log *log, size_t n_row, size_t n_reward, deal_error *err)
{
    if (n_row <= log->row_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(log->row_cap, n_row);
    deal_trace_row *row = deal_realloc(log->row, log->n_row, cap, sizeof *row);
    if (!row)
        return deal_fail_memory(err, "trace");
    log->row = row;
    double *reward =
        deal_realloc(log->reward, log->n_row, cap, n_reward * sizeof *reward);
    if (!reward)
        return deal_fail_memory(err, "trace");
    log->reward = reward;
    log->row_cap = cap;
    return DEAL_OK;
}

static deal_status
reserve_rollout(deal_trace_log *log, size_t n_rollout, deal_error *err)
{
    if (!deal_reserve(&log->rollout, &log->rollout_cap, log->n_rollout, n_rollout,
                      sizeof *log->rollout))
        return deal_fail_memory(err, "trace");
    return DEAL_OK;
}

deal_status
deal_trace_log_reserve(deal_trace_log *log, size_t n_row, int32_t n_reward,
                       size_t n_rollout, deal_error *err)
{
    DEAL_TRY(reserve_rows(log, n_row, (size_t)n_reward, err));
    return reserve_rollout(log, n_rollout, err);
}

deal_status
deal_trace_log_append(deal_trace_log *log, const deal_trace_row *row,
                      const double *reward, int32_t n_reward, const int32_t *rollout,
                      deal_error *err)
{
    size_t n = (size_t)row->n_rollout;
    DEAL_TRY(
        deal_trace_log_reserve(log, log->n_row + 1, n_reward, log->n_rollout + n, err));
    if (n_reward > 0)
        memcpy(log->reward + log->n_row * (size_t)n_reward, reward,
               (size_t)n_reward * sizeof *reward);
    if (n > 0)
        memcpy(log->rollout + log->n_rollout, rollout, n * sizeof *rollout);
    log->row[log->n_row] = *row;
    log->row[log->n_row++].i_rollout = log->n_rollout;
    log->n_rollout += n;
    return DEAL_OK;
}

void
deal_trace_log_free(deal_trace_log *log)
{
    deal_free(log->row);
    deal_free(log->reward);
    deal_free(log->rollout);
    *log = (deal_trace_log){0};
}
