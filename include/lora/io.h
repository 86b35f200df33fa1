/* Readers and writers: where bytes come from and go to.
 *
 * The library reads by offset and writes in sequence, through two tables of
 * functions that a host may fill in: an engine archive, a download, a memory
 * block. Paths are UTF-8; the functions that take a path use readers and
 * writers of their own.
 *
 * Threads: read_at is called from several threads at once when the context
 * has an executor or more than one thread. A writer is used by one thread.
 */
#ifndef LORA_IO_H
#define LORA_IO_H

#include <lora/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Reads by offset. The first four members are required. */
typedef struct lora_reader {
    size_t struct_size;
    void *user;

    /** Size of the input in bytes, constant while it is in use. */
    lora_status (*size)(void *user, uint64_t *out_bytes);

    /** Read up to `bytes` at `offset`; fewer only at the end of the input. */
    lora_status (*read_at)(void *user,
                           uint64_t offset,
                           void *buffer,
                           size_t bytes,
                           size_t *out_got);

    /** Lend memory holding the range, valid until destroy; may be NULL. Called
     *  from several threads, and repeatedly. Where it fails, read_at is used.
     */
    lora_status (*map)(void *user,
                       uint64_t offset,
                       uint64_t bytes,
                       const void **out_data);

    /** Called once, when the last handle that reads from here is gone. May be
     *  NULL. */
    void (*destroy)(void *user);
} lora_reader;

/** Takes bytes in sequence. All members are required but abort. */
typedef struct lora_writer {
    size_t struct_size;
    void *user;

    lora_status (*write)(void *user, const void *data, size_t bytes);

    /** Everything was written: make it last. Called at most once. */
    lora_status (*finish)(void *user);

    /** Something failed: leave nothing behind. Called instead of finish, or
     *  after a finish that failed. */
    void (*abort)(void *user);
} lora_writer;

#ifdef __cplusplus
}
#endif

#endif
