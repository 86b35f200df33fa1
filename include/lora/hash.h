/* The hashes by which sites and front ends know a file. */
#ifndef LORA_HASH_H
#define LORA_HASH_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The hashes of one file, in lower-case hexadecimal; "" where a hash is not
 *  defined for the container.
 */
typedef struct lora_hashes {
    size_t struct_size;
    char sha256[72];  /* of the whole file, 64 digits */
    char auto_v1[16]; /* of 64 KiB at 1 MiB, 8 digits */
    char auto_v2[16]; /* first 10 digits of sha256 */
    char auto_v3[16]; /* of all after the header, 12 digits */
    char crc32[16];   /* of the whole file, 8 digits */
} lora_hashes;

/** Compute the hashes of a file, of any container.
 *
 *  @param out      must have its struct_size set.
 *  @param context  must not be NULL.
 *  @param path     UTF-8; must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_IO; LORA_ERROR_FORMAT,
 *          LORA_ERROR_TRUNCATED (a damaged container); LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_hash_file(lora_hashes *out,
                                                   lora_context *context,
                                                   const char *path,
                                                   lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
