/* The record of every candidate of every decision. */
#ifndef DEAL_SEARCH_TRACE_H
#define DEAL_SEARCH_TRACE_H

#include "search/search.h"

// Zero-initialise; free with deal_trace_log_free().
typedef struct deal_trace_log {
    deal_trace_row *row; // (n_row,)
    double *reward;      // (n_row, n_reward)
    int32_t *rollout;    // (n_rollout,)
    size_t n_row, row_cap, n_rollout, rollout_cap;
} deal_trace_log;

// Makes room, so that appending up to there allocates nothing.
deal_status deal_trace_log_reserve(deal_trace_log *log, size_t n_row, int32_t n_reward,
                                   size_t n_rollout, deal_error *err);

// Appends `row`, whose n_rollout tokens are `rollout`; sets its i_rollout.
deal_status deal_trace_log_append(deal_trace_log *log, const deal_trace_row *row,
                                  const double *reward, int32_t n_reward,
                                  const int32_t *rollout, deal_error *err);
void deal_trace_log_free(deal_trace_log *log);

#endif
