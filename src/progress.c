/* The progress bar: see progress.h. */
#include "progress.h"

#include "system.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

#define PROGRESS_PATIENCE 300 /* ms before a bar appears */
#define PROGRESS_INTERVAL 100 /* ms between drawings */
#define PROGRESS_WIDTH 20     /* cells of the bar */
#define PROGRESS_SOON 1000    /* ms before a rate says anything */
#define PROGRESS_LINE 160

void progress_begin(progress *bar, int wanted)
{
    bar->enabled = wanted && system_can_color(stderr);
    bar->drawn = 0;
    bar->stage = "";
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

/* 1 if a stage counts bytes; the others count layers, modules or tensors. */
static int progress_in_bytes(const char *stage)
{
    return strcmp(stage, "hash") == 0 || strcmp(stage, "copy") == 0;
}

/* A stage begins anew with another name or total, and where it goes back. */
static void progress_note(progress *bar,
                          const char *stage,
                          uint64_t done,
                          uint64_t total,
                          uint64_t now)
{
    if (strcmp(bar->stage, stage) != 0 || total != bar->total ||
        done < bar->done) {
        bar->stage = stage;
        bar->total = total;
        bar->stage_begun = now;
        bar->stage_first = done;
    }
    bar->done = done;
}

/* How much is done of how much. */
static void progress_put_amount(char *out, size_t room, const progress *bar)
{
    char done[TEXT_NUMBER];
    char total[TEXT_NUMBER];
    if (progress_in_bytes(bar->stage)) {
        snprintf(out, room, "  %s of %s", text_bytes(done, bar->done),
                 text_bytes(total, bar->total));
    } else {
        snprintf(out, room, "  %llu/%llu", (unsigned long long)bar->done,
                 (unsigned long long)bar->total);
    }
}

/* How much in a second, and the time that the rest takes at this rate; empty
 * while that would be a guess. */
static void
progress_put_rate(char *out, size_t room, const progress *bar, uint64_t now)
{
    char amount[TEXT_NUMBER];
    char rate[TEXT_NUMBER + 8];
    uint64_t took = now - bar->stage_begun;
    uint64_t some = bar->done - bar->stage_first;
    *out = '\0';
    if (took < PROGRESS_SOON || some == 0) {
        return;
    }
    double each_second = 1000.0 * (double)some / (double)took;
    double left = (double)(bar->total - bar->done) / each_second + 0.5;
    if (progress_in_bytes(bar->stage)) {
        snprintf(rate, sizeof rate, "%s/s",
                 text_bytes(amount, (uint64_t)each_second));
    } else {
        snprintf(rate, sizeof rate, "%.*f/s", each_second < 10.0 ? 1 : 0,
                 each_second);
    }
    if (left < 100.0 * 60.0) {
        snprintf(out, room, "  %s  %u:%02u left", rate, (unsigned)left / 60,
                 (unsigned)left % 60);
    } else if (left < 1000.0 * 3600.0) {
        snprintf(out, room, "  %s  %u h %02u left", rate, (unsigned)left / 3600,
                 (unsigned)left / 60 % 60);
    } else {
        snprintf(out, room, "  %s", rate);
    }
}

/* As much of it as the terminal has columns for. */
static void progress_draw(const progress *bar, uint64_t now)
{
    char cells[PROGRESS_WIDTH + 1];
    char line[PROGRESS_LINE];
    char amount[PROGRESS_LINE / 2];
    char rate[PROGRESS_LINE / 2];
    size_t columns = (size_t)system_columns();
    double share = (double)bar->done / (double)bar->total;
    for (int i = 0; i < PROGRESS_WIDTH; i++) {
        cells[i] = i < (int)(share * PROGRESS_WIDTH) ? '#' : '.';
    }
    cells[PROGRESS_WIDTH] = '\0';
    progress_put_amount(amount, sizeof amount, bar);
    progress_put_rate(rate, sizeof rate, bar, now);
    snprintf(line, sizeof line, "%-8s [%s] %3.0f %%", bar->stage, cells,
             share * 100.0);
    if (strlen(line) + strlen(amount) + strlen(rate) >= columns) {
        *amount = '\0';
    }
    if (strlen(line) + strlen(rate) >= columns) {
        snprintf(line, sizeof line, "%s %3.0f %%", bar->stage, share * 100.0);
    }
    if (strlen(line) + strlen(rate) >= columns) {
        *rate = '\0';
    }
    fprintf(stderr, "\r%s%s%s\x1b[K", line, amount, rate);
    fflush(stderr);
}

int32_t
progress_update(void *user, const char *stage, uint64_t done, uint64_t total)
{
    progress *bar = user;
    if (!bar->enabled || total == 0) {
        return 0;
    }
    uint64_t now = system_milliseconds();
    progress_note(bar, stage, done, total, now);
    if (done >= total) {
        progress_clear(bar);
        return 0;
    }
    if (now < bar->redraw) {
        return 0;
    }
    progress_draw(bar, now);
    bar->drawn = 1;
    bar->redraw = now + PROGRESS_INTERVAL;
    return 0;
}
