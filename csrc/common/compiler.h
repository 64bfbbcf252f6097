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

// `n` numbers of `type` that are added and multiplied together.
#define DEAL_VECTOR(type, n) __attribute__((vector_size((n) * sizeof(type)))) type

// A function whose constant arguments must be constants in its body.
#define DEAL_INLINE inline __attribute__((always_inline))

// The loop that follows is written out, up to `n` times.
#define DEAL_PRAGMA(text) _Pragma(#text)
#if defined(__GNUC__) && !defined(__clang__)
#    define DEAL_UNROLL(n) DEAL_PRAGMA(GCC unroll n)
#else
#    define DEAL_UNROLL(n) DEAL_PRAGMA(unroll)
#endif

// A hint that what lies at `pointer`, which need not be valid, is read soon.
#define DEAL_PREFETCH(pointer) __builtin_prefetch(pointer, 0, 2)

// Makes the compiler forget what it knows of a vector's value.
#if defined(__x86_64__)
#    define DEAL_FORGET(vector) __asm__ volatile("" : "+x"(vector))
#elif defined(__aarch64__)
#    define DEAL_FORGET(vector) __asm__ volatile("" : "+w"(vector))
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
