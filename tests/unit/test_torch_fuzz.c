/* Checkpoints under stress: every golden file, sound or damaged, cut and
 * changed everywhere, its pickle changed with the archive around it kept right,
 * and memory that runs out. Nothing may crash, and what is refused has a status
 * of its kind. Reads the golden packs, from the root of the tree, by the code
 * under test; without zlib, or without the packs, small files are made here.
 */
#include "torch_files.h"

#include "format/torch.h"

#include <lora/version.h>

enum { SAMPLES_MAX = 128, SMALL = 4096 };

static heap memory;
static lora_context *context;

typedef struct sample {
    blob file;
    int sound;
} sample;

static sample samples[SAMPLES_MAX];
static size_t sample_count;

static void add_sample(const void *data, size_t count, int sound)
{
    assert_true(sample_count < SAMPLES_MAX);
    samples[sample_count].file = blob_of(data, count);
    samples[sample_count++].sound = sound;
}

/* The whole file, or nothing. */
static blob read_whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    blob b = {NULL, 0};

    if (file == NULL) {
        return b;
    }
    b.data = malloc(1 << 20);
    assert_non_null(b.data);
    b.bytes = fread(b.data, 1, 1 << 20, file);
    fclose(file);
    return b;
}

static int ends_with(const lora__zip_record *r, const char *end)
{
    size_t n = strlen(end);

    return r->name_bytes > n &&
           memcmp(r->name + r->name_bytes - n, end, n) == 0;
}

static void add_pack(const char *path, int sound)
{
    blob pack = read_whole(path);
    lora__container *c;
    lora__zip zip;

    if (pack.data == NULL) {
        return;
    }
    assert_int_equal(lora__container_create(&c, context, "zip", path, NULL),
                     LORA_OK);
    assert_int_equal(lora__reader_open_memory(&c->reader, context, pack.data,
                                              pack.bytes, NULL),
                     LORA_OK);
    c->file_bytes = pack.bytes;
    assert_int_equal(lora__zip_open(&zip, c, NULL), LORA_OK);
    for (size_t i = 0; i < zip.count; i++) {
        const lora__zip_record *r = &zip.records[i];
        const unsigned char *data;

        if (ends_with(r, ".pt") || ends_with(r, ".bin") ||
            ends_with(r, ".ckpt")) {
            assert_int_equal(
                lora__zip_load(&data, &zip, r, 1 << 20, &c->arena, NULL),
                LORA_OK);
            add_sample(data, (size_t)r->bytes, sound);
        }
    }
    lora__zip_close(&zip);
    lora__container_release(c);
    free(pack.data);
}

/* One of each sort: a view, a tensor as it lies, one without elements. */
static void add_made(void)
{
    static const int64_t shape[2] = {3, 2}, none[2] = {0, 2};
    static const int64_t across[2] = {1, 3}, along[2] = {2, 1};
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    blob storage = blob_of(values, sizeof values);

    for (int legacy = 0; legacy < 2; legacy++) {
        bytes text = {NULL, 0, 0};
        blob pickle, file;

        PUT(&text, "\x80\2}q\0(");
        put_text(&text, "across");
        put_tensor(&text, "FloatStorage", "0", 6, 0, 2, shape, across, legacy);
        put_text(&text, "along");
        put_tensor(&text, "FloatStorage", "0", 6, 0, 2, shape, along, legacy);
        put_text(&text, "none");
        put_tensor(&text, "FloatStorage", "0", 6, 0, 2, none, along, legacy);
        PUT(&text, "u.");
        pickle = take(&text);
        file = legacy ? make_legacy(&pickle, &storage, 1, 4)
                      : make_torch(&pickle, &storage, 1);
        add_sample(file.data, file.bytes, 1);
        free(pickle.data);
        free(file.data);
    }
    free(storage.data);
}

static int begin(void **state)
{
    (void)state;
    context = make_context(&memory, NULL);
    add_made();
    if (lora_feature_supported("zlib")) {
        add_pack("tests/golden/load.zip", 1);
        add_pack("tests/golden/bad.zip", 0);
    }
    printf("%zu files\n", sample_count);
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (size_t i = 0; i < sample_count; i++) {
        free(samples[i].file.data);
    }
    end_context(&memory, context);
    return 0;
}

/* Both ends of every tensor. */
static lora_status read_ends(const lora__container *c)
{
    unsigned char ends[24];

    for (size_t i = 0; i < c->entry_count; i++) {
        const lora__entry *e = &c->entries[i];
        size_t n = e->bytes < sizeof ends ? (size_t)e->bytes : sizeof ends;

        lora__container_view(c, i);
        TRY(lora__container_read(c, i, 0, ends, n, NULL));
        TRY(lora__container_read(c, i, e->bytes - n, ends, n, NULL));
    }
    return LORA_OK;
}

static lora_status open_and_read(const blob *b)
{
    lora__container *c;
    lora_error error;
    lora_status status = open_blob(&c, context, b, "f", &error);

    if (status != LORA_OK) {
        assert_int_equal(status, error.status);
        if (status != LORA_ERROR_MEMORY) {
            assert_true(is_refusal(status));
            assert_string_equal(error.subject, "f");
            assert_true(error.message[0] != '\0');
        }
        return status;
    }
    status = read_ends(c);
    lora__container_release(c);
    return status;
}

static void test_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < sample_count; i++) {
        if (samples[i].sound) {
            assert_int_equal(open_and_read(&samples[i].file), LORA_OK);
        }
    }
}

/* Ends are what torch writes last, so nothing that is cut can be read. */
static void test_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sample_count; i++) {
        const blob *whole = &samples[i].file;
        size_t step = whole->bytes <= SMALL ? 1 : whole->bytes / SMALL + 1;

        for (size_t n = 0; n < whole->bytes; n += step) {
            blob b = blob_of(whole->data, n);
            assert_true(is_refusal(open_and_read(&b)));
            free(b.data);
        }
    }
}

static void test_flip(void **state)
{
    uint64_t seed = 0xA4093822299F31D0u;

    (void)state;
    for (size_t i = 0; i < sample_count; i++) {
        blob *b = &samples[i].file;
        size_t step = b->bytes <= SMALL ? 1 : b->bytes / SMALL + 1;

        for (size_t n = 0; n < b->bytes; n += step) {
            unsigned char was = b->data[n];
            b->data[n] ^= (unsigned char)(1 + random_next(&seed) % 255);
            open_and_read(b);
            b->data[n] = was;
        }
    }
}

/* Change, remove, double or insert a piece. */
static blob change(const unsigned char *data, size_t n, uint64_t *seed)
{
    static const char operations[] = "(.0123JKMNQRTUXbcehjlqrstu)]}a"
                                     "\x80\x81\x85\x86\x87\x88\x89\x8A\x94\x95";
    bytes out = {NULL, 0, 0};
    size_t at = (size_t)(random_next(seed) % n);
    size_t length = (size_t)(random_next(seed) % 16);
    unsigned char byte = (unsigned char)random_next(seed);

    length = length < n - at ? length : n - at;
    put(&out, data, at);
    switch (random_next(seed) % 5) {
    case 0: /* removed */
        break;
    case 1: /* doubled */
        put(&out, data + at, length);
        put(&out, data + at, length);
        break;
    case 2: /* one byte more */
        put(&out, &byte, 1);
        length = 0;
        break;
    case 3: /* an operation instead */
        put(&out, operations + byte % (sizeof operations - 1), 1);
        length = 1;
        break;
    default: /* taken from elsewhere */
        put(&out, data + random_next(seed) % (n - length + 1), length);
        break;
    }
    put(&out, data + at + length, n - at - length);
    return take(&out);
}

/* The pickle of an archive changed, and all checksums right; a stream has no
 * checksums. */
static void change_and_read(const sample *s, uint64_t *seed)
{
    zip_item items[64];
    lora__container *c;
    lora_reader reader;
    lora__zip zip;
    blob pickle = {NULL, 0}, file;
    size_t count = 0;
    char *names;

    if (!lora__torch_is_zip(s->file.data, s->file.bytes)) {
        file = change(s->file.data, s->file.bytes, seed);
        open_and_read(&file);
        free(file.data);
        return;
    }
    assert_int_equal(lora__reader_open_memory(&reader, context, s->file.data,
                                              s->file.bytes, NULL),
                     LORA_OK);
    assert_int_equal(lora__container_create(&c, context, "zip", "", NULL),
                     LORA_OK);
    c->reader = reader;
    c->file_bytes = s->file.bytes;
    names = calloc(64, 600);
    assert_non_null(names);
    assert_int_equal(lora__zip_open(&zip, c, NULL), LORA_OK);
    for (size_t i = 0; i < zip.count && i < 64; i++) {
        const lora__zip_record *r = &zip.records[i];
        zip_item item = {names + 600 * i, s->file.data + r->offset,
                         (size_t)r->packed, 0};

        memcpy(names + 600 * i, r->name, r->name_bytes);
        if (ends_with(r, "/data.pkl")) {
            pickle = change(item.data, item.count, seed);
            item.data = pickle.data;
            item.count = pickle.bytes;
        }
        items[count++] = item;
    }
    file = make_zip(items, count, 1);
    open_and_read(&file);
    lora__zip_close(&zip);
    lora__container_release(c);
    free(names);
    free(pickle.data);
    free(file.data);
}

static void test_change(void **state)
{
    uint64_t seed = 0x082EFA98EC4E6C89u;

    (void)state;
    for (size_t i = 0; i < sample_count; i++) {
        for (int n = 0; n < 250 && samples[i].sound; n++) {
            change_and_read(&samples[i], &seed);
        }
    }
}

/* Opening and reading with each allocation failing, once and for good. */
static void test_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < sample_count; i++) {
        for (int lasting = 0; lasting < 2 && samples[i].sound; lasting++) {
            lora_status status = LORA_ERROR_MEMORY;

            for (size_t n = 0; status != LORA_OK; n++) {
                memory.countdown = n;
                memory.lasting = lasting;
                status = open_and_read(&samples[i].file);
                memory.countdown = SIZE_MAX;
                assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
                assert_int_equal(lora_context_memory_live(context), 0);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),  cmocka_unit_test(test_cut),
        cmocka_unit_test(test_flip),   cmocka_unit_test(test_change),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
