/* Files by their place. */
#include "format/folder.h"

#include "format/container.h"
#include "format/quote.h"
#include "platform/file.h"

#include <stdio.h>
#include <string.h>

LORA_PRIVATE lora_status lora__folder_join(const char **out,
                                           lora__arena *arena,
                                           const char *folder,
                                           size_t folder_bytes,
                                           const char *name,
                                           lora_error *error)
{
    size_t name_bytes = strlen(name);
    size_t bytes;
    char *path = NULL;

    if (lora__add_size(folder_bytes, name_bytes, &bytes) &&
        lora__add_size(bytes, 2, &bytes)) {
        path = lora__arena_alloc(arena, bytes);
    }
    if (path == NULL) {
        return lora__fail_memory(error, folder_bytes);
    }
    memcpy(path, folder, folder_bytes);
    path[folder_bytes] = '\0';
    if (lora__path_folder_bytes(path) != folder_bytes) {
        path[folder_bytes++] = '/';
    }
    memcpy(path + folder_bytes, name, name_bytes + 1);
    *out = path;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__folder_beside(const char **out,
                                             lora__arena *arena,
                                             const char *path,
                                             const char *name,
                                             lora_error *error)
{
    return lora__folder_join(out, arena, path, lora__path_folder_bytes(path),
                             name, error);
}

LORA_PRIVATE int lora__folder_has_file(const char *path)
{
    lora__path_type type;

    return lora__path_type_of(&type, path) == 0 && type == LORA__PATH_FILE;
}

typedef struct folder_search {
    lora__folder_names *out;
    lora_context *context;
    const char *folder;
    int (*wanted)(const char *name);
    size_t enough;
    lora_error *error;
    lora_status status;
} folder_search;

/* Keep a name among the first ones. */
static void folder_keep(lora__folder_names *out, const char *name, size_t bytes)
{
    size_t kept =
        out->count < LORA__FOLDER_KEPT ? out->count : LORA__FOLDER_KEPT;
    size_t place = 0;

    while (place < kept && strcmp(out->first[place], name) < 0) {
        place++;
    }
    if (place == LORA__FOLDER_KEPT) {
        return;
    }
    kept -= kept == LORA__FOLDER_KEPT;
    memmove(out->first[place + 1], out->first[place],
            (kept - place) * sizeof out->first[0]);
    memcpy(out->first[place], name, bytes + 1);
}

static int folder_meet(void *user, const char *name)
{
    folder_search *s = user;
    size_t bytes = strlen(name);
    lora__arena arena;
    const char *path;

    if (name[0] == '.' || bytes >= LORA__FOLDER_NAME || !s->wanted(name)) {
        return 1;
    }
    lora__arena_init(&arena, s->context);
    s->status = lora__folder_join(&path, &arena, s->folder, strlen(s->folder),
                                  name, s->error);
    if (s->status == LORA_OK && lora__folder_has_file(path)) {
        folder_keep(s->out, name, bytes);
        s->out->count++;
    }
    lora__arena_destroy(&arena);
    return s->status == LORA_OK && s->out->count < s->enough;
}

LORA_PRIVATE lora_status lora__folder_find(lora__folder_names *out,
                                           lora_context *context,
                                           const char *folder,
                                           int (*wanted)(const char *name),
                                           size_t enough,
                                           lora_error *error)
{
    folder_search s = {out, context, folder, wanted, enough, error, LORA_OK};
    int32_t os_error;

    memset(out, 0, sizeof *out);
    os_error =
        lora__folder_each(folder[0] == '\0' ? "." : folder, folder_meet, &s);
    if (s.status != LORA_OK) {
        return s.status;
    }
    return os_error == 0
               ? LORA_OK
               : lora__fail_os(error, os_error, folder, "cannot list");
}

LORA_PRIVATE lora_status lora__folder_refuse(const char *folder,
                                             const lora__folder_names *names,
                                             lora_error *error)
{
    char list[200] = "";
    size_t shown =
        names->count < LORA__FOLDER_KEPT ? names->count : LORA__FOLDER_KEPT;

    for (size_t i = 0; i < shown; i++) {
        size_t used = strlen(list);
        char name[46];
        lora__quote(name, sizeof name, names->first[i],
                    strlen(names->first[i]));
        snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ",
                 name);
    }
    return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, folder,
                      "several files may be meant, name one: %s%s", list,
                      shown < names->count ? " ..." : "");
}

LORA_PRIVATE lora_status lora__folder_only(const char **out,
                                           lora__arena *arena,
                                           const char *folder,
                                           int (*wanted)(const char *name),
                                           lora_error *error)
{
    lora__folder_names names;

    *out = NULL;
    TRY(lora__folder_find(&names, arena->context, folder, wanted, SIZE_MAX,
                          error));
    if (names.count > 1) {
        return lora__folder_refuse(folder, &names, error);
    }
    return names.count == 0
               ? LORA_OK
               : lora__folder_join(out, arena, folder, strlen(folder),
                                   names.first[0], error);
}

static lora_status folder_read(char **out,
                               size_t *out_bytes,
                               lora__arena *arena,
                               const lora_reader *reader,
                               const char *path,
                               uint64_t most,
                               int cut,
                               lora_error *error)
{
    uint64_t bytes;
    char *text;

    TRY(reader->size(reader->user, &bytes));
    if (bytes > most) {
        if (!cut) {
            return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, path,
                              "%llu bytes, over the limit of %llu",
                              (unsigned long long)bytes,
                              (unsigned long long)most);
        }
        bytes = most;
    }
    text =
        bytes < SIZE_MAX ? lora__arena_alloc(arena, (size_t)bytes + 1) : NULL;
    if (text == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY(lora__reader_read(reader, 0, text, (size_t)bytes, path, error));
    text[bytes] = '\0';
    *out = text;
    *out_bytes = (size_t)bytes;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__folder_load(char **out,
                                           size_t *out_bytes,
                                           lora__arena *arena,
                                           const char *path,
                                           uint64_t most,
                                           int cut,
                                           lora_error *error)
{
    lora_reader reader;
    lora_status status;

    TRY(lora__reader_open_file(&reader, arena->context, path, 0, error));
    status =
        folder_read(out, out_bytes, arena, &reader, path, most, cut, error);
    reader.destroy(reader.user);
    return status;
}
