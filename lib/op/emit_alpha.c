/* Alpha in metadata, for dialects that have no tensor for it.
 *
 * diffusers reads the entry lora_adapter_metadata, a JSON text with the fields
 * of PEFT's LoraConfig, each behind its component: "unet.r",
 * "unet.lora_alpha", "unet.alpha_pattern" (formats.md 7.2). The most common
 * rank and alpha of a component become its defaults, the others patterns.
 *
 * Beside it stands an entry of our own, "liblora.alpha": the type in which
 * the tensors were stored, so that converting back gives the same bytes, and
 * the metadata keys that were added, so that they can be taken out again.
 */
#include "op/emit_alpha.h"

#include "adapter/config.h"
#include "core/text.h"
#include "format/json.h"
#include "format/sort.h"
#include "op/peft_type.h"

#include <string.h>

/* By component, those without one first, then by name. */
static int emit_alpha_compare(const void *a, const void *b)
{
    const lora__emit_alpha *x = a;
    const lora__emit_alpha *y = b;
    int no_x = x->component == 0;
    int no_y = y->component == 0;

    return no_x != no_y ? no_y - no_x : strcmp(x->target, y->target);
}

/* The path of a module within its component. Text encoders are entered below
 * "text_model", a level that newer models do not have: names match by their
 * end. */
static const char *emit_alpha_path(const lora__emit_alpha *alpha)
{
    static const char level[] = "text_model.";
    const char *path =
        alpha->target + alpha->component + (alpha->component != 0 ? 1 : 0);

    return strncmp(path, level, sizeof level - 1) == 0 ? path + sizeof level - 1
                                                       : path;
}

static double emit_alpha_value(const lora__emit_alpha *alpha, int of_rank)
{
    return of_rank ? (double)alpha->rank : alpha->alpha;
}

static int emit_alpha_compare_numbers(const void *a, const void *b)
{
    const double *x = a;
    const double *y = b;

    return (*x > *y) - (*x < *y);
}

/* The most frequent alpha (or rank): the longest run once they are sorted. */
static lora_status emit_alpha_common(double *out,
                                     const lora__emit_alpha *alphas,
                                     size_t count,
                                     int of_rank,
                                     lora_context *context,
                                     lora_error *error)
{
    size_t best = 0;
    size_t run = 0;
    double *values;
    void *memory;

    TRY(lora__alloc_zeroed(&memory, context, count, sizeof *values, error));
    values = memory;
    for (size_t i = 0; i < count; i++) {
        values[i] = emit_alpha_value(&alphas[i], of_rank);
    }
    lora__sort(values, count, sizeof *values, emit_alpha_compare_numbers);
    for (size_t i = 0; i < count; i++) {
        run = i > 0 && values[i] == values[i - 1] ? run + 1 : 1;
        if (run > best) {
            best = run;
            *out = values[i];
        }
    }
    lora__free(context, values, count * sizeof *values, LORA__ALIGN);
    return LORA_OK;
}

static void emit_alpha_key(lora__buffer *json,
                           const char *target,
                           size_t component,
                           const char *field)
{
    lora__buffer key;

    lora__buffer_init(&key, json->context);
    lora__buffer_append(&key, target, component);
    lora__buffer_puts(&key, component == 0 ? "" : ".");
    lora__buffer_puts(&key, field);
    lora__buffer_puts(json, json->bytes == 1 ? "\n  " : ",\n  ");
    if (!key.failed) {
        lora__json_put_string(json, key.data);
    }
    json->failed |= key.failed;
    lora__buffer_puts(json, ": ");
    lora__buffer_destroy(&key);
}

/* By paths read from their ends, with the dot before all letters: behind a path
 * come those that it ends, before any other. */
static int emit_alpha_compare_ends(const void *a, const void *b)
{
    const char *x = emit_alpha_path(*(lora__emit_alpha *const *)a);
    const char *y = emit_alpha_path(*(lora__emit_alpha *const *)b);
    size_t i = strlen(x);
    size_t j = strlen(y);

    while (i > 0 && j > 0 && x[i - 1] == y[j - 1]) {
        i--;
        j--;
    }
    if (i == 0 || j == 0) {
        return (i > 0) - (j > 0);
    }
    if (x[i - 1] == '.' || y[j - 1] == '.') {
        return x[i - 1] == '.' ? -1 : 1;
    }
    return (unsigned char)x[i - 1] < (unsigned char)y[j - 1] ? -1 : 1;
}

/* 1 if one path ends another one, after a dot. */
static int emit_alpha_ends(const char *path, const char *other)
{
    size_t bytes = strlen(path);
    size_t length = strlen(other);

    return length > bytes && other[length - bytes - 1] == '.' &&
           memcmp(other + length - bytes, path, bytes) == 0;
}

/* Mark the modules whose path ends that of another one, to which a pattern
 * would apply as well. */
static lora_status emit_alpha_mark_ends(lora__emit_alpha *alphas,
                                        size_t count,
                                        lora_context *context,
                                        lora_error *error)
{
    lora__emit_alpha **order;
    void *memory;

    TRY(lora__alloc_zeroed(&memory, context, count, sizeof *order, error));
    order = memory;
    for (size_t i = 0; i < count; i++) {
        order[i] = &alphas[i];
    }
    lora__sort(order, count, sizeof *order, emit_alpha_compare_ends);
    for (size_t i = count - 1; i-- > 0;) {
        const char *path = emit_alpha_path(order[i]);
        const char *next = emit_alpha_path(order[i + 1]);
        order[i]->is_end = strcmp(path, next) == 0
                               ? order[i + 1]->is_end
                               : emit_alpha_ends(path, next);
    }
    lora__free(context, order, count * sizeof *order, LORA__ALIGN);
    return LORA_OK;
}

static void emit_alpha_put_path(lora__buffer *json, const char *path, int whole)
{
    lora__buffer key;

    lora__buffer_init(&key, json->context);
    lora__buffer_puts(&key, whole ? "^" : "");
    lora__buffer_puts(&key, path);
    if (!key.failed) {
        lora__json_put_string(json, key.data);
    }
    json->failed |= key.failed;
    lora__buffer_destroy(&key);
}

/* {"path": value, ...} of the modules that differ from the default. */
static void emit_alpha_pattern(lora__buffer *json,
                               const lora__emit_alpha *alphas,
                               size_t count,
                               int of_rank,
                               double common)
{
    int first = 1;

    lora__buffer_putc(json, '{');
    for (size_t i = 0; i < count; i++) {
        double value = emit_alpha_value(&alphas[i], of_rank);
        if (value == common) {
            continue;
        }
        lora__buffer_puts(json, first ? "\n    " : ",\n    ");
        emit_alpha_put_path(json, emit_alpha_path(&alphas[i]),
                            alphas[i].is_end);
        lora__buffer_puts(json, ": ");
        lora__buffer_number(json, value);
        first = 0;
    }
    lora__buffer_puts(json, first ? "}" : "\n  }");
}

/* Paths of all modules, or of those that scale inputs. */
static void emit_alpha_targets(lora__buffer *json,
                               const lora__emit_alpha *alphas,
                               size_t count,
                               int feedforward)
{
    int first = 1;

    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < count; i++) {
        if (!feedforward || alphas[i].is_feedforward) {
            lora__buffer_puts(json, first ? "\n    " : ",\n    ");
            lora__json_put_string(json, emit_alpha_path(&alphas[i]));
            first = 0;
        }
    }
    lora__buffer_puts(json, first ? "]" : "\n  ]");
}

static void emit_alpha_flag(lora__buffer *json,
                            const lora__emit_alpha *alpha,
                            const char *field,
                            int value)
{
    emit_alpha_key(json, alpha->target, alpha->component, field);
    lora__buffer_puts(json, value ? "true" : "false");
}

LORA_PRIVATE void lora__alpha_describe(lora__emit_alpha *alpha,
                                       const lora__module *module,
                                       int64_t rank)
{
    alpha->rank = rank;
    alpha->transposed = module->transposed;
    alpha->has_bias = lora__module_find(module, LORA__ROLE_UP_BIAS) != NULL;
    alpha->biases = lora__module_replaces_bias(module);
    alpha->has_dora = lora__module_find(module, LORA__ROLE_DORA) != NULL;
    alpha->has_core = module->tucker;
    alpha->is_feedforward = module->of_inputs > 0;
    alpha->type = lora__peft_type_of(module);
}

/* What a configuration has to say of all its modules. */
typedef struct emit_alpha_fields {
    lora__emit_alpha any; /* flags of any module */
    const lora__peft_type *type;
    double alpha;
    double rank;
} emit_alpha_fields;

/* PEFT has adapters of one type; what is of several is written as LoRA. */
static lora_status emit_alpha_collect(emit_alpha_fields *out,
                                      const lora__emit_alpha *alphas,
                                      size_t count,
                                      lora_context *context,
                                      lora_error *error)
{
    memset(out, 0, sizeof *out);
    out->type = alphas[0].type;
    out->any.factor = alphas[0].factor;
    for (size_t i = 0; i < count; i++) {
        out->any.transposed |= alphas[i].transposed;
        out->any.has_bias |= alphas[i].has_bias;
        out->any.has_dora |= alphas[i].has_dora;
        out->any.biases = alphas[i].biases > out->any.biases ? alphas[i].biases
                                                             : out->any.biases;
        out->any.has_core |= alphas[i].has_core;
        out->any.both |= alphas[i].both;
        if (out->type == NULL || alphas[i].type != out->type) {
            out->type = lora__peft_type_plain();
        }
    }
    TRY(emit_alpha_common(&out->alpha, alphas, count, 0, context, error));
    return emit_alpha_common(&out->rank, alphas, count, 1, context, error);
}

/* The first half of the fields, by name. */
static void emit_alpha_put_scales(lora__buffer *json,
                                  const lora__emit_alpha *alphas,
                                  size_t count,
                                  const emit_alpha_fields *f)
{
    static const char *const biases[] = {"\"none\"", "\"lora_only\"",
                                         "\"all\""};
    const char *target = alphas[0].target;
    size_t component = alphas[0].component;

    if (f->type->alpha != NULL && !f->type->is_pair) {
        emit_alpha_key(json, target, component, f->type->alpha);
        lora__buffer_number(json, f->alpha);
    }
    if (f->type->alpha != NULL) {
        emit_alpha_key(json, target, component, "alpha_pattern");
        emit_alpha_pattern(json, alphas, count, 0, f->alpha);
    }
    if (f->type->is_pair) {
        emit_alpha_key(json, target, component, "bias");
        lora__buffer_puts(json, biases[f->any.biases]);
    }
    if (f->type->is_kronecker && f->any.factor != 0) {
        emit_alpha_flag(json, &alphas[0], "decompose_both", f->any.both);
        emit_alpha_key(json, target, component, "decompose_factor");
        lora__buffer_number(json, (double)f->any.factor);
    }
    if (f->any.transposed) {
        emit_alpha_flag(json, &alphas[0], "fan_in_fan_out", 1);
    }
    if (f->type->has_sides) {
        emit_alpha_key(json, target, component, "feedforward_modules");
        emit_alpha_targets(json, alphas, count, 1);
    }
    if (f->type->is_pair) {
        emit_alpha_key(json, target, component, f->type->alpha);
        lora__buffer_number(json, f->alpha);
        emit_alpha_flag(json, &alphas[0], "lora_bias", f->any.has_bias);
    }
}

static void emit_alpha_put_count(lora__buffer *json,
                                 const lora__emit_alpha *alpha,
                                 const char *field,
                                 int64_t value)
{
    emit_alpha_key(json, alpha->target, alpha->component, field);
    lora__buffer_printf(json, "%lld", (long long)value);
}

/* What OFT and BOFT have instead of an alpha and a rank. */
static void emit_alpha_put_blocks(lora__buffer *json,
                                  const lora__emit_alpha *alpha)
{
    const lora__peft_oft *oft = alpha->oft;

    emit_alpha_put_count(json, alpha, alpha->type->blocks, alpha->blocks);
    emit_alpha_put_count(json, alpha, alpha->type->side, alpha->side);
    if (alpha->type->is_butterfly) {
        emit_alpha_put_count(json, alpha, "boft_n_butterfly_factor",
                             alpha->stages);
    }
    if (oft == NULL) {
        return;
    }
    emit_alpha_flag(json, alpha, "block_share", oft->shared);
    emit_alpha_flag(json, alpha, "coft", oft->limited);
    emit_alpha_key(json, alpha->target, alpha->component, "eps");
    lora__buffer_number(json, oft->eps);
    emit_alpha_key(json, alpha->target, alpha->component,
                   "num_cayley_neumann_terms");
    lora__buffer_number(json, oft->terms);
    if (oft->version != 0) {
        emit_alpha_key(json, alpha->target, alpha->component, "peft_version");
        lora__buffer_printf(json, "\"%d.%d.0\"", oft->version / 1000,
                            oft->version % 1000);
    }
    emit_alpha_flag(json, alpha, "use_cayley_neumann", oft->series);
}

/* The fields of one component, keys in order, as diffusers writes them. */
static lora_status emit_alpha_put_fields(lora__buffer *json,
                                         lora__emit_alpha *alphas,
                                         size_t count,
                                         lora_error *error)
{
    const char *target = alphas[0].target;
    size_t component = alphas[0].component;
    emit_alpha_fields f;

    TRY(emit_alpha_collect(&f, alphas, count, json->context, error));
    TRY(emit_alpha_mark_ends(alphas, count, json->context, error));
    emit_alpha_put_scales(json, alphas, count, &f);
    if (f.type->blocks != NULL) {
        emit_alpha_put_blocks(json, &alphas[0]);
    }
    emit_alpha_key(json, target, component, "peft_type");
    lora__json_put_string(json, f.type->id);
    if (f.type->alpha != NULL) {
        emit_alpha_key(json, target, component, "r");
        lora__buffer_number(json, f.rank);
        emit_alpha_key(json, target, component, "rank_pattern");
        emit_alpha_pattern(json, alphas, count, 1, f.rank);
    }
    emit_alpha_key(json, target, component, "target_modules");
    emit_alpha_targets(json, alphas, count, 0);
    if (f.type->is_pair) {
        emit_alpha_flag(json, &alphas[0], "use_dora", f.any.has_dora);
    }
    if (f.type->has_core) {
        emit_alpha_flag(json, &alphas[0], "use_effective_conv2d",
                        f.any.has_core);
    }
    if (f.type->is_pair) {
        emit_alpha_flag(json, &alphas[0], "use_rslora", 0);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__alpha_put_config(lora__buffer *json,
                                                lora__emit_alpha *alphas,
                                                size_t count,
                                                lora_error *error)
{
    lora__sort(alphas, count, sizeof *alphas, emit_alpha_compare);
    lora__buffer_putc(json, '{');
    for (size_t begin = 0; begin < count;) {
        const char *target = alphas[begin].target;
        size_t component = alphas[begin].component;
        size_t end = begin + 1;
        while (end < count && alphas[end].component == component &&
               memcmp(alphas[end].target, target, component) == 0) {
            end++;
        }
        TRY(emit_alpha_put_fields(json, alphas + begin, end - begin, error));
        begin = end;
    }
    lora__buffer_puts(json, "\n}");
    return lora__buffer_status(json, error);
}

/* ---- our own record ---------------------------------------------------- */

/* "F16/0": type and number of dimensions, with "=0" behind it where the value
 * was 0; "none" where there was no tensor. */
static void emit_alpha_put_stored(lora__buffer *json,
                                  const lora__emit_alpha *alpha)
{
    if (alpha->dtype == LORA_DTYPE_NONE) {
        lora__buffer_puts(json, "\"none\"");
    } else {
        lora__buffer_printf(json, "\"%s/%d%s\"", lora_dtype_name(alpha->dtype),
                            (int)alpha->ndim, alpha->was_zero ? "=0" : "");
    }
}

LORA_PRIVATE void lora__alpha_put_record(lora__buffer *json,
                                         const lora__emit_alpha *alphas,
                                         size_t count,
                                         const char *const *added)
{
    int first = 1;

    lora__buffer_puts(json, "{\"stored\":");
    emit_alpha_put_stored(json, &alphas[0]);
    lora__buffer_puts(json, ",\"modules\":{");
    for (size_t i = 1; i < count; i++) {
        if (alphas[i].dtype != alphas[0].dtype ||
            alphas[i].ndim != alphas[0].ndim ||
            alphas[i].was_zero != alphas[0].was_zero) {
            lora__buffer_puts(json, first ? "" : ",");
            lora__json_put_string(json, alphas[i].target);
            lora__buffer_putc(json, ':');
            emit_alpha_put_stored(json, &alphas[i]);
            first = 0;
        }
    }
    lora__buffer_puts(json, "},\"added\":[");
    for (size_t i = 0; added[i] != NULL; i++) {
        lora__buffer_puts(json, i == 0 ? "" : ",");
        lora__json_put_string(json, added[i]);
    }
    lora__buffer_puts(json, "]}");
}

/* The next string, decoded into the arena; *out NULL at the end of a
 * container. */
static lora_status emit_alpha_string(const char **out,
                                     lora__json *json,
                                     lora__arena *arena,
                                     lora_error *error)
{
    lora__json_event event;
    char *text;
    size_t bytes;

    *out = NULL;
    TRY(lora__json_next(&event, json, error));
    if (event.type == LORA__JSON_ARRAY_END ||
        event.type == LORA__JSON_OBJECT_END) {
        return LORA_OK;
    }
    if (event.type != LORA__JSON_STRING && event.type != LORA__JSON_KEY) {
        return lora__fail(error, LORA_ERROR_FORMAT, event.offset,
                          LORA__ALPHA_KEY, "a string belongs here");
    }
    text = lora__arena_alloc(arena, event.bytes + 1);
    if (text == NULL) {
        return lora__fail_memory(error, event.bytes);
    }
    TRY(lora__json_decode(text, &bytes, &event, error));
    *out = text;
    return LORA_OK;
}

static lora_status emit_alpha_read_modules(lora__alpha_record *out,
                                           lora__json *json,
                                           lora__arena *arena,
                                           size_t room,
                                           lora_error *error)
{
    for (;;) {
        const char *target;
        size_t count = out->modules.count;
        size_t place;

        TRY(emit_alpha_string(&target, json, arena, error));
        if (target == NULL) {
            return LORA_OK;
        }
        if (count == room) {
            return lora__fail(error, LORA_ERROR_FORMAT, LORA_NO_OFFSET,
                              LORA__ALPHA_KEY, "more modules than the file");
        }
        TRY(lora__map_add(&place, &out->modules, target, strlen(target), count,
                          error));
        TRY(emit_alpha_string(&out->stored[place], json, arena, error));
    }
}

static lora_status emit_alpha_read(lora__alpha_record *out,
                                   lora__json *json,
                                   lora__arena *arena,
                                   size_t room,
                                   lora_error *error)
{
    lora__json_event event;
    const char *text;

    TRY(lora__json_next(&event, json, error));
    for (;;) {
        TRY(emit_alpha_string(&text, json, arena, error));
        if (text == NULL) {
            return LORA_OK;
        }
        if (strcmp(text, "stored") == 0) {
            TRY(emit_alpha_string(&out->common, json, arena, error));
            continue;
        }
        TRY(lora__json_next(&event, json, error));
        if (event.type == LORA__JSON_OBJECT_BEGIN) {
            TRY(emit_alpha_read_modules(out, json, arena, room, error));
            continue;
        }
        while (event.type == LORA__JSON_ARRAY_BEGIN) {
            TRY(emit_alpha_string(&text, json, arena, error));
            if (text == NULL || out->added_count == LORA__COUNT(out->added)) {
                break;
            }
            out->added[out->added_count++] = text;
        }
    }
}

LORA_PRIVATE lora_status lora__alpha_read_record(lora__alpha_record *out,
                                                 int *out_found,
                                                 lora__arena *arena,
                                                 const lora_adapter *source,
                                                 lora_error *error)
{
    const char *text =
        lora__container_metadata(source->container, LORA__ALPHA_KEY);
    lora__json json;
    lora_error ignored;
    lora_status status;
    void *memory;

    memset(out, 0, sizeof *out);
    *out_found = 0;
    lora__map_init(&out->modules, source->context);
    if (text == NULL) {
        return LORA_OK;
    }
    TRY(lora__arena_zeroed(&memory, arena, source->module_count,
                           sizeof *out->stored, error));
    out->stored = memory;
    lora_error_init(&ignored, sizeof ignored);
    lora__json_init(&json, text, strlen(text), 0, 4);
    status = emit_alpha_read(out, &json, arena, source->module_count, &ignored);
    if (status == LORA_ERROR_MEMORY) {
        return lora__error_merge(error, &ignored);
    }
    *out_found = status == LORA_OK && out->common != NULL;
    return LORA_OK;
}

LORA_PRIVATE void lora__alpha_stored(double *alpha,
                                     lora_dtype *out_dtype,
                                     int32_t *out_ndim,
                                     const lora__alpha_record *record,
                                     const char *target)
{
    const char *stored = record->common;
    const char *slash;
    char name[16] = "";
    size_t i;

    if (lora__map_find(&i, &record->modules, target, strlen(target)) &&
        record->stored[i] != NULL) {
        stored = record->stored[i];
    }
    slash = strchr(stored, '/');
    if (slash != NULL && (size_t)(slash - stored) < sizeof name) {
        memcpy(name, stored, (size_t)(slash - stored));
    }
    *out_dtype = lora_dtype_from_name(name);
    *out_ndim = slash != NULL && slash[1] == '1';
    if (slash != NULL && strchr(slash, '=') != NULL) {
        *alpha = 0.0;
    }
}
