/* Make the adapter that a checkpoint was tuned by, so that a call that was
 * ended goes on when it is made again.
 *
 *     ./extract_file base.safetensors tuned.safetensors out.safetensors 32
 *
 * Layers that are done are kept in out.safetensors.journal until all are.
 */
#include <lora/lora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_report(const lora_report *report)
{
    size_t count = lora_report_problem_count(report);
    size_t i;

    printf("%zu layers, %zu problems\n", lora_report_module_count(report),
           count);
    for (i = 0; i < count; i++) {
        lora_problem problem;

        problem.struct_size = sizeof problem;
        if (lora_report_get_problem(&problem, report, i, NULL) == LORA_OK) {
            printf("%s: %s\n", problem.subject, problem.message);
        }
    }
}

static int extract(lora_context *context,
                   char **paths,
                   int32_t rank,
                   const char *journal,
                   lora_error *error)
{
    lora_rank_rule rule = {LORA_RANK_FIXED, 0, 0.0};
    lora_adapter_extract_options options;
    lora_adapter *adapter = NULL;
    lora_report *report = NULL;
    int done;

    rule.rank = rank;
    lora_adapter_extract_options_init(&options, sizeof options);
    options.journal = journal;
    options.flags = LORA_EXTRACT_RESUME; /* begins one where there is none */
    done = lora_adapter_extract(&adapter, &report, context, paths[0], paths[1],
                                &rule, &options, error) == LORA_OK &&
           lora_adapter_save(adapter, paths[2], NULL, error) == LORA_OK;
    if (done) {
        print_report(report);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(adapter); /* it reads from the journal until here */
    if (done) {
        remove(journal);
    }
    return done;
}

int main(int argc, char **argv)
{
    lora_context *context = NULL;
    lora_error error;
    char journal[4096];
    int done;
    int rank = argc == 5 ? atoi(argv[4]) : 0;

    if (rank < 1 || strlen(argv[3]) > sizeof journal - 9) {
        fputs("usage: extract_file BASE TUNED OUT RANK\n", stderr);
        return 2;
    }
    snprintf(journal, sizeof journal, "%s.journal", argv[3]);
    lora_error_init(&error, sizeof error);
    done = lora_context_create(&context, NULL, &error) == LORA_OK &&
           extract(context, argv + 1, rank, journal, &error);
    if (!done) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    lora_context_destroy(context);
    return done ? 0 : 1;
}
