/* A read-only memory-mapped file, or memory of another owner in its place. */
#ifndef DEAL_MODEL_MAPPED_FILE_H
#define DEAL_MODEL_MAPPED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

typedef struct deal_mapped_file {
    const uint8_t *data; // (size,)
    size_t size;
    bool is_borrowed; // another owner's: it is never dropped or unmapped here
} deal_mapped_file;

// Fails with IO naming the path and the system's reason; an empty file with FORMAT.
deal_status deal_mapped_file_open(const char *path, deal_mapped_file *file,
                                  deal_error *err);
// Lets the system drop the pages that lie within data (size,), bytes of the file; they
// are read again where they are needed. Does nothing where `data` is no part of it
// or the memory is borrowed.
void deal_mapped_file_forget(const deal_mapped_file *file, const void *data,
                             size_t size);
void deal_mapped_file_close(deal_mapped_file *file); // a zeroed file is a no-op

#endif
