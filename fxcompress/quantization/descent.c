/* One sweep of a coordinate descent over some columns of a weight, row by row of it: see rounding.py.

   All arrays but `within` are [groups, columns, rows], so that a column of every row lies together; `within`, the part of the
   second moment that these columns have, is [groups, columns, columns], symmetric. Rows do not depend on one another, so that
   results do not depend on the number of threads. */

#include <math.h>
#include <stdint.h>

#define ROWS 64 /* that are settled together: their part of the arrays stays in the cache */

static void settle(const float *within, float *slopes, const float *newton, const float *steps, float *integers,
                   int64_t columns, int64_t rows, int64_t count, float low, float high)
{
    float change[ROWS];
    for (int64_t c = 0; c < columns; c++) {
        const int64_t place = c * rows;
        for (int64_t r = 0; r < count; r++) {
            const float before = integers[place + r];
            float best = rintf(before - slopes[place + r] * newton[place + r]);
            best = best < low ? low : best;
            best = best > high ? high : best;
            change[r] = (best - before) * steps[place + r];
            integers[place + r] = best;
        }
        for (int64_t after = c + 1; after < columns; after++) {
            const float felt = within[after * columns + c];
            float *slope = slopes + after * rows;
            for (int64_t r = 0; r < count; r++)
                slope[r] += felt * change[r];
        }
    }
}

void settle_float(const float *within, float *slopes, const float *newton, const float *steps, float *integers, int64_t groups,
                  int64_t columns, int64_t rows, float low, float high, int threads)
{
    const int64_t pieces = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) if (threads > 1 && groups * columns * rows > 4096)
    for (int64_t piece = 0; piece < groups * pieces; piece++) {
        const int64_t group = piece / pieces, first = piece % pieces * ROWS, start = group * columns * rows + first;
        settle(within + group * columns * columns, slopes + start, newton + start, steps + start, integers + start, columns, rows,
               rows - first < ROWS ? rows - first : ROWS, low, high);
    }
}
