/* The transforms of F(3x3, 4x4): the gradient of 3x3 weights from tiles of 4x4 results, in vectors
 * whose lanes are channels or filters.
 *
 * For an axis, dw = A^T [(G g) * (B^T d)], for 4 cells g of dout and 6 cells d of x, with B^T and the
 * points of F(4x4, 3x3) in winograd.h:
 *
 *     G =      1      0     0     0     A^T = 1  1  1   1  1  0
 *            1/3    1/3   1/3   1/3           0  1 -1 1/2 -2  0
 *           -1/3    1/3  -1/3   1/3           0  1  1 1/4  4  1
 *         -16/15  -8/15 -4/15 -2/15
 *           1/15  -2/15  4/15 -8/15
 *              0      0     0     1
 *
 * The file includes itself once a type, as simd.h does.
 */
#ifndef FASTCONV_T

#ifndef FASTCONV_WINOGRAD_GRADIENT_H
#define FASTCONV_WINOGRAD_GRADIENT_H

#include "winograd.h"

#define FASTCONV_T float
#define FASTCONV_SUFFIX f32
#include "winograd_gradient.h"
#undef FASTCONV_T
#undef FASTCONV_SUFFIX
#define FASTCONV_T double
#define FASTCONV_SUFFIX f64
#include "winograd_gradient.h"
#undef FASTCONV_T
#undef FASTCONV_SUFFIX

#endif

#else

#define T FASTCONV_T
#define NAME(name) FASTCONV_JOIN(name, FASTCONV_SUFFIX)
#define vec NAME(vec)
#define W ((ptrdiff_t)NAME(LANES))

FASTCONV_INLINE void NAME(transform_dout)(vec *to, const vec *g)
{
    vec even = g[0] + g[2], odd = g[1] + g[3];
    to[0] = g[0];
    to[1] = (even + odd) * (T)(1.0 / 3);
    to[2] = (even - odd) * (T)(-1.0 / 3);
    to[3] = (g[0] + (T)0.5 * g[1] + (T)0.25 * g[2] + (T)0.125 * g[3]) * (T)(-16.0 / 15);
    to[4] = (g[0] - 2 * g[1] + 4 * g[2] - 8 * g[3]) * (T)(1.0 / 15);
    to[5] = g[3];
}

FASTCONV_INLINE void NAME(transform_products)(vec *to, const vec *s)
{
    vec sum = s[1] + s[2], difference = s[1] - s[2];
    to[0] = (s[0] + sum) + (s[3] + s[4]);
    to[1] = difference + (T)0.5 * s[3] - 2 * s[4];
    to[2] = (sum + s[5]) + (T)0.25 * s[3] + 4 * s[4];
}

/* to[point * step] = vectors of B^T d B, or of G g G^T, for one tile of size x size cells.
 *
 * A cell is at rows[i] + columns[j] in `cells`, or zero where one of these is less than 0: `zeros` are
 * as many. */
FASTCONV_INLINE void NAME(tile_cells_body)(const int size, const T *cells, const ptrdiff_t *rows,
                                           const ptrdiff_t *columns, const T *zeros,
                                           ptrdiff_t vectors, T *to, ptrdiff_t step)
{
    const T *at[6][6];
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++)
            at[i][j] = rows[i] < 0 || columns[j] < 0 ? zeros : cells + rows[i] + columns[j];
    for (ptrdiff_t v = 0; v < vectors * W; v += W) {
        vec lines[6][6], found[6];
        FASTCONV_UNROLL
        for (int j = 0; j < size; j++) {
            vec column[6];
            FASTCONV_UNROLL
            for (int i = 0; i < size; i++)
                column[i] = NAME(load)(at[i][j] + v);
            if (size == 6)
                NAME(transform_cells)(6, found, column);
            else
                NAME(transform_dout)(found, column);
            FASTCONV_UNROLL
            for (int i = 0; i < 6; i++)
                lines[i][j] = found[i];
        }
        FASTCONV_UNROLL
        for (int i = 0; i < 6; i++) {
            if (size == 6)
                NAME(transform_cells)(6, found, lines[i]);
            else
                NAME(transform_dout)(found, lines[i]);
            FASTCONV_UNROLL
            for (int j = 0; j < 6; j++)
                NAME(store)(to + (6 * i + j) * step + v, found[j]);
        }
    }
}

FASTCONV_APART void NAME(transform_tile)(ptrdiff_t size, const T *cells, const ptrdiff_t *rows,
                                         const ptrdiff_t *columns, const T *zeros,
                                         ptrdiff_t vectors, T *to, ptrdiff_t step)
{
    if (size == 6)
        NAME(tile_cells_body)(6, cells, rows, columns, zeros, vectors, to, step);
    else
        NAME(tile_cells_body)(4, cells, rows, columns, zeros, vectors, to, step);
}

/* to[tap * line] += vectors of A^T s A; sums of a point are `step` further on than those before. */
FASTCONV_APART void NAME(add_taps)(const T *s, ptrdiff_t step, ptrdiff_t vectors, T *to,
                                   ptrdiff_t line)
{
    for (ptrdiff_t v = 0; v < vectors * W; v += W) {
        vec rows[3][6];
        FASTCONV_UNROLL
        for (int j = 0; j < 6; j++) {
            vec sums[6], found[3];
            FASTCONV_UNROLL
            for (int i = 0; i < 6; i++)
                sums[i] = NAME(load)(s + (6 * i + j) * step + v);
            NAME(transform_products)(found, sums);
            FASTCONV_UNROLL
            for (int i = 0; i < 3; i++)
                rows[i][j] = found[i];
        }
        FASTCONV_UNROLL
        for (int i = 0; i < 3; i++) {
            vec taps[3];
            NAME(transform_products)(taps, rows[i]);
            FASTCONV_UNROLL
            for (int j = 0; j < 3; j++) {
                T *tap = to + (3 * i + j) * line + v;
                NAME(store)(tap, NAME(load)(tap) + taps[j]);
            }
        }
    }
}

#undef T
#undef NAME
#undef W
#undef vec
#endif
