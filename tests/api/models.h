/* Models that a host lists, and bindings as text. */
#ifndef TEST_MODELS_H
#define TEST_MODELS_H

#include "api/support.h"

/* A tensor of a host. */
typedef struct host_tensor {
    const char *name;
    int32_t ndim;
    int64_t shape[4];
    const char *component;
    lora_dtype dtype; /* NONE: F16 */
    lora_order order;
    lora_model_part parts[4];
    size_t part_count;
} host_tensor;

static inline lora_status
host_add(lora_model *model, const host_tensor *from, lora_error *error)
{
    lora_model_tensor tensor;

    lora_model_tensor_init(&tensor, sizeof tensor);
    tensor.name = from->name;
    tensor.component = from->component;
    tensor.ndim = from->ndim;
    memcpy(tensor.shape, from->shape, sizeof from->shape);
    tensor.order = from->order;
    tensor.dtype =
        from->dtype == LORA_DTYPE_NONE ? LORA_DTYPE_F16 : from->dtype;
    tensor.parts = from->parts;
    tensor.part_count = from->part_count;
    return lora_model_add(model, &tensor, error);
}

static inline lora_model *
host_model(lora_context *context, const host_tensor *tensors, size_t count)
{
    lora_model *model = NULL;

    assert_int_equal(lora_model_create(&model, context, NULL, NULL), LORA_OK);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(host_add(model, &tensors[i], NULL), LORA_OK);
    }
    return model;
}

static inline lora_binding *bind_to(lora_model *model,
                                    lora_adapter *adapter,
                                    const lora_selection *selections,
                                    size_t count)
{
    lora_binding_create_options options;
    lora_binding *binding = NULL;
    lora_error error;
    lora_status status;

    lora_binding_create_options_init(&options, sizeof options);
    options.selections = selections;
    options.selection_count = count;
    lora_error_init(&error, sizeof error);
    status = lora_binding_create(&binding, model, adapter, &options, &error);
    if (status != LORA_OK) {
        fail_msg("%s: %s", error.subject, error.message);
    }
    return binding;
}

static inline lora_binding_item item_at(const lora_binding *binding,
                                        size_t index)
{
    lora_binding_item item = {.struct_size = sizeof item};

    assert_int_equal(lora_binding_get_item(&item, binding, index, NULL),
                     LORA_OK);
    return item;
}

static inline lora_binding_info info_of(const lora_binding *binding)
{
    lora_binding_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_binding_get_info(&info, binding, NULL), LORA_OK);
    return info;
}

/* One line for each item, "NAME state; tensor[begin,end)<module row" with "b"
 * before what is of a bias and "t" before what is transposed. */
static inline void binding_text(char *out, size_t size, const lora_binding *b)
{
    static const char *const states[] = {
        "bound",   "half",    "nowhere",     "shape",   "dtype",
        "partner", "damaged", "unsupported", "unknown", "left out"};
    size_t at = 0;

    out[0] = '\0';
    for (size_t i = 0; i < info_of(b).item_count; i++) {
        lora_binding_item item = item_at(b, i);
        at += (size_t)snprintf(out + at, size - at, "%s %s;", item.name,
                               states[item.state]);
        for (size_t c = 0; c < item.change_count; c++) {
            lora_binding_change change = {.struct_size = sizeof change};
            assert_int_equal(lora_binding_get_change(&change, b, i, c, NULL),
                             LORA_OK);
            at += (size_t)snprintf(out + at, size - at, " %s%s%s[%d,%d)<%d",
                                   change.part == LORA_PART_BIAS ? "b " : "",
                                   change.transposed ? "t " : "", change.tensor,
                                   (int)change.row_begin, (int)change.row_end,
                                   (int)change.module_row);
        }
        at += (size_t)snprintf(out + at, size - at, "\n");
        assert_true(at < size);
    }
}

/* And no module is lost, or counted twice. */
static inline void assert_binding(const lora_binding *binding,
                                  const char *expected)
{
    char text[8192];
    size_t total = 0;
    size_t modules = 0;
    lora_binding_info info = info_of(binding);

    binding_text(text, sizeof text, binding);
    assert_string_equal(text, expected);
    for (lora_binding_state s = 0; s <= LORA_BINDING_LEFT_OUT; s++) {
        total += lora_binding_count(binding, s);
    }
    assert_int_equal(total, info.item_count);
    for (size_t i = 0; i < info.item_count; i++) {
        lora_binding_item item = item_at(binding, i);
        modules += item.module_index != UINT64_MAX;
        assert_int_equal(item.status == LORA_OK, item.reason[0] == '\0');
        assert_int_equal(item.status == LORA_OK,
                         item.state == LORA_BINDING_BOUND ||
                             item.state == LORA_BINDING_LEFT_OUT);
    }
    assert_int_equal(modules, info.module_count);
}

#endif
