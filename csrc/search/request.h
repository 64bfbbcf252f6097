/* Checks of a request, before anything is allocated for it. */
#ifndef DEAL_SEARCH_REQUEST_H
#define DEAL_SEARCH_REQUEST_H

#include "search/search.h"

// More hypotheses or streams than this are taken for a mistake.
#define DEAL_SEARCH_N_LIVE_MAX 4096

// Prompt, tokens and parameters of the mode; rewards and stop strings are checked where
// they are taken up. Names are those of the Python keywords. Fails with INVALID_ARG, or
// CONTEXT_FULL where the prompt leaves no room.
deal_status deal_search_request_check(const deal_search_request *request,
                                      deal_error *err);

#endif
