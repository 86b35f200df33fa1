/* Rules: names with holes. See rules.h for what can be in one.
 *
 * Flattened names ('_' for '.') cannot be split by syntax, but they can be
 * compared with a rule letter by letter.
 */
#include "names/rule.h"

#include <string.h>

/* Holes -------------------------------------------------------------------- */

typedef enum rule_hole_kind {
    RULE_HOLE_RANGE, /* low to high, by step */
    RULE_HOLE_WORDS, /* one of `words`, numbered from 0 */
    RULE_HOLE_SUM,   /* low + 3a, or low + 3a + b */
    RULE_HOLE_EITHER /* one of `words`; no number of its own */
} rule_hole_kind;

typedef struct rule_hole {
    rule_hole_kind kind;
    int16_t low; /* of the numbers that the hole stands for */
    int16_t high;
    int16_t step;
    int has_b;
    const char *words; /* up to '}' */
} rule_hole;

/* Bytes before the first of two letters, or to the end. They are few: strcspn
 * has hardly begun then. */
static size_t rule_bytes_to(const char *at, char one, char other)
{
    const char *end = at;

    while (*end != '\0' && *end != one && *end != other) {
        end++;
    }
    return (size_t)(end - at);
}

/* The word at `at` in a list "x|y}", and its length. */
static size_t rule_word_bytes(const char *at)
{
    return rule_bytes_to(at, '|', '}');
}

static const char *rule_next_word(const char *at)
{
    at += rule_word_bytes(at);
    return *at == '|' ? at + 1 : NULL;
}

static int16_t rule_read_digits(const char **at)
{
    int16_t value = 0;

    while (**at >= '0' && **at <= '9') {
        value = (int16_t)(value * 10 + (**at - '0'));
        (*at)++;
    }
    return value;
}

static void rule_read_range(rule_hole *out, const char *at, int16_t depth)
{
    out->low = rule_read_digits(&at);
    out->high = out->low;
    if (*at == '-') {
        at++;
        out->high = *at == 'N' ? (int16_t)(depth - 1) : rule_read_digits(&at);
    }
    if (*at == '/') {
        at++;
        out->step = rule_read_digits(&at);
    }
}

static void rule_read_words(rule_hole *out, const char *at)
{
    const char *word = rule_next_word(at);

    out->words = at;
    for (; word != NULL; word = rule_next_word(word)) {
        out->high++;
    }
}

/* Read the hole at '{'; returns what follows it. */
static const char *rule_read_hole(rule_hole *out, const char *at, int16_t depth)
{
    const char *inside = at + 1;
    const char *end = inside;
    int digits = *inside >= '0' && *inside <= '9';
    int is_sum = 0;

    for (; *end != '}'; end++) {
        is_sum |= *end == 'a';
        digits &= *end != '|';
    }
    memset(out, 0, sizeof *out);
    out->step = 1;
    if (*inside == '=') {
        out->kind = RULE_HOLE_EITHER;
        out->words = inside + 1;
    } else if (!digits) {
        out->kind = RULE_HOLE_WORDS;
        rule_read_words(out, inside);
    } else if (is_sum) {
        out->kind = RULE_HOLE_SUM;
        if (inside[1] == '+') {
            out->low = (int16_t)(*inside - '0');
        }
        out->has_b = end[-1] == 'b';
    } else {
        rule_read_range(out, inside, depth);
    }
    return end + 1;
}

/* Matching ----------------------------------------------------------------- */

static void rule_see(lora__rule_cursor *c, const char *at)
{
    if (c->seen < at) {
        c->seen = at;
    }
}

/* A decimal number as programs write it: no sign, no leading zero. */
static int rule_take_number(int16_t *out, lora__rule_cursor *c)
{
    const char *begin = c->at;
    const char *at = begin;
    int value = 0;

    while (at < c->end && *at >= '0' && *at <= '9') {
        if (at - begin == 3) {
            rule_see(c, at);
            return 0;
        }
        value = value * 10 + (*at - '0');
        at++;
    }
    *out = (int16_t)value;
    c->at = at;
    rule_see(c, at);
    return at > begin && (at - begin == 1 || *begin != '0');
}

/* The number of the word that the name goes on with, or -1. */
static int16_t rule_take_word(const char *words, lora__rule_cursor *c)
{
    size_t left = (size_t)(c->end - c->at);
    int16_t i = 0;

    for (const char *word = words; word != NULL;
         word = rule_next_word(word), i++) {
        size_t bytes = rule_word_bytes(word);
        rule_see(c, c->at + (bytes < left ? bytes : left));
        if (bytes <= left && memcmp(word, c->at, bytes) == 0) {
            c->at += bytes;
            return i;
        }
    }
    return -1;
}

static int rule_in_range(const rule_hole *hole, int16_t value)
{
    return value >= hole->low && value <= hole->high &&
           (value - hole->low) % hole->step == 0;
}

static int rule_take_hole(const rule_hole *hole, lora__rule_cursor *c)
{
    int16_t value;

    switch (hole->kind) {
    case RULE_HOLE_RANGE:
        if (!rule_take_number(&value, c) || !rule_in_range(hole, value)) {
            return 0;
        }
        break;
    case RULE_HOLE_WORDS:
        value = rule_take_word(hole->words, c);
        if (value < 0) {
            return 0;
        }
        break;
    case RULE_HOLE_EITHER:
        return rule_take_word(hole->words, c) >= 0;
    default: /* SUM: 3a + b is one number; b is below 3 */
        if (!rule_take_number(&value, c) || value < hole->low) {
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

LORA_PRIVATE int lora__rule_take(lora__rule_cursor *c, const char *rule)
{
    const char separator = c->separator;
    const char *at = c->at;
    const char *const end = c->end;

    while (*rule != '\0') {
        rule_hole hole;

        if (*rule == '{') {
            rule = rule_read_hole(&hole, rule, c->depth);
            c->at = at;
            if (!rule_take_hole(&hole, c)) {
                return 0;
            }
            at = c->at;
            continue;
        }
        if (at == end || *at != (*rule == '.' ? separator : *rule)) {
            rule_see(c, at);
            return 0;
        }
        at++;
        rule++;
    }
    c->at = at;
    rule_see(c, at);
    return 1;
}

LORA_PRIVATE int lora__rule_holds(const lora__rule_cursor *c, const char *rule)
{
    int i = 0;

    while ((rule = strchr(rule, '{')) != NULL) {
        rule_hole hole;
        rule = rule_read_hole(&hole, rule, c->depth);
        if (!rule_in_range(&hole, c->numbers[i])) {
            return 0;
        }
        i++;
    }
    return i == c->count;
}

/* Spelling ----------------------------------------------------------------- */

static void rule_put_hole(lora__buffer *out,
                          const rule_hole *hole,
                          const int16_t numbers[LORA__RULE_NUMBERS],
                          int *used)
{
    const char *word = hole->words;
    int value;

    if (hole->kind == RULE_HOLE_SUM) {
        value = hole->low + 3 * numbers[0] + (hole->has_b ? numbers[1] : 0);
        *used = hole->has_b ? 2 : 1;
    } else {
        value = hole->kind == RULE_HOLE_EITHER ? 0 : numbers[(*used)++];
    }
    if (word == NULL) {
        lora__buffer_whole(out, (uint32_t)value);
        return;
    }
    for (; value > 0; value--) {
        word = rule_next_word(word);
    }
    lora__buffer_append(out, word, rule_word_bytes(word));
}

LORA_PRIVATE void lora__rule_put(lora__buffer *out,
                                 const char *rule,
                                 const int16_t numbers[LORA__RULE_NUMBERS],
                                 int *used,
                                 char separator)
{
    const char dot = separator == '.' ? '{' : '.'; /* what ends a run */

    while (*rule != '\0') {
        size_t bytes = rule_bytes_to(rule, '{', dot);
        rule_hole hole;

        lora__buffer_append(out, rule, bytes);
        rule += bytes;
        if (*rule == '.') {
            lora__buffer_putc(out, separator);
            rule++;
        } else if (*rule == '{') {
            rule = rule_read_hole(&hole, rule, 0);
            rule_put_hole(out, &hole, numbers, used);
        }
    }
}

/* Counting ----------------------------------------------------------------- */

/* How many values the hole can have. */
static size_t rule_hole_size(const rule_hole *hole)
{
    return (size_t)((hole->high - hole->low) / hole->step + 1);
}

LORA_PRIVATE size_t lora__rule_size(const char *rule, int16_t depth)
{
    size_t size = 1;

    while ((rule = strchr(rule, '{')) != NULL) {
        rule_hole hole;
        rule = rule_read_hole(&hole, rule, depth);
        size *= rule_hole_size(&hole);
    }
    return size;
}

LORA_PRIVATE void lora__rule_unrank(int16_t numbers[LORA__RULE_NUMBERS],
                                    int *count,
                                    const char *rule,
                                    int16_t depth,
                                    size_t index)
{
    size_t size = lora__rule_size(rule, depth);

    while ((rule = strchr(rule, '{')) != NULL) {
        rule_hole hole;
        size_t rank;

        rule = rule_read_hole(&hole, rule, depth);
        size /= rule_hole_size(&hole);
        rank = index / size;
        numbers[(*count)++] = (int16_t)(hole.low + (int16_t)rank * hole.step);
        index %= size;
    }
}
