/* Editing the metadata of a file, leaving its tensors alone.
 *
 * Works on any sound safetensors file, adapter or not. The data of the tensors
 * are not looked at and keep their bytes and their order, so that hashes of
 * them (AutoV3, content id) stay. Hashes that stand in the metadata are
 * entries like others: they are not brought up to date.
 */
#ifndef LORA_METADATA_H
#define LORA_METADATA_H

#include <lora/context.h>

#ifdef __cplusplus
extern "C" {
#endif

/** One change. Passed in arrays: this struct will not grow. */
typedef struct lora_metadata_change {
    const char *key;   /* UTF-8; to be removed: a pattern, in which '*' is any
                        * run of bytes and '?' one byte */
    const char *value; /* UTF-8; NULL removes every entry that matches */
} lora_metadata_change;

typedef struct lora_metadata_edit_options {
    size_t struct_size;
    const char *output;  /* NULL: the file itself; else written anew to here */
    uint64_t room_bytes; /* at least so much to leave free in a header that is
                          * written anew, for later edits in place */
    uint32_t overwrite;  /* 1: replace an existing output */
    uint32_t rewrite;    /* 1: never write within the file; see below */
    uint32_t dry_run;    /* 1: everything but writing */
    uint32_t reserved1;
} lora_metadata_edit_options;

/** What an edit did. */
typedef struct lora_metadata_edit {
    size_t struct_size;
    uint64_t bytes;      /* size of the file afterwards */
    uint64_t room_bytes; /* free in its header */
    uint64_t added;      /* entries with a new key */
    uint64_t replaced;   /* entries with another value than before */
    uint64_t removed;
    int32_t in_place; /* 1: the header was, or would be, changed within the
                       * file; also where nothing had to be changed */
    int32_t reserved1;
} lora_metadata_edit;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_metadata_edit_options_init(lora_metadata_edit_options *options,
                                size_t size);

/** Edit the metadata of a file; of a folder, those of the file that
 *  lora_adapter_open() would read.
 *
 *  Changes are applied in their order; one key may be set once only. Where
 *  they leave the metadata as it was, the file itself is not written to.
 *
 *  Without an output the new header takes the place of the old one, if it
 *  needs no more bytes: the bytes that differ are written with one write and
 *  flushed to the disk. The file keeps its size, its identity and all tensor
 *  data. If that write fails, the old header is put back. If the process is
 *  killed during it, or the system stops before the flush is done, the header
 *  may be part old and part new, and the file cannot be read until it is
 *  repaired; `rewrite` rules that out.
 *
 *  In all other cases a new file is written beside the target, flushed and
 *  renamed: the target is either the old or the whole new file. These are: an
 *  output; `rewrite`; a header that does not fit; a path that is a link (the
 *  link is replaced, not what it leads to) or one of several names of a file,
 *  as the file may belong to a shared store.
 *
 *  @param out           NULL, or must have its struct_size set.
 *  @param context       must not be NULL.
 *  @param path          UTF-8; must not be NULL.
 *  @param changes       may be NULL if change_count is 0.
 *  @param change_count  number of changes.
 *  @param options       NULL for defaults.
 *  @param error         may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (a key or value is not UTF-8);
 *          LORA_ERROR_DUPLICATE (a key is set twice; or stands twice in the
 *          file, offset set; or a folder has several adapters);
 *          LORA_ERROR_LIMIT (the header would be over the limit of the format
 *          or of the context); LORA_ERROR_UNSUPPORTED (a container other than
 *          safetensors, several files that an index joins); LORA_ERROR_IO
 *          (also: the file may not be written to, or was changed meanwhile;
 *          os_error EEXIST: the output exists); LORA_ERROR_FORMAT,
 *          LORA_ERROR_TRUNCATED; LORA_ERROR_OPTION; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe; two edits of one file at the same time are not.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_metadata_edit_file(lora_metadata_edit *out,
                        lora_context *context,
                        const char *path,
                        const lora_metadata_change *changes,
                        size_t change_count,
                        const lora_metadata_edit_options *options,
                        lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
