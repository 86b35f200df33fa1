/* Tensors, a line each: "NAME ROWSxCOLUMNSx... TYPE", all but the name may be
 * absent. Those up to an empty line are a base, the rest a tuned model. Every
 * share of a tensor is read, and the two are matched: each tensor once, whole
 * or by all of its parts.
 */
#include "fuzz.h"

#include "kernel/kernel.h"
#include "model/pair.h"

const char fuzz_name[] = "checkpoint";

enum { MOST_TENSORS = 64, MOST_VALUES = 4096, MOST_SIZE = 16 };

/* The value of an element is its number, in F32; other types have its bytes. */
static float numbers[MOST_VALUES];

typedef struct text {
    const char *at;
    const char *end;
} text;

/* One line, without its end; 0 at the end of the text. */
static int take_line(text *line, text *all)
{
    const char *stop;

    if (all->at == all->end) {
        return 0;
    }
    stop = memchr(all->at, '\n', (size_t)(all->end - all->at));
    line->at = all->at;
    line->end = stop == NULL ? all->end : stop;
    all->at = stop == NULL ? all->end : stop + 1;
    return 1;
}

/* "2x3x1", up to a space; as much of it as makes sense. */
static void take_shape(lora__entry *entry, text *line)
{
    while (line->at < line->end && *line->at != ' ' &&
           entry->ndim < LORA_MAX_DIMS) {
        int64_t size = 0;
        while (line->at < line->end && *line->at >= '0' && *line->at <= '9') {
            size = (size * 10 + (*line->at++ - '0')) % (MOST_SIZE + 1);
        }
        entry->shape[entry->ndim++] = size;
        line->at += line->at < line->end && *line->at != ' ';
    }
    line->at += line->at < line->end;
}

static lora_dtype take_dtype(const text *line)
{
    static const lora_dtype types[] = {
        LORA_DTYPE_F16, LORA_DTYPE_BF16, LORA_DTYPE_F64, LORA_DTYPE_F8_E4M3,
        LORA_DTYPE_I8,  LORA_DTYPE_I64,  LORA_DTYPE_F4,
    };

    return line->at < line->end && *line->at >= '1' && *line->at <= '7'
               ? types[*line->at - '1']
               : LORA_DTYPE_F32;
}

/* Containers refuse a NUL in a name, and a name given twice. */
static void add_tensor(lora__container *container, text line)
{
    const char *space = memchr(line.at, ' ', (size_t)(line.end - line.at));
    size_t bytes = (size_t)((space == NULL ? line.end : space) - line.at);
    const char *name;
    size_t existing;
    lora__entry *entry;

    if (memchr(line.at, '\0', bytes) != NULL ||
        lora__map_find(&existing, &container->by_name, line.at, bytes) ||
        container->entry_count == MOST_TENSORS) {
        return;
    }
    assert_int_equal(
        lora__arena_string(&name, &container->arena, line.at, bytes, NULL),
        LORA_OK);
    assert_int_equal(lora__map_add(&existing, &container->by_name, name, bytes,
                                   container->entry_count, NULL),
                     LORA_OK);
    assert_int_equal(lora__container_add(&entry, container, NULL), LORA_OK);
    entry->name = name;
    entry->name_bytes = bytes;
    line.at = space == NULL ? line.end : space + 1;
    take_shape(entry, &line);
    entry->dtype = take_dtype(&line);
    entry->elements = 1;
    for (int32_t d = 0; d < entry->ndim; d++) {
        entry->elements *= (uint64_t)entry->shape[d];
        if (entry->elements > MOST_VALUES / 2) {
            entry->ndim = 0;
            entry->elements = 1;
        }
    }
    entry->bytes = entry->elements * lora_dtype_bits(entry->dtype) / 8;
    entry->data = numbers;
}

/* The tensors up to an empty line. */
static lora__container *take_container(text *all, lora_context *context)
{
    lora__container *container;
    text line;

    assert_int_equal(
        lora__container_create(&container, context, "memory", "", NULL),
        LORA_OK);
    while (take_line(&line, all) && line.at < line.end) {
        add_tensor(container, line);
    }
    return container;
}

/* Every value of a share is one of the tensor's, and in no other part of it. */
static void read_share(const lora__checkpoint *c,
                       const lora__holding *hold,
                       unsigned char *seen)
{
    static float values[MOST_VALUES];
    const lora__tensor *tensor = &c->tensors[hold->tensor];
    size_t count = (size_t)(hold->rows * hold->columns);
    lora_status status;

    assert_true(count <= tensor->entry->elements);
    status = lora__checkpoint_read_rows(values, LORA_DTYPE_F32, c, hold, 0,
                                        (size_t)hold->rows, NULL);
    if (count == 0 || !lora__dtype_is_readable(tensor->entry->dtype)) {
        assert_true(status == LORA_OK || status == LORA_ERROR_DTYPE);
        return;
    }
    assert_true(status == LORA_OK || tensor->scale != SIZE_MAX);
    for (size_t i = 0; tensor->entry->dtype == LORA_DTYPE_F32 &&
                       tensor->scale == SIZE_MAX && i < count;
         i++) {
        size_t at = (size_t)values[i];
        assert_true(at < tensor->entry->elements && seen[at]++ == 0);
    }
}

static void read_checkpoint(const lora__checkpoint *c)
{
    for (size_t i = 0; i < c->hold_count; i++) {
        const lora__holding *hold = &c->holds[i];
        assert_ptr_equal(lora__checkpoint_find_target(
                             c, hold->target, c->tensors[hold->tensor].role),
                         hold);
    }
    for (size_t i = 0; i < c->tensor_count; i++) {
        const lora__tensor *tensor = &c->tensors[i];
        unsigned char seen[MOST_VALUES] = {0};
        lora__holding hold;

        assert_true(lora__tensor_matches(tensor, "*"));
        assert_int_equal(lora__checkpoint_hold(&hold, c, i, NULL, NULL),
                         LORA_OK);
        read_share(c, &hold, seen);
        memset(seen, 0, sizeof seen);
        for (size_t p = 0; p < tensor->part_count; p++) {
            assert_int_equal(
                lora__checkpoint_hold(&hold, c, i, &tensor->parts[p], NULL),
                LORA_OK);
            read_share(c, &hold, seen);
        }
    }
}

/* One more time that a tensor, or a part of it, is in the list. */
static void
count_share(size_t *counts, const lora__checkpoint *c, const lora__holding *h)
{
    if (h->target != NULL) {
        counts[h->tensor] +=
            h->part == NULL ? 1
                            : MOST_TENSORS / c->tensors[h->tensor].part_count;
    }
}

static void check_counts(const size_t *counts, const lora__checkpoint *c)
{
    for (size_t i = 0; i < c->tensor_count; i++) {
        size_t parts = c->tensors[i].part_count;
        assert_true(counts[i] == 1 ||
                    (parts > 0 && counts[i] == MOST_TENSORS / parts * parts));
    }
}

static void
pair(const lora__checkpoint *base, const lora__checkpoint *tuned, int by_parts)
{
    size_t in_base[MOST_TENSORS] = {0};
    size_t in_tuned[MOST_TENSORS] = {0};
    size_t both = 0;
    lora__pair_options options = {0};
    lora__pair p;
    lora_status status;

    options.skip_shapes = 1;
    options.by_parts = by_parts;
    status = lora__pair_create(&p, base, tuned, &options, NULL);
    assert_true(status == LORA_OK || status == LORA_ERROR_KEY);
    for (size_t i = 0; i < p.count; i++) {
        const lora__match *m = &p.matches[i];

        assert_true(i == 0 || strcmp(m[-1].target, m->target) <= 0);
        count_share(in_base, base, &m->base);
        count_share(in_tuned, tuned, &m->tuned);
        if (m->state == LORA__MATCH_BOTH) {
            assert_int_equal(m->base.rows, m->tuned.rows);
            assert_int_equal(m->base.columns, m->tuned.columns);
            both++;
        }
    }
    if (status == LORA_OK) {
        assert_int_equal(both, p.counts[LORA__MATCH_BOTH]);
        check_counts(in_base, base);
        check_counts(in_tuned, tuned);
    }
    lora__pair_destroy(&p);
}

static lora__checkpoint *open_container(lora__container *container)
{
    lora__checkpoint *c;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora__checkpoint_create(&c, container, "", &error);
    assert_true(status == LORA_OK || status == LORA_ERROR_DUPLICATE);
    assert_true((c != NULL) == (status == LORA_OK));
    if (c != NULL) {
        read_checkpoint(c);
    }
    return c;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    text all = {(const char *)data, (const char *)data + bytes};
    lora__checkpoint *base;
    lora__checkpoint *tuned;
    lora_context *context;
    heap memory;

    for (size_t i = 0; i < MOST_VALUES; i++) {
        numbers[i] = (float)i;
    }
    context = make_context(&memory, NULL);
    base = open_container(take_container(&all, context));
    tuned = open_container(take_container(&all, context));
    if (base != NULL && tuned != NULL) {
        pair(base, tuned, 0);
        pair(base, tuned, 1);
        pair(base, base, 0);
    }
    lora__checkpoint_release(base);
    lora__checkpoint_release(tuned);
    end_context(&memory, context);
    return 0;
}
