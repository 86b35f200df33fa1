/* Folders, several files that an index joins, and model cards: every form that
 * opens, and every refusal. Indices are written by hand.
 */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

static void put_text(const char *name, const char *text)
{
    folder_put(name, text, strlen(text));
}

static lora_adapter *opens(lora_context *context, const char *path)
{
    lora_adapter *adapter;
    lora_error error;

    error_dirty(&error);
    assert_error(&error,
                 lora_adapter_open(&adapter, context, path, NULL, &error),
                 LORA_OK, LORA_NO_OFFSET, "");
    return adapter;
}

/* Fails so, with a word in its message. */
static void refuses(lora_context *context,
                    const char *path,
                    lora_status status,
                    const char *subject,
                    const char *word)
{
    lora_adapter *adapter = JUNK(lora_adapter);
    lora_error error;

    error_dirty(&error);
    assert_error(&error,
                 lora_adapter_open(&adapter, context, path, NULL, &error),
                 status, ANY_OFFSET, subject);
    assert_null(adapter);
    if (strstr(error.message, word) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error.message, word);
    }
}

/* One pair under a name, of rank 2; `seed` tells files apart. */
static void put_pair(const char *file, const char *module, uint32_t seed)
{
    image im;
    char name[200];

    image_begin(&im, NULL);
    snprintf(name, sizeof name, "%s.lora_A.weight", module);
    image_some(&im, name, "2,3", 6, seed);
    snprintf(name, sizeof name, "%s.lora_B.weight", module);
    image_some(&im, name, "4,2", 8, seed + 1);
    image_end(&im);
    folder_put(file, im.file, im.bytes);
    image_free(&im);
}

static float first_value(const lora_adapter *adapter)
{
    float values[6];

    assert_int_equal(lora_adapter_read_tensor(values, sizeof values, adapter, 0,
                                              LORA_DTYPE_F32, NULL),
                     LORA_OK);
    return values[0];
}

/* What the file with this seed has first. */
static float seed_value(uint32_t seed)
{
    float value;

    some_numbers(&value, 1, seed);
    return value;
}

static double first_scale(const lora_adapter *adapter)
{
    lora_module_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_adapter_get_module(&info, adapter, 0, NULL), LORA_OK);
    return info.scale;
}

static const char *path_of(const lora_adapter *adapter)
{
    lora_adapter_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_adapter_get_info(&info, adapter, NULL), LORA_OK);
    return info.path;
}

/* Folders ---------------------------------------------------------------- */

#define PEFT "base_model.model.layer"

static void test_peft(void **state)
{
    lora_context *context = plain_context();
    char with_slash[100];
    lora_adapter *adapter;

    (void)state;
    put_pair("adapter_model.bin", PEFT, 1); /* bytes tell, not names */
    adapter = opens(context, folder);
    assert_true(first_value(adapter) == seed_value(1));
    assert_true(first_scale(adapter) == 1.0); /* alpha is the rank */
    lora_adapter_destroy(adapter);

    put_pair("adapter_model.safetensors", PEFT, 7);
    put_pair("other.safetensors", PEFT, 20);
    put_text("adapter_config.json", "{\"lora_alpha\": 6}");
    snprintf(with_slash, sizeof with_slash, "%s/", folder);
    adapter = opens(context, with_slash);
    assert_true(first_value(adapter) == seed_value(7));
    assert_true(first_scale(adapter) == 3.0);
    assert_string_equal(path_of(adapter),
                        in_folder("adapter_model.safetensors"));
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
}

/* PEFT reads its configuration whatever the names, and whatever the file's own
 * metadata say; another file only where they say nothing. */
static void test_config_of_peft(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter;
    image im;

    (void)state;
    image_begin(&im, "\"lora_adapter_metadata\":\"{\\\"lora_alpha\\\":4}\"");
    image_some(&im, PEFT ".lora_A.weight", "2,3", 6, 1);
    image_some(&im, PEFT ".lora_B.weight", "4,2", 8, 2);
    image_end(&im);
    put_text("adapter_config.json", "{\"lora_alpha\": 6}");
    folder_put("adapter_model.safetensors", im.file, im.bytes);
    adapter = opens(context, folder);
    assert_true(first_scale(adapter) == 3.0);
    lora_adapter_destroy(adapter);
    folder_put("mine.safetensors", im.file, im.bytes);
    adapter = opens(context, in_folder("mine.safetensors"));
    assert_true(first_scale(adapter) == 2.0);
    lora_adapter_destroy(adapter);
    put_pair("adapter_model.safetensors", "layer", 1);
    adapter = opens(context, folder);
    assert_true(first_scale(adapter) == 3.0);
    lora_adapter_destroy(adapter);
    image_free(&im);
    lora_context_destroy(context);
}

static void test_diffusers(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter;

    (void)state;
    put_pair("pytorch_lora_weights.bin", "unet.a", 3);
    put_pair("else.safetensors", "unet.a", 9);
    adapter = opens(context, folder);
    assert_true(first_value(adapter) == seed_value(3));
    lora_adapter_destroy(adapter);
    put_pair("pytorch_lora_weights.safetensors", "unet.a", 5);
    adapter = opens(context, folder);
    assert_true(first_value(adapter) == seed_value(5));
    lora_adapter_destroy(adapter);
    put_pair("adapter_model.bin", PEFT, 1);
    refuses(context, folder, LORA_ERROR_DUPLICATE, folder,
            "adapter_model.bin, pytorch_lora_weights.safetensors");
    lora_context_destroy(context);
}

static void test_lone_file(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter;

    (void)state;
    refuses(context, folder, LORA_ERROR_IO, folder, "without an adapter");
    put_text("README.md", "# none");
    put_pair("old.bin", PEFT, 1); /* could be anything */
    put_pair(".hidden.safetensors", PEFT, 1);
    assert_int_equal(mkdir(in_folder("a.safetensors"), 0700), 0);
    refuses(context, folder, LORA_ERROR_IO, folder, "without an adapter");
    put_pair("style.safetensors", "unet.a", 4);
    adapter = opens(context, folder);
    assert_true(first_value(adapter) == seed_value(4));
    assert_string_equal(path_of(adapter), in_folder("style.safetensors"));
    lora_adapter_destroy(adapter);

    put_pair("e.safetensors", "unet.a", 4);
    refuses(context, folder, LORA_ERROR_DUPLICATE, folder,
            "e.safetensors, style.safetensors");
    put_pair("d.safetensors", "unet.a", 4);
    put_pair("c.safetensors", "unet.a", 4);
    put_pair("b.safetensors", "unet.a", 4);
    refuses(context, folder, LORA_ERROR_DUPLICATE, folder,
            "b.safetensors, c.safetensors, d.safetensors, e.safetensors ...");
    lora_context_destroy(context);
}

/* What the system refuses to list; root may list anything. */
static void test_closed_folder(void **state)
{
    lora_context *context = plain_context();

    (void)state;
    put_pair("style.safetensors", "unet.a", 4);
    assert_int_equal(chmod(folder, 0300), 0);
    if (geteuid() != 0) {
        refuses(context, folder, LORA_ERROR_IO, folder, "cannot list");
    }
    assert_int_equal(chmod(folder, 0700), 0);
    refuses(context, in_folder("missing"), LORA_ERROR_IO, in_folder("missing"),
            "no such file");
    lora_context_destroy(context);
}

/* Several files ---------------------------------------------------------- */

#define INDEX "x.safetensors.index.json"
#define ONE "x-00001-of-00002.safetensors"
#define TWO "x-00002-of-00002.safetensors"
#define MAP_ONE(module)                                                        \
    "\"" module ".lora_A.weight\":\"" ONE "\",\"" module                       \
    ".lora_B.weight\":\"" ONE "\""
#define MAP_TWO(module)                                                        \
    "\"" module ".lora_A.weight\":\"" TWO "\",\"" module                       \
    ".lora_B.weight\":\"" TWO "\""
#define INDEX_TEXT(map)                                                        \
    "{\"metadata\":{\"total_size\":112},\"weight_map\":{" map "}}"

static void put_shards(void)
{
    put_pair(ONE, "unet.a", 1);
    put_pair(TWO, "unet.b", 11);
}

static void test_shards(void **state)
{
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_adapter_open_options options;
    lora_adapter_info info = {.struct_size = sizeof info};
    lora_adapter *adapter;
    lora_adapter *copy;
    lora_tensor view;
    float values[8];
    float expected[8];
    struct stat one;
    struct stat two;

    (void)state;
    put_shards();
    /* In the order of the files, whatever that of the index. */
    put_text(INDEX, INDEX_TEXT(MAP_TWO("unet.b") "," MAP_ONE("unet.a")));
    for (int way = 0; way < 3; way++) {
        lora_adapter_open_options_init(&options, sizeof options);
        options.flags = way == 2 ? LORA_OPEN_MAP : 0;
        assert_int_equal(lora_adapter_open(&adapter, context,
                                           way == 0 ? folder : in_folder(INDEX),
                                           &options, NULL),
                         LORA_OK);
        assert_int_equal(lora_adapter_tensor_count(adapter), 4);
        assert_int_equal(lora_adapter_module_count(adapter), 2);
        assert_int_equal(tensor_at(adapter, "unet.a.lora_A.weight"), 0);
        assert_int_equal(tensor_at(adapter, "unet.b.lora_B.weight"), 3);
        assert_int_equal(lora_adapter_read_tensor(values, sizeof values,
                                                  adapter, 3, LORA_DTYPE_F32,
                                                  NULL),
                         LORA_OK);
        some_numbers(expected, 8, 12);
        assert_memory_equal(values, expected, sizeof values);
        assert_int_equal(lora_adapter_get_tensor(&view, adapter, 3, NULL),
                         way == 2 ? LORA_OK : LORA_ERROR_STATE);
        if (way == 2) {
            assert_memory_equal(view.data, expected, sizeof expected);
        }
        if (way < 2) {
            lora_adapter_destroy(adapter);
        }
    }
    assert_int_equal(lora_adapter_get_info(&info, adapter, NULL), LORA_OK);
    assert_string_equal(info.container, "safetensors shards");
    assert_string_equal(info.path, in_folder(INDEX));
    assert_int_equal(stat(in_folder(ONE), &one), 0);
    assert_int_equal(stat(in_folder(TWO), &two), 0);
    assert_int_equal(info.bytes, one.st_size + two.st_size);

    /* What is made from it keeps the files open. */
    assert_int_equal(lora_adapter_convert(&copy, adapter, NULL, NULL), LORA_OK);
    lora_adapter_destroy(adapter);
    folder_clear(state);
    assert_int_equal(
        lora_adapter_save(copy, in_folder("joined.safetensors"), NULL, NULL),
        LORA_OK);
    lora_adapter_destroy(copy);
    adapter = opens(context, in_folder("joined.safetensors"));
    assert_int_equal(
        lora_adapter_read_tensor(values, sizeof values, adapter,
                                 tensor_at(adapter, "unet.b.lora_B.weight"),
                                 LORA_DTYPE_F32, NULL),
        LORA_OK);
    assert_memory_equal(values, expected, sizeof values);
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
}

/* A shard of one tensor, with metadata. */
static void put_single(const char *file, const char *name, const char *metadata)
{
    image im;

    image_begin(&im, metadata);
    image_some(&im, name, "2,3", 6, 1);
    image_end(&im);
    folder_put(file, im.file, im.bytes);
    image_free(&im);
}

static void test_shards_metadata(void **state)
{
    lora_context *context = plain_context();
    lora_report *report;
    lora_adapter *adapter;

    (void)state;
    put_single(ONE, "a", "\"format\":\"pt\",\"n\":\"1\",\"only\":\"one\"");
    put_single(TWO, "b", "\"also\":\"two\",\"format\":\"pt\",\"n\":\"2\"");
    put_text(INDEX, INDEX_TEXT("\"a\":\"" ONE "\",\"b\":\"" TWO "\""));
    adapter = opens(context, folder);
    assert_int_equal(lora_adapter_metadata_count(adapter), 4);
    assert_string_equal(lora_adapter_find_metadata(adapter, "also"), "two");
    assert_string_equal(lora_adapter_find_metadata(adapter, "format"), "pt");
    assert_string_equal(lora_adapter_find_metadata(adapter, "n"), "1");
    assert_string_equal(lora_adapter_find_metadata(adapter, "only"), "one");
    assert_int_equal(lora_adapter_describe(&report, adapter, NULL, NULL),
                     LORA_OK);
    assert_non_null(strstr(lora_report_to_json(report, NULL),
                           "\"code\":\"metadata_conflict\",\"severity\":"
                           "\"warning\",\"subject\":\"n\""));
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);

    put_single(TWO, "b", "\"n\":\"1\"");
    adapter = opens(context, folder);
    assert_int_equal(lora_adapter_describe(&report, adapter, NULL, NULL),
                     LORA_OK);
    assert_null(strstr(lora_report_to_json(report, NULL), "conflict"));
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
}

/* Names that must not lead out of the folder, or back to the index. */
static void test_shards_names(void **state)
{
    static const char *const names[] = {
        "",
        ".",
        "..",
        ".safetensors",
        "../x.safetensors",
        "/tmp/x.safetensors",
        "a/x.safetensors",
        "a\\\\x.safetensors",
        "C:x.safetensors",
        "x.safetensors:y.safetensors",
        "./x.safetensors",
        "..safetensors",
        "x.bin",
        INDEX,
        "x.safetensors\\u0000",
        "x\\u0000.safetensors",
        "\\u002e\\u002e\\u002fx.safetensors",
    };
    lora_context *context = plain_context();
    char text[300];

    (void)state;
    put_pair("x.safetensors", "unet.a", 1);
    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(text, sizeof text, "{\"weight_map\":{\"unet.a\":\"%s\"}}",
                 names[i]);
        put_text(INDEX, text);
        refuses(context, in_folder(INDEX), LORA_ERROR_FORMAT, in_folder(INDEX),
                strstr(names[i], "u0000") != NULL ? "NUL"
                                                  : "not the name of a");
    }
    lora_context_destroy(context);
}

static void test_shards_index(void **state)
{
    static const struct {
        const char *text;
        lora_status status;
        const char *word;
    } cases[] = {
        {"", LORA_ERROR_FORMAT, ""},
        {"[]", LORA_ERROR_FORMAT, "JSON object"},
        {"{}", LORA_ERROR_FORMAT, "weight_map"},
        {"{\"weight_map\":{}}", LORA_ERROR_FORMAT, "weight_map"},
        {"{\"weight_map\":[]}", LORA_ERROR_FORMAT, "must be an object"},
        {"{\"weight_map\":{\"a\":1}}", LORA_ERROR_FORMAT, "not a string"},
        {"{\"weight_map\":{\"a\":\"" ONE "\"}", LORA_ERROR_FORMAT, ""},
        {"{\"weight_map\":{\"a\":\"" ONE "\"}} x", LORA_ERROR_FORMAT, ""},
        {"{\"weight_map\":{},\"weight_map\":{}}", LORA_ERROR_DUPLICATE,
         "weight_map twice"},
        {"{\"x\":[[[[[[[[[[[[]]]]]]]]]]]]}", LORA_ERROR_FORMAT, ""},
        /* What the files have, and the index says. */
        {INDEX_TEXT(MAP_ONE("unet.a")), LORA_OK, ""},
        {INDEX_TEXT(MAP_ONE("unet.a") "," MAP_ONE("unet.a")),
         LORA_ERROR_DUPLICATE, "twice in the index"},
        {INDEX_TEXT(MAP_ONE("unet.a") ",\"c\":\"" ONE "\""), LORA_ERROR_FORMAT,
         "not in the file"},
        {INDEX_TEXT("\"unet.a.lora_A.weight\":\"" ONE "\""), LORA_ERROR_FORMAT,
         "not in the index"},
        {INDEX_TEXT(MAP_ONE("unet.a") "," MAP_ONE("unet.b")), LORA_ERROR_FORMAT,
         "not in the file"},
        {INDEX_TEXT("\"unet.a.lora_A.weight\":\"" TWO
                    "\",\"unet.a.lora_B.weight\":\"" ONE
                    "\"," MAP_TWO("unet.b")),
         LORA_ERROR_FORMAT, "not in the file"},
        {INDEX_TEXT(MAP_ONE("unet.a") ",\"c\":\"gone.safetensors\""),
         LORA_ERROR_IO, "no such file"},
        {INDEX_TEXT(MAP_ONE("unet.a") ",\"c\":\"json.safetensors\""),
         LORA_ERROR_FORMAT, "JSON"},
        {INDEX_TEXT(MAP_ONE("unet.a") ",\"c\":\"loop.safetensors\""),
         LORA_ERROR_IO, "links"},
        {INDEX_TEXT(
             MAP_ONE("unet.a") ",\"unet.a.lora_X\":\"twin.safetensors\""),
         LORA_ERROR_DUPLICATE, "also in another"},
        {INDEX_TEXT(MAP_ONE("unet.a") "," MAP_TWO("unet.b")), LORA_OK, ""},
    };
    lora_context *context = plain_context();

    (void)state;
    put_shards();
    put_pair("twin.safetensors", "unet.a", 1);
    put_text("json.safetensors", INDEX_TEXT(MAP_ONE("unet.a")));
    assert_int_equal(symlink("loop.safetensors", in_folder("loop.safetensors")),
                     0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        put_text(INDEX, cases[i].text);
        if (cases[i].status == LORA_OK) {
            lora_adapter_destroy(opens(context, in_folder(INDEX)));
        } else {
            refuses(context, in_folder(INDEX), cases[i].status, NULL,
                    cases[i].word);
        }
    }
    put_text("y.safetensors.index.json", "{}");
    refuses(context, folder, LORA_ERROR_DUPLICATE, folder,
            INDEX ", y.safetensors.index.json");
    lora_context_destroy(context);
}

/* The place in the index is told. */
static void test_shards_offset(void **state)
{
    static const char before[] = "{\"weight_map\":{" MAP_ONE("unet.a") ",";
    lora_context *context = plain_context();
    lora_adapter *adapter;
    lora_error error;
    char text[400];

    (void)state;
    put_shards();
    snprintf(text, sizeof text, "%s\"c\":\"" ONE "\"}}", before);
    put_text(INDEX, text);
    CHECK(LORA_ERROR_FORMAT, strlen(before), in_folder(INDEX),
          lora_adapter_open(&adapter, context, in_folder(INDEX), NULL, &error));
    assert_non_null(strstr(error.message, "tensor \"c\""));
    snprintf(text, sizeof text, "%s\"c\":\"../d\"}}", before);
    put_text(INDEX, text);
    CHECK(LORA_ERROR_FORMAT, strlen(before) + 4, in_folder(INDEX),
          lora_adapter_open(&adapter, context, in_folder(INDEX), NULL, &error));
    lora_context_destroy(context);
}

/* A map of a million tensors; one more than the limit, and within it. */
static void test_shards_many(void **state)
{
    const size_t count = 1000001;
    FILE *file = fopen(in_folder(INDEX), "wb");
    lora_context_options options;
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context *context = plain_context();

    (void)state;
    put_shards();
    assert_non_null(file);
    fputs("{\"weight_map\":{", file);
    for (size_t i = 0; i < count; i++) {
        fprintf(file, "%s\"t%zu\":\"" ONE "\"", i == 0 ? "" : ",", i);
    }
    fputs("}}", file);
    assert_int_equal(fclose(file), 0);
    refuses(context, in_folder(INDEX), LORA_ERROR_LIMIT, in_folder(INDEX),
            "more tensors than the limit");
    lora_context_destroy(context);

    limits.tensor_count = count;
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    refuses(context, in_folder(INDEX), LORA_ERROR_FORMAT, in_folder(INDEX),
            "not in the file");
    lora_context_destroy(context);

    limits.header_bytes = 1 << 20;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    refuses(context, in_folder(INDEX), LORA_ERROR_LIMIT, in_folder(INDEX),
            "over the limit");
    lora_context_destroy(context);

    /* The index is within its own limit, the files are not. */
    limits.tensor_count = 3;
    limits.header_bytes = 0;
    put_text(INDEX, INDEX_TEXT("\"unet.a.lora_A.weight\":\"" ONE
                               "\",\"unet.b.lora_A.weight\":\"" TWO "\""));
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    refuses(context, in_folder(INDEX), LORA_ERROR_LIMIT, in_folder(INDEX),
            "more tensors than the limit");
    lora_context_destroy(context);
}

/* As many files as there may be, and one more; all stay open meanwhile. */
static void test_shards_files(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter;
    char text[8000] = "{\"weight_map\":{";
    size_t used = strlen(text);

    (void)state;
    for (int i = 0; i < 128; i++) {
        char name[40];
        char tensor[10];
        snprintf(name, sizeof name, "f%03d.safetensors", i);
        snprintf(tensor, sizeof tensor, "t%d", i);
        put_single(name, tensor, NULL);
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s\"%s\":\"%s\"",
                             i == 0 ? "" : ",", tensor, name);
    }
    snprintf(text + used, sizeof text - used, "}}");
    put_text(INDEX, text);
    adapter = opens(context, folder);
    assert_int_equal(lora_adapter_tensor_count(adapter), 128);
    lora_adapter_destroy(adapter);
    snprintf(text + used, sizeof text - used, ",\"u\":\"g.safetensors\"}}");
    put_text(INDEX, text);
    refuses(context, folder, LORA_ERROR_LIMIT, in_folder(INDEX),
            "more than 128 files");
    lora_context_destroy(context);
}

/* Model cards ------------------------------------------------------------ */

/* 1 if the description of what is opened has the text. */
static int describes(const char *path, const char *part)
{
    lora_context *context = plain_context();
    lora_adapter *adapter = opens(context, path);
    lora_report *report;
    int has;

    assert_int_equal(lora_adapter_describe(&report, adapter, NULL, NULL),
                     LORA_OK);
    has = strstr(lora_report_to_json(report, NULL), part) != NULL;
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    return has;
}

#define CARD                                                                   \
    "---\nbase_model: org/model\ninstance_prompt: 'sks dog, sitting'\n"        \
    "license: mit\ntags:\n- lora\n- text-to-image\n---\n# Title\n"

static void test_card(void **state)
{
    (void)state;
    put_pair("style.safetensors", "unet.a", 1);
    assert_true(describes(folder, "\"card\":null"));
    put_text("README.md", CARD);
    assert_true(describes(
        folder, "\"summary\":{\"base_model\":\"org/model\",\"base_model_from\":"
                "\"README.md\",\"trigger_words\":[\"sks dog\",\"sitting\"],"
                "\"trigger_words_from\":\"README.md\",\"tags\":[],"
                "\"thumbnail\":false,\"card\":{\"base_model\":\"org/model\","
                "\"instance_prompt\":\"sks dog, sitting\",\"license\":\"mit\","
                "\"tags\":[\"lora\",\"text-to-image\"]}}"));
    /* The file itself is believed before what lies beside it. */
    put_single("style.safetensors", "a.lora_A.weight",
               "\"ss_sd_model_name\":\"own\",\"trigger_words\":\"cat\"");
    assert_true(describes(folder, "\"base_model\":\"own\",\"base_model_from\":"
                                  "\"ss_sd_model_name\",\"trigger_words\":["
                                  "\"cat\"],\"trigger_words_from\":"
                                  "\"trigger_words\""));
    /* It may be damaged in any way. */
    put_text("README.md", "---\nbase_model: [\n---\n");
    assert_true(describes(folder, "\"card\":{\"base_model\":null"));
    assert_int_equal(remove(in_folder("README.md")), 0);
    assert_int_equal(mkfifo(in_folder("README.md"), 0600), 0);
    assert_true(describes(folder, "\"card\":null"));
}

/* Whose card it is. */
static void test_card_whose(void **state)
{
    static const char *const named[] = {"adapter_model.safetensors",
                                        "pytorch_lora_weights.safetensors"};

    (void)state;
    put_text("README.md", CARD);
    put_pair("style.safetensors", "unet.a", 1);
    assert_true(describes(in_folder("style.safetensors"), "org/model"));
    put_text("other.ckpt", "");
    assert_true(describes(in_folder("style.safetensors"), "\"card\":null"));
    assert_true(describes(folder, "org/model"));
    for (size_t i = 0; i < COUNT(named); i++) {
        put_pair(named[i], PEFT, 1);
        assert_true(describes(in_folder(named[i]), "org/model"));
    }
}

/* Names that SD 1 and SD 2 share; the width is neither's. */
static void test_card_base(void **state)
{
    const char *open = "\"base\":{\"family\":null";

    (void)state;
    put_pair("style.safetensors", SAMPLE_Q_TARGET, 1);
    assert_true(describes(folder, open));
    put_text("README.md",
             "---\nbase_model: StabilityAI/Stable-Diffusion-2-1\n---");
    assert_true(describes(folder,
                          "\"base\":{\"family\":\"sd21\",\"confidence\":"
                          "0.8,\"alternatives\":[\"sd15\""));
    /* What the names exclude is not believed. */
    put_text("README.md", "---\nbase_model: black-forest-labs/FLUX.1-dev\n---");
    assert_true(describes(folder, open));
    put_text("README.md",
             "---\nbase_model: stabilityai/stable-diffusion-2-1\n---");
    put_single("style.safetensors", SAMPLE_Q_TARGET ".lora_A.weight",
               "\"ss_base_model_version\":\"sd_v1\"");
    assert_true(describes(folder, "\"base\":{\"family\":\"sd15\""));
}

static int clear(void **state)
{
    rmdir(in_folder("a.safetensors"));
    return folder_clear(state);
}

#define TEST(function) cmocka_unit_test_setup(function, clear)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_peft),
        TEST(test_config_of_peft),
        TEST(test_diffusers),
        TEST(test_lone_file),
        TEST(test_closed_folder),
        TEST(test_shards),
        TEST(test_shards_metadata),
        TEST(test_shards_names),
        TEST(test_shards_index),
        TEST(test_shards_offset),
        TEST(test_shards_many),
        TEST(test_shards_files),
        TEST(test_card),
        TEST(test_card_whose),
        TEST(test_card_base),
    };

    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

#endif
