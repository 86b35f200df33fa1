/* Text for people: see text.h. */
#include "text.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_CELL 1024

const char *text_on(int color, text_color which)
{
    static const char *const codes[] = {
        "", "\x1b[1m", "\x1b[2m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;32m"};
    return color ? codes[which] : "";
}

const char *text_off(int color)
{
    return color ? "\x1b[0m" : "";
}

size_t text_sequence(const unsigned char *at)
{
    size_t more;
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (at[0] < 0x80) {
        return 1;
    }
    if (at[0] >= 0xc2 && at[0] <= 0xdf) {
        more = 1;
    } else if (at[0] >= 0xe0 && at[0] <= 0xef) {
        more = 2;
        low = at[0] == 0xe0 ? 0xa0 : low;   /* no overlong form */
        high = at[0] == 0xed ? 0x9f : high; /* no surrogate */
    } else if (at[0] >= 0xf0 && at[0] <= 0xf4) {
        more = 3;
        low = at[0] == 0xf0 ? 0x90 : low;
        high = at[0] == 0xf4 ? 0x8f : high; /* up to U+10FFFF */
    } else {
        return 0;
    }
    for (size_t i = 1; i <= more; i++) {
        if (at[i] < low || at[i] > high) {
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return more + 1;
}

/* 1 for what must not reach a terminal: C0 and C1 controls, and the marks that
 * reorder text. */
static int text_is_control(const unsigned char *at, size_t bytes)
{
    if (bytes == 1) {
        return at[0] < 0x20 || at[0] == 0x7f;
    }
    if (bytes == 2) {
        return at[0] == 0xc2 && at[1] < 0xa0;
    }
    if (bytes == 3 && at[0] == 0xe2) { /* U+202A-202E, U+2066-2069 */
        return (at[1] == 0x80 && at[2] >= 0xaa && at[2] <= 0xae) ||
               (at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9);
    }
    return 0;
}

const char *text_clean(char *buffer, size_t size, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t used = 0;
    while (*at != '\0') {
        size_t bytes = text_sequence(at);
        int bad = bytes == 0 || text_is_control(at, bytes);
        size_t need = bad ? 4 : bytes;
        if (used + need + 4 > size) { /* room for "..." and the end */
            memcpy(buffer + used, "...", 3);
            used += 3;
            break;
        }
        if (bad) {
            snprintf(buffer + used, 5, "\\x%02x", at[0]);
            at++;
        } else {
            memcpy(buffer + used, at, bytes);
            at += bytes;
        }
        used += need;
    }
    buffer[used] = '\0';
    return buffer;
}

void text_put(FILE *out, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    while (*at != '\0') {
        size_t bytes = text_sequence(at);
        if (bytes == 0 || text_is_control(at, bytes)) {
            fprintf(out, "\\x%02x", at[0]);
            at++;
        } else {
            fwrite(at, 1, bytes, out);
            at += bytes;
        }
    }
}

/* Columns that cleaned text takes: one a character. */
static size_t text_width(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

/* The column's heading, ">": to the right. */
static const char *
text_heading(const text_table *table, size_t column, int *right, int *bytes)
{
    const char *at = table->headings;
    while (column-- > 0) {
        at += strcspn(at, "|") + 1;
    }
    *right = *at == '>';
    at += *right;
    *bytes = (int)strcspn(at, "|");
    return at;
}

void text_table_begin(text_table *table, const char *headings)
{
    memset(table, 0, sizeof *table);
    table->headings = headings;
    table->column_count = 1;
    for (const char *at = headings; *at != '\0'; at++) {
        table->column_count += *at == '|';
    }
}

void text_table_cell(text_table *table,
                     text_color color,
                     const char *format,
                     ...)
{
    char raw[TEXT_CELL];
    char clean[TEXT_CELL];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    text_clean(clean, sizeof clean, raw);
    if (table->count == table->capacity) {
        size_t capacity = table->capacity * 2 + 64;
        char **cells = app_alloc(capacity, sizeof *cells);
        unsigned char *colors = app_alloc(capacity, 1);
        for (size_t i = 0; i < table->count; i++) {
            cells[i] = table->cells[i];
            colors[i] = table->colors[i];
        }
        free(table->cells);
        free(table->colors);
        table->cells = cells;
        table->colors = colors;
        table->capacity = capacity;
    }
    size_t bytes = strlen(clean) + 1;
    char *copy = app_alloc(bytes, 1);
    memcpy(copy, clean, bytes);
    table->colors[table->count] = (unsigned char)color;
    table->cells[table->count++] = copy;
}

static void text_table_line(const text_table *table,
                            const size_t *widths,
                            size_t first,
                            const char *indent,
                            int color)
{
    size_t blank = 0; /* spaces owed, paid only before more text */
    fputs(indent, stdout);
    for (size_t j = 0; j < table->column_count; j++) {
        int right;
        int bytes;
        const char *cell = table->cells[first + j];
        size_t pad = widths[j] - text_width(cell);
        text_color which = (text_color)table->colors[first + j];
        text_heading(table, j, &right, &bytes);
        if (*cell == '\0') {
            blank += widths[j] + 2;
            continue;
        }
        printf("%*s%s%s%s", (int)(blank + (right ? pad : 0)), "",
               which != TEXT_PLAIN ? text_on(color, which) : "", cell,
               which != TEXT_PLAIN ? text_off(color) : "");
        blank = 2 + (right ? 0 : pad);
    }
    putchar('\n');
}

void text_table_print(const text_table *table, const char *indent, int color)
{
    size_t *widths = app_alloc(table->column_count, sizeof *widths);
    int right;
    int bytes;
    int has_headings = *table->headings != '|' && *table->headings != '\0';
    for (size_t j = 0; j < table->column_count; j++) {
        text_heading(table, j, &right, &bytes);
        widths[j] = has_headings ? (size_t)bytes : 0;
    }
    for (size_t i = 0; i < table->count; i++) {
        size_t width = text_width(table->cells[i]);
        size_t *most = &widths[i % table->column_count];
        *most = width > *most ? width : *most;
    }
    if (has_headings) {
        printf("%s%s", indent, text_on(color, TEXT_DIM));
        for (size_t j = 0; j < table->column_count; j++) {
            const char *heading = text_heading(table, j, &right, &bytes);
            int last = j + 1 == table->column_count;
            int pad = (int)widths[j] - bytes;
            printf("%*s%.*s%*s", right ? pad : 0, "", bytes, heading,
                   last ? 0 : (right ? 2 : pad + 2), "");
        }
        printf("%s\n", text_off(color));
    }
    for (size_t i = 0; i + table->column_count <= table->count;
         i += table->column_count) {
        text_table_line(table, widths, i, indent, color);
    }
    free(widths);
}

void text_table_end(text_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    free(table->colors);
}

const char *text_grouped(char *buffer, uint64_t value)
{
    char digits[TEXT_NUMBER];
    int bytes =
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    char *to = buffer;
    for (int i = 0; i < bytes; i++) {
        if (i > 0 && (bytes - i) % 3 == 0) {
            *to++ = ',';
        }
        *to++ = digits[i];
    }
    *to = '\0';
    return buffer;
}

const char *text_bytes(char *buffer, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    if (bytes < 1024) {
        snprintf(buffer, TEXT_NUMBER, "%u bytes", (unsigned)bytes);
        return buffer;
    }
    double value = (double)bytes / 1024.0;
    size_t unit = 0;
    while (value >= 1023.95 && unit < 3) {
        value /= 1024.0;
        unit++;
    }
    snprintf(buffer, TEXT_NUMBER, "%.1f %s", value, units[unit]);
    return buffer;
}

const char *text_real(char *buffer, double value)
{
    snprintf(buffer, TEXT_NUMBER, "%.6g", value);
    return buffer;
}

const char *text_shape(char *buffer, const int64_t *shape, int32_t ndim)
{
    size_t used = 0;
    buffer[0] = '\0';
    for (int32_t i = 0; i < ndim && i < LORA_MAX_DIMS; i++) {
        used += (size_t)snprintf(buffer + used, TEXT_SHAPE - used, "%s%lld",
                                 i > 0 ? "x" : "", (long long)shape[i]);
    }
    if (ndim == 0) {
        snprintf(buffer, TEXT_SHAPE, "scalar");
    }
    return buffer;
}

static int text_by_value(const void *one, const void *other)
{
    const struct text_tally_entry *a = one;
    const struct text_tally_entry *b = other;
    int order = (a->value > b->value) - (a->value < b->value);
    return order != 0 ? order : strcmp(a->label, b->label);
}

/* Sort, and make one entry of those that would look the same: rounding keeps
 * the order, so that they are neighbours. */
static void text_tally_unite(text_tally *tally)
{
    size_t kept = 0;
    if (tally->count > 1) {
        qsort(tally->entries, tally->count, sizeof *tally->entries,
              text_by_value);
    }
    for (size_t i = 0; i < tally->count; i++) {
        struct text_tally_entry *entry = &tally->entries[i];
        if (kept > 0 &&
            strcmp(tally->entries[kept - 1].label, entry->label) == 0) {
            tally->entries[kept - 1].count += entry->count;
        } else {
            tally->entries[kept++] = *entry;
        }
    }
    tally->count = kept;
}

static void text_tally_grow(text_tally *tally)
{
    size_t capacity = tally->capacity * 2 + 64;
    struct text_tally_entry *entries = app_alloc(capacity, sizeof *entries);
    if (tally->count > 0) {
        memcpy(entries, tally->entries, tally->count * sizeof *entries);
    }
    free(tally->entries);
    tally->entries = entries;
    tally->capacity = capacity;
}

/* A new entry. What is alike is united when the table is full, which leaves
 * half of it free: a file of a million values takes no longer than sorting. */
static struct text_tally_entry *text_tally_add(text_tally *tally)
{
    if (tally->count == tally->capacity) {
        text_tally_unite(tally);
        if (tally->count >= tally->capacity / 2) {
            text_tally_grow(tally);
        }
    }
    struct text_tally_entry *entry = &tally->entries[tally->count++];
    memset(entry, 0, sizeof *entry);
    entry->count = 1;
    return entry;
}

/* Most are like the one before. */
static struct text_tally_entry *text_tally_last(const text_tally *tally)
{
    return tally->count > 0 ? &tally->entries[tally->count - 1] : NULL;
}

void text_tally_label(text_tally *tally, const char *label)
{
    char clean[sizeof tally->entries->label];
    struct text_tally_entry *last = text_tally_last(tally);
    text_clean(clean, sizeof clean, label);
    if (last != NULL && strcmp(last->label, clean) == 0) {
        last->count++;
    } else {
        memcpy(text_tally_add(tally)->label, clean, sizeof clean);
    }
}

void text_tally_number(text_tally *tally, double value)
{
    struct text_tally_entry *last = text_tally_last(tally);
    if (last != NULL && last->value == value) {
        last->count++;
    } else {
        struct text_tally_entry *entry = text_tally_add(tally);
        entry->value = value;
        text_real(entry->label, value);
    }
}

static int text_by_count(const void *one, const void *other)
{
    const struct text_tally_entry *a = one;
    const struct text_tally_entry *b = other;
    int order = (a->count < b->count) - (a->count > b->count);
    return order != 0 ? order : strcmp(a->label, b->label);
}

void text_tally_sort_values(text_tally *tally)
{
    text_tally_unite(tally);
}

void text_tally_sort_counts(text_tally *tally)
{
    text_tally_unite(tally);
    if (tally->count > 1) {
        qsort(tally->entries, tally->count, sizeof *tally->entries,
              text_by_count);
    }
}

void text_tally_print(const text_tally *tally, size_t most)
{
    char number[TEXT_NUMBER];
    if (tally->count == 1) {
        fputs(tally->entries[0].label, stdout);
        return;
    }
    for (size_t i = 0; i < tally->count; i++) {
        if (i == most) {
            printf(", %zu more", tally->count - most);
            return;
        }
        printf("%s%s (%s)", i > 0 ? ", " : "", tally->entries[i].label,
               text_grouped(number, tally->entries[i].count));
    }
}

void text_tally_end(text_tally *tally)
{
    free(tally->entries);
}
