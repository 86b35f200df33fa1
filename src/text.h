/* Text for people: aligned tables, numbers, colour. */
#ifndef TEXT_H
#define TEXT_H

#include "app.h"

#include <stdio.h>

/* Colours; nothing is printed where colour is off. */
typedef enum text_color {
    TEXT_PLAIN,
    TEXT_BOLD,
    TEXT_DIM,
    TEXT_RED,
    TEXT_YELLOW,
    TEXT_GREEN
} text_color;

/* Rows of cells, printed in aligned columns. */
typedef struct text_table {
    char **cells; /* column_count a row */
    unsigned char *colors;
    size_t count;
    size_t capacity;
    size_t column_count;
    const char *headings; /* "name|>rank": '>' aligns to the right */
} text_table;

/* Begin a table. An empty first heading means no line of headings. */
void text_table_begin(text_table *table, const char *headings);
void text_table_cell(text_table *table,
                     text_color color,
                     const char *format,
                     ...) APP_PRINTF(3, 4);
void text_table_print(const text_table *table, const char *indent, int color);
void text_table_end(text_table *table);

/* Start and end of a colour on stdout, "" where it is off. */
const char *text_on(int color, text_color which);
const char *text_off(int color);

/* Print text from a file, with control characters and bytes that are not
 * UTF-8 made visible. */
void text_put(FILE *out, const char *text);

/* Length of the well-formed UTF-8 sequence at the start of a string, 0 if
 * there is none. */
size_t text_sequence(const unsigned char *at);

/* A cleaned copy in the caller's buffer, cut with "..." where it is full. */
const char *text_clean(char *buffer, size_t size, const char *text);

/* Numbers in the caller's buffer, which is returned. TEXT_NUMBER bytes are
 * always enough. */
enum { TEXT_NUMBER = 32, TEXT_SHAPE = 256 };
const char *text_grouped(char *buffer, uint64_t value); /* 1,234,567 */
const char *text_bytes(char *buffer, uint64_t bytes);   /* 4.2 MiB */
const char *text_real(char *buffer, double value);      /* shortest, 6 digits */
const char *
text_shape(char *buffer, const int64_t *shape, int32_t ndim); /* 4x320 */

/* Distinct values and how often each was met: once they are sorted, before
 * which there may be several entries for one. */
typedef struct text_tally {
    struct text_tally_entry {
        double value;
        char label[48];
        uint64_t count;
    } * entries;
    size_t count;
    size_t capacity;
} text_tally;

void text_tally_number(text_tally *tally, double value);
void text_tally_label(text_tally *tally, const char *label);
void text_tally_sort_values(text_tally *tally); /* ascending */
void text_tally_sort_counts(text_tally *tally); /* most frequent first */

/* "8", or "4 (12), 8 (180)"; at most `most` entries. */
void text_tally_print(const text_tally *tally, size_t most);
void text_tally_end(text_tally *tally);

#endif
