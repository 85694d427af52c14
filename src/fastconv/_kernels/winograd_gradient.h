/* The transforms of the gradient of weights from tiles of results, in vectors whose lanes are channels
 * or filters. By a form of winograd.h a tile of m results, of dout, meets m + taps - 1 cells of x and
 * gives taps numbers of dw: F(taps, m), with the same points. For an axis,
 *
 *     dw = A^T [(G g) * (B^T d)]
 *
 * for cells g of dout and d of x, with B^T as there, a G of m columns and an A^T of taps rows.
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

#define POINTS FASTCONV_POINTS
#define MOST FASTCONV_MOST_POINTS

/* to[point * step] = vectors of B^T d B or, where they are not of x, of G g G^T, for one tile.
 *
 * A cell is at rows[i] + columns[j] in `cells`, or zero where one of these is less than 0: `zeros` are
 * as many. */
FASTCONV_INLINE void NAME(cells_body)(const int row_m, const int row_taps, const int m, const int taps,
                                      const int of_x, const T *cells, const ptrdiff_t *rows,
                                      const ptrdiff_t *columns, const T *zeros, ptrdiff_t vectors,
                                      T *to, ptrdiff_t step)
{
    const int row_points = POINTS(row_m, row_taps), points = POINTS(m, taps);
    const int high = of_x ? row_points : row_m, wide = of_x ? points : m;
    const T *at[MOST][MOST];
    for (int i = 0; i < high; i++)
        for (int j = 0; j < wide; j++)
            at[i][j] = rows[i] < 0 || columns[j] < 0 ? zeros : cells + rows[i] + columns[j];
    for (ptrdiff_t v = 0; v < vectors * W; v += W) {
        vec lines[MOST][MOST], found[MOST];
        for (int j = 0; j < wide; j++) {
            vec column[MOST];
            FASTCONV_UNROLL
            for (int i = 0; i < high; i++)
                column[i] = NAME(load)(at[i][j] + v);
            if (of_x)
                NAME(transform_cells)(row_points, found, column);
            else
                NAME(transform_taps)(row_points, row_m, found, column);
            FASTCONV_UNROLL
            for (int i = 0; i < row_points; i++)
                lines[i][j] = found[i];
        }
        for (int i = 0; i < row_points; i++) {
            if (of_x)
                NAME(transform_cells)(points, found, lines[i]);
            else
                NAME(transform_taps)(points, m, found, lines[i]);
            FASTCONV_UNROLL
            for (int j = 0; j < points; j++)
                NAME(store)(to + (points * i + j) * step + v, found[j]);
        }
    }
}

FASTCONV_APART void NAME(transform_cells_of)(ptrdiff_t form, int of_x, const T *cells,
                                             const ptrdiff_t *rows, const ptrdiff_t *columns,
                                             const T *zeros, ptrdiff_t vectors, T *to, ptrdiff_t step)
{
    if (of_x)
        FASTCONV_BY_COMMON_FORM(form, NAME(cells_body), 1, cells, rows, columns, zeros, vectors, to, step)
    else
        FASTCONV_BY_COMMON_FORM(form, NAME(cells_body), 0, cells, rows, columns, zeros, vectors, to, step)
}

/* to[tap * line] += vectors of A^T s A; sums of a point are `step` further on than those before. */
FASTCONV_INLINE void NAME(taps_body)(const int row_m, const int row_taps, const int m, const int taps,
                                     const T *s, ptrdiff_t step, ptrdiff_t vectors, T *to,
                                     ptrdiff_t line)
{
    const int row_points = POINTS(row_m, row_taps), points = POINTS(m, taps);
    for (ptrdiff_t v = 0; v < vectors * W; v += W) {
        vec rows[FASTCONV_MOST_TAPS][MOST];
        for (int j = 0; j < points; j++) {
            vec sums[MOST], found[FASTCONV_MOST_TAPS];
            FASTCONV_UNROLL
            for (int i = 0; i < row_points; i++)
                sums[i] = NAME(load)(s + (points * i + j) * step + v);
            NAME(transform_sums)(row_points, row_taps, found, sums);
            FASTCONV_UNROLL
            for (int i = 0; i < row_taps; i++)
                rows[i][j] = found[i];
        }
        for (int i = 0; i < row_taps; i++) {
            vec found[FASTCONV_MOST_TAPS];
            NAME(transform_sums)(points, taps, found, rows[i]);
            FASTCONV_UNROLL
            for (int j = 0; j < taps; j++) {
                T *tap = to + (taps * i + j) * line + v;
                NAME(store)(tap, NAME(load)(tap) + found[j]);
            }
        }
    }
}

FASTCONV_APART void NAME(add_taps)(ptrdiff_t form, const T *s, ptrdiff_t step, ptrdiff_t vectors,
                                   T *to, ptrdiff_t line)
{
    FASTCONV_BY_COMMON_FORM(form, NAME(taps_body), s, step, vectors, to, line)
}

#undef POINTS
#undef MOST
#undef T
#undef NAME
#undef W
#undef vec
#endif
