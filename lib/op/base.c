/* Finding what a module changes in a base model. */
#include "op/base.h"

#include "core/buffer.h"

#include <string.h>

/* What PEFT puts before the names of the model's own. */
static const char base_peft_prefix[] = "base_model.model.";

/* F32 is what checkpoints answer; it is widened from the end on. */
static lora_status base_read_hold(void *out,
                                  lora_dtype dtype,
                                  const lora__base_tensor *tensor,
                                  size_t begin,
                                  size_t end,
                                  lora_error *error)
{
    const lora__found_base *found = tensor->user;
    const lora__holding *hold = &found->holds[tensor - found->tensors];
    size_t count = (end - begin) * tensor->step;
    float *narrow = out;

    TRY(lora__checkpoint_read_rows(narrow, found->checkpoint, hold, begin,
                                   end - begin, error));
    for (size_t i = count; dtype == LORA_DTYPE_F64 && i-- > 0;) {
        float value = narrow[i];
        ((double *)out)[i] = (double)value;
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

static lora_status base_find_part(int *found,
                                  lora__holding *hold,
                                  const lora__checkpoint *c,
                                  const lora__module *module,
                                  lora__role role,
                                  lora__buffer *text,
                                  lora_error *error)
{
    const char *member = role == LORA__ROLE_BIAS ? ".bias" : ".weight";
    const lora__holding *share;
    size_t prefix = sizeof base_peft_prefix - 1;
    const char *names[3];

    names[0] = module->name;
    names[1] = strncmp(module->name, base_peft_prefix, prefix) == 0
                   ? module->name + prefix
                   : module->path;
    names[2] = module->target;
    for (size_t i = 0; i < LORA__COUNT(names) && !*found; i++) {
        TRY(base_find_stored(found, hold, c, names[i], member, text, error));
    }
    if (*found) {
        return LORA_OK;
    }
    share = lora__checkpoint_find_target(c, module->target, role);
    if (share != NULL) {
        *hold = *share;
        *found = 1;
    }
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
    out->checkpoint = checkpoint;
    lora__buffer_init(&text, checkpoint->context);
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        lora__base_tensor *tensor = &out->tensors[i];
        lora__holding *hold = &out->holds[i];
        int found = 0;
        TRY_OR_DONE(base_find_part(&found, hold, checkpoint, module, roles[i],
                                   &text, error));
        if (!found) {
            continue;
        }
        TRY_OR_DONE(base_check_dtype(&checkpoint->tensors[hold->tensor], module,
                                     error));
        tensor->name = checkpoint->tensors[hold->tensor].name;
        tensor->ndim = hold->ndim;
        memcpy(tensor->shape, hold->shape, sizeof tensor->shape);
        tensor->step = (size_t)hold->columns;
        tensor->read = base_read_hold;
        tensor->user = out;
        *(i == 0 ? &out->base.weight : &out->base.bias) = tensor;
    }
done:
    lora__buffer_destroy(&text);
    return status;
}
