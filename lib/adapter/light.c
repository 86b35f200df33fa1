/* Recipes of Light-LoRA, and what they make. */
#include "adapter/light.h"

#include "adapter/kind.h"
#include "core/text.h"
#include "format/json.h"
#include "linalg/orthogonal.h"

#include <math.h>
#include <string.h>

#define LIGHT_MAX_DEPTH 8

/* No linear layer that is adapted is larger: of a small file that says it is,
 * matrices of gigabytes would be drawn. */
#define LIGHT_MAX_SIZE (1 << 17)

/* ---- orders ------------------------------------------------------------ */

static const struct {
    const char *name;
    lora__role role;
} light_matrices[] = {
    {"down_aux", LORA__ROLE_LIGHT_DOWN_AUX},
    {"down", LORA__ROLE_DOWN},
    {"up", LORA__ROLE_UP},
    {"up_aux", LORA__ROLE_LIGHT_UP_AUX},
    {"down_up", LORA__ROLE_LIGHT_DOWN_UP},
};

static const char *const light_inits[LORA__LIGHT_INIT_COUNT] = {
    "orthogonal", "normal", "xavier", "linear"};

/* Up to the next `end`, or all; *text goes past it. */
static const char *light_word(size_t *out_bytes, const char **text, char end)
{
    const char *word = *text;
    const char *stop = strchr(word, end);

    *out_bytes = stop == NULL ? strlen(word) : (size_t)(stop - word);
    *text = stop == NULL ? word + *out_bytes : stop + 1;
    return word;
}

static int light_is(const char *word, size_t bytes, const char *name)
{
    return strlen(name) == bytes && memcmp(word, name, bytes) == 0;
}

static lora_status light_read_draw(lora__light_step *out,
                                   const char *text,
                                   size_t bytes,
                                   lora_error *error)
{
    char copy[64];
    const char *rest = copy;
    const char *word;
    size_t used;
    size_t i;

    if (bytes >= sizeof copy) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
                          "a draw of %llu letters", (unsigned long long)bytes);
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    out->init = LORA__LIGHT_ORTHOGONAL;
    out->value = 1.0;
    word = light_word(&bytes, &rest, ':');
    for (i = 0; i < LORA__COUNT(light_matrices) &&
                !light_is(word, bytes, light_matrices[i].name);
         i++) {
    }
    if (i == LORA__COUNT(light_matrices)) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
                          "\"%s\": the matrices are down_aux, down, up, "
                          "up_aux and down_up",
                          copy);
    }
    out->matrix = light_matrices[i].role;
    if (*rest == '\0') {
        return LORA_OK;
    }
    word = light_word(&bytes, &rest, ':');
    for (i = 0;
         i < LORA__LIGHT_INIT_COUNT && !light_is(word, bytes, light_inits[i]);
         i++) {
    }
    if (i == LORA__LIGHT_INIT_COUNT) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
                          "\"%s\": after a colon comes orthogonal, normal, "
                          "xavier or linear",
                          copy);
    }
    out->init = (lora__light_init)i;
    if (*rest == '\0') {
        return LORA_OK;
    }
    out->value = lora__text_to_double(rest, strlen(rest), &used);
    if (used != strlen(rest) || !(out->value - out->value == 0.0)) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
                          "\"%s\": %s is no number", copy, rest);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__light_read_order(lora__light_order *out,
                                                const char *text,
                                                lora_error *error)
{
    out->count = 0;
    do {
        size_t bytes;
        const char *word = light_word(&bytes, &text, ',');

        if (out->count == LORA__LIGHT_DRAWS) {
            return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
                              "more than %d draws", LORA__LIGHT_DRAWS);
        }
        TRY(light_read_draw(&out->draws[out->count++], word, bytes, error));
    } while (*text != '\0');
    return LORA_OK;
}

/* ---- recipes ----------------------------------------------------------- */

LORA_PRIVATE lora_status lora__light_create(lora__light **out,
                                            lora__arena *arena,
                                            uint64_t seed,
                                            const char *draws,
                                            lora_error *error)
{
    lora__light *light;
    void *memory;

    TRY(lora__arena_zeroed(&memory, arena, 1, sizeof *light, error));
    light = memory;
    *out = light;
    lora__map_init(&light->shapes, arena->context);
    light->seed = seed;
    TRY(lora__arena_string(&light->draws, arena, draws, strlen(draws), error));
    return lora__light_read_order(&light->order, draws, error);
}

LORA_PRIVATE void lora__light_destroy(lora__light *light)
{
    if (light != NULL) {
        lora__map_destroy(&light->shapes);
    }
}

LORA_PRIVATE lora_status lora__light_add_shape(lora__light *light,
                                               lora__arena *arena,
                                               const char *name,
                                               int64_t rows,
                                               int64_t cols,
                                               lora_error *error)
{
    void *sizes = light->sizes;
    size_t place;

    if (rows < 1 || cols < 1 || rows > LIGHT_MAX_SIZE ||
        cols > LIGHT_MAX_SIZE) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, name,
                          "%lld x %lld is no size of a layer", (long long)rows,
                          (long long)cols);
    }
    TRY(lora__arena_grow(&sizes, &light->size_capacity, arena,
                         light->size_count + 1, sizeof *light->sizes, error));
    light->sizes = sizes;
    TRY(lora__map_add(&place, &light->shapes, name, strlen(name),
                      light->size_count, error));
    if (place == light->size_count) {
        light->sizes[place].name = name;
        light->sizes[place].shape[0] = rows;
        light->sizes[place].shape[1] = cols;
        light->size_count++;
    }
    return LORA_OK;
}

/* A number that is a size. */
static lora_status light_size(int64_t *out, lora__json *json, lora_error *error)
{
    lora__json_event event;
    uint64_t value;

    TRY(lora__json_next(&event, json, error));
    if (event.type != LORA__JSON_NUMBER) {
        return lora__fail(error, LORA_ERROR_FORMAT, event.offset, NULL,
                          "a number belongs there");
    }
    TRY(lora__json_u64(&value, &event, error));
    if (value < 1 || value > LIGHT_MAX_SIZE) {
        return lora__fail(error, LORA_ERROR_FORMAT, event.offset, NULL,
                          "%llu is no size", (unsigned long long)value);
    }
    *out = (int64_t)value;
    return LORA_OK;
}

/* A string of the text, decoded into the arena. */
static lora_status light_text(const char **out,
                              lora__arena *arena,
                              const lora__json_event *event,
                              lora_error *error)
{
    char *text = lora__arena_alloc(arena, event->bytes + 1);
    size_t bytes;

    if (text == NULL) {
        return lora__fail_memory(error, event->bytes);
    }
    TRY(lora__json_decode(text, &bytes, event, error));
    if (strlen(text) != bytes) {
        return lora__fail(error, LORA_ERROR_FORMAT, event->offset, NULL,
                          "a text with a NUL in it");
    }
    *out = text;
    return LORA_OK;
}

/* {name: [rows, columns]} */
static lora_status light_read_shapes(lora__light *light,
                                     lora__arena *arena,
                                     lora__json *json,
                                     lora_error *error)
{
    lora__json_event event;

    for (;;) {
        const char *name;
        int64_t rows;
        int64_t cols;

        TRY(lora__json_next(&event, json, error));
        if (event.type != LORA__JSON_KEY) {
            return LORA_OK;
        }
        TRY(light_text(&name, arena, &event, error));
        TRY(lora__json_next(&event, json, error));
        if (event.type == LORA__JSON_ARRAY_BEGIN) {
            TRY(light_size(&rows, json, error));
            TRY(light_size(&cols, json, error));
            TRY(lora__json_next(&event, json, error));
        }
        if (event.type != LORA__JSON_ARRAY_END) {
            return lora__fail(error, LORA_ERROR_FORMAT, event.offset, name,
                              "[rows, columns] belong there");
        }
        TRY(lora__light_add_shape(light, arena, name, rows, cols, error));
    }
}

static lora_status light_read_field(lora__light *light,
                                    lora__arena *arena,
                                    const lora__json_event *key,
                                    lora__json *json,
                                    lora_error *error)
{
    lora__json_event event;

    if (light_is(key->text, key->bytes, "down_size")) {
        return light_size(&light->down_size, json, error);
    }
    if (light_is(key->text, key->bytes, "up_size")) {
        return light_size(&light->up_size, json, error);
    }
    TRY(lora__json_next(&event, json, error));
    if (light_is(key->text, key->bytes, "seed") &&
        event.type == LORA__JSON_NUMBER) {
        return lora__json_u64(&light->seed, &event, error);
    }
    if (light_is(key->text, key->bytes, "draws") &&
        event.type == LORA__JSON_STRING) {
        TRY(light_text(&light->draws, arena, &event, error));
        return lora__light_read_order(&light->order, light->draws, error);
    }
    if (light_is(key->text, key->bytes, "family") &&
        event.type == LORA__JSON_STRING) {
        const char *id;
        TRY(light_text(&id, arena, &event, error));
        light->family = lora__family_find(id);
        return LORA_OK;
    }
    if (light_is(key->text, key->bytes, "shapes") &&
        event.type == LORA__JSON_OBJECT_BEGIN) {
        return light_read_shapes(light, arena, json, error);
    }
    return lora__json_skip(json, &event, error);
}

LORA_PRIVATE lora_status lora__light_parse(lora__light **out,
                                           lora__arena *arena,
                                           const char *text,
                                           lora_error *error)
{
    lora__json json;
    lora__json_event event;
    void *memory;

    TRY(lora__arena_zeroed(&memory, arena, 1, sizeof **out, error));
    *out = memory;
    lora__map_init(&(*out)->shapes, arena->context);
    lora__json_init(&json, text, strlen(text), 0, LIGHT_MAX_DEPTH);
    TRY(lora__json_next(&event, &json, error));
    if (event.type != LORA__JSON_OBJECT_BEGIN) {
        return lora__fail(error, LORA_ERROR_FORMAT, 0, NULL, "no JSON object");
    }
    for (;;) {
        TRY(lora__json_next(&event, &json, error));
        if (event.type != LORA__JSON_KEY) {
            break;
        }
        TRY(light_read_field(*out, arena, &event, &json, error));
    }
    TRY(lora__json_next(&event, &json, error));
    return (*out)->order.count > 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_FORMAT, LORA_NO_OFFSET, NULL,
                            "it does not say what was drawn");
}

LORA_PRIVATE void lora__light_put(lora__buffer *out, const lora__light *light)
{
    lora__buffer_printf(
        out, "{\"seed\":%llu,\"draws\":", (unsigned long long)light->seed);
    lora__json_put_string(out, light->draws);
    if (light->family != NULL) {
        lora__buffer_puts(out, ",\"family\":");
        lora__json_put_string(out, lora__family_id(light->family));
    }
    if (light->down_size > 0) {
        lora__buffer_printf(out, ",\"down_size\":%lld",
                            (long long)light->down_size);
    }
    if (light->up_size > 0) {
        lora__buffer_printf(out, ",\"up_size\":%lld",
                            (long long)light->up_size);
    }
    for (size_t i = 0; i < light->size_count; i++) {
        const lora__light_layer *layer = &light->sizes[i];
        lora__buffer_puts(out, i == 0 ? ",\"shapes\":{" : ",");
        lora__json_put_string(out, layer->name);
        lora__buffer_printf(out, ":[%lld,%lld]", (long long)layer->shape[0],
                            (long long)layer->shape[1]);
    }
    lora__buffer_puts(out, light->size_count == 0 ? "}" : "}}");
}

LORA_PRIVATE int lora__light_shape(int64_t out_shape[2],
                                   const lora__light *light,
                                   const lora__module *module)
{
    const char *names[2] = {module->target, module->name};
    size_t at;

    for (size_t i = 0; i < 2; i++) {
        if (lora__map_find(&at, &light->shapes, names[i], strlen(names[i]))) {
            memcpy(out_shape, light->sizes[at].shape,
                   sizeof light->sizes[at].shape);
            return 1;
        }
    }
    return lora__family_shape(out_shape, light->family, module->target);
}

/* ---- drawing ----------------------------------------------------------- */

LORA_PRIVATE lora_status lora__light_draw_one(float *out,
                                              lora__torch_rng *rng,
                                              lora__light_init init,
                                              double value,
                                              size_t rows,
                                              size_t cols,
                                              lora_context *context,
                                              lora_error *error)
{
    const size_t count = rows * cols;
    double bound;

    switch (init) {
    case LORA__LIGHT_NORMAL:
        lora__torch_normal(rng, out, count, value);
        return LORA_OK;
    case LORA__LIGHT_XAVIER:
        lora__torch_normal(rng, out, count,
                           value * sqrt(2.0 / ((double)rows + (double)cols)));
        return LORA_OK;
    case LORA__LIGHT_LINEAR: /* kaiming_uniform_ with a = sqrt(5) */
        bound = sqrt(3.0) * (sqrt(2.0 / 6.0) / sqrt((double)cols));
        lora__torch_uniform(rng, out, count, -bound, bound);
        return LORA_OK;
    default:
        lora__torch_normal(rng, out, count, 1.0);
        return lora__orthogonal(out, rows, cols, value, context, error);
    }
}

static void light_size_of(size_t *rows,
                          size_t *cols,
                          lora__role matrix,
                          const lora__light_sizes *s)
{
    switch (matrix) {
    case LORA__ROLE_LIGHT_DOWN_AUX:
        *rows = s->a, *cols = s->cols;
        break;
    case LORA__ROLE_DOWN:
        *rows = s->rank, *cols = s->a;
        break;
    case LORA__ROLE_UP:
        *rows = s->b, *cols = s->rank;
        break;
    case LORA__ROLE_LIGHT_UP_AUX:
        *rows = s->rows, *cols = s->b;
        break;
    default:
        *rows = s->b, *cols = s->a;
        break;
    }
}

/* Where the result of a draw is wanted: not if it is drawn again later. */
static float *light_place(const lora__light_wanted *out,
                          const lora__light_order *order,
                          size_t index)
{
    const lora__role matrix = order->draws[index].matrix;

    for (size_t i = index + 1; i < order->count; i++) {
        if (order->draws[i].matrix == matrix) {
            return NULL;
        }
    }
    switch (matrix) {
    case LORA__ROLE_LIGHT_DOWN_AUX:
        return out->down_aux;
    case LORA__ROLE_DOWN:
        return out->down;
    case LORA__ROLE_UP:
        return out->up;
    case LORA__ROLE_LIGHT_UP_AUX:
        return out->up_aux;
    default:
        return NULL;
    }
}

static lora_status light_check_drawn(const lora__light_order *order,
                                     const float *wanted,
                                     lora__role matrix,
                                     lora_error *error)
{
    for (size_t i = 0; wanted != NULL && i < order->count; i++) {
        if (order->draws[i].matrix == matrix) {
            return LORA_OK;
        }
    }
    return wanted == NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
                            "%s is not stored, and the recipe does not draw it",
                            lora__role_name(matrix));
}

/* Room for what is drawn between the matrices that are wanted: some may be
 * larger than those. 0 where there is no such size. */
static size_t light_scratch(const lora__light_order *order,
                            const lora__light_sizes *sizes)
{
    size_t most = sizeof(float);

    for (size_t i = 0; i < order->count; i++) {
        size_t rows;
        size_t cols;
        light_size_of(&rows, &cols, order->draws[i].matrix, sizes);
        if (!lora__mul_size(rows, cols, &rows) ||
            !lora__mul_size(rows, sizeof(float), &rows)) {
            return 0;
        }
        most = rows > most ? rows : most;
    }
    return most;
}

LORA_PRIVATE lora_status lora__light_draw(const lora__light_wanted *out,
                                          const lora__light_order *order,
                                          uint64_t seed,
                                          const lora__light_sizes *sizes,
                                          lora_context *context,
                                          lora_error *error)
{
    const size_t bytes = light_scratch(order, sizes);
    lora__torch_rng rng;
    lora_status status = LORA_OK;
    float *scratch;

    TRY(light_check_drawn(order, out->down_aux, LORA__ROLE_LIGHT_DOWN_AUX,
                          error));
    TRY(light_check_drawn(order, out->down, LORA__ROLE_DOWN, error));
    TRY(light_check_drawn(order, out->up, LORA__ROLE_UP, error));
    TRY(light_check_drawn(order, out->up_aux, LORA__ROLE_LIGHT_UP_AUX, error));
    scratch =
        bytes == 0 ? NULL : lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    if (scratch == NULL) {
        return lora__fail_memory(error, bytes);
    }
    lora__torch_seed(&rng, seed);
    for (size_t i = 0; i < order->count; i++) {
        const lora__light_step *draw = &order->draws[i];
        float *wanted = light_place(out, order, i);
        size_t rows;
        size_t cols;

        light_size_of(&rows, &cols, draw->matrix, sizes);
        if (wanted == NULL && draw->init == LORA__LIGHT_ORTHOGONAL) {
            lora__torch_normal(&rng, scratch, rows * cols, 1.0);
            continue; /* what is made of the numbers is not needed */
        }
        TRY_OR_DONE(lora__light_draw_one(wanted == NULL ? scratch : wanted,
                                         &rng, draw->init, draw->value, rows,
                                         cols, context, error));
    }
done:
    lora__free(context, scratch, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

LORA_PRIVATE void lora__light_sizes_of(lora__light_sizes *out,
                                       const lora_adapter *adapter,
                                       const lora__module *module)
{
    const lora__entry *down =
        lora__module_entry(adapter, module, LORA__ROLE_DOWN);
    const lora__entry *up = lora__module_entry(adapter, module, LORA__ROLE_UP);
    const lora__entry *product =
        lora__module_entry(adapter, module, LORA__ROLE_LIGHT_DOWN_UP);

    memset(out, 0, sizeof *out);
    out->rows = (size_t)module->shape[0];
    out->cols = (size_t)module->shape[1];
    out->rank = (size_t)module->rank;
    if (lora__module_find(module, LORA__ROLE_WEIGHT) != NULL) {
        out->a = (size_t)adapter->light->down_size;
        out->b = (size_t)adapter->light->up_size;
    } else if (product != NULL) {
        out->b = (size_t)product->shape[0];
        out->a = (size_t)product->shape[1];
    } else {
        out->b = (size_t)up->shape[0];
        out->a = (size_t)down->shape[1];
    }
}

LORA_PRIVATE lora_status lora__light_seed(uint64_t *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          lora_error *error)
{
    const lora__member *member =
        lora__module_find(module, LORA__ROLE_LIGHT_SEED);
    const lora__entry *entry;
    unsigned char bytes[8];
    double value;

    if (member == NULL) {
        *out = adapter->light == NULL ? 0 : adapter->light->seed;
        return LORA_OK;
    }
    entry = &adapter->container->entries[member->entry];
    if ((entry->dtype == LORA_DTYPE_I64 || entry->dtype == LORA_DTYPE_U64) &&
        entry->elements == 1) { /* more bits than a double has */
        TRY(lora__container_read(adapter->container, member->entry, 0, bytes, 8,
                                 error));
        *out = 0;
        for (int i = 8; i-- > 0;) {
            *out = *out << 8 | bytes[i];
        }
        return LORA_OK;
    }
    TRY(lora__adapter_read_scalar(&value, adapter, member->entry, error));
    if (!(value >= 0.0 && value <= 0x1p53) || value != floor(value)) {
        return lora__fail(error, LORA_ERROR_FORMAT, LORA_NO_OFFSET, entry->name,
                          "is no seed");
    }
    *out = (uint64_t)value;
    return LORA_OK;
}

/* ---- short factors ----------------------------------------------------- */

/* 1 if factors that are shorter than the layers they are of can be nothing but
 * those of a Light-LoRA: all have the same sizes, and the layers, of which the
 * file's base tells the size, have not. Where up is as long as down they can
 * also be whole, of a small model with the names of that base. */
static int light_suspected(const lora_adapter *adapter)
{
    const lora__entry *first_up = NULL;
    const lora__entry *first_down = NULL;
    int64_t first[2] = {0, 0};
    int several = 0;

    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        const lora__entry *up =
            lora__module_entry(adapter, module, LORA__ROLE_UP);
        const lora__entry *down =
            lora__module_entry(adapter, module, LORA__ROLE_DOWN);
        int64_t shape[2];

        if (up == NULL || down == NULL || up->ndim != 2 || down->ndim != 2) {
            return 0;
        }
        first_up = first_up == NULL ? up : first_up;
        first_down = first_down == NULL ? down : first_down;
        if (up->shape[0] != first_up->shape[0] ||
            down->shape[1] != first_down->shape[1]) {
            return 0;
        }
        if (!lora__family_shape(shape, adapter->names.family, module->target)) {
            continue;
        }
        if (up->shape[0] == shape[0] || down->shape[1] == shape[1]) {
            return 0; /* one that has its right length */
        }
        several |=
            first[0] != 0 && (first[0] != shape[0] || first[1] != shape[1]);
        memcpy(first, shape, sizeof first);
    }
    return several && first_up->shape[0] != first_down->shape[1];
}

/* ---- opening ----------------------------------------------------------- */

/* How frozen matrices were drawn, from metadata: only a hint, again. */
LORA_PRIVATE lora_status lora__light_open(lora_adapter *adapter,
                                          lora_error *error)
{
    const char *text =
        lora__container_metadata(adapter->container, LORA__LIGHT_KEY);
    lora_error found;
    lora_status status = LORA_OK;

    lora_error_init(&found, sizeof found);
    if (text != NULL) {
        status =
            lora__light_parse(&adapter->light, &adapter->arena, text, &found);
    }
    if (status == LORA_ERROR_MEMORY) {
        return lora__error_merge(error, &found);
    }
    if (status != LORA_OK) {
        lora__light_destroy(adapter->light);
        adapter->light = NULL;
        TRY(lora__problems_add(&adapter->problems, LORA_SEVERITY_WARNING,
                               LORA_OK, "metadata_invalid", LORA__LIGHT_KEY,
                               error,
                               "cannot be read (%s): frozen matrices that are "
                               "not stored are not known",
                               found.message));
    }
    adapter->light_suspected =
        adapter->light == NULL && light_suspected(adapter);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__light_note(lora_adapter *adapter,
                                          lora_error *error)
{
    const lora__module *first = NULL;
    size_t count = 0;

    for (size_t m = adapter->module_count; m-- > 0;) {
        if (adapter->modules[m].lacks != NULL) {
            first = &adapter->modules[m];
            count++;
        }
    }
    return first == NULL
               ? LORA_OK
               : lora__problems_add(
                     &adapter->problems, LORA_SEVERITY_WARNING, LORA_ERROR_KEY,
                     "recipe_missing", first->name, error,
                     "%llu of %llu modules have %s", (unsigned long long)count,
                     (unsigned long long)adapter->module_count, first->lacks);
}
