/* The tile with filters as lanes: sums of some positions, each for a few vectors of filters.
 *
 * An image's numbers are read where they lie, one for each position and tap, so that strides cost
 * nothing and no panel is made. The file includes itself once a type, as simd.h does.
 */
#ifndef FASTCONV_T

#ifndef FASTCONV_FUSED_LANES_H
#define FASTCONV_FUSED_LANES_H

#include "simd.h"

/* A tile has two vectors or three, and as many positions as the registers hold then. Three take fewer
 * instructions: 143 GFLOP/s for 9 x 3 where a second thread shared the core, 130 for 12 x 2; both 170
 * alone. Four took no less time, with twice as many pages of results. */
#define FASTCONV_LANE_VECTORS 3
#if FASTCONV_VECTORS == 3
#define FASTCONV_LANE_ROWS 12
#else
#define FASTCONV_LANE_ROWS 6
#endif

#define FASTCONV_T float
#define FASTCONV_SUFFIX f32
#include "fused_lanes.h"
#undef FASTCONV_T
#undef FASTCONV_SUFFIX
#define FASTCONV_T double
#define FASTCONV_SUFFIX f64
#include "fused_lanes.h"
#undef FASTCONV_T
#undef FASTCONV_SUFFIX

#endif

#else

#define T FASTCONV_T
#define NAME(name) FASTCONV_JOIN(name, FASTCONV_SUFFIX)
#define vec NAME(vec)
#define W ((ptrdiff_t)NAME(LANES))

/* sums[i] += bias + the sum over taps t of x[i * step + offsets[t]] * weights[t], where each of sums,
 * bias and weights[t] is `vectors` vectors. Without `adds` sums start from 0; `bias` may be NULL. */
#define LANE_TILE_ARGUMENTS                                                                       \
    const T *weights, const T *x, ptrdiff_t step, const ptrdiff_t *offsets, ptrdiff_t taps,        \
        int adds, const T *bias, T *sums, const T *out, ptrdiff_t out_step, ptrdiff_t lines

FASTCONV_INLINE void NAME(lane_tile_body)(const int rows, const int vectors, LANE_TILE_ARGUMENTS)
{
    vec sum[FASTCONV_LANE_ROWS][FASTCONV_LANE_VECTORS];
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i++)
        FASTCONV_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (vec){0};
    for (const ptrdiff_t *end = offsets + taps; offsets < end; offsets++, weights += vectors * W) {
        const T *place = x + *offsets;
        vec tap[FASTCONV_LANE_VECTORS];
        FASTCONV_UNROLL
        for (int v = 0; v < vectors; v++)
            tap[v] = NAME(load)(weights + v * W);
        if (lines-- > 0) {
            FASTCONV_PREFETCH(out);
            out += out_step;
        }
        FASTCONV_UNROLL
        for (int i = 0; i < rows; i++) {
            FASTCONV_UNROLL
            for (int v = 0; v < vectors; v++)
                sum[i][v] += place[i % 3 * step] * tap[v];
            if (i % 3 == 2) /* by threes, as in tile_body */
                place += 3 * step;
        }
    }
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i++)
        FASTCONV_UNROLL
        for (int v = 0; v < vectors; v++) {
            T *to = sums + (i * vectors + v) * W;
            if (adds)
                sum[i][v] = NAME(load)(to) + sum[i][v];
            if (bias)
                sum[i][v] += NAME(load)(bias + v * W);
            NAME(store)(to, sum[i][v]);
        }
}

#define TILE(rows, vectors)                                                                       \
    static void NAME(lane_tile_##rows##x##vectors)(LANE_TILE_ARGUMENTS)                           \
    {                                                                                             \
        NAME(lane_tile_body)(rows, vectors, weights, x, step, offsets, taps, adds, bias, sums,    \
                             out, out_step, lines);                                               \
    }
#define TILES(rows) TILE(rows, 2) TILE(rows, 3)
#define TILE_NAME(rows, vectors) NAME(lane_tile_##rows##x##vectors)
#define UP_TO_4(vectors)                                                                          \
    TILE_NAME(1, vectors), TILE_NAME(2, vectors), TILE_NAME(3, vectors), TILE_NAME(4, vectors)
#define UP_TO_9(vectors)                                                                          \
    UP_TO_4(vectors), TILE_NAME(5, vectors), TILE_NAME(6, vectors), TILE_NAME(7, vectors),         \
        TILE_NAME(8, vectors), TILE_NAME(9, vectors)
TILES(1) TILES(2) TILES(3) TILES(4)
#if FASTCONV_LANE_ROWS == 12
TILES(5) TILES(6) TILES(7) TILES(8) TILES(9)
TILE(10, 2) TILE(11, 2) TILE(12, 2)
#else
TILE(5, 2) TILE(6, 2)
#endif

typedef void (*NAME(lane_tile_function))(LANE_TILE_ARGUMENTS);
static const NAME(lane_tile_function) NAME(lane_tiles)[2][FASTCONV_LANE_ROWS] = {
#if FASTCONV_LANE_ROWS == 12
    {UP_TO_9(2), TILE_NAME(10, 2), TILE_NAME(11, 2), TILE_NAME(12, 2)}, {UP_TO_9(3)}
#else
    {UP_TO_4(2), TILE_NAME(5, 2), TILE_NAME(6, 2)}, {UP_TO_4(3)}
#endif
};

/* The most rows that there are of so many vectors. */
FASTCONV_INLINE ptrdiff_t NAME(lane_rows)(ptrdiff_t vectors)
{
    ptrdiff_t rows = FASTCONV_LANE_ROWS;
    while (!NAME(lane_tiles)[vectors - 2][rows - 1])
        rows--;
    return rows;
}

/* Call the tile of so many rows and vectors; there must be one. */
FASTCONV_INLINE void NAME(lane_tile)(ptrdiff_t rows, ptrdiff_t vectors, LANE_TILE_ARGUMENTS)
{
    NAME(lane_tiles)[vectors - 2][rows - 1](weights, x, step, offsets, taps, adds, bias, sums, out,
                                            out_step, lines);
}

#undef LANE_TILE_ARGUMENTS
#undef TILE
#undef TILES
#undef TILE_NAME
#undef UP_TO_4
#undef UP_TO_9
#undef T
#undef NAME
#undef W
#undef vec
#endif
