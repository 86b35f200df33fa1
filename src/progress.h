/* A progress bar on the terminal, for what takes longer than a moment. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <lora/lora.h>

typedef struct progress {
    int enabled;
    int drawn;         /* a bar stands on the terminal */
    uint64_t begun;    /* clock in milliseconds */
    uint64_t redraw;   /* earliest time of the next drawing */
    const char *stage; /* the last one, with its total */
    uint64_t total;
    uint64_t stage_begun; /* clock when it was first told of */
    uint64_t stage_first; /* what was done by then */
    uint64_t done;        /* what is */
} progress;

/* Decide whether a bar may be drawn: only on a terminal that can. */
void progress_begin(progress *bar, int wanted);

/* The library's callback; user is the bar. Never cancels: that is the cancel
 * token's task. */
int32_t
progress_update(void *user, const char *stage, uint64_t done, uint64_t total);

/* Take the bar away before something else is printed, and at the end. */
void progress_clear(progress *bar);

#endif
