/* The transforms of Winograd's convolutions, in vectors. F(m, taps) makes m results of an axis from
 * points = m + taps - 1 cells: y = A^T [(G g) * (B^T d)], with a row of G and of B^T, and a column of
 * A^T, for each point. A form is one of them for the rows and one for the columns, and has the
 * points of both multiplied; F(1, 1) leaves its axis as it is.
 *
 * Points at 0, 1, -1 and infinity, for 3 taps and m = 2:
 *
 *     B^T = 1  0 -1  0                G =   1    0    0          A^T = 1  1  1  0
 *           0  1  1  0                    1/2  1/2  1/2                0  1 -1  1
 *           0 -1  1  0                    1/2 -1/2  1/2
 *           0 -1  0  1                      0    0    1
 *
 * With 1/2 and -2, for 3 taps and m = 4:
 *
 *     B^T = 1 -3/2   -2  3/2  1  0    G =      1      0     0    A^T = 1  1  1   1  1  0
 *           0   -1  1/2  5/2  1  0           1/3    1/3   1/3          0  1 -1 1/2 -2  0
 *           0    1 -5/2  1/2  1  0          -1/3    1/3  -1/3          0  1  1 1/4  4  0
 *           0   -2   -1    2  1  0        -16/15  -8/15 -4/15          0  1 -1 1/8 -8  1
 *           0  1/2   -1 -1/2  1  0          1/15  -2/15  4/15
 *           0    1 -3/2   -2 3/2 1             0      0     1
 *
 * With 2, -2, 1/2 and -1/2, for 5 taps and m = 4, or 7 taps and m = 2: column i of G has the points
 * to the power of i, times -2/9 (1 and -1), 1/90 (2 and -2) and 32/45 (1/2 and -1/2); row i of A^T
 * has these powers themselves; and
 *
 *     B^T = 1    0 -21/4     0  21/4     0 -1 0
 *           0    1     1 -17/4 -17/4     1  1 0
 *           0   -1     1  17/4 -17/4    -1  1 0
 *           0  1/2   1/4  -5/2  -5/4     2  1 0
 *           0 -1/2   1/4   5/2  -5/4    -2  1 0
 *           0    2     4  -5/2    -5   1/2  1 0
 *           0   -2     4   5/2    -5  -1/2  1 0
 *           0   -1     0  21/4     0 -21/4  0 1
 *
 * Every product is added to one sum only, so that all compilers fuse the same ones. The file includes
 * itself once a type, as simd.h does.
 */
#ifndef FASTCONV_T

#ifndef FASTCONV_WINOGRAD_H
#define FASTCONV_WINOGRAD_H

#include "simd.h"

#define FASTCONV_POINTS(m, taps) ((m) + (taps) - 1)
#define FASTCONV_MOST_POINTS 8
#define FASTCONV_MOST_TAPS 7

/* Call body(m, taps, m, taps, ...) with the numbers of a form, whose digits these are, as constants:
 * FASTCONV_BY_FORM for all forms, FASTCONV_BY_COMMON_FORM for those that gradients of weights have. */
#define FASTCONV_COMMON_FORMS(body, ...)                                                              \
    case 4343: body(4, 3, 4, 3, __VA_ARGS__); break;                                                  \
    case 4545: body(4, 5, 4, 5, __VA_ARGS__); break;                                                  \
    case 1143: body(1, 1, 4, 3, __VA_ARGS__); break;                                                  \
    case 1145: body(1, 1, 4, 5, __VA_ARGS__); break;                                                  \
    case 1127: body(1, 1, 2, 7, __VA_ARGS__); break;                                                  \
    case 4311: body(4, 3, 1, 1, __VA_ARGS__); break;                                                  \
    case 4511: body(4, 5, 1, 1, __VA_ARGS__); break;                                                  \
    case 2711: body(2, 7, 1, 1, __VA_ARGS__); break;
#define FASTCONV_BY_COMMON_FORM(form, body, ...)                                                      \
    switch (form) { FASTCONV_COMMON_FORMS(body, __VA_ARGS__) }
#define FASTCONV_BY_FORM(form, body, ...)                                                             \
    switch (form) {                                                                                   \
    case 2323: body(2, 3, 2, 3, __VA_ARGS__); break;                                                  \
    case 2727: body(2, 7, 2, 7, __VA_ARGS__); break;                                                  \
    FASTCONV_COMMON_FORMS(body, __VA_ARGS__)                                                          \
    }

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
#define POINTS FASTCONV_POINTS
#define MOST FASTCONV_MOST_POINTS

/* --- one axis --- */

FASTCONV_INLINE void NAME(transform_cells)(const int points, vec *to, const vec *d)
{
    if (points == 1) {
        to[0] = d[0];
    } else if (points == 4) {
        to[0] = d[0] - d[2];
        to[1] = d[1] + d[2];
        to[2] = d[2] - d[1];
        to[3] = d[3] - d[1];
    } else if (points == 6) {
        vec odd = d[3] - d[1], even = d[4] - d[2];
        to[0] = (d[0] + d[4]) - 2 * d[2] + (T)1.5 * odd;
        to[1] = (d[4] - d[1]) + (T)0.5 * d[2] + (T)2.5 * d[3];
        to[2] = (d[4] + d[1]) - (T)2.5 * d[2] + (T)0.5 * d[3];
        to[3] = even + 2 * odd;
        to[4] = even - (T)0.5 * odd;
        to[5] = (d[1] + d[5]) - 2 * d[3] + (T)1.5 * even;
    } else {
        vec even = (d[2] + d[6]) - (T)4.25 * d[4], odd = (d[1] + d[5]) - (T)4.25 * d[3];
        to[0] = (d[0] - d[6]) + (T)5.25 * (d[4] - d[2]);
        to[1] = even + odd;
        to[2] = even - odd;
        even = (d[6] + (T)0.25 * d[2]) - (T)1.25 * d[4];
        odd = (d[1] + 4 * d[5]) - 5 * d[3];
        to[3] = even + (T)0.5 * odd;
        to[4] = even - (T)0.5 * odd;
        even = (d[6] + 4 * d[2]) - 5 * d[4];
        odd = (d[5] + 4 * d[1]) - 5 * d[3];
        to[5] = even + (T)0.5 * odd;
        to[6] = even - (T)0.5 * odd;
        to[7] = (d[7] - d[1]) + (T)5.25 * (d[3] - d[5]);
    }
}

/* The sum of every other tap from `first` on, each times `square` to the power of its place. */
FASTCONV_INLINE vec NAME(power_sum)(const int taps, const vec *g, const int first, const T square)
{
    const int last = taps - 1 - (taps - 1 - first) % 2;
    vec sum = g[last];
    FASTCONV_UNROLL
    for (int i = last - 2; i >= 0; i -= 2)
        sum = g[i] + square * sum;
    return sum;
}

/* G g; of as many taps, or in the gradient of weights, of as many results as a tile has. */
FASTCONV_INLINE void NAME(transform_taps)(const int points, const int taps, vec *to, const vec *g)
{
    to[0] = g[0];
    to[points - 1] = g[taps - 1];
    if (points == 1)
        return;
    vec even = NAME(power_sum)(taps, g, 0, 1), odd = NAME(power_sum)(taps, g, 1, 1);
    if (points == 4) {
        to[1] = (T)0.5 * (even + odd);
        to[2] = (T)0.5 * (even - odd);
        return;
    }
    vec even_halves = NAME(power_sum)(taps, g, 0, (T)0.25);
    vec odd_halves = NAME(power_sum)(taps, g, 1, (T)0.25);
    vec even_twos = NAME(power_sum)(taps, g, 0, 4), odd_twos = NAME(power_sum)(taps, g, 1, 4);
    if (points == 6) {
        to[1] = (even + odd) * (T)(1.0 / 3);
        to[2] = (even - odd) * (T)(-1.0 / 3);
        to[3] = (even_halves + (T)0.5 * odd_halves) * (T)(-16.0 / 15);
        to[4] = (even_twos - 2 * odd_twos) * (T)(1.0 / 15);
    } else {
        to[1] = (even + odd) * (T)(-2.0 / 9);
        to[2] = (even - odd) * (T)(-2.0 / 9);
        to[3] = (even_twos + 2 * odd_twos) * (T)(1.0 / 90);
        to[4] = (even_twos - 2 * odd_twos) * (T)(1.0 / 90);
        to[5] = (even_halves + (T)0.5 * odd_halves) * (T)(32.0 / 45);
        to[6] = (even_halves - (T)0.5 * odd_halves) * (T)(32.0 / 45);
    }
}

/* A^T s: m results or, in the gradient of weights, taps. */
FASTCONV_INLINE void NAME(transform_sums)(const int points, const int m, vec *to, const vec *s)
{
    if (points == 1) {
        to[0] = s[0];
        return;
    }
    vec sum = s[1] + s[2], difference = s[1] - s[2];
    vec twos = sum, two_steps = sum, halves = sum, half_steps = sum;
    if (points == 4) {
        to[0] = s[0] + sum;
    } else if (points == 6) {
        to[0] = (s[0] + sum) + (s[3] + s[4]);
    } else {
        twos = s[3] + s[4];
        two_steps = s[3] - s[4];
        halves = s[5] + s[6];
        half_steps = s[5] - s[6];
        to[0] = (s[0] + sum) + (twos + halves);
    }
    T power = 1;
    FASTCONV_UNROLL
    for (int i = 1; i < m; i++) {
        power *= 2;
        vec found = i % 2 ? difference : sum;
        if (i == m - 1)
            found = s[points - 1] + found;
        if (points == 6)
            found = found + (1 / power) * s[3] + (i % 2 ? -power : power) * s[4];
        else if (points == 8)
            found = found + power * (i % 2 ? two_steps : twos)
                    + (1 / power) * (i % 2 ? half_steps : halves);
        to[i] = found;
    }
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
    vec a = NAME(load)(from);
    if (m == 1) {
        cells[0] = a;
        return;
    }
    vec b = NAME(load)(from + W);
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
    if (m == 1) {
        NAME(store)(to, cells[0]);
        return;
    }
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

/* to[i][j] = (B^T d)[i][j], for lines d of `length` cells, whole vectors, `pitch` apart; and after
 * them, as often as a row of tiles shares cells with those m columns later, each line m cells later.
 *
 * Lines are `line` numbers apart. `peaks` are the largest magnitudes so far, a vector. */
FASTCONV_INLINE void NAME(lines_body)(const int row_m, const int row_taps, const int m, const int taps,
                                      const T *d, ptrdiff_t pitch, ptrdiff_t length, T *to,
                                      ptrdiff_t line, T *peaks)
{
    const int points = POINTS(row_m, row_taps);
    NAME(bits) most;
    memcpy(&most, peaks, sizeof most);
    for (ptrdiff_t j = 0; j < length; j += W) {
        vec cells[MOST], found[MOST];
        FASTCONV_UNROLL
        for (int i = 0; i < points; i++) {
            cells[i] = NAME(load)(d + i * pitch + j);
            most = NAME(larger)(most, cells[i]);
        }
        NAME(transform_cells)(points, found, cells);
        FASTCONV_UNROLL
        for (int i = 0; i < points; i++)
            NAME(store)(to + i * line + j, found[i]);
        FASTCONV_UNROLL
        for (int shift = m; shift < POINTS(m, taps); shift += m) {
            T *later = to + shift / m * points * line;
            if (j >= shift) {
                FASTCONV_UNROLL
                for (int i = 0; i < points; i++)
                    NAME(store)(later + i * line + j - shift, found[i]);
            } else if (j + W > shift) { /* the cells before belong to another row of tiles */
                const int more = shift % W;
                FASTCONV_UNROLL
                for (int i = 0; i < points; i++)
                    memcpy(later + i * line, (const T *)&found[i] + more, (W - more) * sizeof(T));
            }
        }
    }
    memcpy(peaks, &most, sizeof most);
}

FASTCONV_APART void NAME(transform_lines)(ptrdiff_t form, const T *d, ptrdiff_t pitch,
                                          ptrdiff_t length, T *to, ptrdiff_t line, T *peaks)
{
    FASTCONV_BY_FORM(form, NAME(lines_body), d, pitch, length, to, line, peaks)
}

/* to[point * step] = a vector of (B^T d) B, for the W tiles that begin at `lines`. */
FASTCONV_INLINE void NAME(tiles_body)(const int row_m, const int row_taps, const int m, const int taps,
                                      const T *lines, ptrdiff_t line, T *to, ptrdiff_t step)
{
    const int rows = POINTS(row_m, row_taps), points = POINTS(m, taps);
    for (int i = 0; i < rows; i++) {
        vec cells[MOST], found[MOST];
        FASTCONV_UNROLL
        for (int j = 0; j < points; j += m)
            NAME(split)(m, points - j < m ? points - j : m, lines + (j / m * rows + i) * line,
                        cells + j);
        NAME(transform_cells)(points, found, cells);
        FASTCONV_UNROLL
        for (int j = 0; j < points; j++, to += step)
            NAME(store)(to, found[j]);
    }
}

FASTCONV_APART void NAME(transform_tiles)(ptrdiff_t form, const T *lines, ptrdiff_t line, T *to,
                                          ptrdiff_t step)
{
    FASTCONV_BY_FORM(form, NAME(tiles_body), lines, line, to, step)
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
FASTCONV_INLINE void NAME(weights_body)(const int row_m, const int row_taps, const int m,
                                        const int taps, const T *g, ptrdiff_t pitch, const T *second,
                                        vec *to)
{
    const int row_points = POINTS(row_m, row_taps), points = POINTS(m, taps);
    vec rows[MOST][FASTCONV_MOST_TAPS];
    FASTCONV_UNROLL
    for (int k = 0; k < taps; k++) {
        vec column[FASTCONV_MOST_TAPS], found[MOST];
        FASTCONV_UNROLL
        for (int i = 0; i < row_taps; i++) {
            const ptrdiff_t at = (taps * i + k) * pitch;
            column[i] = NAME(load)(g + at);
            if (second)
                column[i] = NAME(first_halves)(column[i], NAME(load)(second + at));
        }
        NAME(transform_taps)(row_points, row_taps, found, column);
        FASTCONV_UNROLL
        for (int i = 0; i < row_points; i++)
            rows[i][k] = found[i];
    }
    FASTCONV_UNROLL
    for (int i = 0; i < row_points; i++)
        NAME(transform_taps)(points, taps, to + i * points, rows[i]);
}

/* to[point * step][channel][row] = G g G^T for taps g[channel][tap][row], the last tap first if
 * they are turned; up to W - 1 numbers after the taps are read. */
FASTCONV_INLINE void NAME(block_body)(const int row_m, const int row_taps, const int m, const int taps,
                                      const T *g, ptrdiff_t rows, ptrdiff_t channels, int turned,
                                      T *to, ptrdiff_t step)
{
    const int all = row_taps * taps, points = POINTS(row_m, row_taps) * POINTS(m, taps);
    vec found[MOST * MOST];
    ptrdiff_t c = 0, pitch = turned ? -rows : rows;
    g += turned ? (all - 1) * rows : 0;
    if (2 * rows == W)
        for (; c + 2 <= channels; c += 2, to += W) {
            const T *some = g + c * all * rows;
            NAME(weights_body)(row_m, row_taps, m, taps, some, pitch, some + all * rows, found);
            FASTCONV_UNROLL
            for (int p = 0; p < points; p++)
                NAME(store)(to + p * step, found[p]);
        }
    for (; c < channels; c++)
        for (ptrdiff_t r = 0, n; r < rows; r += n, to += n) {
            n = rows - r < W ? rows - r : W;
            NAME(weights_body)(row_m, row_taps, m, taps, g + c * all * rows + r, pitch, NULL, found);
            if (n == W || c + 1 < channels - W / rows) /* the next ones overwrite what is too much */
                for (int p = 0; p < points; p++)
                    NAME(store)(to + p * step, found[p]);
            else
                for (int p = 0; p < points; p++)
                    memcpy(to + p * step, &found[p], (size_t)n * sizeof(T));
        }
}

FASTCONV_APART void NAME(transform_block)(ptrdiff_t form, const T *g, ptrdiff_t rows,
                                          ptrdiff_t channels, int turned, T *to, ptrdiff_t step)
{
    FASTCONV_BY_FORM(form, NAME(block_body), g, rows, channels, turned, to, step)
}

/* to[i][...] = line i of A^T s A + bias, tiles beside each other, m cells each; sums of a point are
 * `vectors` vectors, `step` further on than those of the one before. */
FASTCONV_INLINE void NAME(results_body)(const int row_m, const int row_taps, const int m,
                                        const int taps, const T *s, ptrdiff_t step,
                                        ptrdiff_t vectors, T bias, T *to, ptrdiff_t line)
{
    const int row_points = POINTS(row_m, row_taps), points = POINTS(m, taps);
    for (ptrdiff_t v = 0; v < vectors; v++, s += W, to += m * W) {
        vec rows[4][MOST];
        FASTCONV_UNROLL
        for (int j = 0; j < points; j++) {
            vec sums[MOST], found[4];
            FASTCONV_UNROLL
            for (int i = 0; i < row_points; i++)
                sums[i] = NAME(load)(s + (i * points + j) * step);
            NAME(transform_sums)(row_points, row_m, found, sums);
            FASTCONV_UNROLL
            for (int i = 0; i < row_m; i++)
                rows[i][j] = found[i];
        }
        FASTCONV_UNROLL
        for (int i = 0; i < row_m; i++) {
            vec cells[4];
            NAME(transform_sums)(points, m, cells, rows[i]);
            FASTCONV_UNROLL
            for (int j = 0; j < m; j++)
                cells[j] += bias;
            NAME(merge)(m, cells, to + i * line);
        }
    }
}

FASTCONV_APART void NAME(transform_results)(ptrdiff_t form, const T *s, ptrdiff_t step,
                                            ptrdiff_t vectors, T bias, T *to, ptrdiff_t line)
{
    FASTCONV_BY_FORM(form, NAME(results_body), s, step, vectors, bias, to, line)
}

/* to[i] = source[i * step] for i < n; step is 2 or 4. Up to W - 1 numbers after them are written. */
FASTCONV_INLINE void NAME(pick_body)(const int step, T *to, const T *source, ptrdiff_t n)
{
    for (; n > 0; n -= W, to += W, source += step * W) {
        const ptrdiff_t left = (n - 1) * step + 1;
        vec some[4];
        FASTCONV_UNROLL
        for (int i = 0; i < step; i++) {
            const ptrdiff_t size = left - i * W;
            some[i] = size >= W  ? NAME(load)(source + i * W)
                      : size > 0 ? NAME(load_part)(source + i * W, size)
                                 : (vec){0};
        }
        FASTCONV_UNROLL
        for (int count = step; count > 1; count /= 2)
            for (int i = 0; i < count / 2; i++)
                some[i] = NAME(every_other)(some[2 * i], some[2 * i + 1], 0);
        NAME(store)(to, some[0]);
    }
}

FASTCONV_APART void NAME(pick)(T *to, const T *source, ptrdiff_t step, ptrdiff_t n)
{
    if (step == 1)
        NAME(pick_body)(1, to, source, n);
    else if (step == 2)
        NAME(pick_body)(2, to, source, n);
    else if (step == 4)
        NAME(pick_body)(4, to, source, n);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            to[i] = source[i * step];
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
#undef MOST
#undef T
#undef NAME
#undef W
#undef vec
#endif
