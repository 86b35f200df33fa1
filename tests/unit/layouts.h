/* Checkpoints without data, laid out from the catalogues' columns: names and
 * shapes as files of a family have them.
 */
#ifndef TEST_LAYOUTS_H
#define TEST_LAYOUTS_H

#include "catalogues.h"

#include "model/checkpoint.h"

#include <lora/context.h>

/* The name of a row's tensor and whose names these are, "" for a row that the
 * layout does not have. */
typedef struct layout {
    const char *what;
    void (*name)(char *out, const row *r);
    int original;
} layout;

static inline int is_parameter(const row *r)
{
    return r->layer == LORA__LAYER_PARAMETER;
}

static inline const char *past_prefix(const char *name)
{
    static const char prefix[] = "model.diffusion_model.";

    return strncmp(name, prefix, sizeof prefix - 1) == 0
               ? name + sizeof prefix - 1
               : name;
}

/* As the authors published it. */
static inline void name_published(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s", r->tensor);
}

/* All in one file. */
static inline void name_in_one(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", is_text(r) ? "" : "model.diffusion_model.",
             is_text(r) ? r->tensor : past_prefix(r->tensor));
}

/* The model alone, without a prefix. */
static inline void name_bare(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s", is_text(r) ? "" : past_prefix(r->tensor));
}

static inline void name_pipeline(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", r->target, is_parameter(r) ? "" : ".weight");
}

/* The file of one component. */
static inline void name_component(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", is_text(r) ? "" : past_component(r->target),
             is_text(r)        ? ""
             : is_parameter(r) ? ""
                               : ".weight");
}

static const layout layouts[] = {
    {"published", name_published, 1},
    {"all in one", name_in_one, 1},
    {"bare", name_bare, 1},
    {"a pipeline's", name_pipeline, 0},
    {"a component's", name_component, 0},
};

/* "X.weight" and "X_weight" to the bias beside it. */
static inline void name_bias(char *name)
{
    size_t bytes = strlen(name);

    assert_true(bytes > 6 && strcmp(name + bytes - 6, "weight") == 0);
    strcpy(name + bytes - 6, "bias");
}

static inline lora__container *make_container(lora_context *context)
{
    lora__container *container;

    assert_int_equal(
        lora__container_create(&container, context, "memory", "", NULL),
        LORA_OK);
    return container;
}

/* Add a tensor unless its name is there. */
static inline void add_tensor(lora__container *container,
                              const char *name,
                              const int64_t *shape,
                              int ndim)
{
    size_t existing;
    lora__entry *entry;
    const char *copy;

    assert_int_equal(
        lora__arena_string(&copy, &container->arena, name, strlen(name), NULL),
        LORA_OK);
    assert_int_equal(lora__map_add(&existing, &container->by_name, copy,
                                   strlen(copy), container->entry_count, NULL),
                     LORA_OK);
    if (existing != container->entry_count) {
        return;
    }
    assert_int_equal(lora__container_add(&entry, container, NULL), LORA_OK);
    entry->name = copy;
    entry->name_bytes = strlen(copy);
    entry->dtype = LORA_DTYPE_F16;
    entry->ndim = ndim;
    memcpy(entry->shape, shape, (size_t)ndim * sizeof *shape);
}

/* The shape of the original tensor: of all rows, or transposed. */
static inline void original_shape(int64_t *out, const row *r)
{
    const char *slash = strchr(r->part, '/');

    memcpy(out, r->shape, sizeof r->shape);
    if (slash != NULL) {
        out[0] = strtol(slash + 1, NULL, 10);
    } else if (r->part[0] == 'T') {
        out[0] = r->shape[1];
        out[1] = r->shape[0];
    }
}

static inline lora__container *
lay_out(lora_context *context, const row *rows, size_t count, const layout *l)
{
    lora__container *container = make_container(context);

    for (size_t i = 0; i < count; i++) {
        int64_t shape[5];
        char name[MAX_KEY];

        l->name(name, &rows[i]);
        if (name[0] == '\0') {
            continue;
        }
        memcpy(shape, rows[i].shape, sizeof shape);
        if (l->original) {
            original_shape(shape, &rows[i]);
        }
        add_tensor(container, name, shape, rows[i].ndim);
        if (rows[i].has_bias) {
            name_bias(name);
            add_tensor(container, name, shape, 1);
        }
    }
    return container;
}

/* One test for each family, whose state leads to the family's name. */
static inline int run_families(const char *group,
                               void (*test)(void **state),
                               int argc,
                               char **argv)
{
    static struct CMUnitTest tests[64];
    static const char *ids[64];
    size_t count = lora__family_count();

    folder = argc > 1 ? argv[1] : NULL;
    assert_true(count <= 64);
    for (size_t f = 0; f < count; f++) {
        ids[f] = lora__family_id(lora__family_at(f));
        tests[f].name = ids[f];
        tests[f].test_func = test;
        tests[f].initial_state = (void *)(uintptr_t)&ids[f];
    }
    return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}

#endif
