/* Converting and resizing whatever can be opened. Eight bytes say what to do,
 * the rest is a file as fuzz_safetensors() takes it. A result must be sound: it
 * can be saved and opened, and is the same adapter then.
 */
#include "fuzz.h"

#include "names/names.h"

const char fuzz_name[] = "operations";

enum { MOST_RANK = 48, ORDER_BYTES = 8 };

static const lora_dtype dtypes[] = {
    LORA_DTYPE_NONE, LORA_DTYPE_F32,     LORA_DTYPE_F16, LORA_DTYPE_BF16,
    LORA_DTYPE_F64,  LORA_DTYPE_F8_E4M3, LORA_DTYPE_I32,
};

static lora_dtype order_dtype(uint8_t byte)
{
    return dtypes[byte % (sizeof dtypes / sizeof *dtypes)];
}

static lora_status convert(lora_adapter **out,
                           const lora_adapter *adapter,
                           const uint8_t *order,
                           lora_error *error)
{
    static const char *const dialects[] = {
        NULL,           "kohya",         "kohya-SDXL",   "lycoris-kohya",
        "diffusers",    "diffusers-old", "diffusers-te", "diffusers-unet",
        "peft",         "peft-raw",      "kohya-oft",    "lycoris-wrapper",
        "comfy/native", "xlabs",         "bfl-control",  "OneTrainer DiT",
    };
    lora_adapter_convert_options options;
    const lora__family *family =
        lora__family_at(order[2] % (lora__family_count() + 1));

    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = dialects[order[1] % 16];
    options.family = family == NULL ? NULL : lora__family_id(family);
    options.dtype = order_dtype(order[3]);
    options.bake_alpha = order[4] & 1;
    options.skip_bad = order[4] >> 1 & 1;
    return lora_adapter_convert(out, adapter, &options, error);
}

static lora_status resize(lora_adapter **out,
                          const lora_adapter *adapter,
                          const uint8_t *order,
                          lora_error *error)
{
    lora_adapter_resize_options options;
    lora_rank_rule rule;
    lora_report *report;
    lora_status status;

    rule.kind = order[1] % 10;
    rule.rank = order[2] % MOST_RANK;
    rule.value =
        rule.kind == LORA_RANK_SIZE ? order[3] * 32.0 : (order[3] - 16) / 64.0;
    lora_adapter_resize_options_init(&options, sizeof options);
    options.max_rank = order[4] % MOST_RANK;
    options.min_rank = order[5] % MOST_RANK;
    options.pad = order[6] & 1;
    options.skip_bad = order[6] >> 1 & 1;
    options.keep_core = order[6] >> 2 & 1;
    options.split = order[6] >> 3 & 1;
    options.counting = order[6] >> 4 & 3;
    options.dtype = order_dtype(order[7]);
    status = lora_adapter_resize(out, &report, adapter, &rule, &options, error);
    assert_true((report != NULL) == (status == LORA_OK));
    if (status == LORA_OK) {
        assert_non_null(lora_report_to_json(report, NULL));
    }
    lora_report_destroy(report);
    return status;
}

/* The index of the one module of a target, or SIZE_MAX. */
static size_t find_target(lora_module_info *out,
                          const lora_adapter *adapter,
                          const char *target)
{
    size_t found = SIZE_MAX;

    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        lora_module_info module = {.struct_size = sizeof module};

        assert_int_equal(lora_adapter_get_module(&module, adapter, i, NULL),
                         LORA_OK);
        if (strcmp(module.target, target) == 0) {
            if (found != SIZE_MAX) {
                return SIZE_MAX;
            }
            found = i;
            *out = module;
        }
    }
    return found;
}

/* What was only given other names changes weights by the same bits. */
static void same_change(const lora_adapter *before, const lora_adapter *after)
{
    for (size_t i = 0; i < lora_adapter_module_count(before); i++) {
        lora_module_info x = {.struct_size = sizeof x};
        lora_module_info y = {.struct_size = sizeof y};
        uint64_t digest[2] = {0, 0};
        size_t at;

        assert_int_equal(lora_adapter_get_module(&x, before, i, NULL), LORA_OK);
        at = find_target(&y, after, x.target);
        if (at == SIZE_MAX || find_target(&x, before, x.target) != i ||
            fuzz_delta(&digest[0], before, i, &x) != LORA_OK) {
            continue;
        }
        assert_true(strcmp(x.kind, y.kind) == 0);
        if (fuzz_delta(&digest[1], after, at, &y) != LORA_OK ||
            digest[0] != digest[1]) {
            fail_msg("%s is another change than %s", y.name, x.name);
        }
    }
}

/* An SVD takes the cube of the rank. */
static int too_large(const lora_adapter *adapter)
{
    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        lora_module_info module = {.struct_size = sizeof module};

        assert_int_equal(lora_adapter_get_module(&module, adapter, i, NULL),
                         LORA_OK);
        if (module.rank > MOST_RANK) {
            return 1;
        }
    }
    return 0;
}

static void operate(const lora_adapter *adapter,
                    lora_context *context,
                    const uint8_t *order)
{
    lora_adapter *result;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = order[0] % 2 == 0 ? convert(&result, adapter, order, &error)
                               : resize(&result, adapter, order, &error);
    assert_true((result != NULL) == (status == LORA_OK));
    assert_true(status != LORA_ERROR_INTERNAL);
    if (status != LORA_OK) {
        assert_true(error.message[0] != '\0');
        return;
    }
    fuzz_saved(result, context, NULL);
    if (order[0] % 2 == 0 && order_dtype(order[3]) == LORA_DTYPE_NONE &&
        (order[4] & 1) == 0) {
        same_change(adapter, result);
    }
    lora_adapter_destroy(result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    lora_context *context;
    lora_adapter *adapter;
    heap memory;
    blob file;

    if (bytes < ORDER_BYTES) {
        return 0;
    }
    file = fuzz_safetensors(data + ORDER_BYTES, bytes - ORDER_BYTES);
    context = make_context(&memory, NULL);
    if (lora_adapter_open_memory(&adapter, context, file.data, file.bytes, NULL,
                                 NULL) == LORA_OK) {
        if (!too_large(adapter)) {
            operate(adapter, context, data);
        }
        lora_adapter_destroy(adapter);
    }
    end_context(&memory, context);
    free(file.data);
    return 0;
}
