/* Extraction: two checkpoints are matched, each match is decomposed on its own,
 * side by side, and the results become an adapter. Source: algorithms.md 3.
 */
#include "op/extract.h"

#include "core/options.h"
#include "format/sha256.h"
#include "format/sort.h"
#include "op/rank_rule.h"

#include <lora/version.h>

#include <string.h>

/* Directions of a layer that a size may take, unless max_rank says. */
#define EXTRACT_MOST 128

LORA_API void
lora_adapter_extract_options_init(lora_adapter_extract_options *options,
                                  size_t size)
{
    lora__options_init(options, size);
}

/* ---- options ----------------------------------------------------------- */

static lora_status extract_check_rules(const lora__extract *job,
                                       lora_error *error)
{
    const lora_adapter_extract_options *o = &job->options;

    if (job->rule != NULL) {
        TRY(lora__rank_rule_check(job->rule, NULL, error));
    }
    if (o->conv_rule != NULL) {
        CHECK_ARG(o->conv_rule->kind != LORA_RANK_SIZE, error);
        TRY(lora__rank_rule_check(o->conv_rule, "conv_rule", error));
    }
    CHECK_ARG(o->override_count == 0 || o->overrides != NULL, error);
    for (size_t i = 0; i < o->override_count; i++) {
        CHECK_ARG(o->overrides[i].pattern != NULL, error);
        CHECK_ARG(o->overrides[i].rule.kind != LORA_RANK_SIZE, error);
        TRY(lora__rank_rule_check(&o->overrides[i].rule,
                                  o->overrides[i].pattern, error));
    }
    if (o->max_rank < 0 || o->min_rank < 0 ||
        (o->max_rank != 0 && o->min_rank > o->max_rank)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "max_rank",
                          "cap and floor do not fit");
    }
    return LORA_OK;
}

/* A rule for the whole file: layers get the most that it may take, and are
 * fitted to it together. */
static lora_status extract_check_size(lora__extract *job, lora_error *error)
{
    const lora_adapter_extract_options *o = &job->options;

    if (job->rule == NULL || job->rule->kind != LORA_RANK_SIZE) {
        return LORA_OK;
    }
    if (o->kind == LORA_EXTRACT_LOKR || o->kind == LORA_EXTRACT_FULL) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "size",
                          "a size is for pairs of factors and cores, not for "
                          "%s",
                          job->form->name);
    }
    CHECK_ARG(o->clamp == 0.0, error);
    job->size = job->rule;
    job->most.kind = LORA_RANK_FIXED;
    job->most.rank = o->max_rank != 0 ? o->max_rank : EXTRACT_MOST;
    if (job->most.rank < o->min_rank) {
        job->most.rank = o->min_rank;
    }
    job->rule = &job->most;
    return LORA_OK;
}

static lora_status extract_check_patterns(const char *const *patterns,
                                          size_t count,
                                          lora_error *error)
{
    CHECK_ARG(count == 0 || patterns != NULL, error);
    for (size_t i = 0; i < count; i++) {
        CHECK_ARG(patterns[i] != NULL, error);
    }
    return LORA_OK;
}

static lora_status extract_check(lora__extract *job, lora_error *error)
{
    const lora_adapter_extract_options *o = &job->options;
    const char *dialect = o->dialect == NULL ? "diffusers" : o->dialect;

    TRY(extract_check_rules(job, error));
    TRY(extract_check_patterns(o->include, o->include_count, error));
    TRY(extract_check_patterns(o->exclude, o->exclude_count, error));
    job->form = lora__extract_form_of(o->kind);
    CHECK_ARG(job->form != NULL, error);
    TRY(extract_check_size(job, error));
    CHECK_ARG(o->counting >= LORA_COUNT_EXACT &&
                  o->counting <= LORA_COUNT_LYCORIS,
              error);
    CHECK_ARG(o->split == LORA_SPLIT_EVEN || o->split == LORA_SPLIT_UP, error);
    CHECK_ARG((o->flags & ~(uint32_t)15) == 0, error);
    CHECK_ARG((o->flags & LORA_EXTRACT_RESUME) == 0 || o->journal != NULL,
              error);
    if (o->clamp != 0.0 && !(o->clamp > 0.5 && o->clamp <= 1.0)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "clamp",
                          "a quantile above 0.5, up to 1 is needed");
    }
    if (o->dtype != LORA_DTYPE_NONE && !lora__dtype_is_float(o->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "%s is no type for factors",
                          lora_dtype_name(o->dtype));
    }
    job->dialect = lora__dialect_find(dialect);
    if (job->dialect == NULL) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, dialect,
                          "no such dialect");
    }
    for (size_t i = 0; i < LORA__COUNT(job->form->needs); i++) {
        lora__role role = job->form->needs[i];
        if (role != LORA__ROLE_UNKNOWN &&
            !lora__dialect_has_role(job->dialect, role)) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              dialect, "this dialect cannot hold %s: kohya can",
                              job->form->name);
        }
    }
    return LORA_OK;
}

/* ---- the job's identity ------------------------------------------------ */

static void extract_hash_rule(lora__sha256 *sha, const lora_rank_rule *rule)
{
    const lora_rank_rule none = {0, 0, 0.0};

    rule = rule == NULL ? &none : rule;
    lora__sha256_update(sha, &rule->kind, sizeof rule->kind);
    lora__sha256_update(sha, &rule->rank, sizeof rule->rank);
    lora__sha256_update(sha, &rule->value, sizeof rule->value);
}

/* Everything that decides which bytes come out. What is left out or refused
 * does not: a journal that met a bad tensor goes on with SKIP_BAD. */
static lora_status
extract_identity(uint8_t out[32], const lora__extract *job, lora_error *error)
{
    const lora_adapter_extract_options *o = &job->options;
    uint32_t exact = o->flags & LORA_EXTRACT_EXACT;
    lora__sha256 sha;

    lora__sha256_init(&sha, lora__context_get(job->context)->cpu);
    lora__journal_hash_text(&sha, lora_version_string());
    lora__journal_hash_text(&sha, job->kernels->name);
    lora__journal_hash_text(&sha,
                            lora__context_get(job->context)->backend.name);
    lora__journal_hash_text(&sha, lora__dialect_id(job->dialect));
    extract_hash_rule(&sha, job->rule);
    extract_hash_rule(&sha, job->size);
    extract_hash_rule(&sha, o->conv_rule);
    for (size_t i = 0; i < o->override_count; i++) {
        lora__journal_hash_text(&sha, o->overrides[i].pattern);
        extract_hash_rule(&sha, &o->overrides[i].rule);
    }
    for (size_t i = 0; i < job->pair.count; i++) {
        lora__journal_hash_text(&sha, job->pair.matches[i].target);
    }
    lora__sha256_update(&sha, &o->seed, sizeof o->seed);
    lora__sha256_update(&sha, &o->clamp, sizeof o->clamp);
    lora__sha256_update(&sha, &o->max_rank, sizeof o->max_rank);
    lora__sha256_update(&sha, &o->min_rank, sizeof o->min_rank);
    lora__sha256_update(&sha, &o->dtype, sizeof o->dtype);
    lora__sha256_update(&sha, &o->kind, sizeof o->kind);
    lora__sha256_update(&sha, &o->counting, sizeof o->counting);
    lora__sha256_update(&sha, &o->split, sizeof o->split);
    lora__sha256_update(&sha, &o->lokr_factor, sizeof o->lokr_factor);
    lora__sha256_update(&sha, &exact, sizeof exact);
    TRY(lora__journal_hash_checkpoint(&sha, job->pair.base, error));
    TRY(lora__journal_hash_checkpoint(&sha, job->pair.tuned, error));
    lora__sha256_finish(&sha, out);
    return LORA_OK;
}

/* ---- the journal ------------------------------------------------------- */

/* A record: the result, its singular values, its tensors' bytes. */
static lora_status
extract_record(const lora__extract *job, size_t index, lora_error *error)
{
    lora__extracted *result = &job->results[index];
    lora__extracted head = *result;
    lora__journal_piece pieces[2 + LORA__EXTRACT_TENSORS];
    uint64_t at = sizeof head + result->sigma_count * sizeof *result->sigma;
    uint64_t offset;

    head.sigma = NULL;
    for (size_t i = 0; i < head.tensor_count; i++) {
        head.tensors[i].data = NULL;
        head.tensors[i].offset = at;
        at += head.tensors[i].bytes;
        pieces[2 + i].data = result->tensors[i].data;
        pieces[2 + i].bytes = (size_t)result->tensors[i].bytes;
    }
    pieces[0].data = &head;
    pieces[0].bytes = sizeof head;
    pieces[1].data = result->sigma;
    pieces[1].bytes = result->sigma_count * sizeof *result->sigma;
    TRY(lora__journal_append(&offset, job->journal, index, pieces,
                             2 + head.tensor_count, error));
    for (size_t i = 0; i < head.tensor_count; i++) {
        lora__free(job->context, result->tensors[i].data,
                   (size_t)result->tensors[i].bytes, LORA__ALIGN_NUMERIC);
        result->tensors[i].data = NULL;
        result->tensors[i].offset = offset + head.tensors[i].offset;
    }
    return LORA_OK;
}

/* 1 if the record can be what it says: nobody else writes such, but files are
 * what they are. */
static int extract_record_fits(const lora__extracted *head, uint64_t bytes)
{
    uint64_t at = sizeof *head;

    if (head->state <= LORA__EXTRACT_PENDING ||
        head->state > LORA__EXTRACT_BAD ||
        head->tensor_count > LORA__EXTRACT_TENSORS ||
        head->sigma_count > (bytes - at) / sizeof *head->sigma) {
        return 0;
    }
    at += head->sigma_count * sizeof *head->sigma;
    for (size_t i = 0; i < head->tensor_count; i++) {
        if (head->tensors[i].offset != at ||
            head->tensors[i].bytes > bytes - at) {
            return 0;
        }
        at += head->tensors[i].bytes;
    }
    return at == bytes;
}

static lora_status extract_recall(lora__extract *job,
                                  const lora__journal_record *record,
                                  lora_error *error)
{
    int skip_bad = (job->options.flags & LORA_EXTRACT_SKIP_BAD) != 0;
    lora__extracted head;
    lora__extracted *out;
    size_t bytes;

    if (record->index >= job->pair.count || record->bytes < sizeof head) {
        return LORA_OK;
    }
    TRY(lora__journal_read(job->journal, record->offset, &head, sizeof head,
                           error));
    out = &job->results[record->index];
    if (out->state != LORA__EXTRACT_PENDING ||
        !extract_record_fits(&head, record->bytes) ||
        (head.state == LORA__EXTRACT_BAD && !skip_bad)) {
        return LORA_OK;
    }
    head.sigma = NULL;
    bytes = head.sigma_count * sizeof *head.sigma;
    if (bytes > 0) {
        head.sigma = lora__alloc(job->context, bytes, LORA__ALIGN);
        if (head.sigma == NULL) {
            return lora__fail_memory(error, bytes);
        }
    }
    for (size_t i = 0; i < head.tensor_count; i++) {
        head.tensors[i].data = NULL;
        head.tensors[i].offset += record->offset;
    }
    *out = head;
    return lora__journal_read(job->journal, record->offset + sizeof head,
                              head.sigma, bytes, error);
}

static lora_status extract_open_journal(lora__extract *job, lora_error *error)
{
    uint8_t identity[32];
    int resume = (job->options.flags & LORA_EXTRACT_RESUME) != 0;

    if (job->options.journal == NULL) {
        return LORA_OK;
    }
    TRY(extract_identity(identity, job, error));
    TRY(lora__journal_open(&job->journal, job->context, job->options.journal,
                           identity, resume, error));
    for (size_t i = 0; i < lora__journal_count(job->journal); i++) {
        TRY(extract_recall(job, lora__journal_at(job->journal, i), error));
    }
    return LORA_OK;
}

/* ---- running ----------------------------------------------------------- */

/* What is left to do: the largest first, so that no thread begins with one when
 * the others have ended. */
typedef struct extract_item {
    uint64_t size;
    size_t match;
} extract_item;

typedef struct extract_queue {
    const lora__extract *job;
    extract_item *items;
    size_t count;
} extract_queue;

static int extract_compare(const void *a, const void *b)
{
    const extract_item *one = a;
    const extract_item *other = b;

    if (one->size != other->size) {
        return one->size > other->size ? -1 : 1;
    }
    return one->match < other->match ? -1 : one->match > other->match;
}

static lora_status
extract_run_one(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const extract_queue *queue = arg;
    const lora__extract *job = queue->job;
    size_t match = queue->items[index].match;
    lora__extracted *out = &job->results[match];
    lora_status status;

    (void)worker;
    TRY(lora__extract_layer(out, job, &job->pair.matches[match], error));
    status = job->journal == NULL ? LORA_OK : extract_record(job, match, error);
    if (status != LORA_OK) {
        lora__extracted_free(out, job->context);
    }
    return status;
}

/* How many at the front of the queue must run one at a time, since as many as
 * there are threads would not fit into the limit on memory. */
static size_t extract_alone(const extract_queue *queue)
{
    const lora__extract *job = queue->job;
    uint64_t limit = lora__context_get(job->context)->limits.memory_bytes;
    uint64_t live = lora_context_memory_live(job->context);
    uint64_t each =
        limit > live ? (limit - live) / lora__concurrency(job->context) : 0;
    size_t count = 0;

    while (limit != 0 && count < queue->count &&
           lora__extract_layer_bytes(
               job, &job->pair.matches[queue->items[count].match]) > each) {
        count++;
    }
    return count;
}

static lora_status extract_run_queue(extract_queue *queue, lora_error *error)
{
    lora_context *context = queue->job->context;
    size_t alone = extract_alone(queue);

    for (size_t i = 0; i < alone; i++) {
        TRY(extract_run_one(queue, i, 0, error));
        TRY(lora__progress(context, "extract", i + 1, queue->count, error));
    }
    queue->items += alone;
    queue->count -= alone;
    return lora__run_jobs(context, "extract", extract_run_one, queue,
                          queue->count, error);
}

static lora_status extract_run(lora__extract *job, lora_error *error)
{
    size_t room = job->pair.count * sizeof(extract_item);
    extract_item *items = lora__alloc(job->context, room, LORA__ALIGN);
    extract_queue queue = {job, items, 0};
    lora_status status;

    if (items == NULL) {
        return lora__fail_memory(error, room);
    }
    for (size_t i = 0; i < job->pair.count; i++) {
        const lora__match *match = &job->pair.matches[i];
        if (match->state == LORA__MATCH_BOTH &&
            job->results[i].state == LORA__EXTRACT_PENDING) {
            items[queue.count].size = match->base.rows * match->base.columns;
            items[queue.count++].match = i;
        }
    }
    lora__sort(items, queue.count, sizeof *items, extract_compare);
    status = extract_run_queue(&queue, error);
    lora__free(job->context, items, room, LORA__ALIGN);
    return status;
}

/* ---- the call ---------------------------------------------------------- */

LORA_PRIVATE void lora__extracted_free(lora__extracted *extracted,
                                       lora_context *context)
{
    for (size_t i = 0; i < extracted->tensor_count; i++) {
        lora__extract_tensor *tensor = &extracted->tensors[i];
        lora__free(context, tensor->data, (size_t)tensor->bytes,
                   LORA__ALIGN_NUMERIC);
    }
    lora__free(context, extracted->sigma,
               extracted->sigma_count * sizeof *extracted->sigma, LORA__ALIGN);
    memset(extracted, 0, sizeof *extracted);
}

static lora_status extract_match(lora__extract *job,
                                 const lora__checkpoint *base,
                                 const lora__checkpoint *tuned,
                                 lora_error *error)
{
    const lora_adapter_extract_options *o = &job->options;
    lora__pair_options options;
    void *memory;

    memset(&options, 0, sizeof options);
    options.include = o->include;
    options.include_count = o->include_count;
    options.exclude = o->exclude;
    options.exclude_count = o->exclude_count;
    options.skip_shapes = (o->flags & LORA_EXTRACT_SKIP_SHAPES) != 0;
    options.by_parts = strcmp(lora__dialect_id(job->dialect), "diffusers") == 0;
    TRY(lora__pair_create(&job->pair, base, tuned, &options, error));
    TRY(lora__alloc_zeroed(&memory, job->context, job->pair.count,
                           sizeof *job->results, error));
    job->results = memory;
    return LORA_OK;
}

static lora_status
extract_all(lora_adapter **out, lora__extract *job, lora_error *error)
{
    lora__checkpoint *base = NULL;
    lora__checkpoint *tuned = NULL;
    lora_status status;

    TRY_OR_DONE(
        lora__checkpoint_open(&base, job->context, job->base, 0, error));
    TRY_OR_DONE(
        lora__checkpoint_open(&tuned, job->context, job->tuned, 0, error));
    TRY_OR_DONE(extract_match(job, base, tuned, error));
    TRY_OR_DONE(extract_open_journal(job, error));
    TRY_OR_DONE(extract_run(job, error));
    if (job->journal != NULL) {
        TRY_OR_DONE(
            lora__journal_container(&job->journalled, job->journal, error));
    }
    status = lora__extract_write(out, job, error);
done:
    for (size_t i = 0; job->results != NULL && i < job->pair.count; i++) {
        lora__extracted_free(&job->results[i], job->context);
    }
    if (job->results != NULL) {
        lora__free(job->context, job->results,
                   job->pair.count * sizeof *job->results, LORA__ALIGN);
    }
    lora__container_release(job->journalled);
    lora__journal_close(job->journal);
    lora__pair_destroy(&job->pair);
    lora__checkpoint_release(tuned);
    lora__checkpoint_release(base);
    return status;
}

LORA_API lora_status
lora_adapter_extract(lora_adapter **out,
                     lora_report **out_report,
                     lora_context *context,
                     const char *base,
                     const char *tuned,
                     const lora_rank_rule *rule,
                     const lora_adapter_extract_options *options,
                     lora_error *error)
{
    lora__extract job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(base != NULL && tuned != NULL, error);
    memset(&job, 0, sizeof job);
    job.context = context;
    job.base = base;
    job.tuned = tuned;
    job.rule = rule;
    job.kernels = lora__kernels_get(lora__context_get(context)->cpu);
    TRY(lora__options_read(&job.options, sizeof job.options,
                           LORA__SIZE_TO(lora_adapter_extract_options, flags),
                           options, error));
    TRY(extract_check(&job, error));
    TRY(lora__report_create(&job.report, context, error));
    status = extract_all(out, &job, error);
    if (status == LORA_OK && out_report != NULL) {
        *out_report = job.report;
        job.report = NULL;
    }
    lora_report_destroy(job.report);
    return status;
}
