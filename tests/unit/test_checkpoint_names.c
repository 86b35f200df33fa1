/* Checkpoints against the catalogues: of each family, in the layouts that its
 * files come in, every tensor has the catalogue's target, shape and rows.
 *
 * The checkpoints are tables of names and shapes alone, laid out from the
 * catalogue's columns; nothing reads a tensor.
 */
#include "catalogues.h"

#include "model/checkpoint.h"

#include <lora/context.h>

/* Layouts -------------------------------------------------------------------
 */

/* The name of a row's tensor and whose names these are, "" for a row that the
 * layout does not have. */
typedef struct layout {
    const char *what;
    void (*name)(char *out, const row *r);
    int original;
} layout;

static int is_parameter(const row *r)
{
    return r->layer == LORA__LAYER_PARAMETER;
}

static const char *past_prefix(const char *name)
{
    static const char prefix[] = "model.diffusion_model.";

    return strncmp(name, prefix, sizeof prefix - 1) == 0
               ? name + sizeof prefix - 1
               : name;
}

/* As the authors published it. */
static void name_published(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s", r->tensor);
}

/* All in one file. */
static void name_in_one(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", is_text(r) ? "" : "model.diffusion_model.",
             is_text(r) ? r->tensor : past_prefix(r->tensor));
}

/* The model alone, without a prefix. */
static void name_bare(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s", is_text(r) ? "" : past_prefix(r->tensor));
}

static void name_pipeline(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", r->target, is_parameter(r) ? "" : ".weight");
}

/* The file of one component. */
static void name_component(char *out, const row *r)
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
static void name_bias(char *name)
{
    size_t bytes = strlen(name);

    assert_true(bytes > 6 && strcmp(name + bytes - 6, "weight") == 0);
    strcpy(name + bytes - 6, "bias");
}

/* Checkpoints without data --------------------------------------------------
 */

static lora__container *make_container(lora_context *context)
{
    lora__container *container;

    assert_int_equal(
        lora__container_create(&container, context, "memory", "", NULL),
        LORA_OK);
    return container;
}

/* Add a tensor unless its name is there. */
static void add_tensor(lora__container *container,
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
static void original_shape(int64_t *out, const row *r)
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

static lora__container *
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

/* Checking ------------------------------------------------------------------
 */

static void check_member(const lora__checkpoint *c,
                         const row *r,
                         const layout *l,
                         const char *name,
                         lora__role role)
{
    const lora__holding *hold =
        lora__checkpoint_find_target(c, r->target, role);
    const lora__tensor *tensor;
    size_t bytes = strlen(r->target);

    if (hold == NULL) {
        fail_msg("%s names: nothing for %s", l->what, r->target);
        return;
    }
    tensor = &c->tensors[hold->tensor];
    assert_string_equal(hold->target, r->target);
    if (strcmp(tensor->name, name) != 0) {
        fail_msg("%s names: %s for %s, not %s", l->what, tensor->name,
                 r->target, name);
    }
    assert_int_equal(tensor->known, 1);
    assert_int_equal(tensor->use, LORA__TENSOR_TARGET);
    assert_int_equal(tensor->role, role);
    assert_int_equal(hold->layer, r->layer);
    assert_true(
        strncmp(r->target, tensor->component, strlen(tensor->component)) == 0);
    assert_true(bytes > strlen(tensor->component) &&
                r->target[strlen(tensor->component)] == '.');
    if (hold->part != NULL) {
        check_rows(&hold->part->rows, r->part);
        assert_int_equal(tensor->original, 1);
    } else {
        assert_true(!l->original || r->part[0] == '-');
        assert_int_equal(tensor->part_count, 0);
    }
    if (role == LORA__ROLE_BIAS) {
        assert_int_equal(hold->ndim, 1);
        assert_int_equal(hold->shape[0], r->shape[0]);
        return;
    }
    assert_int_equal(hold->ndim, r->ndim);
    for (int d = 0; d < r->ndim; d++) {
        assert_int_equal(hold->shape[d], r->shape[d]);
    }
}

static void check_layout(lora_context *context,
                         const char *family,
                         const row *rows,
                         size_t count,
                         const layout *l)
{
    lora__checkpoint *c;

    assert_int_equal(
        lora__checkpoint_create(&c, lay_out(context, rows, count, l), "", NULL),
        LORA_OK);
    if (c->family == NULL || strcmp(lora__family_id(c->family), family) != 0) {
        fail_msg("%s in %s names is taken for %s", family, l->what,
                 c->family == NULL ? "none" : lora__family_id(c->family));
    }
    assert_true(c->confidence >= 0.9);
    for (size_t i = 0; i < count; i++) {
        char name[MAX_KEY];

        l->name(name, &rows[i]);
        if (name[0] == '\0') {
            continue;
        }
        check_member(c, &rows[i], l, name, LORA__ROLE_WEIGHT);
        if (rows[i].has_bias) {
            name_bias(name);
            check_member(c, &rows[i], l, name, LORA__ROLE_BIAS);
        }
    }
    lora__checkpoint_release(c);
}

static void is_read(void **state)
{
    const char *family = *(const char **)*state;
    lora_context *context;
    size_t count;
    row *rows = load_catalogue(family, &count);

    if (rows == NULL) {
        skip();
    }
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    for (size_t l = 0; l < sizeof layouts / sizeof layouts[0]; l++) {
        check_layout(context, family, rows, count, &layouts[l]);
    }
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    free(rows);
}

int main(int argc, char **argv)
{
    static struct CMUnitTest tests[64];
    static const char *ids[64];
    size_t count = lora__family_count();

    folder = argc > 1 ? argv[1] : NULL;
    assert_true(count <= 64);
    for (size_t f = 0; f < count; f++) {
        ids[f] = lora__family_id(lora__family_at(f));
        tests[f].name = ids[f];
        tests[f].test_func = is_read;
        tests[f].initial_state = (void *)(uintptr_t)&ids[f];
    }
    return _cmocka_run_group_tests("checkpoint_names", tests, count, NULL,
                                   NULL);
}
