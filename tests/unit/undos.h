/* A fusing of a few lines, with an undo file, for the tests of undo files: what
 * comes back is compared with the bytes of the files that there were.
 */
#ifndef TEST_UNDOS_H
#define TEST_UNDOS_H

#include "checkpoints.h"

#include "format/sha256.h"
#include "model/model.h"
#include "op/undo_read.h"

#include <lora/adapter.h>
#include <lora/fuse.h>

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static heap memory;
static lora_context *context;
static char folder[80];

/* Folders ------------------------------------------------------------------
 */

static inline const char *in_folder(const char *name)
{
    static char paths[32][256];
    static unsigned turn;
    char *path = paths[turn++ % 32];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline void empty(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char inside[1024];
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 ||
            strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        snprintf(inside, sizeof inside, "%.500s/%.255s", path, entry->d_name);
        assert_int_equal(lstat(inside, &info), 0);
        if (S_ISDIR(info.st_mode)) {
            empty(inside);
        }
        assert_int_equal(remove(inside), 0);
    }
    closedir(dir);
}

/* Things in the folder. */
static inline size_t count_files(void)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    size_t count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        count +=
            strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(dir);
    return count;
}

static inline int begin(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof folder, "%.40s/lora-undo-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    context = make_context(&memory, NULL);
    return mkdtemp(folder) == NULL;
}

static inline int end(void **state)
{
    (void)state;
    empty(folder);
    end_context(&memory, context);
    return rmdir(folder);
}

static inline void put_bytes(const char *path, const void *data, size_t count)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static inline blob load(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    blob b;

    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    b.bytes = (size_t)info.st_size;
    b.data = malloc(b.bytes + 1);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.bytes, file), b.bytes);
    fclose(file);
    return b;
}

static inline void check_same(const char *path, const char *other)
{
    blob a = load(path);
    blob b = load(other);

    assert_int_equal(a.bytes, b.bytes);
    assert_memory_equal(a.data, b.data, a.bytes);
    free(a.data);
    free(b.data);
}

/* Numbers ------------------------------------------------------------------
 */

/* About N(0, std): the sum of twelve even ones, of xorshift. */
static inline float normal(uint64_t *seed, double std)
{
    double sum = -6;

    for (int i = 0; i < 12; i++) {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        sum += (double)(*seed >> 11) / 9007199254740992.0;
    }
    return (float)(sum * std);
}

/* So many of them, in a type of number; free them. */
static inline void *
normals(lora_dtype dtype, size_t count, double std, uint64_t seed)
{
    const size_t size = lora_dtype_bits(dtype) / 8;
    float *numbers = malloc(count * sizeof *numbers + 1);
    void *out = malloc(count * size + 1);

    assert_non_null(numbers);
    assert_non_null(out);
    for (size_t i = 0; i < count; i++) {
        numbers[i] = normal(&seed, std);
    }
    assert_int_equal(
        lora_tensor_convert(out, dtype, numbers, LORA_DTYPE_F32, count, NULL),
        LORA_OK);
    free(numbers);
    return out;
}

/* Models and adapters ------------------------------------------------------
 */

/* A model of these at a path. */
static inline void
put_model(const char *path, const weight *weights, size_t count)
{
    blob b = make_weights(weights, count);

    put_bytes(path, b.data, b.bytes);
    free(b.data);
}

typedef struct fused_by {
    lora_adapter *adapter;
    blob file;
} fused_by;

/* An adapter of the weights of "blocks.0.a" and "blocks.0.b". */
static inline fused_by
make_adapter(int64_t rows, int64_t columns, int64_t rank, uint64_t seed)
{
    weight factors[] = {
        {"blocks.0.a.lora_A.weight", LORA_DTYPE_F32, 2, {rank, columns}, NULL},
        {"blocks.0.a.lora_B.weight", LORA_DTYPE_F32, 2, {rows, rank}, NULL},
        {"blocks.0.b.lora_A.weight", LORA_DTYPE_F32, 2, {rank, columns}, NULL},
        {"blocks.0.b.lora_B.weight", LORA_DTYPE_F32, 2, {rows, rank}, NULL},
    };
    fused_by made;

    for (size_t i = 0; i < COUNT(factors); i++) {
        factors[i].data = normals(LORA_DTYPE_F32, weight_bytes(&factors[i]) / 4,
                                  0.02, seed + i);
    }
    made.file = make_weights(factors, COUNT(factors));
    assert_int_equal(lora_adapter_open_memory(&made.adapter, context,
                                              made.file.data, made.file.bytes,
                                              NULL, NULL),
                     LORA_OK);
    for (size_t i = 0; i < COUNT(factors); i++) {
        free((void *)(uintptr_t)factors[i].data);
    }
    return made;
}

static inline void end_adapter(fused_by *by)
{
    lora_adapter_destroy(by->adapter);
    free(by->file.data);
}

/* Fusing -------------------------------------------------------------------
 */

typedef struct fusing {
    lora__checkpoint *model;
    lora__bind bind;
    lora__patch patch;
    lora__patched patched; /* reads the model */
    lora__patched zeros;   /* reads zeros */
    const lora__kernels *kernels;
    lora__undo *undo;
    int mode;
    uint64_t changed; /* bytes */
} fusing;

static inline lora_status fusing_zeros(float *out,
                                       void *user,
                                       size_t tensor,
                                       uint64_t first,
                                       size_t count,
                                       lora_error *error)
{
    const fusing *f = user;
    const lora__entry *entry = f->model->tensors[tensor].entry;

    (void)first;
    (void)error;
    memset(out, 0,
           count * (size_t)(entry->elements / (uint64_t)entry->shape[0]) *
               sizeof *out);
    return LORA_OK;
}

/* Rows of a tensor from a patcher. */
static inline lora_status fusing_rows(float *out,
                                      const lora__patched *patched,
                                      size_t tensor,
                                      size_t rows,
                                      lora_error *error)
{
    lora__patcher *patcher;
    lora_status status;

    TRY(lora__patcher_open(&patcher, patched, tensor, error));
    status = lora__patcher_read(out, patcher, 0, rows, error);
    lora__patcher_close(patcher);
    return status;
}

/* Fuse one tensor into `after`, which has the bytes before, and keep the
 * difference: the second half first, in pieces that are no rows. */
static inline lora_status fusing_change(fusing *f,
                                        size_t tensor,
                                        const unsigned char *before,
                                        unsigned char *after,
                                        lora_error *error)
{
    const lora__entry *entry = f->model->tensors[tensor].entry;
    const size_t count = (size_t)entry->elements;
    const size_t total = (size_t)entry->bytes;
    const size_t size = total / count;
    const size_t cut = (count / 2 + 1) * size;
    const size_t rows = (size_t)entry->shape[0];
    float *numbers = malloc(count * sizeof *numbers);
    unsigned char *predicted = NULL;
    float scale = 1;
    lora_status status;

    assert_non_null(numbers);
    TRY_OR_DONE(lora__checkpoint_scale(&scale, f->model, tensor, error));
    TRY_OR_DONE(fusing_rows(numbers, &f->patched, tensor, rows, error));
    for (size_t i = 0; i < count; i++) {
        numbers[i] /= scale;
    }
    TRY_OR_DONE(lora__convert_from_f32(after, entry->dtype, numbers, count,
                                       f->kernels, error));
    if (f->mode == LORA__UNDO_PREDICT &&
        lora__patched_adds(&f->patched, tensor)) {
        predicted = malloc(total);
        assert_non_null(predicted);
        TRY_OR_DONE(fusing_rows(numbers, &f->zeros, tensor, rows, error));
        TRY_OR_DONE(lora__undo_predict(predicted, after, numbers, entry->dtype,
                                       scale, count, f->kernels, error));
    }
    f->changed += total;
    TRY_OR_DONE(lora__undo_put(f->undo, tensor, cut, before + cut, after + cut,
                               predicted == NULL ? NULL : predicted + cut,
                               total - cut, error));
    status = lora__undo_put(f->undo, tensor, 0, before, after, predicted, cut,
                            error);
done:
    free(predicted);
    free(numbers);
    return status;
}

static inline void fusing_hash(uint8_t out[32], const void *data, size_t count)
{
    lora__sha256 sha;

    lora__sha256_init(&sha, 0);
    lora__sha256_update(&sha, data, count);
    lora__sha256_finish(&sha, out);
}

/* All tensors; `files` are those that lie on the disk, which are changed. */
static inline lora_status
fusing_tensors(fusing *f, const char *const *paths, blob *files, lora_error *e)
{
    for (size_t t = 0; t < f->model->tensor_count; t++) {
        const lora__undo_place place = lora__undo_find_place(f->model, t);
        const size_t total = (size_t)place.bytes;
        uint8_t was[32];
        uint8_t is[32];
        size_t file = 0;
        unsigned char *at;
        unsigned char *before;
        lora_status status = LORA_OK;

        while (strcmp(paths[file], place.container->path) != 0) {
            file++;
        }
        at = files[file].data + place.offset;
        before = malloc(total + 1);
        assert_non_null(before);
        memcpy(before, at, total);
        if (lora__patched_changes(&f->patched, t)) {
            status = fusing_change(f, t, before, at, e);
        }
        fusing_hash(was, before, total);
        fusing_hash(is, at, total);
        free(before);
        TRY(status);
        TRY(lora__undo_hash(f->undo, t, was, is, e));
    }
    return LORA_OK;
}

static inline lora_status fusing_begin(fusing *f,
                                       const lora_adapter *adapter,
                                       double strength,
                                       const char *undo,
                                       lora_error *error)
{
    TRY(lora__bind_create(&f->bind, adapter, f->model, error));
    f->kernels = lora__kernels_get(0);
    f->patch.bind = &f->bind;
    f->patch.strength.model = f->patch.strength.text_encoder = strength;
    f->patched.model = f->model;
    f->patched.patches = &f->patch;
    f->patched.patch_count = 1;
    f->zeros = f->patched;
    f->zeros.source = fusing_zeros;
    f->zeros.source_user = f;
    return lora__undo_create(&f->undo, &f->patched, undo, f->mode, 0, error);
}

/* Fuse an adapter into the model at `model`, of these files, and write files of
 * the same bytes but for the tensors to `outputs`. */
static inline lora_status fuse(const char *model,
                               const char *const *paths,
                               const char *const *outputs,
                               size_t count,
                               const lora_adapter *adapter,
                               double strength,
                               const char *undo,
                               int mode,
                               uint64_t *out_changed,
                               lora_error *error)
{
    fusing f;
    blob files[4];
    lora_status status;

    memset(&f, 0, sizeof f);
    f.mode = mode;
    for (size_t i = 0; i < count; i++) {
        files[i] = load(paths[i]);
    }
    TRY_OR_DONE(lora__checkpoint_open(&f.model, context, model, 0, error));
    TRY_OR_DONE(fusing_begin(&f, adapter, strength, undo, error));
    TRY_OR_DONE(fusing_tensors(&f, paths, files, error));
    status = lora__undo_finish(f.undo, error);
    f.undo = NULL;
done:
    for (size_t i = 0; i < count; i++) {
        if (status == LORA_OK) {
            put_bytes(outputs[i], files[i].data, files[i].bytes);
        }
        free(files[i].data);
    }
    lora__undo_abort(f.undo);
    lora__bind_destroy(&f.bind);
    lora__checkpoint_release(f.model);
    if (out_changed != NULL) {
        *out_changed = f.changed;
    }
    return status;
}

/* The same of a model of one file. */
static inline lora_status fuse_one(const char *model,
                                   const char *output,
                                   const lora_adapter *adapter,
                                   double strength,
                                   const char *undo,
                                   int mode,
                                   uint64_t *out_changed)
{
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = fuse(model, &model, &output, 1, adapter, strength, undo, mode,
                  out_changed, &error);
    if (status != LORA_OK && status != LORA_ERROR_MEMORY &&
        status != LORA_ERROR_IO) {
        fail_msg("%s: %s", error.subject, error.message);
    }
    return status;
}

/* Unfuse, with an adapter or none. */
static inline lora_status unfuse(const char *fused,
                                 const char *undo,
                                 const char *output,
                                 lora_adapter *adapter,
                                 double strength,
                                 uint32_t flags,
                                 lora_error *error)
{
    const lora_strength strengths[] = {{strength, strength}};
    lora_model_unfuse_options options;
    lora_model model;
    lora_binding binding;
    const lora_binding *bindings[] = {&binding};
    lora_report *report = NULL;
    lora_status status;

    memset(&model, 0, sizeof model);
    memset(&binding, 0, sizeof binding);
    lora_model_unfuse_options_init(&options, sizeof options);
    options.flags = flags;
    lora_error_init(error, sizeof *error);
    if (adapter != NULL) {
        TRY_OR_DONE(
            lora__checkpoint_open(&model.checkpoint, context, fused, 0, error));
        binding.model = &model;
        TRY_OR_DONE(
            lora__bind_create(&binding.bind, adapter, model.checkpoint, error));
    }
    status = lora_model_unfuse(&report, context, fused, undo, output, bindings,
                               strengths, adapter != NULL, &options, error);
    assert_int_equal(status == LORA_OK, report != NULL);
done:
    lora_report_destroy(report);
    lora__bind_destroy(&binding.bind);
    lora__checkpoint_release(model.checkpoint);
    return status;
}

#endif
