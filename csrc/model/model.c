#include "model/model.h"

#include "common/alloc.h"
#include "kernels/gemm_cblas.h"
#include "model/gguf_hparams.h"

deal_status
deal_model_from_tensors(const deal_hparams *hparams, const deal_tensor_table *table,
                        deal_mapped_file *file, int32_t n_file, deal_compute compute,
                        deal_model **out, deal_error *err)
{
    deal_status status;
    deal_model *model = deal_alloc_zero(1, sizeof *model);
    if (!model) {
        for (int32_t i = 0; i < n_file; i++)
            deal_mapped_file_close(&file[i]);
        deal_free(file);
        return deal_fail_memory(err, "model");
    }
    deal_gemm_init();
    model->hparams = *hparams;
    model->compute = compute;
    model->file = file;
    model->n_file = n_file;
    DEAL_TRY_GOTO(deal_hparams_check(hparams, err), fail);
    DEAL_TRY_GOTO(
        deal_weights_load(hparams, table, file, n_file, compute, &model->weights, err),
        fail);
    *out = model;
    return DEAL_OK;
fail:
    deal_model_free(model);
    return status;
}

deal_status
deal_model_from_gguf(deal_gguf *gguf, deal_compute compute, deal_model **out,
                     deal_error *err)
{
    deal_status status;
    deal_hparams hparams;
    deal_mapped_file *file = NULL;
    DEAL_TRY_GOTO(deal_gguf_hparams(gguf, &hparams, err), done);
    file = deal_alloc(1, sizeof *file);
    if (!file) {
        status = deal_fail_memory(err, "model");
        goto done;
    }
    *file = gguf->file;
    gguf->file = (deal_mapped_file){0};
    status =
        deal_model_from_tensors(&hparams, &gguf->tensors, file, 1, compute, out, err);
done:
    deal_gguf_close(gguf);
    return status;
}

void
deal_model_free(deal_model *model)
{
    if (!model)
        return;
    deal_weights_free(&model->weights, model->hparams.n_layer);
    for (int32_t i = 0; i < model->n_file; i++)
        deal_mapped_file_close(&model->file[i]);
    deal_free(model->file);
    deal_free(model);
}
