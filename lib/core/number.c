/* Decimal text and doubles, correctly rounded, in any locale.
 *
 * The C library's conversions take the decimal point from the process's
 * locale, which belongs to the host.
 */
#include "core/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Significant digits kept. The exact midpoint between two doubles has at most
 * 767; what follows the last kept digit is folded into one sticky digit. */
#define NUMBER_MAX_DIGITS 770

/* Enough for 10^1120 and for 770 digits shifted by 64 more bits. */
#define NUMBER_LIMBS 256

typedef struct number_decimal {
    uint8_t digits[NUMBER_MAX_DIGITS];
    size_t count;
    int exponent; /* value = digits * 10^exponent, digits an integer */
    int negative;
} number_decimal;

typedef struct number_big {
    uint32_t limbs[NUMBER_LIMBS]; /* least significant first */
    size_t count;
} number_big;

static void number_big_multiply_add(number_big *big, uint32_t by, uint32_t add)
{
    uint64_t carry = add;

    for (size_t i = 0; i < big->count; i++) {
        carry += (uint64_t)big->limbs[i] * by;
        big->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0 && big->count < NUMBER_LIMBS) {
        big->limbs[big->count++] = (uint32_t)carry;
    }
}

static int number_big_bits(const number_big *big)
{
    int bits = (int)(big->count - 1) * 32;

    for (uint32_t top = big->limbs[big->count - 1]; top != 0; top >>= 1) {
        bits++;
    }
    return bits;
}

static void number_big_shift_left(number_big *big, int bits)
{
    size_t words = (size_t)bits / 32;

    if (bits % 32 != 0) {
        number_big_multiply_add(big, (uint32_t)1 << (bits % 32), 0);
    }
    memmove(big->limbs + words, big->limbs, big->count * sizeof(uint32_t));
    memset(big->limbs, 0, words * sizeof(uint32_t));
    big->count += words;
}

static int number_big_compare(const number_big *a, const number_big *b)
{
    if (a->count != b->count) {
        return a->count < b->count ? -1 : 1;
    }
    for (size_t i = a->count; i-- > 0;) {
        if (a->limbs[i] != b->limbs[i]) {
            return a->limbs[i] < b->limbs[i] ? -1 : 1;
        }
    }
    return 0;
}

/* a -= b, where a >= b. */
static void number_big_subtract(number_big *a, const number_big *b)
{
    uint64_t borrow = 0;

    for (size_t i = 0; i < a->count; i++) {
        uint64_t take = (i < b->count ? b->limbs[i] : 0) + borrow;
        borrow = a->limbs[i] < take;
        a->limbs[i] = (uint32_t)(a->limbs[i] - take);
    }
    while (a->count > 1 && a->limbs[a->count - 1] == 0) {
        a->count--;
    }
}

/* Round q * 2^exponent (q has 64 bits, top bit set; `rest`: there are more
 * non-zero bits below) to the nearest double, ties to even. */
static double number_round(uint64_t q, int exponent, int rest)
{
    int drop = 11; /* 64 - 53 */
    uint64_t half;
    uint64_t low;

    if (exponent + drop < -1074) {
        drop = -1074 - exponent; /* subnormal: fewer bits */
    }
    if (drop > 64) {
        return 0.0;
    }
    if (drop == 64) {
        half = (uint64_t)1 << 63;
        return q > half || (q == half && rest) ? ldexp(1.0, -1074) : 0.0;
    }
    half = (uint64_t)1 << (drop - 1);
    low = q & (half * 2 - 1);
    q >>= drop;
    if (low > half || (low == half && (rest || (q & 1) != 0))) {
        q++;
    }
    return ldexp((double)q, exponent + drop);
}

/* digits * 10^exponent by long division of big integers. */
static double number_exact(const number_decimal *d)
{
    number_big top = {{0}, 1};
    number_big bottom = {{1}, 1};
    uint64_t q = 0;
    int shift;

    for (size_t i = 0; i < d->count; i++) {
        number_big_multiply_add(&top, 10, d->digits[i]);
    }
    for (int i = 0; i < d->exponent; i++) {
        number_big_multiply_add(&top, 10, 0);
    }
    for (int i = 0; i < -d->exponent; i++) {
        number_big_multiply_add(&bottom, 10, 0);
    }
    /* Bring the quotient into [2^63, 2^65), then halve if it has 65 bits. */
    shift = number_big_bits(&bottom) + 64 - number_big_bits(&top);
    if (shift > 0) {
        number_big_shift_left(&top, shift);
    } else if (shift < 0) {
        number_big_shift_left(&bottom, -shift);
    }
    number_big_shift_left(&bottom, 64);
    if (number_big_compare(&top, &bottom) >= 0) {
        number_big_shift_left(&bottom, 1);
        shift--;
    }
    for (int i = 0; i < 64; i++) {
        number_big_shift_left(&top, 1);
        q <<= 1;
        if (number_big_compare(&top, &bottom) >= 0) {
            number_big_subtract(&top, &bottom);
            q |= 1;
        }
    }
    while ((q >> 63) == 0) {
        int one;
        number_big_shift_left(&top, 1);
        one = number_big_compare(&top, &bottom) >= 0;
        if (one) {
            number_big_subtract(&top, &bottom);
        }
        q = q << 1 | (uint64_t)one;
        shift++;
    }
    return number_round(q, -shift, top.count > 1 || top.limbs[0] != 0);
}

static void number_add_digit(number_decimal *d, char c, int after_point)
{
    uint8_t digit = (uint8_t)(c - '0');

    if (d->count == 0 && digit == 0) {
        d->exponent -= after_point;
        return;
    }
    if (d->count < NUMBER_MAX_DIGITS) {
        d->digits[d->count++] = digit;
        d->exponent -= after_point;
        return;
    }
    if (digit != 0) {
        d->digits[NUMBER_MAX_DIGITS - 1] |= 1; /* sticky */
    }
    d->exponent += !after_point;
}

static double number_value(const number_decimal *d)
{
    static const double powers[] = {
        1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    uint64_t whole = 0;
    double value;
    int magnitude = d->exponent + (int)d->count;

    if (d->count == 0 || magnitude < -330) {
        return d->negative ? -0.0 : 0.0;
    }
    if (magnitude > 310) {
        return d->negative ? -HUGE_VAL : HUGE_VAL;
    }
    for (size_t i = 0; i < d->count && d->count <= 15; i++) {
        whole = whole * 10 + d->digits[i];
    }
    /* Both operands exact and one rounding: the common case. */
    if (d->count <= 15 && d->exponent >= -22 && d->exponent <= 22) {
        value = d->exponent < 0 ? (double)whole / powers[-d->exponent]
                                : (double)whole * powers[d->exponent];
    } else {
        value = number_exact(d);
    }
    return d->negative ? -value : value;
}

static int number_is_digit(const char *text, size_t bytes, size_t i)
{
    return i < bytes && text[i] >= '0' && text[i] <= '9';
}

LORA_PRIVATE double
lora__text_to_double(const char *text, size_t bytes, size_t *out_used)
{
    number_decimal d;
    size_t i = 0;
    size_t mark;
    int exponent = 0;
    int negative;

    memset(&d, 0, sizeof d);
    *out_used = 0;
    if (i < bytes && text[i] == '-') {
        d.negative = 1;
        i++;
    }
    if (!number_is_digit(text, bytes, i)) {
        return 0.0;
    }
    for (; number_is_digit(text, bytes, i); i++) {
        number_add_digit(&d, text[i], 0);
    }
    if (i < bytes && text[i] == '.' && number_is_digit(text, bytes, i + 1)) {
        for (i++; number_is_digit(text, bytes, i); i++) {
            number_add_digit(&d, text[i], 1);
        }
    }
    *out_used = i;
    mark = i;
    if (mark < bytes && (text[mark] == 'e' || text[mark] == 'E')) {
        mark++;
        negative = mark < bytes && text[mark] == '-';
        mark += mark < bytes && (text[mark] == '-' || text[mark] == '+');
        if (number_is_digit(text, bytes, mark)) {
            for (; number_is_digit(text, bytes, mark); mark++) {
                exponent = exponent < 100000
                               ? exponent * 10 + (text[mark] - '0')
                               : exponent;
            }
            d.exponent += negative ? -exponent : exponent;
            *out_used = mark;
        }
    }
    return number_value(&d);
}

/* Put a '.' for whatever the locale's point is, which may be several bytes.
 * Returns the new length. */
static size_t number_plain_point(char *text, size_t length)
{
    size_t to = 0;

    for (size_t i = 0; i < length; i++) {
        if (strchr("0123456789+-e", text[i]) != NULL) {
            text[to++] = text[i];
        } else if (to == 0 || text[to - 1] != '.') {
            text[to++] = '.';
        }
    }
    text[to] = '\0';
    return to;
}

LORA_PRIVATE size_t lora__text_from_double(char *out, double value)
{
    size_t length = 0;

    for (int precision = 15; precision <= 17; precision++) {
        size_t used;
        int written = snprintf(out, 32, "%.*g", precision, value);
        length = number_plain_point(out, (size_t)written);
        if (lora__text_to_double(out, length, &used) == value) {
            break;
        }
    }
    return length;
}

enum { NUMBER_MEASURED = 12 };

/* value * 10^power to a few 2^-53; no step may overflow. */
static double number_scale10(double value, int power)
{
    static const double powers[] = {1e1,  1e2,  1e4,   1e8,  1e16,
                                    1e32, 1e64, 1e128, 1e256};
    unsigned rest = (unsigned)(power < 0 ? -power : power);

    for (size_t i = 0; i < LORA__COUNT(powers); i++, rest >>= 1) {
        if (rest & 1) {
            value = power < 0 ? value / powers[i] : value * powers[i];
        }
    }
    return value;
}

/* 0.digits * 10^point. */
static size_t
number_place_point(char *out, const char *digits, int count, int point)
{
    int plain = point > -4 && point <= NUMBER_MEASURED;
    int whole = plain ? point : 1; /* digits before the point */
    size_t length = 0;

    if (whole <= 0) {
        out[length++] = '0';
        out[length++] = '.';
    }
    for (int i = whole; i < 0; i++) {
        out[length++] = '0';
    }
    for (int i = 0; i < count || i < whole; i++) {
        if (i == whole && i > 0) {
            out[length++] = '.';
        }
        out[length++] = i < count ? digits[i] : '0';
    }
    return plain ? length
                 : length + (size_t)snprintf(out + length, 8, "e%d", point - 1);
}

LORA_PRIVATE size_t lora__text_from_measured(char *out, double value)
{
    char digits[NUMBER_MEASURED];
    double size = fabs(value);
    int count = NUMBER_MEASURED;
    int point;
    uint64_t whole;

    if (!(size >= 1e-280 && size <= 1e280)) {
        return lora__text_from_double(out, value);
    }
    point = (int)floor(log10(size)) + 1;
    whole = (uint64_t)(number_scale10(size, NUMBER_MEASURED - point) + 0.5);
    if (whole >= UINT64_C(1000000000000)) { /* rounded up, or log10 was */
        point++;
        whole = (uint64_t)(number_scale10(size, NUMBER_MEASURED - point) + 0.5);
    }
    for (int i = NUMBER_MEASURED; i-- > 0; whole /= 10) {
        digits[i] = (char)('0' + whole % 10);
    }
    while (count > 1 && digits[count - 1] == '0') {
        count--;
    }
    out[0] = '-';
    return (value < 0.0) +
           number_place_point(out + (value < 0.0), digits, count, point);
}
