/* What the tests of names share: a file made of keys and metadata, what its
 * keys mean, and the writing of names. */
#ifndef TEST_NAMES_H
#define TEST_NAMES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the others */
#include <cmocka.h>

#include "core/buffer.h"
#include "names/names.h"

#include <lora/context.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEYS 4096

/* A file: keys, as many as there are, and metadata in pairs. */
typedef struct file {
    lora_context *context;
    lora__arena arena;
    lora__key_in keys[MAX_KEYS];
    size_t count;
    const char *const *metadata;
    lora__names names;
} file;

static const int64_t matrix[] = {4, 20};
static const int64_t kernel[] = {4, 20, 3, 3};

static inline const char *file_metadata(const void *user, const char *key)
{
    const char *const *pair = user;

    for (; pair != NULL && *pair != NULL; pair += 2) {
        if (strcmp(pair[0], key) == 0) {
            return pair[1];
        }
    }
    return NULL;
}

static inline void file_open(file *f)
{
    memset(f, 0, sizeof *f);
    assert_int_equal(lora_context_create(&f->context, NULL, NULL), LORA_OK);
    lora__arena_init(&f->arena, f->context);
}

static inline void file_close(file *f)
{
    lora__arena_destroy(&f->arena);
    assert_int_equal(lora_context_memory_live(f->context), 0);
    lora_context_destroy(f->context);
}

static inline void
file_add(file *f, const char *key, int32_t ndim, const int64_t *shape)
{
    lora__key_in *in = &f->keys[f->count++];

    assert_true(f->count <= MAX_KEYS);
    in->name = key;
    in->name_bytes = strlen(key);
    in->ndim = ndim;
    in->shape = shape;
}

static inline void file_read(file *f)
{
    lora_error error;

    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__names_read(&f->names, &f->arena, f->keys, f->count,
                                      file_metadata, f->metadata, &error),
                     LORA_OK);
    assert_int_equal(f->names.key_count, f->count);
}

static inline void file_read_keys(file *f, const char *const *keys)
{
    for (; *keys != NULL; keys++) {
        file_add(f, *keys, 2, matrix);
    }
    file_read(f);
}

/* What a key means. module NULL: unknown; target NULL: as the module. */
typedef struct meaning {
    const char *key;
    const char *dialect;
    const char *role;
    const char *module;
    const char *target;
    int known;
} meaning;

static inline void check_meaning(const lora__key_out *got, const meaning *want)
{
    if (want->module == NULL) {
        assert_null(got->dialect);
        assert_int_equal(got->role, LORA__ROLE_UNKNOWN);
        assert_string_equal(got->module, "");
        assert_string_equal(got->target, "");
        assert_int_equal(got->known, 0);
        return;
    }
    assert_string_equal(lora__role_name(got->role), want->role);
    assert_string_equal(got->module, want->module);
    assert_string_equal(got->target, want->target);
    assert_int_equal(got->known, want->known);
    if (want->dialect == NULL) {
        assert_null(got->dialect);
    } else {
        assert_non_null(got->dialect);
        assert_string_equal(lora__dialect_id(got->dialect), want->dialect);
    }
}

/* Read the keys of all rows as one file. */
static inline void check_file(const meaning *rows, size_t count)
{
    static file f;

    file_open(&f);
    for (size_t i = 0; i < count; i++) {
        file_add(&f, rows[i].key, 2, matrix);
    }
    file_read(&f);
    for (size_t i = 0; i < count; i++) {
        check_meaning(&f.names.keys[i], &rows[i]);
    }
    file_close(&f);
}

/* Read each row as a file of its own. */
static inline void check_single(const meaning *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check_file(&rows[i], 1);
    }
}

/* Read a key cut at each length, and with each byte changed to `other` or '9':
 * no reading beyond it, whatever the answer. The copy is exact, so that tools
 * see an overrun. */
static inline void check_damaged(const char *key, char other)
{
    static file f;
    size_t bytes = strlen(key);

    for (size_t cut = 0; cut < 2 * bytes; cut++) {
        size_t left = cut < bytes ? cut : bytes;
        char *copy = malloc(left + (left == 0));

        assert_non_null(copy);
        memcpy(copy, key, left);
        if (cut >= bytes) {
            copy[cut - bytes] = cut % 2 == 0 ? other : '9';
        }
        file_open(&f);
        file_add(&f, "", 2, matrix);
        f.keys[0].name = copy;
        f.keys[0].name_bytes = left;
        file_read(&f);
        file_close(&f);
        free(copy);
    }
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Ends of names that are in most of them. */
#define TB "transformer_blocks.0."
#define ATTENTION "unet.down_blocks.0.attentions.0." TB
#define CLIP "text_model.encoder.layers."

#endif
