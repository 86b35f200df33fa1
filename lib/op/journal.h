/* Journals: what a long operation has done, kept in a file as it goes, so that
 * a later call goes on where this one ended, however it did.
 *
 * A file of records after a head that says which job they belong to. Records
 * are appended by whoever finishes a piece, in any order; each has a checksum,
 * and reading ends at the first that is not whole. The numbers are the
 * machine's own: a journal goes on where it was begun.
 */
#ifndef LORA__OP_JOURNAL_H
#define LORA__OP_JOURNAL_H

#include "format/container.h"
#include "format/sha256.h"
#include "model/checkpoint.h"

typedef struct lora__journal lora__journal;

/* A whole record. */
typedef struct lora__journal_record {
    uint64_t index;  /* the piece it belongs to */
    uint64_t offset; /* of its bytes, in the file */
    uint64_t bytes;
} lora__journal_record;

/* For a job's identity: a text, which may be NULL; and of a checkpoint the
 * table of tensors and some bytes of each, as two states of a training have the
 * same table. */
LORA_PRIVATE void lora__journal_hash_text(lora__sha256 *sha, const char *text);
LORA_PRIVATE lora_status lora__journal_hash_checkpoint(
    lora__sha256 *sha, const lora__checkpoint *checkpoint, lora_error *error);

/* Open or begin a journal. `job` says which job it is: everything its result
 * depends on. With `resume` 1 the records of an earlier call are kept, if there
 * are any; STATE if they are of another job. With 0 a journal that is there is
 * begun anew, and is on the disk then. Refused are a file that is no journal
 * (FORMAT), links and special files (IO), and a journal that another process
 * has open (STATE). */
LORA_PRIVATE lora_status lora__journal_open(lora__journal **out,
                                            lora_context *context,
                                            const char *path,
                                            const uint8_t job[32],
                                            int resume,
                                            lora_error *error);

/* The records found on opening. */
LORA_PRIVATE size_t lora__journal_count(const lora__journal *journal);
LORA_PRIVATE const lora__journal_record *
lora__journal_at(const lora__journal *journal, size_t record);

/* Read some of the file. */
LORA_PRIVATE lora_status lora__journal_read(const lora__journal *journal,
                                            uint64_t offset,
                                            void *buffer,
                                            size_t bytes,
                                            lora_error *error);

/* Append a record made of several pieces of memory; *out_offset is where its
 * bytes begin. Any thread may. After a failure the file ends where it did. */
typedef struct lora__journal_piece {
    const void *data;
    size_t bytes;
} lora__journal_piece;

LORA_PRIVATE lora_status lora__journal_append(uint64_t *out_offset,
                                              lora__journal *journal,
                                              uint64_t index,
                                              const lora__journal_piece *pieces,
                                              size_t count,
                                              lora_error *error);

/* Its records to the disk. */
LORA_PRIVATE lora_status lora__journal_flush(const lora__journal *journal,
                                             lora_error *error);

/* A container without entries that takes the journal's file over: nothing more
 * is appended, and entries with offsets in the file may be added. */
LORA_PRIVATE lora_status lora__journal_container(lora__container **out,
                                                 lora__journal *journal,
                                                 lora_error *error);

/* Closing NULL does nothing. The file stays. */
LORA_PRIVATE void lora__journal_close(lora__journal *journal);

#endif
