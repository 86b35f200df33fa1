/* Checkpoints that torch.save wrote: zip archives and, from before 1.6, streams
 * of pickles. Both hold an object, as a pickle, that refers to storages of
 * plain numbers.
 *
 *   torch.c         zip archives, storages, reading what lies in them
 *   torch_legacy.c  streams
 *   torch_tree.c    from the object to named tensors
 *
 * Nothing in a pickle is called: pickle.h. Tensors that lie in their storage as
 * they are named are read, mapped and lent from the file; views with other
 * strides are gathered whenever they are read. What has a checksum is checked
 * before any of it is given out: storages of less than a MiB altogether when
 * the file is opened, larger ones when they are first read.
 */
#ifndef LORA__FORMAT_TORCH_H
#define LORA__FORMAT_TORCH_H

#include "format/container.h"
#include "format/pickle.h"
#include "format/zip.h"

/* Fill a new container from its reader, whose first bytes are those that
 * lora__torch_is_zip() or lora__torch_is_legacy() know. */
LORA_PRIVATE lora_status lora__torch_read_zip(lora__container *container,
                                              lora_error *error);
LORA_PRIVATE lora_status lora__torch_read_legacy(lora__container *container,
                                                 lora_error *error);

LORA_PRIVATE int lora__torch_is_zip(const unsigned char *head, size_t bytes);
LORA_PRIVATE int lora__torch_is_legacy(const unsigned char *head, size_t bytes);

/* Between the three files. */

typedef struct lora__torch_storage {
    const char *key; /* not terminated, and only there while reading */
    size_t key_bytes;
    lora_dtype dtype; /* NONE: untyped, or a type the library does not have */
    uint32_t unit;    /* bytes of an element; 1 if untyped */
    uint64_t count;   /* elements */
    uint64_t bytes;
    uint64_t offset;                /* in the file */
    const unsigned char *data;      /* if it was deflated, else NULL */
    const lora__zip_record *record; /* or NULL: there is no checksum */
    uint32_t placed;                /* offset and data are set */
    uint32_t checked;               /* atomic: the checksum is right */
} lora__torch_storage;

/* Lives in the container's arena. */
typedef struct lora__torch {
    lora__container *container;
    lora__torch_storage *storages;
    size_t storage_count;
    lora__map by_key; /* while reading */
    lora__zip zip;    /* of zip archives */
} lora__torch;

/* The part of a storage that a tensor may use. */
typedef struct lora__torch_span {
    lora__torch_storage *storage;
    uint64_t first; /* element */
    uint64_t count;
} lora__torch_span;

/* What reads one of the formats into the container of `torch`. The arena is for
 * what is not needed after reading. */
typedef lora_status (*lora__torch_fn)(lora__torch *torch,
                                      lora__arena *arena,
                                      lora_error *error);

/* Read a container by `read`; `format` is a static string. */
LORA_PRIVATE lora_status lora__torch_read(lora__container *container,
                                          const char *format,
                                          lora__torch_fn read,
                                          lora_error *error);

/* Take note of every storage that a pickle refers to; `persistent` is its list
 * of them. Where they lie is for the caller to set. */
LORA_PRIVATE lora_status
lora__torch_declare(lora__torch *torch,
                    const lora__pickle_value *persistent,
                    lora_error *error);

/* NULL if it was not declared. */
LORA_PRIVATE lora__torch_storage *
lora__torch_find(const lora__torch *torch, const lora__pickle_value *key);

LORA_PRIVATE lora_status lora__torch_resolve(lora__torch_span *out,
                                             const lora__torch *torch,
                                             const lora__pickle_value *id,
                                             lora_error *error);

/* Point an entry, whose name, type, shape and sizes are set, at elements of a
 * storage. Strides are in elements, and stay within the storage. */
LORA_PRIVATE lora_status lora__torch_place(lora__entry *entry,
                                           lora__torch *torch,
                                           lora__torch_storage *storage,
                                           uint64_t first,
                                           const uint64_t *strides,
                                           lora_error *error);

/* The type that a global of module torch names, such as "float16". */
LORA_PRIVATE lora_dtype lora__torch_dtype(const lora__pickle_value *global);

/* Make the container's entries from the object. */
LORA_PRIVATE lora_status lora__torch_read_tree(lora__torch *torch,
                                               const lora__pickle_value *root,
                                               lora_error *error);

#endif
