/* Joining: how the pieces of a group become one module.
 *
 * Rows of the result come from the rows of the pieces. What all rows of a
 * module have in common (down, of a pair) must then be the same in all pieces,
 * as it is after a module was cut; else, where the change is a sum of terms,
 * these stand side by side, and each row has its own:
 *
 *     [B1 A1]   [B1  0] [A1]
 *     [B2 A2] = [0  B2] [A2]        rank r1 + r2
 *
 * There is one scale then. It is that of all pieces, or their scales differ by
 * powers of two, which go into up without rounding; or it is baked in. Rows of
 * parts that are missing are zeros.
 */
#include "op/emit.h"
#include "op/parts.h"

#include <math.h>
#include <string.h>

/* Terms of a piece: all of its module's, or those it was given. */
static size_t join_terms(const lora__piece *piece)
{
    return piece->terms != NULL ? piece->term_count
                                : (size_t)piece->module->rank;
}

static size_t join_units(const lora__row_set *set)
{
    size_t units = 0;

    for (size_t s = 0; s < set->slice_count; s++) {
        units += (size_t)(set->slices[s].end - set->slices[s].begin);
    }
    return units;
}

/* ---- fitting ------------------------------------------------------------- */

/* The rows of the result: every piece must give its own shares of them. */
static lora_status join_fit_rows(lora__joined *out, lora_error *error)
{
    uint64_t unit = 0;

    for (const lora__piece *p = out->group->first; p != NULL; p = p->next) {
        lora__row_set from = lora__parts_slices(&p->from);
        lora__row_set to = lora__parts_slices(&p->to);
        uint64_t rows;
        uint64_t shares = join_units(&to);

        TRY(lora__parts_rows(&rows, out->adapter, p->module, error));
        rows = rows / from.units * join_units(&from);
        if (rows % shares != 0 ||
            (p != out->group->first && rows / shares != unit)) {
            return lora__fail(
                error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, p->target,
                "%llu rows do not fit beside those of %s",
                (unsigned long long)rows, out->group->first->target);
        }
        unit = rows / shares;
        if (!lora__mul_u64(unit, to.units, &out->rows)) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              p->target, "the weight would be too large");
        }
    }
    return LORA_OK;
}

static int join_is_scale(const lora__joined *joined, lora__role role)
{
    return joined->module.rank > 0 && lora__emit_is_scale(role);
}

/* Compare two tensors byte by byte. */
static lora_status join_same_bytes(int *out,
                                   const lora_adapter *adapter,
                                   size_t a,
                                   size_t b,
                                   lora_error *error)
{
    const lora__container *container = adapter->container;
    const lora__entry *x = &container->entries[a];
    const lora__entry *y = &container->entries[b];
    unsigned char one[4096];
    unsigned char two[4096];

    *out = a == b || (x->dtype == y->dtype && x->ndim == y->ndim &&
                      memcmp(x->shape, y->shape,
                             (size_t)x->ndim * sizeof *x->shape) == 0);
    for (uint64_t at = 0; *out && a != b && at < x->bytes; at += sizeof one) {
        uint64_t left = x->bytes - at;
        size_t bytes = left < sizeof one ? (size_t)left : sizeof one;
        TRY(lora__container_read(container, a, at, one, bytes, error));
        TRY(lora__container_read(container, b, at, two, bytes, error));
        *out = memcmp(one, two, bytes) == 0;
    }
    return LORA_OK;
}

/* Whether all that rows have in common is the same in two pieces. */
static lora_status join_shares(int *out,
                               const lora__joined *joined,
                               const lora__piece *piece,
                               lora_error *error)
{
    const lora__module *first = &joined->module;
    const lora__module *module = piece->module;

    *out = piece->terms == NULL && joined->group->first->terms == NULL &&
           module->rank == first->rank && module->scale == first->scale;
    for (int role = 1; *out && role < LORA__ROLE_COUNT; role++) {
        const lora__member *a = lora__module_find(first, (lora__role)role);
        const lora__member *b = lora__module_find(module, (lora__role)role);
        lora__extent extent;

        if ((a == NULL && b == NULL) ||
            join_is_scale(joined, (lora__role)role)) {
            continue;
        }
        TRY(lora__module_extent(&extent, joined->adapter,
                                a != NULL ? first : module, (lora__role)role,
                                error));
        if (extent.rows != LORA__AXIS_NONE) {
            continue;
        }
        *out = a != NULL && b != NULL;
        if (*out) {
            TRY(join_same_bytes(out, joined->adapter, a->entry, b->entry,
                                error));
        }
    }
    return LORA_OK;
}

/* The terms can stand side by side if nothing else is common to the rows. */
static lora_status join_check_stack(lora__joined *joined,
                                    const lora__piece *piece,
                                    lora_error *error)
{
    const lora__module *module = piece->module;

    for (size_t i = 0; i < module->member_count; i++) {
        lora__role role = module->members[i].role;
        lora__extent extent;

        TRY(lora__module_extent(&extent, joined->adapter, module, role, error));
        if (extent.rows == LORA__AXIS_NONE && extent.terms == LORA__AXIS_NONE &&
            !join_is_scale(joined, role)) {
            return lora__fail(
                error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
                "this dialect has one weight for it and %s, but their %s "
                "differ and no %s can be both",
                joined->group->first->module->name, lora__role_name(role),
                module->kind->id);
        }
    }
    return LORA_OK;
}

static lora_status join_refuse_rows(const lora__piece *piece, lora_error *error)
{
    return lora__fail(
        error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, piece->module->name,
        "this dialect has one weight for it and others, and %s cannot leave "
        "the rows of those that are missing as they are",
        piece->module->kind->id);
}

/* What one piece has, all must have, where zeros would not do. */
static lora_status join_check_rows(lora__joined *joined, lora_error *error)
{
    const lora__group *group = joined->group;
    size_t units = 0;
    int complete;
    int follows = 0;

    for (const lora__piece *p = group->first; p != NULL; p = p->next) {
        lora__row_set to = lora__parts_slices(&p->to);
        units += join_units(&to);
    }
    complete = units == lora__parts_slices(&group->first->to).units;
    for (const lora__piece *p = group->first; p != NULL; p = p->next) {
        for (size_t i = 0; i < p->module->member_count; i++) {
            lora__role role = p->module->members[i].role;
            int everywhere = complete;
            lora__extent extent;

            TRY(lora__module_extent(&extent, joined->adapter, p->module, role,
                                    error));
            if (extent.rows == LORA__AXIS_NONE) {
                continue;
            }
            follows = 1;
            for (const lora__piece *q = group->first; q != NULL; q = q->next) {
                everywhere &= lora__module_find(q->module, role) != NULL;
            }
            if (!extent.neutral && !everywhere) {
                return join_refuse_rows(p, error);
            }
        }
    }
    if (!complete && follows) {
        lora__log(
            joined->adapter->context, LORA_LOG_INFO,
            "%s: the weight it becomes part of is not adapted as a whole: "
            "the other rows are zeros",
            group->first->module->name);
    }
    return complete || follows ? LORA_OK
                               : join_refuse_rows(group->first, error);
}

/* ---- scales -------------------------------------------------------------- */

static int join_is_power(double ratio)
{
    int exponent;

    return fabs(frexp(ratio, &exponent)) == 0.5;
}

/* The smallest scale, so that the others grow: multiplying by a power of two
 * then loses nothing, and what becomes too large is refused. */
static double join_least_scale(const lora__group *group)
{
    double least = group->first->module->scale;

    for (const lora__piece *p = group->first; p != NULL; p = p->next) {
        double scale = p->module->scale;
        least = scale != 0.0 && (least == 0.0 || fabs(scale) < fabs(least))
                    ? scale
                    : least;
    }
    return least;
}

static lora_status join_scale(lora__joined *out, lora_error *error)
{
    double scale = join_least_scale(out->group);
    int all_zero = 1;

    for (const lora__piece *p = out->group->first; p != NULL; p = p->next) {
        all_zero &= p->module->has_alpha && p->module->alpha == 0.0;
        if (p->module->scale != scale &&
            !join_is_power(p->module->scale / scale)) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              p->module->name,
                              "this dialect has one alpha for it and %s, whose "
                              "scales are %g and %g: bake them in",
                              out->group->first->module->name, p->module->scale,
                              out->group->first->module->scale);
        }
    }
    if (scale != 0.0 &&
        !lora__parts_alpha_fits(scale, (size_t)out->module.rank)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          out->group->first->module->name,
                          "no alpha makes the scale %g of rank %lld: bake it "
                          "in",
                          scale, (long long)out->module.rank);
    }
    out->module.scale = scale;
    if (!all_zero) {
        out->restated = 1;
        out->module.alpha = scale * (double)out->module.rank;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__join_begin(lora__joined *out,
                                          const lora__group *group,
                                          const lora_adapter *adapter,
                                          lora__arena *arena,
                                          int bakes,
                                          lora_error *error)
{
    const lora__piece *first = group->first;
    int shares = 1;
    size_t terms = 0;

    memset(out, 0, sizeof *out);
    out->adapter = adapter;
    out->group = group;
    out->arena = arena;
    out->module = *first->module;
    out->module.target = first->target;
    out->module.layer = first->layer;
    out->transposed = first->from.transposed != first->to.transposed;
    for (const lora__piece *p = first; p != NULL; p = p->next) {
        if (p->module->kind != first->module->kind) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              p->module->name,
                              "this dialect has one weight for it and %s, but "
                              "they are %s and %s",
                              first->module->name, p->module->kind->id,
                              first->module->kind->id);
        }
        out->roles |= p->module->roles;
        terms += join_terms(p);
        if (shares) {
            TRY(join_shares(&shares, out, p, error));
            shares |= group->count == 1;
        }
    }
    TRY(join_fit_rows(out, error));
    TRY(join_check_rows(out, error));
    out->stacked = !shares;
    for (const lora__piece *p = first; out->stacked && p != NULL; p = p->next) {
        TRY(join_check_stack(out, p, error));
    }
    if (out->stacked || first->terms != NULL) {
        out->module.rank = (int64_t)terms;
        if (!bakes) {
            return join_scale(out, error);
        }
    }
    if (bakes) {
        out->module.scale = 1.0;
        out->module.alpha = (double)out->module.rank;
        out->restated = 1;
    }
    return LORA_OK;
}

/* ---- tensors ------------------------------------------------------------- */

/* Some steps of a dimension, and where they go. */
typedef struct join_span {
    uint64_t from;
    uint64_t to;
    uint64_t count;
} join_span;

typedef struct join_spans {
    join_span *at;
    size_t count;
    size_t room;
} join_spans;

/* Add a span, or make the last one longer. */
static void
join_add(join_spans *spans, uint64_t from, uint64_t to, uint64_t count)
{
    join_span *last = spans->count == 0 ? NULL : &spans->at[spans->count - 1];

    if (last != NULL && last->from + last->count == from &&
        last->to + last->count == to) {
        last->count += count;
        return;
    }
    spans->at[spans->count].from = from;
    spans->at[spans->count].to = to;
    spans->at[spans->count++].count = count;
}

/* The rows of a piece, in steps of `grain`: its slices are taken in their
 * order, and put into those of the result in theirs. */
static lora_status join_row_spans(join_spans *out,
                                  const lora__joined *joined,
                                  const lora__piece *piece,
                                  uint64_t grain,
                                  lora_error *error)
{
    lora__row_set from = lora__parts_slices(&piece->from);
    lora__row_set to = lora__parts_slices(&piece->to);
    uint64_t rows;
    uint64_t unit;
    size_t t = 0;
    uint64_t to_at = 0;

    TRY(lora__parts_rows(&rows, joined->adapter, piece->module, error));
    unit = joined->rows / to.units;
    for (size_t f = 0; f < from.slice_count; f++) {
        uint64_t at = rows / from.units * from.slices[f].begin;
        uint64_t end = rows / from.units * from.slices[f].end;
        while (at < end && t < to.slice_count) {
            uint64_t begin = unit * to.slices[t].begin + to_at;
            uint64_t left = unit * to.slices[t].end - begin;
            uint64_t count = left < end - at ? left : end - at;
            if (at % grain != 0 || begin % grain != 0 || count % grain != 0) {
                return lora__fail(
                    error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                    piece->module->name,
                    "%s of this size can be cut at every %llu rows only",
                    piece->module->kind->id, (unsigned long long)grain);
            }
            join_add(out, at / grain, begin / grain, count / grain);
            at += count;
            to_at = count == left ? 0 : to_at + count;
            t += count == left;
        }
    }
    return LORA_OK;
}

/* The terms of a piece, behind those of the pieces before it. */
static void join_term_spans(join_spans *out,
                            const lora__joined *joined,
                            const lora__piece *piece)
{
    uint64_t at = 0;

    for (const lora__piece *p = joined->group->first;
         joined->stacked && p != piece; p = p->next) {
        at += join_terms(p);
    }
    for (size_t j = 0; j < join_terms(piece); j++) {
        join_add(out, piece->terms == NULL ? j : piece->terms[j], at + j, 1);
    }
}

/* The spans of one of the two dimensions of a tensor as a matrix. */
static lora_status join_spans_of(join_spans *out,
                                 const lora__joined *joined,
                                 const lora__piece *piece,
                                 const lora__extent *extent,
                                 int32_t axis,
                                 uint64_t size,
                                 lora_error *error)
{
    size_t room = 2 * LORA__MAX_SLICES + join_terms(piece);
    void *memory;

    TRY(lora__arena_zeroed(&memory, joined->arena, room, sizeof *out->at,
                           error));
    out->at = memory;
    out->count = 0;
    if (extent->rows == axis && !joined->transposed) {
        return join_row_spans(out, joined, piece, (uint64_t)extent->grain,
                              error);
    }
    if (extent->terms == axis && (joined->stacked || piece->terms != NULL)) {
        join_term_spans(out, joined, piece);
        return LORA_OK;
    }
    join_add(out, 0, 0, size);
    return LORA_OK;
}

/* How up and its bias are multiplied: the scale of a piece over the common
 * one. */
static double join_factor(const lora__joined *joined,
                          const lora__piece *piece,
                          lora__role role,
                          int bakes)
{
    if (role != LORA__ROLE_UP && role != LORA__ROLE_UP_BIAS) {
        return 1.0;
    }
    if (bakes) {
        return piece->module->scale;
    }
    return joined->stacked && joined->module.scale != 0.0
               ? piece->module->scale / joined->module.scale
               : 1.0;
}

static void join_put_rects(lora__joined_tensor *out,
                           const join_spans *rows,
                           const join_spans *cols,
                           size_t entry,
                           uint64_t width,
                           int transposed,
                           double factor)
{
    for (size_t r = 0; r < rows->count; r++) {
        for (size_t c = 0; c < cols->count; c++) {
            const join_span *y = &rows->at[r];
            const join_span *x = &cols->at[c];
            lora__rect *rect = &out->rects[out->rect_count++];

            memset(rect, 0, sizeof *rect);
            rect->entry = entry;
            rect->from_width = width;
            rect->from_row = y->from;
            rect->from_col = x->from;
            rect->row = transposed ? x->to : y->to;
            rect->col = transposed ? y->to : x->to;
            rect->rows = transposed ? x->count : y->count;
            rect->cols = transposed ? y->count : x->count;
            rect->transposed = transposed;
            rect->factor = factor;
        }
    }
}

/* Numbers of both types are in it. */
static lora_dtype join_dtype(lora_dtype a, lora_dtype b)
{
    if (a == b || b == LORA_DTYPE_NONE) {
        return a;
    }
    return a == LORA_DTYPE_F64 || b == LORA_DTYPE_F64 ? LORA_DTYPE_F64
                                                      : LORA_DTYPE_F32;
}

/* Dimensions and type of the result, from those of one piece's tensor. */
static lora_status join_shape(lora__joined_tensor *out,
                              const lora__joined *joined,
                              const lora__entry *entry,
                              const lora__extent *extent,
                              lora_error *error)
{
    int first = out->dtype == LORA_DTYPE_NONE;
    int64_t shape[LORA_MAX_DIMS];

    memcpy(shape, entry->shape, sizeof shape);
    if (joined->transposed) {
        shape[0] = entry->shape[1];
        shape[1] = entry->shape[0];
    } else if (extent->rows != LORA__AXIS_NONE) {
        shape[extent->rows] = (int64_t)(joined->rows / (uint64_t)extent->grain);
    }
    if (extent->terms != LORA__AXIS_NONE && !joined->transposed) {
        shape[extent->terms] = joined->module.rank;
    }
    if (!first &&
        (out->ndim != entry->ndim ||
         memcmp(out->shape, shape, (size_t)entry->ndim * sizeof *shape) != 0)) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, entry->name,
                          "has not the shape of the tensors it goes with");
    }
    out->dtype = join_dtype(entry->dtype, out->dtype);
    out->ndim = entry->ndim;
    memcpy(out->shape, shape, sizeof shape);
    return LORA_OK;
}

static lora_status join_add_piece(lora__joined_tensor *out,
                                  const lora__joined *joined,
                                  const lora__piece *piece,
                                  lora__role role,
                                  int bakes,
                                  lora_error *error)
{
    const lora__member *member = lora__module_find(piece->module, role);
    const lora__entry *entry;
    lora__extent extent;
    join_spans rows;
    join_spans cols;
    lora__rect *old = out->rects;
    uint64_t width;
    void *memory;

    if (member == NULL) {
        return LORA_OK; /* zeros */
    }
    entry = &joined->adapter->container->entries[member->entry];
    TRY(lora__module_extent(&extent, joined->adapter, piece->module, role,
                            error));
    width = entry->elements / (uint64_t)entry->shape[0];
    if ((extent.rows == 1 || extent.terms == 1 || joined->transposed) &&
        width != (uint64_t)entry->shape[1]) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          entry->name, "the rows of a kernel cannot be taken");
    }
    TRY(join_shape(out, joined, entry, &extent, error));
    TRY(join_spans_of(&rows, joined, piece, &extent, 0,
                      (uint64_t)entry->shape[0], error));
    TRY(join_spans_of(&cols, joined, piece, &extent, 1, width, error));
    TRY(lora__arena_zeroed(&memory, joined->arena,
                           out->rect_count + rows.count * cols.count,
                           sizeof *out->rects, error));
    out->rects = memory;
    if (out->rect_count != 0) {
        memcpy(out->rects, old, out->rect_count * sizeof *old);
    }
    join_put_rects(out, &rows, &cols, member->entry, width, joined->transposed,
                   join_factor(joined, piece, role, bakes));
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__join_role(lora__role *out,
                                         const lora__joined *joined,
                                         lora__role role,
                                         lora_error *error)
{
    const lora__module *module = &joined->module;
    lora__extent extent;

    *out = role;
    if (!joined->transposed) {
        return LORA_OK;
    }
    TRY(lora__module_extent(&extent, joined->adapter, module, role, error));
    *out = extent.mirror;
    return extent.mirror != LORA__ROLE_UNKNOWN && joined->group->count == 1
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name,
                            "this dialect has the weight transposed, and %s of "
                            "%s cannot be",
                            lora__role_name(role), module->kind->id);
}

LORA_PRIVATE lora_status lora__join_tensor(lora__joined_tensor *out,
                                           const lora__joined *joined,
                                           lora__role role,
                                           int bakes,
                                           lora_error *error)
{
    const lora__group *group = joined->group;

    memset(out, 0, sizeof *out);
    for (const lora__piece *p = group->first; p != NULL; p = p->next) {
        const lora__member *member = lora__module_find(p->module, role);
        lora__extent extent;

        if (member == NULL) {
            continue;
        }
        TRY(lora__module_extent(&extent, joined->adapter, p->module, role,
                                error));
        if (extent.rows == LORA__AXIS_NONE && !joined->transposed &&
            (extent.terms == LORA__AXIS_NONE ||
             (!joined->stacked && p->terms == NULL))) {
            out->entry = member->entry; /* the same in all pieces */
            return LORA_OK;
        }
        TRY(join_add_piece(out, joined, p, role, bakes, error));
    }
    return LORA_OK;
}
