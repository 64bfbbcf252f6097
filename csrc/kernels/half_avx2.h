/* Sixteen numbers between f16 and f32, for the sets of kernels that have AVX2. */
#include <immintrin.h>
#include <stdint.h>

#include "common/compiler.h"

static DEAL_INLINE void
widen_16(const uint16_t *x, float *y)
{
    DEAL_UNROLL(2)
    for (int i = 0; i < 16; i += 8) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(x + i));
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(half));
    }
}

static DEAL_INLINE void
narrow_16(const float *x, uint16_t *y)
{
    DEAL_UNROLL(2)
    for (int i = 0; i < 16; i += 8) {
        __m128i half =
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(y + i), half);
    }
}

#define DEAL_HAS_HALF
