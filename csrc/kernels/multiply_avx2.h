/* The int8 product's tile for 256-bit registers, with VNNI or without.
 *
 * A panel's 16 outputs lie in two registers. Without VNNI a quad's products go through
 * 16 bits: unsigned weights of up to 5 bits cannot overflow them; signed weights give
 * their sign to the row first, and |-128| * 127 * 2 still fits.
 */
#ifndef DEAL_KERNELS_MULTIPLY_AVX2_H
#define DEAL_KERNELS_MULTIPLY_AVX2_H

#include <immintrin.h>

#include "common/compiler.h"
#include "kernels/panels.h"

typedef enum panel_kind { PANEL_4BIT, PANEL_8BIT, PANEL_8BIT_MIN } panel_kind;

#define N_PART 4 // rows whose sums stay in registers together

static DEAL_INLINE __m256
panel_scales(const deal_panels *w, const uint8_t *from, int i_half)
{
    if (w->has_f32_scale)
        return _mm256_loadu_ps((const float *)(const void *)from + 8 * i_half);
    return _mm256_cvtph_ps(
        _mm_loadu_si128((const __m128i *)(const void *)from + i_half));
}

static DEAL_INLINE __m256i
add_products(const panel_kind kind, __m256i sum, __m256i u, __m256i q)
{
#if defined(__AVXVNNI__)
    (void)kind;
    return _mm256_dpbusd_avx_epi32(sum, u, q);
#else
    __m256i pairs = kind == PANEL_8BIT ? _mm256_maddubs_epi16(_mm256_abs_epi8(u),
                                                              _mm256_sign_epi8(q, u))
                                       : _mm256_maddubs_epi16(u, q);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// Rows [r0, r0 + n_part) of a tile of n_row.
static DEAL_INLINE void
multiply_part(const int n_part, const panel_kind kind, const deal_panels *w,
              const uint8_t *panel, int32_t n_row, const int32_t *x, float *y)
{
    const __m256i low = _mm256_set1_epi8(0x0f);
    const size_t scale_size = deal_panels_scale_size(w);
    const size_t integer_size = kind == PANEL_4BIT ? 256 : 512;
    const uint8_t *scales = panel + (size_t)w->n_group * integer_size;
    __m256 acc[N_PART][2];
    DEAL_UNROLL(4)
    for (int r = 0; r < n_part; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (int32_t g = 0; g < w->n_group; g++) {
        const float *row = (const float *)(const void *)x;
        DEAL_UNROLL(2)
        for (int i = 0; i < 2; i++) {
            __m256i sum[N_PART];
            DEAL_UNROLL(4)
            for (int r = 0; r < n_part; r++)
                sum[r] = kind == PANEL_8BIT && w->offset
                             ? _mm256_set1_epi32(x[DEAL_TILE_WORDS * r + 10])
                             : _mm256_setzero_si256();
            DEAL_UNROLL(8)
            for (int k = 0; k < 8; k++) {
                if (kind == PANEL_4BIT && k == 4)
                    break;
                __m256i u = _mm256_loadu_si256(
                    (const __m256i *)(const void *)(panel + 64 * k) + i);
                __m256i v = u;
                if (kind == PANEL_4BIT) {
                    u = _mm256_and_si256(v, low);
                    v = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
                }
                DEAL_UNROLL(4)
                for (int r = 0; r < n_part; r++) {
                    sum[r] = add_products(
                        kind, sum[r], u, _mm256_set1_epi32(x[DEAL_TILE_WORDS * r + k]));
                    if (kind == PANEL_4BIT)
                        sum[r] = add_products(
                            kind, sum[r], v,
                            _mm256_set1_epi32(x[DEAL_TILE_WORDS * r + k + 4]));
                }
            }
            __m256 scale = panel_scales(w, scales, i);
            DEAL_UNROLL(4)
            for (int r = 0; r < n_part; r++) {
                __m256 s =
                    _mm256_mul_ps(scale, _mm256_set1_ps(row[DEAL_TILE_WORDS * r + 8]));
                acc[r][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]), s, acc[r][i]);
                if (kind != PANEL_8BIT)
                    acc[r][i] = _mm256_fmadd_ps(
                        panel_scales(w, scales + scale_size / 2, i),
                        _mm256_set1_ps(row[DEAL_TILE_WORDS * r + 9]), acc[r][i]);
            }
        }
        panel += integer_size;
        scales += scale_size;
        x += DEAL_TILE_WORDS * n_row;
    }
    DEAL_UNROLL(4)
    for (int r = 0; r < n_part; r++) {
        _mm256_storeu_ps(y + r * DEAL_PANEL_LEN, acc[r][0]);
        _mm256_storeu_ps(y + r * DEAL_PANEL_LEN + 8, acc[r][1]);
    }
}

static DEAL_INLINE void
multiply_tile(const int n_row, const panel_kind kind, const deal_panels *w,
              const uint8_t *panel, const int32_t *x, bool is_first, float *y)
{
    (void)is_first; // the part's sums, not the weights, hold this one up
    DEAL_UNROLL(3)
    for (int r = 0; r + N_PART <= n_row; r += N_PART)
        multiply_part(N_PART, kind, w, panel, n_row, x + DEAL_TILE_WORDS * r,
                      y + r * DEAL_PANEL_LEN);
    const int done = n_row / N_PART * N_PART;
    if (n_row > done)
        multiply_part(n_row - done, kind, w, panel, n_row, x + DEAL_TILE_WORDS * done,
                      y + done * DEAL_PANEL_LEN);
}

#include "kernels/multiply_body.h"

static uint64_t
probe_multiply(int64_t n_quad)
{
    __m256i sum[8], u = _mm256_set1_epi8(3), q = _mm256_set1_epi8(2);
    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_setzero_si256();
    for (; n_quad >= 4; n_quad -= 4) // 16 outputs lie in two registers
        DEAL_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        DEAL_FORGET(q);
        sum[i] = add_products(PANEL_4BIT, sum[i], u, q);
    }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return (uint64_t)_mm256_extract_epi64(sum[0], 0);
}

#endif
