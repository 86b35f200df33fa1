/* GGUF: a file with everything in it, blocks, every refusal, damage anywhere.
 * Whole adapters are compared with numpy by golden/test_gguf.py.
 */
#include "bytes.h"

#include "format/gguf.h"

static heap memory;
static lora_context *context;

static int begin(void **state)
{
    (void)state;
    context = make_context(&memory, NULL);
    return 0;
}

static int end(void **state)
{
    (void)state;
    end_context(&memory, context);
    return 0;
}

/* Making files ----------------------------------------------------------- */

static void put_text(bytes *b, const char *text)
{
    put_number(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static void put_head(bytes *b, uint64_t tensors, uint64_t pairs)
{
    PUT(b, "GGUF\3\0\0\0");
    put_number(b, tensors, 8);
    put_number(b, pairs, 8);
}

static void put_key(bytes *b, const char *key, uint32_t type)
{
    put_text(b, key);
    put_number(b, type, 4);
}

/* Sizes with the fastest first, as in the file. */
static void put_tensor(bytes *b,
                       const char *name,
                       size_t ndim,
                       const uint64_t *sizes,
                       uint32_t type,
                       uint64_t offset)
{
    put_text(b, name);
    put_number(b, ndim, 4);
    for (size_t i = 0; i < ndim; i++) {
        put_number(b, sizes[i], 8);
    }
    put_number(b, type, 4);
    put_number(b, offset, 8);
}

static void put_padding(bytes *b, size_t alignment)
{
    while (b->count % alignment != 0) {
        put_number(b, 0, 1);
    }
}

/* What data are made of: no two bytes in a row are the same. */
static void put_counting(bytes *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        put_number(b, 7 * i + 1, 1);
    }
}

/* Everything ------------------------------------------------------------- */

static const struct {
    const char *key;
    const char *value; /* NULL: left out */
} good_pairs[] = {
    {"bool", "true"},
    {"doubly", NULL},
    {"f32", "-0.15625"},
    {"f64", "0.1"},
    {"general.alignment", "64"},
    {"i16", "-32768"},
    {"i32", "-1"},
    {"i64", "-9223372036854775808"},
    {"i8", "-2"},
    {"inf", "-inf"},
    {"list", "[\"a\\\"\", \"\", \"\xc3\xa9\"]"},
    {"long", NULL},
    {"names", NULL},
    {"nan", "nan"},
    {"numbers", "[1, 2, 65535]"},
    {"string", "line\n\xe2\x82\xac"},
    {"u16", "65535"},
    {"u32", "4294967295"},
    {"u64", "18446744073709551615"},
    {"u8", "255"},
};

/* Not in the order of their keys. */
static void put_good_pairs(bytes *b)
{
    put_key(b, "u8", 0);
    PUT(b, "\xff");
    put_key(b, "i8", 1);
    PUT(b, "\xfe");
    put_key(b, "u16", 2);
    PUT(b, "\xff\xff");
    put_key(b, "i16", 3);
    PUT(b, "\0\x80");
    put_key(b, "u32", 4);
    PUT(b, "\xff\xff\xff\xff");
    put_key(b, "i32", 5);
    PUT(b, "\xff\xff\xff\xff");
    put_key(b, "f32", 6);
    PUT(b, "\0\0\x20\xbe");
    put_key(b, "bool", 7);
    PUT(b, "\1");
    put_key(b, "string", 8);
    put_text(b, "line\n\xe2\x82\xac");
    put_key(b, "u64", 10);
    PUT(b, "\xff\xff\xff\xff\xff\xff\xff\xff");
    put_key(b, "i64", 11);
    PUT(b, "\0\0\0\0\0\0\0\x80");
    put_key(b, "f64", 12);
    PUT(b, "\x9a\x99\x99\x99\x99\x99\xb9\x3f");
    put_key(b, "nan", 6);
    PUT(b, "\0\0\xc0\x7f");
    put_key(b, "inf", 12);
    PUT(b, "\0\0\0\0\0\0\xf0\xff");
    put_key(b, "general.alignment", 4);
    PUT(b, "\x40\0\0\0");
    put_key(b, "numbers", 9);
    PUT(b, "\2\0\0\0\3\0\0\0\0\0\0\0\1\0\2\0\xff\xff");
    put_key(b, "list", 9);
    PUT(b, "\x8\0\0\0\3\0\0\0\0\0\0\0");
    put_text(b, "a\"");
    put_text(b, "");
    put_text(b, "\xc3\xa9");
    put_key(b, "long", 9);
    PUT(b, "\0\0\0\0\x41\0\0\0\0\0\0\0");
    put_counting(b, 65);
    put_key(b, "names", 9);
    PUT(b, "\x8\0\0\0\x41\0\0\0\0\0\0\0");
    for (int i = 0; i < 65; i++) {
        put_text(b, "\xff"); /* not UTF-8, nor looked at */
    }
    put_key(b, "doubly", 9);
    PUT(b, "\x9\0\0\0\2\0\0\0\0\0\0\0");
    PUT(b, "\x8\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0z");
    PUT(b, "\1\0\0\0\0\0\0\0\0\0\0\0");
}

static const struct {
    const char *name;
    uint32_t type;
    size_t ndim;
    uint64_t sizes[4];
    size_t stored;
    lora_dtype dtype;
} good_tensors[] = {
    {"f32", 0, 2, {3, 2}, 24, LORA_DTYPE_F32},
    {"f16", 1, 1, {5}, 10, LORA_DTYPE_F16},
    {"none", 1, 2, {0, 5}, 0, LORA_DTYPE_F16},
    {"bf16", 30, 4, {1, 1, 3, 2}, 12, LORA_DTYPE_BF16},
    {"f64", 28, 0, {0}, 8, LORA_DTYPE_F64},
    {"i8", 24, 1, {64}, 64, LORA_DTYPE_I8},
    {"i16", 25, 1, {1}, 2, LORA_DTYPE_I16},
    {"i32", 26, 1, {1}, 4, LORA_DTYPE_I32},
    {"i64", 27, 1, {1}, 8, LORA_DTYPE_I64},
    {"q8_0", 8, 2, {96, 3}, 9 * 34, LORA_DTYPE_F32},
    {"no q8_0", 8, 2, {32, 0}, 0, LORA_DTYPE_F32},
    {"q4_0", 2, 1, {32}, 18, LORA_DTYPE_F32},
    {"q4_1", 3, 1, {32}, 20, LORA_DTYPE_F32},
    {"q5_0", 6, 1, {32}, 22, LORA_DTYPE_F32},
    {"q5_1", 7, 1, {64}, 48, LORA_DTYPE_F32},
};

enum {
    GOOD_PAIRS = sizeof good_pairs / sizeof good_pairs[0],
    GOOD_TENSORS = sizeof good_tensors / sizeof good_tensors[0]
};

/* *out_data: where data begin. */
static blob make_good(size_t *out_data)
{
    bytes b = {NULL, 0, 0};
    uint64_t offset = 0;

    put_head(&b, GOOD_TENSORS, GOOD_PAIRS);
    put_good_pairs(&b);
    for (size_t i = 0; i < GOOD_TENSORS; i++) {
        put_tensor(&b, good_tensors[i].name, good_tensors[i].ndim,
                   good_tensors[i].sizes, good_tensors[i].type, offset);
        offset += (good_tensors[i].stored + 63) / 64 * 64;
    }
    put_padding(&b, 64);
    *out_data = b.count;
    for (size_t i = 0; i < GOOD_TENSORS; i++) {
        put_counting(&b, good_tensors[i].stored);
        put_padding(&b, 64);
    }
    return take(&b);
}

static void test_good(void **state)
{
    size_t at, left_out = 0;
    blob b = make_good(&at);
    lora__container *c;

    (void)state;
    for (int version = 2; version <= 3; version++) {
        b.data[4] = (unsigned char)version;
        assert_int_equal(open_blob(&c, context, &b, "f", NULL), LORA_OK);
        assert_string_equal(c->format, "gguf");
        lora__container_release(c);
    }
    assert_int_equal(open_blob(&c, context, &b, "f", NULL), LORA_OK);
    for (size_t i = 0; i < GOOD_PAIRS; i++) {
        const char *value = lora__container_metadata(c, good_pairs[i].key);
        left_out += good_pairs[i].value == NULL;
        if (good_pairs[i].value == NULL) {
            assert_null(value);
        } else {
            assert_non_null(value);
            assert_string_equal(value, good_pairs[i].value);
        }
    }
    assert_int_equal(c->metadata_count, GOOD_PAIRS - left_out);
    assert_int_equal(c->entry_count, GOOD_TENSORS);
    for (size_t i = 0; i < GOOD_TENSORS; i++) {
        const lora__entry *e = &c->entries[i];
        size_t ndim = good_tensors[i].ndim, found;
        assert_string_equal(e->name, good_tensors[i].name);
        assert_true(
            lora__map_find(&found, &c->by_name, e->name, strlen(e->name)));
        assert_int_equal(found, i);
        assert_int_equal(e->dtype, good_tensors[i].dtype);
        assert_int_equal(e->ndim, ndim);
        for (size_t d = 0; d < ndim; d++) {
            assert_int_equal(e->shape[d], good_tensors[i].sizes[ndim - 1 - d]);
        }
        assert_int_equal(e->offset, at);
        if (e->derive == NULL && e->bytes > 0) {
            assert_int_equal(e->bytes, good_tensors[i].stored);
            assert_ptr_equal(lora__container_view(c, i), b.data + at);
        }
        at += (good_tensors[i].stored + 63) / 64 * 64;
    }
    lora__container_release(c);
    free(b.data);
}

/* Blocks ----------------------------------------------------------------- */

/* The same numbers of each type: number i of a block has the bits i, of the
 * four-bit types those of i % 16. d is 0.5, m is -3. */
static blob make_blocks(uint32_t type)
{
    const uint64_t sizes[1] = {32};
    bytes b = {NULL, 0, 0};

    put_head(&b, 1, 0);
    put_tensor(&b, "t", 1, sizes, type, 0);
    put_padding(&b, 32);
    PUT(&b, "\x00\x38");
    if (type == 3 || type == 7) {
        PUT(&b, "\x00\xc2");
    }
    if (type == 6 || type == 7) {
        PUT(&b, "\x00\x00\xff\xff"); /* numbers 16 to 31 */
    }
    for (unsigned i = 0; i < (type == 8 ? 32u : 16u); i++) {
        put_number(&b, type == 8 ? i - 16 : i << 4 | i, 1);
    }
    return take(&b);
}

static void test_blocks(void **state)
{
    static const struct {
        uint32_t type;
        int five; /* bits a number, or more */
        float less;
        float m;
    } types[] = {{8, 1, 16, 0},
                 {2, 0, 8, 0},
                 {3, 0, 0, -3},
                 {6, 1, 16, 0},
                 {7, 1, 0, -3}};

    (void)state;
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        blob b = make_blocks(types[t].type);
        float got[32];
        lora__container *c;

        assert_int_equal(open_blob(&c, context, &b, "f", NULL), LORA_OK);
        assert_int_equal(c->entries[0].bytes, sizeof got);
        assert_int_equal(c->entries[0].elements, 32);
        assert_null(lora__container_view(c, 0));
        assert_int_equal(lora__container_read(c, 0, 0, got, sizeof got, NULL),
                         LORA_OK);
        for (int i = 0; i < 32; i++) {
            float q = (float)(types[t].five ? i : i % 16);
            assert_true(got[i] == 0.5f * (q - types[t].less) + types[t].m);
        }
        lora__container_release(c);
        free(b.data);
    }
}

/* Any range of the bytes of a tensor of many blocks. */
static void test_block_ranges(void **state)
{
    enum { BLOCKS = 200 };
    static unsigned char whole[BLOCKS * 128], part[BLOCKS * 128];
    const uint64_t sizes[2] = {32 * 8, BLOCKS / 8};
    uint64_t seed = 0x9216D5D98979FB1Bu;
    bytes made = {NULL, 0, 0};
    lora__container *c;
    blob b;

    (void)state;
    put_head(&made, 1, 0);
    put_tensor(&made, "t", 2, sizes, 8, 0);
    put_padding(&made, 32);
    put_counting(&made, BLOCKS * 34);
    b = take(&made);
    assert_int_equal(open_blob(&c, context, &b, "f", NULL), LORA_OK);
    for (size_t i = 0; i < sizeof whole; i += 4) { /* one at a time */
        assert_int_equal(lora__container_read(c, 0, i, whole + i, 4, NULL),
                         LORA_OK);
    }
    for (int i = 0; i < 500; i++) {
        size_t from = (size_t)(random_next(&seed) % (sizeof whole + 1));
        size_t to =
            from + (size_t)(random_next(&seed) %
                            (i % 2 == 0 ? sizeof whole - from + 1
                                        : 1 + (sizeof whole - from) / 50));
        assert_int_equal(
            lora__container_read(c, 0, from, part, to - from, NULL), LORA_OK);
        assert_memory_equal(part, whole + from, to - from);
    }
    assert_int_equal(lora__container_read(c, 0, 1, part, sizeof whole, NULL),
                     LORA_ERROR_RANGE);
    lora__container_release(c);
    free(b.data);
}

/* Refusals --------------------------------------------------------------- */

#define N4(byte) byte "\0\0\0"
#define N8(byte) byte "\0\0\0\0\0\0\0"
#define HUGE8 "\xff\xff\xff\xff\xff\xff\xff\xff"
#define HEAD(tensors, pairs) "GGUF" N4("\3") N8(tensors) N8(pairs)
#define ONE_PAIR HEAD("\0", "\1")
#define ONE_TENSOR HEAD("\1", "\0")
#define KEY(letter, type) N8("\1") letter N4(type)
#define NAME(letter) N8("\1") letter
#define F32_1(letter, offset) NAME(letter) N4("\1") N8("\1") N4("\0") N8(offset)
#define ALIGNMENT(type) N8("\x11") "general.alignment" N4(type)
#define FILE_OF(text) text, sizeof(text) - 1

/* `data` bytes come after the padding; 0: not even that comes. */
static const struct {
    const char *text;
    size_t count;
    size_t data;
    lora_status status;
    uint64_t offset;
    const char *word; /* that the message has */
} refusals[] = {
    /* The head. */
    {FILE_OF("GGUF" N4("\1") N8("\0") N8("\0")), 0, LORA_ERROR_FORMAT, 4,
     "version 1"},
    {FILE_OF("GGUF" N4("\0") N8("\0") N8("\0")), 0, LORA_ERROR_FORMAT, 4,
     "version 0"},
    {FILE_OF("GGUF" N4("\4") N8("\0") N8("\0")), 0, LORA_ERROR_FORMAT, 4,
     "version 4"},
    {FILE_OF("GGUF\0\0\0\3" N8("\0") N8("\0")), 0, LORA_ERROR_FORMAT, 4,
     "big-endian"},
    {FILE_OF("GGUF" N4("\3") HUGE8 N8("\0")), 0, LORA_ERROR_LIMIT, 8,
     "more tensors"},
    {FILE_OF("GGUF" N4("\3") "\1\0\1\0\0\0\0\0" N8("\0")), 0,
     LORA_ERROR_TRUNCATED, 24, "1572912 bytes"},
    {FILE_OF("GGUF" N4("\3") N8("\0") HUGE8), 0, LORA_ERROR_LIMIT, 24,
     "over the limit"},
    {FILE_OF("GGUF" N4("\3") N8("\0") "\0\0\1\0\0\0\0\0"), 0,
     LORA_ERROR_TRUNCATED, 24, "917528 bytes"},
    /* Keys. */
    {FILE_OF(ONE_PAIR N8("\0") N4("\0") "\1\1"), 0, LORA_ERROR_FORMAT, 24,
     "empty key"},
    {FILE_OF(ONE_PAIR KEY("\0", "\0") "\1"), 0, LORA_ERROR_FORMAT, 24, "NUL"},
    {FILE_OF(ONE_PAIR KEY("\xff", "\0") "\1"), 0, LORA_ERROR_FORMAT, 24,
     "UTF-8"},
    {FILE_OF(ONE_PAIR HUGE8 "k\0\0\0\0\0"), 0, LORA_ERROR_LIMIT, 32,
     "over the limit"},
    {FILE_OF(ONE_PAIR N8("\x40") "k\0\0\0\0\0"), 0, LORA_ERROR_TRUNCATED, 38,
     "96 bytes"},
    {FILE_OF(HEAD("\0", "\2") KEY("k", "\0") "\1" KEY("k", "\1") "\1"), 0,
     LORA_ERROR_DUPLICATE, 38, "twice"},
    {FILE_OF(HEAD("\0", "\2") KEY("k", "\x9") N4("\x9") N8("\0")
                 KEY("k", "\1") "\1"),
     0, LORA_ERROR_DUPLICATE, 49, "twice"},
    /* Values. */
    {FILE_OF(ONE_PAIR KEY("k", "\xd") "\1"), 0, LORA_ERROR_FORMAT, 33,
     "not known"},
    {FILE_OF(ONE_PAIR KEY("k", "\x7") "\2"), 0, LORA_ERROR_FORMAT, 37,
     "neither 0 nor 1"},
    {FILE_OF(ONE_PAIR KEY("k", "\xc") "\1"), 0, LORA_ERROR_TRUNCATED, 38,
     "45 bytes"},
    {FILE_OF(ONE_PAIR KEY("k", "\x8") N8("\2") "a\0"), 0, LORA_ERROR_FORMAT, 37,
     "NUL"},
    {FILE_OF(ONE_PAIR KEY("k", "\x8") N8("\2") "a\xc3"), 0, LORA_ERROR_FORMAT,
     37, "UTF-8"},
    {FILE_OF(ONE_PAIR KEY("k", "\x8") HUGE8), 0, LORA_ERROR_LIMIT, 45,
     "over the limit"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\xd") N8("\1") "\1"), 0,
     LORA_ERROR_FORMAT, 37, "not known"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\x7") N8("\1") "\2"), 0,
     LORA_ERROR_FORMAT, 49, "neither 0 nor 1"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\x8") N8("\1") N8("\1") "\xff"), 0,
     LORA_ERROR_FORMAT, 49, "UTF-8"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\2") "\0\0\0\0\0\0\0\x80"), 0,
     LORA_ERROR_LIMIT, 49, "over the limit"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\xa") N8("\x41")), 0,
     LORA_ERROR_TRUNCATED, 49, "569 bytes"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\x9") HUGE8), 0, LORA_ERROR_LIMIT, 49,
     "over the limit"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\x9") N8("\1") N4("\xd") N8("\0")), 0,
     LORA_ERROR_FORMAT, 49, "not known"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\x9") N8("\1") N4("\x8") N8("\1")
                 HUGE8),
     0, LORA_ERROR_LIMIT, 69, "over the limit"},
    {FILE_OF(ONE_PAIR KEY("k", "\x9") N4("\x9") N8("\1") N4("\x9") N8("\1")
                 N4("\x9") N8("\1") N4("\x9") N8("\1") N4("\0") N8("\0")),
     0, LORA_ERROR_LIMIT, 97, "too deep"},
    {FILE_OF(ONE_PAIR ALIGNMENT("\xa") N8("\x20")), 0, LORA_ERROR_FORMAT, 24,
     "32-bit"},
    {FILE_OF(ONE_PAIR ALIGNMENT("\x9") N4("\x9") N8("\0")), 0,
     LORA_ERROR_FORMAT, 24, "32-bit"},
    {FILE_OF(ONE_PAIR ALIGNMENT("\4") N4("\0")), 0, LORA_ERROR_FORMAT, 24,
     "power of two"},
    {FILE_OF(ONE_PAIR ALIGNMENT("\4") N4("\x18")), 0, LORA_ERROR_FORMAT, 24,
     "power of two"},
    {FILE_OF(ONE_PAIR ALIGNMENT("\4") "\0\0\2\0"), 0, LORA_ERROR_LIMIT, 24,
     "over 65536"},
    /* Tensors. */
    {FILE_OF(HEAD("\2", "\0") F32_1("a", "\0") F32_1("a", "\x20")), 36,
     LORA_ERROR_DUPLICATE, 57, "twice"},
    {FILE_OF(ONE_TENSOR F32_1("\0", "\0")), 4, LORA_ERROR_FORMAT, 24, "NUL"},
    {FILE_OF(ONE_TENSOR F32_1("\x80", "\0")), 4, LORA_ERROR_FORMAT, 24,
     "UTF-8"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\x9") N8("\1") N8("\1") N8("\1") N8(
         "\1") N8("\1") N8("\1") N8("\1") N8("\1") N8("\1") N4("\0") N8("\0")),
     4, LORA_ERROR_FORMAT, 33, "8 dimensions"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\1") HUGE8 N4("\0") N8("\0")), 4,
     LORA_ERROR_FORMAT, 37, "2^63"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\3") N8("\0") "\0\0\0\0\1\0\0\0"
                                                    "\0\0\0\0\1\0\0\0" N4("\0")
                                                        N8("\0")),
     4, LORA_ERROR_FORMAT, 24, "overflows"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\1") N8("\1") N4("\4") N8("\0")), 4,
     LORA_ERROR_UNSUPPORTED, 45, "type 4"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\1") N8("\1") HUGE8 N8("\0")), 4,
     LORA_ERROR_UNSUPPORTED, 45, "type 4294967295"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\2") "\0\1\0\0\0\0\0\0" N8("\1") N4("\xc")
                 N8("\0")),
     160, LORA_ERROR_UNSUPPORTED, 53, "Q4_K"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\2") N8("\x10") N8("\2") N4("\x8")
                 N8("\0")),
     34, LORA_ERROR_FORMAT, 24, "whole blocks"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\0") N4("\x8") N8("\0")), 34,
     LORA_ERROR_FORMAT, 24, "whole blocks"},
    /* Where data lie. */
    {FILE_OF(ONE_TENSOR F32_1("a", "\4")), 8, LORA_ERROR_FORMAT, 49, "aligned"},
    {FILE_OF(ONE_TENSOR F32_1("a", "\x20")), 36, LORA_ERROR_FORMAT, 49, "hole"},
    {FILE_OF(ONE_TENSOR NAME("a") N4("\1") N8("\1")
                 N4("\0") "\xe0\xff\xff\xff\xff\xff\xff\xff"),
     4, LORA_ERROR_FORMAT, 49, "hole"},
    {FILE_OF(HEAD("\2", "\0") F32_1("a", "\0") F32_1("b", "\0")), 36,
     LORA_ERROR_FORMAT, 82, "overlap"},
    {FILE_OF(HEAD("\2", "\0") F32_1("a", "\0") F32_1("b", "\x40")), 68,
     LORA_ERROR_FORMAT, 82, "hole"},
    {FILE_OF(HEAD("\2", "\0") F32_1("a", "\0") F32_1("b", "\4")), 36,
     LORA_ERROR_FORMAT, 82, "aligned"},
    {FILE_OF(ONE_TENSOR F32_1("a", "\0")), 0, LORA_ERROR_TRUNCATED, 57,
     "4 of 4 bytes"},
    {FILE_OF(ONE_TENSOR F32_1("a", "\0")), 3, LORA_ERROR_TRUNCATED, 67,
     "1 of 4 bytes"},
    {FILE_OF(ONE_TENSOR F32_1("a", "\0")), 33, LORA_ERROR_FORMAT, 96,
     "1 bytes after"},
    {FILE_OF(HEAD("\0", "\0")), 1, LORA_ERROR_FORMAT, 32, "1 bytes after"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        bytes made = {NULL, 0, 0};
        lora__container *c = (lora__container *)(void *)&memory;
        lora_error error;
        lora_status status;
        blob b;

        put(&made, refusals[i].text, refusals[i].count);
        if (refusals[i].data > 0) {
            put_padding(&made, 32);
            put_counting(&made, refusals[i].data);
        }
        b = take(&made);
        status = open_blob(&c, context, &b, "a file", &error);
        if (status != refusals[i].status || error.status != status ||
            error.offset != refusals[i].offset ||
            strstr(error.message, refusals[i].word) == NULL) {
            fail_msg("case %zu (%s): %d at %llu: %s", i, refusals[i].word,
                     (int)status, (unsigned long long)error.offset,
                     error.message);
        }
        assert_null(c);
        assert_string_equal(error.subject, "a file");
        free(b.data);
    }
}

/* Sizes that overflow only all together. */
static void test_sum(void **state)
{
    const uint64_t size = ((uint64_t)1 << 61) - 32;
    bytes made = {NULL, 0, 0};
    lora__container *c;
    lora_error error;
    blob b;

    (void)state;
    put_head(&made, 9, 0);
    for (uint64_t i = 0; i < 9; i++) {
        char name[2] = {(char)('a' + i), '\0'};
        put_tensor(&made, name, 1, &size, 24, i * size);
    }
    b = take(&made);
    assert_int_equal(open_blob(&c, context, &b, "f", &error),
                     LORA_ERROR_TRUNCATED);
    assert_non_null(strstr(error.message, "any file"));
    free(b.data);
}

/* Sound without the last padding, or with a part of it. */
static void test_last_padding(void **state)
{
    (void)state;
    for (size_t data = 4; data <= 32; data++) {
        bytes made = {NULL, 0, 0};
        lora__container *c;
        blob b;

        PUT(&made, ONE_TENSOR F32_1("a", "\0"));
        put_padding(&made, 32);
        put_counting(&made, data);
        b = take(&made);
        assert_int_equal(open_blob(&c, context, &b, "f", NULL), LORA_OK);
        touch(c);
        lora__container_release(c);
        free(b.data);
    }
}

static void test_limits(void **state)
{
    static const struct {
        uint64_t header, tensors, name;
        const char *word; /* NULL: within them */
    } cases[] = {
        {90, 2, 1, NULL},
        {89, 2, 1, "limit of 89 bytes"},
        {90, 1, 1, "more tensors"},
        {57, 2, 1, "limit of 57 bytes"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lora_limits limits = {sizeof limits,
                              cases[i].header,
                              cases[i].tensors,
                              cases[i].name,
                              0,
                              0};
        heap h;
        lora_context *limited = make_context(&h, &limits);
        bytes made = {NULL, 0, 0};
        lora__container *c;
        lora_error error;
        lora_status status;
        blob b;

        PUT(&made, HEAD("\2", "\0") F32_1("a", "\0") F32_1("b", "\x20"));
        put_padding(&made, 32);
        put_counting(&made, 36);
        b = take(&made);
        status = open_blob(&c, limited, &b, "f", &error);
        if (cases[i].word == NULL) {
            assert_int_equal(status, LORA_OK);
            lora__container_release(c);
            b.data[24] = 2; /* the name takes a byte of what follows */
        } else {
            assert_int_equal(status, LORA_ERROR_LIMIT);
            assert_non_null(strstr(error.message, cases[i].word));
        }
        if (cases[i].word == NULL) {
            assert_int_equal(open_blob(&c, limited, &b, "f", &error),
                             LORA_ERROR_LIMIT);
            assert_non_null(strstr(error.message, "name is over"));
        }
        free(b.data);
        end_context(&h, limited);
    }
}

/* Damage ----------------------------------------------------------------- */

/* Both ends of every tensor. */
static lora_status read_ends(const lora__container *c)
{
    unsigned char ends[24];

    for (size_t i = 0; i < c->entry_count; i++) {
        const lora__entry *e = &c->entries[i];
        size_t n = e->bytes < sizeof ends ? (size_t)e->bytes : sizeof ends;

        assert_int_equal(strlen(e->name), e->name_bytes);
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
            assert_true(is_refusal(status) || status == LORA_ERROR_UNSUPPORTED);
            assert_string_equal(error.subject, "f");
            assert_true(error.message[0] != '\0');
        }
        return status;
    }
    status = read_ends(c);
    lora__container_release(c);
    return status;
}

/* What is lost at the very end is padding. */
static void test_cut(void **state)
{
    size_t data;
    blob whole = make_good(&data);
    size_t padding = 64 - 48;

    (void)state;
    for (size_t n = 0; n <= whole.bytes; n++) {
        blob b = blob_of(whole.data, n);
        lora_status status = open_and_read(&b);
        assert_int_equal(
            status, n < whole.bytes - padding ? LORA_ERROR_TRUNCATED : LORA_OK);
        free(b.data);
    }
    free(whole.data);
}

static void test_flip(void **state)
{
    static const unsigned char flips[] = {1, 2, 0x20, 0x80, 0xff};
    uint64_t seed = 0x0801F2E2858EFC16u;
    size_t data;
    blob b = make_good(&data);

    (void)state;
    for (size_t n = 0; n < b.bytes; n++) {
        unsigned char was = b.data[n];
        for (size_t i = 0; i < sizeof flips; i++) {
            b.data[n] = was ^ flips[i];
            open_and_read(&b);
        }
        b.data[n] = (unsigned char)random_next(&seed);
        open_and_read(&b);
        b.data[n] = was;
    }
    assert_int_equal(open_and_read(&b), LORA_OK);
    free(b.data);
}

/* Several bytes of the header at once. */
static void test_scramble(void **state)
{
    uint64_t seed = 0x636920D871574E69u;
    size_t data;
    blob good = make_good(&data);

    (void)state;
    for (int round = 0; round < 20000; round++) {
        blob b = blob_of(good.data, good.bytes);
        for (int i = 0; i < 1 + round % 4; i++) {
            b.data[4 + random_next(&seed) % (data - 4)] =
                (unsigned char)random_next(&seed);
        }
        open_and_read(&b);
        free(b.data);
    }
    free(good.data);
}

/* Opening and reading with each allocation failing, once and for good. */
static void test_memory(void **state)
{
    size_t data;
    blob b = make_good(&data);

    (void)state;
    for (int lasting = 0; lasting < 2; lasting++) {
        lora_status status = LORA_ERROR_MEMORY;

        for (size_t n = 0; status != LORA_OK; n++) {
            memory.countdown = n;
            memory.lasting = lasting;
            status = open_and_read(&b);
            memory.countdown = SIZE_MAX;
            assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
            assert_int_equal(lora_context_memory_live(context), 0);
        }
    }
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_block_ranges),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_last_padding),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_flip),
        cmocka_unit_test(test_scramble),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
