/* The progress bar: see progress.h. */
#include "progress.h"

#include "system.h"

#include <stdio.h>

#define PROGRESS_PATIENCE 300 /* ms before a bar appears */
#define PROGRESS_INTERVAL 100 /* ms between drawings */
#define PROGRESS_WIDTH 30     /* cells of the bar */

void progress_begin(progress *bar, int wanted)
{
    bar->enabled = wanted && system_can_color(stderr);
    bar->drawn = 0;
    bar->begun = system_milliseconds();
    bar->redraw = bar->begun + PROGRESS_PATIENCE;
}

void progress_clear(progress *bar)
{
    if (bar->drawn) {
        fputs("\r\x1b[K", stderr);
        bar->drawn = 0;
    }
}

int32_t
progress_update(void *user, const char *stage, uint64_t done, uint64_t total)
{
    progress *bar = user;
    if (!bar->enabled || total == 0) {
        return 0;
    }
    uint64_t now = system_milliseconds();
    if (done >= total) {
        progress_clear(bar);
        return 0;
    }
    if (now < bar->redraw) {
        return 0;
    }
    char cells[PROGRESS_WIDTH + 1];
    double share = (double)done / (double)total;
    int full = (int)(share * PROGRESS_WIDTH);
    for (int i = 0; i < PROGRESS_WIDTH; i++) {
        cells[i] = i < full ? '#' : '.';
    }
    cells[PROGRESS_WIDTH] = '\0';
    if (system_columns() > PROGRESS_WIDTH + 40) {
        fprintf(stderr, "\r%-8s [%s] %3.0f %%  %llu/%llu\x1b[K", stage, cells,
                share * 100.0, (unsigned long long)done,
                (unsigned long long)total);
    } else {
        fprintf(stderr, "\r%s %3.0f %%\x1b[K", stage, share * 100.0);
    }
    fflush(stderr);
    bar->drawn = 1;
    bar->redraw = now + PROGRESS_INTERVAL;
    return 0;
}
