/* The hashes by which sites and front ends know a file. */
#ifndef LORA_HASH_H
#define LORA_HASH_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The hashes of one file, in lower-case hexadecimal; "" where a hash is not
 *  defined for the container. Of several files that an index joins, and of an
 *  adapter that is in no file yet, the last three are.
 *
 *  The first seven depend on every byte, or on all after the header. The
 *  others are of the tensors, and would be the same had they been stored in
 *  another way:
 *
 *  sshs_model_hash   as kohya's scripts compute it: SHA-256 of the data of all
 *                    tensors in the order of the safetensors writer (number
 *                    type from U64 down, then name). What a file says of
 *                    itself in its metadata may be another: `lora check`
 *                    compares.
 *  sshs_legacy_hash  of 64 KiB at 1 MiB of the file that has, in that order,
 *                    all tensors, and no metadata but the "ss_" entries.
 *  content_id        ours: SHA-256 over the tensors sorted by name, each as
 *                    its name, a zero byte, its number type as in safetensors
 *                    ("F16"), a zero byte, its shape in decimal with commas
 *                    ("320,4"; nothing for a scalar), a zero byte, its data.
 *                    Two files have the same one if and only if they have the
 *                    same tensors, whatever their metadata and order.
 */
typedef struct lora_hashes {
    size_t struct_size;
    char sha256[72];           /* of the whole file, 64 digits */
    char auto_v1[16];          /* of 64 KiB at 1 MiB, 8 digits */
    char auto_v2[16];          /* first 10 digits of sha256 */
    char auto_v3[16];          /* of all after the header, 12 digits; ""
                                * where the container has no such place */
    char crc32[16];            /* of the whole file, 8 digits */
    char blake3[72];           /* of the whole file, 64 digits */
    char lycoris[72];          /* "0x" and 64 digits, SHA-256 of the data in
                                * file order; also modelspec.hash_sha256 */
    char sshs_model_hash[72];  /* 64 digits */
    char sshs_legacy_hash[16]; /* 8 digits */
    char content_id[72];       /* 64 digits */
} lora_hashes;

/** Compute the hashes of a file, of any container; of a folder, those of the
 *  file that lora_adapter_open() would read.
 *
 *  The file is read once, and once more for each hash whose order its tensors
 *  do not have. The context's threads share the work.
 *
 *  @param out      must have its struct_size set.
 *  @param context  must not be NULL.
 *  @param path     UTF-8; must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_IO; LORA_ERROR_FORMAT,
 *          LORA_ERROR_TRUNCATED (a damaged container); LORA_ERROR_DUPLICATE (a
 *          folder with several adapters); LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED; LORA_ERROR_THREAD (an executor of the host
 *          that did not run its tasks).
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
