/* An undo file after its magic number, whose checksums are put right. What
 * opens says of every byte of every file once where it comes from, names only
 * files below a folder, and gives pieces of the size they claim or says that
 * they are damaged.
 */
#include "fuzz.h"

#include "op/undo_read.h"

const char fuzz_name[] = "undo";

enum { MOST_BYTES = 1 << 16 };

static uint32_t number_at(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
           (uint32_t)at[3] << 24;
}

/* A file with the sums that its records should have. */
static blob with_sums(const uint8_t *data, size_t bytes)
{
    blob file = {malloc(8 + bytes), 8 + bytes};
    size_t at = 8;

    assert_non_null(file.data);
    memcpy(file.data, "LORAUND1", 8);
    if (bytes > 0) {
        memcpy(file.data + 8, data, bytes);
    }
    while (file.bytes - at >= 40) {
        size_t payload = number_at(file.data + at + 32);
        if (payload > file.bytes - at - 40) {
            break;
        }
        lora__undo_put_u32(
            file.data + at + 36,
            lora__undo_sum(file.data + at, file.data + at + 40, payload));
        at += 40 + payload;
    }
    return file;
}

/* The bytes that are told of, once where they are few enough to be marked. */
static void check_cover(const lora__undo_content *undo)
{
    static unsigned char marks[MOST_BYTES];

    for (size_t f = 0; f < undo->file_count; f++) {
        const uint64_t most = undo->files[f].bytes;
        uint64_t told = 0;

        if (most > MOST_BYTES) {
            continue;
        }
        memset(marks, 0, sizeof marks);
        for (size_t t = 0; t < undo->tensor_count; t++) {
            const lora__undo_tensor_info *tensor = &undo->tensors[t];
            for (uint64_t i = 0; tensor->file == f && i < tensor->bytes; i++) {
                assert_true(tensor->offset + i < most);
                told += !marks[tensor->offset + i]++;
            }
        }
        for (size_t d = 0; d < undo->data_count; d++) {
            const lora__undo_piece *piece = &undo->data[d];
            for (uint64_t i = 0; piece->owner == f && i < piece->bytes; i++) {
                assert_true(piece->offset + i < most);
                told += !marks[piece->offset + i]++;
            }
        }
        assert_true(told == most);
        for (uint64_t i = 0; i < most; i++) {
            assert_true(marks[i] == 1);
        }
    }
}

static void check_names(const lora__undo_content *undo)
{
    for (size_t f = 0; f < undo->file_count; f++) {
        const char *name = undo->files[f].name;
        if (undo->layout == LORA__UNDO_FOLDER) {
            assert_true(name[0] != '\0' && name[0] != '/' && name[0] != '.');
            assert_true(strstr(name, "/.") == NULL);
            assert_true(strpbrk(name, "\\:") == NULL);
        }
    }
}

static void read_pieces(const lora__undo_content *undo,
                        const lora__undo_piece *pieces,
                        size_t count,
                        int starved)
{
    for (size_t i = 0; i < count; i++) {
        const lora__undo_piece *piece = &pieces[i];
        unsigned char *out = malloc(piece->bytes);
        unsigned char *room = malloc(LORA__UNDO_HEAD + piece->payload);
        lora_error error;
        lora_status status;

        assert_non_null(out);
        assert_non_null(room);
        lora_error_init(&error, sizeof error);
        status = lora__undo_read_piece(out, undo, piece, room, &error);
        assert_true(status == LORA_OK || status == LORA_ERROR_FORMAT ||
                    (starved && status == LORA_ERROR_MEMORY));
        assert_true(status == LORA_OK || error.message[0] != '\0');
        free(out);
        free(room);
    }
}

static void check_deltas(const lora__undo_content *undo)
{
    size_t count = 0;

    for (size_t t = 0; t < undo->tensor_count; t++) {
        const lora__undo_tensor_info *tensor = &undo->tensors[t];
        uint64_t at = 0;
        for (size_t i = 0; i < tensor->delta_count; i++, count++) {
            const lora__undo_piece *piece =
                &undo->deltas[tensor->first_delta + i];
            assert_true(piece->owner == t && piece->offset >= at);
            at = piece->offset + piece->bytes;
            assert_true(at <= tensor->bytes);
        }
    }
    assert_true(count == undo->delta_count);
}

/* `starved`: memory may run out. */
static lora_status use(const blob *file, lora_context *context, int starved)
{
    lora__undo_content undo;
    lora_reader reader;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora__reader_open_memory(&reader, context, file->data, file->bytes,
                                      &error);
    if (status == LORA_OK) {
        status = lora__undo_open(&undo, context, &reader, "undo", &error);
    }
    if (status != LORA_OK) {
        assert_true(error.status == status && error.message[0] != '\0');
        return status;
    }
    check_cover(&undo);
    check_names(&undo);
    check_deltas(&undo);
    read_pieces(&undo, undo.data, undo.data_count, starved);
    read_pieces(&undo, undo.deltas, undo.delta_count, starved);
    lora__undo_close(&undo);
    return LORA_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    blob file = with_sums(data, bytes);
    heap memory;
    lora_context *context = make_context(&memory, NULL);
    lora_status status = use(&file, context, 0);

    assert_true(status == LORA_OK || status == LORA_ERROR_FORMAT ||
                status == LORA_ERROR_TRUNCATED || status == LORA_ERROR_LIMIT ||
                status == LORA_ERROR_DUPLICATE);
    assert_true(lora_context_memory_peak(context) <=
                fuzz_memory_most(file.data, file.bytes, 0));
    memory.countdown = bytes % 8;
    memory.lasting = 1;
    (void)use(&file, context, 1);
    memory.countdown = SIZE_MAX;
    end_context(&memory, context);
    free(file.data);
    return 0;
}
