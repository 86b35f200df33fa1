/* Checkpoints of the catalogues, matched with each other: the authors' layout
 * and diffusers' are the same model, tensor by tensor.
 */
#include "layouts.h"

#include "model/pair.h"

/* Weights and biases of a catalogue: targets, and tensors of the original. */
typedef struct amounts {
    size_t targets;
    size_t tensors;
} amounts;

static amounts count_amounts(const row *rows, size_t count)
{
    amounts a = {0, 0};

    for (size_t i = 0; i < count; i++) {
        size_t both = rows[i].has_bias ? 2 : 1;
        int first = 1;

        for (size_t j = 0; j < i && first; j++) {
            first = strcmp(rows[j].tensor, rows[i].tensor) != 0;
        }
        a.targets += both;
        a.tensors += first ? both : 0;
    }
    return a;
}

static lora__checkpoint *
make(lora_context *context, const row *rows, size_t count, size_t which)
{
    lora__checkpoint *c;

    assert_int_equal(
        lora__checkpoint_create(
            &c, lay_out(context, rows, count, &layouts[which]), "", NULL),
        LORA_OK);
    return c;
}

/* Every match is of both sides and sorted; there are so many. */
static void check_pair(const lora__checkpoint *base,
                       const lora__checkpoint *tuned,
                       int by_parts,
                       const char *family,
                       size_t want)
{
    lora__pair_options options = {0};
    lora__pair pair;

    options.by_parts = by_parts;
    assert_int_equal(lora__pair_create(&pair, base, tuned, &options, NULL),
                     LORA_OK);
    assert_string_equal(lora__family_id(pair.family), family);
    assert_int_equal(pair.count, want);
    assert_int_equal(pair.counts[LORA__MATCH_BOTH], want);
    for (size_t i = 0; i < pair.count; i++) {
        const lora__match *m = &pair.matches[i];

        assert_int_equal(m->state, LORA__MATCH_BOTH);
        assert_int_equal(m->known, 1);
        assert_string_equal(m->base.target, m->tuned.target);
        assert_int_equal(m->base.rows, m->tuned.rows);
        assert_int_equal(m->base.columns, m->tuned.columns);
        if (i > 0) {
            int order = strcmp(m[-1].target, m->target);
            assert_true(order < 0 || (order == 0 && m[-1].role < m->role));
        }
    }
    lora__pair_destroy(&pair);
}

static void layouts_match(void **state)
{
    const char *family = *(const char **)*state;
    lora__checkpoint *published;
    lora__checkpoint *in_one;
    lora__checkpoint *pipeline;
    lora_context *context;
    amounts a;
    size_t count;
    row *rows = load_catalogue(family, &count);

    if (rows == NULL) {
        skip();
    }
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    published = make(context, rows, count, 0);
    in_one = make(context, rows, count, 1);
    pipeline = make(context, rows, count, 3);
    a = count_amounts(rows, count);
    check_pair(published, pipeline, 0, family, a.targets);
    check_pair(pipeline, in_one, 1, family, a.targets);
    check_pair(published, in_one, 0, family, a.tensors);
    check_pair(published, in_one, 1, family, a.targets);
    check_pair(pipeline, pipeline, 0, family, a.targets);
    lora__checkpoint_release(published);
    lora__checkpoint_release(in_one);
    lora__checkpoint_release(pipeline);
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    free(rows);
}

int main(int argc, char **argv)
{
    return run_families("pair_layouts", layouts_match, argc, argv);
}
