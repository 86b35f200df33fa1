/* Finding what a module changes in a base model. */
#include "model/base.h"

#include "core/buffer.h"

#include <string.h>

/* What PEFT puts before the names of the model's own. */
static const char base_peft_prefix[] = "base_model.model.";

static lora_status base_read_found(void *out,
                                   lora_dtype dtype,
                                   const lora__base_tensor *tensor,
                                   size_t begin,
                                   size_t end,
                                   lora_error *error)
{
    const lora__found_tensor *found = tensor->user;
    unsigned char *to = out;
    size_t row = tensor->step * (lora_dtype_bits(dtype) / 8);

    for (size_t i = 0; i < found->piece_count; i++) {
        const lora__base_piece *piece = &found->pieces[i];
        size_t from = begin > piece->begin ? begin : piece->begin;
        size_t last = end < piece->end ? end : piece->end;
        if (from < last) {
            TRY(lora__checkpoint_read_rows(to + (from - begin) * row, dtype,
                                           found->checkpoint, piece->hold,
                                           piece->first + (from - piece->begin),
                                           last - from, error));
        }
    }
    return LORA_OK;
}

/* The tensor of that stored name, if there is one and it has numbers. */
static lora_status base_find_stored(int *found,
                                    lora__holding *hold,
                                    const lora__checkpoint *c,
                                    const char *module,
                                    const char *member,
                                    lora__buffer *text,
                                    lora_error *error)
{
    size_t index;

    lora__buffer_clear(text);
    lora__buffer_puts(text, module);
    lora__buffer_puts(text, member);
    TRY(lora__buffer_status(text, error));
    *found = lora__checkpoint_find(&index, c, text->data, text->bytes);
    return *found ? lora__checkpoint_hold(hold, c, index, NULL, error)
                  : LORA_OK;
}

/* All of a holding as the one piece. */
static void base_take_whole(lora__found_tensor *found)
{
    lora__base_piece *piece = &found->pieces[0];

    piece->hold = &found->whole;
    piece->begin = piece->first = 0;
    piece->end = (size_t)found->whole.rows;
    found->piece_count = 1;
}

/* Rows of a target within the module's weight, whose rows come in units; 0 if
 * the target cannot be a part of it. */
static int base_take_part(lora__found_tensor *found,
                          const lora__part *part,
                          const lora__holding *hold,
                          size_t *unit)
{
    const lora__row_set *set = &part->rows;
    size_t units = 0;
    size_t first = 0;

    for (uint16_t i = 0; i < set->slice_count; i++) {
        units += (size_t)(set->slices[i].end - set->slices[i].begin);
    }
    if (hold == NULL || set->transposed || units == 0 ||
        hold->rows % units != 0 ||
        (*unit != 0 && *unit != hold->rows / units) ||
        found->piece_count + set->slice_count > LORA__MAX_PIECES) {
        return 0;
    }
    *unit = (size_t)hold->rows / units;
    for (uint16_t i = 0; i < set->slice_count; i++) {
        lora__base_piece *piece = &found->pieces[found->piece_count++];
        piece->hold = hold;
        piece->begin = *unit * set->slices[i].begin;
        piece->end = *unit * set->slices[i].end;
        piece->first = first;
        first += piece->end - piece->begin;
    }
    return 1;
}

/* A weight that the base has in parts: they must be all of it. Slices of a
 * module's parts do not overlap, so that their rows tell. */
static int base_take_parts(lora__found_tensor *found,
                           const lora__checkpoint *c,
                           const lora__module *module,
                           lora__role role)
{
    size_t unit = 0;
    size_t rows = 0;

    for (size_t p = 0; p < module->part_count; p++) {
        const lora__part *part = &module->parts[p];
        const lora__holding *hold =
            lora__checkpoint_find_target(c, part->target, role);
        if (!base_take_part(found, part, hold, &unit) ||
            hold->ndim != found->pieces[0].hold->ndim ||
            hold->columns != found->pieces[0].hold->columns) {
            found->piece_count = 0;
            return 0;
        }
        rows += (size_t)hold->rows;
    }
    if (module->part_count == 0 || rows != unit * module->parts[0].rows.units) {
        found->piece_count = 0;
        return 0;
    }
    found->whole = *found->pieces[0].hold;
    found->whole.rows = rows;
    found->whole.shape[0] = (int64_t)rows;
    return 1;
}

static lora_status base_find_part(lora__found_tensor *found,
                                  const lora__module *module,
                                  lora__role role,
                                  lora__buffer *text,
                                  lora_error *error)
{
    const lora__checkpoint *c = found->checkpoint;
    const char *member = role == LORA__ROLE_BIAS ? ".bias" : ".weight";
    const lora__holding *share;
    size_t prefix = sizeof base_peft_prefix - 1;
    const char *names[3];
    int stored = 0;

    names[0] = module->name;
    names[1] = strncmp(module->name, base_peft_prefix, prefix) == 0
                   ? module->name + prefix
                   : module->path;
    names[2] = module->target;
    for (size_t i = 0; i < LORA__COUNT(names) && !stored; i++) {
        TRY(base_find_stored(&stored, &found->whole, c, names[i], member, text,
                             error));
    }
    if (!stored) {
        share = lora__checkpoint_find_target(c, module->target, role);
        if (share == NULL) {
            (void)base_take_parts(found, c, module, role);
            return LORA_OK;
        }
        found->whole = *share;
    }
    base_take_whole(found);
    return LORA_OK;
}

static lora_status base_check_dtype(const lora__tensor *tensor,
                                    const lora__module *module,
                                    lora_error *error)
{
    return lora__dtype_is_float(tensor->entry->dtype)
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET,
                            module->name, "%s of the base is %s, no float",
                            tensor->name,
                            lora_dtype_name(tensor->entry->dtype));
}

LORA_PRIVATE lora_status lora__base_find(lora__found_base *out,
                                         const lora__checkpoint *checkpoint,
                                         const lora__module *module,
                                         lora_error *error)
{
    static const lora__role roles[] = {LORA__ROLE_WEIGHT, LORA__ROLE_BIAS};
    lora__buffer text;
    lora_status status = LORA_OK;

    memset(out, 0, sizeof *out);
    lora__buffer_init(&text, checkpoint->context);
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        lora__base_tensor *tensor = &out->tensors[i];
        lora__found_tensor *found = &out->found[i];
        found->checkpoint = checkpoint;
        TRY_OR_DONE(base_find_part(found, module, roles[i], &text, error));
        if (found->piece_count == 0) {
            continue;
        }
        for (size_t p = 0; p < found->piece_count; p++) {
            size_t index = found->pieces[p].hold->tensor;
            TRY_OR_DONE(
                base_check_dtype(&checkpoint->tensors[index], module, error));
        }
        tensor->name = checkpoint->tensors[found->whole.tensor].name;
        tensor->ndim = found->whole.ndim;
        memcpy(tensor->shape, found->whole.shape, sizeof tensor->shape);
        tensor->step = (size_t)found->whole.columns;
        tensor->read = base_read_found;
        tensor->user = found;
        *(i == 0 ? &out->base.weight : &out->base.bias) = tensor;
    }
done:
    lora__buffer_destroy(&text);
    return status;
}

LORA_PRIVATE lora_status lora__base_how(lora__rows_how *how,
                                        lora__found_base *found,
                                        const lora__checkpoint *checkpoint,
                                        const lora__module *module,
                                        lora_part part,
                                        lora_error *error)
{
    memset(how, 0, sizeof *how);
    how->part = part;
    how->strength = 1.0;
    if (checkpoint == NULL || module->needs == 0) {
        return LORA_OK;
    }
    how->base = &found->base;
    return lora__base_find(found, checkpoint, module, error);
}

LORA_PRIVATE lora_status lora__base_rows(lora__rows *out,
                                         lora__found_base *found,
                                         const lora__checkpoint *checkpoint,
                                         const lora_adapter *adapter,
                                         const lora__module *module,
                                         lora_part part,
                                         lora_dtype dtype,
                                         lora_error *error)
{
    lora__rows_how how;

    TRY(lora__base_how(&how, found, checkpoint, module, part, error));
    how.dtype = dtype;
    return lora__rows_create_how(out, adapter, module, &how, error);
}

LORA_PRIVATE int lora__base_lacks_bias(const lora__module *module,
                                       lora_part part,
                                       const lora__rows_how *how)
{
    return (module->needs & part & LORA_PART_BIAS) != 0 && how->base != NULL &&
           how->base->bias == NULL && !lora__module_replaces_bias(module);
}
