/* Checkpoints against the catalogues: of each family, in the layouts that its
 * files come in, every tensor has the catalogue's target, shape and rows.
 *
 * The checkpoints are tables of names and shapes alone, laid out from the
 * catalogue's columns; nothing reads a tensor.
 */
#include "layouts.h"

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
    return run_families("checkpoint_names", is_read, argc, argv);
}
