/* Checkpoints of files, folders and indices: what is opened, and what is
 * refused.
 */
#define _XOPEN_SOURCE 700

#include "checkpoints.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static heap memory;
static lora_context *context;
static char folder[80];

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define F32 LORA_DTYPE_F32

/* Folders ------------------------------------------------------------------
 */

static const char *in_folder(const char *name)
{
    static char paths[8][1024];
    static unsigned turn;
    char *path = paths[turn++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void empty(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char inside[1024];
        struct stat info;
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        assert_int_equal(lstat(inside, &info), 0);
        if (S_ISDIR(info.st_mode)) {
            empty(inside);
        }
        assert_int_equal(remove(inside), 0);
    }
    closedir(dir);
}

static int begin(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof folder, "%.40s/lora-test-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    context = make_context(&memory, NULL);
    return mkdtemp(folder) == NULL;
}

static int end(void **state)
{
    (void)state;
    empty(folder);
    end_context(&memory, context);
    return rmdir(folder);
}

static void put_bytes(const char *name, const void *data, size_t count)
{
    FILE *file = fopen(in_folder(name), "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void put_text(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

static void put_weights(const char *name, const weight *weights, size_t count)
{
    blob b = make_weights(weights, count);

    put_bytes(name, b.data, b.bytes);
    free(b.data);
}

static void put_one(const char *name, const char *tensor)
{
    const weight one = {tensor, F32, 2, {2, 2}, NULL};

    put_weights(name, &one, 1);
}

static void make_folder(const char *name)
{
    assert_int_equal(mkdir(in_folder(name), 0777), 0);
}

static lora_status
open_in(lora__checkpoint **out, const char *name, lora_error *error)
{
    lora_error_init(error, sizeof *error);
    return lora__checkpoint_open(out, context, in_folder(name), 0, error);
}

static void refuses(const char *name, lora_status status, const char *message)
{
    lora__checkpoint *c;
    lora_error error;

    assert_int_equal(open_in(&c, name, &error), status);
    assert_null(c);
    if (strstr(error.message, message) == NULL) {
        fail_msg("%s, not: %s", error.message, message);
    }
}

/* Opening ------------------------------------------------------------------
 */

#define CLIP "text_model.encoder.layers.0.mlp.fc1"
#define MODEL "diffusion_pytorch_model"
#define DOWN_Q "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"

/* A pipeline is its components; what else lies there is not looked at. */
static void pipelines_open(void **state)
{
    static const float counted[] = {1, 2, 3, 4};
    lora__checkpoint *c;
    lora_error error;

    (void)state;
    make_folder("pipe");
    make_folder("pipe/unet");
    make_folder("pipe/text_encoder");
    make_folder("pipe/text_encoder_2");
    make_folder("pipe/vae");
    make_folder("pipe/transformer"); /* no weights: not there */
    put_text("pipe/model_index.json", "{\"_class_name\":\"X\"}");
    put_text("pipe/unet/config.json", "{}");
    put_one("pipe/all.safetensors", "x.weight");
    put_one("pipe/vae/" MODEL ".safetensors", "encoder.conv_in.weight");
    put_one("pipe/unet/" MODEL ".safetensors", DOWN_Q ".weight");
    put_one("pipe/unet/" MODEL ".fp16.safetensors", "wrong.weight");
    put_one("pipe/text_encoder/model.fp16.safetensors", CLIP ".weight");
    /* Read by what it is, whatever it is called. */
    put_one("pipe/text_encoder_2/pytorch_model.bin", CLIP ".weight");
    put_one("pipe/text_encoder_2/model.fp16.safetensors", "wrong.weight");
    assert_int_equal(open_in(&c, "pipe", &error), LORA_OK);
    assert_int_equal(c->file_count, 3);
    assert_string_equal(c->files[0].component, "unet");
    assert_string_equal(c->files[1].component, "text_encoder");
    assert_string_equal(c->files[2].component, "text_encoder_2");
    assert_int_equal(c->tensor_count, 3);
    check_rows(c, "unet." DOWN_Q, LORA__ROLE_WEIGHT, counted, 2, 2);
    check_rows(c, "text_encoder." CLIP, LORA__ROLE_WEIGHT, counted, 2, 2);
    check_rows(c, "text_encoder_2." CLIP, LORA__ROLE_WEIGHT, counted, 2, 2);
    assert_string_equal(
        tensor_named(c, "text_encoder_2." CLIP ".weight")->component,
        "text_encoder_2");
    lora__checkpoint_release(c);
}

/* A component's folder says by its name what the tensors are of. */
static void components_open(void **state)
{
    static const char *const paths[] = {"c/text_encoder_2", "c/text_encoder_2/",
                                        "c/text_encoder_2//"};
    lora__checkpoint *c;
    lora_error error;

    (void)state;
    make_folder("c");
    make_folder("c/text_encoder_2");
    put_one("c/text_encoder_2/model.safetensors", CLIP ".weight");
    for (size_t i = 0; i < COUNT(paths); i++) {
        assert_int_equal(open_in(&c, paths[i], &error), LORA_OK);
        assert_string_equal(c->tensors[0].target, "text_encoder_2." CLIP);
        lora__checkpoint_release(c);
    }
    /* The file alone has names that all encoders share. */
    assert_int_equal(open_in(&c, "c/text_encoder_2/model.safetensors", &error),
                     LORA_OK);
    assert_string_equal(c->tensors[0].target, "text_encoder." CLIP);
    assert_string_equal(c->tensors[0].name, CLIP ".weight");
    lora__checkpoint_release(c);
    /* A folder of files in any layout may have that name, too. */
    make_folder("c/unet");
    put_one("c/unet/mine.safetensors", "double_blocks.0.img_attn.proj.weight");
    assert_int_equal(open_in(&c, "c/unet", &error), LORA_OK);
    assert_string_equal(c->tensors[0].target,
                        "transformer.transformer_blocks.0.attn.to_out.0");
    lora__checkpoint_release(c);
}

#define INDEX MODEL ".safetensors.index.json"

/* Shards, in the place of one file. */
static void shards_open(void **state)
{
    lora__checkpoint *c;
    lora_error error;

    (void)state;
    make_folder("s");
    make_folder("s/unet");
    put_one("s/unet/a.safetensors", "conv_in.weight");
    put_one("s/unet/b.safetensors", "conv_out.weight");
    put_text("s/unet/" INDEX,
             "{\"metadata\":{\"total_size\":32},\"weight_map\":{"
             "\"conv_in.weight\":\"a.safetensors\","
             "\"conv_out.weight\":\"b.safetensors\"}}");
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(open_in(&c, i == 0 ? "s" : "s/unet/" INDEX, &error),
                         LORA_OK);
        assert_int_equal(c->tensor_count, 2);
        assert_int_equal(c->file_count, 1);
        assert_string_equal(c->tensors[0].target, "unet.conv_in");
        assert_string_equal(c->tensors[1].target, "unet.conv_out");
        lora__checkpoint_release(c);
    }
}

/* Folders and indices that lie. */
static void hostile_ones_are_refused(void **state)
{
    lora__checkpoint *c;
    lora_error error;

    (void)state;
    make_folder("h");
    refuses("h", LORA_ERROR_IO, "a folder without a model");
    refuses("nothing", LORA_ERROR_IO, "cannot open");
    make_folder("h/unet");
    put_text("h/unet/config.json", "{}");
    refuses("h", LORA_ERROR_IO, "a folder without a model");
    put_text("h/unet/" MODEL ".safetensors", "");
    refuses("h", LORA_ERROR_TRUNCATED, "empty file");
    assert_int_equal(remove(in_folder("h/unet/" MODEL ".safetensors")), 0);

    put_one("h/unet/a.safetensors", "conv_in.weight");
    put_one("h/unet/b.safetensors", "conv_in.weight");
    refuses("h", LORA_ERROR_DUPLICATE, "several files may be meant");
    put_text("h/unet/" INDEX,
             "{\"weight_map\":{\"conv_in.weight\":\"../a.safetensors\"}}");
    refuses("h", LORA_ERROR_FORMAT, "beside the index");
    put_text("h/unet/" INDEX,
             "{\"weight_map\":{\"conv_in.weight\":\"/etc/a.safetensors\"}}");
    refuses("h", LORA_ERROR_FORMAT, "beside the index");
    put_text("h/unet/" INDEX,
             "{\"weight_map\":{\"conv_in.weight\":\"gone.safetensors\"}}");
    refuses("h", LORA_ERROR_IO, "cannot open");
    put_text("h/unet/" INDEX,
             "{\"weight_map\":{\"conv_in.weight\":\"a.safetensors\","
             "\"conv_out.weight\":\"b.safetensors\"}}");
    refuses("h", LORA_ERROR_DUPLICATE, "also in another file");
    put_text("h/unet/" INDEX, "{\"weight_map\":{}}");
    refuses("h", LORA_ERROR_FORMAT, "no weight_map");

    /* A folder in the place of a file is none. */
    assert_int_equal(remove(in_folder("h/unet/" INDEX)), 0);
    assert_int_equal(remove(in_folder("h/unet/b.safetensors")), 0);
    make_folder("h/unet/" INDEX);
    assert_int_equal(open_in(&c, "h", &error), LORA_OK);
    lora__checkpoint_release(c);
}

/* Limits hold for all files together, and failures leave nothing behind. */
static void limits_hold(void **state)
{
    lora_limits limits = {sizeof limits, 0, 2, 0, 0, 0};
    lora__checkpoint *c;
    lora_error error;
    heap h;
    lora_context *small = make_context(&h, &limits);

    (void)state;
    lora_error_init(&error, sizeof error);
    assert_int_equal(
        lora__checkpoint_open(&c, small, in_folder("pipe"), 0, &error),
        LORA_ERROR_LIMIT);
    assert_null(c);
    end_context(&h, small);
}

static void memory_may_run_out(void **state)
{
    (void)state;
    for (int lasting = 0; lasting < 2; lasting++) {
        lora_status status = LORA_ERROR_MEMORY;

        for (size_t n = 0; status != LORA_OK; n++) {
            heap h;
            lora_context *small = make_context(&h, NULL);
            lora__checkpoint *c;

            h.countdown = n;
            h.lasting = lasting;
            status =
                lora__checkpoint_open(&c, small, in_folder("pipe"), 0, NULL);
            assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
            assert_true((c != NULL) == (status == LORA_OK));
            h.countdown = SIZE_MAX;
            lora__checkpoint_release(c);
            end_context(&h, small);
            assert_true(n < 10000);
        }
    }
}

static void references_count(void **state)
{
    lora__checkpoint *c;
    lora_error error;

    (void)state;
    assert_int_equal(open_in(&c, "pipe", &error), LORA_OK);
    lora__checkpoint_retain(c);
    lora__checkpoint_release(c);
    assert_int_equal(c->tensor_count, 3);
    lora__checkpoint_release(c);
    lora__checkpoint_release(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelines_open),
        cmocka_unit_test(components_open),
        cmocka_unit_test(shards_open),
        cmocka_unit_test(hostile_ones_are_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(references_count),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
