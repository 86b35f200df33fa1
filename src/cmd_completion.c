/* lora completion: scripts that complete verbs and options in a shell. */
#include "cmd.h"
#include "say.h"

#include <stdio.h>
#include <string.h>

/* All options of a verb, a space before each. */
static void completion_put_options(const app_verb *verb)
{
    const opt_spec *spec;
    for (size_t i = 0; (spec = opt_at(verb, i)) != NULL; i++) {
        printf(" --%s", spec->name);
    }
}

static void completion_put_verbs(void)
{
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        printf("%s%s", i > 0 ? " " : "", app_verbs[i]->name);
    }
}

/* The words of "one|two|three". */
static void completion_put_choices(const char *choices)
{
    for (const char *at = choices; *at != '\0'; at++) {
        putchar(*at == '|' ? ' ' : *at);
    }
}

static void completion_bash(void)
{
    puts("_lora()\n{\n"
         "    local word=${COMP_WORDS[COMP_CWORD]}\n"
         "    local before=${COMP_WORDS[COMP_CWORD-1]}\n"
         "    local words=");
    printf("    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        words=\"");
    completion_put_verbs();
    puts("\"\n    else\n        case ${COMP_WORDS[1]} in");
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        const opt_spec *spec;
        printf("        %s)\n            case $before in\n",
               app_verbs[i]->name);
        for (size_t j = 0; (spec = opt_at(app_verbs[i], j)) != NULL; j++) {
            if (spec->kind == OPT_CHOICE) {
                printf("            --%s) words=\"", spec->name);
                completion_put_choices(spec->value);
                puts("\" ;;");
            }
        }
        printf("            *) [[ $word == -* ]] && words=\"");
        completion_put_options(app_verbs[i]);
        puts("\" ;;\n            esac ;;");
    }
    puts("        esac\n    fi\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
         "    [ ${#COMPREPLY[@]} -gt 0 ] || "
         "COMPREPLY=($(compgen -f -- \"$word\"))\n"
         "}\n"
         "complete -o filenames -F _lora lora");
}

/* zsh and fish quote with '; our texts have no other special character, but
 * zsh wants : and [ ] escaped in a description. */
static void completion_put_zsh_text(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            fputs("'\\''", stdout);
        } else {
            if (strchr(":[]", *text) != NULL) {
                putchar('\\');
            }
            putchar(*text);
        }
    }
}

static void completion_zsh(void)
{
    puts("#compdef lora\n_lora()\n{\n    local -a verbs\n    verbs=(");
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        printf("        '%s:", app_verbs[i]->name);
        completion_put_zsh_text(app_verbs[i]->summary);
        puts("'");
    }
    puts("    )\n"
         "    if (( CURRENT == 2 )); then\n"
         "        _describe verb verbs\n"
         "        return\n"
         "    fi\n"
         "    case $words[2] in");
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        const opt_spec *spec;
        printf("    %s)\n        _arguments", app_verbs[i]->name);
        for (size_t j = 0; (spec = opt_at(app_verbs[i], j)) != NULL; j++) {
            printf(" \\\n            '%s--%s[",
                   spec->kind == OPT_LIST ? "*" : "", spec->name);
            completion_put_zsh_text(spec->help);
            putchar(']');
            if (spec->kind == OPT_CHOICE) {
                fputs(":value:(", stdout);
                completion_put_choices(spec->value);
                putchar(')');
            } else if (spec->kind != OPT_FLAG) {
                fputs(":value:_files", stdout);
            }
            putchar('\'');
        }
        puts(" \\\n            '*:file:_files' ;;");
    }
    puts("    esac\n}\n_lora \"$@\"");
}

static void completion_put_fish_text(const char *text)
{
    putchar('\'');
    for (; *text != '\0'; text++) {
        if (*text == '\'' || *text == '\\') {
            putchar('\\');
        }
        putchar(*text);
    }
    putchar('\'');
}

static void completion_fish(void)
{
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        const opt_spec *spec;
        const char *name = app_verbs[i]->name;
        printf("complete -c lora -n __fish_use_subcommand -a %s -d ", name);
        completion_put_fish_text(app_verbs[i]->summary);
        putchar('\n');
        for (size_t j = 0; (spec = opt_at(app_verbs[i], j)) != NULL; j++) {
            printf("complete -c lora -n '__fish_seen_subcommand_from %s' "
                   "-l %s -d ",
                   name, spec->name);
            completion_put_fish_text(spec->help);
            if (spec->kind == OPT_CHOICE) {
                fputs(" -x -a '", stdout);
                completion_put_choices(spec->value);
                putchar('\'');
            } else if (spec->kind != OPT_FLAG) {
                fputs(" -r", stdout);
            }
            putchar('\n');
        }
    }
}

static int
completion_run(app_state *app, int count, char **operands, const void *settings)
{
    (void)count;
    (void)settings;
    if (strcmp(operands[0], "bash") == 0) {
        completion_bash();
    } else if (strcmp(operands[0], "zsh") == 0) {
        completion_zsh();
    } else if (strcmp(operands[0], "fish") == 0) {
        completion_fish();
    } else {
        return say_usage(app, operands[0], "not one of bash, zsh, fish");
    }
    return 0;
}

const app_verb cmd_completion = {
    "completion",
    "bash|zsh|fish",
    "a script that completes verbs and options",
    "source <(lora completion bash)\tfor this shell\n"
    "lora completion fish > ~/.config/fish/completions/lora.fish\t"
    "for good\n",
    NULL,
    NULL,
    OPT_GROUP_TALK,
    0,
    0,
    1,
    1,
    completion_run,
};
