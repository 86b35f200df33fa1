/* Families: matching names against rules, spelling them, listing them.
 *
 * Flattened names ('_' for '.') cannot be split by syntax, but they can be
 * compared with a rule letter by letter. No two targets of a family flatten
 * to the same name, in either spelling, so the first match is the only one.
 */
#include "names/family.h"

#include "names/family_rules.h"

#include <string.h>

static const lora__family family_table[] = {
    {"sd15", LORA__FAMILY_SD15, "sd_v1", "stable-diffusion-v1", "sd_v1",
     "stable-diffusion-v1", 768},
    /* Which of the 512 and 768-v models, the targets do not tell. */
    {"sd21", LORA__FAMILY_SD21, "sd_v2", NULL, "sd_v2", "stable-diffusion-v2",
     1024},
    {"sdxl", LORA__FAMILY_SDXL, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base",
     "sdxl_", "stable-diffusion-xl-v1-base", 2048},
};

static const char *const family_component_names[LORA__COMPONENT_COUNT] = {
    "",
    "unet",
    "transformer",
    "prior",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
};

LORA_PRIVATE const char *lora__component_name(lora__component component)
{
    return family_component_names[component];
}

LORA_PRIVATE lora__component lora__component_take(const char **name,
                                                  size_t *bytes,
                                                  char separator)
{
    /* Backwards, as "text_encoder" begins the other encoders' names. */
    for (int i = LORA__COMPONENT_COUNT - 1; i > LORA__COMPONENT_ANY; i--) {
        const char *want = family_component_names[i];
        size_t length = strlen(want);
        if (*bytes > length && (*name)[length] == separator &&
            memcmp(*name, want, length) == 0) {
            *name += length + 1;
            *bytes -= length + 1;
            return (lora__component)i;
        }
    }
    return LORA__COMPONENT_ANY;
}

/* Holes -------------------------------------------------------------------- */

typedef enum family_hole_kind {
    FAMILY_HOLE_RANGE, /* low to high */
    FAMILY_HOLE_WORDS, /* one of `words`, numbered from 0 */
    FAMILY_HOLE_SUM,   /* low + 3a, or low + 3a + b */
    FAMILY_HOLE_EITHER /* one of `words`; no number of its own */
} family_hole_kind;

typedef struct family_hole {
    family_hole_kind kind;
    int16_t low;
    int16_t high;
    int has_b;
    const char *words; /* up to '}' */
} family_hole;

static int16_t family_read_digits(const char **at)
{
    int16_t value = 0;

    while (**at >= '0' && **at <= '9') {
        value = (int16_t)(value * 10 + (**at - '0'));
        (*at)++;
    }
    return value;
}

/* Read the hole at '{'; returns what follows it. */
static const char *
family_read_hole(family_hole *out, const char *at, int16_t depth)
{
    memset(out, 0, sizeof *out);
    at++;
    if (*at == '=') {
        out->kind = FAMILY_HOLE_EITHER;
        out->words = at + 1;
    } else if (*at < '0' || *at > '9') {
        out->kind = FAMILY_HOLE_WORDS;
        out->words = at;
    } else if (strncmp(at, "3a", 2) == 0) {
        out->kind = FAMILY_HOLE_SUM;
    } else {
        out->low = family_read_digits(&at);
        out->high = out->low;
        if (*at == '+') {
            out->kind = FAMILY_HOLE_SUM;
            at++;
        } else if (*at == '-') {
            at++;
            out->high =
                *at == 'N' ? (int16_t)(depth - 1) : family_read_digits(&at);
        }
    }
    out->has_b = out->kind == FAMILY_HOLE_SUM && strncmp(at, "3a+b", 4) == 0;
    while (*at != '}') {
        at++;
    }
    return at + 1;
}

/* The word at `at` in a list "x|y}", and its length. */
static size_t family_word_bytes(const char *at)
{
    return strcspn(at, "|}");
}

static const char *family_next_word(const char *at)
{
    at += family_word_bytes(at);
    return *at == '|' ? at + 1 : NULL;
}

/* Matching ----------------------------------------------------------------- */

typedef struct family_cursor {
    const char *at;
    const char *end;
    char separator;
    int16_t depth;
    int count; /* of numbers */
    int16_t numbers[LORA__PLACE_NUMBERS];
} family_cursor;

/* A decimal number as programs write it: no sign, no leading zero. */
static int family_take_number(int16_t *out, family_cursor *c)
{
    const char *begin = c->at;
    int16_t value = 0;

    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
        if (c->at - begin == 3) {
            return 0;
        }
        value = (int16_t)(value * 10 + (*c->at - '0'));
        c->at++;
    }
    *out = value;
    return c->at > begin && (c->at - begin == 1 || *begin != '0');
}

/* The number of the word that the name goes on with, or -1. */
static int16_t family_take_word(const char *words, family_cursor *c)
{
    size_t left = (size_t)(c->end - c->at);
    int16_t i = 0;

    for (const char *word = words; word != NULL;
         word = family_next_word(word), i++) {
        size_t bytes = family_word_bytes(word);
        if (bytes <= left && memcmp(word, c->at, bytes) == 0) {
            c->at += bytes;
            return i;
        }
    }
    return -1;
}

static int family_take_hole(const family_hole *hole, family_cursor *c)
{
    int16_t value;

    switch (hole->kind) {
    case FAMILY_HOLE_RANGE:
        if (!family_take_number(&value, c) || value < hole->low ||
            value > hole->high) {
            return 0;
        }
        break;
    case FAMILY_HOLE_WORDS:
        value = family_take_word(hole->words, c);
        if (value < 0) {
            return 0;
        }
        break;
    case FAMILY_HOLE_EITHER:
        return family_take_word(hole->words, c) >= 0;
    default: /* SUM: 3a + b is one number; b is below 3 */
        if (!family_take_number(&value, c) || value < hole->low) {
            return 0;
        }
        value = (int16_t)(value - hole->low);
        c->numbers[0] = (int16_t)(value / 3);
        c->numbers[1] = (int16_t)(value % 3);
        c->count = hole->has_b ? 2 : 1;
        return hole->has_b || c->numbers[1] == 0;
    }
    c->numbers[c->count++] = value;
    return 1;
}

static int family_take_rule(const char *rule, family_cursor *c)
{
    /* Most rules fail here: none begins with a hole. */
    if (*rule != '\0' && (c->at == c->end || *c->at != *rule)) {
        return 0;
    }
    while (*rule != '\0') {
        family_hole hole;

        if (*rule == '{') {
            rule = family_read_hole(&hole, rule, c->depth);
            if (!family_take_hole(&hole, c)) {
                return 0;
            }
            continue;
        }
        if (c->at == c->end ||
            *c->at != (*rule == '.' ? c->separator : *rule)) {
            return 0;
        }
        c->at++;
        rule++;
    }
    return 1;
}

/* LDM names do not bound their numbers; the rule of diffusers does. */
static int family_numbers_hold(const char *rule, const family_cursor *c)
{
    int i = 0;

    while ((rule = strchr(rule, '{')) != NULL) {
        family_hole hole;
        rule = family_read_hole(&hole, rule, c->depth);
        if (c->numbers[i] < hole.low || c->numbers[i] > hole.high) {
            return 0;
        }
        i++;
    }
    return i == c->count;
}

static int family_take_site(const family_site *site, int ldm, family_cursor *c)
{
    const char *rule = ldm ? site->ldm : site->name;

    if (rule == NULL || !family_take_rule(rule, c)) {
        return 0;
    }
    if (ldm && !family_numbers_hold(site->name, c)) {
        return 0;
    }
    if (*rule == '\0') {
        return 1;
    }
    return c->at < c->end && *c->at++ == c->separator;
}

/* Add what one site says of the rest of the name, from `c` on. */
static lora__family_set family_take_part(lora__place *out,
                                         const family_site *site,
                                         lora__family_set wanted,
                                         int ldm,
                                         const family_cursor *c)
{
    lora__family_set found = 0;

    wanted &= site->families;
    for (size_t i = 0; i < site->part_count && found != wanted; i++) {
        const family_part *part = &site->parts[i];
        lora__family_set set = part->families & wanted;
        family_cursor rest = *c;

        if (set == 0 ||
            !family_take_rule(ldm && part->ldm != NULL ? part->ldm : part->name,
                              &rest) ||
            rest.at != rest.end) {
            continue;
        }
        out->part = (uint16_t)i;
        memcpy(out->numbers, rest.numbers, sizeof out->numbers);
        for (size_t f = 0; f < LORA__FAMILY_MAX; f++) {
            if ((set & family_table[f].bit) != 0) {
                out->layers[f] = (uint8_t)part->layer;
            }
        }
        found |= set;
    }
    return found;
}

LORA_PRIVATE lora__family_set lora__family_match(lora__place *out,
                                                 lora__family_set wanted,
                                                 lora__component component,
                                                 const char *name,
                                                 size_t bytes,
                                                 char separator)
{
    lora__family_set found = 0;

    memset(out, 0, sizeof *out);
    out->component = component;
    for (size_t i = 0; i < LORA__COUNT(family_sites) && found != wanted; i++) {
        const family_site *site = &family_sites[i];

        if (site->component != component || (site->families & wanted) == 0) {
            continue;
        }
        for (int ldm = 0; ldm < 2; ldm++) {
            family_cursor c = {name, name + bytes, separator, site->depth,
                               0,    {0}};
            lora__family_set set;

            if (!family_take_site(site, ldm, &c)) {
                continue;
            }
            set = family_take_part(out, site, wanted, ldm, &c);
            if (set != 0) {
                out->site = (uint16_t)i;
                out->ldm = ldm;
                found |= set;
                break;
            }
        }
    }
    return found;
}

LORA_PRIVATE lora__family_set lora__family_match_target(lora__place *out,
                                                        lora__family_set wanted,
                                                        const char *target)
{
    size_t bytes = strlen(target);
    lora__component component = lora__component_take(&target, &bytes, '.');

    return lora__family_match(out, wanted, component, target, bytes, '.');
}

LORA_PRIVATE lora__layer lora__place_layer(const lora__place *place,
                                           lora__family_set known,
                                           const lora__family *family)
{
    lora__layer layer = LORA__LAYER_UNKNOWN;

    if (family != NULL && (known & family->bit) != 0) {
        return (lora__layer)place->layers[family - family_table];
    }
    for (size_t f = 0; f < LORA__FAMILY_MAX; f++) {
        if ((known & family_table[f].bit) == 0) {
            continue;
        }
        if (layer != LORA__LAYER_UNKNOWN && layer != place->layers[f]) {
            return LORA__LAYER_UNKNOWN;
        }
        layer = (lora__layer)place->layers[f];
    }
    return layer;
}

/* Spelling ----------------------------------------------------------------- */

static void family_put_number(lora__buffer *out, int value)
{
    if (value > 9) {
        family_put_number(out, value / 10);
    }
    lora__buffer_putc(out, (char)('0' + value % 10));
}

static void family_put_hole(lora__buffer *out,
                            const family_hole *hole,
                            const int16_t numbers[LORA__PLACE_NUMBERS],
                            int *used)
{
    const char *word = hole->words;
    int value;

    if (hole->kind == FAMILY_HOLE_SUM) {
        value = hole->low + 3 * numbers[0] + (hole->has_b ? numbers[1] : 0);
        *used = hole->has_b ? 2 : 1;
    } else {
        value = hole->kind == FAMILY_HOLE_EITHER ? 0 : numbers[(*used)++];
    }
    if (word == NULL) {
        family_put_number(out, value);
        return;
    }
    for (; value > 0; value--) {
        word = family_next_word(word);
    }
    lora__buffer_append(out, word, family_word_bytes(word));
}

static void family_put_rule(lora__buffer *out,
                            const char *rule,
                            const int16_t numbers[LORA__PLACE_NUMBERS],
                            int *used,
                            char separator)
{
    while (*rule != '\0') {
        size_t bytes = strcspn(rule, "{.");
        family_hole hole;

        lora__buffer_append(out, rule, bytes);
        rule += bytes;
        if (*rule == '.') {
            lora__buffer_putc(out, separator);
            rule++;
        } else if (*rule == '{') {
            rule = family_read_hole(&hole, rule, 0);
            family_put_hole(out, &hole, numbers, used);
        }
    }
}

LORA_PRIVATE void lora__place_put(lora__buffer *out,
                                  const lora__place *place,
                                  int ldm,
                                  char separator)
{
    const family_site *site = &family_sites[place->site];
    const family_part *part = &site->parts[place->part];
    const char *rule = ldm && site->ldm != NULL ? site->ldm : site->name;
    const char *tail = ldm && part->ldm != NULL ? part->ldm : part->name;
    int used = 0;

    family_put_rule(out, rule, place->numbers, &used, separator);
    if (*rule != '\0') {
        lora__buffer_putc(out, separator);
    }
    family_put_rule(out, tail, place->numbers, &used, separator);
}

/* Listing ------------------------------------------------------------------ */

/* How many values the hole can have. */
static size_t family_hole_size(const family_hole *hole)
{
    size_t size = 0;

    if (hole->kind == FAMILY_HOLE_RANGE) {
        return (size_t)(hole->high - hole->low + 1);
    }
    for (const char *word = hole->words; word != NULL;
         word = family_next_word(word)) {
        size++;
    }
    return size;
}

static size_t family_rule_size(const char *rule, int16_t depth)
{
    size_t size = 1;

    while ((rule = strchr(rule, '{')) != NULL) {
        family_hole hole;
        rule = family_read_hole(&hole, rule, depth);
        size *= family_hole_size(&hole);
    }
    return size;
}

static size_t family_site_size(const family_site *site, lora__family_set bit)
{
    size_t size = 0;

    if ((site->families & bit) == 0) {
        return 0;
    }
    for (size_t i = 0; i < site->part_count; i++) {
        if ((site->parts[i].families & bit) != 0) {
            size += family_rule_size(site->parts[i].name, site->depth);
        }
    }
    return size * family_rule_size(site->name, 0);
}

/* The numbers of the index-th name of a rule; the last hole runs fastest. */
static void family_unrank(int16_t numbers[LORA__PLACE_NUMBERS],
                          int *count,
                          const char *rule,
                          int16_t depth,
                          size_t index)
{
    size_t size = family_rule_size(rule, depth);

    while ((rule = strchr(rule, '{')) != NULL) {
        family_hole hole;
        rule = family_read_hole(&hole, rule, depth);
        size /= family_hole_size(&hole);
        numbers[(*count)++] = (int16_t)(hole.low + (int16_t)(index / size));
        index %= size;
    }
}

LORA_PRIVATE size_t lora__family_target_count(const lora__family *family)
{
    size_t count = 0;

    for (size_t i = 0; i < LORA__COUNT(family_sites); i++) {
        count += family_site_size(&family_sites[i], family->bit);
    }
    return count;
}

LORA_PRIVATE int lora__family_target_at(lora__buffer *out,
                                        lora__target *out_target,
                                        const lora__family *family,
                                        size_t index)
{
    const family_site *site = family_sites;
    const family_site *end = site + LORA__COUNT(family_sites);
    lora__place place = {0};
    size_t copies;
    size_t size;
    int count = 0;

    for (; site < end; site++) {
        size = family_site_size(site, family->bit);
        if (index < size) {
            break;
        }
        index -= size;
    }
    if (site == end) {
        return 0;
    }
    copies = family_rule_size(site->name, 0);
    size = family_site_size(site, family->bit) / copies;
    place.site = (uint16_t)(site - family_sites);
    family_unrank(place.numbers, &count, site->name, 0, index / size);
    index %= size;
    for (const family_part *part = site->parts;; part++) {
        if ((part->families & family->bit) == 0) {
            continue;
        }
        size = family_rule_size(part->name, site->depth);
        if (index < size) {
            place.part = (uint16_t)(part - site->parts);
            family_unrank(place.numbers, &count, part->name, site->depth,
                          index);
            out_target->layer = part->layer;
            out_target->is_default = part->is_default;
            break;
        }
        index -= size;
    }
    lora__buffer_puts(out, family_component_names[site->component]);
    lora__buffer_putc(out, '.');
    lora__place_put(out, &place, 0, '.');
    return 1;
}

/* The table ---------------------------------------------------------------- */

LORA_PRIVATE const char *lora__family_id(const lora__family *family)
{
    return family->id;
}

LORA_PRIVATE size_t lora__family_count(void)
{
    return LORA__COUNT(family_table);
}

LORA_PRIVATE const lora__family *lora__family_at(size_t index)
{
    return index < LORA__COUNT(family_table) ? &family_table[index] : NULL;
}

LORA_PRIVATE const lora__family *lora__family_find(const char *id)
{
    for (size_t i = 0; i < LORA__COUNT(family_table); i++) {
        if (strcmp(family_table[i].id, id) == 0) {
            return &family_table[i];
        }
    }
    return NULL;
}

LORA_PRIVATE const char *lora__family_ss_version(const lora__family *family)
{
    return family->ss_version;
}

LORA_PRIVATE const char *lora__family_architecture(const lora__family *family)
{
    return family->architecture;
}

LORA_PRIVATE lora__layer lora__family_layer(const lora__family *family,
                                            const char *target)
{
    lora__place place;
    lora__family_set known =
        lora__family_match_target(&place, family->bit, target);

    return lora__place_layer(&place, known, family);
}
