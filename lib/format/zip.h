/* Zip archives, by their central directory; strict, as torch.save writes them.
 *
 * The records and their names live in the container's arena and stay; what
 * looks names up is given back by lora__zip_close().
 */
#ifndef LORA__FORMAT_ZIP_H
#define LORA__FORMAT_ZIP_H

#include "format/container.h"
#include "format/crc32.h"

typedef struct lora__zip_record {
    const char *name; /* not terminated */
    size_t name_bytes;
    uint64_t header;   /* offset of the local header */
    uint64_t offset;   /* of the data */
    uint64_t packed;   /* bytes in the file */
    uint64_t bytes;    /* unpacked; the same if stored */
    uint32_t checksum; /* CRC-32 of the unpacked bytes */
    uint32_t deflated; /* 0: stored */
} lora__zip_record;

typedef struct lora__zip {
    lora__container *container; /* whose file it is */
    lora__zip_record *records;  /* in the order of their data */
    size_t count;
    const char *first_name; /* of the first in the directory */
    size_t first_name_bytes;
    uint64_t unpacked; /* bytes that were inflated */
    lora__map by_name;
    lora__crc32 crc; /* its tables; copied to be used */
} lora__zip;

/* Read the directory of the container's file, and hold every record against
 * its local header: bounds, overlaps, names, sizes, a name given twice. Close
 * it whether or not this succeeds. */
LORA_PRIVATE lora_status lora__zip_open(lora__zip *zip,
                                        lora__container *container,
                                        lora_error *error);
LORA_PRIVATE void lora__zip_close(lora__zip *zip);

/* NULL if there is none. */
LORA_PRIVATE const lora__zip_record *
lora__zip_find(const lora__zip *zip, const char *name, size_t bytes);

/* The whole record, unpacked into an arena, its checksum compared. LIMIT if it
 * is over `most` bytes, or if what was unpacked so far is more than an honest
 * file would hold. */
LORA_PRIVATE lora_status lora__zip_load(const unsigned char **out,
                                        lora__zip *zip,
                                        const lora__zip_record *record,
                                        uint64_t most,
                                        lora__arena *arena,
                                        lora_error *error);

/* Read a stored record in pieces and compare its checksum. Safe for several
 * threads at once. */
LORA_PRIVATE lora_status lora__zip_verify(const lora__zip *zip,
                                          const lora__zip_record *record,
                                          lora_error *error);

/* The most bytes that may come out of a file which expands: a hundred times
 * its own, and a little. Factors that training has not touched are zeros and
 * pack well; what packs better than this is a bomb. */
LORA_PRIVATE uint64_t lora__expanded_most(uint64_t file_bytes);

#endif
