/* The engine's archive: a count, a table, and the files behind it.
 *
 *     "PACK", u32 count, count * {char name[48], u64 offset, u64 bytes}
 *
 * Little-endian, as the machines that liblora runs on.
 */
#ifndef ENGINE_PACK_H
#define ENGINE_PACK_H

#include "lora.h"

enum { PACK_MAX_FILES = 16 };

typedef struct pack_file {
    int descriptor; /* the archive's */
    char name[48];  /* ends with 0 */
    uint64_t offset;
    uint64_t bytes;
} pack_file;

typedef struct pack {
    int descriptor;
    uint32_t count;
    pack_file files[PACK_MAX_FILES];
} pack;

/* 0 if there is no such archive, or it is not one. */
int pack_open(pack *p, const char *path);
void pack_close(pack *p);

/* Open a file of the archive as an adapter. The archive must stay open. */
lora_status pack_open_adapter(lora_adapter **out,
                              lora_context *context,
                              pack *p,
                              const char *name,
                              lora_error *error);

#endif
