/* The summary of an adapter's metadata and model card; formats.md 8.
 *
 * kohya writes ss_tag_frequency as {"folder": {"tag": count}}; counts of one
 * tag in several folders are added up.
 */
#include "op/summary.h"

#include "adapter/card.h"
#include "core/text.h"
#include "format/json.h"
#include "format/sort.h"
#include "op/report.h"

#include <string.h>

#define SUMMARY_MAX_TAGS 20

typedef struct summary_tag {
    const char *text;
    double count;
} summary_tag;

typedef struct summary_tags {
    lora__arena *arena;
    lora__map index;
    summary_tag *tags;
    size_t count;
    size_t capacity;
} summary_tags;

static int summary_compare(const void *a, const void *b)
{
    const summary_tag *x = a;
    const summary_tag *y = b;

    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : strcmp(x->text, y->text);
}

static lora_status summary_add_tag(summary_tags *tags,
                                   lora__json *json,
                                   const lora__json_event *key,
                                   lora_error *error)
{
    lora__json_event value;
    size_t bytes;
    size_t place;
    void *table = tags->tags;
    char *text = lora__arena_alloc(tags->arena, key->bytes + 1);

    if (text == NULL) {
        return lora__fail_memory(error, key->bytes);
    }
    TRY(lora__json_decode(text, &bytes, key, error));
    TRY(lora__json_next(&value, json, error));
    if (value.type != LORA__JSON_NUMBER) {
        return lora__json_skip(json, &value, error);
    }
    TRY(lora__arena_grow(&table, &tags->capacity, tags->arena, tags->count + 1,
                         sizeof *tags->tags, error));
    tags->tags = table;
    TRY(lora__map_add(&place, &tags->index, text, bytes, tags->count, error));
    tags->tags[place].text = text;
    tags->tags[place].count +=
        lora__text_to_double(value.text, value.bytes, &bytes);
    tags->count += place == tags->count;
    return LORA_OK;
}

/* Every key with a number, at any depth. */
static lora_status
summary_read_tags(summary_tags *tags, const char *text, lora_error *error)
{
    lora__json json;
    lora__json_event event;

    lora__json_init(&json, text, strlen(text), 0, 8);
    do {
        TRY(lora__json_next(&event, &json, error));
        if (event.type == LORA__JSON_KEY && json.depth >= 2) {
            TRY(summary_add_tag(tags, &json, &event, error));
        }
    } while (event.type != LORA__JSON_END);
    return LORA_OK;
}

static lora_status summary_put_tags(lora__buffer *json,
                                    const lora__container *container,
                                    lora_error *error)
{
    const char *text = lora__container_metadata(container, "ss_tag_frequency");
    lora__arena arena;
    summary_tags tags = {NULL, {NULL, NULL, 0, 0}, NULL, 0, 0};
    lora_error ignored;
    lora_status status = LORA_OK;

    lora__arena_init(&arena, container->context);
    lora__map_init(&tags.index, container->context);
    tags.arena = &arena;
    lora_error_init(&ignored, sizeof ignored);
    if (text != NULL) {
        status = summary_read_tags(&tags, text, &ignored);
    }
    lora__sort(tags.tags, tags.count, sizeof *tags.tags, summary_compare);
    lora__json_put_key(json, "tags");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < tags.count && i < SUMMARY_MAX_TAGS; i++) {
        lora__buffer_puts(json, i == 0 ? "{" : ",{");
        lora__report_put_string(json, "tag", tags.tags[i].text);
        lora__report_put_number(json, "count", tags.tags[i].count);
        lora__buffer_putc(json, '}');
    }
    lora__buffer_putc(json, ']');
    lora__map_destroy(&tags.index);
    lora__arena_destroy(&arena);
    return status == LORA_ERROR_MEMORY ? lora__error_merge(error, &ignored)
                                       : LORA_OK;
}

/* A list that people wrote with commas. */
static void summary_put_words(lora__buffer *json, const char *text)
{
    lora__buffer word;
    int first = 1;

    lora__buffer_init(&word, json->context);
    while (text != NULL && *text != '\0') {
        size_t bytes = strcspn(text, ",");
        size_t begin = strspn(text, " \t");
        size_t end = bytes;
        while (end > begin && (text[end - 1] == ' ' || text[end - 1] == '\t')) {
            end--;
        }
        if (begin < end) {
            lora__buffer_clear(&word);
            lora__buffer_append(&word, text + begin, end - begin);
            lora__buffer_puts(json, first ? "" : ",");
            if (!word.failed) {
                lora__json_put_string(json, word.data);
            }
            json->failed |= word.failed;
            first = 0;
        }
        text += bytes + (text[bytes] == ',');
    }
    lora__buffer_destroy(&word);
}

/* The model card as it is; its tags are the site's, not words of captions. */
static void summary_put_card(lora__buffer *json, const lora__card *card)
{
    lora__json_put_key(json, "card");
    if (card == NULL) {
        lora__buffer_puts(json, "null");
        return;
    }
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "base_model", card->base_model);
    lora__report_put_string(json, "instance_prompt", card->instance_prompt);
    lora__report_put_string(json, "license", card->license);
    lora__json_put_key(json, "tags");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < card->tag_count; i++) {
        lora__buffer_puts(json, i == 0 ? "" : ",");
        lora__json_put_string(json, card->tags[i]);
    }
    lora__buffer_puts(json, "]}");
}

/* What something is, and the metadata key, or file, that says so. */
typedef struct summary_said {
    const char *value; /* NULL: nothing does */
    const char *from;
} summary_said;

/* The first of some keys that says something, else the model card; Python
 * writes None for nothing. */
static summary_said summary_first(const lora__container *container,
                                  const char *const *keys,
                                  size_t count,
                                  const char *card)
{
    summary_said said = {card, card == NULL ? NULL : LORA__CARD_FILE};

    for (size_t i = 0; i < count; i++) {
        const char *value = lora__container_metadata(container, keys[i]);
        if (value != NULL && value[0] != '\0' && strcmp(value, "None") != 0) {
            said.value = value;
            said.from = keys[i];
            break;
        }
    }
    return said;
}

LORA_PRIVATE lora_status lora__summary_put(lora__buffer *json,
                                           const lora_adapter *adapter,
                                           lora_error *error)
{
    static const char *const models[] = {
        "ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"};
    static const char *const triggers[] = {"modelspec.trigger_phrase",
                                           "trigger_words", "trigger_word",
                                           "instance_prompt"};
    static const char *const thumbnails[] = {"modelspec.thumbnail"};
    static const lora__card no_card = {NULL, NULL, NULL, NULL, 0};
    const lora__container *container = adapter->container;
    const lora__card *card = adapter->card == NULL ? &no_card : adapter->card;
    summary_said said;

    lora__json_put_key(json, "summary");
    lora__buffer_putc(json, '{');
    said =
        summary_first(container, models, LORA__COUNT(models), card->base_model);
    lora__report_put_string(json, "base_model", said.value);
    lora__report_put_string(json, "base_model_from", said.from);
    said = summary_first(container, triggers, LORA__COUNT(triggers),
                         card->instance_prompt);
    lora__json_put_key(json, "trigger_words");
    lora__buffer_putc(json, '[');
    summary_put_words(json, said.value);
    lora__buffer_putc(json, ']');
    lora__report_put_string(json, "trigger_words_from", said.from);
    TRY(summary_put_tags(json, container, error));
    said = summary_first(container, thumbnails, LORA__COUNT(thumbnails), NULL);
    lora__report_put_bool(json, "thumbnail", said.value != NULL);
    summary_put_card(json, adapter->card);
    lora__buffer_putc(json, '}');
    return LORA_OK;
}
