/* The transforms of Winograd's convolutions F(2x2, 3x3) and F(4x4, 3x3), in vectors: `m` is 2 or 4,
 * a tile reads m + 2 cells an axis, and POINTS(m) = (m + 2)^2 numbers stand for it.
 *
 * For an axis, y = A^T [(G g) * (B^T d)], with the points 0, 1, -1 and, for m = 4, 1/2 and -2:
 *
 *     B^T = 1 -3/2   -2  3/2  1  0    G =      1      0     0    A^T = 1  1  1   1  1  0
 *           0   -1  1/2  5/2  1  0           1/3    1/3   1/3          0  1 -1 1/2 -2  0
 *           0    1 -5/2  1/2  1  0          -1/3    1/3  -1/3          0  1  1 1/4  4  0
 *           0   -2   -1    2  1  0        -16/15  -8/15 -4/15          0  1 -1 1/8 -8  1
 *           0  1/2   -1 -1/2  1  0          1/15  -2/15  4/15
 *           0    1 -3/2   -2 3/2 1             0      0     1
 *
 *     B^T = 1  0 -1  0                G =   1    0    0          A^T = 1  1  1  0
 *           0  1  1  0                    1/2  1/2  1/2                0  1 -1  1
 *           0 -1  1  0                    1/2 -1/2  1/2
 *           0 -1  0  1                      0    0    1
 *
 * Every product is added to one sum only, so that all compilers fuse the same ones. The file includes
 * itself once a type, as simd.h does.
 */
#ifndef FASTCONV_T

#ifndef FASTCONV_WINOGRAD_H
#define FASTCONV_WINOGRAD_H

#include "simd.h"

#define FASTCONV_T float
#define FASTCONV_BITS int
#define FASTCONV_SUFFIX f32
#include "winograd.h"
#undef FASTCONV_T
#undef FASTCONV_BITS
#undef FASTCONV_SUFFIX
#define FASTCONV_T double
#define FASTCONV_BITS long long
#define FASTCONV_SUFFIX f64
#include "winograd.h"
#undef FASTCONV_T
#undef FASTCONV_BITS
#undef FASTCONV_SUFFIX

#endif

#else

#define T FASTCONV_T
#define NAME(name) FASTCONV_JOIN(name, FASTCONV_SUFFIX)
#define vec NAME(vec)
#define W ((ptrdiff_t)NAME(LANES))
#define POINTS(m) (((m) + 2) * ((m) + 2))

/* --- one axis --- */

FASTCONV_INLINE void NAME(transform_cells)(const int m, vec *to, const vec *d)
{
    if (m == 2) {
        to[0] = d[0] - d[2];
        to[1] = d[1] + d[2];
        to[2] = d[2] - d[1];
        to[3] = d[3] - d[1];
        return;
    }
    vec odd = d[3] - d[1], even = d[4] - d[2];
    to[0] = (d[0] + d[4]) - 2 * d[2] + (T)1.5 * odd;
    to[1] = (d[4] - d[1]) + (T)0.5 * d[2] + (T)2.5 * d[3];
    to[2] = (d[4] + d[1]) - (T)2.5 * d[2] + (T)0.5 * d[3];
    to[3] = even + 2 * odd;
    to[4] = even - (T)0.5 * odd;
    to[5] = (d[1] + d[5]) - 2 * d[3] + (T)1.5 * even;
}

FASTCONV_INLINE void NAME(transform_taps)(const int m, vec *to, const vec *g)
{
    vec ends = g[0] + g[2];
    to[0] = g[0];
    to[m + 1] = g[2];
    if (m == 2) {
        to[1] = (T)0.5 * (ends + g[1]);
        to[2] = (T)0.5 * (ends - g[1]);
        return;
    }
    to[1] = (ends + g[1]) * (T)(1.0 / 3);
    to[2] = (ends - g[1]) * (T)(-1.0 / 3);
    to[3] = (g[0] + (T)0.5 * g[1] + (T)0.25 * g[2]) * (T)(-16.0 / 15);
    to[4] = (g[0] - 2 * g[1] + 4 * g[2]) * (T)(1.0 / 15);
}

FASTCONV_INLINE void NAME(transform_sums)(const int m, vec *to, const vec *s)
{
    vec sum = s[1] + s[2], difference = s[1] - s[2];
    if (m == 2) {
        to[0] = s[0] + sum;
        to[1] = s[3] + difference;
        return;
    }
    to[0] = (s[0] + sum) + (s[3] + s[4]);
    to[1] = difference + (T)0.5 * s[3] - 2 * s[4];
    to[2] = sum + (T)0.25 * s[3] + 4 * s[4];
    to[3] = (difference + s[5]) + (T)0.125 * s[3] - 8 * s[4];
}

/* --- vectors of neighbours, and of every m-th cell --- */

/* The numbers with even places in two vectors, or those with odd ones. */
FASTCONV_INLINE vec NAME(every_other)(vec a, vec b, const int odd)
{
#if !FASTCONV_BYTES
    return odd ? b : a;
#elif defined(__clang__)
    vec picked;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        picked[i] = 2 * i + odd < W ? a[(2 * i + odd) % W] : b[(2 * i + odd) % W];
    return picked;
#else
    NAME(mask) order;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        order[i] = 2 * i + odd;
    return __builtin_shuffle(a, b, order);
#endif
}

/* The numbers of two vectors in turn: of their first halves, or of their second. */
FASTCONV_INLINE vec NAME(in_turn)(vec a, vec b, const int half)
{
#if FASTCONV_BYTES
    return NAME(interleave)(a, b, half);
#else
    return half ? b : a;
#endif
}

/* cells[p] = every m-th number from `from` + p on, of the m first or only the `phases` first p. */
FASTCONV_INLINE void NAME(split)(const int m, const int phases, const T *from, vec *cells)
{
    vec a = NAME(load)(from), b = NAME(load)(from + W);
    vec even = NAME(every_other)(a, b, 0), odd = NAME(every_other)(a, b, 1);
    if (m == 2) {
        cells[0] = even;
        cells[1] = odd;
        return;
    }
    vec c = NAME(load)(from + 2 * W), d = NAME(load)(from + 3 * W);
    vec later_even = NAME(every_other)(c, d, 0), later_odd = NAME(every_other)(c, d, 1);
    cells[0] = NAME(every_other)(even, later_even, 0);
    cells[1] = NAME(every_other)(odd, later_odd, 0);
    if (phases > 2) {
        cells[2] = NAME(every_other)(even, later_even, 1);
        cells[3] = NAME(every_other)(odd, later_odd, 1);
    }
}

/* The reverse of `split`, for all m. */
FASTCONV_INLINE void NAME(merge)(const int m, const vec *cells, T *to)
{
    if (m == 2) {
        NAME(store)(to, NAME(in_turn)(cells[0], cells[1], 0));
        NAME(store)(to + W, NAME(in_turn)(cells[0], cells[1], 1));
        return;
    }
    FASTCONV_UNROLL
    for (int half = 0; half < 2; half++) {
        vec even = NAME(in_turn)(cells[0], cells[2], half);
        vec odd = NAME(in_turn)(cells[1], cells[3], half);
        NAME(store)(to + 2 * half * W, NAME(in_turn)(even, odd, 0));
        NAME(store)(to + (2 * half + 1) * W, NAME(in_turn)(even, odd, 1));
    }
}

/* --- magnitudes: as integers, in whose order NaN comes after Inf --- */

#if FASTCONV_BYTES
typedef NAME(mask) NAME(bits);
#else
typedef FASTCONV_BITS NAME(bits);
#endif

FASTCONV_INLINE NAME(bits) NAME(larger)(NAME(bits) most, vec v)
{
    const FASTCONV_BITS all_but_sign = (FASTCONV_BITS)(~(unsigned FASTCONV_BITS)0 >> 1);
    NAME(bits) size;
    memcpy(&size, &v, sizeof v);
    size &= all_but_sign;
#if FASTCONV_BYTES
    NAME(bits) grows = size > most;
    return (size & grows) | (most & ~grows);
#else
    return size > most ? size : most;
#endif
}

/* The largest magnitude of n numbers and of `most`. */
FASTCONV_APART T NAME(peak)(const T *numbers, ptrdiff_t n, T most)
{
    NAME(bits) sizes;
    vec first = NAME(load_part)(&most, 1);
    memcpy(&sizes, &first, sizeof sizes);
    for (; n >= W; n -= W, numbers += W)
        sizes = NAME(larger)(sizes, NAME(load)(numbers));
    sizes = NAME(larger)(sizes, NAME(load_part)(numbers, n));
    FASTCONV_BITS lanes[NAME(LANES)], all = 0;
    memcpy(lanes, &sizes, sizeof sizes);
    for (int i = 0; i < W; i++)
        all = lanes[i] > all ? lanes[i] : all;
    memcpy(&most, &all, sizeof most);
    return most;
}

/* --- the transforms --- */

/* to[i][j] = (B^T d)[i][j], for lines d of `length` cells, whole vectors, `pitch` apart; and once
 * more after them, each line m cells later: what a tile shares with the next one in its row.
 *
 * Lines are `line` numbers apart. `peaks` are the largest magnitudes so far, a vector. */
FASTCONV_INLINE void NAME(lines_body)(const int m, const T *d, ptrdiff_t pitch, ptrdiff_t length,
                                      T *to, ptrdiff_t line, T *peaks)
{
    T *later = to + (m + 2) * line - m;
    NAME(bits) most;
    memcpy(&most, peaks, sizeof most);
    for (ptrdiff_t j = 0; j < length; j += W) {
        vec cells[6], found[6];
        FASTCONV_UNROLL
        for (int i = 0; i < m + 2; i++) {
            cells[i] = NAME(load)(d + i * pitch + j);
            most = NAME(larger)(most, cells[i]);
        }
        NAME(transform_cells)(m, found, cells);
        FASTCONV_UNROLL
        for (int i = 0; i < m + 2; i++)
            NAME(store)(to + i * line + j, found[i]);
        if (j >= m) {
            FASTCONV_UNROLL
            for (int i = 0; i < m + 2; i++)
                NAME(store)(later + i * line + j, found[i]);
        } else if (W > m) { /* the m cells before belong to another row of tiles */
            FASTCONV_UNROLL
            for (int i = 0; i < m + 2; i++)
                memcpy(later + i * line + m, (const T *)&found[i] + m, (W - m) * sizeof(T));
        }
    }
    memcpy(peaks, &most, sizeof most);
}

FASTCONV_APART void NAME(transform_lines)(ptrdiff_t m, const T *d, ptrdiff_t pitch, ptrdiff_t length,
                                  T *to, ptrdiff_t line, T *peaks)
{
    if (m == 4)
        NAME(lines_body)(4, d, pitch, length, to, line, peaks);
    else
        NAME(lines_body)(2, d, pitch, length, to, line, peaks);
}

/* to[point * step] = a vector of (B^T d) B, for the W tiles that begin at `lines`. */
FASTCONV_INLINE void NAME(tiles_body)(const int m, const T *lines, ptrdiff_t line, T *to,
                                      ptrdiff_t step)
{
    for (int i = 0; i < m + 2; i++) {
        vec cells[6], found[6];
        NAME(split)(m, m, lines + i * line, cells);
        NAME(split)(m, 2, lines + (m + 2 + i) * line, cells + m);
        NAME(transform_cells)(m, found, cells);
        FASTCONV_UNROLL
        for (int j = 0; j < m + 2; j++, to += step)
            NAME(store)(to, found[j]);
    }
}

FASTCONV_APART void NAME(transform_tiles)(ptrdiff_t m, const T *lines, ptrdiff_t line, T *to,
                                  ptrdiff_t step)
{
    if (m == 4)
        NAME(tiles_body)(4, lines, line, to, step);
    else
        NAME(tiles_body)(2, lines, line, to, step);
}

/* The first halves of two vectors. */
FASTCONV_INLINE vec NAME(first_halves)(vec a, vec b)
{
#if !FASTCONV_BYTES
    (void)b;
    return a;
#elif defined(__clang__)
    vec both;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        both[i] = i < W / 2 ? a[i] : b[i - W / 2];
    return both;
#else
    NAME(mask) order;
    FASTCONV_UNROLL
    for (int i = 0; i < W; i++)
        order[i] = i < W / 2 ? i : i + W / 2;
    return __builtin_shuffle(a, b, order);
#endif
}

/* to[point] = a vector of G g G^T; tap k of g is `pitch` further on than the one before. Where there
 * is a second g, both give half a vector. */
FASTCONV_INLINE void NAME(weights_body)(const int m, const T *g, ptrdiff_t pitch, const T *second,
                                        vec *to)
{
    vec rows[6][3];
    FASTCONV_UNROLL
    for (int k = 0; k < 3; k++) {
        vec taps[3], found[6];
        FASTCONV_UNROLL
        for (int i = 0; i < 3; i++) {
            const ptrdiff_t at = (3 * i + k) * pitch;
            taps[i] = NAME(load)(g + at);
            if (second)
                taps[i] = NAME(first_halves)(taps[i], NAME(load)(second + at));
        }
        NAME(transform_taps)(m, found, taps);
        FASTCONV_UNROLL
        for (int i = 0; i < m + 2; i++)
            rows[i][k] = found[i];
    }
    FASTCONV_UNROLL
    for (int i = 0; i < m + 2; i++)
        NAME(transform_taps)(m, to + i * (m + 2), rows[i]);
}

/* to[point * step][channel][row] = G g G^T for taps g[channel][3 * 3][row], the last tap first if
 * they are turned; up to W - 1 numbers after the taps are read. */
FASTCONV_INLINE void NAME(block_body)(const int m, const T *g, ptrdiff_t rows, ptrdiff_t channels,
                                      int turned, T *to, ptrdiff_t step)
{
    vec found[36];
    ptrdiff_t c = 0, pitch = turned ? -rows : rows;
    g += turned ? 8 * rows : 0;
    if (2 * rows == W)
        for (; c + 2 <= channels; c += 2, to += W) {
            const T *taps = g + c * 9 * rows;
            NAME(weights_body)(m, taps, pitch, taps + 9 * rows, found);
            FASTCONV_UNROLL
            for (int p = 0; p < POINTS(m); p++)
                NAME(store)(to + p * step, found[p]);
        }
    for (; c < channels; c++)
        for (ptrdiff_t r = 0, n; r < rows; r += n, to += n) {
            n = rows - r < W ? rows - r : W;
            NAME(weights_body)(m, g + c * 9 * rows + r, pitch, NULL, found);
            if (n == W || c + 1 < channels - W / rows) /* the next ones overwrite what is too much */
                for (int p = 0; p < POINTS(m); p++)
                    NAME(store)(to + p * step, found[p]);
            else
                for (int p = 0; p < POINTS(m); p++)
                    memcpy(to + p * step, &found[p], (size_t)n * sizeof(T));
        }
}

FASTCONV_APART void NAME(transform_block)(ptrdiff_t m, const T *g, ptrdiff_t rows, ptrdiff_t channels,
                                  int turned, T *to, ptrdiff_t step)
{
    if (m == 4)
        NAME(block_body)(4, g, rows, channels, turned, to, step);
    else
        NAME(block_body)(2, g, rows, channels, turned, to, step);
}

/* to[i][...] = line i of A^T s A + bias, tiles beside each other, m cells each; sums of a point are
 * `vectors` vectors, `step` further on than those of the one before. */
FASTCONV_INLINE void NAME(results_body)(const int m, const T *s, ptrdiff_t step, ptrdiff_t vectors,
                                        T bias, T *to, ptrdiff_t line)
{
    for (ptrdiff_t v = 0; v < vectors; v++, s += W, to += m * W) {
        vec rows[4][6];
        FASTCONV_UNROLL
        for (int j = 0; j < m + 2; j++) {
            vec sums[6], found[4];
            FASTCONV_UNROLL
            for (int i = 0; i < m + 2; i++)
                sums[i] = NAME(load)(s + (i * (m + 2) + j) * step);
            NAME(transform_sums)(m, found, sums);
            FASTCONV_UNROLL
            for (int i = 0; i < m; i++)
                rows[i][j] = found[i];
        }
        FASTCONV_UNROLL
        for (int i = 0; i < m; i++) {
            vec cells[4];
            NAME(transform_sums)(m, cells, rows[i]);
            FASTCONV_UNROLL
            for (int j = 0; j < m; j++)
                cells[j] += bias;
            NAME(merge)(m, cells, to + i * line);
        }
    }
}

FASTCONV_APART void NAME(transform_results)(ptrdiff_t m, const T *s, ptrdiff_t step, ptrdiff_t vectors,
                                    T bias, T *to, ptrdiff_t line)
{
    if (m == 4)
        NAME(results_body)(4, s, step, vectors, bias, to, line);
    else
        NAME(results_body)(2, s, step, vectors, bias, to, line);
}

/* Have n numbers brought to the cache, to be read or written. */
FASTCONV_INLINE void NAME(fetch)(const T *numbers, ptrdiff_t n, const int writes)
{
#ifdef __GNUC__
    for (ptrdiff_t i = 0; i < n; i += 64 / (ptrdiff_t)sizeof(T))
        if (writes)
            __builtin_prefetch(numbers + i, 1);
        else
            __builtin_prefetch(numbers + i);
#endif
}

/* Zeros from `to` on, n and up to W - 1 more. */
FASTCONV_INLINE void NAME(clear)(T *to, ptrdiff_t n)
{
    for (; n > 0; n -= W, to += W)
        NAME(store)(to, (vec){0});
}

#undef POINTS
#undef T
#undef NAME
#undef W
#undef vec
#endif
