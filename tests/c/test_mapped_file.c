/* Files that are mapped, and what loading drops of them. */
#define _DEFAULT_SOURCE // mkstemp, MAP_ANONYMOUS

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "model/mapped_file.h"
#include "tiny_weights.h"

// Memory of our own stands in for the file, as it reads as zeros once it is dropped.
static void
test_forget(void)
{
    enum { N_PAGE = 5 };
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = N_PAGE * page;
    unsigned char *data =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!CHECK(data != MAP_FAILED))
        return;
    deal_mapped_file file = {.data = data, .size = size - page}; // the last page is somebody else's
    memset(data, 7, size);
    deal_mapped_file_forget(&file, data + 3 * page, 2 * page); // reaches past the end
    deal_mapped_file_forget(&file, data + 4 * page, page);     // lies past the end
    deal_mapped_file_forget(&file, data + 10, page - 10);      // whole pages only
    deal_mapped_file_forget(&(deal_mapped_file){0}, data, size);
    for (size_t i = 0; i < size; i += page)
        CHECK_EQ_INT(data[i], 7);
    deal_mapped_file_forget(&file, data + page / 2, 3 * page); // pages 1 and 2
    const int expected[N_PAGE] = {7, 0, 0, 7, 7};
    for (size_t i = 0; i < N_PAGE; i++) {
        CHECK_EQ_INT(data[i * page], expected[i]);
        CHECK_EQ_INT(data[i * page + page - 1], expected[i]);
    }
    munmap(data, size);
}

static bool
write_file(char *path, const void *data, size_t size)
{
    int fd = mkstemp(path);
    bool is_written = fd >= 0 && write(fd, data, size) == (ssize_t)size;
    if (fd >= 0)
        close(fd);
    return CHECK(is_written);
}

static void
check_matrix(const deal_matrix *a, const deal_matrix *b)
{
    CHECK(a->panels.data && b->panels.data);
    CHECK(memcmp(a->panels.data, b->panels.data,
                 (size_t)a->panels.n_panel * a->panels.panel_size) == 0);
}

// Weights that are dropped while they are packed are those of memory that is kept.
static void
test_load(void)
{
    tiny_weights tiny;
    tiny_weights_make(&tiny, 0);
    size_t size = tiny.n_used * sizeof *tiny.data;
    char path[] = "/tmp/deal-test-XXXXXX";
    deal_error err;
    deal_weights kept, dropped;
    deal_mapped_file file;
    CHECK(deal_weights_load(&tiny.hparams, &tiny.table, NULL, 0, DEAL_COMPUTE_INT8,
                            &kept, &err) == DEAL_OK);
    if (!write_file(path, tiny.data, size) ||
        !CHECK(deal_mapped_file_open(path, &file, &err) == DEAL_OK))
        return;
    for (int32_t i = 0; i < tiny.table.n_tensor; i++) {
        size_t at = (size_t)((const float *)tiny.tensor[i].data - tiny.data);
        tiny.tensor[i].data = (const float *)(const void *)file.data + at;
    }
    CHECK(deal_weights_load(&tiny.hparams, &tiny.table, &file, 1, DEAL_COMPUTE_INT8,
                            &dropped, &err) == DEAL_OK);
    check_matrix(&kept.head, &dropped.head);
    for (int32_t i = 0; i < TINY_N_LAYER; i++) {
        const deal_layer_weights *a = &kept.layer[i], *b = &dropped.layer[i];
        check_matrix(&a->q, &b->q);
        check_matrix(&a->k, &b->k);
        check_matrix(&a->v, &b->v);
        check_matrix(&a->o, &b->o);
        check_matrix(&a->gate, &b->gate);
        check_matrix(&a->up, &b->up);
        check_matrix(&a->down, &b->down);
        CHECK(memcmp(a->ffn_norm, b->ffn_norm,
                     (size_t)tiny.hparams.n_embd * sizeof(float)) == 0);
    }
    CHECK(memcmp(kept.embedding.data, dropped.embedding.data, kept.embedding.size) ==
          0);
    deal_weights_free(&kept, TINY_N_LAYER);
    deal_weights_free(&dropped, TINY_N_LAYER);
    deal_mapped_file_close(&file);
    unlink(path);
    free(tiny.data);
}

int
main(void)
{
    test_forget();
    test_load();
    return check_report("test_mapped_file");
}
