/* Learned tokens: listed, read, taken out, put in, left out; and what is
 * refused, with the token as the subject.
 */
#include "api/reader.h"

static lora_context *context;

/* A pair, two tokens of a bundle, one of which has two text encoders. 3 is
 * the width of no text encoder that is known. */
static void image_bundle(image *im)
{
    image_begin(im, "\"note\":\"kept\"");
    image_some(im, "bundle_emb.cat.clip_g", "2,3", 6, 1);
    image_some(im, "bundle_emb.cat.clip_l", "2,3", 6, 2);
    image_some(im, "bundle_emb.dog.string_to_param.*", "1,3", 3, 3);
    image_some(im, "lora_unet_a.lora_down.weight", "2,6", 12, 4);
    image_some(im, "lora_unet_a.lora_up.weight", "4,2", 8, 5);
    image_end(im);
}

static lora_embedding_info embedding_at(const lora_adapter *adapter,
                                        size_t index)
{
    lora_embedding_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_adapter_get_embedding(&info, adapter, index, NULL),
                     LORA_OK);
    return info;
}

static void test_list(void **state)
{
    static const char *const tokens[] = {"cat", "cat", "dog"};
    static const char *const encoders[] = {"clip_g", "clip_l", ""};
    lora_embedding_info info = {.struct_size = sizeof info};
    image im;
    lora_adapter *adapter;
    lora_error error;
    size_t index = 77;

    (void)state;
    image_bundle(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_adapter_embedding_count(adapter), 3);
    assert_int_equal(lora_adapter_embedding_count(NULL), 0);
    for (size_t i = 0; i < 3; i++) {
        info = embedding_at(adapter, i);
        assert_string_equal(info.token, tokens[i]);
        assert_string_equal(info.encoder, encoders[i]);
        assert_string_equal(info.form, "bundle");
        assert_int_equal(info.tensor_index, i);
        assert_int_equal(info.vectors, i < 2 ? 2 : 1);
        assert_int_equal(info.width, 3);
        assert_int_equal(info.dtype, LORA_DTYPE_F32);
        assert_int_equal(info.status, LORA_OK);
    }
    assert_int_equal(
        lora_adapter_find_embedding(&index, adapter, "cat", "clip_l", NULL),
        LORA_OK);
    assert_int_equal(index, 1);
    assert_int_equal(
        lora_adapter_find_embedding(&index, adapter, "cat", NULL, NULL),
        LORA_OK);
    assert_int_equal(index, 0);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "cat",
          lora_adapter_find_embedding(&index, adapter, "cat", "t5", &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "cow",
          lora_adapter_find_embedding(&index, adapter, "cow", NULL, &error));
    assert_int_equal(index, 0);
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "",
          lora_adapter_get_embedding(&info, adapter, 3, &error));
    CHECK_ARGUMENT(lora_adapter_get_embedding(NULL, adapter, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_embedding(&info, NULL, 0, &error));
    CHECK_ARGUMENT(
        lora_adapter_find_embedding(NULL, adapter, "cat", NULL, &error));
    CHECK_ARGUMENT(
        lora_adapter_find_embedding(&index, NULL, "cat", NULL, &error));
    CHECK_ARGUMENT(
        lora_adapter_find_embedding(&index, adapter, NULL, NULL, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_read(void **state)
{
    const float nan[] = {1.0f, NAN, INFINITY};
    image im;
    lora_adapter *adapter;
    lora_error error;
    float expected[6];
    float narrow[6];
    double wide[6];

    (void)state;
    some_numbers(expected, 6, 2);
    image_bundle(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_embedding(narrow, sizeof narrow, adapter, 1,
                                      LORA_DTYPE_NONE, &error));
    assert_memory_equal(narrow, expected, sizeof narrow);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_embedding(wide, sizeof wide, adapter, 1,
                                      LORA_DTYPE_F64, &error));
    for (size_t i = 0; i < COUNT(wide); i++) {
        assert_true(wide[i] == (double)expected[i]);
    }
    CHECK(LORA_ERROR_SHAPE, ANY_OFFSET, NULL,
          lora_adapter_read_embedding(narrow, sizeof narrow - 1, adapter, 1,
                                      LORA_DTYPE_NONE, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "",
          lora_adapter_read_embedding(narrow, sizeof narrow, adapter, 3,
                                      LORA_DTYPE_NONE, &error));
    CHECK_ARGUMENT(lora_adapter_read_embedding(NULL, sizeof narrow, adapter, 1,
                                               LORA_DTYPE_NONE, &error));
    CHECK_ARGUMENT(lora_adapter_read_embedding(narrow, sizeof narrow, NULL, 1,
                                               LORA_DTYPE_NONE, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_f32(&im, "<x>", "3", nan, 3);
    image_raw(&im, "<i>", "I32", "3", nan, 12);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_NONFINITE, ANY_OFFSET, "<x>",
          lora_adapter_read_embedding(narrow, 12, adapter, 0, LORA_DTYPE_NONE,
                                      &error));
    assert_int_equal(embedding_at(adapter, 1).status, LORA_ERROR_DTYPE);
    CHECK(LORA_ERROR_DTYPE, ANY_OFFSET, "<i>",
          lora_adapter_read_embedding(narrow, 12, adapter, 1, LORA_DTYPE_NONE,
                                      &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Out, into one that has none, and out of that again. */
static void test_there_and_back(void **state)
{
    const char *const dog = "dog";
    image im;
    image plain;
    lora_adapter *adapter;
    lora_adapter *bare;
    lora_adapter *alone;
    lora_adapter *both;
    lora_adapter *without;
    const lora_adapter *from;
    lora_error error;

    (void)state;
    image_bundle(&im);
    adapter = open_image(context, &im);
    image_sample(&plain);
    bare = open_image(context, &plain);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_extract_embeddings(&alone, adapter, &dog, 1, NULL,
                                          &error));
    assert_int_equal(lora_adapter_tensor_count(alone), 1);
    tensor_at(alone, "dog");
    assert_string_equal(lora_adapter_find_metadata(alone, "dog"), "<embed>");
    assert_string_equal(embedding_at(alone, 0).form, "token");
    lora_adapter_destroy(alone);

    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_remove_embeddings(&without, adapter, NULL, 0, &error));
    assert_int_equal(lora_adapter_tensor_count(without), 2);
    from = adapter;
    CHECK(
        LORA_OK, LORA_NO_OFFSET, "",
        lora_adapter_insert_embeddings(&both, without, &from, 1, NULL, &error));
    lora_adapter_destroy(adapter); /* results keep what they need */
    lora_adapter_destroy(without);
    adapter = open_image(context, &im);
    assert_same_file(both, adapter);
    lora_adapter_destroy(both);

    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_insert_embeddings(&both, bare, NULL, 0, NULL, &error));
    lora_adapter_destroy(both);
    lora_adapter_destroy(bare);
    lora_adapter_destroy(adapter);
    image_free(&plain);
    image_free(&im);
}

static lora_status insert(lora_adapter **out,
                          const lora_adapter *adapter,
                          const lora_adapter *from,
                          const lora_adapter_embed_options *options,
                          lora_error *error)
{
    *out = JUNK(lora_adapter);
    return lora_adapter_insert_embeddings(out, adapter, &from, 1, options,
                                          error);
}

static lora_status extract(lora_adapter **out,
                           const lora_adapter *adapter,
                           const char *token,
                           const lora_adapter_embed_options *options,
                           lora_error *error)
{
    *out = JUNK(lora_adapter);
    return lora_adapter_extract_embeddings(out, adapter, &token, token != NULL,
                                           options, error);
}

static void test_options(void **state)
{
    lora_adapter_embed_options options;
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;

    (void)state;
    image_bundle(&im);
    adapter = open_image(context, &im);
    lora_adapter_embed_options_init(&options, sizeof options);
    options.token = "cow";
    options.dtype = LORA_DTYPE_F64;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          extract(&out, adapter, "dog", &options, &error));
    tensor_at(out, "cow");
    assert_int_equal(embedding_at(out, 0).dtype, LORA_DTYPE_F64);
    lora_adapter_destroy(out);
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "cow",
          extract(&out, adapter, NULL, &options, &error));
    assert_null(out);
    options.form = "bundle";
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          extract(&out, adapter, "cat", &options, &error));
    tensor_at(out, "bundle_emb.cow.clip_g");
    tensor_at(out, "bundle_emb.cow.clip_l");
    lora_adapter_destroy(out);
    options.dtype = LORA_DTYPE_I32;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
          extract(&out, adapter, "cat", &options, &error));
    options.dtype = LORA_DTYPE_NONE;
    options.form = "emb_params";
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "cow",
          extract(&out, adapter, "cat", &options, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          extract(&out, adapter, "dog", &options, &error));
    tensor_at(out, "emb_params");
    assert_string_equal(embedding_at(out, 0).token, ""); /* in no file */
    lora_adapter_destroy(out);
    options.form = "encoder";
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "cow",
          extract(&out, adapter, "dog", &options, &error));
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "encoder",
          insert(&out, adapter, adapter, &options, &error));
    assert_null(out);
    for (size_t i = 0; i < 2; i++) {
        options.form = i == 0 ? "a1111" : "nonsense";
        CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, options.form,
              extract(&out, adapter, "dog", &options, &error));
    }
    options.form = NULL;
    options.family = "nonsense";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "nonsense",
          insert(&out, adapter, adapter, &options, &error));
    options.family = NULL;
    options.struct_size = 8;
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL,
          insert(&out, adapter, adapter, &options, &error));
    assert_null(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_refused(void **state)
{
    const char *const cow = "cow";
    const char *const nothing = NULL;
    lora_adapter_embed_options options;
    image im;
    image plain;
    lora_adapter *adapter;
    lora_adapter *bare;
    lora_adapter *out;
    lora_error error;

    (void)state;
    image_bundle(&im);
    adapter = open_image(context, &im);
    image_sample(&plain);
    bare = open_image(context, &plain);
    lora_adapter_embed_options_init(&options, sizeof options);
    CHECK(LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, "cat",
          insert(&out, adapter, adapter, NULL, &error));
    assert_null(out);
    options.replace = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          insert(&out, adapter, adapter, &options, &error));
    assert_same_file(out, adapter);
    lora_adapter_destroy(out);
    options.family = "sd15";
    CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, "cat",
          insert(&out, bare, adapter, &options, &error));
    assert_null(out);
    options.token = "a.b";
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "a.b",
          insert(&out, adapter, adapter, &options, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          insert(&out, adapter, bare, NULL, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          extract(&out, bare, NULL, NULL, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "cow",
          extract(&out, adapter, "cow", NULL, &error));
    assert_null(out);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "cow",
          lora_adapter_remove_embeddings(&out, adapter, &cow, 1, &error));
    CHECK_ARGUMENT(
        lora_adapter_remove_embeddings(&out, adapter, &nothing, 1, &error));
    CHECK_ARGUMENT(
        lora_adapter_remove_embeddings(&out, adapter, NULL, 1, &error));
    CHECK_ARGUMENT(lora_adapter_remove_embeddings(&out, NULL, NULL, 0, &error));
    CHECK_ARGUMENT(
        lora_adapter_remove_embeddings(NULL, adapter, NULL, 0, &error));
    CHECK_ARGUMENT(
        lora_adapter_extract_embeddings(&out, adapter, NULL, 1, NULL, &error));
    CHECK_ARGUMENT(
        lora_adapter_extract_embeddings(&out, NULL, NULL, 0, NULL, &error));
    CHECK_ARGUMENT(
        lora_adapter_extract_embeddings(NULL, adapter, NULL, 0, NULL, &error));
    CHECK_ARGUMENT(
        lora_adapter_insert_embeddings(&out, adapter, NULL, 1, NULL, &error));
    CHECK_ARGUMENT(insert(&out, adapter, NULL, NULL, &error));
    CHECK_ARGUMENT(insert(&out, NULL, adapter, NULL, &error));
    CHECK_ARGUMENT(
        lora_adapter_insert_embeddings(NULL, adapter, NULL, 0, NULL, &error));
    lora_adapter_destroy(bare);
    lora_adapter_destroy(adapter);
    image_free(&plain);
    image_free(&im);
}

/* A reader that fails once values are read. */
static void test_reading_fails(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;
    source s;

    (void)state;
    image_bundle(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    s.fail_at = s.reads;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          extract(&out, adapter, "dog", NULL, &error));
    assert_null(out);
    s.fail_at = s.reads;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          insert(&out, adapter, adapter,
                 &(lora_adapter_embed_options){
                     .struct_size = sizeof(lora_adapter_embed_options),
                     .replace = 1},
                 &error));
    assert_null(out);
    lora_adapter_destroy(adapter);
    assert_int_equal(s.destroyed, 1);
    image_free(&im);
}

/* Open, out, in again, left out; whatever fails, nothing stays alive. */
static lora_status run_all(lora_context *on, const image *im, lora_error *error)
{
    const char *const tokens[] = {"dog", "x"};
    lora_adapter_embed_options options;
    lora_adapter *adapter = NULL;
    lora_adapter *alone = NULL;
    lora_adapter *out = NULL;
    lora_status status;

    lora_adapter_embed_options_init(&options, sizeof options);
    options.dtype = LORA_DTYPE_F16;
    options.replace = 1;
    status = lora_adapter_open_memory(&adapter, on, im->file, im->bytes, NULL,
                                      error);
    if (status == LORA_OK) {
        status = lora_adapter_extract_embeddings(&alone, adapter, tokens, 2,
                                                 &options, error);
    }
    if (status == LORA_OK) {
        status = insert(&out, adapter, alone, &options, error);
        lora_adapter_destroy(out);
    }
    if (status == LORA_OK) {
        status =
            lora_adapter_remove_embeddings(&out, adapter, tokens, 2, error);
        lora_adapter_destroy(out);
    }
    lora_adapter_destroy(alone);
    lora_adapter_destroy(adapter);
    return status;
}

/* Each allocation fails once, then it and all after it. */
static void test_without_memory(void **state)
{
    image im;
    heap h;

    (void)state;
    image_begin(&im, SAMPLE_METADATA ",\"x\":\"<embed>\"");
    image_some(&im, "bundle_emb.cat.clip_g", "2,3", 6, 1);
    image_some(&im, "bundle_emb.cat.t5", "1,3", 3, 2); /* unusable */
    image_some(&im, "bundle_emb.dog.string_to_param.*", "1,3", 3, 3);
    image_some(&im, SAMPLE_K ".lora_down.weight", "2,2", 4, 4);
    image_some(&im, SAMPLE_K ".lora_up.weight", "2,2", 4, 5);
    image_some(&im, "x", "3", 3, 6);
    image_end(&im);
    for (int lasting = 0; lasting < 2; lasting++) {
        lora_context *on = heap_context(&h, NULL);
        for (size_t n = 0;; n++) {
            lora_error error;
            lora_status status;

            lora_error_init(&error, sizeof error);
            atomic_store(&h.met, 0);
            atomic_store(&h.calls, 0);
            atomic_store(&h.lasting, lasting);
            atomic_store(&h.fail_at, n);
            status = run_all(on, &im, &error);
            atomic_store(&h.fail_at, SIZE_MAX);
            atomic_store(&h.lasting, 0);
            assert_int_equal(lora_context_memory_live(on), 0);
            if (h.met == 0) {
                assert_int_equal(status, LORA_OK);
                assert_true(n > 20);
                break;
            }
            assert_int_equal(status, LORA_ERROR_MEMORY);
        }
        heap_end(&h, on);
    }
    image_free(&im);
}

static int set_up(void **state)
{
    (void)state;
    context = plain_context();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lora_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_reading_fails),
        cmocka_unit_test(test_without_memory),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
