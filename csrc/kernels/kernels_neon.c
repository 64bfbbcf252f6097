/* The kernels for 64-bit Arm with the dot product; setup.py gives this file its flags.
 *
 * A quad of a panel's 16 outputs lies in four registers, and one register holds four
 * quads of activations, each of which an instruction can take for all of its lanes. A
 * part of the product keeps its integer sums and its floats in registers: six rows by
 * half a panel, or up to three rows by a whole one, so that the weights of a few rows,
 * whose time goes into reading them, are read front to back, once. Weights of 4 and 5
 * bits are small enough to count as signed ones.
 */
#if defined(__aarch64__)
#    include <arm_neon.h>

#    include "common/compiler.h"
#    include "kernels/panels.h"

typedef enum panel_kind { PANEL_4BIT, PANEL_8BIT, PANEL_8BIT_MIN } panel_kind;

#    define N_PART 6  // most rows of a part
#    define N_WHOLE 3 // most rows of a part over whole panels

// Scales or minima of 4 * n_vec outputs from vector i0 on.
static DEAL_INLINE void
read_numbers(const int n_vec, const deal_panels *w, const uint8_t *from, int i0,
             float32x4_t *to)
{
    if (w->has_f32_scale) {
        DEAL_UNROLL(4)
        for (int i = 0; i < n_vec; i++)
            to[i] = vld1q_f32((const float *)(const void *)from + 4 * (i0 + i));
        return;
    }
    DEAL_UNROLL(4)
    for (int i = 0; i < n_vec; i++) {
        uint16x4_t bits = vld1_u16((const uint16_t *)(const void *)from + 4 * (i0 + i));
        to[i] = vcvt_f32_f16(vreinterpret_f16_u16(bits));
    }
}

// sum + u . (word `at` of x). Words are read four at a time, each four once.
static DEAL_INLINE int32x4_t
add_quad(int32x4_t sum, uint8x16_t weights, const int32_t *x, const int at)
{
    int8x16_t u = vreinterpretq_s8_u8(weights);
    int8x16_t q = vreinterpretq_s8_s32(vld1q_s32(x + at / 4 * 4));
    switch (at % 4) {
    case 0:
        return vdotq_laneq_s32(sum, u, q, 0);
    case 1:
        return vdotq_laneq_s32(sum, u, q, 1);
    case 2:
        return vdotq_laneq_s32(sum, u, q, 2);
    default:
        return vdotq_laneq_s32(sum, u, q, 3);
    }
}

// Sums over one group, of `n_part` rows from r0 on and 4 * n_vec outputs.
static DEAL_INLINE void
multiply_group(const int r0, const int n_part, const int n_vec, const panel_kind kind,
               const uint8_t *panel, const int32_t *x, int32x4_t (*sum)[4])
{
    const uint8x16_t mask = vdupq_n_u8(0x0f);
    const int n_high = kind == PANEL_4BIT ? n_vec : 0;
    DEAL_UNROLL(6)
    for (int r = 0; r < n_part; r++)
        DEAL_UNROLL(4)
    for (int i = 0; i < n_vec; i++)
        sum[r][i] = vdupq_n_s32(0);
    DEAL_UNROLL(8)
    for (int k = 0; k < 8; k++) {
        if (kind == PANEL_4BIT && k == 4)
            break;
        uint8x16_t u[4];
        DEAL_UNROLL(4)
        for (int i = 0; i < n_vec; i++)
            u[i] = vld1q_u8(panel + 64 * k + 16 * i);
        DEAL_UNROLL(4)
        for (int i = 0; i < n_vec; i++) {
            uint8x16_t low = kind == PANEL_4BIT ? vandq_u8(u[i], mask) : u[i];
            DEAL_UNROLL(6)
            for (int r = 0; r < n_part; r++)
                sum[r][i] = add_quad(sum[r][i], low, x, DEAL_TILE_WORDS * (r0 + r) + k);
        }
        DEAL_UNROLL(4)
        for (int i = 0; i < n_high; i++) {
            uint8x16_t high = vshrq_n_u8(u[i], 4);
            DEAL_UNROLL(6)
            for (int r = 0; r < n_part; r++)
                sum[r][i] =
                    add_quad(sum[r][i], high, x, DEAL_TILE_WORDS * (r0 + r) + k + 4);
        }
    }
}

// Rows [r0, r0 + n_part) of a tile of n_row by the outputs of the panel's vectors
// [i0, i0 + n_vec).
static DEAL_INLINE void
multiply_part(const int n_row, const int r0, const int n_part, const int n_vec,
              const panel_kind kind, const deal_panels *w, const uint8_t *panel, int i0,
              const int32_t *x, float *y)
{
    const int32_t n_group = w->n_group;
    const size_t scale_size = deal_panels_scale_size(w);
    const size_t integer_size = kind == PANEL_4BIT ? 256 : 512;
    const uint8_t *scales = panel + (size_t)n_group * integer_size;
    float32x4_t acc[N_PART][4];
    DEAL_UNROLL(6)
    for (int r = 0; r < n_part; r++)
        DEAL_UNROLL(4)
    for (int i = 0; i < n_vec; i++)
        acc[r][i] = vdupq_n_f32(0.0f);
    for (int32_t g = 0; g < n_group; g++) {
        int32x4_t sum[N_PART][4];
        multiply_group(r0, n_part, n_vec, kind, panel + 16 * i0, x, sum);
        const float *row = (const float *)(const void *)x + DEAL_TILE_WORDS * r0;
        float32x4_t number[4];
        read_numbers(n_vec, w, scales, i0, number);
        DEAL_UNROLL(4)
        for (int i = 0; i < n_vec; i++)
            DEAL_UNROLL(6)
        for (int r = 0; r < n_part; r++) {
            float32x4_t s = vmulq_n_f32(number[i], row[DEAL_TILE_WORDS * r + 8]);
            acc[r][i] = vfmaq_f32(acc[r][i], vcvtq_f32_s32(sum[r][i]), s);
        }
        if (kind != PANEL_8BIT) {
            read_numbers(n_vec, w, scales + scale_size / 2, i0, number);
            DEAL_UNROLL(4)
            for (int i = 0; i < n_vec; i++)
                DEAL_UNROLL(6)
            for (int r = 0; r < n_part; r++)
                acc[r][i] =
                    vfmaq_n_f32(acc[r][i], number[i], row[DEAL_TILE_WORDS * r + 9]);
        }
        panel += integer_size;
        scales += scale_size;
        x += DEAL_TILE_WORDS * n_row;
    }
    DEAL_UNROLL(6)
    for (int r = 0; r < n_part; r++)
        DEAL_UNROLL(4)
    for (int i = 0; i < n_vec; i++)
        vst1q_f32(y + (r0 + r) * DEAL_PANEL_LEN + 4 * (i0 + i), acc[r][i]);
}

static DEAL_INLINE void
multiply_tile(const int n_row, const panel_kind kind, const deal_panels *w,
              const uint8_t *panel, const int32_t *x, bool is_first, float *y)
{
    (void)is_first; // reading ahead is left to the processor
    const int n_part = n_row <= N_PART ? n_row : (n_row + 1) / 2;
    if (n_row <= N_WHOLE) {
        multiply_part(n_row, 0, n_row, 4, kind, w, panel, 0, x, y);
        return;
    }
    for (int i0 = 0; i0 < 4; i0 += 2)
        multiply_part(n_row, 0, n_part, 2, kind, w, panel, i0, x, y);
    for (int i0 = 0; n_part < n_row && i0 < 4; i0 += 2)
        multiply_part(n_row, n_part, n_row - n_part, 2, kind, w, panel, i0, x, y);
}

#    include "kernels/multiply_body.h"

static uint64_t
probe_multiply(int64_t n_quad)
{
    int32x4_t sum[8];
    int8x16_t u = vdupq_n_s8(3), q = vdupq_n_s8(2);
    for (int i = 0; i < 8; i++)
        sum[i] = vdupq_n_s32(0);
    for (; n_quad >= 2; n_quad -= 2) // 16 outputs lie in four registers
        DEAL_UNROLL(8)
    for (int i = 0; i < 8; i++) {
        DEAL_FORGET(q);
        sum[i] = vdotq_s32(sum[i], u, q);
    }
    for (int i = 1; i < 8; i++)
        sum[0] = vaddq_s32(sum[0], sum[i]);
    return (uint64_t)vaddvq_s32(sum[0]);
}

static DEAL_INLINE void
widen_16(const uint16_t *x, float *y)
{
    DEAL_UNROLL(4)
    for (int i = 0; i < 16; i += 4)
        vst1q_f32(y + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + i))));
}

static DEAL_INLINE void
narrow_16(const float *x, uint16_t *y)
{
    DEAL_UNROLL(4)
    for (int i = 0; i < 16; i += 4)
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
}

#    define DEAL_HAS_HALF
#    define DEAL_KERNELS_SET deal_kernels_neon
#    define DEAL_KERNELS_NAME "neon"
#    define DEAL_KERNELS_UNSIGNED false
#    define N_VEC 4
#    define N_QUERY 3
#    define LARGER(a, b) fmaxf(a, b) // one instruction here
#    include "kernels/kernels_body.h"
#else
typedef int deal_kernels_neon; // ISO C forbids an empty file
#endif
