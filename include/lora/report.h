/* Reports: what an operation found or did, as numbers and as JSON.
 *
 * A report is immutable. Strings and arrays it hands out live as long as it.
 *
 * Threads: any number of threads may read one report.
 */
#ifndef LORA_REPORT_H
#define LORA_REPORT_H

#include <lora/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_report lora_report;

/** One layer of a report on ranks; numbers are of the scaled weight change. */
typedef struct lora_report_module {
    size_t struct_size;
    const char *name;    /* as stored in the file */
    const double *sigma; /* singular values, descending; sigma_count of them */
    size_t sigma_count;
    int64_t rank_in;
    int64_t rank_out;
    double energy;      /* kept sum of sigma^2 / total; 1 for a zero layer */
    double error;       /* Frobenius norm of what was dropped, after rounding */
    double spectral;    /* largest singular value dropped; 0 if none */
    double frobenius;   /* kept share of the Frobenius norm: sqrt(energy) */
    double largest;     /* singular value; 0 for a zero layer */
    double least;       /* singular value kept */
    double stable_rank; /* sum of sigma^2 / largest^2; 0 for a zero layer */
    double effective_rank; /* exp of the entropy of sigma / sum; the same */
} lora_report_module;

typedef int32_t lora_severity;

enum {
    LORA_SEVERITY_NOTE = 1,
    LORA_SEVERITY_WARNING = 2,
    LORA_SEVERITY_ERROR = 3
};

/** Something noteworthy about a file. */
typedef struct lora_problem {
    size_t struct_size;
    const char *code;    /* stable, such as "missing_pair" */
    const char *subject; /* tensor, module or metadata key; "" if the file */
    const char *message;
    lora_severity severity;
    lora_status status; /* what an operation on it would answer */
} lora_problem;

/** The whole report as one JSON object.
 *
 *  @param report     NULL gives NULL.
 *  @param out_bytes  receives the length without the final NUL; may be NULL.
 *  @return UTF-8 text, valid as long as the report.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const char *lora_report_to_json(const lora_report *report,
                                         size_t *out_bytes);

/** Number of layers in a report on ranks; 0 for other reports and NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_report_module_count(const lora_report *report);

/** Read one layer.
 *
 *  @param out     must have its struct_size set.
 *  @param report  must not be NULL.
 *  @param index   below lora_report_module_count().
 *  @param error   may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_report_get_module(lora_report_module *out,
                       const lora_report *report,
                       size_t index,
                       lora_error *error);

/** Number of problems in a report; 0 for NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_report_problem_count(const lora_report *report);

/** Read one problem.
 *
 *  @param out     must have its struct_size set.
 *  @param report  must not be NULL.
 *  @param index   below lora_report_problem_count().
 *  @param error   may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_report_get_problem(lora_problem *out,
                        const lora_report *report,
                        size_t index,
                        lora_error *error);

/** Number of repairs in a report; 0 for reports on other things and NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_report_fix_count(const lora_report *report);

/** Read one repair: code and subject of what was found, as a check would name
 *  them, and a message that says what was done.
 *
 *  @param out     must have its struct_size set.
 *  @param report  must not be NULL.
 *  @param index   below lora_report_fix_count().
 *  @param error   may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_report_get_fix(lora_problem *out,
                    const lora_report *report,
                    size_t index,
                    lora_error *error);

/** Free a report.
 *
 *  @param report  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_report_destroy(lora_report *report);

#ifdef __cplusplus
}
#endif

#endif
