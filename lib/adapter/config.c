/* Reading PEFT's configuration. */
#include "adapter/config.h"

#include "core/text.h"
#include "format/json.h"

#include <math.h>
#include <string.h>

#define CONFIG_MAX_DEPTH 16

/* There are five components at most in any pipeline we know; a text with
 * hundreds is made to be slow. */
#define CONFIG_MAX_COMPONENTS 16

/* Parts of a path that a pattern is compared with, other than all: models nest
 * a dozen deep, and names of thousands of dots would take their square. */
#define CONFIG_MAX_PARTS 64

/* The end of a path that is compared with those of feedforward layers. */
#define CONFIG_MAX_END 1024

/* A new entry, put before the others. */
static lora_status config_add(lora__peft_config **list,
                              lora__arena *arena,
                              const char *component,
                              size_t bytes,
                              lora_error *error)
{
    lora__peft_config *config;
    void *memory;

    TRY(lora__arena_zeroed(&memory, arena, 1, sizeof *config, error));
    config = memory;
    lora__map_init(&config->alphas.ends, arena->context);
    lora__map_init(&config->alphas.anchored, arena->context);
    lora__map_init(&config->ranks.ends, arena->context);
    lora__map_init(&config->ranks.anchored, arena->context);
    lora__map_init(&config->feedforward, arena->context);
    config->oft.terms = 5.0; /* PEFT's */
    config->oft.eps = 6e-5;
    TRY(lora__arena_string(&config->component, arena, component, bytes, error));
    config->next = *list;
    *list = config;
    return LORA_OK;
}

/* The entry of a component, made when first met. */
static lora_status config_entry(lora__peft_config **out,
                                lora__peft_config **list,
                                lora__arena *arena,
                                const lora__json_event *key,
                                size_t bytes,
                                lora_error *error)
{
    lora__peft_config *config = *list;
    size_t count = 0;

    for (; config != NULL; config = config->next, count++) {
        if (strlen(config->component) == bytes &&
            memcmp(config->component, key->text, bytes) == 0) {
            *out = config;
            return LORA_OK;
        }
    }
    if (count == CONFIG_MAX_COMPONENTS) {
        return lora__fail(error, LORA_ERROR_FORMAT, key->offset, NULL,
                          "more than %d components", CONFIG_MAX_COMPONENTS);
    }
    TRY(config_add(list, arena, key->text, bytes, error));
    *out = *list;
    return LORA_OK;
}

/* An object of pattern: number; other values are passed over, and of a
 * pattern that is there twice the first one holds. */
static lora_status config_patterns(lora__peft_patterns *out,
                                   lora__json *json,
                                   lora__arena *arena,
                                   lora_error *error)
{
    lora__json_event event;

    for (;;) {
        char *text;
        size_t bytes;
        size_t place;
        size_t skip;
        void *values = out->values;

        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_KEY) {
            return LORA_OK;
        }
        text = lora__arena_alloc(arena, event.bytes + 1);
        if (text == NULL) {
            return lora__fail_memory(error, event.bytes);
        }
        TRY(lora__json_decode(text, &bytes, &event, error));
        skip = bytes > 0 && text[0] == '^' ? 1 : 0;
        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_NUMBER) {
            TRY(lora__json_skip(json, &event, error));
            continue;
        }
        if (strpbrk(text + skip, "\\*+?[](){}|$") != NULL) {
            out->unread = text;
            continue;
        }
        TRY(lora__arena_grow(&values, &out->capacity, arena, out->count + 1,
                             sizeof(double), error));
        out->values = values;
        TRY(lora__map_add(&place, skip ? &out->anchored : &out->ends,
                          text + skip, bytes - skip, out->count, error));
        if (place == out->count) {
            out->values[out->count++] =
                lora__text_to_double(event.text, event.bytes, &bytes);
        }
    }
}

/* The list of IA3's feedforward layers. */
static lora_status config_list(lora__peft_config *config,
                               lora__json *json,
                               lora__arena *arena,
                               lora_error *error)
{
    lora__json_event event;

    config->feedforward_given = 1;
    for (;;) {
        char *text;
        size_t bytes;
        size_t place;

        TRY(lora__json_next(&event, json, error));
        if (event.type == LORA__JSON_ARRAY_END) {
            return LORA_OK;
        }
        if (event.type != LORA__JSON_STRING) {
            TRY(lora__json_skip(json, &event, error));
            continue;
        }
        text = lora__arena_alloc(arena, event.bytes + 1);
        if (text == NULL) {
            return lora__fail_memory(error, event.bytes);
        }
        TRY(lora__json_decode(text, &bytes, &event, error));
        TRY(lora__map_add(&place, &config->feedforward, text, bytes, 0, error));
    }
}

/* 1 if the field has this name. */
static int config_is(const char *field, size_t bytes, const char *name)
{
    return strlen(name) == bytes && memcmp(field, name, bytes) == 0;
}

/* A field of OFT's, true or false. */
static void
config_oft_flag(lora__peft_oft *oft, const char *field, size_t bytes, int value)
{
    if (config_is(field, bytes, "use_cayley_neumann")) {
        oft->is_told = 1;
        oft->series = value;
    } else if (config_is(field, bytes, "block_share")) {
        oft->shared = value;
    } else if (config_is(field, bytes, "coft")) {
        oft->limited = value;
    }
}

/* "1.2.3" as 1002; what is beyond 999 is not told apart. */
static int config_version(const char *text, size_t bytes)
{
    int numbers[2] = {0, 0};
    size_t n = 0;

    for (size_t i = 0; i < bytes && n < 2; i++) {
        if (text[i] == '.') {
            n++;
        } else if (text[i] >= '0' && text[i] <= '9' && numbers[n] < 100) {
            numbers[n] = 10 * numbers[n] + text[i] - '0';
        }
    }
    return 1000 * numbers[0] + numbers[1];
}

/* One "component.field": value of the top object. LoHa and LoKr have "alpha"
 * where LoRA has "lora_alpha". */
static lora_status config_field(lora__peft_config *config,
                                const char *field,
                                size_t bytes,
                                lora__json *json,
                                lora__arena *arena,
                                lora_error *error)
{
    lora__json_event event;
    size_t used;

    TRY(lora__json_next(&event, json, error));
    if (event.type == LORA__JSON_NUMBER) {
        double value = lora__text_to_double(event.text, event.bytes, &used);
        if (config_is(field, bytes, "lora_alpha") ||
            config_is(field, bytes, "alpha")) {
            config->alpha = value;
        } else if (config_is(field, bytes, "r")) {
            config->rank = value;
        } else if (config_is(field, bytes, "num_cayley_neumann_terms")) {
            config->oft.terms = value;
        } else if (config_is(field, bytes, "eps")) {
            config->oft.eps = value;
        } else if (config_is(field, bytes, "init_r")) {
            config->first_rank = value;
        }
    } else if (event.type == LORA__JSON_STRING) {
        if (config_is(field, bytes, "peft_version")) {
            config->oft.version = config_version(event.text, event.bytes);
        }
    } else if (event.type == LORA__JSON_FALSE) {
        config_oft_flag(&config->oft, field, bytes, 0);
    } else if (event.type == LORA__JSON_TRUE) {
        config_oft_flag(&config->oft, field, bytes, 1);
        config->rslora |= config_is(field, bytes, "use_rslora");
        config->transposed |= config_is(field, bytes, "fan_in_fan_out");
    } else if (event.type == LORA__JSON_OBJECT_BEGIN) {
        if (config_is(field, bytes, "alpha_pattern")) {
            return config_patterns(&config->alphas, json, arena, error);
        }
        if (config_is(field, bytes, "rank_pattern")) {
            return config_patterns(&config->ranks, json, arena, error);
        }
    } else if (event.type == LORA__JSON_ARRAY_BEGIN &&
               config_is(field, bytes, "feedforward_modules")) {
        return config_list(config, json, arena, error);
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
        lora__peft_config *config = NULL;
        size_t dot;

        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_KEY) {
            break;
        }
        dot = event.bytes;
        while (dot > 0 && event.text[dot - 1] != '.') {
            dot--;
        }
        TRY(config_entry(&config, list, arena, &event, dot == 0 ? 0 : dot - 1,
                         error));
        TRY(config_field(config, event.text + dot, event.bytes - dot, json,
                         arena, error));
    }
    return lora__json_next(&event, json, error); /* nothing may follow */
}

LORA_PRIVATE lora_status lora__config_parse(lora__peft_config **out,
                                            lora__arena *arena,
                                            const char *text,
                                            size_t bytes,
                                            const char *subject,
                                            lora_error *error)
{
    lora__json json;
    lora_status status;

    lora__json_init(&json, text, bytes, 0, CONFIG_MAX_DEPTH);
    status = config_read(out, &json, arena, error);
    if (status != LORA_OK) {
        lora__error_set_subject(error, subject);
    }
    return status;
}

LORA_PRIVATE lora_status lora__config_for_all(lora__peft_config **out,
                                              lora__arena *arena,
                                              const char *alpha,
                                              lora_error *error)
{
    size_t bytes = strlen(alpha);
    size_t used;
    double value = lora__text_to_double(alpha, bytes, &used);

    TRY(config_add(out, arena, "", 0, error));
    (*out)->alpha = used == bytes && bytes > 0 ? value : (double)NAN;
    return LORA_OK;
}

LORA_PRIVATE void lora__config_destroy(lora__peft_config *config)
{
    for (; config != NULL; config = config->next) {
        lora__map_destroy(&config->alphas.ends);
        lora__map_destroy(&config->alphas.anchored);
        lora__map_destroy(&config->ranks.ends);
        lora__map_destroy(&config->ranks.anchored);
        lora__map_destroy(&config->feedforward);
    }
}

/* The last parts of a path. */
static const char *config_last_parts(const char *path)
{
    const char *at = path + strlen(path);
    size_t dots = 0;

    while (at > path && (at[-1] != '.' || ++dots < CONFIG_MAX_PARTS)) {
        at--;
    }
    return at;
}

/* PEFT matches a pattern as the regular expression `(.*\.)?(pattern)$`. What
 * tools write are plain module paths: such a one is the path, or ends it after
 * a dot, or with "^" is the path. The first of the file holds. */
static int config_match(double *out,
                        const lora__peft_config *config,
                        const lora__peft_patterns *patterns,
                        const char *target,
                        const char *path)
{
    size_t best = SIZE_MAX;
    size_t place;

    /* Where the configuration is that of a whole model, the name of a component
     * may be ours, or be in the model's own names. */
    const char *whole = config->component[0] == '\0' ? target : path;

    if (lora__map_find(&place, &patterns->anchored, path, strlen(path))) {
        best = place;
    }
    if (lora__map_find(&place, &patterns->anchored, whole, strlen(whole)) &&
        place < best) {
        best = place;
    }
    if (lora__map_find(&place, &patterns->ends, whole, strlen(whole)) &&
        place < best) {
        best = place;
    }
    for (const char *end = config_last_parts(whole); end != NULL;
         end = strchr(end, '.')) {
        end += *end == '.' ? 1 : 0;
        if (lora__map_find(&place, &patterns->ends, end, strlen(end)) &&
            place < best) {
            best = place;
        }
    }
    if (best != SIZE_MAX) {
        *out = patterns->values[best];
    }
    return best != SIZE_MAX;
}

LORA_PRIVATE size_t lora__config_component(const char *target)
{
    static const char *const components[] = {
        "unet",         "transformer",    "prior",
        "text_encoder", "text_encoder_2", "text_encoder_3"};
    size_t bytes = strcspn(target, ".");

    for (size_t i = 0; i < LORA__COUNT(components); i++) {
        if (target[bytes] == '.' && strlen(components[i]) == bytes &&
            memcmp(components[i], target, bytes) == 0) {
            return bytes;
        }
    }
    return 0;
}

/* What is said of the component that a target is in, or NULL. */
static const lora__peft_config *
config_of(const lora__peft_config *config, const char *target, size_t component)
{
    for (; config != NULL; config = config->next) {
        size_t bytes = strlen(config->component);
        if (bytes == 0 || (bytes == component &&
                           memcmp(config->component, target, bytes) == 0)) {
            return config;
        }
    }
    return NULL;
}

LORA_PRIVATE int lora__config_alpha(double *out_alpha,
                                    int *out_rslora,
                                    const lora__peft_config *config,
                                    const char *target)
{
    size_t component = lora__config_component(target);
    const char *path = target + component + (component != 0 ? 1 : 0);

    config = config_of(config, target, component);
    if (config == NULL) {
        return 0;
    }
    *out_rslora = config->rslora;
    *out_alpha = config->alpha;
    return config_match(out_alpha, config, &config->alphas, target, path) ||
           config->alpha != 0;
}

LORA_PRIVATE double lora__config_rank(const lora__peft_config *config,
                                      const char *target)
{
    size_t component = lora__config_component(target);
    const char *path = target + component + (component != 0 ? 1 : 0);
    double rank = 8.0; /* PEFT's */

    config = config_of(config, target, component);
    if (config == NULL) {
        return rank;
    }
    if (config->ranks.unread != NULL) {
        return (double)NAN;
    }
    rank = config->rank != 0 ? config->rank : rank;
    (void)config_match(&rank, config, &config->ranks, target, path);
    return rank;
}

LORA_PRIVATE double lora__config_first_rank(const lora__peft_config *config,
                                            const char *target)
{
    config = config_of(config, target, lora__config_component(target));
    return config == NULL ? 0.0 : config->first_rank;
}

LORA_PRIVATE int lora__config_transposed(const lora__peft_config *config,
                                         const char *target)
{
    config = config_of(config, target, lora__config_component(target));
    return config != NULL && config->transposed;
}

LORA_PRIVATE const lora__peft_oft *
lora__config_oft(const lora__peft_config *config, const char *target)
{
    config = config_of(config, target, lora__config_component(target));
    return config == NULL || !config->oft.is_told ? NULL : &config->oft;
}

/* PEFT compares the ends of paths, wherever they begin. */
LORA_PRIVATE int lora__config_feedforward(int *out,
                                          const lora__peft_config *config,
                                          const char *target)
{
    size_t bytes = strlen(target);
    size_t place;

    config = config_of(config, target, lora__config_component(target));
    if (config == NULL || !config->feedforward_given) {
        return 0;
    }
    *out = 0;
    for (size_t at = bytes > CONFIG_MAX_END ? bytes - CONFIG_MAX_END : 0;
         at <= bytes && !*out; at++) {
        *out = lora__map_find(&place, &config->feedforward, target + at,
                              bytes - at);
    }
    return 1;
}
