/* lora hash: the hashes by which sites and front ends know a file. */
#include "cmd.h"
#include "files.h"
#include "json.h"
#include "text.h"

#include <stdio.h>

typedef struct hash_settings {
    int all;
} hash_settings;

static const opt_spec hash_options[] = {
    {"all", 0, OPT_FLAG, NULL, "every hash there is",
     offsetof(hash_settings, all), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

typedef struct hash_row {
    const char *key;   /* in JSON */
    const char *title; /* for people */
    const char *text;
    int usual; /* shown without --all */
} hash_row;

static void hash_put_json(const char *path, const hash_row *rows, size_t count)
{
    fputs("{\"file\":", stdout);
    json_put_string(stdout, path);
    fputs(",\"hashes\":{", stdout);
    for (size_t i = 0; i < count; i++) {
        printf("%s\"%s\":", i > 0 ? "," : "", rows[i].key);
        if (*rows[i].text != '\0') {
            printf("\"%s\"", rows[i].text);
        } else {
            fputs("null", stdout); /* not defined for the container */
        }
    }
    fputs("}}", stdout);
}

static lora_status hash_file(app_state *app,
                             const char *path,
                             const void *settings,
                             int *code,
                             lora_error *error)
{
    const hash_settings *own = settings;
    lora_hashes hashes;
    (void)code;
    hashes.struct_size = sizeof hashes;
    lora_status status = lora_hash_file(&hashes, app->context, path, error);
    progress_clear(&app->bar);
    if (status != LORA_OK) {
        return status;
    }
    const hash_row rows[] = {
        {"sha256", "sha256", hashes.sha256, 1},
        {"auto_v1", "AutoV1", hashes.auto_v1, 0},
        {"auto_v2", "AutoV2", hashes.auto_v2, 1},
        {"auto_v3", "AutoV3", hashes.auto_v3, 1},
        {"crc32", "CRC32", hashes.crc32, 0},
        {"blake3", "BLAKE3", hashes.blake3, 0},
        {"sshs_model_hash", "kohya", hashes.sshs_model_hash, 0},
        {"sshs_legacy_hash", "kohya old", hashes.sshs_legacy_hash, 0},
        {"lycoris", "LyCORIS", hashes.lycoris, 0},
        {"content_id", "content id", hashes.content_id, 0},
    };
    size_t count = sizeof rows / sizeof rows[0];
    if (app->common.json) {
        hash_put_json(path, rows, count);
        return LORA_OK;
    }
    printf("%s", text_on(app->color, TEXT_BOLD));
    text_put(stdout, path);
    printf("%s\n", text_off(app->color));
    for (size_t i = 0; i < count; i++) {
        if (rows[i].usual || own->all ||
            (*hashes.sha256 == '\0' && *rows[i].text != '\0')) {
            printf("  %-*s%s\n", own->all || *hashes.sha256 == '\0' ? 12 : 8,
                   rows[i].title,
                   *rows[i].text != '\0' ? rows[i].text
                                         : "- (not for this container)");
        }
    }
    return LORA_OK;
}

static int
hash_run(app_state *app, int count, char **paths, const void *settings)
{
    return files_each(app, count, paths, hash_file, settings, "");
}

const app_verb cmd_hash = {
    "hash",
    "FILE...",
    "sha256, AutoV2, AutoV3 and others",
    "lora hash style.safetensors\twhat sites search by\n"
    "lora hash --all --json style.safetensors\tall of them, for programs\n",
    "Works on any container, and on folders as info does. With --json every\n"
    "hash is there, and null where one is not defined: of files that an index\n"
    "joins only those of the tensors are, the others are of the files. "
    "kohya's\n"
    "hashes, LyCORIS' and the content id are of the tensors; the last stays\n"
    "the same whatever the metadata and the order of the tensors.\n",
    hash_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT,
    sizeof(hash_settings),
    VERB_CONTEXT,
    1,
    -1,
    hash_run,
};
