/* Charts in a picture: see chart.h. */
#include "chart.h"

#include "text.h"

#include <math.h>

#define CHART_GAP_ACROSS 46.0 /* least distance of marks */
#define CHART_GAP_UP 17.0
#define CHART_MARKS_MOST                                                       \
    200 /* and of lines of the grid, whatever the range                        \
         */

/* Where a value lies between the ends, 0 to 1. */
static double chart_share(const chart_axis *axis, double value)
{
    double low = axis->low;
    double high = axis->high;
    double share;
    if (axis->scale == CHART_LOG) {
        if (!(value > 0.0)) {
            return low < high ? 0.0 : 1.0;
        }
        share = (log(value) - log(low)) / (log(high) - log(low));
    } else {
        share = high > low ? (value - low) / (high - low) : 0.5;
    }
    return share > 0.0 ? (share < 1.0 ? share : 1.0) : 0.0;
}

double chart_x(const chart *area, double value)
{
    return area->x + area->width * chart_share(&area->across, value);
}

double chart_y(const chart *area, double value)
{
    return area->y + area->height * (1.0 - chart_share(&area->up, value));
}

/* ---- marks ------------------------------------------------------------- */

typedef struct chart_marks {
    double values[CHART_MARKS_MOST];
    size_t count;
} chart_marks;

static void
chart_add_mark(chart_marks *marks, const chart_axis *axis, double value)
{
    double low = axis->low < axis->high ? axis->low : axis->high;
    double high = axis->low < axis->high ? axis->high : axis->low;
    double slack = 1e-9 * fabs(high);
    if (marks->count < CHART_MARKS_MOST && value >= low - slack &&
        value <= high + slack) {
        marks->values[marks->count++] = value;
    }
}

/* Powers of ten, each 1st, 2nd, 5th ... where they are close; with 2 and 5
 * times them where there is room. */
static void
chart_mark_log(chart_marks *marks, const chart_axis *axis, double room)
{
    double low = log10(axis->low < axis->high ? axis->low : axis->high);
    double high = log10(axis->low < axis->high ? axis->high : axis->low);
    double decades = high - low;
    int every = 1;
    while (decades / every > room && every < 1000) {
        every += every < 2 ? 1 : every;
    }
    int first = (int)floor(low / every) * every;
    for (int i = first; i <= (int)ceil(high); i += every) {
        chart_add_mark(marks, axis, pow(10.0, i));
        if (every == 1 && decades * 3.6 <= room) {
            chart_add_mark(marks, axis, 2.0 * pow(10.0, i));
            chart_add_mark(marks, axis, 5.0 * pow(10.0, i));
        }
    }
}

static void
chart_mark_linear(chart_marks *marks, const chart_axis *axis, double room)
{
    static const double factors[] = {1.0, 2.0, 5.0, 10.0};
    double least = (axis->high - axis->low) / room; /* between two marks */
    double ten = pow(10.0, floor(log10(least > 0.0 ? least : 1.0)));
    double step = ten;
    for (size_t i = 0; i < 4 && step < least; i++) {
        step = ten * factors[i];
    }
    for (double at = ceil(axis->low / step); at * step <= axis->high; at++) {
        chart_add_mark(marks, axis, at * step);
        if (marks->count == CHART_MARKS_MOST) {
            break;
        }
    }
}

static void
chart_mark_ranks(chart_marks *marks, const chart_axis *axis, double room)
{
    double step = 1.0;
    while ((axis->high - axis->low) / step > room) {
        step *= 2.0;
    }
    if (axis->low == 1.0 && step > 1.0) {
        chart_add_mark(marks, axis, 1.0);
    }
    for (double at = ceil(axis->low / step); at * step <= axis->high; at++) {
        chart_add_mark(marks, axis, at * step);
        if (marks->count == CHART_MARKS_MOST) {
            break;
        }
    }
}

/* The marks of an axis on which there is room for about so many. */
static void
chart_find_marks(chart_marks *marks, const chart_axis *axis, double room)
{
    marks->count = 0;
    switch (axis->scale) {
    case CHART_LOG:
        chart_mark_log(marks, axis, room);
        break;
    case CHART_LINEAR:
        chart_mark_linear(marks, axis, room);
        break;
    case CHART_RANKS:
        chart_mark_ranks(marks, axis, room);
        break;
    }
}

static const char *
chart_mark_text(char *buffer, const chart_axis *axis, double value)
{
    return axis->mark != NULL ? axis->mark(buffer, value)
                              : text_real(buffer, value);
}

void chart_put_frame(svg *out, const chart *area)
{
    char text[TEXT_NUMBER];
    chart_marks marks;
    double right = area->x + area->width;
    double bottom = area->y + area->height;
    svg_text(out, "head", area->x, area->y - 14.0, "%s", area->title);
    chart_find_marks(&marks, &area->up, area->height / CHART_GAP_UP);
    for (size_t i = 0; i < marks.count; i++) {
        double y = chart_y(area, marks.values[i]);
        svg_line(out, "grid", area->x, y, right, y);
        svg_text(out, "note end", area->x - 8.0, y + 4.0, "%s",
                 chart_mark_text(text, &area->up, marks.values[i]));
    }
    chart_find_marks(&marks, &area->across, area->width / CHART_GAP_ACROSS);
    for (size_t i = 0; i < marks.count; i++) {
        double x = chart_x(area, marks.values[i]);
        svg_line(out, "grid", x, area->y, x, bottom);
        svg_text(out, "note mid", x, bottom + 17.0, "%s",
                 chart_mark_text(text, &area->across, marks.values[i]));
    }
    svg_line(out, "axis", area->x, bottom, right, bottom);
    svg_text(out, "note end", right, bottom + 34.0, "%s", area->across.label);
    if (area->up.label != NULL) {
        svg_text(out, "note end", right, area->y - 14.0, "%s", area->up.label);
    }
}

/* ---- values ------------------------------------------------------------ */

void chart_put_line(svg *out,
                    const chart *area,
                    const char *style,
                    const double *across,
                    const double *up,
                    size_t count)
{
    svg_path_begin(out, style);
    for (size_t i = 0; i < count; i++) {
        svg_path_to(out, chart_x(area, across[i]), chart_y(area, up[i]));
    }
    svg_path_end(out, 0);
}

void chart_put_band(svg *out,
                    const chart *area,
                    const char *style,
                    const double *across,
                    const double *low,
                    const double *high,
                    size_t count)
{
    svg_path_begin(out, style);
    for (size_t i = 0; i < count; i++) {
        svg_path_to(out, chart_x(area, across[i]), chart_y(area, high[i]));
    }
    for (size_t i = count; i-- > 0;) {
        svg_path_to(out, chart_x(area, across[i]), chart_y(area, low[i]));
    }
    svg_path_end(out, 1);
}
