/* Journals. The file:
 *
 *   head     "LORAJRN1", the job's 32 bytes
 *   record   index, bytes, the first 16 bytes of the SHA-256 of index, bytes
 *            and what follows; then so many bytes
 */
#include "op/journal.h"

#include "platform/file.h"
#include "platform/thread.h"

#include <string.h>

#define JOURNAL_MAGIC "LORAJRN1"
#define JOURNAL_JOB 32
#define JOURNAL_HEAD (sizeof JOURNAL_MAGIC - 1 + JOURNAL_JOB)
#define JOURNAL_SUM 16
#define JOURNAL_CHUNK ((size_t)64 << 10)

typedef struct journal_head {
    uint64_t index;
    uint64_t bytes;
    uint8_t sum[JOURNAL_SUM];
} journal_head;

struct lora__journal {
    lora_context *context;
    lora__mutex lock;
    int has_lock;
    lora__file file;
    uint64_t end; /* of the last whole record */
    lora__journal_record *records;
    size_t count;
    size_t capacity;
    size_t path_room;
    char *path;
};

static lora_status journal_os(const lora__journal *j,
                              int32_t code,
                              const char *what,
                              lora_error *e)
{
    return code == 0 ? LORA_OK : lora__fail_os(e, code, j->path, what);
}

static void journal_sum_begin(lora__sha256 *sha,
                              const lora__journal *j,
                              const journal_head *head)
{
    lora__sha256_init(sha, lora__context_get(j->context)->cpu);
    lora__sha256_update(sha, &head->index, sizeof head->index);
    lora__sha256_update(sha, &head->bytes, sizeof head->bytes);
}

/* ---- the job's identity ------------------------------------------------ */

LORA_PRIVATE void lora__journal_hash_text(lora__sha256 *sha, const char *text)
{
    lora__sha256_update(sha, text == NULL ? "" : text,
                        text == NULL ? 1 : strlen(text) + 1);
}

/* The first bytes of each tensor, those in the middle, the last. */
LORA_PRIVATE lora_status lora__journal_hash_checkpoint(
    lora__sha256 *sha, const lora__checkpoint *c, lora_error *error)
{
    for (size_t i = 0; i < c->tensor_count; i++) {
        const lora__tensor *tensor = &c->tensors[i];
        const lora__entry *entry = tensor->entry;
        uint64_t step = entry->bytes < 64 ? entry->bytes : 64;
        uint64_t last = entry->bytes - step;
        unsigned char bytes[64];
        lora__journal_hash_text(sha, tensor->name);
        lora__sha256_update(sha, &entry->dtype, sizeof entry->dtype);
        lora__sha256_update(sha, entry->shape,
                            (size_t)entry->ndim * sizeof *entry->shape);
        for (uint64_t k = 0; k <= 2 && step > 0; k++) {
            TRY(lora__checkpoint_read_bytes(c, i, last / 2 * k, bytes,
                                            (size_t)step, error));
            lora__sha256_update(sha, bytes, (size_t)step);
        }
    }
    return LORA_OK;
}

/* ---- what is there ----------------------------------------------------- */

/* Whether the record at the end is whole. */
static lora_status journal_check(int *out,
                                 const lora__journal *j,
                                 const journal_head *head,
                                 uint64_t offset,
                                 unsigned char *chunk,
                                 lora_error *error)
{
    lora__sha256 sha;
    uint8_t digest[32];

    journal_sum_begin(&sha, j, head);
    for (uint64_t done = 0; done < head->bytes;) {
        uint64_t left = head->bytes - done;
        size_t step = left < JOURNAL_CHUNK ? (size_t)left : JOURNAL_CHUNK;
        size_t got = 0;
        TRY(journal_os(
            j, lora__file_read_at(j->file, offset + done, chunk, step, &got),
            "cannot read", error));
        if (got < step) {
            *out = 0;
            return LORA_OK;
        }
        lora__sha256_update(&sha, chunk, step);
        done += step;
    }
    lora__sha256_finish(&sha, digest);
    *out = memcmp(digest, head->sum, JOURNAL_SUM) == 0;
    return LORA_OK;
}

static lora_status
journal_remember(lora__journal *j, lora__journal_record record, lora_error *e)
{
    void *records = j->records;

    TRY(lora__grow(&records, &j->capacity, j->context, j->count + 1,
                   sizeof *j->records, e));
    j->records = records;
    j->records[j->count++] = record;
    return LORA_OK;
}

/* Find the whole records of a file of so many bytes. */
static lora_status
journal_scan(lora__journal *j, uint64_t bytes, lora_error *error)
{
    unsigned char *chunk = lora__alloc(j->context, JOURNAL_CHUNK, LORA__ALIGN);
    lora_status status = LORA_OK;

    if (chunk == NULL) {
        return lora__fail_memory(error, JOURNAL_CHUNK);
    }
    while (bytes - j->end >= sizeof(journal_head)) {
        lora__journal_record record;
        journal_head head;
        size_t got = 0;
        int whole = 0;
        TRY_OR_DONE(journal_os(
            j, lora__file_read_at(j->file, j->end, &head, sizeof head, &got),
            "cannot read", error));
        record.index = head.index;
        record.offset = j->end + sizeof head;
        record.bytes = head.bytes;
        if (got < sizeof head || head.bytes > bytes - record.offset) {
            break;
        }
        TRY_OR_DONE(
            journal_check(&whole, j, &head, record.offset, chunk, error));
        if (!whole) {
            break;
        }
        TRY_OR_DONE(journal_remember(j, record, error));
        j->end = record.offset + record.bytes;
    }
done:
    lora__free(j->context, chunk, JOURNAL_CHUNK, LORA__ALIGN);
    return status;
}

/* ---- opening ----------------------------------------------------------- */

static lora_status
journal_begin(lora__journal *j, const uint8_t *job, lora_error *error)
{
    unsigned char head[JOURNAL_HEAD];

    memcpy(head, JOURNAL_MAGIC, sizeof JOURNAL_MAGIC - 1);
    memcpy(head + sizeof JOURNAL_MAGIC - 1, job, JOURNAL_JOB);
    j->end = sizeof head;
    return journal_os(j, lora__file_write_at(j->file, 0, head, sizeof head),
                      "cannot write", error);
}

/* Which job a file that is there belongs to. One that was ended within its
 * first write holds nothing: *out_whole is 0. */
static lora_status journal_read_head(uint8_t out_job[JOURNAL_JOB],
                                     int *out_whole,
                                     const lora__journal *j,
                                     lora_error *error)
{
    enum { MAGIC = sizeof JOURNAL_MAGIC - 1 };
    unsigned char head[JOURNAL_HEAD];
    size_t got = 0;

    TRY(journal_os(j, lora__file_read_at(j->file, 0, head, sizeof head, &got),
                   "cannot read", error));
    if (memcmp(head, JOURNAL_MAGIC, got < MAGIC ? got : MAGIC) != 0) {
        return lora__fail(error, LORA_ERROR_FORMAT, 0, j->path,
                          "there is a file in the journal's place that is "
                          "none");
    }
    *out_whole = got == sizeof head;
    if (*out_whole) {
        memcpy(out_job, head + MAGIC, JOURNAL_JOB);
    }
    return LORA_OK;
}

/* Go on with a file of so many bytes. */
static lora_status journal_resume(lora__journal *j,
                                  uint64_t bytes,
                                  const uint8_t *theirs,
                                  const uint8_t *job,
                                  lora_error *error)
{
    if (memcmp(theirs, job, JOURNAL_JOB) != 0) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, j->path,
                          "a journal of other inputs or options: nothing to "
                          "resume");
    }
    j->end = JOURNAL_HEAD;
    return journal_scan(j, bytes, error);
}

/* The file for writing, closed if there is none, and from here on nobody
 * else's. */
static lora_status
journal_hold(lora__journal *j, uint64_t *out_bytes, lora_error *error)
{
    if (!lora__path_exists(j->path)) {
        return LORA_OK;
    }
    TRY(journal_os(j, lora__file_open_update(&j->file, out_bytes, j->path),
                   "cannot open", error));
    if (j->file.handle == -1) {
        return lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, j->path,
                          "a link or no file: not a place for a journal");
    }
    return lora__file_lock(j->file)
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, j->path,
                            "another process is at work on this journal");
}

static lora_status journal_open_file(lora__journal *j,
                                     const uint8_t *job,
                                     int resume,
                                     lora_error *error)
{
    uint8_t theirs[JOURNAL_JOB];
    uint64_t bytes = 0;
    int whole = 0;

    TRY(journal_hold(j, &bytes, error));
    if (j->file.handle != -1) {
        TRY(journal_read_head(theirs, &whole, j, error));
        if (resume) {
            return whole ? journal_resume(j, bytes, theirs, job, error)
                         : journal_begin(j, job, error);
        }
        /* Another file, as old records would follow the new head. */
        (void)lora__file_close(&j->file);
        lora__path_remove(j->path);
    }
    TRY(journal_os(j, lora__file_create(&j->file, j->path), "cannot create",
                   error));
    TRY(journal_os(j, lora__file_close(&j->file), "cannot create", error));
    TRY(journal_hold(j, &bytes, error));
    TRY(journal_begin(j, job, error));
    /* Old records must not come back after a loss of power. */
    return lora__journal_flush(j, error);
}

LORA_PRIVATE lora_status lora__journal_open(lora__journal **out,
                                            lora_context *context,
                                            const char *path,
                                            const uint8_t job[32],
                                            int resume,
                                            lora_error *error)
{
    lora__journal *j;
    void *memory;
    lora_status status;

    *out = NULL;
    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *j, error));
    j = memory;
    j->context = context;
    j->file.handle = -1;
    j->path_room = strlen(path) + 1;
    j->path = lora__alloc(context, j->path_room, LORA__ALIGN);
    if (j->path == NULL) {
        status = lora__fail_memory(error, j->path_room);
        goto done;
    }
    memcpy(j->path, path, j->path_room);
    j->has_lock = lora__mutex_init(&j->lock);
    if (!j->has_lock) {
        status = lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, path,
                            "no lock for the journal");
        goto done;
    }
    TRY_OR_DONE(journal_open_file(j, job, resume, error));
    *out = j;
    return LORA_OK;
done:
    lora__journal_close(j);
    return status;
}

LORA_PRIVATE void lora__journal_close(lora__journal *journal)
{
    if (journal == NULL) {
        return;
    }
    (void)lora__file_close(&journal->file);
    if (journal->has_lock) {
        lora__mutex_destroy(&journal->lock);
    }
    lora__free(journal->context, journal->records,
               journal->capacity * sizeof *journal->records, LORA__ALIGN);
    lora__free(journal->context, journal->path, journal->path_room,
               LORA__ALIGN);
    lora__free(journal->context, journal, sizeof *journal, LORA__ALIGN);
}

/* ---- reading and writing ----------------------------------------------- */

LORA_PRIVATE size_t lora__journal_count(const lora__journal *journal)
{
    return journal->count;
}

LORA_PRIVATE const lora__journal_record *
lora__journal_at(const lora__journal *journal, size_t record)
{
    return &journal->records[record];
}

LORA_PRIVATE lora_status lora__journal_read(const lora__journal *journal,
                                            uint64_t offset,
                                            void *buffer,
                                            size_t bytes,
                                            lora_error *error)
{
    size_t got = 0;

    TRY(journal_os(
        journal, lora__file_read_at(journal->file, offset, buffer, bytes, &got),
        "cannot read", error));
    return got == bytes ? LORA_OK
                        : lora__fail(error, LORA_ERROR_TRUNCATED, offset + got,
                                     journal->path, "the journal ends here");
}

/* The record at the end of the file, with the lock held. Its head comes last,
 * so that an end in between leaves no record. */
static lora_status journal_write(lora__journal *j,
                                 const journal_head *head,
                                 const lora__journal_piece *pieces,
                                 size_t count,
                                 lora_error *error)
{
    uint64_t at = j->end + sizeof *head;

    for (size_t i = 0; i < count; i++) {
        TRY(journal_os(
            j,
            lora__file_write_at(j->file, at, pieces[i].data, pieces[i].bytes),
            "cannot write", error));
        at += pieces[i].bytes;
    }
    TRY(journal_os(j, lora__file_write_at(j->file, j->end, head, sizeof *head),
                   "cannot write", error));
    j->end = at;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__journal_append(uint64_t *out_offset,
                                              lora__journal *journal,
                                              uint64_t index,
                                              const lora__journal_piece *pieces,
                                              size_t count,
                                              lora_error *error)
{
    journal_head head = {index, 0, {0}};
    uint8_t digest[32];
    lora__sha256 sha;
    lora_status status;

    for (size_t i = 0; i < count; i++) {
        head.bytes += pieces[i].bytes;
    }
    journal_sum_begin(&sha, journal, &head);
    for (size_t i = 0; i < count; i++) {
        lora__sha256_update(&sha, pieces[i].data, pieces[i].bytes);
    }
    lora__sha256_finish(&sha, digest);
    memcpy(head.sum, digest, JOURNAL_SUM);
    lora__mutex_lock(&journal->lock);
    *out_offset = journal->end + sizeof head;
    status = journal_write(journal, &head, pieces, count, error);
    lora__mutex_unlock(&journal->lock);
    return status;
}

LORA_PRIVATE lora_status lora__journal_flush(const lora__journal *journal,
                                             lora_error *error)
{
    return journal_os(journal, lora__file_flush(journal->file), "cannot flush",
                      error);
}

LORA_PRIVATE lora_status lora__journal_container(lora__container **out,
                                                 lora__journal *journal,
                                                 lora_error *error)
{
    lora_status status;

    TRY(lora__container_create(out, journal->context, "journal", journal->path,
                               error));
    status = lora__reader_take_file(&(*out)->reader, journal->context,
                                    journal->file, journal->end, error);
    if (status != LORA_OK) {
        lora__container_release(*out);
        *out = NULL;
        return status;
    }
    (*out)->file_bytes = journal->end;
    journal->file.handle = -1;
    return LORA_OK;
}
