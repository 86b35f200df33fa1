/* Pickles, alone and as the object of a checkpoint of torch: the archive
 * around it is made here, so that its checksums are always right.
 */
#include "fuzz.h"

#include "format/pickle.h"
#include "unit/torch_files.h"

const char fuzz_name[] = "pickle";

enum { MOST_DEPTH = 32, MOST_VALUES = 4096 };

/* Look at every value, as far as it is worth: they may be shared and within
 * themselves. */
static void
walk(const lora__pickle_value *value, unsigned depth, unsigned *budget)
{
    lora__pickle_cursor cursor = lora__pickle_items_of(value);
    const lora__pickle_value *item;

    assert_true(value->type > LORA__PICKLE_MARK &&
                value->type <= LORA__PICKLE_OBJECT);
    if (value->type == LORA__PICKLE_TEXT) {
        unsigned sum = 0;

        for (uint32_t i = 0; i < value->text_bytes; i++) {
            sum += (unsigned char)value->as.text[i];
        }
        assert_true(sum <= 255u * value->text_bytes);
    }
    while (depth > 0 && *budget > 0 &&
           (item = lora__pickle_next(&cursor)) != NULL) {
        --*budget;
        walk(item, depth - 1, budget);
    }
}

static void read_alone(const uint8_t *data, size_t size)
{
    unsigned budget = MOST_VALUES;
    lora_limits limits = {.struct_size = sizeof limits};
    heap memory;
    lora_context *context;
    lora__arena arena;
    lora__pickle pickle;
    lora_error error;
    lora_status status;

    /* a node and its items for one byte, and a stack that doubles */
    limits.memory_bytes = (1u << 20) + 256 * size;
    context = make_context(&memory, &limits);
    lora__arena_init(&arena, context);
    lora_error_init(&error, sizeof error);
    status = lora__pickle_read(&pickle, &arena, data, size, 0, "", &error);
    assert_int_equal(status, error.status);
    assert_true(status != LORA_ERROR_MEMORY && status != LORA_ERROR_INTERNAL);
    if (status == LORA_OK) {
        assert_true(pickle.bytes > 0 && pickle.bytes <= size);
        walk(&pickle.root, MOST_DEPTH, &budget);
        walk(&pickle.persistent, MOST_DEPTH, &budget);
    }
    lora__arena_destroy(&arena);
    end_context(&memory, context);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char storage[256];
    zip_item items[] = {
        {"a/data.pkl", data, size, 0},
        {"a/byteorder", "little", 6, 0},
        {"a/data/0", storage, sizeof storage, 0},
        {"a/data/1", storage, 16, 0},
        {"a/version", "3\n", 2, 0},
    };
    blob file;

    for (size_t i = 0; i < sizeof storage; i++) {
        storage[i] = (unsigned char)(i * 31);
    }
    read_alone(data, size);
    file = make_zip(items, sizeof items / sizeof *items, 0);
    fuzz_adapter(file.data, file.bytes, NULL);
    free(file.data);
    return 0;
}
