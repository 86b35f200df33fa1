/* Lower the rank of an adapter file, and say what it cost.
 *
 *     ./resize_file big.safetensors small.safetensors 8
 *
 * The rank is an upper limit: layers that have less keep their bytes.
 */
#include <lora/lora.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static int print_report(const lora_report *report, lora_error *error)
{
    size_t count = lora_report_module_count(report);
    size_t i;

    for (i = 0; i < count; i++) {
        lora_report_module layer;

        layer.struct_size = sizeof layer;
        if (lora_report_get_module(&layer, report, i, error) != LORA_OK) {
            return 0;
        }
        printf("%s: rank %" PRId64 " -> %" PRId64 ", %.2f %% of the energy\n",
               layer.name, layer.rank_in, layer.rank_out, 100 * layer.energy);
    }
    return 1;
}

static int resize(lora_context *context,
                  const char *in,
                  const char *out,
                  int32_t rank,
                  lora_error *error)
{
    lora_rank_rule rule = {LORA_RANK_FIXED, 0, 0.0};
    lora_adapter *big = NULL;
    lora_adapter *small = NULL;
    lora_report *report = NULL;
    int done;

    rule.rank = rank;
    done = lora_adapter_open(&big, context, in, NULL, error) == LORA_OK &&
           lora_adapter_resize(&small, &report, big, &rule, NULL, error) ==
               LORA_OK &&
           lora_adapter_save(small, out, NULL, error) == LORA_OK &&
           print_report(report, error);
    lora_report_destroy(report);
    lora_adapter_destroy(small);
    lora_adapter_destroy(big);
    return done;
}

int main(int argc, char **argv)
{
    lora_context *context = NULL;
    lora_error error;
    int done;
    int rank = argc == 4 ? atoi(argv[3]) : 0;

    if (rank < 1) {
        fputs("usage: resize_file IN OUT RANK\n", stderr);
        return 2;
    }
    lora_error_init(&error, sizeof error);
    done = lora_context_create(&context, NULL, &error) == LORA_OK &&
           resize(context, argv[1], argv[2], rank, &error);
    if (!done) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    lora_context_destroy(context);
    return done ? 0 : 1;
}
