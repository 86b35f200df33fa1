/* A container: named tensors and metadata, wherever they come from.
 *
 * Immutable and reference-counted. A tensor's data is read through the
 * container's reader, lies in memory, belongs to another container (a result
 * that passes tensors through keeps its source alive), or is derived from such
 * data whenever it is read (so that another number type takes no memory).
 */
#ifndef LORA__FORMAT_CONTAINER_H
#define LORA__FORMAT_CONTAINER_H

#include "core/arena.h"
#include "core/buffer.h"
#include "core/map.h"
#include "platform/file.h"

#include <lora/io.h>
#include <lora/tensor.h>

typedef struct lora__container lora__container;

typedef struct lora__entry lora__entry;

/* Make some bytes of a derived tensor from those of its parent. */
typedef lora_status (*lora__derive_fn)(const lora__entry *entry,
                                       uint64_t offset,
                                       void *buffer,
                                       size_t bytes,
                                       lora_error *error);

/* Compare a checksum over the bytes of an entry, if that was not done yet. */
typedef lora_status (*lora__verify_fn)(const lora__entry *entry,
                                       lora_error *error);

struct lora__entry {
    const char *name; /* UTF-8, no NUL inside */
    size_t name_bytes;
    lora_dtype dtype;
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS];
    uint64_t bytes;
    uint64_t elements;
    uint64_t offset;         /* in the reader's input */
    const void *data;        /* or NULL: see above */
    lora__container *parent; /* or NULL; each entry holds a reference */
    size_t parent_index;
    size_t owned_bytes;     /* not 0: data came from lora__alloc(context,
                             * owned_bytes, LORA__ALIGN_NUMERIC), freed with us */
    lora__derive_fn derive; /* or NULL: the parent's bytes are ours */
    double factor;          /* for derive */
    const char *quantised;  /* its type in the file, if that has fewer bits */
    void *source;           /* for verify and derive: the maker's own */
    size_t source_bytes;    /* not 0: source came from lora__alloc(context,
                             * source_bytes, LORA__ALIGN), freed with us */
};

typedef struct lora__metadata {
    const char *key;
    const char *value;
} lora__metadata;

struct lora__container {
    uint32_t references;   /* atomic */
    lora_context *context; /* holds a reference */
    lora__arena arena;
    const char *format; /* "safetensors", "torch zip", "gguf", "memory" ... */
    const char *path;   /* "" if none */
    lora_reader reader; /* read_at NULL if none */
    uint64_t file_bytes;
    uint64_t data_offset;   /* where tensor data begin */
    lora__verify_fn verify; /* or NULL; before bytes are read or lent */
    int ones_lost;          /* shapes may lack their first dimensions of 1 */
    lora__entry *entries;   /* in file order */
    size_t entry_count;
    size_t entry_capacity;
    lora__metadata *metadata; /* sorted by key, bytewise */
    size_t metadata_count;
    const char *metadata_conflict; /* a key that the files of an index say
                                    * different things of, or NULL */
    lora__map by_name;
};

/* An empty container with one reference, for its maker to fill. `format` is
 * a static string, `path` is copied. */
LORA_PRIVATE lora_status lora__container_create(lora__container **out,
                                                lora_context *context,
                                                const char *format,
                                                const char *path,
                                                lora_error *error);

/* Open whatever the reader holds: sniffs the format. The reader is owned from
 * here on, also on failure. `path` is for messages and may be "". */
LORA_PRIVATE lora_status lora__container_open(lora__container **out,
                                              lora_context *context,
                                              const lora_reader *reader,
                                              const char *path,
                                              lora_error *error);

/* Room for so many entries, which may move. */
LORA_PRIVATE lora_status lora__container_reserve(lora__container *container,
                                                 size_t count,
                                                 lora_error *error);

/* One more entry at the end, zeroed. Those that are there may move. */
LORA_PRIVATE lora_status lora__container_add(lora__entry **out,
                                             lora__container *container,
                                             lora_error *error);

/* Give up what an entry owns or holds: its data, its source, its parent. */
LORA_PRIVATE void lora__entry_release(const lora__entry *entry,
                                      lora_context *context);

/* Releasing NULL does nothing. */
LORA_PRIVATE void lora__container_retain(lora__container *container);
LORA_PRIVATE void lora__container_release(lora__container *container);

/* Follow an entry to the container that has its bytes, or derives them, and
 * which *container is then. */
LORA_PRIVATE const lora__entry *
lora__container_resolve(const lora__container **container, size_t index);

/* Copy a range of the stored bytes of an entry: RANGE if it has no such
 * range, TRUNCATED if the file has become shorter. */
LORA_PRIVATE lora_status lora__container_read(const lora__container *container,
                                              size_t index,
                                              uint64_t offset,
                                              void *buffer,
                                              size_t bytes,
                                              lora_error *error);

/* The stored bytes in place, unaligned, or NULL where they are not in memory
 * as they are; also where there are none. */
LORA_PRIVATE const void *lora__container_view(const lora__container *container,
                                              size_t index);

/* The value, or NULL. */
LORA_PRIVATE const char *
lora__container_metadata(const lora__container *container, const char *key);

/* Sort by key, bytewise; of equal ones the one at the lower address first. */
LORA_PRIVATE void lora__metadata_sort(lora__metadata *items, size_t count);

/* What the first bytes of a file that is not a safetensors file say it is,
 * and what to do; NULL if they say nothing. 512 bytes are enough. */
LORA_PRIVATE const char *lora__sniff(const unsigned char *head, size_t bytes);

/* Readers on files and memory. With `map` 1 a file is mapped if the system
 * can; read_at always reads the file itself, as a file cut short under a map
 * raises SIGBUS. A path is read through links; folders, pipes and devices are
 * refused. */
LORA_PRIVATE lora_status lora__reader_open_file(lora_reader *out,
                                                lora_context *context,
                                                const char *path,
                                                int map,
                                                lora_error *error);

/* One on an open file of so many bytes, which is the reader's from here on; on
 * failure it stays the caller's. */
LORA_PRIVATE lora_status lora__reader_take_file(lora_reader *out,
                                                lora_context *context,
                                                lora__file file,
                                                uint64_t bytes,
                                                lora_error *error);
LORA_PRIVATE lora_status lora__reader_open_memory(lora_reader *out,
                                                  lora_context *context,
                                                  const void *data,
                                                  size_t bytes,
                                                  lora_error *error);

/* Read exactly `bytes` at `offset`, over as many calls as the reader likes:
 * TRUNCATED if it ends first, else what the reader failed with. */
LORA_PRIVATE lora_status lora__reader_read(const lora_reader *reader,
                                           uint64_t offset,
                                           void *buffer,
                                           size_t bytes,
                                           const char *subject,
                                           lora_error *error);

/* Writer on a file, which is made as output.h says: finish flushes and renames
 * it, abort removes it. */
LORA_PRIVATE lora_status lora__writer_open_file(lora_writer *out,
                                                lora_context *context,
                                                const char *path,
                                                int overwrite,
                                                lora_error *error);

/* Overwrite the beginning of a file, which is `before`, by `after`, both of
 * `bytes`: what differs is written with one write and flushed; if that fails,
 * what was there is put back. *out_done is 0, and nothing happened, where the
 * path is not the one name of a file. IO if the file is not to be written to,
 * or is not, of `file_bytes`, what was read of it. With dry_run 1 nothing is
 * written. */
LORA_PRIVATE lora_status lora__patch_file(int *out_done,
                                          const char *path,
                                          uint64_t file_bytes,
                                          const void *before,
                                          const void *after,
                                          size_t bytes,
                                          int dry_run,
                                          lora_error *error);

/* The writer's functions with a full error. lora__writer_finish calls abort
 * if finish failed. */
LORA_PRIVATE lora_status lora__writer_write(const lora_writer *writer,
                                            const void *data,
                                            size_t bytes,
                                            lora_error *error);
LORA_PRIVATE lora_status lora__writer_finish(const lora_writer *writer,
                                             lora_error *error);
LORA_PRIVATE void lora__writer_abort(const lora_writer *writer);

/* safetensors, format/safetensors_{read,write}.c */

/* The largest header the format allows. */
#define LORA__SAFETENSORS_MAX_HEADER 100000000u

/* Fill a new container from its reader, whose first bytes (at least 8) are
 * `head` and whose size is in file_bytes. */
LORA_PRIVATE lora_status lora__safetensors_read(lora__container *container,
                                                const unsigned char *head,
                                                lora_error *error);

/* Elements and bytes of a tensor. Returns NULL, or what is wrong with the
 * shape. Dimensions of 0 do not hide an overflow of the others. */
LORA_PRIVATE const char *lora__safetensors_size(uint64_t *out_elements,
                                                uint64_t *out_bytes,
                                                lora_dtype dtype,
                                                int32_t ndim,
                                                const int64_t *shape);

/* A tensor to be written. `write` produces its bytes in order by calling
 * sink(sink_user, data, bytes) until all `bytes` are out. */
typedef lora_status (*lora__sink_fn)(void *sink_user,
                                     const void *data,
                                     size_t bytes,
                                     lora_error *error);

typedef struct lora__out_tensor {
    const char *name;
    lora_dtype dtype;
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS];
    uint64_t bytes;
    size_t id; /* the caller's: which tensor this is */
} lora__out_tensor;

typedef lora_status (*lora__produce_fn)(void *user,
                                        size_t id,
                                        lora__sink_fn sink,
                                        void *sink_user,
                                        lora_error *error);

/* Sort into the reference writer's order: dtype from the highest to the
 * lowest, then name. */
LORA_PRIVATE void lora__safetensors_sort(lora__out_tensor *tensors,
                                         size_t count);

/* The tensors of a container as the writer wants them, in the container's
 * order; `id` is the entry's index. */
LORA_PRIVATE lora_status
lora__safetensors_list(lora__out_tensor **out,
                       lora__arena *arena,
                       const lora__container *container,
                       lora_error *error);

/* Put the first 8 + N bytes of a file whose data are those of `tensors`, in
 * the order given, into an empty buffer; *out_data_bytes is the size of the
 * data. N is just `least_bytes` if the text fits into that, else what the text
 * needs, rounded up to 8. `metadata` NULL leaves the object out, which differs
 * from an empty one. Refused is what lora__safetensors_write() refuses. */
LORA_PRIVATE lora_status
lora__safetensors_put_header(lora__buffer *out,
                             uint64_t *out_data_bytes,
                             const lora__out_tensor *tensors,
                             size_t count,
                             const lora__metadata *metadata,
                             size_t metadata_count,
                             uint64_t least_bytes,
                             lora_error *error);

/* Write a whole file: sorts `tensors` (in place), writes header and
 * data, calls finish or abort on the writer. The bytes depend on nothing but
 * the arguments. Refused: the same name or metadata key twice (DUPLICATE),
 * names that are not UTF-8 or are "__metadata__" (KEY), bytes that do not fit
 * the shape (SHAPE), a header over the format's limit (LIMIT). */
LORA_PRIVATE lora_status lora__safetensors_write(lora_context *context,
                                                 const lora_writer *writer,
                                                 lora__out_tensor *tensors,
                                                 size_t count,
                                                 const lora__metadata *metadata,
                                                 size_t metadata_count,
                                                 lora__produce_fn produce,
                                                 void *user,
                                                 lora_error *error);

/* Size of the file that lora__safetensors_write() would write. */
LORA_PRIVATE lora_status
lora__safetensors_measure(uint64_t *out_bytes,
                          lora_context *context,
                          lora__out_tensor *tensors,
                          size_t count,
                          const lora__metadata *metadata,
                          size_t metadata_count,
                          lora_error *error);

#endif
