/* What fuzz targets share: everything that can be done with a file. */
#include "fuzz.h"

enum {
    SMALL_ELEMENTS = 1 << 14, /* of what is computed */
    SMALL_MODULES = 32        /* modules that are */
};

/* FNV-1a, of all that was answered. */
static void digest_bytes(uint64_t *digest, const void *data, size_t bytes)
{
    const unsigned char *byte = data;

    for (size_t i = 0; i < bytes; i++) {
        *digest = (*digest ^ byte[i]) * 0x100000001B3u;
    }
}

static void digest_number(uint64_t *digest, uint64_t number)
{
    digest_bytes(digest, &number, sizeof number);
}

static void digest_text(uint64_t *digest, const char *text)
{
    digest_bytes(digest, text, strlen(text) + 1);
}

/* A failure of any call: it must say what it is, and never that the library is
 * at fault or that memory is short. */
static void
digest_status(uint64_t *digest, lora_status status, const lora_error *error)
{
    digest_number(digest, (uint64_t)status);
    if (status == LORA_OK) {
        return;
    }
    assert_int_equal(status, error->status);
    assert_true(status != LORA_ERROR_INTERNAL);
    assert_true(status != LORA_ERROR_MEMORY);
    assert_true(error->message[0] != '\0');
    assert_true(strchr(error->message, '\n') == NULL);
    digest_number(digest, error->offset);
    digest_text(digest, error->subject);
    digest_text(digest, error->message);
}

uint64_t fuzz_memory_most(const uint8_t *data, size_t bytes, size_t config)
{
    /* What grows with the file costs most in a header that is nothing but
     * empty tensors: an entry, a module and its names for some 50 bytes, and
     * tables that double. Deflated records give up to a hundred times the
     * file, which are kept and copied. The rest are buffers of one size. */
    const uint64_t buffers = 8u << 20;
    int zip = bytes > 2 && memcmp(data, "PK", 2) == 0;

    return bytes * (zip ? 264u : 64u) + config * 64u + buffers;
}

/* Using ---------------------------------------------------------------------
 */

static void use_report(uint64_t *digest, lora_report *report)
{
    size_t bytes;
    const char *json = lora_report_to_json(report, &bytes);

    assert_non_null(json);
    assert_int_equal(strlen(json), bytes);
    digest_bytes(digest, json, bytes);
    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        lora_problem problem = {sizeof problem, NULL, NULL, NULL, 0, 0};

        assert_int_equal(lora_report_get_problem(&problem, report, i, NULL),
                         LORA_OK);
        assert_true(problem.code[0] != '\0' && problem.message[0] != '\0');
    }
    lora_report_destroy(report);
}

static void use_tensors(uint64_t *digest, const lora_adapter *adapter)
{
    for (size_t i = 0; i < lora_adapter_tensor_count(adapter); i++) {
        lora_tensor_info info = {.struct_size = sizeof info};
        lora_error error;
        lora_status status;
        void *data;

        assert_int_equal(lora_adapter_get_tensor_info(&info, adapter, i, NULL),
                         LORA_OK);
        digest_text(digest, info.name);
        digest_text(digest, info.role);
        digest_number(digest, info.offset);
        digest_number(digest, info.bytes);
        digest_number(digest, info.module_index);
        digest_number(digest, (uint64_t)info.dtype);
        for (int32_t d = 0; d < info.ndim; d++) {
            digest_number(digest, (uint64_t)info.shape[d]);
        }
        if (info.bytes > SMALL_ELEMENTS * 8) {
            continue;
        }
        data = malloc((size_t)info.bytes + 1);
        assert_non_null(data);
        lora_error_init(&error, sizeof error);
        status = lora_adapter_read_tensor(data, (size_t)info.bytes, adapter, i,
                                          LORA_DTYPE_NONE, &error);
        digest_status(digest, status, &error);
        if (status == LORA_OK) {
            digest_bytes(digest, data, (size_t)info.bytes);
        }
        free(data);
    }
}

static void use_metadata(uint64_t *digest, const lora_adapter *adapter)
{
    const char *before = NULL;

    for (size_t i = 0; i < lora_adapter_metadata_count(adapter); i++) {
        const char *key;
        const char *value;

        assert_int_equal(
            lora_adapter_get_metadata(&key, &value, adapter, i, NULL), LORA_OK);
        assert_true(before == NULL || strcmp(before, key) < 0);
        assert_true(lora_adapter_find_metadata(adapter, key) == value);
        digest_text(digest, key);
        digest_text(digest, value);
        before = key;
    }
}

/* rows * cols of a module, or SIZE_MAX where that is not small. */
static size_t use_elements(const lora_module_info *module)
{
    uint64_t product = 1;

    for (int32_t d = 0; d < module->ndim; d++) {
        assert_true(module->shape[d] >= 0);
        if ((uint64_t)module->shape[d] > SMALL_ELEMENTS) {
            return SIZE_MAX;
        }
        product *= (uint64_t)module->shape[d];
        if (product > SMALL_ELEMENTS) {
            return SIZE_MAX;
        }
    }
    return (size_t)product;
}

lora_status fuzz_delta(uint64_t *digest,
                       const lora_adapter *adapter,
                       size_t index,
                       const lora_module_info *module)
{
    static float buffer[SMALL_ELEMENTS];
    size_t count = use_elements(module);
    int64_t rows = module->ndim > 0 ? module->shape[0] : 1;
    lora_error error;
    lora_status status;

    if (count == SIZE_MAX) {
        return LORA_ERROR_LIMIT;
    }
    lora_error_init(&error, sizeof error);
    status = lora_adapter_delta(buffer, count * sizeof *buffer, adapter, index,
                                LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0, rows,
                                &error);
    digest_status(digest, status, &error);
    assert_true(module->status == LORA_OK || status != LORA_OK);
    for (size_t i = 0; status == LORA_OK && i < count; i++) {
        /* a NaN may have any bits */
        digest_number(digest, buffer[i] == buffer[i]);
        if (buffer[i] == buffer[i]) {
            digest_bytes(digest, &buffer[i], sizeof buffer[i]);
        }
    }
    return status;
}

static void
use_factors(uint64_t *digest, const lora_adapter *adapter, size_t index)
{
    static float up[SMALL_ELEMENTS];
    static float down[SMALL_ELEMENTS];
    int64_t rows, cols, rank;
    double scale;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_adapter_factors(&rows, &cols, &rank, &scale, NULL, NULL,
                                  LORA_DTYPE_F32, adapter, index, &error);
    digest_status(digest, status, &error);
    if (status != LORA_OK) {
        return;
    }
    assert_true(rows >= 0 && cols >= 0 && rank >= 0);
    if (rows > SMALL_ELEMENTS || cols > SMALL_ELEMENTS ||
        rank > SMALL_ELEMENTS || rows * rank > SMALL_ELEMENTS ||
        cols * rank > SMALL_ELEMENTS) {
        return;
    }
    status = lora_adapter_factors(NULL, NULL, NULL, NULL, up, down,
                                  LORA_DTYPE_F32, adapter, index, &error);
    digest_status(digest, status, &error);
}

static void use_modules(uint64_t *digest, const lora_adapter *adapter)
{
    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        lora_module_info module = {.struct_size = sizeof module};

        assert_int_equal(lora_adapter_get_module(&module, adapter, i, NULL),
                         LORA_OK);
        digest_text(digest, module.name);
        digest_text(digest, module.target);
        digest_text(digest, module.kind);
        digest_text(digest, module.dialect);
        digest_number(digest, (uint64_t)module.rank);
        digest_number(digest, (uint64_t)module.status);
        for (int32_t d = 0; d < module.ndim; d++) {
            digest_number(digest, (uint64_t)module.shape[d]);
        }
        if (i < SMALL_MODULES) {
            fuzz_delta(digest, adapter, i, &module);
            use_factors(digest, adapter, i);
        }
    }
}

static void use_reports(uint64_t *digest, const lora_adapter *adapter)
{
    lora_adapter_describe_options describe;
    lora_report *report;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    lora_adapter_describe_options_init(&describe, sizeof describe);
    describe.modules = 1;
    describe.hashes = 1;
    status = lora_adapter_describe(&report, adapter, &describe, &error);
    digest_status(digest, status, &error);
    if (status == LORA_OK) {
        use_report(digest, report);
    }
    status = lora_adapter_check(&report, adapter, NULL, &error);
    digest_status(digest, status, &error);
    if (status == LORA_OK) {
        use_report(digest, report);
    }
}

static void use(uint64_t *digest, const lora_adapter *adapter)
{
    lora_adapter_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_adapter_get_info(&info, adapter, NULL), LORA_OK);
    assert_int_equal(info.tensor_count, lora_adapter_tensor_count(adapter));
    assert_int_equal(info.module_count, lora_adapter_module_count(adapter));
    digest_text(digest, info.container);
    digest_text(digest, info.family);
    digest_number(digest, info.parameters);
    digest_number(digest, info.unknown_count);
    digest_number(digest, info.problem_count);
    use_tensors(digest, adapter);
    use_metadata(digest, adapter);
    use_modules(digest, adapter);
    use_reports(digest, adapter);
}

/* Saving --------------------------------------------------------------------
 */

static blob saved_bytes(const lora_adapter *adapter)
{
    blob saved;
    size_t got;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_adapter_save_memory(NULL, 0, &saved.bytes, adapter, &error);
    if (status != LORA_OK) {
        fail_msg("cannot be saved: %s: %s", lora_status_name(status),
                 error.message);
    }
    saved.data = malloc(saved.bytes);
    assert_non_null(saved.data);
    assert_int_equal(
        lora_adapter_save_memory(saved.data, saved.bytes, &got, adapter, NULL),
        LORA_OK);
    assert_int_equal(got, saved.bytes);
    return saved;
}

/* The index of the tensor of a name; where both adapters have one order, it is
 * found at once. */
static size_t
find_tensor(const lora_adapter *adapter, const char *name, size_t hint)
{
    size_t count = lora_adapter_tensor_count(adapter);

    for (size_t n = 0; n < count; n++) {
        size_t i = (hint + n) % count;
        lora_tensor_info info = {.struct_size = sizeof info};

        assert_int_equal(lora_adapter_get_tensor_info(&info, adapter, i, NULL),
                         LORA_OK);
        if (strcmp(info.name, name) == 0) {
            return i;
        }
    }
    fail_msg("%s is lost", name);
    return 0;
}

static void *tensor_bytes(const lora_adapter *adapter, size_t index, size_t n)
{
    void *data = malloc(n + 1);

    assert_non_null(data);
    assert_int_equal(lora_adapter_read_tensor(data, n, adapter, index,
                                              LORA_DTYPE_NONE, NULL),
                     LORA_OK);
    return data;
}

void fuzz_same_tensors(const lora_adapter *a, const lora_adapter *b)
{
    size_t count = lora_adapter_tensor_count(a);
    size_t at = 0;

    assert_int_equal(lora_adapter_tensor_count(b), count);
    for (size_t i = 0; i < count; i++, at++) {
        lora_tensor_info x = {.struct_size = sizeof x};
        lora_tensor_info y = {.struct_size = sizeof y};
        void *data[2];

        assert_int_equal(lora_adapter_get_tensor_info(&x, a, i, NULL), LORA_OK);
        at = find_tensor(b, x.name, at);
        assert_int_equal(lora_adapter_get_tensor_info(&y, b, at, NULL),
                         LORA_OK);
        assert_int_equal(x.dtype, y.dtype);
        assert_int_equal(x.ndim, y.ndim);
        assert_memory_equal(x.shape, y.shape,
                            (size_t)x.ndim * sizeof x.shape[0]);
        assert_int_equal(x.bytes, y.bytes);
        data[0] = tensor_bytes(a, i, (size_t)x.bytes);
        data[1] = tensor_bytes(b, at, (size_t)y.bytes);
        assert_memory_equal(data[0], data[1], (size_t)x.bytes);
        free(data[0]);
        free(data[1]);
    }
}

/* A configuration that was given is now an entry; all others are as before. */
static void same_metadata(const lora_adapter *a,
                          const lora_adapter *b,
                          const lora_adapter_open_options *options)
{
    static const char key_of_config[] = "lora_adapter_metadata";
    int given = options != NULL && options->config != NULL;
    size_t count = lora_adapter_metadata_count(a);
    int added = given && lora_adapter_find_metadata(a, key_of_config) == NULL;

    assert_int_equal(lora_adapter_metadata_count(b), count + (size_t)added);
    for (size_t i = 0; i < count; i++) {
        const char *key;
        const char *value;
        const char *now;

        assert_int_equal(lora_adapter_get_metadata(&key, &value, a, i, NULL),
                         LORA_OK);
        now = lora_adapter_find_metadata(b, key);
        assert_true(now != NULL);
        assert_true(strcmp(now, value) == 0 ||
                    (given && strcmp(key, key_of_config) == 0));
    }
    if (given) {
        const char *text = lora_adapter_find_metadata(b, key_of_config);

        assert_true(strlen(text) == options->config_bytes &&
                    memcmp(text, options->config, strlen(text)) == 0);
    }
}

/* The modules are the same and change their weights by the same bits; scales
 * may come from a configuration, which a saved file carries with it. */
static void same_modules(const lora_adapter *a, const lora_adapter *b)
{
    size_t count = lora_adapter_module_count(a);

    assert_int_equal(lora_adapter_module_count(b), count);
    for (size_t i = 0; i < count && i < SMALL_MODULES; i++) {
        lora_module_info x = {.struct_size = sizeof x};
        lora_module_info y = {.struct_size = sizeof y};
        uint64_t digest[2] = {0, 0};
        size_t at;
        lora_status status;

        assert_int_equal(lora_adapter_get_module(&x, a, i, NULL), LORA_OK);
        if (lora_adapter_find_module(&at, b, x.name, NULL) != LORA_OK) {
            fail_msg("module %s is lost", x.name);
        }
        assert_int_equal(lora_adapter_get_module(&y, b, at, NULL), LORA_OK);
        if (strcmp(x.name, y.name) != 0) {
            continue; /* the canonical name of another */
        }
        assert_true(strcmp(x.kind, y.kind) == 0);
        assert_int_equal(x.status, y.status);
        assert_int_equal(x.rank, y.rank);
        status = fuzz_delta(&digest[0], a, i, &x);
        if (fuzz_delta(&digest[1], b, at, &y) != status ||
            (status == LORA_OK && digest[0] != digest[1])) {
            fail_msg("saved, %s is another change", x.name);
        }
    }
}

void fuzz_saved(const lora_adapter *adapter,
                lora_context *context,
                const lora_adapter_open_options *options)
{
    blob once = saved_bytes(adapter);
    blob twice;
    lora_adapter *again;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_adapter_open_memory(&again, context, once.data, once.bytes,
                                      NULL, &error);
    if (status != LORA_OK) {
        fail_msg("what was saved does not open: %s: %s",
                 lora_status_name(status), error.message);
    }
    fuzz_same_tensors(adapter, again);
    same_metadata(adapter, again, options);
    same_modules(adapter, again);
    twice = saved_bytes(again);
    assert_int_equal(twice.bytes, once.bytes);
    assert_memory_equal(twice.data, once.data, once.bytes);
    lora_adapter_destroy(again);
    free(once.data);
    free(twice.data);
}

/* Opening -------------------------------------------------------------------
 */

/* A reader on memory that cannot lend it. */
static lora_status reader_size(void *user, uint64_t *out_bytes)
{
    const blob *b = user;

    *out_bytes = b->bytes;
    return LORA_OK;
}

static lora_status reader_read(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    const blob *b = user;
    size_t room = offset < b->bytes ? b->bytes - (size_t)offset : 0;

    *out_got = bytes < room ? bytes : room;
    if (*out_got > 0) {
        memcpy(buffer, b->data + offset, *out_got);
    }
    return LORA_OK;
}

static lora_status open_and_use(uint64_t *digest,
                                const blob *file,
                                const lora_adapter_open_options *options,
                                lora_context *context,
                                int by_reader)
{
    lora_reader reader = {sizeof reader, (void *)(uintptr_t)file,
                          reader_size,   reader_read,
                          NULL,          NULL};
    lora_adapter *adapter;
    lora_error error;
    lora_status status;

    *digest = 0xCBF29CE484222325u;
    lora_error_init(&error, sizeof error);
    status = by_reader ? lora_adapter_open_reader(&adapter, context, &reader,
                                                  options, &error)
                       : lora_adapter_open_memory(&adapter, context, file->data,
                                                  file->bytes, options, &error);
    digest_status(digest, status, &error);
    assert_true((adapter != NULL) == (status == LORA_OK));
    if (status == LORA_OK) {
        use(digest, adapter);
        if (!by_reader) {
            fuzz_saved(adapter, context, options);
        }
        lora_adapter_destroy(adapter);
    }
    assert_int_equal(lora_context_memory_live(context), 0);
    return status;
}

/* Open with one allocation failing, which one the content says. */
static void open_without_memory(const blob *file,
                                const lora_adapter_open_options *options,
                                lora_context *context,
                                heap *memory,
                                uint64_t digest,
                                lora_status expected)
{
    lora_adapter *adapter;
    lora_status status;

    memory->countdown = (size_t)(digest % 64);
    memory->lasting = (digest & 64) != 0;
    status = lora_adapter_open_memory(&adapter, context, file->data,
                                      file->bytes, options, NULL);
    memory->countdown = SIZE_MAX;
    assert_true(status == LORA_ERROR_MEMORY || status == expected);
    assert_true((adapter != NULL) == (status == LORA_OK));
    lora_adapter_destroy(adapter);
    assert_int_equal(lora_context_memory_live(context), 0);
}

lora_status fuzz_adapter(const uint8_t *data,
                         size_t bytes,
                         const lora_adapter_open_options *options)
{
    const blob file = {(unsigned char *)(uintptr_t)data, bytes};
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context *context;
    heap memory;
    uint64_t digest[2];
    lora_status status;

    limits.memory_bytes = fuzz_memory_most(
        data, bytes, options == NULL ? 0 : options->config_bytes);
    context = make_context(&memory, &limits);
    status = open_and_use(&digest[0], &file, options, context, 0);
    assert_int_equal(open_and_use(&digest[1], &file, options, context, 1),
                     status);
    assert_int_equal(digest[0], digest[1]);
    open_without_memory(&file, options, context, &memory, digest[0], status);
    end_context(&memory, context);
    return status;
}

blob fuzz_safetensors(const uint8_t *data, size_t bytes)
{
    const uint8_t *nul = bytes > 0 ? memchr(data, 0, bytes) : NULL;
    size_t header = nul == NULL ? bytes : (size_t)(nul - data);
    size_t rest = nul == NULL ? 0 : bytes - header - 1;
    blob file = {malloc(8 + header + rest), 8 + header + rest};

    assert_non_null(file.data);
    put_length(file.data, header);
    memcpy(file.data + 8, data == NULL ? (const uint8_t *)"" : data, header);
    if (rest > 0) {
        memcpy(file.data + 8 + header, nul + 1, rest);
    }
    return file;
}
