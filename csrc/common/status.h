/* Status codes and error messages of every fallible function.
 *
 * A fallible function returns a deal_status, passes results through out-parameters
 * (untouched on failure) and takes a `deal_error *err` last. The message is written
 * where the fault is found; callers only forward with DEAL_TRY. `err` may be NULL.
 */
#ifndef DEAL_COMMON_STATUS_H
#define DEAL_COMMON_STATUS_H

#include "common/compiler.h"

typedef enum deal_status {
    DEAL_OK = 0,
    DEAL_ERR_INVALID_ARG = 1,  // ValueError
    DEAL_ERR_NO_MEMORY = 2,    // MemoryError
    DEAL_ERR_IO = 3,           // OSError
    DEAL_ERR_FORMAT = 4,       // deal.ModelFormatError
    DEAL_ERR_UNSUPPORTED = 5,  // NotImplementedError
    DEAL_ERR_CONTEXT_FULL = 6, // deal.ContextLengthError
    DEAL_ERR_CALLBACK = 7,     // a Python exception is already set
    DEAL_ERR_INTERRUPTED = 8,  // a Python exception is already set
    DEAL_ERR_REWARD = 9,       // deal.RewardError: a reward broke its contract
    DEAL_ERR_CONTROL = 10,     // deal.ControlError: a control broke its contract
    DEAL_ERR_KV_BUDGET = 11,   // deal.KVBudgetError: no room for more KV cells
    DEAL_ERR_CONSTRAINT = 12,  // deal.ConstraintError: one broke its contract
} deal_status;

#define DEAL_ERROR_SIZE 512

typedef struct deal_error {
    deal_status code;
    char message[DEAL_ERROR_SIZE]; // UTF-8, zero-terminated, cut where too long
} deal_error;

// Writes `code` and the formatted message into `err` (may be NULL) and returns `code`.
deal_status deal_fail(deal_error *err, deal_status code, const char *format, ...)
    DEAL_PRINTF(3, 4);

// Fails with DEAL_ERR_NO_MEMORY, naming what could not be allocated.
deal_status deal_fail_memory(deal_error *err, const char *what);

// Returns from the calling function when `call` fails.
#define DEAL_TRY(call)                                                                 \
    do {                                                                               \
        deal_status deal_try_status_ = (call);                                         \
        if (deal_try_status_ != DEAL_OK)                                               \
            return deal_try_status_;                                                   \
    } while (0)

// Jumps to `label` when `call` fails, leaving its status in the variable `status`.
#define DEAL_TRY_GOTO(call, label)                                                     \
    do {                                                                               \
        status = (call);                                                               \
        if (status != DEAL_OK)                                                         \
            goto label;                                                                \
    } while (0)

#endif
