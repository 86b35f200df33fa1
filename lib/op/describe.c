/* Describing an adapter: the object of `lora info --json`. */
#include "adapter/embeddings.h"
#include "adapter/kind.h"
#include "core/options.h"
#include "op/hash.h"
#include "op/report.h"
#include "op/summary.h"

#include <string.h>

LORA_API void
lora_adapter_describe_options_init(lora_adapter_describe_options *options,
                                   size_t size)
{
    lora__options_init(options, size);
}

static void describe_put_dialects(lora__buffer *json,
                                  const lora_adapter *adapter)
{
    lora__json_put_key(json, "dialects");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < adapter->names.dialect_count; i++) {
        lora__buffer_puts(json, i == 0 ? "" : ",");
        lora__json_put_string(json,
                              lora__dialect_id(adapter->names.dialects[i]));
    }
    lora__buffer_putc(json, ']');
}

static void describe_put_base(lora__buffer *json, const lora_adapter *adapter)
{
    const lora__names *names = &adapter->names;

    lora__json_put_key(json, "base");
    lora__buffer_putc(json, '{');
    lora__report_put_string(
        json, "family",
        names->family == NULL ? NULL : lora__family_id(names->family));
    lora__report_put_number(json, "confidence", names->confidence);
    lora__json_put_key(json, "alternatives");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < names->alternative_count; i++) {
        lora__buffer_puts(json, i == 0 ? "" : ",");
        lora__json_put_string(json, lora__family_id(names->alternatives[i]));
    }
    lora__buffer_puts(json, "]}");
}

/* Tensors by number type. */
static void describe_put_dtypes(lora__buffer *json, const lora_adapter *adapter)
{
    uint64_t counts[LORA_DTYPE_U64 + 1] = {0};

    for (size_t i = 0; i < adapter->container->entry_count; i++) {
        counts[adapter->container->entries[i].dtype]++;
    }
    lora__json_put_key(json, "dtype");
    lora__buffer_putc(json, '{');
    for (lora_dtype d = LORA_DTYPE_U64; d > LORA_DTYPE_NONE; d--) {
        if (counts[d] != 0) {
            lora__report_put_u64(json, lora_dtype_name(d), counts[d]);
        }
    }
    lora__buffer_putc(json, '}');
}

static const char *describe_kind(const lora__module *module)
{
    return module->kind == NULL ? "incomplete" : module->kind->id;
}

static void describe_put_kinds(lora__buffer *json, const lora_adapter *adapter)
{
    size_t incomplete = 0;

    lora__json_put_key(json, "kinds");
    lora__buffer_putc(json, '{');
    for (size_t k = 0; k < lora__kind_count(); k++) {
        const lora__kind *kind = lora__kind_at(k);
        size_t count = 0;
        for (size_t m = 0; m < adapter->module_count; m++) {
            count += adapter->modules[m].kind == kind;
        }
        if (count != 0) {
            lora__report_put_u64(json, kind->id, count);
        }
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        incomplete += adapter->modules[m].kind == NULL;
    }
    if (incomplete != 0) {
        lora__report_put_u64(json, "incomplete", incomplete);
    }
    lora__buffer_putc(json, '}');
}

static void describe_put_module(lora__buffer *json, const lora__module *module)
{
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "name", module->name);
    lora__report_put_string(json, "target", module->target);
    lora__report_put_string(json, "kind", describe_kind(module));
    lora__report_put_string(json, "dialect", lora__dialect_id(module->dialect));
    lora__report_put_u64(json, "rank", (uint64_t)module->rank);
    lora__json_put_key(json, "alpha");
    if (module->has_alpha) {
        lora__buffer_number(json, module->alpha);
    } else {
        lora__buffer_puts(json, "null");
    }
    lora__report_put_number(json, "scale", module->scale);
    lora__report_put_shape(json, "shape", module->shape, module->ndim);
    lora__report_put_string(json, "dtype", lora_dtype_name(module->dtype));
    lora__report_put_bool(json, "dora", module->dora);
    lora__report_put_bool(json, "tucker", module->tucker);
    lora__buffer_putc(json, '}');
}

static void describe_put_modules(lora__buffer *json,
                                 const lora_adapter *adapter)
{
    lora__json_put_key(json, "modules");
    lora__buffer_putc(json, '[');
    for (size_t m = 0; m < adapter->module_count; m++) {
        lora__buffer_puts(json, m == 0 ? "" : ",");
        describe_put_module(json, &adapter->modules[m]);
    }
    lora__buffer_putc(json, ']');
}

/* Learned tokens, each with the tensor that it is. */
static void describe_put_embeddings(lora__buffer *json,
                                    const lora_adapter *adapter)
{
    lora__json_put_key(json, "embeddings");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        const lora__embedding *embedding = &adapter->embeddings[i];
        const lora__entry *entry =
            &adapter->container->entries[embedding->entry];
        lora__buffer_puts(json, i == 0 ? "{" : ",{");
        lora__report_put_string(json, "token", embedding->token);
        lora__report_put_shape(json, "shape", entry->shape, entry->ndim);
        lora__report_put_string(json, "encoder", embedding->encoder);
        lora__report_put_string(json, "tensor", entry->name);
        lora__buffer_putc(json, '}');
    }
    lora__buffer_putc(json, ']');
}

static void describe_put_metadata(lora__buffer *json,
                                  const lora__container *container)
{
    lora__json_put_key(json, "metadata");
    lora__buffer_putc(json, '{');
    for (size_t i = 0; i < container->metadata_count; i++) {
        lora__report_put_string(json, container->metadata[i].key,
                                container->metadata[i].value);
    }
    lora__buffer_putc(json, '}');
}

static lora_status describe_put_hashes(lora__buffer *json,
                                       const lora_adapter *adapter,
                                       int wanted,
                                       lora_error *error)
{
    static const struct {
        const char *name;
        size_t offset;
    } all[] = {
        {"sha256", offsetof(lora_hashes, sha256)},
        {"auto_v1", offsetof(lora_hashes, auto_v1)},
        {"auto_v2", offsetof(lora_hashes, auto_v2)},
        {"auto_v3", offsetof(lora_hashes, auto_v3)},
        {"crc32", offsetof(lora_hashes, crc32)},
        {"blake3", offsetof(lora_hashes, blake3)},
        {"sshs_model_hash", offsetof(lora_hashes, sshs_model_hash)},
        {"sshs_legacy_hash", offsetof(lora_hashes, sshs_legacy_hash)},
        {"lycoris", offsetof(lora_hashes, lycoris)},
        {"content_id", offsetof(lora_hashes, content_id)},
    };
    lora_hashes hashes;

    lora__json_put_key(json, "hashes");
    lora__buffer_putc(json, '{');
    if (wanted) {
        TRY(lora__hash_container(&hashes, adapter->container, error));
        for (size_t i = 0; i < LORA__COUNT(all); i++) {
            const char *text = (const char *)&hashes + all[i].offset;
            lora__report_put_string(json, all[i].name,
                                    text[0] == '\0' ? NULL : text);
        }
    }
    lora__buffer_putc(json, '}');
    return LORA_OK;
}

static uint64_t describe_parameters(const lora_adapter *adapter)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < adapter->container->entry_count; i++) {
        if (adapter->entry_module[i] != SIZE_MAX) {
            sum += adapter->container->entries[i].elements;
        }
    }
    return sum;
}

static lora_status describe_write(lora_report *report,
                                  const lora_adapter *adapter,
                                  const lora_adapter_describe_options *options,
                                  lora_error *error)
{
    lora__buffer *json = &report->json;
    const lora__container *container = adapter->container;

    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "file", container->path);
    lora__report_put_string(json, "container", container->format);
    lora__report_put_u64(json, "bytes", container->file_bytes);
    lora__report_put_u64(json, "tensors", container->entry_count);
    describe_put_dialects(json, adapter);
    describe_put_base(json, adapter);
    describe_put_dtypes(json, adapter);
    lora__report_put_u64(json, "parameters", describe_parameters(adapter));
    describe_put_kinds(json, adapter);
    if (options->modules || adapter->module_count == 0) {
        describe_put_modules(json, adapter);
    }
    describe_put_embeddings(json, adapter);
    describe_put_metadata(json, container);
    TRY(lora__summary_put(json, adapter, error));
    TRY(describe_put_hashes(json, adapter, options->hashes != 0, error));
    lora__report_put_problems(report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(report, error);
}

LORA_API lora_status
lora_adapter_describe(lora_report **out,
                      const lora_adapter *adapter,
                      const lora_adapter_describe_options *options,
                      lora_error *error)
{
    lora_adapter_describe_options o;
    lora_report *report = NULL;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_adapter_describe_options, hashes),
                           options, error));
    TRY_OR_DONE(lora__report_create(&report, adapter->context, error));
    TRY_OR_DONE(lora__report_copy_problems(report, adapter, error));
    TRY_OR_DONE(describe_write(report, adapter, &o, error));
    *out = report;
    report = NULL;
done:
    lora_report_destroy(report);
    return status;
}
