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
 */
#include "linalg/secular.h"

#include <float.h>
#include <math.h>

#define SECULAR_STEPS 100

/* From here on every second step halves the bracket. */
#define SECULAR_PATIENCE 20

/* What is known of a root; `at` is the next place to look. */
typedef struct secular_place {
    double low;
    double high;
    double at;
    double value; /* of f, as the next two */
    double slope;
    double bend;
    double size; /* sum of magnitudes */
} secular_place;

static void secular_measure(secular_place *place, const lora__secular *s)
{
    double sums[4];

    s->kernels->poles_f64(sums, s->weights, s->gaps, place->at,
                          LORA__SECULAR_ROOM(s->count));
    place->value = 1 + sums[0];
    place->size = 1 + sums[1];
    place->slope = sums[2];
    place->bend = sums[3];
}

/* What fills up the last four has no weight and is far. */
static void secular_gaps(const lora__secular *s, size_t origin)
{
    const double pole = s->poles[origin];

    for (size_t k = s->count; k < LORA__SECULAR_ROOM(s->count); k++) {
        s->weights[k] = 0;
        s->gaps[k] = 0x1p500;
    }
    for (size_t k = 0; k < s->count; k++) {
        s->gaps[k] = (s->poles[k] - pole) * (s->poles[k] + pole);
    }
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
static double
secular_step(const secular_place *place, double c, double a, double b)
{
    const double root = sqrt(fabs(a * a - 4 * b * c));
    const double q = (a < 0 ? a - root : a + root) / 2;
    double next = place->at + b / q;

    if (next > place->low && next < place->high) {
        return next;
    }
    next = place->at + q / c;
    if (next > place->low && next < place->high) {
        return next;
    }
    return secular_middle(place);
}

/* The origin, the bracket, and where to begin: f halfway tells which pole is
 * nearer, and the constant that two poles leave. */
static size_t secular_begin(secular_place *place,
                            size_t *beyond,
                            const lora__secular *s,
                            size_t i)
{
    const double *w = s->weights;
    const int is_last = i + 1 == s->count;
    size_t origin = i;
    size_t other = is_last ? i - 1 : i + 1;
    double end = 0;
    double rest;

    secular_gaps(s, i);
    for (size_t k = 0; is_last && k < s->count; k++) {
        end += w[k];
    }
    end = is_last ? end : s->gaps[other];
    place->low = 0;
    place->high = end;
    place->at = end / 2;
    secular_measure(place, s);
    rest = place->value + w[i] / place->at -
           w[other] / (s->gaps[other] - place->at);
    if (place->value >= 0) {
        place->high = place->at;
    } else if (is_last) {
        place->low = place->at;
    } else {
        origin = other;
        other = i;
        secular_gaps(s, origin);
        place->low = -place->at;
        place->high = 0;
    }
    end = s->gaps[other];
    place->at = 0;
    place->at = secular_step(place, rest, rest * end + w[origin] + w[other],
                             w[origin] * end);
    *beyond = other;
    return origin;
}

LORA_PRIVATE int lora__secular_root(double *offset,
                                    size_t *origin,
                                    const lora__secular *secular,
                                    size_t i)
{
    secular_place place;
    size_t other;

    if (secular->count == 1) {
        secular->gaps[0] = 0;
        *origin = 0;
        *offset = secular->weights[0];
        return 1;
    }
    *origin = secular_begin(&place, &other, secular, i);
    for (int step = 0; step < SECULAR_STEPS; step++) {
        const double at = place.at;
        const double gap = secular->gaps[other];
        const double sum = gap - 2 * at; /* of both distances */
        const double product = -at * (gap - at);
        double value;

        secular_measure(&place, secular);
        value = place.value;
        *offset = at;
        if (fabs(value) <=
            DBL_EPSILON * (8 * place.size + fabs(at) * place.slope)) {
            return 1;
        }
        if (value < 0) {
            place.low = at;
        } else {
            place.high = at;
        }
        place.at = secular_step(
            &place, value - sum * place.slope + product * place.bend,
            sum * value - product * place.slope, product * value);
        if (step > SECULAR_PATIENCE && step % 2 == 1) {
            place.at = secular_middle(&place);
        }
        if (place.at == at) {
            return 1;
        }
    }
    return 0;
}
