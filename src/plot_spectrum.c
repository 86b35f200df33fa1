/* The picture of the singular values: how they fall off within the layers,
 * what each rank keeps of them, how many directions the layers use, and which
 * layers stand out.
 *
 * One file is shown as bands over its layers, with the largest layers as lines
 * of their own; several as one line and one band each.
 */
#include "plot.h"

#include "chart.h"
#include "spectra.h"
#include "text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPECTRUM_SIDE 24.0  /* left and right of it all */
#define SPECTRUM_LEFT 66.0  /* left of an axis */
#define SPECTRUM_MAIN 330.0 /* heights of the charts */
#define SPECTRUM_SMALL 190.0
#define SPECTRUM_ROW 20.0   /* of a list */
#define SPECTRUM_NOISE 1e-6 /* of the first value: rounding errors */
#define SPECTRUM_ROUNDING 1e-9
#define SPECTRUM_KEPT 1e-3 /* the least share lost that is told apart */

enum {
    SPECTRUM_BINS = 32,  /* of the histogram, at most */
    SPECTRUM_LAYERS = 6, /* named ones, of one file */
    SPECTRUM_FEW = 24,   /* so few layers are all drawn */
    SPECTRUM_BANDS = 3,  /* so many files have a band each */
    SPECTRUM_NAME = 68,  /* characters of a layer's name */
    SPECTRUM_TITLE = 76, /* and of a file's */
    SPECTRUM_TEXT = 600, /* bytes */
    SPECTRUM_STYLE = 32
};

typedef struct spectrum {
    const spectra *sets;
    int count;
    size_t longest;
    size_t named;        /* layers to name, of each file */
    double bin_low, bin; /* where the histogram begins, width of a bar */
    size_t bin_count;
    double *ranks;        /* 0 ... longest */
    const double *across; /* 1 ... longest */
    double flat[2];       /* around 1 */
    chart values, kept, used;
} spectrum;

/* ---- small things ------------------------------------------------------ */

/* "line s" and the colour's number; dots where colours come again. */
static const char *spectrum_style(char *buffer, const char *style, int series)
{
    snprintf(buffer, SPECTRUM_STYLE, "%s%d%s", style, series % SVG_COLORS,
             series >= SVG_COLORS ? " dots" : "");
    return buffer;
}

/* A name of at most `most` characters, "..." in place of its middle. */
static const char *spectrum_shorten(char *buffer, const char *text, size_t most)
{
    char clean[SPECTRUM_TEXT];
    size_t length = 0;
    size_t bytes = 0;
    text_clean(clean, sizeof clean, text);
    for (const char *at = clean; *at != '\0'; at++) {
        length += ((unsigned char)*at & 0xc0) != 0x80;
    }
    size_t head = length > most ? most / 2 - 2 : length;
    size_t tail = length > most ? length - (most - head - 3) : length;
    size_t index = 0; /* of the character */
    for (const char *at = clean; *at != '\0'; index++) {
        size_t step = 1;
        while (((unsigned char)at[step] & 0xc0) == 0x80) {
            step++;
        }
        if ((index < head || index >= tail) &&
            bytes + step + 4 < SPECTRUM_TEXT) {
            memcpy(buffer + bytes, at, step);
            bytes += step;
        } else if (index == head && bytes + 4 < SPECTRUM_TEXT) {
            memcpy(buffer + bytes, "...", 3);
            bytes += 3;
        }
        at += step;
    }
    buffer[bytes] = '\0';
    return buffer;
}

/* The last part of a path. */
static const char *spectrum_file_name(const char *path)
{
    const char *name = path;
    for (const char *at = path; *at != '\0'; at++) {
        if (*at == '/' && at[1] != '\0') {
            name = at + 1;
        }
    }
    return name;
}

/* Three digits, as people read them. */
static const char *spectrum_number(char *buffer, double value)
{
    snprintf(buffer, TEXT_NUMBER, "%.3g", value);
    return buffer;
}

/* "722 layers, ranks 4 to 64, for sdxl; ..." */
static const char *spectrum_summary(char *buffer, const spectra *set)
{
    char median[TEXT_NUMBER];
    char largest[TEXT_NUMBER];
    char ranks[64];
    if (set->shortest == set->longest) {
        snprintf(ranks, sizeof ranks, "rank %zu", set->longest);
    } else {
        snprintf(ranks, sizeof ranks, "ranks %zu to %zu", set->shortest,
                 set->longest);
    }
    int used = snprintf(
        buffer, SPECTRUM_TEXT,
        "%zu layer%s, %s%s%s; largest value %s, of the median layer %s",
        set->count, set->count == 1 ? "" : "s", ranks,
        *set->family != '\0' ? ", for " : "", set->family,
        spectrum_number(largest, set->sigma[SPECTRA_LARGEST][0]),
        spectrum_number(median, set->sigma[SPECTRA_MEDIAN][0]));
    if (set->zero_count > 0 && used > 0 && used < SPECTRUM_TEXT) {
        snprintf(buffer + used, SPECTRUM_TEXT - (size_t)used,
                 "; %zu more %s zero", set->zero_count,
                 set->zero_count == 1 ? "is" : "are");
    }
    return buffer;
}

/* ---- the singular values ----------------------------------------------- */

/* Lines and bands over the places 1 ... count. A single value is as wide as
 * can be seen. */
static void spectrum_put_line(svg *out,
                              const spectrum *own,
                              const char *style,
                              const double *values,
                              size_t count)
{
    const double flat[2] = {values[0], values[0]};
    if (count == 1) {
        chart_put_line(out, &own->values, style, own->flat, flat, 2);
    } else {
        chart_put_line(out, &own->values, style, own->across, values, count);
    }
}

static void spectrum_put_band(svg *out,
                              const spectrum *own,
                              const char *style,
                              const double *low,
                              const double *high,
                              size_t count)
{
    const double flat_low[2] = {low[0], low[0]};
    const double flat_high[2] = {high[0], high[0]};
    if (count == 1) {
        chart_put_band(out, &own->values, style, own->flat, flat_low, flat_high,
                       2);
    } else {
        chart_put_band(out, &own->values, style, own->across, low, high, count);
    }
}

static void spectrum_put_layer(svg *out,
                               const spectrum *own,
                               const spectra_layer *layer,
                               const char *style)
{
    char tip[SPECTRUM_TEXT];
    char value[TEXT_NUMBER];
    snprintf(tip, sizeof tip, "%.500s: largest value %s, effective rank %.1f",
             layer->target, spectrum_number(value, layer->sigma[0]),
             layer->effective);
    svg_group_begin(out, tip);
    spectrum_put_line(out, own, style, layer->sigma, layer->count);
    svg_group_end(out);
}

/* The bands of a file: all of one alone, the middle one of a few. */
static void spectrum_put_bands(svg *out, const spectrum *own, int index)
{
    char style[SPECTRUM_STYLE];
    const spectra *set = &own->sets[index];
    if (own->count == 1) {
        spectrum_put_band(out, own, spectrum_style(style, "faint f", index),
                          set->sigma[SPECTRA_LEAST],
                          set->sigma[SPECTRA_LARGEST], set->longest);
    }
    if (own->count <= SPECTRUM_BANDS) {
        spectrum_put_band(out, own, spectrum_style(style, "faint f", index),
                          set->sigma[SPECTRA_TENTH],
                          set->sigma[SPECTRA_UPPER_TENTH], set->longest);
    }
    if (own->count == 1) {
        spectrum_put_band(out, own, spectrum_style(style, "pale f", index),
                          set->sigma[SPECTRA_QUARTER],
                          set->sigma[SPECTRA_UPPER_QUARTER], set->longest);
    }
}

static void spectrum_put_values(svg *out, const spectrum *own)
{
    char style[SPECTRUM_STYLE];
    const spectra *first = &own->sets[0];
    chart_put_frame(out, &own->values);
    for (int i = 0; i < own->count; i++) {
        spectrum_put_bands(out, own, i);
    }
    for (size_t i = 0;
         own->count == 1 && first->count <= SPECTRUM_FEW && i < first->count;
         i++) {
        spectrum_put_layer(out, own, &first->layers[i], "thin s0");
    }
    for (size_t i = own->count == 1 ? own->named : 0; i-- > 0;) {
        spectrum_put_layer(out, own, &first->layers[i],
                           spectrum_style(style, "line s", (int)i + 1));
    }
    for (int i = 0; i < own->count; i++) {
        const spectra *set = &own->sets[i];
        if (own->count > 1) {
            spectrum_put_line(out, own, spectrum_style(style, "line dash s", i),
                              set->sigma[SPECTRA_LARGEST], set->longest);
        }
        spectrum_put_line(out, own, spectrum_style(style, "bold s", i),
                          set->sigma[SPECTRA_MEDIAN], set->longest);
    }
}

/* What lines and bands of the chart mean, beside its title. */
static void spectrum_put_key(svg *out, const spectrum *own)
{
    static const struct {
        const char *style; /* of a line; of a filling, laid on those before */
        const char *text;
        double width;
        int alone; /* 1: one file; 2: several; 3: several, but few */
    } keys[] = {
        {"bold s0", "median of the layers", 150.0, 1},
        {"pale f0", "half of them", 105.0, 1},
        {"faint f0", "8 of 10", 75.0, 1},
        {"faint f0", "all", 50.0, 1},
        {"bold s7", "median of the layers", 150.0, 2},
        {"line dash s7", "largest", 78.0, 2},
        {"faint f7", "8 of 10 layers", 100.0, 3},
    };
    size_t count = sizeof keys / sizeof keys[0];
    double x = own->values.x + 190.0;
    double y = own->values.y - 18.0;
    for (size_t i = 0; i < count; i++) {
        int shown = keys[i].alone == 1 ? own->count == 1
                    : keys[i].alone == 2
                        ? own->count > 1
                        : own->count > 1 && own->count <= SPECTRUM_BANDS;
        if (!shown) {
            continue;
        }
        if (keys[i].style[0] == 'b' || keys[i].style[0] == 'l') {
            svg_line(out, keys[i].style, x, y, x + 18.0, y);
        } else {
            /* A band lies on the wider ones. */
            for (size_t j = i; j < count && keys[j].alone == keys[i].alone;
                 j++) {
                svg_rect(out, keys[j].style, x, y - 6.0, 18.0, 12.0);
            }
        }
        svg_text(out, "note", x + 24.0, y + 4.0, "%s", keys[i].text);
        x += 24.0 + keys[i].width;
    }
}

/* ---- what a rank keeps, and how many directions are used ---------------- */

static const char *spectrum_kept_mark(char *buffer, double lost)
{
    snprintf(buffer, TEXT_NUMBER, "%.6g %%", 100.0 - 100.0 * lost);
    return buffer;
}

static void spectrum_put_kept(svg *out, const spectrum *own)
{
    char style[SPECTRUM_STYLE];
    chart_put_frame(out, &own->kept);
    for (int i = 0; i < own->count; i++) {
        const spectra *set = &own->sets[i];
        if (own->count <= SPECTRUM_BANDS) {
            chart_put_band(out, &own->kept, spectrum_style(style, "faint f", i),
                           own->ranks, set->lost[SPECTRA_TENTH],
                           set->lost[SPECTRA_UPPER_TENTH], set->longest + 1);
        }
    }
    for (int i = 0; i < own->count; i++) {
        const spectra *set = &own->sets[i];
        chart_put_line(out, &own->kept, spectrum_style(style, "bold s", i),
                       own->ranks, set->lost_all, set->longest + 1);
    }
}

/* Shares of the layers in each bar; returns the largest. */
static double
spectrum_fill_bins(double *bins, const spectrum *own, const spectra *set)
{
    double most = 0.0;
    memset(bins, 0, SPECTRUM_BINS * sizeof *bins);
    for (size_t i = 0; i < set->count; i++) {
        double past = set->layers[i].effective - own->bin_low;
        size_t bin = past > 0.0 ? (size_t)(past / own->bin) : 0;
        bins[bin < own->bin_count ? bin : own->bin_count - 1] +=
            100.0 / (double)set->count;
    }
    for (size_t i = 0; i < own->bin_count; i++) {
        most = bins[i] > most ? bins[i] : most;
    }
    return most;
}

/* The left end of a bar; that of one more is its right end. */
static double spectrum_bin_x(const spectrum *own, size_t bin)
{
    return chart_x(&own->used, own->bin_low + (double)bin * own->bin);
}

static void spectrum_put_bars(svg *out, const spectrum *own, const double *bins)
{
    double bottom = own->used.y + own->used.height;
    for (size_t i = 0; i < own->bin_count; i++) {
        double x = spectrum_bin_x(own, i);
        double y = chart_y(&own->used, bins[i]);
        if (bins[i] > 0.0) {
            svg_rect(out, "solid f0", x + 0.5, y,
                     spectrum_bin_x(own, i + 1) - x - 1.0, bottom - y);
        }
    }
}

/* The outline of the bars, from the first to the last. */
static void spectrum_put_outline(svg *out,
                                 const spectrum *own,
                                 const double *bins,
                                 const char *style)
{
    double bottom = own->used.y + own->used.height;
    size_t first = 0;
    size_t end = own->bin_count;
    while (first + 1 < end && bins[first] == 0.0) {
        first++;
    }
    while (end > first + 1 && bins[end - 1] == 0.0) {
        end--;
    }
    svg_path_begin(out, style);
    svg_path_to(out, spectrum_bin_x(own, first), bottom);
    for (size_t i = first; i < end; i++) {
        double y = chart_y(&own->used, bins[i]);
        svg_path_to(out, spectrum_bin_x(own, i), y);
        svg_path_to(out, spectrum_bin_x(own, i + 1), y);
    }
    svg_path_to(out, spectrum_bin_x(own, end), bottom);
    svg_path_end(out, 0);
}

static void spectrum_put_used(svg *out, const spectrum *own)
{
    double bins[SPECTRUM_BINS];
    char style[SPECTRUM_STYLE];
    chart_put_frame(out, &own->used);
    for (int i = 0; i < own->count; i++) {
        spectrum_fill_bins(bins, own, &own->sets[i]);
        if (own->count == 1) {
            spectrum_put_bars(out, own, bins);
        } else {
            spectrum_put_outline(out, own, bins,
                                 spectrum_style(style, "line s", i));
        }
    }
}

/* ---- lists ------------------------------------------------------------- */

/* Title and, of several files, what is known of each. */
static void spectrum_put_header(svg *out, const spectrum *own)
{
    char style[SPECTRUM_STYLE];
    char name[SPECTRUM_TEXT];
    char summary[SPECTRUM_TEXT];
    double y = 38.0;
    if (own->count == 1) {
        spectrum_shorten(name, spectrum_file_name(own->sets[0].path),
                         SPECTRUM_TITLE);
        svg_text(out, "title", SPECTRUM_SIDE, y, "%s", name);
        svg_text(out, "note", SPECTRUM_SIDE, y + 22.0, "%s",
                 spectrum_summary(summary, &own->sets[0]));
        return;
    }
    svg_text(out, "title", SPECTRUM_SIDE, y, "Singular values of %d adapters",
             own->count);
    for (int i = 0; i < own->count; i++) {
        const spectra *set = &own->sets[i];
        y += i == 0 ? 26.0 : SPECTRUM_ROW;
        svg_line(out, spectrum_style(style, "bold s", i), SPECTRUM_SIDE,
                 y - 4.0, SPECTRUM_SIDE + 18.0, y - 4.0);
        svg_text(out, "", SPECTRUM_SIDE + 26.0, y, "%s",
                 spectrum_shorten(name, spectrum_file_name(set->path), 44));
        svg_text(out, "note end", PLOT_WIDTH - SPECTRUM_SIDE, y, "%s",
                 spectrum_summary(summary, set));
    }
}

static void spectrum_put_row(svg *out,
                             double y,
                             int color,
                             const spectra *set,
                             const spectra_layer *layer)
{
    char style[SPECTRUM_STYLE];
    char text[SPECTRUM_TEXT];
    double right = PLOT_WIDTH - SPECTRUM_SIDE;
    svg_line(out, spectrum_style(style, "bold s", color), SPECTRUM_SIDE,
             y - 4.0, SPECTRUM_SIDE + 18.0, y - 4.0);
    svg_group_begin(out, layer->name);
    svg_text(out, "mono", SPECTRUM_SIDE + 26.0, y, "%s",
             spectrum_shorten(text, layer->target, SPECTRUM_NAME));
    svg_group_end(out);
    svg_text(out, "end", right - 290.0, y, "%s",
             spectrum_number(text, layer->sigma[0]));
    svg_text(out, "end", right - 172.0, y, "%.1f",
             layer->sigma[0] / set->sigma[SPECTRA_MEDIAN][0]);
    svg_text(out, "end", right - 100.0, y, "%zu", layer->count);
    svg_text(out, "end", right, y, "%.1f", layer->effective);
}

static void spectrum_put_layers(svg *out, const spectrum *own, double y)
{
    double right = PLOT_WIDTH - SPECTRUM_SIDE;
    svg_text(out, "head", SPECTRUM_SIDE, y, "Largest layers");
    svg_text(out, "note end", right - 290.0, y, "largest value");
    svg_text(out, "note end", right - 172.0, y, "times the median");
    svg_text(out, "note end", right - 100.0, y, "rank");
    svg_text(out, "note end", right, y, "effective rank");
    for (int i = 0; i < own->count; i++) {
        const spectra *set = &own->sets[i];
        for (size_t j = 0; j < own->named && j < set->count; j++) {
            y += SPECTRUM_ROW;
            spectrum_put_row(out, y, own->count > 1 ? i : (int)j + 1, set,
                             &set->layers[j]);
        }
    }
}

/* ---- layout ------------------------------------------------------------ */

/* The least value of a line that is no rounding error. */
static double spectrum_least(const double *values, size_t count)
{
    double least = values[0];
    for (size_t k = 1; k < count; k++) {
        if (values[k] > SPECTRUM_NOISE * values[0] && values[k] < least) {
            least = values[k];
        }
    }
    return least;
}

/* The range of the values: from the largest down to the least that is drawn;
 * a decade at least. */
static void spectrum_find_range(const spectrum *own, double *low, double *high)
{
    int lowest = own->count == 1                ? SPECTRA_LEAST
                 : own->count <= SPECTRUM_BANDS ? SPECTRA_TENTH
                                                : SPECTRA_MEDIAN;
    double least = (double)INFINITY;
    double most = 0.0;
    for (int i = 0; i < own->count; i++) {
        const spectra *set = &own->sets[i];
        for (int j = lowest; j <= SPECTRA_MEDIAN; j++) {
            double one = spectrum_least(set->sigma[j], set->longest);
            least = one < least ? one : least;
        }
        most = set->layers[0].sigma[0] > most ? set->layers[0].sigma[0] : most;
    }
    *high = most * 1.15;
    *low = least / 1.15 < most / 10.0 ? least / 1.15 : most / 10.0;
}

/* Bars as narrow as a power of two allows, over what there is. */
static void spectrum_find_bins(spectrum *own)
{
    double least = (double)INFINITY;
    double most = 0.0;
    for (int i = 0; i < own->count; i++) {
        for (size_t j = 0; j < own->sets[i].count; j++) {
            double effective = own->sets[i].layers[j].effective;
            least = effective < least ? effective : least;
            most = effective > most ? effective : most;
        }
    }
    /* A layer of one value has just 1, give or take a rounding. */
    own->bin_low = floor(least + SPECTRUM_ROUNDING);
    most = most < own->bin_low + 0.99 ? own->bin_low + 0.99 : most;
    own->bin = 0.125;
    while ((most - own->bin_low) / own->bin >= SPECTRUM_BINS) {
        own->bin *= 2.0;
    }
    own->bin_count = (size_t)((most - own->bin_low) / own->bin) + 1;
}

static void spectrum_place_charts(spectrum *own, double y)
{
    double width = PLOT_WIDTH - SPECTRUM_LEFT - SPECTRUM_SIDE;
    double half = (width - SPECTRUM_LEFT) / 2.0;
    double below = y + SPECTRUM_MAIN + 88.0;
    double longest = (double)own->longest;
    const chart values = {
        SPECTRUM_LEFT,
        y,
        width,
        SPECTRUM_MAIN,
        "Singular values",
        {CHART_RANKS, 1.0, longest, "values of a layer, largest first", NULL},
        {CHART_LOG, 0.0, 0.0, NULL, NULL},
    };
    const char *kept_label = own->count <= SPECTRUM_BANDS
                                 ? "together; band: 8 of 10 layers"
                                 : "all layers together";
    const chart kept = {
        SPECTRUM_LEFT,
        below,
        half,
        SPECTRUM_SMALL,
        "Energy kept at a rank",
        {CHART_RANKS, 0.0, longest, "rank of every layer", NULL},
        {CHART_LOG, 1.0, SPECTRUM_KEPT, kept_label, spectrum_kept_mark},
    };
    const chart used = {
        SPECTRUM_LEFT * 2.0 + half,
        below,
        half,
        SPECTRUM_SMALL,
        "Effective rank",
        {CHART_LINEAR, own->bin_low,
         own->bin_low + own->bin * (double)own->bin_count,
         "directions that a layer uses", NULL},
        {CHART_LINEAR, 0.0, 0.0, "% of the layers", NULL},
    };
    double bins[SPECTRUM_BINS];
    own->values = values;
    own->kept = kept;
    own->used = used;
    if (own->longest == 1) {
        own->values.across.low = 0.4;
        own->values.across.high = 1.6;
    }
    spectrum_find_range(own, &own->values.up.low, &own->values.up.high);
    for (int i = 0; i < own->count; i++) {
        double most = spectrum_fill_bins(bins, own, &own->sets[i]);
        own->used.up.high =
            most * 1.05 > own->used.up.high ? most * 1.05 : own->used.up.high;
    }
}

/* What all charts share. */
static void spectrum_begin(spectrum *own, const spectra *sets, int count)
{
    memset(own, 0, sizeof *own);
    own->sets = sets;
    own->count = count;
    for (int i = 0; i < count; i++) {
        own->longest =
            sets[i].longest > own->longest ? sets[i].longest : own->longest;
    }
    own->named = count == 1 ? SPECTRUM_LAYERS : count <= 3 ? 3 : 1;
    if (count == 1 && sets[0].count < own->named) {
        own->named = sets[0].count;
    }
    own->ranks = app_alloc(own->longest + 1, sizeof *own->ranks);
    own->across = own->ranks + 1;
    for (size_t i = 0; i <= own->longest; i++) {
        own->ranks[i] = (double)i;
    }
    double wide = own->longest == 1 ? 0.4 : 0.01 * (double)own->longest;
    own->flat[0] = 1.0 - wide;
    own->flat[1] = 1.0 + wide;
    spectrum_find_bins(own);
}

static void spectrum_draw(svg *out, spectrum *own)
{
    char title[SPECTRUM_TEXT];
    char summary[SPECTRUM_TEXT];
    size_t rows = 0;
    for (int i = 0; i < own->count; i++) {
        rows +=
            own->sets[i].count < own->named ? own->sets[i].count : own->named;
    }
    double top = own->count == 1
                     ? 108.0
                     : 112.0 + SPECTRUM_ROW * (double)(own->count - 1);
    double list = top + SPECTRUM_MAIN + SPECTRUM_SMALL + 168.0;
    double height = list + SPECTRUM_ROW * (double)rows + 24.0;
    spectrum_place_charts(own, top);
    snprintf(title, sizeof title, "Singular values: %.200s",
             own->count == 1 ? spectrum_file_name(own->sets[0].path)
                             : "several adapters");
    svg_begin(out, PLOT_WIDTH, height, title,
              spectrum_summary(summary, &own->sets[0]));
    spectrum_put_header(out, own);
    spectrum_put_values(out, own);
    spectrum_put_key(out, own);
    spectrum_put_kept(out, own);
    spectrum_put_used(out, own);
    spectrum_put_layers(out, own, list);
    svg_end(out);
}

int plot_spectrum(app_state *app, svg *out, int count, char **paths)
{
    spectra *sets = app_alloc((size_t)count, sizeof *sets);
    spectrum own;
    int code = 0;
    for (int i = 0; i < count && code == 0; i++) {
        code = spectra_read(app, &sets[i], paths[i]);
    }
    if (code == 0) {
        spectrum_begin(&own, sets, count);
        spectrum_draw(out, &own);
        free(own.ranks);
    }
    for (int i = 0; i < count; i++) {
        spectra_release(&sets[i]);
    }
    free(sets);
    return code;
}
