/* What the tests of the public interface share: an allocator that counts,
 * fails and looks for misuse; files made by hand, from the format's text
 * alone; folders; and ways to look at errors. Public names only.
 */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <lora/lora.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Memory ----------------------------------------------------------------- */

/* Safe from several threads. Every realloc moves, fresh memory is filled with
 * 0xA5 and freed memory with 0x5A, and what free and realloc are told is
 * compared with what the block was made with. A helper thread must not leave
 * through cmocka, so misuse is counted and looked at in the end. */
typedef struct heap {
    atomic_size_t calls;   /* of alloc and realloc so far */
    atomic_size_t fail_at; /* the call that fails; SIZE_MAX: none */
    atomic_int lasting;    /* and all after it */
    atomic_size_t met;     /* failures given */
    atomic_size_t live;    /* blocks */
    atomic_size_t live_bytes;
    atomic_size_t peak_bytes;
    atomic_size_t misused;
} heap;

#define HEAP_MAGIC 0x6C6F72616865ADu
#define HEAP_GUARD 32

typedef struct heap_head {
    void *raw;
    size_t size;
    size_t align;
    uint64_t magic;
} heap_head;

static inline void heap_init(heap *h)
{
    memset(h, 0, sizeof *h);
    atomic_store(&h->fail_at, SIZE_MAX);
}

static inline int heap_fails(heap *h)
{
    size_t call = atomic_fetch_add(&h->calls, 1);
    size_t at = atomic_load(&h->fail_at);

    if (call == at || (atomic_load(&h->lasting) && call > at)) {
        atomic_fetch_add(&h->met, 1);
        return 1;
    }
    return 0;
}

/* The head lies before the block, unaligned; guard bytes on both sides. */
static inline void *heap_make(heap *h, size_t size, size_t align)
{
    heap_head head = {NULL, size, align, HEAP_MAGIC};
    unsigned char *block;
    size_t live;
    size_t peak;

    if (size == 0 || align == 0 || align > 64 || (align & (align - 1)) != 0) {
        atomic_fetch_add(&h->misused, 1);
        return NULL;
    }
    head.raw = malloc(sizeof head + align + size + 2 * HEAP_GUARD);
    if (head.raw == NULL) {
        return NULL;
    }
    block = (unsigned char *)head.raw + sizeof head + HEAP_GUARD;
    block += (align - (uintptr_t)block % align) % align;
    memset(block - HEAP_GUARD, 0xEE, HEAP_GUARD);
    memset(block + size, 0xEE, HEAP_GUARD);
    memset(block, 0xA5, size);
    memcpy(block - HEAP_GUARD - sizeof head, &head, sizeof head);
    atomic_fetch_add(&h->live, 1);
    live = atomic_fetch_add(&h->live_bytes, size) + size;
    peak = atomic_load(&h->peak_bytes);
    while (peak < live &&
           !atomic_compare_exchange_weak(&h->peak_bytes, &peak, live)) {
    }
    return block;
}

static inline void *heap_alloc(void *user, size_t size, size_t align)
{
    return heap_fails(user) ? NULL : heap_make(user, size, align);
}

static inline int heap_intact(const unsigned char *guard)
{
    for (size_t i = 0; i < HEAP_GUARD; i++) {
        if (guard[i] != 0xEE) {
            return 0;
        }
    }
    return 1;
}

static inline void heap_free(void *user, void *block, size_t size, size_t align)
{
    heap *h = user;
    unsigned char *bytes = block;
    heap_head head;

    if (block == NULL) {
        return;
    }
    memcpy(&head, bytes - HEAP_GUARD - sizeof head, sizeof head);
    if (head.magic != HEAP_MAGIC || head.size != size || head.align != align ||
        !heap_intact(bytes - HEAP_GUARD) || !heap_intact(bytes + size)) {
        atomic_fetch_add(&h->misused, 1);
        return;
    }
    memset(bytes - HEAP_GUARD - sizeof head, 0x5A,
           sizeof head + HEAP_GUARD + size);
    atomic_fetch_sub(&h->live, 1);
    atomic_fetch_sub(&h->live_bytes, size);
    free(head.raw);
}

static inline void *heap_realloc(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved = heap_alloc(user, new_size, align);

    if (moved != NULL && block != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        heap_free(user, block, old_size, align);
    }
    return moved;
}

static inline lora_allocator heap_hooks(heap *h)
{
    lora_allocator hooks = {sizeof hooks, h, heap_alloc, heap_realloc,
                            heap_free};
    return hooks;
}

/* A context on a fresh heap; `options` may be NULL. */
static inline lora_context *heap_context(heap *h,
                                         const lora_context_options *options)
{
    lora_allocator hooks = heap_hooks(h);
    lora_context_options o;
    lora_context *context;

    heap_init(h);
    lora_context_options_init(&o, sizeof o);
    if (options != NULL) {
        o = *options;
    }
    o.allocator = &hooks;
    assert_int_equal(lora_context_create(&context, &o, NULL), LORA_OK);
    return context;
}

/* Give up the context, which must have been the last thing alive. */
static inline void heap_end(heap *h, lora_context *context)
{
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    assert_int_equal(h->misused, 0);
    assert_int_equal(h->live, 0);
    assert_int_equal(h->live_bytes, 0);
}

static inline lora_context *plain_context(void)
{
    lora_context *context;

    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    return context;
}

/* Files made by hand ----------------------------------------------------- */

/* A safetensors file in the making: add tensors in the order of the reference
 * writer (dtype from F64 down, then name) and the bytes are those that the
 * library must write. */
typedef struct image {
    char header[1 << 15];
    size_t header_bytes;
    unsigned char data[1 << 16];
    size_t data_bytes;
    unsigned char *file; /* by image_end() */
    size_t bytes;
} image;

static inline void image_text(image *im, const char *format, ...)
{
    va_list args;
    int written;

    va_start(args, format);
    written = vsnprintf(im->header + im->header_bytes,
                        sizeof im->header - im->header_bytes, format, args);
    va_end(args);
    assert_true(written >= 0 &&
                (size_t)written < sizeof im->header - im->header_bytes);
    im->header_bytes += (size_t)written;
}

/* `metadata` is the inside of the object, such as "\"a\":\"b\"", or NULL. */
static inline void image_begin(image *im, const char *metadata)
{
    memset(im, 0, sizeof *im);
    image_text(im, "{");
    if (metadata != NULL) {
        image_text(im, "\"__metadata__\":{%s}", metadata);
    }
}

static inline void image_raw(image *im,
                             const char *name,
                             const char *dtype,
                             const char *shape,
                             const void *data,
                             size_t bytes)
{
    assert_true(bytes <= sizeof im->data - im->data_bytes);
    image_text(im,
               "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],"
               "\"data_offsets\":[%zu,%zu]}",
               im->header_bytes == 1 ? "" : ",", name, dtype, shape,
               im->data_bytes, im->data_bytes + bytes);
    if (bytes != 0) {
        memcpy(im->data + im->data_bytes, data, bytes);
    }
    im->data_bytes += bytes;
}

static inline void image_f32(image *im,
                             const char *name,
                             const char *shape,
                             const float *values,
                             size_t count)
{
    image_raw(im, name, "F32", shape, values, count * sizeof *values);
}

/* `count` numbers between -1 and 1 with few bits, the same for one seed. */
static inline void some_numbers(float *out, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (float)((int32_t)(seed >> 24) - 128) / 128.0f;
    }
}

static inline void image_some(
    image *im, const char *name, const char *shape, size_t count, uint32_t seed)
{
    float values[4096];

    assert_true(count <= COUNT(values));
    some_numbers(values, count, seed);
    image_f32(im, name, shape, values, count);
}

static inline void put_u64(unsigned char *out, uint64_t value)
{
    for (size_t i = 0; i < 8; i++) {
        out[i] = (unsigned char)(value >> (8 * i));
    }
}

/* The file, in a block of just its size, so that a sanitizer sees any byte
 * read beyond it. */
static inline void image_end(image *im)
{
    image_text(im, "}");
    while (im->header_bytes % 8 != 0) {
        image_text(im, " ");
    }
    im->bytes = 8 + im->header_bytes + im->data_bytes;
    im->file = malloc(im->bytes);
    assert_non_null(im->file);
    put_u64(im->file, im->header_bytes);
    memcpy(im->file + 8, im->header, im->header_bytes);
    if (im->data_bytes != 0) {
        memcpy(im->file + 8 + im->header_bytes, im->data, im->data_bytes);
    }
}

static inline void image_free(image *im)
{
    free(im->file);
    im->file = NULL;
}

/* Names of modules that SD 1.5 has. */
#define UNET "lora_unet_down_blocks_0_"
#define SAMPLE_K UNET "attentions_0_transformer_blocks_0_attn1_to_k"
#define SAMPLE_Q UNET "attentions_0_transformer_blocks_0_attn1_to_q"
#define SAMPLE_CONV UNET "resnets_0_conv1"
#define SAMPLE_CORE UNET "resnets_0_conv2"
#define SAMPLE_TE "lora_te_text_model_encoder_layers_0_mlp_fc1"
#define SAMPLE_K_TARGET                                                        \
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
#define SAMPLE_Q_TARGET                                                        \
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"

/* What the base is, in full, so that no result adds to it. */
#define SAMPLE_BASE                                                            \
    "\"modelspec.architecture\":\"stable-diffusion-v1/lora\","                 \
    "\"ss_base_model_version\":\"sd_v1\""

#define SAMPLE_METADATA                                                        \
    "\"modelspec.architecture\":\"stable-diffusion-v1/lora\","                 \
    "\"note\":\"a b\",\"ss_base_model_version\":\"sd_v1\","                    \
    "\"ss_network_dim\":\"7\",\"sshs_model_hash\":\"00\""

/* Kinds that every operation knows: a linear pair, a convolution, one with a
 * core, a pair of a text encoder. Ranks 2, 3, 2, 2. */
static inline void image_sample(image *im)
{
    const float alphas[] = {1.0f, 3.0f, 2.0f, 4.0f};

    image_begin(im, SAMPLE_METADATA);
    image_f32(im, SAMPLE_TE ".alpha", "", &alphas[3], 1);
    image_some(im, SAMPLE_TE ".lora_down.weight", "2,3", 6, 1);
    image_some(im, SAMPLE_TE ".lora_up.weight", "4,2", 8, 2);
    image_f32(im, SAMPLE_Q ".alpha", "", &alphas[0], 1);
    image_some(im, SAMPLE_Q ".lora_down.weight", "2,6", 12, 3);
    image_some(im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 4);
    image_f32(im, SAMPLE_CONV ".alpha", "", &alphas[1], 1);
    image_some(im, SAMPLE_CONV ".lora_down.weight", "3,2,3,3", 54, 5);
    image_some(im, SAMPLE_CONV ".lora_up.weight", "5,3,1,1", 15, 6);
    image_f32(im, SAMPLE_CORE ".alpha", "", &alphas[2], 1);
    image_some(im, SAMPLE_CORE ".lora_down.weight", "2,3,1,1", 6, 7);
    image_some(im, SAMPLE_CORE ".lora_mid.weight", "2,2,3,3", 36, 8);
    image_some(im, SAMPLE_CORE ".lora_up.weight", "4,2,1,1", 8, 9);
    image_end(im);
}

/* Only pairs, which every dialect can spell. */
static inline void image_pairs(image *im)
{
    const float alphas[] = {1.0f, 4.0f};

    image_begin(im, SAMPLE_BASE);
    image_f32(im, SAMPLE_K ".alpha", "", &alphas[1], 1);
    image_some(im, SAMPLE_K ".lora_down.weight", "2,6", 12, 13);
    image_some(im, SAMPLE_K ".lora_up.weight", "4,2", 8, 14);
    image_f32(im, SAMPLE_Q ".alpha", "", &alphas[0], 1);
    image_some(im, SAMPLE_Q ".lora_down.weight", "2,6", 12, 3);
    image_some(im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 4);
    image_end(im);
}

/* Names of Flux: q, k and v in one weight, and each for itself. */
#define FLUX_BASE                                                              \
    "\"modelspec.architecture\":\"flux-1-dev/lora\","                          \
    "\"ss_base_model_version\":\"flux1\""
#define FLUX_IMAGE "lora_unet_double_blocks_0_img_attn_qkv"
#define FLUX_TEXT "lora_unet_double_blocks_0_txt_attn_qkv"
#define FLUX_LAST "lora_unet_final_layer_adaLN_modulation_1"
#define FLUX_PART "lora_transformer_transformer_blocks_0_attn_"

/* A weight of three layers, all of which need all of down; one of which each
 * needs its own third; and one with its halves swapped. */
static inline void image_fused(image *im)
{
    const float alphas[] = {1.0f, 3.0f, 2.0f};
    float up[6 * 3];

    some_numbers(up, COUNT(up), 5);
    for (size_t i = 0; i < COUNT(up); i++) {
        up[i] = i / 6 == i % 3 ? up[i] + 2.0f : 0.0f;
    }
    image_begin(im, FLUX_BASE);
    image_f32(im, FLUX_IMAGE ".alpha", "", &alphas[0], 1);
    image_some(im, FLUX_IMAGE ".lora_down.weight", "2,4", 8, 1);
    image_some(im, FLUX_IMAGE ".lora_up.weight", "6,2", 12, 2);
    image_f32(im, FLUX_TEXT ".alpha", "", &alphas[1], 1);
    image_some(im, FLUX_TEXT ".lora_down.weight", "3,4", 12, 3);
    image_f32(im, FLUX_TEXT ".lora_up.weight", "6,3", up, COUNT(up));
    image_f32(im, FLUX_LAST ".alpha", "", &alphas[2], 1);
    image_some(im, FLUX_LAST ".lora_down.weight", "2,4", 8, 6);
    image_some(im, FLUX_LAST ".lora_up.weight", "4,2", 8, 7);
    image_end(im);
}

/* Two of three layers, of two ranks and two scales. */
static inline void image_split(image *im)
{
    const float alphas[] = {1.0f, 6.0f};

    image_begin(im, FLUX_BASE);
    image_f32(im, FLUX_PART "to_k.alpha", "", &alphas[0], 1);
    image_some(im, FLUX_PART "to_k.lora_down.weight", "2,4", 8, 1);
    image_some(im, FLUX_PART "to_k.lora_up.weight", "2,2", 4, 2);
    image_f32(im, FLUX_PART "to_v.alpha", "", &alphas[1], 1);
    image_some(im, FLUX_PART "to_v.lora_down.weight", "3,4", 12, 3);
    image_some(im, FLUX_PART "to_v.lora_up.weight", "2,3", 6, 4);
    image_end(im);
}

static inline lora_adapter *open_image(lora_context *context, const image *im)
{
    lora_adapter *adapter = NULL;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_adapter_open_memory(&adapter, context, im->file, im->bytes,
                                      NULL, &error);
    if (status != LORA_OK) {
        fail_msg("%s: %s", error.subject, error.message);
    }
    return adapter;
}

static inline size_t module_at(const lora_adapter *adapter, const char *name)
{
    size_t index;

    assert_int_equal(lora_adapter_find_module(&index, adapter, name, NULL),
                     LORA_OK);
    return index;
}

static inline size_t tensor_at(const lora_adapter *adapter, const char *name)
{
    lora_tensor_info info = {.struct_size = sizeof info};

    for (size_t i = 0; i < lora_adapter_tensor_count(adapter); i++) {
        assert_int_equal(lora_adapter_get_tensor_info(&info, adapter, i, NULL),
                         LORA_OK);
        if (strcmp(info.name, name) == 0) {
            return i;
        }
    }
    fail_msg("no tensor %s", name);
    return SIZE_MAX;
}

/* The whole file of an adapter; free() it. */
static inline unsigned char *saved_bytes(const lora_adapter *adapter,
                                         size_t *out_bytes)
{
    unsigned char *bytes;
    size_t again;

    assert_int_equal(
        lora_adapter_save_memory(NULL, 0, out_bytes, adapter, NULL), LORA_OK);
    bytes = malloc(*out_bytes);
    assert_non_null(bytes);
    assert_int_equal(
        lora_adapter_save_memory(bytes, *out_bytes, &again, adapter, NULL),
        LORA_OK);
    assert_int_equal(again, *out_bytes);
    return bytes;
}

static inline void assert_same_file(const lora_adapter *a,
                                    const lora_adapter *b)
{
    size_t bytes_a;
    size_t bytes_b;
    unsigned char *file_a = saved_bytes(a, &bytes_a);
    unsigned char *file_b = saved_bytes(b, &bytes_b);

    assert_int_equal(bytes_a, bytes_b);
    assert_memory_equal(file_a, file_b, bytes_a);
    free(file_a);
    free(file_b);
}

/* Errors ----------------------------------------------------------------- */

/* A record full of what an earlier failure left behind. */
static inline void error_dirty(lora_error *error)
{
    lora_error_init(error, sizeof *error);
    error->status = LORA_ERROR_INTERNAL;
    error->os_error = 77;
    error->offset = 77;
    memset(error->subject, 'x', sizeof error->subject - 1);
    memset(error->message, 'x', sizeof error->message - 1);
}

/* `subject` NULL: not looked at; so is the offset if it is ANY_OFFSET. */
#define ANY_OFFSET (UINT64_MAX - 1)

static inline void assert_error(const lora_error *error,
                                lora_status got,
                                lora_status expected,
                                uint64_t offset,
                                const char *subject)
{
    if (got != expected) {
        fail_msg("%s instead of %s: %s", lora_status_name(got),
                 lora_status_name(expected), error->message);
    }
    assert_int_equal(error->status, expected);
    if (expected == LORA_OK) {
        assert_string_equal(error->message, "");
        return;
    }
    assert_true(error->message[0] != '\0');
    assert_null(strchr(error->message, '\n'));
    assert_null(memchr(error->message, 'x', 1));
    if (offset != ANY_OFFSET) {
        assert_int_equal(error->offset, offset);
    }
    if (subject != NULL) {
        assert_string_equal(error->subject, subject);
    }
}

/* CHECK(status, offset, subject, call(..., &error)) with a local `error`. */
#define CHECK(expected, offset, subject, call)                                 \
    do {                                                                       \
        error_dirty(&error);                                                   \
        assert_error(&error, (call), (expected), (offset), (subject));         \
    } while (0)

#define CHECK_ARGUMENT(call)                                                   \
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL, call)

/* A value that no call may leave in an output it fails. */
#define JUNK(type) ((type *)(uintptr_t)16)

#endif
