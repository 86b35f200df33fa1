/* Names spoiled on their way: what conversions by hand, wrappers of torch and
 * doubled prefixes make of them, taken from scripts and reports that are about
 * such files; and names that only look like it.
 */
#include "names.h"

#define BLOCK "down_blocks.0.attentions.0.transformer_blocks.0."
#define FLAT "down_blocks_0_attentions_0_transformer_blocks_0_"
#define ENCODER "text_model.encoder.layers.3.self_attn.v_proj"
#define ENCODER_FLAT "text_model_encoder_layers_3_self_attn_v_proj"
#define QUERY "unet." BLOCK "attn1.to_q"
#define WAN "transformer.blocks.7.attn1.to_q"
#define FLUX "transformer.transformer_blocks.5.attn.to_k"

/* Module, suffix, dialect, target. */
static const struct {
    const char *module;
    const char *suffix;
    const char *dialect;
    const char *target;
} spoiled[] = {
    /* prefixes put before what had one */
    {"lora_unet_unet_" FLAT "attn1_to_q", ".lora_up.weight", "kohya", QUERY},
    {"lora_unet__" FLAT "attn1_to_q", ".lora_up.weight", "kohya", QUERY},
    {"lora_unet_base_model_model_" FLAT "attn1_to_q", ".lora_up.weight",
     "kohya", QUERY},
    {"lora_unet_model_diffusion_model_blocks_7_self_attn_q", ".lora_up.weight",
     "kohya", WAN},
    {"lora_unet_diffusion_model_blocks_7_self_attn_q", ".hada_w1_a",
     "lycoris-kohya", WAN},
    {"lora_te_text_encoder_" ENCODER_FLAT, ".lora_up.weight", "kohya",
     "text_encoder." ENCODER},
    {"lora_te2_text_encoder_2_" ENCODER_FLAT, ".lora_up.weight", "kohya",
     "text_encoder_2." ENCODER},
    {"lora_transformer_transformer_transformer_blocks_5_attn_to_k",
     ".lora_up.weight", "OneTrainer DiT", FLUX},
    {"base_model.model.base_model.model." BLOCK "attn1.to_q", ".lora_B.weight",
     "peft", QUERY},
    {"base_model.model.base_model.model.base_model.model." BLOCK "attn1.to_q",
     ".lora_B.weight", "peft", QUERY},
    {"unet.base_model.model." BLOCK "attn1.to_q", ".lora_B.weight", "diffusers",
     QUERY},
    {"unet.unet." BLOCK "attn1.to_q", ".lora_B.weight", "diffusers", QUERY},
    {"transformer.transformer.transformer_blocks.5.attn.to_k", ".lora_B.weight",
     "diffusers", FLUX},
    {"diffusion_model.diffusion_model.blocks.7.self_attn.q", ".lora_B.weight",
     "comfy/native", WAN},
    {"base_model.model.lora_unet_" FLAT "attn1_to_q", ".lora_up.weight",
     "kohya", QUERY},
    /* wrappers */
    {"module.unet." BLOCK "attn1.to_q", ".lora_B.weight", "diffusers", QUERY},
    {"module.module.unet." BLOCK "attn1.to_q", ".lora_B.weight", "diffusers",
     QUERY},
    {"model." BLOCK "attn1.to_q", ".lora_B.weight", "diffusers", QUERY},
    {"unet._orig_mod." BLOCK "attn1.to_q", ".lora.up.weight", "diffusers-unet",
     QUERY},
    {"unet." BLOCK "attn1.to_q._orig_mod", ".lora_B.weight", "diffusers",
     QUERY},
    {"_orig_mod._fsdp_wrapped_module.transformer.transformer_blocks.5."
     "_checkpoint_wrapped_module.attn.to_k",
     ".lora_B.weight", "diffusers", FLUX},
    {"pipe.dit.blocks.7.self_attn.q", ".lora_B.default.weight", "peft-raw",
     WAN},
    {"unet." BLOCK "attn1.processor.to_q", ".lora_B.weight", "diffusers",
     QUERY},
    /* flattened by half, or with two strokes */
    {"lora_unet_" BLOCK "attn1.to_q", ".lora_up.weight", "kohya", QUERY},
    {"lora_unet." BLOCK "attn1.to_q", ".lora_up.weight", "kohya", QUERY},
    {"lora_unet." FLAT "attn1_to_q", ".lora_up.weight", "kohya", QUERY},
    {"lora_te1_" ENCODER, ".lora_up.weight", "kohya", "text_encoder." ENCODER},
    {"lora_unet_transformer_blocks__5__attn__to_k", ".lora_up.weight", "kohya",
     FLUX},
    /* suffixes */
    {"lora_unet_" FLAT "attn1_to_q", "_lora_up.weight", "kohya", QUERY},
    {"unet." BLOCK "attn1.to_q", ".lora_up.default.weight", "peft-raw", QUERY},
    {"lora_unet_" FLAT "attn1_to_q", ".lora_up.default.weight", "kohya", QUERY},
};

/* Sound names, and names of models that we do not know: nothing is mended. */
static const struct {
    const char *module;
    const char *suffix;
    const char *target;
} sound[] = {
    {"lora_unet_" FLAT "attn1_to_q", ".lora_up.weight", QUERY},
    {"lora_unet_transformer_blocks_5_attn_to_k", ".lora_up.weight", FLUX},
    {"unet." BLOCK "attn1.to_q", ".lora_B.weight", QUERY},
    {"unet." BLOCK "attn1.to_q", ".lora_B.default_0.weight", QUERY},
    {"model.diffusion_model.blocks.7.self_attn.q", ".lora_B.weight", WAN},
    {"base_model.model.model.layers.0.self_attn.q_proj", ".lora_B.weight",
     "model.layers.0.self_attn.q_proj"},
    {"model.layers.0.mlp.gate_proj", ".lora_B.weight",
     "model.layers.0.mlp.gate_proj"},
    {"module.h.0.attn.c_attn", ".lora_B.weight", "module.h.0.attn.c_attn"},
    {"transformer.h.0.attn.c_attn", ".lora_B.weight",
     "transformer.h.0.attn.c_attn"},
    {"lora_unet_base_model_model_nobody", ".lora_up.weight",
     "base_model_model_nobody"},
    {"module.module.", ".lora_B.weight", "module.module."},
};

static const lora__key_out *
read_alone(file *f, const char *module, const char *suffix)
{
    static char key[256];

    snprintf(key, sizeof key, "%s%s", module, suffix);
    file_open(f);
    file_add(f, key, 2, matrix);
    file_read(f);
    return &f->names.keys[0];
}

static void spoiled_names_are_read(void **state)
{
    static file f;

    (void)state;
    for (size_t i = 0; i < COUNT(spoiled); i++) {
        const lora__key_out *got =
            read_alone(&f, spoiled[i].module, spoiled[i].suffix);
        assert_string_equal(got->module, spoiled[i].module);
        assert_string_equal(got->target, spoiled[i].target);
        assert_string_equal(lora__dialect_id(got->dialect), spoiled[i].dialect);
        assert_int_equal(got->known, 1);
        assert_int_equal(got->broken, 1);
        file_close(&f);
    }
}

static void sound_names_stay(void **state)
{
    static file f;

    (void)state;
    for (size_t i = 0; i < COUNT(sound); i++) {
        const lora__key_out *got =
            read_alone(&f, sound[i].module, sound[i].suffix);
        assert_string_equal(got->module, sound[i].module);
        assert_string_equal(got->target, sound[i].target);
        assert_int_equal(got->broken, 0);
        file_close(&f);
    }
}

/* One script strips the wrong end of the pair's name for alpha's. */
static void alpha_finds_its_pair(void **state)
{
    static const char *const keys[] = {
        "lora_unet_unet_" FLAT "attn1_to_q_lora_down.weight",
        "lora_unet_unet_" FLAT "attn1_to_q_lora_down.alpha",
        "lora_unet_unet_" FLAT "attn1_to_q_lora_up.weight", NULL};
    static file f;

    (void)state;
    file_open(&f);
    file_read_keys(&f, keys);
    assert_string_equal(lora__role_name(f.names.keys[1].role), "alpha");
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(f.names.keys[i].module,
                            "lora_unet_unet_" FLAT "attn1_to_q");
        assert_string_equal(f.names.keys[i].target, QUERY);
    }
    file_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spoiled_names_are_read),
        cmocka_unit_test(sound_names_stay),
        cmocka_unit_test(alpha_finds_its_pair),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
