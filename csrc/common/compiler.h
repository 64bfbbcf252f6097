/* The only place for compiler extensions. */
#ifndef DEAL_COMMON_COMPILER_H
#define DEAL_COMMON_COMPILER_H

#if defined(__GNUC__) || defined(__clang__)
#    define DEAL_PRINTF(i_format, i_first)                                             \
        __attribute__((format(printf, i_format, i_first)))
#    define DEAL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#    define DEAL_PRINTF(i_format, i_first)
#    define DEAL_UNLIKELY(x) (x)
#endif

// A hint to the processor that this is a spin loop.
#if defined(__x86_64__) || defined(__i386__)
#    define DEAL_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#    define DEAL_PAUSE() __asm__ volatile("yield")
#else
#    define DEAL_PAUSE() ((void)0)
#endif

#endif
