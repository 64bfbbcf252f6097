/* The thread pool: every item once, in every loop, at any thread count; fork. */
#define _POSIX_C_SOURCE 200809L

#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "common/alloc.h"
#include "common/parallel.h"

#define N_ITEM 1000

static atomic_int count[N_ITEM];
static atomic_int n_bad_thread;

static void
mark(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    if (i_thread < 0 || i_thread >= *(int32_t *)context)
        atomic_fetch_add(&n_bad_thread, 1);
    for (int32_t i = i_begin; i < i_end; i++)
        atomic_fetch_add(&count[i], 1);
}

static int
all_equal(int n, int expected)
{
    for (int i = 0; i < N_ITEM; i++)
        if (atomic_load(&count[i]) != (i < n ? expected : 0))
            return 0;
    return 1;
}

static void
test_loops(int32_t n_thread)
{
    deal_pool *pool;
    deal_error err;
    if (!CHECK(deal_pool_new(n_thread, &pool, &err) == DEAL_OK))
        return;
    CHECK_EQ_INT(deal_pool_n_thread(pool), n_thread);
    const int n_item[] = {0, 1, 2, 3, 7, 64, N_ITEM};
    for (int k = 0; k < 7; k++) {
        for (int i = 0; i < N_ITEM; i++)
            atomic_store(&count[i], 0);
        for (int i_loop = 0; i_loop < 300; i_loop++)
            deal_parallel_for(pool, n_item[k], i_loop % 4, mark, &n_thread);
        CHECK(all_equal(n_item[k], 300));
    }
    // After a pause the workers sleep and must wake again.
    struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    nanosleep(&pause, NULL);
    deal_parallel_for(pool, N_ITEM, 0, mark, &n_thread);
    CHECK(all_equal(N_ITEM, 301));
    CHECK_EQ_INT(atomic_load(&n_bad_thread), 0);
    deal_pool_free(pool);
}

static void
test_fork(void)
{
    deal_pool *pool;
    deal_error err;
    int32_t n_thread = 3;
    CHECK(deal_pool_new(n_thread, &pool, &err) == DEAL_OK);
    for (int i = 0; i < N_ITEM; i++)
        atomic_store(&count[i], 0);
    pid_t pid = fork();
    if (pid == 0) {
        deal_parallel_for(pool, N_ITEM, 0, mark, &n_thread);
        int ok = all_equal(N_ITEM, 1);
        deal_pool_free(pool);
        _exit(ok ? 0 : 1);
    }
    int exit_status = -1;
    waitpid(pid, &exit_status, 0);
    CHECK_EQ_INT(exit_status, 0);
    deal_parallel_for(pool, N_ITEM, 0, mark, &n_thread);
    CHECK(all_equal(N_ITEM, 1));
    deal_pool_free(pool);
}

static void
test_errors(void)
{
    deal_pool *pool = NULL;
    deal_error err;
    CHECK(deal_pool_new(0, &pool, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "got 0");
    CHECK(deal_pool_new(5000, &pool, &err) == DEAL_ERR_INVALID_ARG);
    for (size_t n = 1; n <= 4; n++) {
        deal_alloc_fail_at(n);
        CHECK(deal_pool_new(3, &pool, &err) == DEAL_ERR_NO_MEMORY);
        deal_alloc_fail_at(0);
    }
    CHECK(pool == NULL);
    deal_pool_free(NULL);
}

int
main(void)
{
    for (int32_t n_thread = 1; n_thread <= 4; n_thread++)
        test_loops(n_thread);
    test_fork();
    test_errors();
    return check_report("test_parallel");
}
