/* Reading PEFT's configuration. */
#include "adapter/config.h"

#include "core/text.h"
#include "format/json.h"

#include <string.h>

#define CONFIG_MAX_DEPTH 16

/* The entry of a component, made when first met. */
static lora_status config_component(lora__peft_config **out,
                                    lora__peft_config **list,
                                    lora__arena *arena,
                                    const char *component,
                                    size_t bytes,
                                    lora_error *error)
{
    lora__peft_config *config = *list;
    void *memory;

    while (config != NULL &&
           !(strlen(config->component) == bytes &&
             memcmp(config->component, component, bytes) == 0)) {
        config = config->next;
    }
    if (config == NULL) {
        TRY(lora__arena_zeroed(&memory, arena, 1, sizeof *config, error));
        config = memory;
        TRY(lora__arena_string(&config->component, arena, component, bytes,
                               error));
        config->next = *list;
        *list = config;
    }
    *out = config;
    return LORA_OK;
}

/* An object of pattern: number; other values are passed over. */
static lora_status config_patterns(lora__peft_pattern **out,
                                   lora__json *json,
                                   lora__arena *arena,
                                   lora_error *error)
{
    lora__json_event event;
    lora__peft_pattern **end = out;

    while (*end != NULL) {
        end = &(*end)->next;
    }
    for (;;) {
        lora__peft_pattern *pattern;
        void *memory;
        char *text;
        size_t bytes;

        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_KEY) {
            return LORA_OK;
        }
        text = lora__arena_alloc(arena, event.bytes + 1);
        if (text == NULL) {
            return lora__fail_memory(error, event.bytes);
        }
        TRY(lora__json_decode(text, &bytes, &event, error));
        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_NUMBER) {
            TRY(lora__json_skip(json, &event, error));
            continue;
        }
        TRY(lora__arena_zeroed(&memory, arena, 1, sizeof *pattern, error));
        pattern = memory;
        pattern->pattern = text;
        pattern->value = lora__text_to_double(event.text, event.bytes, &bytes);
        *end = pattern;
        end = &pattern->next;
    }
}

/* One "component.field": value of the top object. */
static lora_status config_field(lora__peft_config *config,
                                const char *field,
                                size_t field_bytes,
                                lora__json *json,
                                lora__arena *arena,
                                lora_error *error)
{
    lora__json_event event;
    size_t used;

    TRY(lora__json_next(&event, json, error));
    if (event.type == LORA__JSON_NUMBER) {
        double value = lora__text_to_double(event.text, event.bytes, &used);
        if (field_bytes == 1 && field[0] == 'r') {
            config->rank = value;
        } else if (field_bytes == 10 && memcmp(field, "lora_alpha", 10) == 0) {
            config->alpha = value;
        }
    } else if (event.type == LORA__JSON_TRUE && field_bytes == 10 &&
               memcmp(field, "use_rslora", 10) == 0) {
        config->rslora = 1;
    } else if (event.type == LORA__JSON_OBJECT_BEGIN && field_bytes == 12 &&
               memcmp(field, "rank_pattern", 12) == 0) {
        return config_patterns(&config->rank_patterns, json, arena, error);
    } else if (event.type == LORA__JSON_OBJECT_BEGIN && field_bytes == 13 &&
               memcmp(field, "alpha_pattern", 13) == 0) {
        return config_patterns(&config->alpha_patterns, json, arena, error);
    }
    return lora__json_skip(json, &event, error);
}

static lora_status config_read(lora__peft_config **list,
                               lora__json *json,
                               lora__arena *arena,
                               lora_error *error)
{
    lora__json_event event;

    TRY(lora__json_next(&event, json, error));
    if (event.type != LORA__JSON_OBJECT_BEGIN) {
        return lora__fail(error, LORA_ERROR_FORMAT, event.offset, NULL,
                          "not a JSON object");
    }
    for (;;) {
        lora__peft_config *config;
        size_t dot;

        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_KEY) {
            break;
        }
        dot = event.bytes;
        while (dot > 0 && event.text[dot - 1] != '.') {
            dot--;
        }
        TRY(config_component(&config, list, arena, event.text,
                             dot == 0 ? 0 : dot - 1, error));
        TRY(config_field(config, event.text + dot, event.bytes - dot, json,
                         arena, error));
    }
    return lora__json_next(&event, json, error); /* nothing may follow */
}

LORA_PRIVATE lora_status lora__config_parse(const lora__peft_config **out,
                                            lora__arena *arena,
                                            const char *text,
                                            size_t bytes,
                                            const char *subject,
                                            lora_error *error)
{
    lora__json json;
    lora__peft_config *list = NULL;
    lora_status status;

    lora__json_init(&json, text, bytes, 0, CONFIG_MAX_DEPTH);
    status = config_read(&list, &json, arena, error);
    if (status != LORA_OK) {
        lora__error_set_subject(error, subject);
        return status;
    }
    *out = list;
    return LORA_OK;
}

/* PEFT matches a pattern as the regular expression `(.*\.)?(pattern)$`; what
 * tools write are plain module paths, so it is the path or ends it after a
 * dot. The first match holds. */
static int
config_match(double *out, const lora__peft_pattern *pattern, const char *path)
{
    size_t bytes = strlen(path);

    for (; pattern != NULL; pattern = pattern->next) {
        const char *text =
            pattern->pattern + (pattern->pattern[0] == '^' ? 1 : 0);
        size_t length = strlen(text);
        if (lora__text_ends(path, bytes, text) &&
            (bytes == length || path[bytes - length - 1] == '.')) {
            *out = pattern->value;
            return 1;
        }
    }
    return 0;
}

LORA_PRIVATE int lora__config_alpha(double *out_alpha,
                                    int *out_rslora,
                                    const lora__peft_config *config,
                                    const char *target)
{
    const char *dot = strchr(target, '.');
    size_t component = dot == NULL ? 0 : (size_t)(dot - target);
    const char *path = dot == NULL ? target : dot + 1;

    for (; config != NULL; config = config->next) {
        size_t bytes = strlen(config->component);
        if (bytes != 0 && !(bytes == component &&
                            memcmp(config->component, target, bytes) == 0)) {
            continue;
        }
        *out_rslora = config->rslora;
        *out_alpha = config->alpha;
        return config_match(out_alpha, config->alpha_patterns, path) ||
               config->alpha != 0;
    }
    return 0;
}
