/* Parts: taking modules apart, and finding the pieces that belong together. */
#include "op/parts.h"

#include "core/buffer.h"
#include "op/emit.h"

#include <string.h>

LORA_PRIVATE lora__row_set lora__parts_slices(const lora__row_set *set)
{
    lora__row_set all = {{{0, 1}}, 1, 1, 0};

    return set->units == 0 ? all : *set;
}

LORA_PRIVATE int lora__parts_alpha_fits(double scale, size_t rank)
{
    return (double)(float)(scale * (double)rank) / (double)rank == scale;
}

LORA_PRIVATE lora_status lora__parts_rows(uint64_t *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          lora_error *error)
{
    *out = 0;
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__entry *entry =
            &adapter->container->entries[module->members[i].entry];
        lora__extent extent;
        uint64_t rows;

        TRY(lora__module_extent(&extent, adapter, module,
                                module->members[i].role, error));
        if (extent.rows == LORA__AXIS_NONE) {
            continue;
        }
        if (!lora__mul_u64((uint64_t)entry->shape[extent.rows],
                           (uint64_t)extent.grain, &rows) ||
            (*out != 0 && rows != *out)) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              module->name, "%s is of %llu rows, not %llu",
                              lora__role_name(module->members[i].role),
                              (unsigned long long)rows,
                              (unsigned long long)*out);
        }
        *out = rows;
    }
    return LORA_OK;
}

/* ---- terms --------------------------------------------------------------- */

/* What the rows of a fused module are. Parts are numbered in bits. */
enum { PARTS_MAX = 32 };

typedef struct parts_scan {
    const lora_adapter *adapter;
    const lora__module *module;
    uint64_t rows;
    size_t rank;     /* terms; 0 if the change is no sum */
    uint32_t *terms; /* for each, the parts that have something of it */
    uint32_t alive;  /* parts that have anything */
    size_t counts[PARTS_MAX];
} parts_scan;

/* The part that a row belongs to, as a bit. */
static uint32_t parts_owner(const parts_scan *scan, uint64_t row)
{
    const lora__module *module = scan->module;

    for (size_t p = 0; p < module->part_count; p++) {
        const lora__row_set *set = &module->parts[p].rows;
        uint64_t unit = row / (scan->rows / set->units);
        for (size_t s = 0; s < set->slice_count; s++) {
            if (unit >= set->slices[s].begin && unit < set->slices[s].end) {
                return (uint32_t)1 << p;
            }
        }
    }
    return 0;
}

static int parts_is_zero(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return 0;
        }
    }
    return 1;
}

/* Look for what is not zero in a tensor whose first dimension is the rows. */
static lora_status parts_scan_tensor(parts_scan *scan,
                                     size_t index,
                                     const lora__extent *extent,
                                     lora_error *error)
{
    const lora__container *container = scan->adapter->container;
    const lora__entry *entry = &container->entries[index];
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    uint64_t width = entry->elements / (uint64_t)entry->shape[0];
    unsigned char chunk[8192];
    size_t step = sizeof chunk / size;
    uint64_t row = 0;
    uint64_t col = 0;
    uint32_t owner = parts_owner(scan, 0);

    for (uint64_t done = 0; done < entry->elements; done += step) {
        uint64_t left = entry->elements - done;
        size_t count = left < step ? (size_t)left : step;
        TRY(lora__container_read(container, index, done * size, chunk,
                                 count * size, error));
        for (size_t i = 0; i < count; i++, col++) {
            if (col == width) {
                col = 0;
                owner = parts_owner(scan, ++row * (uint64_t)extent->grain);
            }
            if (parts_is_zero(chunk + i * size, size)) {
                continue;
            }
            scan->alive |= owner;
            if (extent->terms == 1) {
                scan->terms[col] |= owner;
            }
        }
    }
    return LORA_OK;
}

/* Whether the change is a sum, of how many terms: all that rows do not have of
 * their own must belong to one term each. */
static lora_status parts_scan_rank(parts_scan *scan, lora_error *error)
{
    const lora__module *module = scan->module;
    int sum = 1;

    for (size_t i = 0; i < module->member_count; i++) {
        const lora__entry *entry =
            &scan->adapter->container->entries[module->members[i].entry];
        lora__role role = module->members[i].role;
        lora__extent extent;

        TRY(lora__module_extent(&extent, scan->adapter, module, role, error));
        if (extent.rows == 0 && extent.terms == 1) {
            scan->rank = (size_t)entry->shape[1];
        }
        sum = sum &&
              (extent.rows != LORA__AXIS_NONE ||
               extent.terms != LORA__AXIS_NONE || lora__emit_is_scale(role));
    }
    scan->rank = sum ? scan->rank : 0;
    return LORA_OK;
}

static lora_status parts_scan_all(parts_scan *scan, lora_error *error)
{
    const lora__module *module = scan->module;

    for (size_t i = 0; i < module->member_count; i++) {
        lora__extent extent;

        TRY(lora__module_extent(&extent, scan->adapter, module,
                                module->members[i].role, error));
        if (extent.rows == 0 && extent.neutral) {
            TRY(parts_scan_tensor(scan, module->members[i].entry, &extent,
                                  error));
        } else if (extent.rows != LORA__AXIS_NONE) {
            scan->alive = UINT32_MAX;
        }
    }
    return LORA_OK;
}

/* 1 if every term is used by the part whose turn it is when all have as many,
 * one after the other: so it is after joining adapters of one rank, also where
 * parts are zeros. */
static int parts_equal_blocks(parts_scan *scan)
{
    size_t count = scan->module->part_count;
    size_t each = scan->rank / count;

    if (scan->rank == 0 || scan->rank % count != 0) {
        return 0;
    }
    for (size_t j = 0; j < scan->rank; j++) {
        uint32_t owner = (uint32_t)1 << (j / each);
        if ((scan->terms[j] & ~owner) != 0) {
            return 0;
        }
    }
    for (size_t j = 0; j < scan->rank; j++) {
        scan->terms[j] = (uint32_t)1 << (j / each);
    }
    scan->alive = UINT32_MAX;
    return 1;
}

/* 1 if no term is used by two parts. One that is used by none goes with its
 * neighbour. */
static int parts_blocks(parts_scan *scan)
{
    uint32_t owner = 0;

    for (size_t j = 0; j < scan->rank; j++) {
        if ((scan->terms[j] & (scan->terms[j] - 1)) != 0) {
            return 0;
        }
        owner = owner == 0 ? scan->terms[j] : owner;
    }
    for (size_t j = 0; j < scan->rank; j++) {
        owner = scan->terms[j] == 0 ? owner : scan->terms[j];
        scan->terms[j] = owner;
    }
    return owner != 0;
}

/* Count the terms of the parts; 1 if each that is needed has some, and an
 * alpha of its own can say the scale. */
static int parts_count_terms(parts_scan *scan)
{
    for (size_t p = 0; p < scan->module->part_count; p++) {
        uint32_t bit = (uint32_t)1 << p;
        scan->counts[p] = 0;
        for (size_t j = 0; j < scan->rank; j++) {
            scan->counts[p] += (scan->terms[j] & bit) != 0;
        }
        if ((scan->alive & bit) != 0 &&
            (scan->counts[p] == 0 ||
             !lora__parts_alpha_fits(scan->module->scale, scan->counts[p]))) {
            return 0;
        }
    }
    return 1;
}

static lora_status parts_give_terms(lora__piece *pieces,
                                    const parts_scan *scan,
                                    lora__arena *arena,
                                    lora_error *error)
{
    for (size_t p = 0; p < scan->module->part_count; p++) {
        void *memory;
        size_t *terms;
        size_t count = 0;

        TRY(lora__arena_zeroed(&memory, arena, scan->counts[p], sizeof *terms,
                               error));
        terms = memory;
        for (size_t j = 0; j < scan->rank; j++) {
            if (scan->terms[j] == (uint32_t)1 << p) {
                terms[count++] = j;
            }
        }
        pieces[p].terms = terms;
        pieces[p].term_count = count;
    }
    return LORA_OK;
}

/* Which terms the parts of a module need, and which parts there are: *out_alive
 * has a bit for each. */
static lora_status parts_analyse(uint32_t *out_alive,
                                 lora__piece *pieces,
                                 lora__arena *arena,
                                 const lora_adapter *adapter,
                                 const lora__module *module,
                                 lora_error *error)
{
    parts_scan scan = {0};
    void *memory;
    lora_status status;

    *out_alive = UINT32_MAX;
    scan.adapter = adapter;
    scan.module = module;
    TRY(lora__parts_rows(&scan.rows, adapter, module, error));
    for (size_t p = 0; p < module->part_count; p++) {
        const lora__row_set *set = &module->parts[p].rows;
        if (set->units == 0) {
            return LORA_OK; /* all of them: a transpose */
        }
        if (scan.rows % set->units != 0) {
            return lora__fail(
                error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                "%llu rows cannot be cut into %u equal shares",
                (unsigned long long)scan.rows, (unsigned)set->units);
        }
    }
    if (module->part_count < 2 || module->part_count > PARTS_MAX ||
        scan.rows == 0) {
        return LORA_OK;
    }
    TRY(parts_scan_rank(&scan, error));
    TRY(lora__alloc_zeroed(&memory, adapter->context, scan.rank + 1,
                           sizeof *scan.terms, error));
    scan.terms = memory;
    TRY_OR_DONE(parts_scan_all(&scan, error));
    if (scan.alive != 0) {
        *out_alive = scan.alive;
    }
    if ((parts_equal_blocks(&scan) || parts_blocks(&scan)) &&
        parts_count_terms(&scan)) {
        *out_alive = scan.alive;
        status = parts_give_terms(pieces, &scan, arena, error);
    }
done:
    lora__free(adapter->context, scan.terms,
               (scan.rank + 1) * sizeof *scan.terms, LORA__ALIGN);
    return status;
}

/* ---- pieces -------------------------------------------------------------- */

typedef struct parts_plan {
    lora__parts *out;
    lora__arena *arena;
    const lora_adapter *adapter;
    const lora__dialect *dialect;
    const lora__family *family;
    lora__map by_name;
    lora__buffer name;
    lora__piece *pieces;
} parts_plan;

/* Spell a target into the buffer, and say which rows of that weight it is. */
static lora_status parts_spell(lora__row_set *out_rows,
                               parts_plan *plan,
                               const lora__module *module,
                               const char *target,
                               lora_error *error)
{
    lora__spelling spelling;
    size_t main = 0;

    while (main + 1 < module->member_count &&
           lora__emit_is_scale(module->members[main].role)) {
        main++;
    }
    lora__emit_spelling(&spelling, module, plan->family, module->broken,
                        module->members[main].role); /* for messages */
    spelling.target = target;
    spelling.rows = out_rows;
    lora__buffer_clear(&plan->name);
    TRY(lora__names_write_module(&plan->name, plan->dialect, &spelling, error));
    return lora__buffer_status(&plan->name, error);
}

/* Put a piece into the group of the name in the buffer, where its rows are:
 * terms then stand in that order too, whatever the order of the file. */
static lora_status
parts_put(parts_plan *plan, lora__piece *piece, lora_error *error)
{
    const char *name;
    lora__group *group;
    lora__piece **at;
    size_t place;

    TRY(lora__arena_string(&name, plan->arena, plan->name.data,
                           plan->name.bytes, error));
    TRY(lora__map_add(&place, &plan->by_name, name, plan->name.bytes,
                      plan->out->count, error));
    group = &plan->out->groups[place];
    plan->out->count += place == plan->out->count;
    at = &group->first;
    while (*at != NULL &&
           (*at)->to.slices[0].begin <= piece->to.slices[0].begin) {
        at = &(*at)->next;
    }
    piece->next = *at;
    *at = piece;
    group->count++;
    return LORA_OK;
}

static void parts_put_whole(parts_plan *plan, lora__piece *piece)
{
    lora__group *group = &plan->out->groups[plan->out->count++];

    group->first = piece;
    group->count = 1;
    group->whole = 1;
}

/* Cut a module into the parts it consists of. */
static lora_status
parts_cut(parts_plan *plan, const lora__module *module, lora_error *error)
{
    lora__piece *pieces = plan->pieces;
    uint32_t alive;

    plan->pieces += module->part_count;
    TRY(parts_analyse(&alive, pieces, plan->arena, plan->adapter, module,
                      error));
    for (size_t p = 0; p < module->part_count; p++) {
        const lora__part *part = &module->parts[p];
        pieces[p].module = module;
        pieces[p].target = part->target;
        pieces[p].layer = part->layer;
        pieces[p].from = part->rows;
        if (p < PARTS_MAX && (alive >> p & 1) == 0) {
            lora__log(plan->adapter->context, LORA_LOG_INFO,
                      "%s: no change to %s, which is left out", module->name,
                      part->target);
            continue;
        }
        TRY(parts_spell(&pieces[p].to, plan, module, part->target, error));
        TRY(parts_put(plan, &pieces[p], error));
    }
    return LORA_OK;
}

static lora_status parts_add_module(parts_plan *plan,
                                    const lora__module *module,
                                    lora_error *error)
{
    lora__piece *piece = plan->pieces;
    lora_error found;
    lora_status status;

    piece->module = module;
    piece->target = module->target;
    piece->layer = module->layer;
    if (plan->dialect == NULL ||
        (plan->dialect == module->dialect && !module->broken)) {
        plan->pieces++;
        parts_put_whole(plan, piece);
        return LORA_OK;
    }
    lora_error_init(&found, sizeof found);
    status = parts_spell(&piece->to, plan, module, module->target, &found);
    if (status == LORA_ERROR_MEMORY) {
        return lora__error_merge(error, &found);
    }
    if (status != LORA_OK && module->part_count > 0) {
        memset(piece, 0, sizeof *piece);
        return parts_cut(plan, module, error);
    }
    plan->pieces++;
    if (status != LORA_OK || (piece->to.units == 0 && !piece->to.transposed)) {
        parts_put_whole(plan, piece); /* spelling it says what is wrong */
        return LORA_OK;
    }
    return parts_put(plan, piece, error);
}

LORA_PRIVATE lora_status lora__parts_plan(lora__parts *out,
                                          lora__arena *arena,
                                          const lora_adapter *adapter,
                                          const lora__dialect *dialect,
                                          const lora__family *family,
                                          const unsigned char *left_out,
                                          lora_error *error)
{
    parts_plan plan = {0};
    size_t room = 0;
    void *memory;
    lora_status status;

    memset(out, 0, sizeof *out);
    plan.out = out;
    plan.arena = arena;
    plan.adapter = adapter;
    plan.dialect = dialect;
    plan.family = family;
    for (size_t m = 0; m < adapter->module_count; m++) {
        size_t parts = adapter->modules[m].part_count;
        room += parts > 1 ? parts : 1;
    }
    TRY(lora__arena_zeroed(&memory, arena, room, sizeof *plan.pieces, error));
    plan.pieces = memory;
    TRY(lora__arena_zeroed(&memory, arena, room, sizeof *out->groups, error));
    out->groups = memory;
    lora__map_init(&plan.by_name, adapter->context);
    lora__buffer_init(&plan.name, adapter->context);
    status = LORA_OK;
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (!left_out[m]) {
            TRY_OR_DONE(parts_add_module(&plan, &adapter->modules[m], error));
        }
    }
done:
    lora__map_destroy(&plan.by_name);
    lora__buffer_destroy(&plan.name);
    return status;
}
