/* Charts in a picture: axes, and lines and bands by their values. */
#ifndef CHART_H
#define CHART_H

#include "svg.h"

typedef enum chart_scale {
    CHART_LINEAR,
    CHART_LOG,  /* both ends above 0; they may be in falling order */
    CHART_RANKS /* whole numbers, marked at 1 and at a power of two's steps */
} chart_scale;

typedef struct chart_axis {
    chart_scale scale;
    double low, high; /* values at the left or lower end, and at the other */
    const char *label;
    /* The text of a mark, of TEXT_NUMBER bytes; NULL: the number itself. */
    const char *(*mark)(char *buffer, double value);
} chart_axis;

typedef struct chart {
    double x, y, width, height; /* of the area between the axes */
    const char *title;
    chart_axis across;
    chart_axis up;
} chart;

/* Where a value lies; what is beyond an end, there. */
double chart_x(const chart *area, double value);
double chart_y(const chart *area, double value);

/* Title, grid, marks and labels; before what lies on them. */
void chart_put_frame(svg *out, const chart *area);

/* A line through points, and the area between two lines. */
void chart_put_line(svg *out,
                    const chart *area,
                    const char *style,
                    const double *across,
                    const double *up,
                    size_t count);
void chart_put_band(svg *out,
                    const chart *area,
                    const char *style,
                    const double *across,
                    const double *low,
                    const double *high,
                    size_t count);

#endif
