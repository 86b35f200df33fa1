/* JSON: reading what the library reports, and writing what it does not.
 *
 * The reader is for text that the library made, so it does not judge; it never
 * reads past the end of the slice, whatever the text.
 */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A value inside a longer text. */
typedef struct json_slice {
    const char *at; /* NULL: absent */
    size_t bytes;
} json_slice;

/* A walk through the members of an object or the elements of an array. */
typedef struct json_walk {
    json_slice rest;
    int is_object;
} json_walk;

json_slice json_whole(const char *text, size_t bytes);
json_walk json_enter(json_slice container);

/* The next member; key may be NULL. 0 at the end. */
int json_next(json_walk *walk, json_slice *key, json_slice *value);

/* A member by its name; absent if there is none or it is no object. */
json_slice json_member(json_slice object, const char *name);

/* The text of a string, unescaped, cut to size. Returns buffer; "" for what is
 * no string. */
const char *json_text(char *buffer, size_t size, json_slice value);

double json_number(json_slice value); /* 0 for what is no number */
int json_is_true(json_slice value);
size_t json_count(json_slice container);

/* Write a string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void json_put_string(FILE *out, const char *text);

#endif
