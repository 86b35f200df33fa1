/* Keys, a line each, read as the names of one file; a line "=key=value" is
 * metadata. What is known is then written in every dialect, and what was
 * written read again: it must mean the same.
 */
#include "fuzz.h"

#include "names/dialect.h"

const char fuzz_name[] = "names";

enum { MOST_KEYS = 64, MOST_METADATA = 4 };

/* A file: its keys and metadata, and what they mean. */
typedef struct file {
    lora__arena arena;
    lora__key_in keys[MOST_KEYS];
    size_t count;
    const char *metadata[2 * MOST_METADATA];
    size_t metadata_count;
    lora__names names;
} file;

static const int64_t matrix[] = {4, 20};
static const int64_t kernel[] = {4, 20, 3, 3};

static const char *find_metadata(const void *user, const char *key)
{
    const file *f = user;

    for (size_t i = 0; i < f->metadata_count; i++) {
        if (strcmp(f->metadata[2 * i], key) == 0) {
            return f->metadata[2 * i + 1];
        }
    }
    return NULL;
}

static const char *keep(file *f, const char *text, size_t bytes)
{
    const char *copy;

    assert_int_equal(lora__arena_string(&copy, &f->arena, text, bytes, NULL),
                     LORA_OK);
    return copy;
}

static void add_key(file *f, const char *key, const lora__key_in *like)
{
    lora__key_in *in = &f->keys[f->count++];
    int conv = strstr(key, "conv") != NULL;

    in->name = key;
    in->name_bytes = strlen(key);
    in->ndim = like != NULL ? like->ndim : conv ? 4 : 2;
    in->shape = like != NULL ? like->shape : conv ? kernel : matrix;
}

static void add_metadata(file *f, const char *key, const char *value)
{
    if (key != NULL && value != NULL && f->metadata_count < MOST_METADATA) {
        f->metadata[2 * f->metadata_count] = key;
        f->metadata[2 * f->metadata_count++ + 1] = value;
    }
}

/* Containers refuse a NUL in a name, and a name given twice. */
static void add_line(file *f, const char *line, size_t bytes)
{
    const char *equals = memchr(line, '=', bytes);

    if (memchr(line, '\0', bytes) != NULL) {
        return;
    }
    if (bytes > 2 && *line == '=') {
        equals = memchr(line + 1, '=', bytes - 1);
        if (equals != NULL) {
            add_metadata(
                f, keep(f, line + 1, (size_t)(equals - line) - 1),
                keep(f, equals + 1, bytes - (size_t)(equals - line) - 1));
        }
        return;
    }
    for (size_t i = 0; i < f->count; i++) {
        if (f->keys[i].name_bytes == bytes &&
            memcmp(f->keys[i].name, line, bytes) == 0) {
            return;
        }
    }
    if (f->count < MOST_KEYS) {
        add_key(f, keep(f, line, bytes), NULL);
    }
}

static void read_file(file *f)
{
    lora_error error;

    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__names_read(&f->names, &f->arena, f->keys, f->count,
                                      find_metadata, f, &error),
                     LORA_OK);
    assert_int_equal(f->names.key_count, f->count);
    assert_true(f->names.confidence >= 0 && f->names.confidence <= 1);
    for (size_t i = 0; i < f->count; i++) {
        const lora__key_out *key = &f->names.keys[i];

        assert_true(key->role >= LORA__ROLE_UNKNOWN &&
                    key->role < LORA__ROLE_COUNT);
        assert_true((key->module[0] == '\0') == (key->target[0] == '\0'));
        if (key->dialect == NULL && key->role == LORA__ROLE_UNKNOWN) {
            assert_true(key->module[0] == '\0' && !key->known);
        }
        for (size_t p = 0; p < key->part_count; p++) {
            assert_true(key->parts[p].target[0] != '\0');
        }
    }
}

/* 1 if the key means the target, or is of a module with that part. */
static int
means(const lora__key_out *key, const char *target, const lora__row_set *rows)
{
    if (key->part_count == 0) {
        return rows->units == 0 && strcmp(key->target, target) == 0;
    }
    for (size_t i = 0; i < key->part_count; i++) {
        if (strcmp(key->parts[i].target, target) == 0 &&
            memcmp(&key->parts[i].rows, rows, sizeof *rows) == 0) {
            return 1;
        }
    }
    /* the module whole, as it was */
    return rows->units == 0 && strcmp(key->target, target) == 0;
}

/* What others learn the base from, when a file is written. */
static void say_family(file *f, const lora__family *family)
{
    if (family != NULL) {
        add_metadata(f, "ss_base_model_version",
                     lora__family_ss_version(family));
        add_metadata(f, "modelspec.architecture",
                     lora__family_architecture(family));
    }
}

/* Spell a key in a dialect; NULL where that cannot be done. */
static const char *spell(lora__row_set *rows,
                         const file *f,
                         size_t index,
                         const lora__dialect *dialect,
                         lora__buffer *text)
{
    const lora__key_out *key = &f->names.keys[index];
    lora__spelling spelling = {0};
    lora_error error;
    lora_status status;

    spelling.family = f->names.family;
    spelling.target = key->target;
    spelling.role = key->role;
    spelling.rows = rows;
    lora__buffer_clear(text);
    lora_error_init(&error, sizeof error);
    status = lora__names_write(text, dialect, &spelling, &error);
    if (status == LORA_OK) {
        return text->data;
    }
    assert_true(status == LORA_ERROR_UNSUPPORTED || status == LORA_ERROR_KEY);
    assert_int_equal(text->bytes, 0);
    assert_true(error.message[0] != '\0');
    return NULL;
}

/* 1 if no key of the same module is without a name in the dialect: a module of
 * which only a bias could be written is none. */
static int
is_whole(const file *f, const unsigned char *unspelled, const char *module)
{
    for (size_t i = 0; i < f->count; i++) {
        if (unspelled[i] && strcmp(f->names.keys[i].module, module) == 0) {
            return 0;
        }
    }
    return 1;
}

/* 1 if the meaning may not change: both files are of one base, and the target
 * is of it. Under other names a layer of one base may be read as one of
 * another, and there are bases that metadata cannot name. */
static int is_settled(const file *f, const file *again, const char *target)
{
    const lora__family *family = f->names.family;

    return family != NULL && family == again->names.family &&
           lora__family_layer(family, target) != LORA__LAYER_UNKNOWN;
}

/* Write what is known in a dialect, and read that. */
static void check_dialect(const file *f,
                          const lora__dialect *dialect,
                          lora_context *context)
{
    static file again;
    lora__row_set rows[MOST_KEYS];
    const char *spelled[MOST_KEYS];
    unsigned char unspelled[MOST_KEYS];
    size_t from[MOST_KEYS];
    lora__buffer text;

    memset(&again, 0, sizeof again);
    lora__arena_init(&again.arena, context);
    lora__buffer_init(&text, context);
    say_family(&again, f->names.family);
    for (size_t i = 0; i < f->count; i++) {
        const char *key = f->names.keys[i].known
                              ? spell(&rows[i], f, i, dialect, &text)
                              : NULL;

        spelled[i] = key == NULL ? NULL : keep(&again, key, strlen(key));
        unspelled[i] = key == NULL;
    }
    for (size_t i = 0; i < f->count; i++) {
        if (is_whole(f, unspelled, f->names.keys[i].module)) {
            from[again.count] = i;
            add_key(&again, spelled[i], &f->keys[i]);
        }
    }
    read_file(&again);
    for (size_t i = 0; i < again.count; i++) {
        const lora__key_out *was = &f->names.keys[from[i]];
        const lora__key_out *is = &again.names.keys[i];

        if (was->role != is->role ||
            (is_settled(f, &again, was->target) &&
             !means(is, was->target, &rows[from[i]]))) {
            fail_msg("%s: %s of %s is written as %s and read as %s of %s",
                     lora__dialect_id(dialect), lora__role_name(was->role),
                     was->target, again.keys[i].name, lora__role_name(is->role),
                     is->target);
        }
    }
    lora__buffer_destroy(&text);
    lora__arena_destroy(&again.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static file f;
    const char *text = (const char *)data;
    const char *end = text + bytes;
    lora_limits limits = {.struct_size = sizeof limits};
    heap memory;
    lora_context *context;

    /* a line may be a byte; names in parts have targets of their own */
    limits.memory_bytes = (4u << 20) + 512 * bytes;
    context = make_context(&memory, &limits);
    memset(&f, 0, sizeof f);
    lora__arena_init(&f.arena, context);
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));

        stop = stop == NULL ? end : stop;
        if (stop > text) {
            add_line(&f, text, (size_t)(stop - text));
        }
        text = stop + 1;
    }
    read_file(&f);
    for (int d = 0; d < LORA__DIALECT_COUNT; d++) {
        check_dialect(&f, lora__dialect_at((lora__dialect_index)d), context);
    }
    lora__arena_destroy(&f.arena);
    end_context(&memory, context);
    return 0;
}
