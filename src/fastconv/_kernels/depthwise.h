/* Sums that stay in registers while rows of an image slide past them: what Cython cannot say of the
 * engine `depthwise`. Vectors are those of simd.h; names end in _f32 or _f64.
 *
 * A column is the taps of one place along a row, `height` of them, a row of the scratch apart. The
 * tiles are compiled for each height, so that all weights of a column are in registers while each
 * row of the scratch is loaded once for all results that it reaches.
 */
#ifndef DEPTHWISE_T

#ifndef FASTCONV_DEPTHWISE_H
#define FASTCONV_DEPTHWISE_H

#include "simd.h"

/* Result rows of the highest tile, positions summed at a time for a gradient, and the sums of its
 * largest tile, by the registers there are: 32, or 16. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define DEPTHWISE_ROWS 14
#define DEPTHWISE_SUM_ROWS 4
#define DEPTHWISE_SUMS 16
#else
#define DEPTHWISE_ROWS 7
#define DEPTHWISE_SUM_ROWS 2
#define DEPTHWISE_SUMS 9
#endif

#if defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define DEPTHWISE_UNROLL _Pragma("GCC unroll 40")
#else
#define DEPTHWISE_UNROLL
#endif

/* Have a number stay in its register: gcc else loads it anew for every use, since an addition takes
 * its operand from memory at no cost of its own; but few vectors here are aligned, and to load one
 * from two lines of the cache takes as long as two multiply-adds. */
#if defined(__GNUC__) && defined(__x86_64__)
#define DEPTHWISE_KEEP(v) __asm__("" : "+v"(v))
#elif defined(__GNUC__) && defined(__aarch64__)
#define DEPTHWISE_KEEP(v) __asm__("" : "+w"(v))
#else
#define DEPTHWISE_KEEP(v)
#endif

/* The heights and steps from a row of results to the next that tiles are compiled for. */
#define DEPTHWISE_SHAPES(ONE)                                                                     \
    ONE(1, 1) ONE(2, 1) ONE(3, 1) ONE(4, 1) ONE(5, 1) ONE(6, 1) ONE(7, 1) ONE(11, 1)               \
    ONE(3, 2) ONE(4, 2) ONE(5, 2) ONE(6, 2) ONE(7, 2) ONE(11, 2)

#define DEPTHWISE_T float
#define DEPTHWISE_MASK int
#define DEPTHWISE_SUFFIX f32
#include "depthwise.h"
#undef DEPTHWISE_T
#undef DEPTHWISE_MASK
#undef DEPTHWISE_SUFFIX
#define DEPTHWISE_T double
#define DEPTHWISE_MASK long long
#define DEPTHWISE_SUFFIX f64
#include "depthwise.h"
#undef DEPTHWISE_T
#undef DEPTHWISE_MASK
#undef DEPTHWISE_SUFFIX

#endif

#else

#define T DEPTHWISE_T
#define NAME(name) FASTCONV_JOIN(name, DEPTHWISE_SUFFIX)
#define vec NAME(vec)
#if FASTCONV_BYTES
#define W (FASTCONV_BYTES / (ptrdiff_t)sizeof(T))
#else
#define W 1
#endif

/* The numbers of a vector in lanes first .. end, zeros elsewhere. */
FASTCONV_INLINE vec NAME(lanes_within)(vec v, ptrdiff_t first, ptrdiff_t end)
{
#if FASTCONV_BYTES
    NAME(mask) lane;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        lane[i] = i;
    return (vec)((NAME(mask))v & (lane >= (DEPTHWISE_MASK)first) & (lane < (DEPTHWISE_MASK)end));
#else
    return first <= 0 && end > 0 ? v : 0;
#endif
}

/* The first n <= W numbers, zeros after; no more are read unless they lie before `end`. */
FASTCONV_INLINE vec NAME(load_first)(const T *from, ptrdiff_t n, const T *end)
{
    if (end && end - from >= W)
        return NAME(first)(NAME(load)(from), n);
    T numbers[W];
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        numbers[i] = i < n ? from[i] : 0;
    return NAME(load)(numbers);
}

/* Even or odd numbers of two vectors. */
FASTCONV_INLINE vec NAME(every_second)(vec a, vec b, const int odd)
{
#if FASTCONV_BYTES && defined(__clang__)
    vec picked;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        picked[i] = 2 * i + odd < W ? a[(2 * i + odd) % W] : b[(2 * i + odd) % W];
    return picked;
#elif FASTCONV_BYTES
    NAME(mask) order;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        order[i] = 2 * i + odd;
    return __builtin_shuffle(a, b, order);
#else
    return odd ? b : a;
#endif
}

/* --- rows of an image ------------------------------------------------------------------------- */

/* n numbers of each row; of shorter rows than a vector, zeros after them to its end. */
static void NAME(copy_rows)(T *to, ptrdiff_t pitch, const T *from, ptrdiff_t step, ptrdiff_t rows,
                            ptrdiff_t n, const T *end)
{
    for (; rows > 0; rows--, to += pitch, from += step) {
        if (n < W) {
            NAME(store)(to, NAME(load_first)(from, n, end));
            continue;
        }
        for (ptrdiff_t i = 0; i < n - W; i += W)
            NAME(store)(to + i, NAME(load)(from + i));
        NAME(store)(to + n - W, NAME(load)(from + n - W));
    }
}

/* Numbers 0, 2, 4 .. of 2 n to `even`, the others to `odd`; zeros after as above, even's first. */
static void NAME(split_rows)(T *even, T *odd, ptrdiff_t pitch, const T *from, ptrdiff_t step,
                             ptrdiff_t rows, ptrdiff_t n, const T *end)
{
    for (; rows > 0; rows--, even += pitch, odd += pitch, from += step) {
        ptrdiff_t i = 0;
        do {
            if (i + W > n && n >= W)
                i = n - W;
            ptrdiff_t left = n - i < W ? n - i : W;
            vec a, b;
            if (left == W) {
                a = NAME(load)(from + 2 * i);
                b = NAME(load)(from + 2 * i + W);
            } else {
                a = NAME(load_first)(from + 2 * i, 2 * left < W ? 2 * left : W, end);
                b = 2 * left > W ? NAME(load_first)(from + 2 * i + W, 2 * left - W, end) : (vec){0};
            }
            NAME(store)(even + i, NAME(every_second)(a, b, 0));
            NAME(store)(odd + i, NAME(every_second)(a, b, 1));
            i += W;
        } while (i < n);
    }
}

/* The first n numbers of a vector; or all, where that ends at `limit` or before, or it is NULL. */
FASTCONV_INLINE void NAME(store_first)(T *to, vec v, ptrdiff_t n, const T *limit)
{
    if (!limit || limit - to >= W) {
        NAME(store)(to, v);
    } else {
        T numbers[W];
        NAME(store)(numbers, v);
        NAME(copy)(to, numbers, n);
    }
}

/* Have rows of n numbers brought to first-level cache, wherever they are. */
static void NAME(prefetch_rows)(const T *to, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t n)
{
    for (; rows > 0; rows--, to += step)
        for (ptrdiff_t i = 0; i < n; i += 64 / (ptrdiff_t)sizeof(T))
            FASTCONV_PREFETCH(to + i);
}

/* Rows of the first n <= 2 W of the numbers of two vectors in turn. */
static void NAME(merge_rows)(T *to, ptrdiff_t step, const T *even, const T *odd, ptrdiff_t rows,
                             ptrdiff_t n)
{
    for (; rows > 0; rows--, to += step, even += W, odd += W) {
#if FASTCONV_BYTES
        vec a = NAME(load)(even), b = NAME(load)(odd);
        NAME(store_first)(to, NAME(interleave)(a, b, 0), n < W ? n : W, to + n);
        if (n > W)
            NAME(store_first)(to + W, NAME(interleave)(a, b, 1), n - W, to + n);
#else
        to[0] = *even;
        if (n > 1)
            to[1] = *odd;
#endif
    }
}

/* --- results ---------------------------------------------------------------------------------- */

/* out[r] = the sum over columns j and kh < height of
 *     weights[j][kh] * from[offsets[j] + (r * step + kh) * pitch],
 * plus *bias unless that is NULL: a vector for each row r, of which the first n_counted numbers
 * count. */
#define TILE_ARGUMENTS                                                                            \
    const T *from, ptrdiff_t pitch, const T *weights, ptrdiff_t columns, const ptrdiff_t *offsets, \
        const T *bias, T *out, ptrdiff_t out_pitch, ptrdiff_t n_counted,            \
        const T *limit

FASTCONV_INLINE void NAME(slide_body)(const int rows, const int height, const int step,
                                      TILE_ARGUMENTS)
{
    vec sum[DEPTHWISE_ROWS];
    DEPTHWISE_UNROLL
    for (int r = 0; r < rows; r++)
        sum[r] = (vec){0};
    for (ptrdiff_t j = 0; j < columns; j++, weights += height) {
        const T *line = from + offsets[j];
        DEPTHWISE_UNROLL
        for (int i = 0; i < (rows - 1) * step + height; i++) {
            vec row = NAME(load)(line + i * pitch);
            DEPTHWISE_KEEP(row);
            DEPTHWISE_UNROLL
            for (int r = 0; r < rows; r++)
                if (i >= r * step && i < r * step + height)
                    sum[r] += weights[i - r * step] * row;
        }
    }
    DEPTHWISE_UNROLL
    for (int r = 0; r < rows; r++) {
        if (bias)
            sum[r] += *bias;
        NAME(store_first)(out + r * out_pitch, sum[r], n_counted, limit);
    }
}

/* sums[j][kh] += the sum over rows r of d[r * d_pitch] * x[offsets[j] + (r * step + kh) * pitch],
 * a vector each, of which lanes first .. end count. */
#define SUM_ARGUMENTS                                                                             \
    const T *x, ptrdiff_t pitch, const T *d, ptrdiff_t d_pitch, ptrdiff_t rows,                    \
        const ptrdiff_t *offsets, ptrdiff_t first, ptrdiff_t end, T *sums

FASTCONV_INLINE void NAME(sum_rows)(const int rows, const int columns, const int height,
                                    const int step, vec *sum, const T *x, ptrdiff_t pitch,
                                    const T *d, ptrdiff_t d_pitch, const ptrdiff_t *offsets)
{
    vec gradient[DEPTHWISE_SUM_ROWS];
    DEPTHWISE_UNROLL
    for (int r = 0; r < rows; r++) {
        gradient[r] = NAME(load)(d + r * d_pitch);
        DEPTHWISE_KEEP(gradient[r]);
    }
    DEPTHWISE_UNROLL
    for (int j = 0; j < columns; j++)
        DEPTHWISE_UNROLL
        for (int i = 0; i < (rows - 1) * step + height; i++) {
            vec row = NAME(load)(x + offsets[j] + i * pitch);
            DEPTHWISE_KEEP(row);
            DEPTHWISE_UNROLL
            for (int r = 0; r < rows; r++)
                if (i >= r * step && i < r * step + height)
                    sum[j * height + i - r * step] += gradient[r] * row;
        }
}

FASTCONV_INLINE void NAME(sum_body)(const int columns, const int height, const int step,
                                    SUM_ARGUMENTS)
{
    vec sum[16];
    DEPTHWISE_UNROLL
    for (int t = 0; t < columns * height; t++)
        sum[t] = (vec){0};
    for (; rows >= DEPTHWISE_SUM_ROWS; rows -= DEPTHWISE_SUM_ROWS) {
        NAME(sum_rows)(DEPTHWISE_SUM_ROWS, columns, height, step, sum, x, pitch, d, d_pitch,
                       offsets);
        x += DEPTHWISE_SUM_ROWS * step * pitch;
        d += DEPTHWISE_SUM_ROWS * d_pitch;
    }
    for (; rows > 0; rows--, x += step * pitch, d += d_pitch)
        NAME(sum_rows)(1, columns, height, step, sum, x, pitch, d, d_pitch, offsets);
    DEPTHWISE_UNROLL
    for (int t = 0; t < columns * height; t++) {
        vec counted = NAME(lanes_within)(sum[t], first, end);
        NAME(store)(sums + t * W, NAME(load)(sums + t * W) + counted);
    }
}

/* --- one function a height and step ----------------------------------------------------------- */

#define ROWS(n, height, step)                                                                     \
    case n:                                                                                       \
        if (n <= DEPTHWISE_ROWS)                                                                  \
            NAME(slide_body)(n <= DEPTHWISE_ROWS ? n : 1, height, step, from, pitch, weights,      \
                             columns, offsets, bias, out, out_pitch, n_counted, limit);            \
        break;
#define COLUMNS(n, height, step)                                                                  \
    case n:                                                                                       \
        if (n == 1 || n * height <= DEPTHWISE_SUMS)                                               \
            NAME(sum_body)(n * height <= DEPTHWISE_SUMS ? n : 1, height, step, x, pitch, d,        \
                           d_pitch, rows, offsets, first, end, sums);                             \
        break;
#define FUNCTIONS(height, step)                                                                   \
    FASTCONV_APART void NAME(slide_##height##_##step)(ptrdiff_t rows, TILE_ARGUMENTS)             \
    {                                                                                             \
        switch (rows) {                                                                           \
            ROWS(1, height, step)                                                                 \
            ROWS(2, height, step)                                                                 \
            ROWS(4, height, step)                                                                 \
            ROWS(7, height, step)                                                                 \
            ROWS(14, height, step)                                                                \
        }                                                                                         \
    }                                                                                             \
    FASTCONV_APART void NAME(sum_##height##_##step)(ptrdiff_t columns, SUM_ARGUMENTS)             \
    {                                                                                             \
        switch (columns) {                                                                        \
            COLUMNS(1, height, step)                                                              \
            COLUMNS(2, height, step)                                                              \
            COLUMNS(3, height, step)                                                              \
            COLUMNS(4, height, step)                                                              \
            COLUMNS(8, height, step)                                                              \
        }                                                                                         \
    }
DEPTHWISE_SHAPES(FUNCTIONS)

/* Call the one of a height, step and rows: 14, 7, 4, 2 or 1, no more than DEPTHWISE_ROWS. */
FASTCONV_INLINE void NAME(slide)(ptrdiff_t height, ptrdiff_t step, ptrdiff_t rows, TILE_ARGUMENTS)
{
#define SLIDE(high, far)                                                                          \
    case 2 * high + far:                                                                          \
        NAME(slide_##high##_##far)(rows, from, pitch, weights, columns, offsets, bias, out,        \
                                   out_pitch, n_counted, limit);                                  \
        break;
    switch (2 * height + step) {
        DEPTHWISE_SHAPES(SLIDE)
    }
}

/* Call the one of a height, step and columns: 8, 4, 3, 2 or 1, with no more than DEPTHWISE_SUMS
 * sums, or one column. */
FASTCONV_INLINE void NAME(sum)(ptrdiff_t height, ptrdiff_t step, ptrdiff_t columns, SUM_ARGUMENTS)
{
#define SUM(high, far)                                                                            \
    case 2 * high + far:                                                                          \
        NAME(sum_##high##_##far)(columns, x, pitch, d, d_pitch, rows, offsets, first, end, sums);  \
        break;
    switch (2 * height + step) {
        DEPTHWISE_SHAPES(SUM)
    }
}

/* to[i] += the sum of the lanes of vector i of `sums`, n vectors and zeros to a multiple of W. */
static void NAME(add_lanes)(T *to, const T *sums, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += W) {
        vec rows[W];
        FASTCONV_UNROLL
        for (int v = 0; v < W; v++)
            rows[v] = NAME(load)(sums + (i + v) * W);
        vec total = NAME(add_up)(rows);
        NAME(store)(to + i, NAME(load)(to + i) + total);
    }
}

#undef ROWS
#undef COLUMNS
#undef FUNCTIONS
#undef SLIDE
#undef SUM
#undef TILE_ARGUMENTS
#undef SUM_ARGUMENTS
#undef T
#undef NAME
#undef W
#undef vec
#endif
