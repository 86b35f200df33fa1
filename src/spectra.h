/* The singular values of an adapter's layers, and what they say together. */
#ifndef SPECTRA_H
#define SPECTRA_H

#include "app.h"

#include <stddef.h>

/* Of the layers, at one place: least, lower tenth, lower quarter, median,
 * upper quarter, upper tenth, largest. Between two layers it is linear. */
enum {
    SPECTRA_LEAST,
    SPECTRA_TENTH,
    SPECTRA_QUARTER,
    SPECTRA_MEDIAN,
    SPECTRA_UPPER_QUARTER,
    SPECTRA_UPPER_TENTH,
    SPECTRA_LARGEST,
    SPECTRA_QUANTILES
};

typedef struct spectra_layer {
    const char *name;    /* as stored */
    const char *target;  /* canonical */
    const double *sigma; /* of the scaled weight change, descending */
    size_t count;        /* at least 1 */
    double effective;    /* effective rank: exp of the entropy of sigma/sum */
    double *lost;        /* [count + 1] share of the energy that rank k loses */
    double energy;       /* sum of sigma^2, in squares of the file's largest */
} spectra_layer;

typedef struct spectra {
    const char *path;
    char family[32]; /* "" if it is not known */
    lora_adapter *adapter;
    lora_report *report;
    spectra_layer *layers; /* largest sigma_1 first; those that are not zero */
    size_t count;
    size_t zero_count; /* layers that change nothing */
    size_t shortest, longest;
    /* At k = 0 ... longest - 1, of the layers that have a value there. */
    double *sigma[SPECTRA_QUANTILES];
    /* At rank k = 0 ... longest, of all layers; and of the file as a whole. */
    double *lost[SPECTRA_QUANTILES];
    double *lost_all;
} spectra;

/* Read a file. 0, or an exit code after a message: also where there is no
 * layer to show. */
int spectra_read(app_state *app, spectra *out, const char *path);
void spectra_release(spectra *set);

#endif
