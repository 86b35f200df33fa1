/* Pictures as SVG: a text that grows while shapes are put into it.
 *
 * The bytes depend on the arguments alone. A style sheet within the picture
 * has the colours, for light and dark surroundings; shapes name its classes:
 *
 *   title, head, note, mono   text; with end or mid its right end, or its
 *                             middle, is at x
 *   grid, axis                lines of a chart
 *   thin, line, bold          strokes, with dash or dots broken ones, with a
 * colour s0 to s7 faint, pale, solid        fillings, with a colour f0 to f7
 */
#ifndef SVG_H
#define SVG_H

#include "app.h"

#include <stddef.h>

enum { SVG_COLORS = 8 };

typedef struct svg {
    char *text;
    size_t bytes;
    size_t room;
    size_t points; /* of the path that is being drawn */
} svg;

/* Begin a picture. The title and the description are for who cannot see it. */
void svg_begin(svg *out,
               double width,
               double height,
               const char *title,
               const char *description);
void svg_end(svg *out);
void svg_release(svg *out);

/* Shapes that belong together, with a text that a pointer over them shows. */
void svg_group_begin(svg *out, const char *tip);
void svg_group_end(svg *out);

void svg_line(
    svg *out, const char *style, double x1, double y1, double x2, double y2);
void svg_rect(svg *out,
              const char *style,
              double x,
              double y,
              double width,
              double height);
void svg_circle(svg *out, const char *style, double x, double y, double r);

/* A line from point to point; `close` joins the last with the first. */
void svg_path_begin(svg *out, const char *style);
void svg_path_to(svg *out, double x, double y);
void svg_path_end(svg *out, int close);

/* Text, of whatever bytes: what XML or a reader could take amiss is made
 * visible. */
void svg_text(
    svg *out, const char *style, double x, double y, const char *format, ...)
    APP_PRINTF(5, 6);

#endif
