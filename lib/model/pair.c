/* Matching two checkpoints.
 *
 * Both lists are sorted and walked side by side, first with weights whole, then
 * with the parts of what had no match.
 */
#include "model/pair.h"

#include "format/sort.h"

#include <string.h>

/* A tensor of one side, or a part of one. */
typedef struct pair_item {
    lora__holding hold;
    const lora__tensor *tensor;
    int taken;
} pair_item;

typedef struct pair_list {
    const lora__checkpoint *c;
    pair_item *items;
    size_t count;
    size_t capacity;
} pair_list;

typedef struct pair_job {
    lora__pair *pair;
    const lora__pair_options *options;
    pair_list base;
    pair_list tuned;
    size_t capacity; /* of matches */
} pair_job;

/* Lists --------------------------------------------------------------------
 */

/* By target and member. */
static int pair_order(const pair_item *x, const pair_item *y)
{
    int order = strcmp(x->hold.target, y->hold.target);

    return order != 0 ? order
                      : (x->tensor->role > y->tensor->role) -
                            (x->tensor->role < y->tensor->role);
}

static int pair_compare_items(const void *a, const void *b)
{
    const pair_item *x = a;
    const pair_item *y = b;
    int order = pair_order(x, y);

    return order != 0 ? order
                      : (x->hold.tensor > y->hold.tensor) -
                            (x->hold.tensor < y->hold.tensor);
}

static lora_status pair_add_item(pair_list *list,
                                 size_t tensor,
                                 const lora__part *part,
                                 lora_error *error)
{
    void *items = list->items;
    pair_item *item;

    TRY(lora__grow(&items, &list->capacity, list->c->context, list->count + 1,
                   sizeof *item, error));
    list->items = items;
    item = &list->items[list->count];
    item->tensor = &list->c->tensors[tensor];
    item->taken = 0;
    TRY(lora__checkpoint_hold(&item->hold, list->c, tensor, part, error));
    list->count++;
    return LORA_OK;
}

static lora_status
pair_add_parts(pair_list *list, size_t tensor, lora_error *error)
{
    const lora__tensor *t = &list->c->tensors[tensor];

    for (size_t p = 0; p < t->part_count; p++) {
        TRY(pair_add_item(list, tensor, &t->parts[p], error));
    }
    return LORA_OK;
}

static void pair_sort_list(const pair_list *list)
{
    lora__sort(list->items, list->count, sizeof *list->items,
               pair_compare_items);
}

static lora_status
pair_make_list(pair_list *list, int by_parts, lora_error *error)
{
    for (size_t i = 0; i < list->c->tensor_count; i++) {
        if (by_parts && list->c->tensors[i].part_count > 0) {
            TRY(pair_add_parts(list, i, error));
        } else {
            TRY(pair_add_item(list, i, NULL, error));
        }
    }
    pair_sort_list(list);
    return LORA_OK;
}

/* Keep what has no match, and what has parts as these. */
static lora_status pair_split_list(pair_list *list, lora_error *error)
{
    size_t kept = 0;
    size_t count = list->count;

    if (count == 0) {
        return LORA_OK;
    }
    for (size_t i = 0; i < count; i++) {
        const pair_item *item = &list->items[i];
        if (item->taken) {
            continue;
        }
        if (item->hold.part == NULL && item->tensor->part_count > 0) {
            TRY(pair_add_parts(list, item->hold.tensor, error));
        } else {
            list->items[kept++] = list->items[i];
        }
    }
    memmove(list->items + kept, list->items + count,
            (list->count - count) * sizeof *list->items);
    list->count -= count - kept;
    pair_sort_list(list);
    return LORA_OK;
}

static void pair_free_list(const pair_list *list)
{
    lora__free(list->c->context, list->items,
               list->capacity * sizeof *list->items, LORA__ALIGN);
}

/* Matches ------------------------------------------------------------------
 */

/* 1 if the shapes are the same but for dimensions of 1 at the end: layers of
 * 1 x 1 are linear ones in other versions of a model. */
static int pair_same_shape(const lora__holding *a, const lora__holding *b)
{
    for (int32_t d = 0; d < LORA_MAX_DIMS; d++) {
        int64_t x = d < a->ndim ? a->shape[d] : 1;
        int64_t y = d < b->ndim ? b->shape[d] : 1;
        if (x != y) {
            return 0;
        }
    }
    return 1;
}

static lora__match_state pair_state(const pair_item *base,
                                    const pair_item *tuned)
{
    lora__tensor_use one =
        base == NULL ? LORA__TENSOR_TARGET : base->tensor->use;
    lora__tensor_use other =
        tuned == NULL ? LORA__TENSOR_TARGET : tuned->tensor->use;

    if (one == LORA__TENSOR_ASIDE || other == LORA__TENSOR_ASIDE) {
        return LORA__MATCH_ASIDE;
    }
    if (one == LORA__TENSOR_NUMBERS || other == LORA__TENSOR_NUMBERS) {
        return LORA__MATCH_NUMBERS;
    }
    return base == NULL                                 ? LORA__MATCH_TUNED_ONLY
           : tuned == NULL                              ? LORA__MATCH_BASE_ONLY
           : pair_same_shape(&base->hold, &tuned->hold) ? LORA__MATCH_BOTH
                                                        : LORA__MATCH_SHAPES;
}

/* 1 if the pattern matches the item's own target, or anything else of its
 * tensor but the other parts' targets. */
static int pair_item_matches(const pair_item *item, const char *pattern)
{
    lora__tensor alone;

    if (item == NULL) {
        return 0;
    }
    alone = *item->tensor;
    if (item->hold.part != NULL) {
        alone.parts = item->hold.part;
        alone.part_count = 1;
    }
    return lora__tensor_matches(&alone, pattern);
}

static int pair_any_matches(const char *const *patterns,
                            size_t count,
                            const pair_item *base,
                            const pair_item *tuned)
{
    for (size_t i = 0; i < count; i++) {
        if (pair_item_matches(base, patterns[i]) ||
            pair_item_matches(tuned, patterns[i])) {
            return 1;
        }
    }
    return 0;
}

/* Write a match down, unless nobody wants it. One side may be NULL. */
static lora_status pair_add_match(pair_job *job,
                                  const pair_item *base,
                                  const pair_item *tuned,
                                  lora_error *error)
{
    const lora__pair_options *o = job->options;
    const pair_item *item = base != NULL ? base : tuned;
    lora__pair *pair = job->pair;
    void *matches = pair->matches;
    lora__match *match;

    if ((o->include_count > 0 &&
         !pair_any_matches(o->include, o->include_count, base, tuned)) ||
        pair_any_matches(o->exclude, o->exclude_count, base, tuned)) {
        return LORA_OK;
    }
    TRY(lora__arena_grow(&matches, &job->capacity, &pair->arena,
                         pair->count + 1, sizeof *match, error));
    pair->matches = matches;
    match = &pair->matches[pair->count++];
    memset(match, 0, sizeof *match);
    match->target = item->hold.target;
    match->component = item->tensor->component;
    match->role = item->tensor->role;
    match->layer = item->hold.layer;
    match->known = item->tensor->known;
    match->state = pair_state(base, tuned);
    if (base != NULL) {
        match->base = base->hold;
    }
    if (tuned != NULL) {
        match->tuned = tuned->hold;
    }
    pair->counts[match->state]++;
    return LORA_OK;
}

/* Match the lists; with `rest` 1 what has no match is written down as well. */
static lora_status pair_walk(pair_job *job, int rest, lora_error *error)
{
    const pair_list *base = &job->base;
    const pair_list *tuned = &job->tuned;
    size_t i = 0;
    size_t j = 0;

    while (i < base->count || j < tuned->count) {
        pair_item *x = i < base->count ? &base->items[i] : NULL;
        pair_item *y = j < tuned->count ? &tuned->items[j] : NULL;
        int order = x == NULL ? 1 : y == NULL ? -1 : pair_order(x, y);

        i += order <= 0;
        j += order >= 0;
        x = order <= 0 ? x : NULL;
        y = order >= 0 ? y : NULL;
        if (order == 0) {
            x->taken = y->taken = 1;
        }
        if (order == 0 || rest) {
            TRY(pair_add_match(job, x, y, error));
        }
    }
    return LORA_OK;
}

static int pair_compare_matches(const void *a, const void *b)
{
    const lora__match *x = a;
    const lora__match *y = b;
    int order = strcmp(x->target, y->target);

    if (order == 0) {
        order = (x->role > y->role) - (x->role < y->role);
    }
    if (order == 0) {
        order = (x->base.tensor > y->base.tensor) -
                (x->base.tensor < y->base.tensor);
    }
    return order != 0 ? order
                      : (x->tuned.tensor > y->tuned.tensor) -
                            (x->tuned.tensor < y->tuned.tensor);
}

/* Answers ------------------------------------------------------------------
 */

LORA_PRIVATE void lora__pair_put_shapes(char base[LORA__PAIR_SHAPE],
                                        char tuned[LORA__PAIR_SHAPE],
                                        const lora__match *match)
{
    lora__text_put_shape(base, match->base.shape, match->base.ndim);
    lora__text_put_shape(tuned, match->tuned.shape, match->tuned.ndim);
}

/* SHAPE where shapes differ, after all that do were told to the log. */
static lora_status pair_refuse_shapes(const lora__pair *pair, lora_error *error)
{
    const lora__match *first = NULL;
    char base[LORA__PAIR_SHAPE];
    char tuned[LORA__PAIR_SHAPE];
    size_t others = pair->counts[LORA__MATCH_SHAPES];

    for (size_t i = pair->count; i-- > 0;) {
        const lora__match *match = &pair->matches[i];

        if (match->state == LORA__MATCH_SHAPES) {
            first = match;
        }
    }
    if (first == NULL) {
        return LORA_OK;
    }
    for (size_t i = 0; i < pair->count && others > 1; i++) {
        const lora__match *match = &pair->matches[i];

        if (match->state == LORA__MATCH_SHAPES) {
            lora__pair_put_shapes(base, tuned, match);
            lora__log(
                pair->base->context, LORA_LOG_WARNING,
                "%s%s is %s in the base, %s in the tuned model", match->target,
                match->role == LORA__ROLE_BIAS ? ".bias" : "", base, tuned);
        }
    }
    lora__pair_put_shapes(base, tuned, first);
    return others == 1
               ? lora__fail(
                     error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, first->target,
                     "%s in the base, %s in the tuned model", base, tuned)
               : lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                            first->target,
                            "%s in the base, %s in the tuned model, the first "
                            "of %llu tensors whose shapes differ",
                            base, tuned, (unsigned long long)others);
}

static lora_status pair_check(const pair_job *job, lora_error *error)
{
    const lora__pair *pair = job->pair;

    if (!job->options->skip_shapes) {
        TRY(pair_refuse_shapes(pair, error));
    }
    return pair->counts[LORA__MATCH_BOTH] > 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                            pair->tuned->path,
                            "none of its weights is one of the base's that is "
                            "asked for");
}

static lora_status pair_run(pair_job *job, lora_error *error)
{
    lora__pair *pair = job->pair;
    int by_parts = job->options->by_parts;

    TRY(pair_make_list(&job->base, by_parts, error));
    TRY(pair_make_list(&job->tuned, by_parts, error));
    TRY(pair_walk(job, 0, error));
    TRY(pair_split_list(&job->base, error));
    TRY(pair_split_list(&job->tuned, error));
    TRY(pair_walk(job, 1, error));
    lora__sort(pair->matches, pair->count, sizeof *pair->matches,
               pair_compare_matches);
    return pair_check(job, error);
}

LORA_PRIVATE lora_status lora__pair_create(lora__pair *out,
                                           const lora__checkpoint *base,
                                           const lora__checkpoint *tuned,
                                           const lora__pair_options *options,
                                           lora_error *error)
{
    static const lora__pair_options none = {0};
    pair_job job = {0};
    lora_status status;

    memset(out, 0, sizeof *out);
    lora__arena_init(&out->arena, base->context);
    out->base = base;
    out->tuned = tuned;
    out->family = base->family != NULL ? base->family : tuned->family;
    job.pair = out;
    job.options = options != NULL ? options : &none;
    job.base.c = base;
    job.tuned.c = tuned;
    status = pair_run(&job, error);
    pair_free_list(&job.base);
    pair_free_list(&job.tuned);
    if (status != LORA_OK) {
        lora__pair_destroy(out);
    }
    return status;
}

LORA_PRIVATE void lora__pair_destroy(lora__pair *pair)
{
    if (pair->arena.context != NULL) {
        lora__arena_destroy(&pair->arena);
    }
    memset(pair, 0, sizeof *pair);
}
