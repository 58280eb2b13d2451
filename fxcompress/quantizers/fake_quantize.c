/* Rounding to an integer grid in one pass over memory, and its gradients in another: see straight_through.py.

   Tensors are rows of `columns` numbers, with one scale and zero point a row; a null pointer is a zero point of 0. What is
   rounded are the numbers clamped to `least` and `most`. Sums go block by block, so that they do not depend on the number of
   threads.

   The functions are here once for float and once for bfloat16, which is computed in float: the file includes itself for each
   type of the elements. */

#ifndef ELEMENT

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 8192

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* See grid_of and holding_zero in trainable.py; without `low` the grid is symmetric, and has no `point`. */
void grid(const float *low, const float *extent, int64_t count, float lowest, float highest, float tiny, float *scale,
          float *point)
{
    const float steps = highest - lowest;
    for (int64_t i = 0; i < count; i++) {
        const float size = fabsf(extent[i]) + tiny;
        if (!low) {
            scale[i] = size / highest;
            continue;
        }
        const float bottom = low[i] > 0 ? 0 : low[i], end = low[i] + size, top = end < 0 ? 0 : end, width = top - bottom;
        const float below = rintf(-bottom * steps / width);
        const float lower = -bottom / below, upper = top / (steps - below);
        scale[i] = below == 0 || below == steps ? width / steps : lower > upper || lower != lower ? lower : upper;
        point[i] = below + lowest;
    }
}

static inline float same(float x) { return x; }

static inline float within(float x, float least, float most) /* a NaN stays one */
{
    x = x < least ? least : x;
    return x > most ? most : x;
}

static inline float wide(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t narrow(float x) /* half to even; a NaN stays one */
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

#define ELEMENT float
#define NAMED(function) function##_float
#define READ same
#define WRITE same
#include __FILE__
#undef ELEMENT
#undef NAMED
#undef READ
#undef WRITE

#define ELEMENT uint16_t
#define NAMED(function) function##_bfloat16
#define READ wide
#define WRITE narrow
#include __FILE__

#else

void NAMED(forward)(const ELEMENT *x, ELEMENT *y, int64_t rows, int64_t columns, const float *scale, const float *zero_point,
             float low, float high, float least, float most, int threads)
{
    const int64_t blocks = (columns + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * columns > 4 * BLOCK)
    for (int64_t b = 0; b < rows * blocks; b++) {
        const int64_t row = b / blocks, start = b % blocks * BLOCK, end = smaller(start + BLOCK, columns);
        const float step = scale[row], point = zero_point ? zero_point[row] : 0, bottom = low - point, top = high - point;
        const ELEMENT *from = x + row * columns;
        ELEMENT *to = y + row * columns;
        for (int64_t i = start; i < end; i++) {
            float q = rintf(within(READ(from[i]), least, most) / step);
            q = q < bottom ? bottom : q;
            q = q > top ? top : q;
            to[i] = WRITE(q * step);
        }
    }
}

/* dx: the gradient of x. of_low[row], of_extent[row]: the gradients of what the range is learned by, where `symmetric` says
   which range that is. Values of x within `slack` steps of an end are inside; those at `least` and `most` or beyond have no
   gradient. Returns 0, or 1 where there is no memory. */
int NAMED(backward)(const ELEMENT *g, const ELEMENT *x, ELEMENT *dx, int64_t rows, int64_t columns, const float *scale,
             const float *zero_point, float low, float high, float slack, int symmetric, float least, float most,
             float *of_low, float *of_extent, int threads)
{
    const int64_t blocks = (columns + BLOCK - 1) / BLOCK;
    const float beyond = symmetric ? (high - low) / high : 1;
    const int bounded_below = least > -INFINITY, bounded_above = most < INFINITY; /* where not, infinity is inside */
    float *sums = malloc(2 * rows * blocks * sizeof *sums);
    if (!sums)
        return 1;
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * columns > 4 * BLOCK)
    for (int64_t b = 0; b < rows * blocks; b++) {
        const int64_t row = b / blocks, start = b % blocks * BLOCK, end = smaller(start + BLOCK, columns);
        const float step = scale[row], point = zero_point ? zero_point[row] : 0, bottom = low - point, top = high - point;
        const float lowest = bottom - slack, highest = top + slack;
        const int64_t offset = row * columns;
        float outer = 0, terms = 0;
#pragma omp simd reduction(+ : outer, terms)
        for (int64_t i = offset + start; i < offset + end; i++) {
            const float value = READ(x[i]);
            float level = within(value, least, most) / step;
            const float inside = level <= lowest || level >= highest ? 0.0f : READ(g[i]);
            const float outside = READ(g[i]) - inside;
            float q = rintf(level);
            level = level < lowest ? lowest : level;
            level = level > highest ? highest : level;
            q = q < bottom ? bottom : q;
            q = q > top ? top : q;
            dx[i] = WRITE((bounded_below && value <= least) || (bounded_above && value >= most) ? 0.0f : inside);
            outer += outside;
            terms += inside * (q - level) + outside * (q * beyond);
        }
        sums[2 * b] = outer;
        sums[2 * b + 1] = terms;
    }
    for (int64_t row = 0; row < rows; row++) {
        const double bottom = symmetric ? 0 : low - (zero_point ? zero_point[row] : 0);
        double outer = 0, terms = 0;
        for (int64_t b = row * blocks; b < (row + 1) * blocks; b++) {
            outer += sums[2 * b];
            terms += sums[2 * b + 1];
        }
        of_low[row] = outer;
        of_extent[row] = (terms - bottom * outer) / (high - low);
    }
    free(sums);
    return 0;
}

#endif
