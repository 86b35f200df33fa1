/* lora demo: example adapters, a corner of a base model, and the verbs at work
 * on them.
 *
 * The adapters have the module names and widths of real ones. Their numbers
 * come from a counter-based generator that uses integers and correctly rounded
 * operations only, so the files are the same on every machine.
 */
#include "cmd.h"
#include "json.h"
#include "say.h"
#include "system.h"
#include "text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEMO_PATH 4096
#define DEMO_NAME 192

typedef struct demo_settings {
    uint64_t count;
} demo_settings;

static const opt_spec demo_options[] = {
    {"count", 0, OPT_COUNT, "N", "make N small adapters and stop",
     offsetof(demo_settings, count), 1, 1000000, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* A layer to be made; kernel is 1 for a linear one. */
typedef struct demo_layer {
    char name[DEMO_NAME];
    int64_t rows, cols, kernel;
} demo_layer;

/* How a file spells the two factors, and what it is made with. */
typedef struct demo_recipe {
    const char *file;
    const char *down, *up; /* suffixes */
    const char *alpha;     /* suffix; NULL: none, alpha is the rank */
    int64_t rank;
    float alpha_value;
    uint64_t seed;
    const char *const *metadata; /* pairs; ends with NULL */
} demo_recipe;

/* A growing file. */
typedef struct demo_file {
    lora_builder *builder;
    const demo_recipe *recipe;
    lora_error *error;
    lora_status status; /* of the first layer that failed */
} demo_file;

static uint64_t demo_mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    x *= 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

/* A key for one tensor from its name. */
static uint64_t demo_key(uint64_t seed, const char *name)
{
    uint64_t key = demo_mix(seed + 1);
    for (; *name != '\0'; name++) {
        key = demo_mix(key ^ (unsigned char)*name);
    }
    return key;
}

/* Number `index` of the stream: the sum of four uniform 16-bit numbers, scaled
 * to mean 0 and variance 1, is normal enough and exact in double. */
static double demo_normal(uint64_t key, uint64_t index)
{
    uint64_t bits = demo_mix(key + index * 0x2545f4914f6cdd1du);
    uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) +
                   (bits >> 32 & 0xffff) + (bits >> 48);
    return ((double)sum / 65536.0 - 2.0) * 1.7320508075688772;
}

/* Convert to f16 and add. */
static lora_status demo_add(demo_file *file,
                            const char *layer,
                            const char *suffix,
                            const float *values,
                            const int64_t *shape,
                            int32_t ndim)
{
    char name[DEMO_NAME + 32];
    lora_tensor tensor;
    uint64_t count = 1;
    memset(&tensor, 0, sizeof tensor);
    for (int32_t i = 0; i < ndim; i++) {
        tensor.shape[i] = shape[i];
        count *= (uint64_t)shape[i];
    }
    tensor.ndim = ndim;
    tensor.dtype = LORA_DTYPE_F16;
    tensor.bytes = count * 2;
    void *half = app_alloc((size_t)count, 2);
    tensor.data = half;
    snprintf(name, sizeof name, "%s%s", layer, suffix);
    lora_status status = lora_tensor_convert(
        half, LORA_DTYPE_F16, values, LORA_DTYPE_F32, count, file->error);
    if (status == LORA_OK) {
        status =
            lora_builder_add_tensor(file->builder, name, &tensor, file->error);
    }
    free(half);
    return status;
}

/* Factors whose product has singular values near 1, q, q^2, ...: columns of
 * unit length on average, those of up shrinking by q. q differs from layer to
 * layer, so that rules for the rank have something to find. */
static lora_status demo_add_layer(demo_file *file, const demo_layer *layer)
{
    const demo_recipe *recipe = file->recipe;
    int64_t rank = recipe->rank;
    int64_t area = layer->kernel * layer->kernel;
    int64_t cols = layer->cols * area;
    int32_t ndim = layer->kernel > 1 ? 4 : 2;
    const int64_t down_shape[4] = {rank, layer->cols, layer->kernel,
                                   layer->kernel};
    const int64_t up_shape[4] = {layer->rows, rank, 1, 1};
    uint64_t down_key = demo_key(recipe->seed, layer->name);
    uint64_t up_key = demo_mix(down_key);
    double q = 0.35 + 0.05 * (double)(demo_mix(up_key) % 10);
    float *down = app_alloc((size_t)(rank * cols), sizeof *down);
    float *up = app_alloc((size_t)(layer->rows * rank), sizeof *up);
    double size = 1.0 / sqrt((double)cols);
    for (int64_t i = 0; i < rank * cols; i++) {
        down[i] = (float)(size * demo_normal(down_key, (uint64_t)i));
    }
    for (int64_t i = 0; i < layer->rows; i++) {
        double shrink = 1.0 / sqrt((double)layer->rows);
        for (int64_t j = 0; j < rank; j++) {
            uint64_t index = (uint64_t)(i * rank + j);
            up[index] = (float)(shrink * demo_normal(up_key, index));
            shrink *= q;
        }
    }
    lora_status status =
        demo_add(file, layer->name, recipe->down, down, down_shape, ndim);
    if (status == LORA_OK) {
        status = demo_add(file, layer->name, recipe->up, up, up_shape, ndim);
    }
    if (status == LORA_OK && recipe->alpha != NULL) {
        status = demo_add(file, layer->name, recipe->alpha,
                          &recipe->alpha_value, NULL, 0);
    }
    free(down);
    free(up);
    return status;
}

/* Add one layer unless something failed before. */
static void demo_put(demo_file *file,
                     int64_t rows,
                     int64_t cols,
                     int64_t kernel,
                     const char *prefix,
                     const char *name)
{
    demo_layer layer;
    int length = snprintf(layer.name, sizeof layer.name, "%s%s", prefix, name);

    layer.rows = rows;
    layer.cols = cols;
    layer.kernel = kernel;
    if (length < 0 || (size_t)length >= sizeof layer.name) {
        file->status = LORA_ERROR_RANGE;
    }
    if (file->status == LORA_OK && !app_interrupted()) {
        file->status = demo_add_layer(file, &layer);
    }
}

/* The transformers of a UNet: where they are and how wide. */
typedef struct demo_block {
    const char *name; /* with %d for the attention, %d for the layer */
    int64_t width;
    int attentions, layers;
} demo_block;

static const demo_block demo_sd15[] = {
    {"down_blocks_0_attentions_%d_transformer_blocks_%d_", 320, 2, 1},
    {"down_blocks_1_attentions_%d_transformer_blocks_%d_", 640, 2, 1},
    {"down_blocks_2_attentions_%d_transformer_blocks_%d_", 1280, 2, 1},
    {"mid_block_attentions_%d_transformer_blocks_%d_", 1280, 1, 1},
    {"up_blocks_1_attentions_%d_transformer_blocks_%d_", 1280, 3, 1},
    {"up_blocks_2_attentions_%d_transformer_blocks_%d_", 640, 3, 1},
    {"up_blocks_3_attentions_%d_transformer_blocks_%d_", 320, 3, 1},
    {NULL, 0, 0, 0},
};

static const demo_block demo_sdxl[] = {
    {"down_blocks.1.attentions.%d.transformer_blocks.%d.", 640, 2, 2},
    {"down_blocks.2.attentions.%d.transformer_blocks.%d.", 1280, 2, 10},
    {"mid_block.attentions.%d.transformer_blocks.%d.", 1280, 1, 10},
    {"up_blocks.0.attentions.%d.transformer_blocks.%d.", 1280, 3, 10},
    {"up_blocks.1.attentions.%d.transformer_blocks.%d.", 640, 3, 2},
    {NULL, 0, 0, 0},
};

/* The names of a block hold two %d; filled in by hand, as formats should not
 * come from tables. */
static void
demo_fill_name(char *out, size_t size, const char *name, int one, int two)
{
    const char *first = strstr(name, "%d");
    const char *second = strstr(first + 2, "%d");
    snprintf(out, size, "%.*s%d%.*s%d%s", (int)(first - name), name, one,
             (int)(second - first - 2), first + 2, two, second + 2);
}

/* One projection of the attention: what precedes its name, and the width of
 * what it reads; 0: that of the block. */
typedef struct demo_projection {
    const char *name;
    int64_t cols;
} demo_projection;

static void demo_put_attention(demo_file *file,
                               const char *prefix,
                               const demo_block *blocks,
                               const demo_projection *projections)
{
    char place[DEMO_NAME];
    for (; blocks->name != NULL; blocks++) {
        int total = blocks->attentions * blocks->layers;
        for (int i = 0; i < total; i++) {
            demo_fill_name(place, sizeof place, blocks->name,
                           i / blocks->layers, i % blocks->layers);
            for (const demo_projection *to = projections; to->name != NULL;
                 to++) {
                char name[2 * DEMO_NAME];
                snprintf(name, sizeof name, "%s%s", place, to->name);
                demo_put(file, blocks->width,
                         to->cols != 0 ? to->cols : blocks->width, 1, prefix,
                         name);
            }
        }
    }
}

/* SD1.5, kohya names: all attention of UNet and text encoder, and two
 * convolutions. */
static void demo_fill_portrait(demo_file *file)
{
    static const demo_projection projections[] = {
        {"attn1_to_q", 0},     {"attn1_to_k", 0},     {"attn1_to_v", 0},
        {"attn1_to_out_0", 0}, {"attn2_to_q", 0},     {"attn2_to_k", 768},
        {"attn2_to_v", 768},   {"attn2_to_out_0", 0}, {NULL, 0},
    };
    static const char *const encoder[] = {"q_proj", "k_proj", "v_proj",
                                          "out_proj"};
    demo_put_attention(file, "lora_unet_", demo_sd15, projections);
    demo_put(file, 320, 320, 3, "lora_unet_", "down_blocks_0_resnets_0_conv1");
    demo_put(file, 320, 320, 3, "lora_unet_", "down_blocks_0_resnets_0_conv2");
    for (int i = 0; i < 12; i++) {
        for (int j = 0; j < 4; j++) {
            char name[DEMO_NAME];
            snprintf(name, sizeof name, "layers_%d_self_attn_%s", i,
                     encoder[j]);
            demo_put(file, 768, 768, 1, "lora_te_text_model_encoder_", name);
        }
    }
}

/* The weights of a model, of the size that they have in trained ones. */
static void demo_put_weight(demo_file *file, int64_t width, const char *name)
{
    const int64_t shape[2] = {width, width};
    uint64_t key = demo_key(file->recipe->seed, name);
    size_t count = (size_t)(width * width);
    if (file->status != LORA_OK) {
        return;
    }
    float *values = app_alloc(count, sizeof *values);
    double size = 1.0 / sqrt((double)width);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(size * demo_normal(key, i));
    }
    file->status = demo_add(file, name, ".weight", values, shape, 2);
    free(values);
}

static const char *const demo_corner[] = {"to_q", "to_k", "to_v", "to_out.0",
                                          NULL};

/* The first attention of SD1.5, as its authors call it. */
static void demo_fill_base(demo_file *file)
{
    for (const char *const *name = demo_corner; *name != NULL; name++) {
        char full[DEMO_NAME];
        snprintf(full, sizeof full,
                 "model.diffusion_model.input_blocks.1.1.transformer_blocks."
                 "0.attn1.%s",
                 *name);
        demo_put_weight(file, 320, full);
    }
}

/* The same in an adapter, with the names of diffusers. */
static void demo_fill_corner(demo_file *file)
{
    for (const char *const *name = demo_corner; *name != NULL; name++) {
        demo_put(file, 320, 320, 1,
                 "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.",
                 *name);
    }
}

/* SDXL, diffusers names: what reads the prompt. */
static void demo_fill_ink(demo_file *file)
{
    static const demo_projection projections[] = {
        {"attn2.to_k", 2048}, {"attn2.to_v", 2048}, {NULL, 0}};
    demo_put_attention(file, "unet.", demo_sdxl, projections);
}

/* SD1.5, kohya names: what reads the prompt. */
static void demo_fill_small(demo_file *file)
{
    static const demo_projection projections[] = {
        {"attn2_to_k", 768}, {"attn2_to_v", 768}, {NULL, 0}};
    demo_put_attention(file, "lora_unet_", demo_sd15, projections);
}

static lora_status demo_build(app_state *app,
                              lora_adapter **out,
                              const demo_recipe *recipe,
                              void (*fill)(demo_file *file),
                              lora_error *error)
{
    demo_file file = {NULL, recipe, error, LORA_OK};
    file.status = lora_builder_create(&file.builder, app->context, NULL, error);
    if (file.status == LORA_OK) {
        fill(&file);
    }
    for (const char *const *pair = recipe->metadata;
         *pair != NULL && file.status == LORA_OK; pair += 2) {
        file.status =
            lora_builder_set_metadata(file.builder, pair[0], pair[1], error);
    }
    if (file.status == LORA_OK) {
        file.status = lora_builder_finish(out, file.builder, error);
    }
    lora_builder_destroy(file.builder);
    return file.status == LORA_OK && app_interrupted() ? LORA_ERROR_CANCELLED
                                                       : file.status;
}

/* Make one file; 0, or an exit code after a message. */
static int demo_make(app_state *app,
                     const char *folder,
                     const demo_recipe *recipe,
                     void (*fill)(demo_file *file))
{
    char path[DEMO_PATH];
    lora_adapter *adapter = NULL;
    lora_adapter_save_options options;
    lora_error error;
    lora_error_init(&error, sizeof error);
    lora_adapter_save_options_init(&options, sizeof options);
    options.overwrite = app->common.force != 0;
    snprintf(path, sizeof path, "%s/%s", folder, recipe->file);
    lora_status status = demo_build(app, &adapter, recipe, fill, &error);
    if (status == LORA_OK) {
        status = lora_adapter_save(adapter, path, &options, &error);
    }
    lora_adapter_destroy(adapter);
    return status == LORA_OK
               ? 0
               : say_failure(app, SAY_WRITING, path, status, &error);
}

/* Run one verb as if typed, and show it. Arguments end with NULL. */
static int
demo_step(app_state *app, const char *comment, const char *const *words)
{
    char *copies[16];
    int count = 0;
    printf("\n%s# %s%s\n%s$ lora", text_on(app->color, TEXT_DIM), comment,
           text_off(app->color), text_on(app->color, TEXT_GREEN));
    for (; words[count] != NULL && count < 15; count++) {
        size_t bytes = strlen(words[count]) + 1;
        copies[count] = app_alloc(bytes, 1);
        memcpy(copies[count], words[count], bytes);
        printf(" %s", words[count]);
    }
    printf("%s\n", text_off(app->color));
    copies[count] = NULL;
    char *kept[16];
    memcpy(kept, copies, sizeof kept); /* getopt_long() reorders */
    int code = app_run(&app->common, count, copies);
    for (int i = 0; i < count; i++) {
        free(kept[i]);
    }
    return code;
}

/* The path of a file in the folder. */
typedef struct demo_path {
    char text[DEMO_PATH];
} demo_path;

static const char *
demo_name(demo_path *path, const char *folder, const char *file)
{
    snprintf(path->text, sizeof path->text, "%s/%s", folder, file);
    return path->text;
}

static int demo_show_adapters(app_state *app, const char *folder)
{
    demo_path paths[3];
    const char *portrait = demo_name(&paths[0], folder, "portrait.safetensors");
    const char *renamed =
        demo_name(&paths[1], folder, "portrait-diffusers.safetensors");
    const char *small =
        demo_name(&paths[2], folder, "portrait-small.safetensors");
    const char *const info[] = {"info", portrait, NULL};
    const char *const convert[] = {"convert",   portrait,    "-o", renamed,
                                   "--dialect", "diffusers", NULL};
    const char *const resize[] = {"resize",   portrait, "-o", small,
                                  "--energy", "0.98",   NULL};
    const char *const check[] = {"check", renamed, small, NULL};
    int code = demo_step(app, "What is this file?", info);
    if (code == 0) {
        code = demo_step(app, "The same adapter with the names of diffusers",
                         convert);
    }
    if (code == 0) {
        code = demo_step(app, "As small as each layer allows", resize);
    }
    if (code == 0) {
        code = demo_step(app, "Are the results fit for use?", check);
    }
    return code;
}

static int demo_show_model(app_state *app, const char *folder)
{
    demo_path paths[5];
    char weighed[DEMO_PATH + 8];
    const char *base = demo_name(&paths[0], folder, "base.safetensors");
    const char *corner = demo_name(&paths[1], folder, "corner.safetensors");
    const char *fused = demo_name(&paths[2], folder, "fused.safetensors");
    const char *undo = demo_name(&paths[3], folder, "fused.undo");
    const char *back = demo_name(&paths[4], folder, "unfused.safetensors");
    const char *const bind[] = {"bind", corner, "--base", base, NULL};
    const char *const fuse[] = {"fuse", base,     weighed, "-o",
                                fused,  "--undo", undo,    NULL};
    const char *const unfuse[] = {"unfuse", fused, "--undo", undo,
                                  "-o",     back,  NULL};
    snprintf(weighed, sizeof weighed, "%s:0.8", corner);
    int code = demo_step(app, "What of a model does an adapter change?", bind);
    if (code == 0) {
        code = demo_step(app, "Put it into the model, at 0.8", fuse);
    }
    if (code == 0) {
        code = demo_step(app, "And the model as it was, bit for bit", unfuse);
    }
    return code;
}

static int demo_show(app_state *app, const char *folder)
{
    int code = demo_show_adapters(app, folder);
    if (code == 0) {
        code = demo_show_model(app, folder);
    }
    if (code == 0) {
        printf("\nTry next:  lora info --modules %s/ink.safetensors\n"
               "           lora help resize\n",
               folder);
    }
    return code;
}

/* --count: small SD1.5 adapters of different ranks. */
static int demo_make_many(app_state *app, const char *folder, uint64_t count)
{
    static const char *const metadata[] = {"ss_base_model_version", "sd_v1-5",
                                           "ss_network_module", "networks.lora",
                                           NULL};
    static const int64_t ranks[] = {4, 8, 16};
    int code = 0;
    for (uint64_t i = 0; i < count && code == 0; i++) {
        char file[64];
        demo_recipe recipe = {file,
                              ".lora_down.weight",
                              ".lora_up.weight",
                              ".alpha",
                              ranks[i % 3],
                              (float)ranks[i % 3],
                              demo_mix(app->common.seed) + i,
                              metadata};
        snprintf(file, sizeof file, "demo-%03llu.safetensors",
                 (unsigned long long)i + 1);
        code = demo_make(app, folder, &recipe, demo_fill_small);
        if (code == 0 && app->common.json) {
            char path[DEMO_PATH];
            snprintf(path, sizeof path, "%s/%s", folder, file);
            fputs(i > 0 ? "," : "", stdout);
            json_put_string(stdout, path);
        }
    }
    return code;
}

static int demo_make_examples(app_state *app, const char *folder)
{
    static const char *const portrait_metadata[] = {
        "modelspec.title",
        "Portrait (example)",
        "modelspec.trigger_phrase",
        "prtrt style",
        "ss_base_model_version",
        "sd_v1-5",
        "ss_sd_model_name",
        "v1-5-pruned-emaonly.safetensors",
        "ss_network_module",
        "networks.lora",
        "ss_network_dim",
        "8",
        "ss_network_alpha",
        "4.0",
        "ss_tag_frequency",
        "{\"10_prtrt\": {\"prtrt style\": 24, \"portrait\": 21, \"smile\": 9, "
        "\"looking at viewer\": 7, \"outdoors\": 4}}",
        NULL};
    static const char *const ink_metadata[] = {"format", "pt", NULL};
    const demo_recipe portrait = {"portrait.safetensors",
                                  ".lora_down.weight",
                                  ".lora_up.weight",
                                  ".alpha",
                                  8,
                                  4.0f,
                                  app->common.seed,
                                  portrait_metadata};
    const demo_recipe ink = {
        "ink.safetensors", ".lora_A.weight", ".lora_B.weight", NULL, 4, 4.0f,
        app->common.seed,  ink_metadata};
    const demo_recipe corner = {
        "corner.safetensors", ".lora_A.weight", ".lora_B.weight", NULL, 4, 4.0f,
        app->common.seed,     ink_metadata};
    const demo_recipe base = {
        "base.safetensors", NULL,        NULL, NULL, 0, 0.0f,
        app->common.seed,   ink_metadata};
    const struct {
        const demo_recipe *recipe;
        void (*fill)(demo_file *file);
    } files[] = {{&portrait, demo_fill_portrait},
                 {&ink, demo_fill_ink},
                 {&corner, demo_fill_corner},
                 {&base, demo_fill_base}};
    int code = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files && code == 0; i++) {
        code = demo_make(app, folder, files[i].recipe, files[i].fill);
        if (code == 0 && app->common.json) {
            demo_path path;
            fputs(i > 0 ? "," : "", stdout);
            json_put_string(stdout,
                            demo_name(&path, folder, files[i].recipe->file));
        }
    }
    return code;
}

/* The folder to work in, made if it is missing; NULL after a message. */
static char *demo_folder(app_state *app, const char *wanted)
{
    if (wanted == NULL) {
        char *fresh = system_make_temporary_folder("lora-demo");
        if (fresh == NULL) {
            say_error(app, NULL,
                      "no folder for temporary files, name one: lora demo "
                      "DIR");
        }
        return fresh;
    }
    if (strlen(wanted) > DEMO_PATH - 64) {
        say_error(app, wanted, "is too long a name");
        return NULL;
    }
    system_kind kind = system_path_kind(wanted);
    int failed = kind == SYSTEM_NOTHING ? system_make_folder(wanted) : 0;
    if (failed != 0) {
        say_error(app, wanted, "cannot be made: %s", strerror(failed));
        return NULL;
    }
    if (kind != SYSTEM_FOLDER && kind != SYSTEM_NOTHING) {
        say_error(app, wanted, "is not a folder");
        return NULL;
    }
    char *copy = app_alloc(strlen(wanted) + 1, 1);
    memcpy(copy, wanted, strlen(wanted) + 1);
    size_t bytes = strlen(copy);
    while (bytes > 1 && copy[bytes - 1] == '/') {
        copy[--bytes] = '\0';
    }
    return copy;
}

static int
demo_run(app_state *app, int count, char **operands, const void *settings)
{
    const demo_settings *own = settings;
    int json = app->common.json;
    char *folder = demo_folder(app, count > 0 ? operands[0] : NULL);
    if (folder == NULL) {
        return EXIT_FAILED;
    }
    if (json) {
        fputs("{\"folder\":", stdout);
        json_put_string(stdout, folder);
        fputs(",\"files\":[", stdout);
    }
    int code = own->count > 0 ? demo_make_many(app, folder, own->count)
                              : demo_make_examples(app, folder);
    if (json) {
        puts("]}");
    } else if (code == 0 && own->count > 0) {
        printf("%llu adapter%s in %s\n", (unsigned long long)own->count,
               own->count == 1 ? "" : "s", folder);
    } else if (code == 0) {
        printf("Example files are in %s:\n"
               "  portrait.safetensors  SD1.5, rank 8, names of kohya\n"
               "  ink.safetensors       SDXL, rank 4, names of diffusers\n"
               "  base.safetensors      one attention of SD1.5's UNet\n"
               "  corner.safetensors    rank 4, for that\n",
               folder);
        code = demo_show(app, folder);
    }
    free(folder);
    return code;
}

const app_verb cmd_demo = {
    "demo",
    "[DIR]",
    "make example adapters and show the verbs at work",
    "lora demo\tin a fresh folder for temporary files\n"
    "lora demo examples\tin the folder examples\n"
    "lora demo --count 20 library\ttwenty small adapters, nothing shown\n",
    "The files depend on --seed only. With --json the files are made and\n"
    "listed, and nothing is shown.\n",
    demo_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_FORCE,
    sizeof(demo_settings),
    VERB_CONTEXT,
    0,
    1,
    demo_run,
};
