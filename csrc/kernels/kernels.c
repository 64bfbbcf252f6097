#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#    include <sys/auxv.h>
#endif

extern const deal_kernels deal_kernels_plain;
#if defined(__x86_64__)
extern const deal_kernels deal_kernels_avx2;
extern const deal_kernels deal_kernels_avxvnni;
extern const deal_kernels deal_kernels_avx512;
#elif defined(__aarch64__)
extern const deal_kernels deal_kernels_neon;
#endif

#if defined(__x86_64__)
static bool
has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

static bool
has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

static bool
has_avxvnni(void)
{
    return has_avx2() && __builtin_cpu_supports("avxvnni");
}
#elif defined(__aarch64__)
// Every 64-bit Arm processor has NEON, but the int8 product wants its dot product too.
static bool
has_dot_product(void)
{
#    if defined(__APPLE__)
    return true; // every Mac's
#    elif defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#    else
    return false;
#    endif
}
#endif

// The sets of this build, the fastest first.
static const struct {
    const deal_kernels *set;
    bool (*is_served)(void);
} sets[] = {
#if defined(__x86_64__)
    {&deal_kernels_avx512, has_avx512},
    {&deal_kernels_avxvnni, has_avxvnni},
    {&deal_kernels_avx2, has_avx2},
#elif defined(__aarch64__)
    {&deal_kernels_neon, has_dot_product},
#endif
    {&deal_kernels_plain, NULL},
};

const deal_kernels *
deal_kernels_find(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if ((!name || strcmp(name, sets[i].set->name) == 0) &&
            (!sets[i].is_served || sets[i].is_served()))
            return sets[i].set;
    return NULL;
}

const deal_kernels *
deal_kernels_get(void)
{
    const deal_kernels *found = deal_kernels_find(getenv("DEAL_ISA"));
    return found ? found : &deal_kernels_plain;
}
