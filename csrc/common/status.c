#include "common/status.h"

#include <stdarg.h>
#include <stdio.h>

deal_status
deal_fail(deal_error *err, deal_status code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

deal_status
deal_fail_memory(deal_error *err, const char *what)
{
    return deal_fail(err, DEAL_ERR_NO_MEMORY, "out of memory: %s", what);
}
