/* The kernels for AVX-512 with VNNI; setup.py gives this file its flags.
 *
 * The int8 product keeps one panel's 16 outputs in the lanes of a register and one
 * register of sums for each row of the tile: twelve rows of integer sums, twelve of
 * floats, and the weights, fill the 32 registers. One instruction multiplies a quad of
 * inputs of 16 outputs with the same quad of a row, read from memory into all lanes.
 */
#if defined(__x86_64__)
#    include <immintrin.h>

#    include "common/compiler.h"
#    include "kernels/panels.h"

#    define PREFETCH_DISTANCE 16384 // bytes; see docs/kernels.md

typedef enum panel_kind { PANEL_4BIT, PANEL_8BIT, PANEL_8BIT_MIN } panel_kind;

static DEAL_INLINE __m512
panel_scales(const deal_panels *w, const uint8_t *from)
{
    if (w->has_f32_scale)
        return _mm512_loadu_ps(from);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

// sum[r] += u . q[r] for one quad of inputs
static DEAL_INLINE void
add_quad(const int n_row, const __m512i u, const int32_t *x, __m512i *sum)
{
    DEAL_UNROLL(12)
    for (int r = 0; r < n_row; r++)
        sum[r] =
            _mm512_dpbusd_epi32(sum[r], u, _mm512_set1_epi32(x[DEAL_TILE_WORDS * r]));
}

// Asks for the weights of some groups later, past the panel's end if need be.
static DEAL_INLINE void
prefetch_group(const uint8_t *panel, const uint8_t *scales, const size_t integer_size)
{
    DEAL_UNROLL(8)
    for (size_t i = 0; i < integer_size; i += 64)
        DEAL_PREFETCH(panel + PREFETCH_DISTANCE + i);
    DEAL_PREFETCH(scales + PREFETCH_DISTANCE / 4);
}

static DEAL_INLINE void
multiply_tile(const int n_row, const panel_kind kind, const deal_panels *w,
              const uint8_t *panel, const int32_t *x, bool is_first, float *y)
{
    const __m512i low = _mm512_set1_epi8(0x0f);
    const int32_t n_group = w->n_group;
    const size_t scale_size = deal_panels_scale_size(w);
    const size_t integer_size = kind == PANEL_4BIT ? 256 : 512;
    const uint8_t *scales = panel + (size_t)n_group * integer_size;
    __m512 acc[DEAL_TILE_ROWS];
    DEAL_UNROLL(12)
    for (int r = 0; r < n_row; r++)
        acc[r] = _mm512_setzero_ps();
    for (int32_t g = 0; g < n_group; g++) {
        __m512i sum[DEAL_TILE_ROWS];
        if (is_first)
            prefetch_group(panel, scales, integer_size);
        DEAL_UNROLL(12)
        for (int r = 0; r < n_row; r++)
            sum[r] = kind == PANEL_8BIT ? _mm512_set1_epi32(x[DEAL_TILE_WORDS * r + 10])
                                        : _mm512_setzero_si512();
        DEAL_UNROLL(8)
        for (int k = 0; k < 8; k++) {
            if (kind == PANEL_4BIT && k == 4)
                break;
            __m512i u = _mm512_loadu_si512(panel + 64 * k);
            if (kind == PANEL_4BIT) {
                add_quad(n_row, _mm512_and_si512(u, low), x + k, sum);
                u = _mm512_and_si512(_mm512_srli_epi16(u, 4), low);
                add_quad(n_row, u, x + k + 4, sum);
            } else {
                add_quad(n_row, u, x + k, sum);
            }
        }
        __m512 scale = panel_scales(w, scales);
        __m512 min = kind == PANEL_8BIT ? _mm512_setzero_ps()
                                        : panel_scales(w, scales + scale_size / 2);
        const float *row = (const float *)x;
        DEAL_UNROLL(12)
        for (int r = 0; r < n_row; r++) {
            __m512 s =
                _mm512_mul_ps(scale, _mm512_set1_ps(row[DEAL_TILE_WORDS * r + 8]));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), s, acc[r]);
            if (kind != PANEL_8BIT)
                acc[r] = _mm512_fmadd_ps(
                    min, _mm512_set1_ps(row[DEAL_TILE_WORDS * r + 9]), acc[r]);
        }
        panel += integer_size;
        scales += scale_size;
        x += DEAL_TILE_WORDS * n_row;
    }
    DEAL_UNROLL(12)
    for (int r = 0; r < n_row; r++)
        _mm512_storeu_ps(y + r * DEAL_PANEL_LEN, acc[r]);
}

#    include "kernels/multiply_body.h"
#    include "kernels/quantize_store.h"

static uint64_t
probe_multiply(int64_t n_quad)
{
    __m512i sum[8], u = _mm512_set1_epi8(3), q = _mm512_set1_epi8(2);
    for (int i = 0; i < 8; i++)
        sum[i] = _mm512_setzero_si512();
    for (; n_quad >= 8; n_quad -= 8)
        DEAL_UNROLL(8)
    for (int i = 0; i < 8; i++)
        sum[i] = _mm512_dpbusd_epi32(sum[i], u, q);
    for (int i = 1; i < 8; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return (uint64_t)_mm512_reduce_add_epi32(sum[0]);
}

// to[d][j] = from[j][d] for 16 rows of 16, `stride` floats from one `to` to the next
static DEAL_INLINE void
transpose_16(const float *const *from, size_t offset, float *to, size_t stride)
{
    __m512 a[16], b[16];
    DEAL_UNROLL(16)
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_ps(from[i] + offset);
    DEAL_UNROLL(8)
    for (int i = 0; i < 16; i += 2) { // pairs of rows
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    DEAL_UNROLL(4)
    for (int i = 0; i < 16; i += 4) // fours: column c of each quarter in a[i + c]
        DEAL_UNROLL(2)
    for (int c = 0; c < 2; c++) {
        __m512d x = _mm512_castps_pd(b[i + c]), y = _mm512_castps_pd(b[i + c + 2]);
        a[i + 2 * c] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
        a[i + 2 * c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
    DEAL_UNROLL(4)
    for (int c = 0; c < 4; c++) { // quarters: columns c, c + 4, c + 8, c + 12
        __m512 low0 = _mm512_shuffle_f32x4(a[c], a[c + 4], 0x44);
        __m512 high0 = _mm512_shuffle_f32x4(a[c], a[c + 4], 0xee);
        __m512 low1 = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0x44);
        __m512 high1 = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0xee);
        float *at = to + (size_t)c * stride;
        _mm512_storeu_ps(at, _mm512_shuffle_f32x4(low0, low1, 0x88));
        _mm512_storeu_ps(at + 4 * stride, _mm512_shuffle_f32x4(low0, low1, 0xdd));
        _mm512_storeu_ps(at + 8 * stride, _mm512_shuffle_f32x4(high0, high1, 0x88));
        _mm512_storeu_ps(at + 12 * stride, _mm512_shuffle_f32x4(high0, high1, 0xdd));
    }
}

static DEAL_INLINE void
quantize_group(const float *x, int32_t *to)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    __m512i mask = _mm512_set1_epi32(QUANTIZE_MAGNITUDE);
    __m512i bits = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), mask),
                                    _mm512_and_si512(_mm512_castps_si512(b), mask));
    int32_t max_bits = _mm512_reduce_max_epi32(bits);
    float max;
    memcpy(&max, &max_bits, sizeof max);
    if (max_bits >= QUANTIZE_ENDLESS) {
        quantize_store_endless(max, to);
        return;
    }
    float step = max / 127.0f, inverse = step >= FLT_MIN ? 1.0f / step : 0.0f;
    __m512 factor = _mm512_set1_ps(inverse);
    __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor)); // ties to even
    __m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
    int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
    int32_t q[8];
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(qa));
    _mm_storeu_si128((__m128i *)(void *)(q + 4), _mm512_cvtepi32_epi8(qb));
    quantize_store(q, step, sum, to);
}

static DEAL_INLINE void
widen_16(const uint16_t *x, float *y)
{
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)x);
    _mm512_storeu_ps(y, _mm512_cvtph_ps(half));
}

static DEAL_INLINE void
narrow_16(const float *x, uint16_t *y)
{
    enum { MODE = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }; // also at -O0
    __m256i half = _mm512_cvtps_ph(_mm512_loadu_ps(x), MODE);
    _mm256_storeu_si256((__m256i *)(void *)y, half);
}

#    define DEAL_HAS_HALF
#    define DEAL_HAS_TRANSPOSE_16
#    define DEAL_HAS_QUANTIZE_GROUP
#    define DEAL_KERNELS_SET deal_kernels_avx512
#    define DEAL_KERNELS_NAME "avx512"
#    define DEAL_KERNELS_UNSIGNED true
#    define N_VEC 16
#    define N_QUERY 3
#    include "kernels/kernels_body.h"
#else
typedef int deal_kernels_avx512; // ISO C forbids an empty file
#endif
