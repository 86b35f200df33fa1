/* Pictures as SVG: see svg.h. */
#include "svg.h"

#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SVG_TEXT_MOST 512 /* bytes of one text, longer ones are cut */

/* Series colours: apart from each other for all kinds of colour vision, and
 * dark, or light, enough to be seen as a thin line on the ground. */
static const struct svg_color {
    const char *on_light;
    const char *on_dark;
} svg_palette[SVG_COLORS] = {
    {"#1769c4", "#5eacff"}, {"#c8500a", "#ff9457"}, {"#007f5f", "#3ecf9f"},
    {"#a83c86", "#ee8fd0"}, {"#8f6a00", "#e3b93f"}, {"#5a52cc", "#a9a2ff"},
    {"#7d4a33", "#cf9c83"}, {"#566573", "#aab7c4"},
};

static const char svg_style[] =
    "svg{background:#fff}\n"
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',"
    "'Liberation Sans',Arial,sans-serif;fill:#1c2126}\n"
    ".title{font-size:19px;font-weight:600}\n"
    ".head{font-size:13px;font-weight:600}\n"
    ".note{fill:#5e6872}\n"
    ".mono{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',"
    "'Liberation Mono',monospace}\n"
    ".end{text-anchor:end}\n"
    ".mid{text-anchor:middle}\n"
    "line,path{fill:none;stroke-linejoin:round;stroke-linecap:round}\n"
    ".ground{fill:#fff}\n"
    ".grid{stroke:#e7eaed}\n"
    ".axis{stroke:#b9c0c7}\n"
    ".thin{stroke-width:1;stroke-opacity:.45}\n"
    ".line{stroke-width:1.4}\n"
    ".bold{stroke-width:2.4}\n"
    ".dash{stroke-dasharray:5 4}\n"
    ".dots{stroke-dasharray:1 5}\n"
    ".faint{fill-opacity:.13}\n"
    ".pale{fill-opacity:.24}\n"
    ".solid{fill-opacity:.8}\n";

static const char svg_style_dark[] = "svg{background:#14171b}\n"
                                     "text{fill:#e4e8ec}\n"
                                     ".note{fill:#9aa5b0}\n"
                                     ".ground{fill:#14171b}\n"
                                     ".grid{stroke:#272c32}\n"
                                     ".axis{stroke:#4b535c}\n"
                                     ".faint{fill-opacity:.18}\n"
                                     ".pale{fill-opacity:.32}\n";

/* ---- text -------------------------------------------------------------- */

static void svg_append(svg *out, const char *text, size_t bytes)
{
    if (out->room - out->bytes <= bytes) {
        size_t room = out->room * 2 + bytes + 4096;
        char *grown = app_alloc(room, 1);
        if (out->bytes > 0) {
            memcpy(grown, out->text, out->bytes);
        }
        free(out->text);
        out->text = grown;
        out->room = room;
    }
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
    out->text[out->bytes] = '\0';
}

static void svg_put(svg *out, const char *format, ...) APP_PRINTF(2, 3);

/* Format markup of our own: numbers and names of classes, so never long. */
static void svg_put(svg *out, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int bytes = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (bytes > 0) {
        svg_append(out, line,
                   (size_t)bytes < sizeof line ? (size_t)bytes
                                               : sizeof line - 1);
    }
}

static void svg_put_string(svg *out, const char *text)
{
    svg_append(out, text, strlen(text));
}

/* Put text between tags. text_clean() leaves well-formed UTF-8 without control
 * characters; of that XML refuses U+FFFE and U+FFFF only. */
static void svg_put_clean(svg *out, const char *text)
{
    char clean[SVG_TEXT_MOST];
    text_clean(clean, sizeof clean, text);
    for (const char *at = clean; *at != '\0'; at++) {
        switch (*at) {
        case '&':
            svg_put_string(out, "&amp;");
            break;
        case '<':
            svg_put_string(out, "&lt;");
            break;
        case '>':
            svg_put_string(out, "&gt;");
            break;
        default:
            if (strncmp(at, "\xef\xbf\xbe", 3) == 0 ||
                strncmp(at, "\xef\xbf\xbf", 3) == 0) {
                svg_put_string(out, "\xef\xbf\xbd");
                at += 2;
            } else {
                svg_append(out, at, 1);
            }
            break;
        }
    }
}

/* ---- the picture ------------------------------------------------------- */

static void svg_put_colors(svg *out, int dark)
{
    for (int i = 0; i < SVG_COLORS; i++) {
        const char *color =
            dark ? svg_palette[i].on_dark : svg_palette[i].on_light;
        svg_put(out, ".s%d{stroke:%s}.f%d{fill:%s}\n", i, color, i, color);
    }
}

void svg_begin(svg *out,
               double width,
               double height,
               const char *title,
               const char *description)
{
    memset(out, 0, sizeof *out);
    svg_put(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" "
            "height=\"%g\" viewBox=\"0 0 %g %g\" role=\"img\">\n<title>",
            width, height, width, height);
    svg_put_clean(out, title);
    svg_put_string(out, "</title>\n<desc>");
    svg_put_clean(out, description);
    svg_put_string(out, "</desc>\n<style>\n");
    svg_put_string(out, svg_style);
    svg_put_colors(out, 0);
    svg_put_string(out, "@media (prefers-color-scheme:dark){\n");
    svg_put_string(out, svg_style_dark);
    svg_put_colors(out, 1);
    svg_put_string(out, "}\n</style>\n");
    svg_rect(out, "ground", 0.0, 0.0, width, height);
}

void svg_end(svg *out)
{
    svg_put_string(out, "</svg>\n");
}

void svg_release(svg *out)
{
    free(out->text);
    memset(out, 0, sizeof *out);
}

void svg_group_begin(svg *out, const char *tip)
{
    svg_put_string(out, "<g><title>");
    svg_put_clean(out, tip);
    svg_put_string(out, "</title>\n");
}

void svg_group_end(svg *out)
{
    svg_put_string(out, "</g>\n");
}

/* ---- shapes ------------------------------------------------------------ */

void svg_line(
    svg *out, const char *style, double x1, double y1, double x2, double y2)
{
    svg_put(out,
            "<line class=\"%s\" x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" "
            "y2=\"%.2f\"/>\n",
            style, x1, y1, x2, y2);
}

void svg_rect(svg *out,
              const char *style,
              double x,
              double y,
              double width,
              double height)
{
    svg_put(out,
            "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
            "height=\"%.2f\"/>\n",
            style, x, y, width, height);
}

void svg_circle(svg *out, const char *style, double x, double y, double r)
{
    svg_put(out, "<circle class=\"%s\" cx=\"%.2f\" cy=\"%.2f\" r=\"%.2f\"/>\n",
            style, x, y, r);
}

void svg_path_begin(svg *out, const char *style)
{
    svg_put(out, "<path class=\"%s\" d=\"", style);
    out->points = 0;
}

void svg_path_to(svg *out, double x, double y)
{
    /* A point after the first M is a line to it. */
    svg_put(out, "%s%.2f %.2f", out->points++ == 0 ? "M" : " ", x, y);
}

void svg_path_end(svg *out, int close)
{
    svg_put(out, "%s\"/>\n", close ? "Z" : "");
}

void svg_text(
    svg *out, const char *style, double x, double y, const char *format, ...)
{
    char text[SVG_TEXT_MOST];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    svg_put(out, "<text class=\"%s\" x=\"%.2f\" y=\"%.2f\">", style, x, y);
    svg_put_clean(out, text);
    svg_put_string(out, "</text>\n");
}
