/* The largest sum of two neighbours in each row of a weight, without its sign, in one pass over memory: see neighbours.py.

   A row is [inputs, places]. Where `scale` is given, the numbers are the integers of the grid, less their zero point. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define FEW 4 /* rows, of which one at least reads every input that is not masked, nearly always */

static void as_integers(const float *from, float *to, int64_t count, float step, float point, float low, float high)
{
    const float bottom = low - point, top = high - point;
    for (int64_t i = 0; i < count; i++) {
        float q = rintf(from[i] / step);
        q = q < bottom ? bottom : q;
        to[i] = q > top ? top : q;
    }
}

/* Inputs 0 and 1, 2 and 3, and so on, place by place. */
static float of_pairs(const float *row, int64_t inputs, int64_t places)
{
    float largest = 0;
    if (places == 1) {
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < inputs; i += 2)
            largest = fmaxf(largest, fabsf(row[i] + row[i + 1]));
        return largest;
    }
    for (int64_t i = 0; i < inputs; i += 2, row += 2 * places) {
#pragma omp simd reduction(max : largest)
        for (int64_t p = 0; p < places; p++)
            largest = fmaxf(largest, fabsf(row[p] + row[places + p]));
    }
    return largest;
}

/* Any two that follow one another, the first input of a place after the last one of the place before. */
static float of_all(const float *row, int64_t inputs, int64_t places)
{
    float largest = 0;
    if (places == 1) {
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < inputs - 1; i++)
            largest = fmaxf(largest, fabsf(row[i] + row[i + 1]));
        return largest;
    }
    for (int64_t i = 0; i + 1 < inputs; i++)
        for (int64_t p = 0; p < places; p++)
            largest = fmaxf(largest, fabsf(row[i * places + p] + row[(i + 1) * places + p]));
    for (int64_t p = 0; p + 1 < places; p++)
        largest = fmaxf(largest, fabsf(row[(inputs - 1) * places + p] + row[p + 1]));
    return largest;
}

/* Whether some number for each input is not zero. */
static int all_read(const float *numbers, int64_t rows, int64_t inputs, int64_t places)
{
    for (int64_t i = 0; i < inputs; i++) {
        int read = 0;
        for (int64_t r = 0; r < rows && !read; r++)
            for (int64_t p = 0; p < places && !read; p++)
                read = numbers[(r * inputs + i) * places + p] != 0;
        if (!read)
            return 0;
    }
    return 1;
}

/* Returns 0; 1 where an input may be masked, since nothing that counts for it is in the first rows; 2 where there is no memory. */
int largest_sums(const float *weight, const float *scale, const float *point, float low, float high, int64_t rows,
                 int64_t inputs, int64_t places, float *sums, int threads)
{
    const int64_t count = inputs * places, first = rows < FEW ? rows : FEW;
    float *integers = NULL;
    if (scale) {
        integers = malloc(rows * count * sizeof *integers);
        if (!integers)
            return 2;
        for (int64_t r = 0; r < first; r++)
            as_integers(weight + r * count, integers + r * count, count, scale[r], point[r], low, high);
    }
    const int maybe_masked = !all_read(scale ? integers : weight, first, inputs, places);
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * count > 65536)
    for (int64_t r = 0; r < (maybe_masked ? 0 : rows); r++) {
        const float *row = weight + r * count;
        if (scale) {
            as_integers(row, integers + r * count, count, scale[r], point[r], low, high);
            row = integers + r * count;
        }
        sums[r] = inputs % 2 ? of_all(row, inputs, places) : of_pairs(row, inputs, places);
    }
    free(integers);
    return maybe_masked;
}
