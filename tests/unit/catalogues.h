/* The catalogues of the families' targets, which lie beside this tree or in the
 * folder given as argument: tables that were traced through the original
 * converters.
 */
#ifndef TEST_CATALOGUES_H
#define TEST_CATALOGUES_H

#include "names/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the others */
#include <cmocka.h>

static const char *folder; /* or NULL */

#define MAX_ROWS 2000
#define MAX_NAME 200
#define MAX_KEY (MAX_NAME + 40)

/* One line of a catalogue, as far as the rules know it. */
typedef struct row {
    char target[MAX_NAME];
    char kohya[MAX_NAME];
    char original[MAX_NAME]; /* module in the checkpoint, prefix included */
    char tensor[MAX_NAME];   /* the same with its parameter */
    char part[64];           /* as in the catalogue, in rows */
    lora__layer layer;
    int is_default;
    int is_core; /* an adapter of all blocks has it */
    int64_t width;
    int64_t shape[5]; /* of the target */
    int ndim;
    int has_bias;
    int seen;
} row;

static inline FILE *open_catalogue(const char *family)
{
    char source[] = __FILE__;
    char *slash = strrchr(source, '/');
    const char *places[] = {NULL, NULL, "../shared/catalogues",
                            "../../shared/catalogues"};
    char beside[1024];
    char path[1200];

    if (slash != NULL) {
        *slash = '\0';
        snprintf(beside, sizeof beside, "%s/../../../shared/catalogues",
                 source);
        places[1] = beside;
    }
    places[0] = folder;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        FILE *file;
        if (places[i] == NULL) {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s.tsv", places[i], family);
        file = fopen(path, "r");
        if (file != NULL) {
            return file;
        }
    }
    return NULL;
}

/* 1 for names like "blocks.3.x" and "layers.12.y". */
static inline int is_in_block(const char *name)
{
    static const char *const words[] = {"block.", "blocks.", "layer.",
                                        "layers."};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *at = strstr(name, words[i]);
        if (at != NULL) {
            at += strlen(words[i]);
            if (*at >= '0' && *at <= '9') {
                return 1;
            }
        }
    }
    return 0;
}

/* The module's name: a tensor's less the name of the parameter. */
static inline void cut_parameter(char *name)
{
    static const char *const ends[] = {".weight", ".scale", "_weight"};

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t bytes = strlen(name);
        size_t end = strlen(ends[i]);
        if (bytes > end && strcmp(name + bytes - end, ends[i]) == 0) {
            name[bytes - end] = '\0';
            return;
        }
    }
}

static inline lora__layer layer_of(const char *kind, const char *shape)
{
    size_t bytes = strlen(shape);

    if (strncmp(kind, "conv", 4) == 0) {
        const char *kernel = bytes > 4 ? shape + bytes - 4 : "";
        return strcmp(kernel, "x1x1") == 0   ? LORA__LAYER_CONV1
               : strcmp(kernel, "x3x3") == 0 ? LORA__LAYER_CONV3
                                             : LORA__LAYER_CONV;
    }
    return strcmp(kind, "linear") == 0      ? LORA__LAYER_LINEAR
           : strcmp(kind, "norm") == 0      ? LORA__LAYER_NORM
           : strcmp(kind, "embedding") == 0 ? LORA__LAYER_EMBEDDING
           : strcmp(kind, "param") == 0     ? LORA__LAYER_PARAMETER
                                            : LORA__LAYER_UNKNOWN;
}

/* component kind diffusers original part kohya kohya_use shape bias; 0 at the
 * end. Buffers have no kohya name. */
static inline int read_row(row *out, FILE *file)
{
    static const char *const components[][2] = {
        {"unet", "unet"},          {"transformer", "transformer"},
        {"prior", "prior"},        {"te1", "text_encoder"},
        {"te2", "text_encoder_2"}, {"te3", "text_encoder_3"}};
    char line[1024];
    char *fields[9];
    const char *component = NULL;

    do {
        char *at = line;
        if (fgets(line, sizeof line, file) == NULL) {
            return 0;
        }
        for (int i = 0; i < 9; i++) {
            fields[i] = at;
            at += strcspn(at, "\t\n");
            assert_true(*at != '\0');
            *at++ = '\0';
        }
    } while (strcmp(fields[1], "buffer") == 0);
    for (size_t i = 0; i < sizeof components / sizeof components[0]; i++) {
        if (strcmp(fields[0], components[i][0]) == 0) {
            component = components[i][1];
        }
    }
    assert_non_null(component);
    memset(out, 0, sizeof *out);
    snprintf(out->target, sizeof out->target, "%s.%s", component, fields[2]);
    snprintf(out->tensor, sizeof out->tensor, "%s", fields[3]);
    snprintf(out->original, sizeof out->original, "%s", fields[3]);
    cut_parameter(out->original);
    snprintf(out->part, sizeof out->part, "%s", fields[4]);
    snprintf(out->kohya, sizeof out->kohya, "%s", fields[5]);
    out->is_default = strcmp(fields[6], "default") == 0;
    out->layer = layer_of(fields[1], fields[7]);
    out->is_core =
        fields[0][0] != 't' || fields[0][1] == 'r'
            ? out->layer == LORA__LAYER_LINEAR && is_in_block(fields[2])
            : 0;
    for (char *at = fields[7]; *at != '\0'; at += *at == 'x') {
        assert_true(out->ndim < 5);
        out->shape[out->ndim++] = strtol(at, &at, 10);
    }
    out->width = out->ndim < 2 ? 1 : out->shape[1];
    out->has_bias = fields[8][0] == '1';
    return 1;
}

/* Append the rows of a catalogue, or of its text encoders alone. */
static int
read_catalogue(row *rows, size_t *count, const char *id, int encoders)
{
    FILE *file = open_catalogue(id);
    char header[1024];

    if (file == NULL) {
        return 0;
    }
    assert_non_null(fgets(header, sizeof header, file));
    while (read_row(&rows[*count], file)) {
        *count += !encoders || strncmp(rows[*count].target, "text", 4) == 0;
        assert_true(*count < MAX_ROWS);
    }
    fclose(file);
    return 1;
}

/* The catalogue of a family, with the text encoders of its pipeline, or NULL
 * where there is none. The caller frees it. */
static inline row *load_catalogue(const char *family, size_t *count)
{
    row *rows = calloc(MAX_ROWS, sizeof *rows);

    assert_non_null(rows);
    *count = 0;
    if (!read_catalogue(rows, count, family, 0)) {
        free(rows);
        return NULL;
    }
    if (strncmp(family, "sd35", 4) == 0) {
        assert_true(read_catalogue(rows, count, "sd3_medium", 1));
    }
    return rows;
}

/* The catalogue's "0:3072,6144:9216/9216" in the units of the rules. */
static inline void check_rows(const lora__row_set *rows, const char *part)
{
    char text[64];
    char *at = text;
    const char *slash = strchr(part, '/');
    unsigned long total;
    unsigned long unit;

    if (strcmp(part, "T") == 0 || strcmp(part, "-") == 0) {
        assert_int_equal(rows->units, 0);
        assert_int_equal(rows->slice_count, 0);
        assert_int_equal(rows->transposed, part[0] == 'T');
        return;
    }
    assert_non_null(slash);
    assert_true(rows->units > 1);
    assert_int_equal(rows->transposed, 0);
    total = strtoul(slash + 1, NULL, 10);
    assert_int_equal(total % rows->units, 0);
    unit = total / rows->units;
    for (size_t i = 0; i < rows->slice_count; i++) {
        at += sprintf(at, "%s%lu:%lu", i == 0 ? "" : ",",
                      rows->slices[i].begin * unit, rows->slices[i].end * unit);
    }
    sprintf(at, "/%lu", total);
    assert_string_equal(text, part);
}

static inline const char *past_component(const char *target)
{
    return strchr(target, '.') + 1;
}

static inline int is_text(const row *r)
{
    return strncmp(r->target, "text", 4) == 0;
}

#endif
