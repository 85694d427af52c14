/* Vectors as wide as the instruction set that the compiler is told of, in GCC's and Clang's vector
 * extensions; where a compiler has neither, a "vector" is one number and the same code is loops of
 * scalars.
 *
 * What stands here is what Cython cannot say: the tile of the matrix product, which must stay in
 * registers, and transposes. The file includes itself once a type; names end in _f32 or _f64.
 */
#ifndef FASTCONV_T

#ifndef FASTCONV_SIMD_H
#define FASTCONV_SIMD_H

#include <stddef.h>
#include <string.h>

#if !defined(__GNUC__) || defined(FASTCONV_SCALAR)
#define FASTCONV_BYTES 0
#elif defined(__AVX512F__)
#define FASTCONV_BYTES 64
#elif defined(__AVX__)
#define FASTCONV_BYTES 32
#else
#define FASTCONV_BYTES 16
#endif

/* A tile is rows x vectors: as large as the registers hold beside one row of the panel, 32 of them
 * in AVX-512 and AArch64, 16 elsewhere; wide rather than high, since each row costs a load. (AVX-512:
 * 9 x 3 has 96% of the multiply-add peak, 14 x 2 has 85%.) Few rows take four vectors.
 *
 * Taps of a panel, as a rule: it and the weights of a tile fit first-level cache together (27 and 5
 * of 48 KiB with AVX-512, 12 and 5 of 32 with AVX2). Kernels of one index have up to FASTCONV_TAPS in
 * one block, whose panel is in second-level cache (0.95 to 0.98 of the time on 200 to 256 taps and 32
 * filters or more; 1.0 to 1.1 where kernels have more indices). Sums of so many are added to each
 * other, which also bounds their rounding. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define FASTCONV_ROWS 9
#define FASTCONV_VECTORS 3
#define FASTCONV_NARROW_ROWS 6
#define FASTCONV_PANEL_TAPS 144
#else
#define FASTCONV_ROWS 6
#define FASTCONV_VECTORS 2
#define FASTCONV_NARROW_ROWS 3
#define FASTCONV_PANEL_TAPS 192
#endif
#define FASTCONV_TAPS 256

/* Steps after which a tile whose rows lie apart asks for lines of the next tile's. */
#define FASTCONV_AHEAD 16

/* Steps by which other tiles ask ahead for their rows, on into those of the next tile but one, which
 * lie there in order: one line a step, since a burst of them makes the tile itself wait. (Weights
 * kept transformed, 38 MB: 0.65 to 0.8 of the time where they come from memory, 0.95 where not;
 * others 0.9 to 1.0.) */
#define FASTCONV_FAR 128

/* Steps of a tile whose rows lie apart that are one. */
#define FASTCONV_GROUP 4

/* Columns of the widest panel. */
#define FASTCONV_COLUMNS 64

/* Where a stretch of neighbours begins, how many there are, and the column of the first. */
typedef struct {
    ptrdiff_t at, length, column;
} fastconv_run;

/* Without inlining and unrolling the same is loaded and stored, and the sanitizers' build takes a
 * sixth of the time to compile. */
#ifdef __GNUC__
#define FASTCONV_APART static __attribute__((noinline, unused))
#define FASTCONV_PREFETCH(place) __builtin_prefetch(place)
#ifdef __SANITIZE_ADDRESS__
#define FASTCONV_INLINE static __attribute__((unused))
#define FASTCONV_UNROLL
#define FASTCONV_UNROLL_TWO
#else
#define FASTCONV_INLINE static inline __attribute__((always_inline))
#define FASTCONV_UNROLL _Pragma("GCC unroll 16")
#define FASTCONV_UNROLL_TWO _Pragma("GCC unroll 2")
#endif
#else
#define FASTCONV_INLINE static inline
#define FASTCONV_APART static
#define FASTCONV_PREFETCH(place)
#define FASTCONV_UNROLL
#define FASTCONV_UNROLL_TWO
#endif

#define FASTCONV_JOIN_(a, b) a##_##b
#define FASTCONV_JOIN(a, b) FASTCONV_JOIN_(a, b)

#define FASTCONV_T float
#define FASTCONV_MASK int
#define FASTCONV_SUFFIX f32
#include "simd.h"
#undef FASTCONV_T
#undef FASTCONV_MASK
#undef FASTCONV_SUFFIX
#define FASTCONV_T double
#define FASTCONV_MASK long long
#define FASTCONV_SUFFIX f64
#include "simd.h"
#undef FASTCONV_T
#undef FASTCONV_MASK
#undef FASTCONV_SUFFIX

#endif

#else

#define T FASTCONV_T
#define NAME(name) FASTCONV_JOIN(name, FASTCONV_SUFFIX)
#define vec NAME(vec)

#if FASTCONV_BYTES
#define W (FASTCONV_BYTES / (ptrdiff_t)sizeof(T))
typedef T vec __attribute__((vector_size(FASTCONV_BYTES)));
typedef T NAME(loose) __attribute__((vector_size(FASTCONV_BYTES), aligned(sizeof(T)), may_alias));
#else
#define W 1
typedef T vec;
typedef T NAME(loose);
#endif

enum { NAME(LANES) = W };

FASTCONV_INLINE vec NAME(load)(const T *from) { return *(const NAME(loose) *)from; }
FASTCONV_INLINE void NAME(store)(T *to, vec v) { *(NAME(loose) *)to = v; }

/* to[i] = from[i] for i < n. */
FASTCONV_INLINE void NAME(copy)(T *to, const T *from, ptrdiff_t n)
{
    for (; n >= W; n -= W, to += W, from += W)
        NAME(store)(to, NAME(load)(from));
    FASTCONV_UNROLL
    for (ptrdiff_t part = W / 2; part > 0; part /= 2)
        if (n & part) {
            memcpy(to, from, (size_t)part * sizeof(T));
            to += part;
            from += part;
        }
}

/* Whether all numbers are finite. */
static int NAME(all_finite)(const T *numbers, ptrdiff_t n)
{
    vec nothing[4] = {(vec){0}};
    T rest = 0;
    for (; n >= 4 * W; n -= 4 * W, numbers += 4 * W)
        FASTCONV_UNROLL
        for (int v = 0; v < 4; v++)
            nothing[v] += NAME(load)(numbers + v * W) * 0; /* NaN from the first that is not on */
    for (; n > 0; n--)
        rest += *numbers++ * 0;
    nothing[0] = (nothing[0] + nothing[1]) + (nothing[2] + nothing[3]);
    T lanes[W];
    NAME(store)(lanes, nothing[0]);
    for (int i = 0; i < W; i++)
        rest += lanes[i];
    return rest == 0;
}

/* panel[r][j] = the j-th number of `runs`, from tap r's offset on, for j below their total length.
 *
 * Unless `exact`, whole vectors are moved: up to W - 1 numbers after a run are read, and as many
 * after the panel written. */
FASTCONV_INLINE void NAME(fill_by)(ptrdiff_t vectors, T *panel, ptrdiff_t width, const T *from,
                                   const ptrdiff_t *offsets, ptrdiff_t taps,
                                   const ptrdiff_t *sources, const ptrdiff_t *targets)
{
    for (ptrdiff_t r = 0; r < taps; r++, panel += width) {
        const T *row = from + offsets[r];
        FASTCONV_UNROLL
        for (ptrdiff_t v = 0; v < vectors; v++)
            NAME(store)(panel + targets[v], NAME(load)(row + sources[v]));
    }
}

FASTCONV_APART void NAME(fill_panel)(T *panel, ptrdiff_t width, const T *from,
                                     const ptrdiff_t *offsets, ptrdiff_t taps,
                                     const fastconv_run *runs, ptrdiff_t count, int exact)
{
    const fastconv_run *end = runs + count;
    ptrdiff_t sources[FASTCONV_COLUMNS], targets[FASTCONV_COLUMNS], vectors = 0, at = 0;
    if ((count > 1 && runs->length == 1 && runs[1].length == 1)) {
        for (ptrdiff_t r = 0; r < taps; r++, panel += width)
            for (ptrdiff_t j = 0; j < count; j++)
                panel[j] = from[offsets[r] + runs[j].at];
        return;
    }
    if (exact && !(count == 1 && runs->length % W == 0)) {
        for (ptrdiff_t r = 0; r < taps; r++, panel += width) {
            T *to = panel;
            for (const fastconv_run *run = runs; run < end; to += run->length, run++)
                NAME(copy)(to, from + offsets[r] + run->at, run->length);
        }
        return;
    }
    /* in order, so that what a run's last vector has too much is overwritten */
    for (const fastconv_run *run = runs; run < end; at += run->length, run++)
        for (ptrdiff_t j = 0; j < run->length; j += W) {
            sources[vectors] = run->at + j;
            targets[vectors++] = at + j;
        }
    switch (vectors) {
#define FILL(n)                                                                                   \
    case n:                                                                                       \
        NAME(fill_by)(n, panel, width, from, offsets, taps, sources, targets);                    \
        break;
        FILL(1) FILL(2) FILL(3) FILL(4) FILL(5) FILL(6)
    default:
        NAME(fill_by)(vectors, panel, width, from, offsets, taps, sources, targets);
    }
}

/* The tile: out[i][j] = from[i][j] + bias[i] + sum over steps p of a[i][p] * b[p][j], rows x
 * (vectors * W). `from` and `bias` may be NULL.
 *
 * Steps are `segments` runs. Three forms, by what is not NULL:
 *   neither   a is contiguous, `rows` numbers a step; b begins a run at b_at[segment], goes on by
 *             b_step, and has its vectors side by side. With a_at and an a_row of 1, a begins a run
 *             at a_at[segment], and goes on by a_step
 *   places    a as before; a run is one step; vector v of b is at b_at[segment] + places[v]
 *   a_at      row i of a begins a run at a_at[segment] + i * a_row, and goes on by 1; b as in
 *             the first form */
#define TILE_ARGUMENTS                                                                            \
    const T *a, const ptrdiff_t *a_at, ptrdiff_t a_row, ptrdiff_t a_step, const T *b,              \
        const ptrdiff_t *places, ptrdiff_t segments, const ptrdiff_t *b_at,                        \
        const ptrdiff_t *runs, ptrdiff_t b_step, const T *from, ptrdiff_t from_pitch,              \
        const T *bias, T *out, ptrdiff_t out_pitch

enum NAME(form) { NAME(PACKED), NAME(PLACED), NAME(APART) };

/* One step: sum[i][v] += a[i] * b[place[v]]. */
FASTCONV_INLINE void NAME(add_step)(const int rows, const int vectors, vec (*sum)[4], const T *a,
                                    const T *b, const ptrdiff_t *place)
{
    vec panel[4];
    FASTCONV_UNROLL
    for (int v = 0; v < vectors; v++)
        panel[v] = NAME(load)(b + place[v]);
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i++)
        FASTCONV_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[i][v] += a[i] * panel[v];
}

/* `steps` of them, for rows of a that lie a_row apart; asks for the same of the next rows. */
FASTCONV_INLINE void NAME(add_apart)(const int rows, const int vectors, vec (*sum)[4], const T *a,
                                     ptrdiff_t a_row, const T *b, ptrdiff_t b_step,
                                     ptrdiff_t steps)
{
    const T *lines[FASTCONV_ROWS / 3]; /* by threes: addresses have one index register */
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i += 3)
        lines[i / 3] = a + i * a_row;
    while (steps > 0) {
        const int count = steps < FASTCONV_GROUP ? 1 : FASTCONV_GROUP;
        if (steps % FASTCONV_AHEAD == 0) {
            FASTCONV_UNROLL
            for (int i = 0; i < rows; i++)
                FASTCONV_PREFETCH(lines[i / 3] + (rows + i % 3) * a_row);
        }
        FASTCONV_UNROLL
        for (int step = 0; step < FASTCONV_GROUP; step++) {
            vec panel[4];
            FASTCONV_UNROLL
            for (int v = 0; v < vectors; v++)
                panel[v] = NAME(load)(b + v * W);
            b += b_step;
            FASTCONV_UNROLL
            for (int i = 0; i < rows; i++)
                FASTCONV_UNROLL
                for (int v = 0; v < vectors; v++)
                    sum[i][v] += lines[i / 3][i % 3 * a_row + step] * panel[v];
            if (count == 1)
                break;
        }
        FASTCONV_UNROLL
        for (int i = 0; i < rows; i += 3)
            lines[i / 3] += count;
        steps -= count;
    }
}

FASTCONV_INLINE void NAME(tile_body)(const int rows, const int vectors, const int form,
                                     TILE_ARGUMENTS)
{
    vec sum[FASTCONV_ROWS][4];
    ptrdiff_t place[4];
    FASTCONV_UNROLL
    for (int v = 0; v < vectors; v++)
        place[v] = form == NAME(PLACED) ? places[v] : v * W;
    if (from) { /* will be in first-level cache when the sums are made */
        FASTCONV_UNROLL
        for (int i = 0; i < rows; i++)
            FASTCONV_UNROLL
            for (int v = 0; v < vectors; v++)
                FASTCONV_PREFETCH(from + i * from_pitch + v * W);
    }
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i++)
        FASTCONV_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (vec){0};
    for (ptrdiff_t segment = 0; segment < segments; segment++) {
        const T *row = b + b_at[segment];
        const T *line = form == NAME(PACKED) && a_at ? a + a_at[segment] : a;
        ptrdiff_t left = form == NAME(PLACED) ? 1 : runs[segment];
        if (form == NAME(APART)) {
            NAME(add_apart)(rows, vectors, sum, a + a_at[segment], a_row, row, b_step, left);
            continue;
        }
        FASTCONV_UNROLL_TWO /* not more: runs are short in the gradient of weights */
        for (; left > 0; left--) {
            if (form == NAME(PACKED))
                FASTCONV_PREFETCH(line + FASTCONV_FAR * rows);
            NAME(add_step)(rows, vectors, sum, line, row, place);
            line += a_step;
            row += b_step;
        }
        if (form == NAME(PLACED) || !a_at)
            a = line;
    }
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i++)
        FASTCONV_UNROLL
        for (int v = 0; v < vectors; v++) {
            if (from)
                sum[i][v] = NAME(load)(from + i * from_pitch + v * W) + sum[i][v];
            if (bias)
                sum[i][v] += bias[i];
            NAME(store)(out + i * out_pitch + v * W, sum[i][v]);
        }
}

#define TILE(rows, vectors)                                                                       \
    static void NAME(tile_##rows##x##vectors)(TILE_ARGUMENTS)                                     \
    {                                                                                             \
        if (places)                                                                               \
            NAME(tile_body)(rows, vectors, NAME(PLACED), a, NULL, 0, rows, b, places, segments,    \
                            b_at, NULL, 0, from, from_pitch, bias, out, out_pitch);               \
        else if (a_at && a_row != 1)                                                              \
            NAME(tile_body)(rows, vectors, NAME(APART), a, a_at, a_row, 1, b, NULL,                \
                            segments, b_at, runs, b_step, from, from_pitch, NULL, out, out_pitch); \
        else                                                                                      \
            NAME(tile_body)(rows, vectors, NAME(PACKED), a, a_at, 1, a_at ? a_step : rows, b,      \
                            NULL, segments, b_at, runs, b_step, from, from_pitch, bias, out, out_pitch);                 \
    }
#define SOME_TILES(rows) TILE(rows, 1) TILE(rows, 2)
#if FASTCONV_VECTORS == 3
#define TILES(rows) SOME_TILES(rows) TILE(rows, 3)
#define NARROW_TILES(rows) TILES(rows) TILE(rows, 4)
NARROW_TILES(1) NARROW_TILES(2) NARROW_TILES(3) NARROW_TILES(4) NARROW_TILES(5) NARROW_TILES(6)
TILES(7) TILES(8) TILES(9)
#else
#define TILES(rows) SOME_TILES(rows)
#define NARROW_TILES(rows) TILES(rows) TILE(rows, 3) TILE(rows, 4)
NARROW_TILES(1) NARROW_TILES(2) NARROW_TILES(3)
TILES(4) TILES(5) TILES(6)
#endif

typedef void (*NAME(tile_function))(TILE_ARGUMENTS);
#define TILE_NAME(rows, vectors) NAME(tile_##rows##x##vectors)
#define SOME(rows) NULL, TILE_NAME(rows, 1), TILE_NAME(rows, 2)
#define NARROW(rows) {SOME(rows), TILE_NAME(rows, 3), TILE_NAME(rows, 4)}
#if FASTCONV_VECTORS == 3
#define WIDE(rows) {SOME(rows), TILE_NAME(rows, 3), NULL}
#else
#define WIDE(rows) {SOME(rows), NULL, NULL}
#endif
static const NAME(tile_function) NAME(tiles)[FASTCONV_ROWS + 1][5] = {
    {NULL, NULL, NULL, NULL, NULL}, NARROW(1), NARROW(2), NARROW(3),
#if FASTCONV_VECTORS == 3
    NARROW(4), NARROW(5), NARROW(6), WIDE(7), WIDE(8), WIDE(9),
#else
    WIDE(4), WIDE(5), WIDE(6),
#endif
};

/* Call the tile of so many rows and vectors; there must be one. */
FASTCONV_INLINE void NAME(tile)(ptrdiff_t rows, ptrdiff_t vectors, TILE_ARGUMENTS)
{
    NAME(tiles)[rows][vectors](a, a_at, a_row, a_step, b, places, segments, b_at, runs, b_step, from,
                               from_pitch, bias, out, out_pitch);
}

/* The first n <= W numbers of a vector, zeros after. */
FASTCONV_INLINE vec NAME(load_part)(const T *from, ptrdiff_t n)
{
    vec v = (vec){0};
    memcpy(&v, from, (size_t)n * sizeof(T));
    return v;
}

#if FASTCONV_BYTES
typedef FASTCONV_MASK NAME(mask) __attribute__((vector_size(FASTCONV_BYTES)));

/* Those numbers of a, followed by b, that `order` says. */
FASTCONV_INLINE vec NAME(mix)(vec a, vec b, NAME(mask) order)
{
#ifdef __clang__
    vec mixed;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        mixed[i] = order[i] < W ? a[order[i]] : b[order[i] - W];
    return mixed;
#else
    return __builtin_shuffle(a, b, order);
#endif
}

/* Numbers of two vectors in turn: of their first halves, or of their second. */
FASTCONV_INLINE vec NAME(interleave)(vec a, vec b, const int half)
{
    NAME(mask) order;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        order[i] = i / 2 + (i % 2) * W + half * (W / 2);
    return NAME(mix)(a, b, order);
}
#endif

/* Transpose W x W numbers in registers: log2(W) rounds, each of which interleaves the first half of
 * the rows with the second. */
FASTCONV_INLINE void NAME(transpose_square)(vec *rows)
{
#if FASTCONV_BYTES
    FASTCONV_UNROLL
    for (int width = 1; width < W; width *= 2) {
        vec mixed[W];
        FASTCONV_UNROLL
        for (int i = 0; i < W / 2; i++) {
            mixed[2 * i] = NAME(interleave)(rows[i], rows[i + W / 2], 0);
            mixed[2 * i + 1] = NAME(interleave)(rows[i], rows[i + W / 2], 1);
        }
        FASTCONV_UNROLL
        for (int i = 0; i < W; i++)
            rows[i] = mixed[i];
    }
#else
    (void)rows;
#endif
}

/* The sums of W vectors: the same rounds, with an addition in each. */
FASTCONV_INLINE vec NAME(add_up)(vec *rows)
{
#if FASTCONV_BYTES
    FASTCONV_UNROLL
    for (int count = W / 2; count > 0; count /= 2)
        FASTCONV_UNROLL
        for (int i = 0; i < count; i++)
            rows[i] = NAME(interleave)(rows[i], rows[i + count], 0)
                      + NAME(interleave)(rows[i], rows[i + count], 1);
#endif
    return rows[0];
}

/* sums[i * sums_step + t] += the sum of x[t] * d[i] over positions, for rows i and taps t.
 *
 * Row i of d is d_step * i further on, tap t of x offsets[t]; positions are `segments` runs of `run`,
 * which begin at d_at and x_at. x may be read up to W - 1 numbers after a run, d before `d_end`, or
 * nothing after one if that is NULL. */
#define DOT_ARGUMENTS                                                                             \
    const T *d, ptrdiff_t d_step, const T *d_end, const T *x, const ptrdiff_t *offsets,            \
        ptrdiff_t segments, const ptrdiff_t *d_at, const ptrdiff_t *x_at, ptrdiff_t run, T *sums,  \
        ptrdiff_t sums_step

/* The first n < W numbers of a vector, zeros after. */
FASTCONV_INLINE vec NAME(first)(vec v, ptrdiff_t n)
{
#if FASTCONV_BYTES
    NAME(mask) lane;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        lane[i] = i;
    return (vec)((NAME(mask))v & (lane < (FASTCONV_MASK)n));
#else
    return n > 0 ? v : 0;
#endif
}

FASTCONV_INLINE void NAME(dot_body)(const int rows, const int taps, DOT_ARGUMENTS)
{
    vec sum[4][6];
    FASTCONV_UNROLL
    for (int i = 0; i < rows; i++)
        FASTCONV_UNROLL
        for (int t = 0; t < taps; t++)
            sum[i][t] = (vec){0};
    for (ptrdiff_t segment = 0; segment < segments; segment++) {
        const T *gradients = d + d_at[segment], *numbers = x + x_at[segment];
        ptrdiff_t left = run;
        for (; left >= W; left -= W, gradients += W, numbers += W) {
            vec row[4];
            FASTCONV_UNROLL
            for (int i = 0; i < rows; i++)
                row[i] = NAME(load)(gradients + i * d_step);
            FASTCONV_UNROLL
            for (int t = 0; t < taps; t++) {
                vec tap = NAME(load)(numbers + offsets[t]);
                FASTCONV_UNROLL
                for (int i = 0; i < rows; i++)
                    sum[i][t] += row[i] * tap;
            }
        }
        if (left > 0) {
            vec row[4];
            FASTCONV_UNROLL
            for (int i = 0; i < rows; i++) {
                const T *end = gradients + i * d_step;
                row[i] = d_end && d_end - end >= W ? NAME(first)(NAME(load)(end), left)
                                          : NAME(load_part)(end, left);
            }
            FASTCONV_UNROLL
            for (int t = 0; t < taps; t++) {
                vec tap = NAME(first)(NAME(load)(numbers + offsets[t]), left);
                FASTCONV_UNROLL
                for (int i = 0; i < rows; i++)
                    sum[i][t] += row[i] * tap;
            }
        }
    }
    FASTCONV_UNROLL
    for (int first = 0; first < rows * taps; first += W) {
        vec some[W];
        T total[W];
        FASTCONV_UNROLL
        for (int n = 0; n < W; n++)
            some[n] = first + n < rows * taps ? sum[(first + n) / taps][(first + n) % taps]
                                              : (vec){0};
        NAME(store)(total, NAME(add_up)(some));
        FASTCONV_UNROLL
        for (int n = 0; n < W; n++)
            if (first + n < rows * taps)
                sums[(first + n) / taps * sums_step + (first + n) % taps] += total[n];
    }
}

#define DOT(rows, taps)                                                                           \
    static void NAME(dot_##rows##x##taps)(DOT_ARGUMENTS)                                          \
    {                                                                                             \
        NAME(dot_body)(rows, taps, d, d_step, d_end, x, offsets, segments, d_at, x_at, run, sums,  \
                       sums_step);                                                                \
    }
#define DOTS(rows)                                                                                \
    DOT(rows, 1) DOT(rows, 2) DOT(rows, 3) DOT(rows, 4) DOT(rows, 5) DOT(rows, 6)
DOTS(1) DOTS(2) DOTS(3) DOTS(4)

typedef void (*NAME(dot_function))(DOT_ARGUMENTS);
#define DOT_NAME(rows, taps) NAME(dot_##rows##x##taps)
#define DOT_NAMES(rows)                                                                           \
    {DOT_NAME(rows, 1), DOT_NAME(rows, 2), DOT_NAME(rows, 3), DOT_NAME(rows, 4),                   \
     DOT_NAME(rows, 5), DOT_NAME(rows, 6)}
static const NAME(dot_function) NAME(dots)[4][6] = {
    DOT_NAMES(1), DOT_NAMES(2), DOT_NAMES(3), DOT_NAMES(4)};

/* Call the one for so many rows (up to 4) and taps (up to 6). */
FASTCONV_INLINE void NAME(dot)(ptrdiff_t rows, ptrdiff_t taps, DOT_ARGUMENTS)
{
    NAME(dots)[rows - 1][taps - 1](d, d_step, d_end, x, offsets, segments, d_at, x_at, run, sums,
                                   sums_step);
}

/* to[j * rows + i] = from[i * from_step + j] for i < rows and j < W: few rows, which are put between
 * each other one after the other. */
FASTCONV_INLINE void NAME(weave)(const int rows, const T *from, ptrdiff_t from_step, T *to)
{
#if FASTCONV_BYTES
    FASTCONV_UNROLL
    for (int v = 0; v < rows; v++) {
        vec woven = NAME(load)(from);
        FASTCONV_UNROLL
        for (int i = 0; i < rows; i++) {
            vec row = NAME(load)(from + i * from_step);
            NAME(mask) order;
            FASTCONV_UNROLL
            for (int j = 0; j < W; j++)
                order[j] = (v * W + j) % rows == i ? W + (v * W + j) / rows : j;
            woven = NAME(mix)(woven, row, order);
        }
        NAME(store)(to + v * W, woven);
    }
#else
    for (int i = 0; i < rows; i++)
        to[i] = from[i * from_step];
#endif
}

/* to[j * to_step + i] = from[i * from_step + j] for i < rows <= W and j < columns.
 *
 * Whole vectors are moved where that stays below `from_end` and `to_end`: after a row numbers are
 * read in vain, and after a column of `to` up to W - rows are overwritten with zeros, so a caller
 * goes up in `to`. Where a step may be negative, that end is NULL, and nothing else is touched. */
static void NAME(transpose)(ptrdiff_t rows, ptrdiff_t columns, const T *from, ptrdiff_t from_step,
                            const T *from_end, T *to, ptrdiff_t to_step, const T *to_end)
{
    if (to_step == rows && rows <= 4)
        for (; columns > 0; columns -= W, from += W, to += W * rows) {
            T part[4 * W], *target = columns < W ? part : to;
            if (columns < W && !(from_end && from_end - (from + (rows - 1) * from_step) >= W))
                break;
            switch (rows) {
            case 1:
                NAME(weave)(1, from, from_step, target);
                break;
            case 2:
                NAME(weave)(2, from, from_step, target);
                break;
            case 3:
                NAME(weave)(3, from, from_step, target);
                break;
            default:
                NAME(weave)(4, from, from_step, target);
            }
            if (columns < W)
                NAME(copy)(to, part, columns * rows);
        }
    while (columns > 0) {
        ptrdiff_t count = columns < W ? columns : W;
        vec block[W];
        if (count == W || (from_end && from_end - (from + (rows - 1) * from_step) >= W)) {
            FASTCONV_UNROLL
            for (int i = 0; i < W; i++)
                block[i] = i < rows ? NAME(load)(from + i * from_step) : (vec){0};
        } else {
            FASTCONV_UNROLL
            for (int i = 0; i < W; i++)
                block[i] = i < rows ? NAME(load_part)(from + i * from_step, count) : (vec){0};
        }
        NAME(transpose_square)(block);
        if (count == W && to_end && to_end - to >= (W - 1) * to_step + W) {
            FASTCONV_UNROLL
            for (int j = 0; j < W; j++)
                NAME(store)(to + j * to_step, block[j]);
        } else {
            for (ptrdiff_t j = 0; j < count; j++) {
                T *column = to + j * to_step;
                if (to_end && to_end - column >= W)
                    NAME(store)(column, block[j]);
                else
                    memcpy(column, &block[j], (size_t)rows * sizeof(T));
            }
        }
        columns -= count;
        from += count;
        to += count * to_step;
    }
}

#undef TILE_ARGUMENTS
#undef TILE
#undef TILES
#undef FILL
#undef SOME_TILES
#undef DOT_ARGUMENTS
#undef DOT
#undef DOTS
#undef DOT_NAME
#undef DOT_NAMES
#undef NARROW_TILES
#undef TILE_NAME
#undef SOME
#undef WIDE
#undef NARROW
#undef T
#undef NAME
#undef W
#undef vec
#endif
