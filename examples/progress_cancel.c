/* Show how far an operation is, and stop it: by Ctrl-C, which sets a token, or
 * by the answer of the progress callback, here at a given percentage.
 *
 *     ./progress_cancel in.safetensors out.safetensors [PERCENT]
 *
 * After a cancelled operation nothing is left behind.
 */
#include <lora/lora.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* A signal handler reaches nothing else. */
static lora_cancel_token *token;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    lora_cancel_token_cancel(token); /* allowed in a signal handler */
}

/* One call at a time, from whichever thread finished a layer. */
static int32_t
show(void *user, const char *stage, uint64_t done, uint64_t total)
{
    int stop_at = *(const int *)user;
    int percent = total > 0 ? (int)(done * 100 / total) : 100;

    fprintf(stderr, "\r%s %3d %%", stage, percent);
    return percent >= stop_at; /* not 0: stop */
}

static lora_status convert(lora_context *context, char **paths, lora_error *e)
{
    lora_adapter_convert_options options;
    lora_adapter *in = NULL;
    lora_adapter *out = NULL;
    lora_status status;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.dtype = LORA_DTYPE_BF16;
    status = lora_adapter_open(&in, context, paths[0], NULL, e);
    if (status == LORA_OK) {
        status = lora_adapter_convert(&out, in, &options, e);
    }
    if (status == LORA_OK) {
        status = lora_adapter_save(out, paths[1], NULL, e);
    }
    lora_adapter_destroy(out);
    lora_adapter_destroy(in);
    return status;
}

int main(int argc, char **argv)
{
    lora_context_options options;
    lora_context *context = NULL;
    lora_error error;
    lora_status status;
    int stop_at = argc == 4 ? atoi(argv[3]) : 101;

    if (argc < 3 || argc > 4) {
        fputs("usage: progress_cancel IN OUT [PERCENT]\n", stderr);
        return 2;
    }
    lora_error_init(&error, sizeof error);
    lora_context_options_init(&options, sizeof options);
    status = lora_cancel_token_create(&token, &error);
    if (status == LORA_OK) {
        signal(SIGINT, on_interrupt);
        options.cancel = token;
        options.progress = show;
        options.progress_user = &stop_at;
        status = lora_context_create(&context, &options, &error);
    }
    if (status == LORA_OK) {
        status = convert(context, argv + 1, &error);
    }
    fprintf(stderr, "\n%s\n",
            status == LORA_OK                ? "done"
            : status == LORA_ERROR_CANCELLED ? "stopped, nothing was written"
                                             : error.message);
    lora_context_destroy(context);
    signal(SIGINT, SIG_DFL);
    lora_cancel_token_destroy(token);
    return status == LORA_OK ? 0 : status == LORA_ERROR_CANCELLED ? 130 : 1;
}
