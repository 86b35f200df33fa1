/* lora help: the list of verbs, or the help of one. */
#include "cmd.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

static void help_put_examples(const char *examples)
{
    const char *at = examples;
    while (*at != '\0') {
        int command = (int)strcspn(at, "\t");
        const char *comment = at + command + 1;
        int bytes = (int)strcspn(comment, "\n");
        printf("  # %.*s\n  %.*s\n", bytes, comment, command, at);
        at = comment + bytes + 1;
    }
}

static void help_put_verb(const app_verb *verb)
{
    printf("lora %s: %s\n\n", verb->name, verb->summary);
    if (verb->examples != NULL) {
        puts("Examples");
        help_put_examples(verb->examples);
        putchar('\n');
    }
    printf("Usage\n  lora %s [options]%s%s\n", verb->name,
           *verb->operands != '\0' ? " " : "", verb->operands);
    if (verb->notes != NULL) {
        printf("\n%s", verb->notes);
    }
    opt_print_help(stdout, verb);
}

static void help_put_list(void)
{
    printf("lora %s: adapters of the LoRA family for diffusion models\n\n",
           lora_version_string());
    puts("Usage\n  lora VERB [options] [operands]\n\nVerbs");
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        if ((app_verbs[i]->flags & VERB_HIDDEN) == 0) {
            printf("  %-12s%s\n", app_verbs[i]->name, app_verbs[i]->summary);
        }
    }
    puts("\nNew here?  lora demo            makes example files and shows the "
         "verbs\n"
         "           lora help resize     examples and options of one verb\n"
         "           lora info FILE       what a file is");
    puts("\nExit codes: 0 done, 1 failed, 2 usage, 3 an input cannot be read, "
         "4 keys,\nshapes or values do not fit, 5 out of memory, 130 "
         "interrupted.");
}

static const char *help_verb_name(const void *user, size_t index)
{
    (void)user;
    return app_verbs[index] != NULL ? app_verbs[index]->name : NULL;
}

static int
help_run(app_state *app, int count, char **operands, const void *settings)
{
    (void)settings;
    if (count == 0) {
        help_put_list();
        return 0;
    }
    const app_verb *verb = app_find_verb(operands[0]);
    if (verb == NULL) {
        const char *near = opt_nearest(operands[0], help_verb_name, NULL);
        return near != NULL ? say_usage(app, operands[0],
                                        "no such verb, did you mean %s?", near)
                            : say_usage(app, operands[0], "no such verb");
    }
    help_put_verb(verb);
    return 0;
}

const app_verb cmd_help = {
    "help",
    "[VERB]",
    "this list, or examples and options of a verb",
    "lora help\tall verbs\n"
    "lora help resize\tone of them\n",
    NULL,
    NULL,
    OPT_GROUP_TALK,
    0,
    0,
    0,
    1,
    help_run,
};
