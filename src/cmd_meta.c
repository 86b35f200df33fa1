/* lora meta: show and edit the metadata of a file. */
#include "cmd.h"
#include "files.h"
#include "input.h"
#include "json.h"
#include "output.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define META_TEXT 100 /* bytes of a value that are shown in a line */

typedef struct meta_settings {
    int rewrite;
    uint64_t room;
    opt_list set;
    opt_list unset;
} meta_settings;

static const opt_spec meta_options[] = {
    {"set", 0, OPT_LIST, "KEY=VALUE", "set an entry; @FILE: to what is in FILE",
     offsetof(meta_settings, set), 0, 0, 0},
    {"unset", 0, OPT_LIST, "PATTERN", "remove the entries that match",
     offsetof(meta_settings, unset), 0, 0, 0},
    {"room", 0, OPT_SIZE, "SIZE", "write the file anew, with room for edits",
     offsetof(meta_settings, room), 0, 0, 0},
    {"rewrite", 0, OPT_FLAG, NULL, "write the file anew, never within it",
     offsetof(meta_settings, rewrite), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* ---- showing ------------------------------------------------------------ */

static void meta_put_json(const char *path, const lora_adapter *adapter)
{
    fputs("{\"file\":", stdout);
    json_put_string(stdout, path);
    fputs(",\"metadata\":{", stdout);
    for (size_t i = 0; i < lora_adapter_metadata_count(adapter); i++) {
        const char *key = "";
        const char *value = "";
        if (lora_adapter_get_metadata(&key, &value, adapter, i, NULL) ==
            LORA_OK) {
            fputs(i > 0 ? "," : "", stdout);
            json_put_string(stdout, key);
            putchar(':');
            json_put_string(stdout, value);
        }
    }
    fputs("}}", stdout);
}

/* One entry a line; with --verbose values are whole, below their keys. */
static void meta_put_entries(const app_state *app, const lora_adapter *adapter)
{
    text_table table;
    text_table_begin(&table, "|");
    for (size_t i = 0; i < lora_adapter_metadata_count(adapter); i++) {
        const char *key = "";
        const char *value = "";
        char clean[META_TEXT];
        char bytes[TEXT_NUMBER];
        if (lora_adapter_get_metadata(&key, &value, adapter, i, NULL) !=
            LORA_OK) {
            continue;
        }
        if (app->common.verbose) {
            printf("  %s", text_on(app->color, TEXT_DIM));
            text_put(stdout, key);
            printf("%s\n    ", text_off(app->color));
            text_put(stdout, value);
            putchar('\n');
            continue;
        }
        text_clean(clean, sizeof clean, value);
        text_table_cell(&table, TEXT_DIM, "%s", key);
        if (strlen(value) < sizeof clean - 4) {
            text_table_cell(&table, TEXT_PLAIN, "%s", clean);
        } else {
            text_table_cell(&table, TEXT_PLAIN, "%s (%s)", clean,
                            text_bytes(bytes, strlen(value)));
        }
    }
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
}

static lora_status meta_show(app_state *app,
                             const char *path,
                             const void *settings,
                             int *code,
                             lora_error *error)
{
    lora_adapter *adapter = NULL;
    (void)settings;
    (void)code;
    lora_status status =
        lora_adapter_open(&adapter, app->context, path, NULL, error);
    if (status != LORA_OK) {
        return status;
    }
    if (app->common.json) {
        meta_put_json(path, adapter);
    } else {
        printf("%s", text_on(app->color, TEXT_BOLD));
        text_put(stdout, path);
        printf("%s\n", text_off(app->color));
        if (lora_adapter_metadata_count(adapter) == 0) {
            puts("  no metadata");
        }
        meta_put_entries(app, adapter);
    }
    lora_adapter_destroy(adapter);
    return LORA_OK;
}

/* ---- editing ------------------------------------------------------------ */

/* The changes, and the memory that their text is in. */
typedef struct meta_edit {
    lora_metadata_change *changes;
    size_t count;
    char **texts;
    size_t text_count;
} meta_edit;

static void meta_edit_end(const meta_edit *edit)
{
    for (size_t i = 0; i < edit->text_count; i++) {
        free(edit->texts[i]);
    }
    free(edit->texts);
    free(edit->changes);
}

static const char *meta_keep(meta_edit *edit, char *text)
{
    edit->texts[edit->text_count++] = text;
    return text;
}

/* The value of an option: "@FILE" is what is in the file, "@@..." is "@...".
 * NULL after a message. */
static const char *
meta_value(app_state *app, meta_edit *edit, const char *value, int *code)
{
    char *text = NULL;
    size_t bytes = 0;
    lora_error error;
    if (value[0] != '@') {
        return value;
    }
    if (value[1] == '@') {
        return value + 1;
    }
    lora_status status = input_read_text(&text, &bytes, value + 1, &error);
    if (status != LORA_OK) {
        *code = say_failure(app, SAY_READING, value + 1, status, &error);
        return NULL;
    }
    meta_keep(edit, text);
    if (memchr(text, '\0', bytes) != NULL) {
        say_error(app, value + 1, "has a zero byte, no value can have one");
        *code = EXIT_INPUT;
        return NULL;
    }
    return text;
}

/* Entries are removed first, so that --unset '*' --set KEY=VALUE means what it
 * says. 0, or an exit code after a message. */
static int
meta_edit_begin(app_state *app, meta_edit *edit, const meta_settings *own)
{
    int code = 0;
    edit->changes =
        app_alloc(own->set.count + own->unset.count, sizeof *edit->changes);
    edit->texts = app_alloc(2 * own->set.count, sizeof *edit->texts);
    for (size_t i = 0; i < own->unset.count; i++) {
        edit->changes[edit->count].key = own->unset.items[i];
        edit->changes[edit->count++].value = NULL;
    }
    for (size_t i = 0; i < own->set.count && code == 0; i++) {
        const char *entry = own->set.items[i];
        const char *equals = strchr(entry, '=');
        if (equals == NULL || equals == entry) {
            return say_usage(app, "--set", "\"%s\" is not KEY=VALUE", entry);
        }
        size_t bytes = (size_t)(equals - entry);
        char *key = app_alloc(bytes + 1, 1);
        memcpy(key, entry, bytes);
        for (size_t j = own->unset.count; j < edit->count; j++) {
            if (strcmp(edit->changes[j].key, key) == 0) {
                free(key);
                return say_usage(app, "--set", "\"%.*s\" is set twice",
                                 (int)bytes, entry);
            }
        }
        edit->changes[edit->count].key = meta_keep(edit, key);
        edit->changes[edit->count++].value =
            meta_value(app, edit, equals + 1, &code);
    }
    return code;
}

/* 1 if the file, or the output, is another one than before. */
static int meta_has_written(const app_state *app,
                            const lora_metadata_edit *result)
{
    return !app->common.dry_run &&
           (!result->in_place ||
            result->added + result->replaced + result->removed > 0);
}

static void meta_put_edit(const app_state *app,
                          const char *path,
                          const lora_metadata_edit *result)
{
    if (!app->common.json) {
        printf("%llu added, %llu replaced, %llu removed\n",
               (unsigned long long)result->added,
               (unsigned long long)result->replaced,
               (unsigned long long)result->removed);
        return;
    }
    fputs("{\"file\":", stdout);
    json_put_string(stdout, path);
    fputs(",\"output\":", stdout);
    json_put_string(stdout,
                    app->common.output != NULL ? app->common.output : path);
    printf(
        ",\"written\":%s,\"in_place\":%s,\"bytes\":%llu,\"room\":%llu,"
        "\"added\":%llu,\"replaced\":%llu,\"removed\":%llu}\n",
        meta_has_written(app, result) ? "true" : "false",
        result->in_place ? "true" : "false", (unsigned long long)result->bytes,
        (unsigned long long)result->room_bytes,
        (unsigned long long)result->added, (unsigned long long)result->replaced,
        (unsigned long long)result->removed);
}

static void meta_say_written(app_state *app,
                             const char *path,
                             const lora_metadata_edit *result)
{
    char size[TEXT_NUMBER];
    text_bytes(size, result->bytes);
    if (app->common.dry_run) {
        say_note(app, "dry run: nothing was written, %s",
                 result->in_place ? "it would be within the header"
                                  : "it would be the whole file");
    } else if (!meta_has_written(app, result)) {
        say_note(app, "nothing to change, nothing was written");
    } else if (result->in_place) {
        say_note(app, "changed the header of %s, %s", path, size);
    } else {
        say_note(app, "wrote %s, %s",
                 app->common.output != NULL ? app->common.output : path, size);
    }
}

/* Whether the edit may write where it would. 0, or an exit code. */
static int meta_check_target(app_state *app, const char *path)
{
    if (app->common.output != NULL) {
        return output_check(app);
    }
    if (app->common.force || app->common.dry_run) {
        return 0;
    }
    return say_usage(app, path,
                     "would be changed: give --force, or -o FILE for a copy");
}

/* Find out whether the file can be read, as later its failures could not be
 * told from those of writing. 0, or an exit code. */
static int meta_check_input(app_state *app, const char *path)
{
    lora_error error;
    lora_error_init(&error, sizeof error);
    lora_status status = lora_metadata_edit_file(NULL, app->context, path, NULL,
                                                 0, NULL, &error);
    return status == LORA_OK
               ? 0
               : say_failure(app,
                             status == LORA_ERROR_UNSUPPORTED ? SAY_WORKING
                                                              : SAY_READING,
                             path, status, &error);
}

static int meta_edit_file(app_state *app,
                          const char *path,
                          const meta_settings *own,
                          const meta_edit *edit)
{
    const char *output = app->common.output;
    lora_metadata_edit_options options;
    lora_metadata_edit result;
    lora_error error;
    lora_error_init(&error, sizeof error);
    lora_metadata_edit_options_init(&options, sizeof options);
    options.output = output;
    options.overwrite = app->common.force != 0;
    options.room_bytes = own->room;
    options.rewrite = own->rewrite || own->room != 0;
    options.dry_run = app->common.dry_run != 0;
    result.struct_size = sizeof result;
    lora_status status =
        lora_metadata_edit_file(&result, app->context, path, edit->changes,
                                edit->count, &options, &error);
    progress_clear(&app->bar);
    if (status != LORA_OK) {
        return say_failure(app, SAY_WRITING, output != NULL ? output : path,
                           status, &error);
    }
    meta_put_edit(app, path, &result);
    meta_say_written(app, path, &result);
    return 0;
}

static int
meta_edit_run(app_state *app, const char *path, const meta_settings *own)
{
    meta_edit edit = {NULL, 0, NULL, 0};
    int code = meta_check_target(app, path);
    if (code == 0) {
        code = meta_edit_begin(app, &edit, own);
    }
    if (code == 0) {
        code = meta_check_input(app, path);
    }
    if (code == 0) {
        code = meta_edit_file(app, path, own, &edit);
    }
    meta_edit_end(&edit);
    return code;
}

static int
meta_run(app_state *app, int count, char **paths, const void *settings)
{
    const meta_settings *own = settings;
    int edits = own->set.count > 0 || own->unset.count > 0 || own->rewrite ||
                own->room != 0 || app->common.output != NULL;
    return edits ? meta_edit_run(app, paths[0], own)
                 : files_each(app, count, paths, meta_show, settings, "");
}

const app_verb cmd_meta = {
    "meta",
    "FILE",
    "show metadata, and change them without touching tensors",
    "lora meta style.safetensors\tall entries; --verbose: whole\n"
    "lora meta style.safetensors --set modelspec.title='My style' --force\t"
    "change the file\n"
    "lora meta style.safetensors --unset 'ss_*' -o clean.safetensors\t"
    "a copy without training data\n"
    "lora meta style.safetensors --set modelspec.thumbnail=@image.txt --force\t"
    "a long value\n",
    "Works on any safetensors file, and changes the one that info finds in a\n"
    "folder. Entries are removed first, then set. A value that begins with @\n"
    "is a file's name; write @@ for @ itself. Where the header has room, only\n"
    "the header is written, within the file, which a crash in that moment\n"
    "could leave half done; --rewrite rules that out. Hashes among the\n"
    "entries are not brought up to date.\n",
    meta_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_FORCE |
        OPT_GROUP_OUTPUT,
    sizeof(meta_settings),
    VERB_CONTEXT,
    1,
    1,
    meta_run,
};
