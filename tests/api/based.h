/* An adapter whose changes depend on the base weight, and that base. */
#ifndef API_BASED_H
#define API_BASED_H

#include "api/folder.h"

/* One module of each sort that needs its weight, a [2, 3] one, or has elements
 * beside its factors; and a pair, 'c', which needs none. */
static inline void image_based(image *im)
{
    static const float yes = 1.0f;
    static const float no = 0.0f;
    static const float rows[2] = {0.5f, -1.0f};
    static const float inputs[3] = {2.0f, 0.0f, -1.0f};
    static const float peft[2] = {1.5f, 0.0f};
    static const float a1[3] = {1.0f, 0.0f, 2.0f};
    static const float a2[3] = {0.0f, 2.0f, 1.0f};
    static const float b1[2] = {1.0f, -1.0f};
    static const float b2[3] = {3.0f, 0.0f, 1.0f};
    static const float half = 0.5f;
    static const float set[6] = {1.0f, 0.0f, 2.0f, 0.0f, 3.0f, 0.0f};
    static const float skew[4] = {0.0f, 0.5f, 0.0f, 0.0f};
    static const float wide[9] = {0.0f, 0.5f, 0.0f, 0.0f, 0.0f, 1.0f};
    static const unsigned char places[4] = {1, 0, 2, 0};
    static const unsigned char sizes[4] = {2, 0, 3, 0};

    image_begin(im, NULL);
    image_f32(im, "lora_unet_a.a1.weight", "3,1", a1, 3);
    image_f32(im, "lora_unet_a.a2.weight", "1,3", a2, 3);
    image_f32(im, "lora_unet_a.alpha", "", &half, 1);
    image_f32(im, "lora_unet_a.b1.weight", "2,1", b1, 2);
    image_f32(im, "lora_unet_a.b2.weight", "1,3", b2, 3);
    image_f32(im, "lora_unet_b.on_input", "", &yes, 1);
    image_f32(im, "lora_unet_b.weight", "3", inputs, 3);
    image_f32(im, "lora_unet_c.lora_down.weight", "1,3", a2, 3);
    image_f32(im, "lora_unet_c.lora_up.weight", "2,1", b1, 2);
    image_f32(im, "lora_unet_d.on_input", "", &no, 1);
    image_f32(im, "lora_unet_d.weight", "2", rows, 2);
    image_f32(im, "base_model.model.e.ia3_l", "2,1", peft, 2);
    image_f32(im, "lora_unet_f.dora_scale", "1,3", a1, 3);
    image_f32(im, "lora_unet_f.lora_down.weight", "1,3", a2, 3);
    image_f32(im, "lora_unet_f.lora_up.weight", "2,1", b1, 2);
    image_f32(im, "lora_unet_g.lambda_layer", "1,1", &half, 1);
    image_f32(im, "lora_unet_g.p_layer.weight", "2,1", b1, 2);
    image_f32(im, "lora_unet_g.q_layer.weight", "1,3", b2, 3);
    image_f32(im, "lora_unet_h.set_weight", "2,3", set, 6);
    image_raw(im, "lora_unet_i.bias_indices", "I16", "2,1", places, 4);
    image_raw(im, "lora_unet_i.bias_size", "I16", "2", sizes, 4);
    image_f32(im, "lora_unet_i.bias_values", "1", &half, 1);
    image_f32(im, "lora_unet_i.lora_down.weight", "1,3", a2, 3);
    image_f32(im, "lora_unet_i.lora_up.weight", "2,1", b1, 2);
    image_f32(im, "lora_unet_j.alpha", "", &half, 1);
    image_f32(im, "lora_unet_j.oft_blocks", "1,2,2", skew, 4);
    image_f32(im, "lora_unet_j.rescale", "2,1", peft, 2);
    image_f32(im, "base_model.model.k.boft_R", "1,1,3,3", wide, 9);
    image_f32(im, "base_model.model.k.boft_s", "2,1", peft, 2);
    image_end(im);
}

/* The base: weights of all modules, and a bias. */
static inline void image_base(image *im)
{
    static const float weight[6] = {1.0f, 2.0f, 3.0f, -4.0f, 5.0f, 0.5f};
    static const float bias[2] = {8.0f, -2.0f};
    char name[] = "lora_unet_?.weight";

    image_begin(im, NULL);
    image_f32(im, "e.bias", "2", bias, 2);
    image_f32(im, "e.weight", "2,3", weight, 6);
    image_f32(im, "k.weight", "2,3", weight, 6);
    for (const char *p = "abcdfghij"; *p != '\0'; p++) {
        name[10] = *p;
        image_f32(im, name, "2,3", weight, 6);
    }
    image_end(im);
}

/* Changes of weights that are given, of all modules. */
static inline lora_status based_delta(const lora_adapter *adapter,
                                      lora_error *error)
{
    static const float numbers[6] = {1.0f, 2.0f, 3.0f, -4.0f, 5.0f, 0.5f};
    const lora_tensor weight = {
        numbers, sizeof numbers, {2, 3}, 2, LORA_DTYPE_F32};
    double got[6];
    lora_status status = LORA_OK;

    for (size_t i = 0; i < 11 && status == LORA_OK; i++) {
        status = lora_adapter_delta_base(got, sizeof got, adapter, i,
                                         LORA_PART_WEIGHT, 0.5, LORA_DTYPE_F64,
                                         0, 2, &weight, NULL, NULL, error);
    }
    return status;
}

/* The path of base.safetensors, which is made. */
static inline const char *based_path(void)
{
    static char path[1200];
    image model;

    image_base(&model);
    folder_put("base.safetensors", model.file, model.bytes);
    image_free(&model);
    snprintf(path, sizeof path, "%s", in_folder("base.safetensors"));
    return path;
}

/* All that needs the base as another kind, with base.safetensors, which is
 * made; what has no such thing in its dialect is left out. */
static inline lora_status based_convert(lora_adapter **out,
                                        lora_report **out_report,
                                        const lora_adapter *adapter,
                                        const char *kind,
                                        const lora_rank_rule *rule,
                                        lora_error *error)
{
    static const char *const drops[] = {"lora_unet_i", "base_model.*"};
    lora_adapter_convert_options options;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.kind = kind;
    options.rule = rule;
    options.base = based_path();
    options.drops = drops;
    options.drop_count = strcmp(kind, "full") == 0 ? 2 : 1;
    return lora_adapter_convert_report(out, out_report, adapter, &options,
                                       error);
}

/* Changed weights of base.safetensors, which is made, to delta.safetensors. */
static inline lora_status
based_save(const lora_adapter *adapter, uint32_t skip_bad, lora_error *error)
{
    lora_adapter_delta_options options;

    lora_adapter_delta_options_init(&options, sizeof options);
    options.base = based_path();
    options.weights = 1;
    options.skip_bad = skip_bad;
    return lora_adapter_save_delta(adapter, in_folder("delta.safetensors"), 0.5,
                                   &options, error);
}

#endif
