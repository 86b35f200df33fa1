/* Roots of the secular equation: see secular.h.
 *
 * Between two poles f rises from minus to plus infinity, and is like a constant
 * and those two poles. The one that has the value, slope and curvature of f
 * where it was last measured tells where to go next (Borges and Gragg, A
 * parallel divide and conquer algorithm for the generalized real symmetric
 * definite tridiagonal eigenproblem, 1993); two or three such steps are usual.
 * A bracket is kept, and what would leave it goes to its middle instead. How
 * f is evaluated, from which pole, and when to stop is as R.-C. Li has it
 * (Solving secular equations stably and efficiently, 1993).
 *
 * Four roots go side by side, as each step waits for roots and divisions.
 */
#include "linalg/secular.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define SECULAR_STEPS 100

/* From here on every second step halves the bracket. */
#define SECULAR_PATIENCE 20

/* What is known of one root: a bracket of its offset, and the distance of its
 * other pole's square. */
typedef struct secular_place {
    double low;
    double high;
    double gap;
    int settled;
} secular_place;

/* Four of them. */
typedef struct secular_four {
    const lora__secular *s;
    secular_place place[4];
    double origins[4];
    double at[4];       /* offsets: where to look next */
    double sums[4 * 4]; /* of f there, as poles_f64 has them */
} secular_four;

static void secular_measure(secular_four *four)
{
    const lora__secular *s = four->s;

    s->kernels->poles_f64(four->sums, s->weights, s->poles, four->origins,
                          four->at, s->count);
}

/* The middle, in magnitude; one of the ends may be 0. */
static double secular_middle(const secular_place *place)
{
    const double product = place->low * place->high;

    if (product > 0) {
        return place->low < 0 ? -sqrt(product) : sqrt(product);
    }
    return (place->low + place->high) / 1024;
}

/* at + x, where c x^2 - a x + b = 0, within the bracket: the poles' model of f
 * has one root there. */
static double secular_step(
    const secular_place *place, double at, double c, double a, double b)
{
    const double root = sqrt(fabs(a * a - 4 * b * c));
    const double q = (a < 0 ? a - root : a + root) / 2;
    double next = at + b / q;

    if (next > place->low && next < place->high) {
        return next;
    }
    next = at + q / c;
    if (next > place->low && next < place->high) {
        return next;
    }
    return secular_middle(place);
}

/* Halfway to the next pole; the last root is at most as far as all weights. */
static void secular_halfway(secular_four *four, size_t lane, size_t i)
{
    const lora__secular *s = four->s;
    const double pole = s->poles[i];
    double end = 0;

    if (i + 1 < s->count) {
        end = (s->poles[i + 1] - pole) * (s->poles[i + 1] + pole);
    }
    for (size_t k = 0; i + 1 == s->count && k < s->count; k++) {
        end += s->weights[k];
    }
    four->origins[lane] = pole;
    four->at[lane] = end / 2;
}

/* The origin, the bracket, and where to begin: f halfway tells which pole is
 * nearer, and the constant that two poles leave. */
static void secular_begin(secular_four *four, size_t lane, size_t i)
{
    const lora__secular *s = four->s;
    const int is_last = i + 1 == s->count;
    const double value = 1 + four->sums[lane];
    const double half = four->at[lane];
    const size_t other = is_last ? i - 1 : i + 1;
    secular_place *place = &four->place[lane];
    double weight = s->weights[i];
    double beyond = s->weights[other];
    double rest;

    place->gap =
        (s->poles[other] - s->poles[i]) * (s->poles[other] + s->poles[i]);
    rest = value + weight / half - beyond / (place->gap - half);
    if (value >= 0) {
        place->low = 0;
        place->high = half;
    } else if (is_last) {
        place->low = half;
        place->high = 2 * half;
    } else {
        four->origins[lane] = s->poles[other];
        place->gap = -place->gap;
        place->low = -half;
        place->high = 0;
        weight = s->weights[other];
        beyond = s->weights[i];
    }
    four->at[lane] =
        secular_step(place, 0, rest, rest * place->gap + weight + beyond,
                     weight * place->gap);
    place->settled = 0;
}

/* To the root of the model. Settled when f is 0 to rounding, or when there is
 * nowhere to go. */
static void secular_advance(secular_four *four, size_t lane, int halve)
{
    secular_place *place = &four->place[lane];
    const double at = four->at[lane];
    const double value = 1 + four->sums[lane];
    const double size = 1 + four->sums[4 + lane];
    const double slope = four->sums[8 + lane];
    const double bend = four->sums[12 + lane];
    const double sum = place->gap - 2 * at; /* of distances of the two poles */
    const double product = -at * (place->gap - at);
    double next;

    if (place->settled ||
        fabs(value) <= DBL_EPSILON * (8 * size + fabs(at) * slope)) {
        place->settled = 1;
        return;
    }
    if (value < 0) {
        place->low = at;
    } else {
        place->high = at;
    }
    next = secular_step(place, at, value - sum * slope + product * bend,
                        sum * value - product * slope, product * value);
    next = halve ? secular_middle(place) : next;
    place->settled = next == at;
    four->at[lane] = next;
}

/* Roots first, first + 1, ...; beyond the last one that once more. */
static int
secular_solve(secular_four *four, size_t first, const lora__secular *s)
{
    size_t index[4];

    for (size_t lane = 0; lane < 4; lane++) {
        index[lane] = first + lane < s->count ? first + lane : s->count - 1;
        secular_halfway(four, lane, index[lane]);
    }
    secular_measure(four);
    for (size_t lane = 0; lane < 4; lane++) {
        secular_begin(four, lane, index[lane]);
    }
    for (int step = 0; step < SECULAR_STEPS; step++) {
        int settled = 1;

        secular_measure(four);
        for (size_t lane = 0; lane < 4; lane++) {
            secular_advance(four, lane,
                            step > SECULAR_PATIENCE && step % 2 == 1);
            settled &= four->place[lane].settled;
        }
        if (settled) {
            return 1;
        }
    }
    return 0;
}

LORA_PRIVATE int lora__secular_roots(double *offsets,
                                     double *origins,
                                     const lora__secular *secular)
{
    const size_t count = secular->count;
    secular_four four;

    if (count == 1) {
        origins[0] = 0;
        offsets[0] = secular->weights[0];
        return 1;
    }
    four.s = secular;
    for (size_t i = 0; i < count; i += 4) {
        const size_t lanes = count - i < 4 ? count - i : 4;

        if (!secular_solve(&four, i, secular)) {
            return 0;
        }
        memcpy(origins + i, four.origins, lanes * sizeof *origins);
        memcpy(offsets + i, four.at, lanes * sizeof *offsets);
    }
    return 1;
}
