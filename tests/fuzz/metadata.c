/* Editing metadata within a file. The input begins with changes, a line each:
 * "+key=value" sets, "-pattern" removes; the rest is a file as
 * fuzz_safetensors() takes it. What must come out is worked out here.
 */
#define _XOPEN_SOURCE 700

#include "fuzz.h"

#include <unistd.h>

const char fuzz_name[] = "metadata";

enum { MOST_CHANGES = 8, MOST_ENTRIES = 4096, MOST_BYTES = 1 << 20 };

/* The one file, in a folder that goes with the program. */
static char folder[64];
static char path[80];

static void remove_folder(void)
{
    remove(path);
    rmdir(folder);
}

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");

    snprintf(folder, sizeof folder, "%.40s/lora-fuzz-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    atexit(remove_folder);
}

static void put_file(const blob *b)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(b->data, 1, b->bytes, file), b->bytes);
    assert_int_equal(fclose(file), 0);
}

static blob get_file(void)
{
    static unsigned char data[MOST_BYTES];
    FILE *file = fopen(path, "rb");
    size_t bytes;

    assert_non_null(file);
    bytes = fread(data, 1, sizeof data, file);
    assert_true(bytes < sizeof data);
    fclose(file);
    return blob_of(data, bytes);
}

static int same(const blob *a, const blob *b)
{
    return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

/* Changes -------------------------------------------------------------------
 */

typedef struct changes {
    lora_metadata_change items[MOST_CHANGES];
    size_t count;
    char *text;
} changes;

/* Take the changes from the front of the text; what was used of it. */
static size_t take_changes(changes *c, const uint8_t *data, size_t bytes)
{
    char *at;

    c->count = 0;
    c->text = malloc(bytes + 1);
    assert_non_null(c->text);
    if (bytes > 0) {
        memcpy(c->text, data, bytes);
    }
    c->text[bytes] = '\0';
    at = c->text;
    while (c->count < MOST_CHANGES && (*at == '+' || *at == '-')) {
        lora_metadata_change *change = &c->items[c->count];
        char *end = strchr(at, '\n');
        char *equals;

        if (end == NULL) {
            break;
        }
        *end = '\0';
        equals = *at == '+' ? strchr(at, '=') : NULL;
        change->key = at + 1;
        change->value = NULL;
        if (equals != NULL) {
            *equals = '\0';
            change->value = equals + 1;
        }
        c->count += *at == '-' || equals != NULL;
        at = end + 1;
    }
    return (size_t)(at - c->text);
}

static int matches(const char *pattern, const char *text)
{
    if (*pattern == '\0') {
        return *text == '\0';
    }
    if (*pattern == '*') {
        return matches(pattern + 1, text) ||
               (*text != '\0' && matches(pattern, text + 1));
    }
    return *text != '\0' && (*pattern == '?' || *pattern == *text) &&
           matches(pattern + 1, text + 1);
}

/* The matcher above is plain, and takes long with many stars. */
static int too_many_stars(const changes *c)
{
    size_t stars = 0;

    for (size_t i = 0; i < c->count; i++) {
        for (const char *p = c->items[i].key; *p != '\0'; p++) {
            stars += *p == '*' && c->items[i].value == NULL;
        }
    }
    return stars > 3;
}

/* The value that a key has in the end, or NULL. */
static const char *
value_after(const changes *c, const char *key, const char *value)
{
    for (size_t i = 0; i < c->count; i++) {
        const lora_metadata_change *change = &c->items[i];

        if (change->value == NULL) {
            value = matches(change->key, key) ? NULL : value;
        } else if (strcmp(change->key, key) == 0) {
            value = change->value;
        }
    }
    return value;
}

/* Checking ------------------------------------------------------------------
 */

static lora_adapter *open_blob_as_adapter(lora_context *context, const blob *b)
{
    lora_adapter *adapter;

    assert_int_equal(lora_adapter_open_memory(&adapter, context, b->data,
                                              b->bytes, NULL, NULL),
                     LORA_OK);
    return adapter;
}

/* Every entry is what it must be, and none is missing. */
static void check_metadata(const lora_adapter *before,
                           const lora_adapter *after,
                           const changes *c)
{
    size_t wanted = 0;

    for (size_t i = 0; i < lora_adapter_metadata_count(before); i++) {
        const char *key;
        const char *value;

        assert_int_equal(
            lora_adapter_get_metadata(&key, &value, before, i, NULL), LORA_OK);
        wanted += value_after(c, key, value) != NULL;
    }
    for (size_t i = 0; i < c->count; i++) {
        const char *key = c->items[i].key;

        wanted += c->items[i].value != NULL &&
                  lora_adapter_find_metadata(before, key) == NULL &&
                  value_after(c, key, NULL) != NULL;
    }
    assert_int_equal(lora_adapter_metadata_count(after), wanted);
    for (size_t i = 0; i < wanted; i++) {
        const char *key;
        const char *value;
        const char *want;

        assert_int_equal(
            lora_adapter_get_metadata(&key, &value, after, i, NULL), LORA_OK);
        want = value_after(c, key, lora_adapter_find_metadata(before, key));
        assert_true(want != NULL && strcmp(want, value) == 0);
    }
}

static void check_edit(lora_context *context,
                       const blob *before,
                       const blob *after,
                       const lora_metadata_edit *edit,
                       const changes *c)
{
    lora_adapter *a = open_blob_as_adapter(context, before);
    lora_adapter *b = open_blob_as_adapter(context, after);
    lora_metadata_edit again = {.struct_size = sizeof again};
    blob twice;

    assert_int_equal(edit->bytes, after->bytes);
    assert_true(!edit->in_place || before->bytes == after->bytes);
    fuzz_same_tensors(a, b);
    check_metadata(a, b, c);
    assert_int_equal(lora_metadata_edit_file(&again, context, path, c->items,
                                             c->count, NULL, NULL),
                     LORA_OK);
    twice = get_file();
    assert_true(again.in_place && same(after, &twice));
    free(twice.data);
    lora_adapter_destroy(a);
    lora_adapter_destroy(b);
}

static void
edit_file(lora_context *context, const blob *before, const changes *c)
{
    lora_metadata_edit_options options;
    lora_metadata_edit planned = {.struct_size = sizeof planned};
    lora_metadata_edit edit = {.struct_size = sizeof edit};
    blob after;
    lora_error error;
    lora_status status;

    put_file(before);
    lora_error_init(&error, sizeof error);
    lora_metadata_edit_options_init(&options, sizeof options);
    options.dry_run = 1;
    status = lora_metadata_edit_file(&planned, context, path, c->items,
                                     c->count, &options, &error);
    assert_true(status != LORA_ERROR_MEMORY && status != LORA_ERROR_INTERNAL &&
                status != LORA_ERROR_IO);
    after = get_file();
    assert_true(same(before, &after));
    free(after.data);
    assert_int_equal(lora_metadata_edit_file(&edit, context, path, c->items,
                                             c->count, NULL, NULL),
                     status);
    after = get_file();
    if (status == LORA_OK) {
        assert_memory_equal(&planned, &edit, sizeof edit);
        check_edit(context, before, &after, &edit, c);
    } else {
        assert_true(same(before, &after));
    }
    free(after.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    lora_limits limits = {.struct_size = sizeof limits};
    heap memory;
    lora_context *context;
    changes c;
    size_t used;
    blob file;

    if (folder[0] == '\0') {
        make_folder();
    }
    if (bytes > MOST_BYTES / 8) {
        return 0;
    }
    used = take_changes(&c, data, bytes);
    file = fuzz_safetensors(bytes == 0 ? data : data + used, bytes - used);
    limits.memory_bytes = fuzz_memory_most(data, bytes, 0);
    context = make_context(&memory, &limits);
    if (!too_many_stars(&c)) {
        edit_file(context, &file, &c);
    }
    end_context(&memory, context);
    free(file.data);
    free(c.text);
    return 0;
}
