/* A reader that misbehaves as it is told, and a writer that does. */
#ifndef TEST_READER_H
#define TEST_READER_H

#include "api/support.h"

typedef struct source {
    const unsigned char *data;
    size_t bytes;       /* that are there */
    uint64_t claimed;   /* that size tells of */
    size_t reads;       /* calls of read_at so far */
    size_t fail_at;     /* the call that fails; SIZE_MAX: none */
    lora_status status; /* with which it does, and size if it is negative */
    int size_fails;
    size_t most;       /* bytes one call gives; SIZE_MAX: all */
    size_t lie;        /* claim this many more than were asked for */
    size_t changed_at; /* from this call on bits are flipped */
    int maps;
    int destroyed;
} source;

static inline source source_of(const image *im)
{
    source s = {0};

    s.data = im->file;
    s.bytes = im->bytes;
    s.claimed = im->bytes;
    s.fail_at = SIZE_MAX;
    s.changed_at = SIZE_MAX;
    s.status = LORA_ERROR_IO;
    s.most = SIZE_MAX;
    return s;
}

static inline lora_status source_size(void *user, uint64_t *out_bytes)
{
    const source *s = user;

    *out_bytes = s->claimed;
    return s->size_fails ? s->status : LORA_OK;
}

static inline lora_status source_read(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    source *s = user;
    unsigned char *out = buffer;
    size_t left = offset < s->bytes ? s->bytes - (size_t)offset : 0;
    size_t call = s->reads++;

    bytes = bytes < left ? bytes : left;
    bytes = bytes < s->most ? bytes : s->most;
    *out_got = 0;
    if (call == s->fail_at) {
        return s->status;
    }
    for (size_t i = 0; i < bytes; i++) {
        out[i] = s->data[(size_t)offset + i];
        if (call >= s->changed_at) {
            out[i] ^= 0x15;
        }
    }
    *out_got = bytes + s->lie;
    return LORA_OK;
}

static inline lora_status
source_map(void *user, uint64_t offset, uint64_t bytes, const void **out_data)
{
    const source *s = user;

    if (!s->maps || offset > s->bytes || bytes > s->bytes - offset) {
        return LORA_ERROR_UNSUPPORTED;
    }
    *out_data = s->data + offset;
    return LORA_OK;
}

static inline void source_destroy(void *user)
{
    source *s = user;

    s->destroyed++;
}

static inline lora_reader source_reader(source *s)
{
    lora_reader reader = {sizeof reader, s,          source_size,
                          source_read,   source_map, source_destroy};
    return reader;
}

static inline lora_adapter *open_source(lora_context *context, source *s)
{
    lora_reader reader = source_reader(s);
    lora_adapter *adapter;

    assert_int_equal(
        lora_adapter_open_reader(&adapter, context, &reader, NULL, NULL),
        LORA_OK);
    return adapter;
}

/* Keeps what it is given, if it fits. */
typedef struct sink {
    unsigned char data[1 << 17];
    size_t bytes;
    size_t writes;      /* calls of write so far */
    size_t fail_at;     /* the call that fails; SIZE_MAX: none */
    lora_status status; /* with which it does */
    int finish_fails;
    int finished;
    int aborted;
} sink;

static inline void sink_init(sink *t)
{
    memset(t, 0, sizeof *t);
    t->fail_at = SIZE_MAX;
    t->status = LORA_ERROR_IO;
}

static inline lora_status sink_write(void *user, const void *data, size_t bytes)
{
    sink *t = user;

    if (t->writes++ == t->fail_at || t->finished || t->aborted ||
        bytes > sizeof t->data - t->bytes) {
        return t->status;
    }
    memcpy(t->data + t->bytes, data, bytes);
    t->bytes += bytes;
    return LORA_OK;
}

static inline lora_status sink_finish(void *user)
{
    sink *t = user;

    t->finished++;
    return t->finish_fails ? t->status : LORA_OK;
}

static inline void sink_abort(void *user)
{
    sink *t = user;

    t->aborted++;
}

static inline lora_writer sink_writer(sink *t)
{
    lora_writer writer = {sizeof writer, t, sink_write, sink_finish,
                          sink_abort};
    return writer;
}

#endif
