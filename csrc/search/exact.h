/* Mode exact: the decisions of mode naive, without most of its work. */
#ifndef DEAL_SEARCH_EXACT_H
#define DEAL_SEARCH_EXACT_H

#include "search/search_internal.h"

// Makes search->exact; also where it fails, deal_exact_free() frees it.
deal_status deal_exact_new(deal_search *search, deal_error *err);
void deal_exact_free(deal_exact *exact);

// One decision; `is_done` where it was the last.
deal_status deal_exact_step(deal_search *search, bool *is_done, deal_error *err);

#endif
