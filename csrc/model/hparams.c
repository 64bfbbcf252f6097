#include "model/hparams.h"

#include <math.h>
#include <stddef.h>

#include "kernels/kernels.h"

// Far beyond any model, and small enough that products of three fit in int64_t.
#define N_MAX (1 << 20)

static deal_status
check_count(const char *name, int32_t value, int32_t max, deal_error *err)
{
    if (value < 1 || value > max)
        return deal_fail(err, DEAL_ERR_FORMAT, "%s: expected 1 to %d, got %d", name,
                         max, value);
    return DEAL_OK;
}

static deal_status
check_positive(const char *name, float value, deal_error *err)
{
    if (!(value > 0.0f) || !isfinite(value))
        return deal_fail(err, DEAL_ERR_FORMAT, "%s: expected a positive number, got %g",
                         name, (double)value);
    return DEAL_OK;
}

static deal_status
check_options(const deal_hparams *hp, deal_error *err)
{
    const struct {
        const char *name;
        float value;
    } option[] = {
        {"norm_base", hp->norm_base},         {"embd_scale", hp->embd_scale},
        {"attn_scale", hp->attn_scale},       {"attn_softcap", hp->attn_softcap},
        {"final_softcap", hp->final_softcap}, {"rope_base_local", hp->rope_base_local},
    };
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].value != 0.0f)
            DEAL_TRY(check_positive(option[i].name, option[i].value, err));
    return DEAL_OK;
}

deal_status
deal_hparams_check(const deal_hparams *hp, deal_error *err)
{
    DEAL_TRY(check_count("n_vocab", hp->n_vocab, 16 * N_MAX, err));
    DEAL_TRY(check_count("n_embd", hp->n_embd, N_MAX, err));
    DEAL_TRY(check_count("n_layer", hp->n_layer, 4096, err));
    DEAL_TRY(check_count("n_head", hp->n_head, 4096, err));
    DEAL_TRY(check_count("n_head_kv", hp->n_head_kv, hp->n_head, err));
    DEAL_TRY(check_count("head_dim", hp->head_dim, DEAL_HEAD_DIM_MAX, err));
    DEAL_TRY(check_count("n_ff", hp->n_ff, 4 * N_MAX, err));
    DEAL_TRY(check_count("n_ctx_train", hp->n_ctx_train, 64 * N_MAX, err));
    if (hp->n_head % hp->n_head_kv != 0)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "n_head_kv: expected a divisor of n_head %d, got %d",
                         hp->n_head, hp->n_head_kv);
    if (hp->rope_dim < 2 || hp->rope_dim % 2 != 0 || hp->rope_dim > hp->head_dim)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "rope_dim: expected an even number up to head_dim %d, got %d",
                         hp->head_dim, hp->rope_dim);
    if (hp->n_swa != 0)
        DEAL_TRY(check_count("n_swa", hp->n_swa, 64 * N_MAX, err));
    if (hp->swa_begin < 0 || hp->swa_period < 0)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "swa_begin, swa_period: expected 0 or more, got %d, %d",
                         hp->swa_begin, hp->swa_period);
    DEAL_TRY(check_options(hp, err));
    DEAL_TRY(check_positive("norm_eps", hp->norm_eps, err));
    DEAL_TRY(check_positive("rope_base", hp->rope_base, err));
    if (hp->rope_scaling != DEAL_ROPE_SCALING_NONE)
        DEAL_TRY(check_positive("rope_factor", hp->rope_factor, err));
    if (hp->rope_scaling == DEAL_ROPE_SCALING_LLAMA3) {
        DEAL_TRY(check_positive("rope_low_freq_factor", hp->rope_low_freq_factor, err));
        DEAL_TRY(
            check_positive("rope_high_freq_factor", hp->rope_high_freq_factor, err));
        DEAL_TRY(check_count("rope_n_ctx_orig", hp->rope_n_ctx_orig, 64 * N_MAX, err));
        if (hp->rope_high_freq_factor <= hp->rope_low_freq_factor)
            return deal_fail(
                err, DEAL_ERR_FORMAT,
                "rope_high_freq_factor: expected above rope_low_freq_factor "
                "%g, got %g",
                (double)hp->rope_low_freq_factor, (double)hp->rope_high_freq_factor);
    }
    return DEAL_OK;
}

bool
deal_hparams_is_local(const deal_hparams *hp, int32_t i_layer)
{
    return hp->n_swa > 0 && i_layer >= hp->swa_begin &&
           (hp->swa_period == 0 || (i_layer + 1) % hp->swa_period != 0);
}

// Low frequencies are divided by the factor, high ones kept, those between blended.
static double
llama3_freq(const deal_hparams *hp, double freq)
{
    const double pi = 3.14159265358979323846;
    double wavelength = 2.0 * pi / freq, n_orig = hp->rope_n_ctx_orig;
    double low = (double)hp->rope_low_freq_factor,
           high = (double)hp->rope_high_freq_factor;
    if (wavelength > n_orig / low)
        return freq / (double)hp->rope_factor;
    if (wavelength < n_orig / high)
        return freq;
    double smooth = (n_orig / wavelength - low) / (high - low);
    return (1.0 - smooth) * freq / (double)hp->rope_factor + smooth * freq;
}

int32_t
deal_hparams_n_freq(const deal_hparams *hp)
{
    return hp->rope_base_local > 0.0f ? hp->rope_dim : hp->rope_dim / 2;
}

void
deal_hparams_inv_freq(const deal_hparams *hp, float *inv_freq)
{
    for (int32_t i = 0; i < hp->rope_dim / 2; i++) {
        double freq = pow((double)hp->rope_base, -2.0 * i / hp->rope_dim);
        if (hp->rope_scaling == DEAL_ROPE_SCALING_LINEAR)
            freq /= (double)hp->rope_factor;
        else if (hp->rope_scaling == DEAL_ROPE_SCALING_LLAMA3)
            freq = llama3_freq(hp, freq);
        inv_freq[i] = (float)freq;
    }
    for (int32_t i = hp->rope_dim / 2, j = 0; i < deal_hparams_n_freq(hp); i++, j++)
        inv_freq[i] = (float)pow((double)hp->rope_base_local, -2.0 * j / hp->rope_dim);
}
