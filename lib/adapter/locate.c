/* What a path means. */
#include "adapter/locate.h"

#include "adapter/card.h"
#include "core/text.h"
#include "format/folder.h"
#include "format/shards.h"
#include "platform/file.h"

#include <stdio.h>
#include <string.h>

#define LOCATE_PEFT "adapter_model."
#define LOCATE_DIFFUSERS "pytorch_lora_weights."

/* By the program that reads them; of each the first that is there. */
static const char *const locate_names[][2] = {
    {LOCATE_PEFT "safetensors", LOCATE_PEFT "bin"},
    {LOCATE_DIFFUSERS "safetensors", LOCATE_DIFFUSERS "bin"},
};

static int locate_is_safetensors(const char *name)
{
    return lora__text_ends(name, strlen(name), ".safetensors");
}

static int locate_is_model(const char *name)
{
    static const char *const ends[] = {".safetensors", ".bin", ".pt", ".pth",
                                       ".ckpt"};

    for (size_t i = 0; i < LORA__COUNT(ends); i++) {
        if (lora__text_ends(name, strlen(name), ends[i])) {
            return 1;
        }
    }
    return 0;
}

/* FOLDER/NAME if that is a file, else NULL. */
static lora_status locate_in(const char **out,
                             lora__arena *arena,
                             const char *folder,
                             const char *name,
                             lora_error *error)
{
    TRY(lora__folder_join(out, arena, folder, strlen(folder), name, error));
    if (!lora__folder_has_file(*out)) {
        *out = NULL;
    }
    return LORA_OK;
}

static lora_status locate_named(const char **out,
                                lora__arena *arena,
                                const char *folder,
                                lora_error *error)
{
    lora__folder_names found = {0, {""}};
    const char *path = NULL;

    *out = NULL;
    for (size_t i = 0; i < LORA__COUNT(locate_names); i++) {
        path = NULL;
        for (size_t j = 0; path == NULL && j < 2; j++) {
            TRY(locate_in(&path, arena, folder, locate_names[i][j], error));
            if (path != NULL) {
                *out = path;
                snprintf(found.first[found.count++], LORA__FOLDER_NAME, "%s",
                         locate_names[i][j]);
            }
        }
    }
    return found.count > 1 ? lora__folder_refuse(folder, &found, error)
                           : LORA_OK;
}

static lora_status locate_model(const char **out,
                                lora__arena *arena,
                                const char *folder,
                                lora_error *error)
{
    TRY(locate_named(out, arena, folder, error));
    if (*out == NULL) {
        TRY(lora__folder_only(out, arena, folder, lora__shards_is_index,
                              error));
    }
    if (*out == NULL) {
        TRY(lora__folder_only(out, arena, folder, locate_is_safetensors,
                              error));
    }
    return *out != NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, folder,
                            "a folder without an adapter: no adapter_model, "
                            "pytorch_lora_weights or other .safetensors file");
}

/* 1 if no other model in its folder could be meant by a card there; a folder
 * that cannot be listed leaves that open. */
static lora_status locate_is_alone(int *out,
                                   lora__arena *arena,
                                   const char *model,
                                   lora_error *error)
{
    lora__folder_names names;
    lora_error found;
    const char *folder;
    lora_status status;

    TRY(lora__arena_string(&folder, arena, model,
                           lora__path_folder_bytes(model), error));
    lora_error_init(&found, sizeof found);
    status = lora__folder_find(
        &names, arena->context, folder,
        lora__shards_is_index(model) ? lora__shards_is_index : locate_is_model,
        2, &found);
    *out = status == LORA_OK && names.count == 1;
    return status == LORA_ERROR_MEMORY ? lora__error_merge(error, &found)
                                       : LORA_OK;
}

static lora_status locate_card(lora__location *out,
                               lora__arena *arena,
                               int is_meant,
                               lora_error *error)
{
    TRY(lora__folder_beside(&out->card, arena, out->model, LORA__CARD_FILE,
                            error));
    if (lora__folder_has_file(out->card) && !is_meant) {
        TRY(locate_is_alone(&is_meant, arena, out->model, error));
    }
    if (!is_meant || !lora__folder_has_file(out->card)) {
        out->card = NULL;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__locate(lora__location *out,
                                      lora__arena *arena,
                                      const char *path,
                                      lora_error *error)
{
    lora__path_type type = LORA__PATH_OTHER;
    int in_folder;
    const char *name;
    size_t bytes;

    memset(out, 0, sizeof *out);
    out->model = path;
    in_folder =
        lora__path_type_of(&type, path) == 0 && type == LORA__PATH_FOLDER;
    if (in_folder) {
        TRY(locate_model(&out->model, arena, path, error));
    }
    name = out->model + lora__path_folder_bytes(out->model);
    bytes = strlen(name);
    out->is_peft = lora__text_begins(name, bytes, LOCATE_PEFT);
    TRY(lora__folder_beside(&out->config, arena, out->model,
                            "adapter_config.json", error));
    if (!lora__path_exists(out->config)) {
        out->config = NULL;
    }
    return locate_card(out, arena,
                       in_folder || out->is_peft ||
                           lora__text_begins(name, bytes, LOCATE_DIFFUSERS),
                       error);
}
