#define _DEFAULT_SOURCE // madvise

#include "model/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

deal_status
deal_mapped_file_open(const char *path, deal_mapped_file *file, deal_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return deal_fail(err, DEAL_ERR_IO, "%s: %s", path, strerror(errno));
    struct stat facts;
    deal_status status = DEAL_OK;
    if (fstat(fd, &facts) != 0)
        status = deal_fail(err, DEAL_ERR_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(facts.st_mode))
        status = deal_fail(err, DEAL_ERR_IO, "%s: not a regular file", path);
    else if (facts.st_size == 0)
        status = deal_fail(err, DEAL_ERR_FORMAT, "%s: the file is empty", path);
    if (status == DEAL_OK) {
        size_t size = (size_t)facts.st_size;
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = deal_fail(err, DEAL_ERR_IO, "%s: %s", path, strerror(errno));
        else
            *file = (deal_mapped_file){.data = data, .size = size};
    }
    close(fd);
    return status;
}

void
deal_mapped_file_forget(const deal_mapped_file *file, const void *data, size_t size)
{
    uintptr_t first = (uintptr_t)file->data, at = (uintptr_t)data;
    if (!file->data || file->is_borrowed || at < first || at - first > file->size ||
        size > file->size - (at - first))
        return;
    uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (at + page_size - 1) / page_size * page_size;
    uintptr_t end = (at + size) / page_size * page_size;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void
deal_mapped_file_close(deal_mapped_file *file)
{
    if (file->data && !file->is_borrowed)
        munmap((void *)(uintptr_t)file->data, file->size);
    *file = (deal_mapped_file){0};
}
