/* Finding the files of a model.
 *
 * diffusers writes a folder for each component, with one file in it, or some
 * and their index; of the same weights there may be variants with a word before
 * the file's extension.
 */
#include "model/pipeline.h"

#include "core/text.h"
#include "format/folder.h"
#include "format/shards.h"
#include "platform/file.h"

#include <string.h>

static const char *const pipeline_components[LORA__PIPELINE_MAX] = {
    "unet",         "transformer",    "prior",
    "text_encoder", "text_encoder_2", "text_encoder_3",
};

/* Of each the first that is there: the second name is that of text encoders,
 * which another library writes. */
#define PIPELINE_MODEL "diffusion_pytorch_model"
static const char *const pipeline_names[] = {
    PIPELINE_MODEL ".safetensors.index.json",
    "model.safetensors.index.json",
    PIPELINE_MODEL ".safetensors",
    "model.safetensors",
    PIPELINE_MODEL ".bin",
    "pytorch_model.bin",
    PIPELINE_MODEL ".safetensors.index.fp16.json",
    "model.safetensors.index.fp16.json",
    PIPELINE_MODEL ".fp16.safetensors",
    "model.fp16.safetensors",
    PIPELINE_MODEL ".fp16.bin",
    "pytorch_model.fp16.bin",
};

LORA_PRIVATE const char *lora__pipeline_component(const char *name)
{
    for (size_t i = 0; i < LORA__PIPELINE_MAX; i++) {
        if (strcmp(name, pipeline_components[i]) == 0) {
            return pipeline_components[i];
        }
    }
    return NULL;
}

static int pipeline_is_folder(const char *path)
{
    lora__path_type type;

    return lora__path_type_of(&type, path) == 0 && type == LORA__PATH_FOLDER;
}

/* The weights of a folder by the names that diffusers gives; NULL: none. */
static lora_status pipeline_find_named(const char **out,
                                       lora__arena *arena,
                                       const char *folder,
                                       lora_error *error)
{
    for (size_t i = 0; i < LORA__COUNT(pipeline_names); i++) {
        TRY(lora__folder_join(out, arena, folder, strlen(folder),
                              pipeline_names[i], error));
        if (lora__folder_has_file(*out)) {
            return LORA_OK;
        }
    }
    *out = NULL;
    return LORA_OK;
}

static int pipeline_is_safetensors(const char *name)
{
    return lora__text_ends(name, strlen(name), ".safetensors");
}

/* The weights of a component's folder; NULL: none. */
static lora_status pipeline_find(const char **out,
                                 lora__arena *arena,
                                 const char *folder,
                                 lora_error *error)
{
    TRY(pipeline_find_named(out, arena, folder, error));
    if (*out == NULL) {
        TRY(lora__folder_only(out, arena, folder, lora__shards_is_index,
                              error));
    }
    return *out != NULL ? LORA_OK
                        : lora__folder_only(out, arena, folder,
                                            pipeline_is_safetensors, error);
}

static int pipeline_is_separator(char c)
{
    return c == '/' || c == '\\';
}

/* The component that a folder is named after, or "". */
static const char *pipeline_component_of(const char *folder)
{
    size_t end = strlen(folder);

    while (end > 0 && pipeline_is_separator(folder[end - 1])) {
        end--;
    }
    for (size_t i = 0; i < LORA__PIPELINE_MAX; i++) {
        const char *name = pipeline_components[i];
        size_t bytes = strlen(name);
        if (bytes <= end && memcmp(folder + end - bytes, name, bytes) == 0 &&
            (bytes == end || pipeline_is_separator(folder[end - bytes - 1]))) {
            return name;
        }
    }
    return "";
}

/* A folder without components in it: one of them, or a place for one file. */
static lora_status pipeline_locate_one(lora__pipeline_file *out,
                                       lora__arena *arena,
                                       const char *folder,
                                       lora_error *error)
{
    TRY(pipeline_find_named(&out->path, arena, folder, error));
    if (out->path != NULL) {
        out->component = pipeline_component_of(folder);
        return LORA_OK;
    }
    /* A name that diffusers does not give tells nothing of its layout. */
    TRY(pipeline_find(&out->path, arena, folder, error));
    return out->path != NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, folder,
                            "a folder without a model: neither components with "
                            "weights, such as unet/, nor one index or "
                            ".safetensors file");
}

LORA_PRIVATE lora_status
lora__pipeline_locate(lora__pipeline_file out[LORA__PIPELINE_MAX],
                      size_t *out_count,
                      lora__arena *arena,
                      const char *path,
                      lora_error *error)
{
    size_t count = 0;

    out[0].component = "";
    out[0].path = path;
    *out_count = 1;
    if (!pipeline_is_folder(path)) {
        return LORA_OK;
    }
    for (size_t i = 0; i < LORA__PIPELINE_MAX; i++) {
        const char *folder;

        TRY(lora__folder_join(&folder, arena, path, strlen(path),
                              pipeline_components[i], error));
        if (!pipeline_is_folder(folder)) {
            continue;
        }
        TRY(pipeline_find(&out[count].path, arena, folder, error));
        if (out[count].path != NULL) {
            out[count++].component = pipeline_components[i];
        }
    }
    if (count == 0) {
        out[0].component = "";
        return pipeline_locate_one(&out[0], arena, path, error);
    }
    *out_count = count;
    return LORA_OK;
}
