/* What is done with an adapter while something is made to fail: every operation
 * once, with what must hold of its outputs. Those that write leave their file,
 * complete, or nothing.
 */
#ifndef TORTURE_WORKS_H
#define TORTURE_WORKS_H

#include "api/folder.h"

static lora_status do_check(const lora_adapter *adapter, lora_error *error)
{
    lora_report *report = JUNK(lora_report);
    lora_status status = lora_adapter_check(&report, adapter, NULL, error);

    assert_true(status == LORA_OK || report == NULL);
    lora_report_destroy(report);
    return status;
}

static lora_status do_describe(const lora_adapter *adapter, lora_error *error)
{
    lora_report *report = JUNK(lora_report);
    lora_adapter_describe_options options;
    lora_status status;

    lora_adapter_describe_options_init(&options, sizeof options);
    options.modules = options.hashes = 1;
    status = lora_adapter_describe(&report, adapter, &options, error);
    assert_true(status == LORA_OK || report == NULL);
    lora_report_destroy(report);
    return status;
}

static lora_status do_convert(const lora_adapter *adapter, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_convert_options options;
    lora_status status;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.dtype = LORA_DTYPE_BF16;
    status = lora_adapter_convert(&out, adapter, &options, error);
    assert_true(status == LORA_OK || out == NULL);
    lora_adapter_destroy(out);
    return status;
}

static lora_status do_resize(const lora_adapter *adapter, lora_error *error)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status =
        lora_adapter_resize(&out, &report, adapter, &rule, NULL, error);

    assert_true(status == LORA_OK || (out == NULL && report == NULL));
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    return status;
}

static lora_status do_fix(const lora_adapter *adapter, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status = lora_adapter_fix(&out, &report, adapter, NULL, error);

    assert_true(status == LORA_OK || (out == NULL && report == NULL));
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    return status;
}

static lora_status do_save(const lora_adapter *adapter, lora_error *error)
{
    lora_status status =
        lora_adapter_save(adapter, in_folder("out.safetensors"), NULL, error);

    assert_int_equal(folder_count(1), status == LORA_OK);
    return status;
}

static lora_status do_delta(const lora_adapter *adapter, lora_error *error)
{
    lora_status status = lora_adapter_save_delta(
        adapter, in_folder("out.safetensors"), 1.0, NULL, error);

    assert_int_equal(folder_count(1), status == LORA_OK);
    return status;
}

static lora_status do_read(const lora_adapter *adapter, lora_error *error)
{
    size_t count = lora_adapter_tensor_count(adapter);
    lora_tensor_read *reads = calloc(count + 1, sizeof *reads);
    lora_status status;

    assert_non_null(reads);
    for (size_t i = 0; i < count; i++) {
        lora_tensor_info info = {.struct_size = sizeof info};
        assert_int_equal(lora_adapter_get_tensor_info(&info, adapter, i, NULL),
                         LORA_OK);
        reads[i].index = i;
        reads[i].bytes = (size_t)info.bytes;
        reads[i].buffer = malloc(reads[i].bytes + 1);
        assert_non_null(reads[i].buffer);
    }
    status = lora_adapter_read_tensors(reads, count, adapter, error);
    for (size_t i = 0; i < count; i++) {
        free(reads[i].buffer);
    }
    free(reads);
    return status;
}

typedef lora_status (*work)(const lora_adapter *adapter, lora_error *error);

/* The first tells no progress, the second once. */
static const work works[] = {do_describe, do_read, do_check, do_convert,
                             do_resize,   do_fix,  do_save,  do_delta};

#endif
