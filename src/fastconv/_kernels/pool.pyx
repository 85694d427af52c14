# cython: language_level=3
# The caller guarantees every size (see _pooling.py), so indices are neither tested nor wrapped, and
# cdivision saves the test for a divisor of 0: strides are at least 1.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernels of pooling: maximum, its index and average of windows, and the gradients.

They work on the image itself. Two forms serve any layout, and give the same bits, since both
reduce a window first along its outer axes and then along the last:

by rows (neighbours of the last axis lie together, NCHW)::

    image rows of the window      ->  line: their maximum, cell by cell  ->  best: every stride-th
      x x x x x x x x x                                                       cell with its K - 1
      x x x x x x x x x               - m m m m m m m m m -                   neighbours
      x x x x x x x x x               pad                pad                  b   b   b   b   b

by channels (neighbours of the channel axis lie together, NHWC): the same for one output position
at a time and a block of channels at once.

A "row" of positions is an index of all axes but the last.
"""

cimport numpy as cnp
from cython cimport floating
from libc.math cimport INFINITY, NAN
from libc.string cimport memcpy

cnp.import_array()

cdef enum:
    MAX_RANK = 64
    CHANNELS = 256  # a block: four arrays of it stay in first-level cache

# The sizes of one call; strides count elements. The positions are the rows row_begin .. row_end, of
# each the columns col_begin .. col_end (of the last axis).
cdef struct Pooling:
    Py_ssize_t samples
    Py_ssize_t channels
    Py_ssize_t last                  # the last axis: rank - 1
    const Py_ssize_t *in_shape
    const Py_ssize_t *kernel_size
    const Py_ssize_t *stride
    const Py_ssize_t *pad            # before the first cell
    const Py_ssize_t *dilation
    const Py_ssize_t *out_shape
    const Py_ssize_t *x_strides      # of x: sample, channel, axes
    const Py_ssize_t *y_strides      # of out or dout, likewise
    const Py_ssize_t *tap_strides    # of the taps, likewise
    const Py_ssize_t *counted        # an average's divisor counts the cells from here, an axis,
    const Py_ssize_t *counted_end    # to before here
    Py_ssize_t row_begin
    Py_ssize_t row_end
    Py_ssize_t col_begin
    Py_ssize_t col_end


cdef inline floating larger(floating v, floating best) noexcept nogil:
    """The later value if it is larger or NaN: a NaN stays, and the first of equal values."""
    return v if (v > best) | (v != v) else best


# --- rows and windows -------------------------------------------------------------------------


cdef inline void set_row(const Pooling *g, Py_ssize_t row, Py_ssize_t *o) noexcept nogil:
    """o = the index of the row-th row of positions."""
    cdef Py_ssize_t axis
    for axis in range(g.last - 1, -1, -1):
        o[axis] = row % g.out_shape[axis]
        row //= g.out_shape[axis]


cdef inline Py_ssize_t list_rows(
    const Pooling *g, const Py_ssize_t *o, Py_ssize_t *rows, Py_ssize_t *numbers
) noexcept nogil:
    """rows = where the rows of x under window o begin, in order, and their numbers among all.

    Returns how many there are.
    """
    cdef Py_ssize_t k[MAX_RANK]
    cdef Py_ssize_t axis, i, at, number = 0, count = 0
    cdef bint inside
    for axis in range(g.last):
        k[axis] = 0
    while True:
        at = 0
        inside = True
        for axis in range(g.last):
            i = o[axis] * g.stride[axis] - g.pad[axis] + k[axis] * g.dilation[axis]
            if i < 0 or i >= g.in_shape[axis]:
                inside = False
                break
            at += i * g.x_strides[2 + axis]
        if inside:
            rows[count] = at
            numbers[count] = number
            count += 1
        number += 1
        axis = g.last - 1
        while axis >= 0:
            k[axis] += 1
            if k[axis] < g.kernel_size[axis]:
                break
            k[axis] = 0
            axis -= 1
        if axis < 0:
            return count


cdef inline Py_ssize_t outer_taps(const Pooling *g) noexcept nogil:
    """The most rows that a window has."""
    cdef Py_ssize_t axis, product = 1
    for axis in range(g.last):
        product *= g.kernel_size[axis]
    return product


cdef inline Py_ssize_t row_offset(
    const Pooling *g, const Py_ssize_t *o, const Py_ssize_t *axis_stride
) noexcept nogil:
    """Where row o of positions begins."""
    cdef Py_ssize_t axis, at = 0
    for axis in range(g.last):
        at += o[axis] * axis_stride[axis]
    return at


cdef inline Py_ssize_t cells_counted(
    const Pooling *g, Py_ssize_t axis, Py_ssize_t o
) noexcept nogil:
    """How many of the cells of window o count along this axis."""
    cdef Py_ssize_t d = g.dilation[axis]
    cdef Py_ssize_t start = o * g.stride[axis] - g.pad[axis]
    cdef Py_ssize_t low = max(g.counted[axis] - start + d - 1, 0) // d
    cdef Py_ssize_t high = (g.counted_end[axis] - 1 - start) // d + 1
    return min(high, g.kernel_size[axis]) - low


cdef inline double outer_divisor(const Pooling *g, const Py_ssize_t *o) noexcept nogil:
    """The divisor of all axes but the last."""
    cdef Py_ssize_t axis
    cdef double product = 1
    for axis in range(g.last):
        product *= cells_counted(g, axis, o[axis])
    return product


# The cells of the last axis that a call's columns reach: cell first + j is element j of a line;
# low <= j < high lie in the image.
cdef struct Span:
    Py_ssize_t first
    Py_ssize_t low
    Py_ssize_t high
    Py_ssize_t columns               # to compute: with stride 1 or 2, whole vectors


cdef inline Span span_of(const Pooling *g) noexcept nogil:
    cdef Span span
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t end = (
        (g.col_end - 1) * g.stride[w] + (g.kernel_size[w] - 1) * g.dilation[w] + 1 - g.pad[w]
    )
    span.first = g.col_begin * g.stride[w] - g.pad[w]
    span.low = max(-span.first, 0)
    span.high = min(end, g.in_shape[w]) - span.first
    span.columns = g.col_end - g.col_begin
    if g.stride[w] <= 2 and g.dilation[w] == 1:
        span.columns = (span.columns + 15) // 16 * 16
    return span


cdef inline Py_ssize_t line_length(const Pooling *g, Span span) noexcept nogil:
    cdef Py_ssize_t w = g.last
    return (span.columns - 1) * g.stride[w] + (g.kernel_size[w] - 1) * g.dilation[w] + 1


cdef inline void fill(floating *line, Py_ssize_t size, floating value) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(size):
        line[j] = value


cdef inline void fill_inner(const Pooling *g, floating *inner, Py_ssize_t columns) noexcept nogil:
    """inner = the last axis's divisors of the columns, 1 where a row is rounded up."""
    cdef Py_ssize_t ow
    fill(inner, columns, <floating> 1)
    for ow in range(g.col_end - g.col_begin):
        inner[ow] = <floating> cells_counted(g, g.last, g.col_begin + ow)


# --- by rows: the steps -----------------------------------------------------------------------
# `step` is the distance of neighbours in the image, `m` the cells of a row that are in the line.


cdef inline void copy_cells(
    const floating *x, Py_ssize_t step, Py_ssize_t m, floating *line
) noexcept nogil:
    cdef Py_ssize_t j
    if step == 1:
        memcpy(line, x, m * sizeof(floating))
    else:
        for j in range(m):
            line[j] = x[j * step]


cdef inline void max_cells(
    const floating *x, Py_ssize_t step, Py_ssize_t m, floating *line
) noexcept nogil:
    cdef Py_ssize_t j
    if step == 1:
        for j in range(m):
            line[j] = larger(x[j], line[j])
    else:
        for j in range(m):
            line[j] = larger(x[j * step], line[j])


cdef inline void max_two(
    const floating *x, const floating *next, Py_ssize_t m, floating *line
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(m):
        line[j] = larger(next[j], x[j])


cdef inline void add_cells(
    const floating *x, Py_ssize_t step, Py_ssize_t m, floating *line
) noexcept nogil:
    cdef Py_ssize_t j
    if step == 1:
        for j in range(m):
            line[j] += x[j]
    else:
        for j in range(m):
            line[j] += x[j * step]


cdef inline void max_rows(
    const floating *x, const Py_ssize_t *rows, Py_ssize_t count, Py_ssize_t step, Py_ssize_t m,
    floating *line,
) noexcept nogil:
    """line[j] = the maximum of cell j of the rows."""
    cdef Py_ssize_t j = 1
    if count > 1 and step == 1:  # a pass less: 1.3 times as fast at 3x3
        max_two(x + rows[0], x + rows[1], m, line)
        j = 2
    else:
        copy_cells(x + rows[0], step, m, line)
    for j in range(j, count):
        max_cells(x + rows[j], step, m, line)


cdef inline void add_rows(
    const floating *x, const Py_ssize_t *rows, Py_ssize_t count, Py_ssize_t step, Py_ssize_t m,
    floating *line,
) noexcept nogil:
    """line[j] = the sum of cell j of the rows."""
    cdef Py_ssize_t j
    copy_cells(x + rows[0], step, m, line)
    for j in range(1, count):
        add_cells(x + rows[j], step, m, line)


cdef inline void max_across_by(
    const floating *line, floating *best, Py_ssize_t n, Py_ssize_t s, Py_ssize_t d, Py_ssize_t K
) noexcept nogil:
    cdef Py_ssize_t o, k
    if K == 1:
        for o in range(n):
            best[o] = line[o * s]
    elif K == 2:
        for o in range(n):
            best[o] = larger(line[o * s + d], line[o * s])
    else:
        for o in range(n):
            best[o] = larger(line[o * s + 2 * d], larger(line[o * s + d], line[o * s]))
    for k in range(3, K):
        for o in range(n):
            best[o] = larger(line[o * s + k * d], best[o])


cdef inline void max_across(
    const Pooling *g, const floating *line, floating *best, Py_ssize_t n
) noexcept nogil:
    """best[o] = the maximum of line[o*stride + k*dilation] over k."""
    cdef Py_ssize_t s = g.stride[g.last]
    cdef Py_ssize_t d = g.dilation[g.last]
    cdef Py_ssize_t K = g.kernel_size[g.last]
    if d == 1 and s == 1:  # constants, so that the compiler can load by shuffles
        max_across_by(line, best, n, 1, 1, K)
    elif d == 1 and s == 2:
        max_across_by(line, best, n, 2, 1, K)
    else:
        max_across_by(line, best, n, s, d, K)


cdef inline void add_across_by(
    const floating *line, floating *sums, Py_ssize_t n, Py_ssize_t s, Py_ssize_t d, Py_ssize_t K
) noexcept nogil:
    cdef Py_ssize_t o, k
    if K == 1:
        for o in range(n):
            sums[o] = line[o * s]
    elif K == 2:
        for o in range(n):
            sums[o] = line[o * s] + line[o * s + d]
    else:
        for o in range(n):
            sums[o] = line[o * s] + line[o * s + d] + line[o * s + 2 * d]
    for k in range(3, K):
        for o in range(n):
            sums[o] += line[o * s + k * d]


cdef inline void add_across(
    const Pooling *g, const floating *line, floating *sums, Py_ssize_t n
) noexcept nogil:
    """sums[o] = the sum of line[o*stride + k*dilation] over k."""
    cdef Py_ssize_t s = g.stride[g.last]
    cdef Py_ssize_t d = g.dilation[g.last]
    cdef Py_ssize_t K = g.kernel_size[g.last]
    if d == 1 and s == 1:
        add_across_by(line, sums, n, 1, 1, K)
    elif d == 1 and s == 2:
        add_across_by(line, sums, n, 2, 1, K)
    else:
        add_across_by(line, sums, n, s, d, K)


cdef inline void find_across_by(
    const floating *line, const floating *best, int *taps, Py_ssize_t n, int tap,
    Py_ssize_t s, Py_ssize_t d, Py_ssize_t K,
) noexcept nogil:
    cdef Py_ssize_t o, k
    cdef floating value
    cdef int found
    if K == 3:
        for o in range(n):
            value = best[o]
            found = taps[o]
            found = tap + 2 if line[o * s + 2 * d] >= value else found
            found = tap + 1 if line[o * s + d] >= value else found
            found = tap if line[o * s] >= value else found
            taps[o] = found
        return
    if K == 2:
        for o in range(n):
            value = best[o]
            found = tap + 1 if line[o * s + d] >= value else taps[o]
            taps[o] = tap if line[o * s] >= value else found
        return
    for k in range(K - 1, -1, -1):
        for o in range(n):
            taps[o] = <int> (tap + k) if line[o * s + k * d] >= best[o] else taps[o]


cdef inline void find_across(
    const Pooling *g, const floating *line, const floating *best, int *taps, Py_ssize_t n, int tap
) noexcept nogil:
    """taps[o] = tap + k for the least k with line[o*stride + k*dilation] >= best[o], if any."""
    cdef Py_ssize_t s = g.stride[g.last]
    cdef Py_ssize_t d = g.dilation[g.last]
    cdef Py_ssize_t K = g.kernel_size[g.last]
    if d == 1 and s == 1:
        find_across_by(line, best, taps, n, tap, 1, 1, K)
    elif d == 1 and s == 2:
        find_across_by(line, best, taps, n, tap, 2, 1, K)
    else:
        find_across_by(line, best, taps, n, tap, s, d, K)


cdef inline bint has_nan(const floating *best, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t o
    cdef int found = 0
    for o in range(n):
        found |= best[o] != best[o]
    return found


cdef inline int first_nan(
    const Pooling *g, const floating *x, const Py_ssize_t *rows, const Py_ssize_t *numbers,
    Py_ssize_t count, Py_ssize_t ow,
) noexcept nogil:
    """The tap of the first NaN in a window that has one."""
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t j, k, i
    cdef floating value
    for j in range(count):
        for k in range(g.kernel_size[w]):
            i = ow * g.stride[w] - g.pad[w] + k * g.dilation[w]
            if 0 <= i < g.in_shape[w]:
                value = x[rows[j] + i * g.x_strides[2 + w]]
                if value != value:
                    return <int> (numbers[j] * g.kernel_size[w] + k)
    return 0


# --- taps -------------------------------------------------------------------------------------
# A tap is the number of a cell of a window, in row-major order over the kernel. Those of the maxima
# are kept as unsigned char if a window has no more than 256, else as int.

cdef struct Taps:
    unsigned char *narrow
    int *wide


cdef inline void keep_taps(
    Taps kept, Py_ssize_t at, Py_ssize_t step, const int *taps, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t o
    if kept.narrow is not NULL and step == 1:
        for o in range(n):
            kept.narrow[at + o] = <unsigned char> taps[o]
    elif kept.narrow is not NULL:
        for o in range(n):
            kept.narrow[at + o * step] = <unsigned char> taps[o]
    else:
        for o in range(n):
            kept.wide[at + o * step] = taps[o]


cdef inline void load_taps(
    Taps kept, Py_ssize_t at, Py_ssize_t step, int *taps, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t o
    if kept.narrow is not NULL and step == 1:
        for o in range(n):
            taps[o] = kept.narrow[at + o]
    elif kept.narrow is not NULL:
        for o in range(n):
            taps[o] = kept.narrow[at + o * step]
    else:
        for o in range(n):
            taps[o] = kept.wide[at + o * step]


# --- by rows: the kernels ---------------------------------------------------------------------
# `room` has two lines and twice `columns` elements, these rounded up to 16 with stride 1 or 2 and
# no dilation; `rows` twice as many elements as a window has rows; `taps` as many as `columns`.


cdef void max_by_rows(
    const Pooling *g, const floating *x, floating *out, Taps kept, floating *room,
    Py_ssize_t *rows, int *taps,
) noexcept nogil:
    """out[n, c, o...] = the maximum of x[n, c, o*stride - pad + k*dilation] over k, inside x.

    `kept` gets the first k that has it, unless it has no memory.
    """
    cdef Py_ssize_t w = g.last
    cdef Span span = span_of(g)
    cdef Py_ssize_t length = line_length(g, span)
    cdef Py_ssize_t step = g.x_strides[2 + w]
    cdef Py_ssize_t K = g.kernel_size[w]
    cdef Py_ssize_t m = span.high - span.low
    cdef bint keep = kept.narrow is not NULL or kept.wide is not NULL
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, j, count, at
    cdef Py_ssize_t *numbers = rows + outer_taps(g)
    cdef floating *line = room
    cdef floating *cells = room + length
    cdef floating *best = cells + length
    cdef floating *y
    cdef const floating *image
    cdef const floating *inside
    fill(line, length, <floating> -INFINITY)
    fill(cells, length, <floating> NAN)  # no comparison finds padding, even where all is -inf
    for ow in range(span.columns):
        taps[ow] = 0
    for n in range(g.samples):
        for c in range(g.channels):
            image = x + n * g.x_strides[0] + c * g.x_strides[1]
            inside = image + (span.first + span.low) * step
            for row in range(g.row_begin, g.row_end):
                set_row(g, row, o)
                count = list_rows(g, o, rows, numbers)
                max_rows(inside, rows, count, step, m, line + span.low)
                max_across(g, line, best, span.columns)
                at = n * g.y_strides[0] + c * g.y_strides[1] + g.col_begin * g.y_strides[2 + w]
                y = out + at + row_offset(g, o, g.y_strides + 2)
                for ow in range(g.col_end - g.col_begin):
                    y[ow * g.y_strides[2 + w]] = best[ow]
                if not keep:
                    continue
                for j in range(count - 1, -1, -1):
                    copy_cells(inside + rows[j], step, m, cells + span.low)
                    find_across(g, cells, best, taps, span.columns, <int> (numbers[j] * K))
                if has_nan(best, span.columns):
                    for ow in range(g.col_end - g.col_begin):
                        if best[ow] != best[ow]:
                            taps[ow] = first_nan(g, image, rows, numbers, count, g.col_begin + ow)
                at = (n * g.tap_strides[0] + c * g.tap_strides[1]
                      + g.col_begin * g.tap_strides[2 + w] + row_offset(g, o, g.tap_strides + 2))
                keep_taps(kept, at, g.tap_strides[2 + w], taps, g.col_end - g.col_begin)


cdef void average_by_rows(
    const Pooling *g, const floating *x, floating *out,
    floating *room, Py_ssize_t *rows,
) noexcept nogil:
    """out[n, c, o...] = the sum of x[n, c, o*stride - pad + k*dilation] over k, by the divisor."""
    cdef Py_ssize_t w = g.last
    cdef Span span = span_of(g)
    cdef Py_ssize_t length = line_length(g, span)
    cdef Py_ssize_t step = g.x_strides[2 + w]
    cdef Py_ssize_t *numbers = rows + outer_taps(g)
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, count, at
    cdef floating outer
    cdef floating *line = room
    cdef floating *sums = room + length
    cdef floating *inner = sums + span.columns
    cdef floating *y
    cdef const floating *image
    fill(line, length, <floating> -0.0)  # -0 + a = a, also for a = -0
    fill_inner(g, inner, span.columns)
    for n in range(g.samples):
        for c in range(g.channels):
            image = x + n * g.x_strides[0] + c * g.x_strides[1] + (span.first + span.low) * step
            at = n * g.y_strides[0] + c * g.y_strides[1] + g.col_begin * g.y_strides[2 + w]
            for row in range(g.row_begin, g.row_end):
                set_row(g, row, o)
                count = list_rows(g, o, rows, numbers)
                outer = <floating> outer_divisor(g, o)
                add_rows(image, rows, count, step, span.high - span.low, line + span.low)
                add_across(g, line, sums, span.columns)
                for ow in range(span.columns):
                    sums[ow] /= outer * inner[ow]
                y = out + at + row_offset(g, o, g.y_strides + 2)
                for ow in range(g.col_end - g.col_begin):
                    y[ow * g.y_strides[2 + w]] = sums[ow]


cdef inline void locate_taps(const Pooling *g, Py_ssize_t *offsets) noexcept nogil:
    """offsets[t] = where tap t is from the first cell of its window."""
    cdef Py_ssize_t t, rest, axis
    for t in range(outer_taps(g) * g.kernel_size[g.last]):
        rest = t
        offsets[t] = 0
        for axis in range(g.last, -1, -1):
            offsets[t] += (
                rest % g.kernel_size[axis] * g.dilation[axis] * g.x_strides[2 + axis]
            )
            rest //= g.kernel_size[axis]


cdef inline Py_ssize_t window_offset(const Pooling *g, const Py_ssize_t *o) noexcept nogil:
    """Where the windows of row o begin, but for the last axis; padding lies at negative places."""
    cdef Py_ssize_t axis, at = 0
    for axis in range(g.last):
        at += (o[axis] * g.stride[axis] - g.pad[axis]) * g.x_strides[2 + axis]
    return at


cdef void send_by_rows(
    const Pooling *g, Taps kept, const floating *dout, floating *dx, Py_ssize_t *offsets, int *taps
) noexcept nogil:
    """dx[n, c, o*stride - pad + k*dilation] += dout[n, c, o...], k the tap that is kept.

    The strides of dx are those of x. `offsets` has as many elements as a window has cells.
    """
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t move = g.stride[w] * g.x_strides[2 + w]
    cdef Py_ssize_t y_step = g.y_strides[2 + w]
    cdef Py_ssize_t columns = g.col_end - g.col_begin
    cdef Py_ssize_t first = (g.col_begin * g.stride[w] - g.pad[w]) * g.x_strides[2 + w]
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, at
    cdef floating *image
    cdef const floating *y
    cdef const unsigned char *narrow
    locate_taps(g, offsets)
    for n in range(g.samples):
        for c in range(g.channels):
            for row in range(g.row_begin, g.row_end):
                set_row(g, row, o)
                at = (n * g.tap_strides[0] + c * g.tap_strides[1]
                      + g.col_begin * g.tap_strides[2 + w] + row_offset(g, o, g.tap_strides + 2))
                image = (dx + n * g.x_strides[0] + c * g.x_strides[1] + window_offset(g, o)
                         + first)
                y = (dout + n * g.y_strides[0] + c * g.y_strides[1] + g.col_begin * y_step
                     + row_offset(g, o, g.y_strides + 2))
                if kept.narrow is not NULL and g.tap_strides[2 + w] == 1 and y_step == 1:
                    narrow = kept.narrow + at
                    for ow in range(columns):
                        image[offsets[narrow[ow]] + ow * move] += y[ow]
                else:
                    load_taps(kept, at, g.tap_strides[2 + w], taps, columns)
                    for ow in range(columns):
                        image[offsets[taps[ow]] + ow * move] += y[ow * y_step]


cdef bint taps_fit(const Pooling *g, Taps kept) noexcept nogil:
    """Whether every tap that is kept is one of a cell inside x."""
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t cells = outer_taps(g) * g.kernel_size[w]
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, at, low, high
    cdef bint whole
    cdef const unsigned char *narrow
    cdef unsigned char most
    # low <= ow < high: the columns whose windows lie inside along the last axis
    low = min(max((g.pad[w] + g.stride[w] - 1) // g.stride[w], g.col_begin), g.col_end)
    high = g.in_shape[w] + g.pad[w] - (g.kernel_size[w] - 1) * g.dilation[w] - 1
    high = 0 if high < 0 else high // g.stride[w] + 1
    high = max(min(high, g.col_end), low)
    for row in range(g.row_begin, g.row_end):
        set_row(g, row, o)
        whole = row_is_whole(g, o)
        for n in range(g.samples):
            for c in range(g.channels):
                at = (n * g.tap_strides[0] + c * g.tap_strides[1]
                      + row_offset(g, o, g.tap_strides + 2))
                if not (whole and kept.narrow is not NULL and g.tap_strides[2 + w] == 1):
                    for ow in range(g.col_begin, g.col_end):
                        if not tap_fits(g, kept, at, o, ow):
                            return False
                    continue
                for ow in range(g.col_begin, low):
                    if not tap_fits(g, kept, at, o, ow):
                        return False
                for ow in range(high, g.col_end):
                    if not tap_fits(g, kept, at, o, ow):
                        return False
                narrow = kept.narrow + at
                most = 0
                for ow in range(low, high):
                    most = max(most, narrow[ow])
                if most >= cells:
                    return False
    return True


cdef inline bint row_is_whole(const Pooling *g, const Py_ssize_t *o) noexcept nogil:
    """Whether the windows of row o lie inside x along all axes but the last."""
    cdef Py_ssize_t axis, start
    for axis in range(g.last):
        start = o[axis] * g.stride[axis] - g.pad[axis]
        if start < 0 or start + (g.kernel_size[axis] - 1) * g.dilation[axis] >= g.in_shape[axis]:
            return False
    return True


cdef inline bint tap_fits(
    const Pooling *g, Taps kept, Py_ssize_t at, const Py_ssize_t *o, Py_ssize_t ow
) noexcept nogil:
    """Whether the tap at column ow of row o is one of a cell inside x."""
    cdef Py_ssize_t axis, i, rest
    at += ow * g.tap_strides[2 + g.last]
    rest = kept.wide[at] if kept.narrow is NULL else kept.narrow[at]
    if rest < 0:
        return False
    for axis in range(g.last, -1, -1):
        i = ow if axis == g.last else o[axis]
        i = i * g.stride[axis] - g.pad[axis] + rest % g.kernel_size[axis] * g.dilation[axis]
        if i < 0 or i >= g.in_shape[axis]:
            return False
        rest //= g.kernel_size[axis]
    return rest == 0


cdef void spread_by_rows(
    const Pooling *g, const floating *dout, floating *dx,
    floating *room, Py_ssize_t *rows,
) noexcept nogil:
    """dx[n, c, o*stride - pad + k*dilation] += dout[n, c, o...] by the divisor, inside x.

    The strides of dx are those of x.
    """
    cdef Py_ssize_t w = g.last
    cdef Span span = span_of(g)
    cdef Py_ssize_t length = line_length(g, span)
    cdef Py_ssize_t step = g.x_strides[2 + w]
    cdef Py_ssize_t y_step = g.y_strides[2 + w]
    cdef Py_ssize_t *numbers = rows + outer_taps(g)
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, j, k, i, count, y
    cdef floating outer
    cdef floating *line = room
    cdef floating *parts = room + length
    cdef floating *inner = parts + span.columns
    cdef floating *image
    fill_inner(g, inner, span.columns)
    for n in range(g.samples):
        for c in range(g.channels):
            image = dx + n * g.x_strides[0] + c * g.x_strides[1] + (span.first + span.low) * step
            for row in range(g.row_begin, g.row_end):
                set_row(g, row, o)
                count = list_rows(g, o, rows, numbers)
                outer = <floating> outer_divisor(g, o)
                y = (n * g.y_strides[0] + c * g.y_strides[1] + g.col_begin * y_step
                     + row_offset(g, o, g.y_strides + 2))
                for ow in range(g.col_end - g.col_begin):
                    parts[ow] = dout[y + ow * y_step] / (outer * inner[ow])
                fill(line, length, <floating> 0)
                for k in range(g.kernel_size[w]):
                    i = k * g.dilation[w]
                    if g.stride[w] == 1:
                        for ow in range(g.col_end - g.col_begin):
                            line[i + ow] += parts[ow]
                    elif g.stride[w] == 2:
                        for ow in range(g.col_end - g.col_begin):
                            line[i + 2 * ow] += parts[ow]
                    else:
                        for ow in range(g.col_end - g.col_begin):
                            line[i + ow * g.stride[w]] += parts[ow]
                for j in range(count):
                    if step == 1:
                        for i in range(span.high - span.low):
                            image[rows[j] + i] += line[span.low + i]
                    else:
                        for i in range(span.high - span.low):
                            image[rows[j] + i * step] += line[span.low + i]


# --- by channels ------------------------------------------------------------------------------
# The channels' stride in x is 1. Each kernel does for one position and a block of channels what its
# twin does for a row of positions.


cdef inline Py_ssize_t blocks(const Pooling *g) noexcept nogil:
    return (g.channels + CHANNELS - 1) // CHANNELS


cdef inline void max_block(
    const Pooling *g, const floating *x, const Py_ssize_t *rows, Py_ssize_t count,
    Py_ssize_t ow, Py_ssize_t block, floating *best,
) noexcept nogil:
    """best[c] = the maximum of the window at column ow."""
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t k, i, j, c
    cdef floating column[CHANNELS]
    cdef const floating *cell
    for c in range(block):
        best[c] = <floating> -INFINITY
    for k in range(g.kernel_size[w]):
        i = ow * g.stride[w] - g.pad[w] + k * g.dilation[w]
        if i < 0 or i >= g.in_shape[w]:
            continue
        cell = x + rows[0] + i * g.x_strides[2 + w]
        for c in range(block):
            column[c] = cell[c]
        for j in range(1, count):
            cell = x + rows[j] + i * g.x_strides[2 + w]
            for c in range(block):
                column[c] = larger(cell[c], column[c])
        for c in range(block):
            best[c] = larger(column[c], best[c])


cdef inline void max_taps_block(
    const Pooling *g, const floating *x, const Py_ssize_t *rows, const Py_ssize_t *numbers,
    Py_ssize_t count, Py_ssize_t ow, Py_ssize_t block, int *taps,
) noexcept nogil:
    """taps[c] = the first tap of the window's maximum at column ow."""
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t K = g.kernel_size[w]
    cdef Py_ssize_t k, i, j, c
    cdef int tap
    cdef bint begun = False
    cdef bint later
    cdef floating value
    cdef floating best[CHANNELS]
    cdef const floating *cell
    for j in range(count):
        for k in range(K):
            i = ow * g.stride[w] - g.pad[w] + k * g.dilation[w]
            if i < 0 or i >= g.in_shape[w]:
                continue
            cell = x + rows[j] + i * g.x_strides[2 + w]
            tap = <int> (numbers[j] * K + k)
            if not begun:
                for c in range(block):
                    best[c] = cell[c]
                    taps[c] = tap
                begun = True
                continue
            for c in range(block):
                value = cell[c]
                later = (not value <= best[c]) & (best[c] == best[c])
                taps[c] = tap if later else taps[c]
                best[c] = value if later else best[c]


cdef void max_by_channels(
    const Pooling *g, const floating *x, floating *out, Taps kept, Py_ssize_t *rows
) noexcept nogil:
    """As max_by_rows."""
    cdef Py_ssize_t w = g.last
    cdef bint keep = kept.narrow is not NULL or kept.wide is not NULL
    cdef Py_ssize_t *numbers = rows + outer_taps(g)
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, count, index, first, block, at
    cdef floating best[CHANNELS]
    cdef int taps[CHANNELS]
    cdef const floating *image
    cdef floating *y
    for n in range(g.samples):
        for row in range(g.row_begin, g.row_end):
            set_row(g, row, o)
            count = list_rows(g, o, rows, numbers)
            for ow in range(g.col_begin, g.col_end):
                for index in range(blocks(g)):
                    first = index * CHANNELS
                    block = min(g.channels - first, CHANNELS)
                    image = x + n * g.x_strides[0] + first
                    max_block(g, image, rows, count, ow, block, best)
                    y = (out + n * g.y_strides[0] + first * g.y_strides[1]
                         + ow * g.y_strides[2 + w] + row_offset(g, o, g.y_strides + 2))
                    for c in range(block):
                        y[c * g.y_strides[1]] = best[c]
                    if not keep:
                        continue
                    max_taps_block(g, image, rows, numbers, count, ow, block, taps)
                    at = (n * g.tap_strides[0] + first * g.tap_strides[1]
                          + ow * g.tap_strides[2 + w] + row_offset(g, o, g.tap_strides + 2))
                    keep_taps(kept, at, g.tap_strides[1], taps, block)


cdef void average_by_channels(
    const Pooling *g, const floating *x, floating *out,
    Py_ssize_t *rows,
) noexcept nogil:
    """As average_by_rows."""
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t *numbers = rows + outer_taps(g)
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, k, i, j, count, index, first, block
    cdef floating column[CHANNELS]
    cdef floating sums[CHANNELS]
    cdef floating outer, inner
    cdef const floating *cell
    cdef floating *y
    for n in range(g.samples):
        for row in range(g.row_begin, g.row_end):
            set_row(g, row, o)
            count = list_rows(g, o, rows, numbers)
            outer = <floating> outer_divisor(g, o)
            for ow in range(g.col_begin, g.col_end):
                inner = <floating> cells_counted(g, w, ow)
                y = (out + n * g.y_strides[0] + row_offset(g, o, g.y_strides + 2)
                     + ow * g.y_strides[2 + w])
                for index in range(blocks(g)):
                    first = index * CHANNELS
                    block = min(g.channels - first, CHANNELS)
                    for c in range(block):
                        sums[c] = -0.0
                    for k in range(g.kernel_size[w]):
                        i = ow * g.stride[w] - g.pad[w] + k * g.dilation[w]
                        if i < 0 or i >= g.in_shape[w]:
                            continue
                        cell = (x + n * g.x_strides[0] + first + rows[0]
                                + i * g.x_strides[2 + w])
                        for c in range(block):
                            column[c] = cell[c]
                        for j in range(1, count):
                            cell = (x + n * g.x_strides[0] + first + rows[j]
                                    + i * g.x_strides[2 + w])
                            for c in range(block):
                                column[c] += cell[c]
                        for c in range(block):
                            sums[c] += column[c]
                    for c in range(block):
                        y[(first + c) * g.y_strides[1]] = sums[c] / (outer * inner)


cdef void send_by_channels(
    const Pooling *g, Taps kept, const floating *dout, floating *dx, Py_ssize_t *offsets
) noexcept nogil:
    """As send_by_rows."""
    cdef Py_ssize_t w = g.last
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, at, index, first, block
    cdef int taps[CHANNELS]
    cdef floating *image
    cdef const floating *y
    locate_taps(g, offsets)
    for n in range(g.samples):
        for row in range(g.row_begin, g.row_end):
            set_row(g, row, o)
            for ow in range(g.col_begin, g.col_end):
                for index in range(blocks(g)):
                    first = index * CHANNELS
                    block = min(g.channels - first, CHANNELS)
                    at = (n * g.tap_strides[0] + first * g.tap_strides[1]
                          + ow * g.tap_strides[2 + w] + row_offset(g, o, g.tap_strides + 2))
                    load_taps(kept, at, g.tap_strides[1], taps, block)
                    image = (dx + n * g.x_strides[0] + first + window_offset(g, o)
                             + (ow * g.stride[w] - g.pad[w]) * g.x_strides[2 + w])
                    y = (dout + n * g.y_strides[0] + first * g.y_strides[1]
                         + ow * g.y_strides[2 + w] + row_offset(g, o, g.y_strides + 2))
                    for c in range(block):
                        image[offsets[taps[c]] + c] += y[c * g.y_strides[1]]


cdef void spread_by_channels(
    const Pooling *g, const floating *dout, floating *dx,
    Py_ssize_t *rows,
) noexcept nogil:
    """As spread_by_rows."""
    cdef Py_ssize_t w = g.last
    cdef Span span = span_of(g)
    cdef Py_ssize_t *numbers = rows + outer_taps(g)
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, row, ow, k, i, j, count, index, first, block, y
    cdef floating outer, divisor
    cdef floating sums[CHANNELS]
    cdef floating *cell
    for n in range(g.samples):
        for row in range(g.row_begin, g.row_end):
            set_row(g, row, o)
            count = list_rows(g, o, rows, numbers)
            outer = <floating> outer_divisor(g, o)
            for i in range(span.first + span.low, span.first + span.high):
                for index in range(blocks(g)):
                    first = index * CHANNELS
                    block = min(g.channels - first, CHANNELS)
                    for c in range(block):
                        sums[c] = 0
                    for k in range(g.kernel_size[w]):
                        ow = i + g.pad[w] - k * g.dilation[w]
                        if ow < 0 or ow % g.stride[w]:
                            continue
                        ow //= g.stride[w]
                        if ow < g.col_begin or ow >= g.col_end:
                            continue
                        divisor = outer * <floating> cells_counted(g, w, ow)
                        y = (n * g.y_strides[0] + first * g.y_strides[1]
                             + ow * g.y_strides[2 + w] + row_offset(g, o, g.y_strides + 2))
                        for c in range(block):
                            sums[c] += dout[y + c * g.y_strides[1]] / divisor
                    for j in range(count):
                        cell = dx + n * g.x_strides[0] + first + rows[j] + i * g.x_strides[2 + w]
                        for c in range(block):
                            cell[c] += sums[c]


# --- by layout --------------------------------------------------------------------------------


cdef inline bint by_channels(const Pooling *g) noexcept nogil:
    return g.x_strides[1] == 1 and g.x_strides[2 + g.last] != 1


cdef inline void max_any(
    const Pooling *g, const floating *x, floating *out, Taps kept, floating *room,
    Py_ssize_t *rows, int *taps,
) noexcept nogil:
    if by_channels(g):
        max_by_channels(g, x, out, kept, rows)
    else:
        max_by_rows(g, x, out, kept, room, rows, taps)


cdef inline void send_any(
    const Pooling *g, Taps kept, const floating *dout, floating *dx, Py_ssize_t *offsets, int *taps
) noexcept nogil:
    if by_channels(g):
        send_by_channels(g, kept, dout, dx, offsets)
    else:
        send_by_rows(g, kept, dout, dx, offsets, taps)


cdef inline void average_any(
    const Pooling *g, const floating *x, floating *out, floating *room, Py_ssize_t *rows
) noexcept nogil:
    if by_channels(g):
        average_by_channels(g, x, out, rows)
    else:
        average_by_rows(g, x, out, room, rows)


cdef inline void spread_any(
    const Pooling *g, const floating *dout, floating *dx, floating *room, Py_ssize_t *rows
) noexcept nogil:
    if by_channels(g):
        spread_by_channels(g, dout, dx, rows)
    else:
        spread_by_rows(g, dout, dx, room, rows)


# --- for Python -------------------------------------------------------------------------------
# Arrays are float32 or float64, all of one dtype, aligned and native, of any strides; x and dx
# (N, C, *S), out and dout (N, C, *O). The rows of `sizes` (6, rank) are in_shape, kernel_size,
# stride, pad (before), dilation, out_shape; `part` is row_begin, row_end, col_begin, col_end; the
# rows of `counted` (2, rank) are where the cells that a divisor counts begin and end. `kept`, of
# uint8 or intc, has the shape of out. The rest is scratch, as long as the kernels say. The caller
# guarantees all of it.


cdef inline Py_ssize_t *integers(cnp.ndarray array) noexcept:
    return <Py_ssize_t *> cnp.PyArray_DATA(array)


cdef void fill_pooling(
    Pooling *g, Py_ssize_t *strides, cnp.ndarray x, cnp.ndarray y,
    cnp.ndarray sizes, (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) part,
) noexcept:
    """Put the sizes, and the strides of x and y in elements, into g; `strides` keeps the latter."""
    cdef Py_ssize_t rank = cnp.PyArray_DIM(sizes, 1)
    cdef const Py_ssize_t *table = integers(sizes)
    fill_strides(strides, x)
    fill_strides(strides + MAX_RANK, y)
    g.samples = cnp.PyArray_DIM(x, 0)
    g.channels = cnp.PyArray_DIM(x, 1)
    g.last = rank - 1
    g.in_shape = table
    g.kernel_size = table + rank
    g.stride = table + 2 * rank
    g.pad = table + 3 * rank
    g.dilation = table + 4 * rank
    g.out_shape = table + 5 * rank
    g.x_strides = strides
    g.y_strides = strides + MAX_RANK
    g.tap_strides = strides + 2 * MAX_RANK
    g.row_begin, g.row_end, g.col_begin, g.col_end = part


cdef void fill_strides(Py_ssize_t *strides, cnp.ndarray array) noexcept:
    cdef Py_ssize_t axis
    for axis in range(cnp.PyArray_NDIM(array)):
        strides[axis] = cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)


cdef Taps taps_of(cnp.ndarray kept, Py_ssize_t *strides):
    """The memory of `kept`, which may be None, and its strides."""
    cdef Taps taps
    taps.narrow = NULL
    taps.wide = NULL
    if kept is None:
        return taps
    fill_strides(strides, kept)
    if cnp.PyArray_TYPE(kept) == cnp.NPY_UINT8:
        taps.narrow = <unsigned char *> cnp.PyArray_DATA(kept)
    else:
        taps.wide = <int *> cnp.PyArray_DATA(kept)
    return taps


def max_forward(
    cnp.ndarray x not None, cnp.ndarray out not None, cnp.ndarray kept,
    cnp.ndarray sizes not None, (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) part,
    cnp.ndarray room not None, cnp.ndarray rows not None, cnp.ndarray taps not None,
):
    """out[n, c, o...] = the maximum of x[n, c, o*stride - pad + k*dilation] over k, inside x.

    kept[n, c, o...] = the number of the first k that has it; kept may be None.
    """
    cdef Pooling g
    cdef Py_ssize_t *cells = integers(rows)
    cdef int *columns = <int *> cnp.PyArray_DATA(taps)
    cdef Py_ssize_t strides[3 * MAX_RANK]
    cdef Taps keeping = taps_of(kept, strides + 2 * MAX_RANK)
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(out)
    cdef void *scratch = cnp.PyArray_DATA(room)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    fill_pooling(&g, strides, x, out, sizes, part)
    with nogil:
        if single:
            max_any(
                &g, <const float *> source, <float *> target, keeping, <float *> scratch,
                cells, columns,
            )
        else:
            max_any(
                &g, <const double *> source, <double *> target, keeping, <double *> scratch,
                cells, columns,
            )


def max_backward(
    cnp.ndarray kept not None, cnp.ndarray dout not None, cnp.ndarray dx not None,
    cnp.ndarray sizes not None, (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) part,
    cnp.ndarray rows not None, cnp.ndarray taps not None,
):
    """dx[n, c, o*stride - pad + k*dilation] += dout[n, c, o...], k the tap in kept."""
    cdef Pooling g
    cdef Py_ssize_t *cells = integers(rows)
    cdef int *columns = <int *> cnp.PyArray_DATA(taps)
    cdef Py_ssize_t strides[3 * MAX_RANK]
    cdef Taps keeping = taps_of(kept, strides + 2 * MAX_RANK)
    cdef void *source = cnp.PyArray_DATA(dout)
    cdef void *target = cnp.PyArray_DATA(dx)
    cdef bint single = cnp.PyArray_TYPE(dx) == cnp.NPY_FLOAT32
    fill_pooling(&g, strides, dx, dout, sizes, part)
    with nogil:
        if single:
            send_any(&g, keeping, <const float *> source, <float *> target, cells, columns)
        else:
            send_any(&g, keeping, <const double *> source, <double *> target, cells, columns)


def max_fits(
    cnp.ndarray kept not None, cnp.ndarray sizes not None,
    (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) part,
):
    """Whether every tap in kept is one of a cell inside x."""
    cdef Pooling g
    cdef Py_ssize_t strides[3 * MAX_RANK]
    cdef Taps keeping = taps_of(kept, strides + 2 * MAX_RANK)
    cdef bint fits
    fill_pooling(&g, strides, kept, kept, sizes, part)
    with nogil:
        fits = taps_fit(&g, keeping)
    return fits


def average_forward(
    cnp.ndarray x not None, cnp.ndarray out not None, cnp.ndarray sizes not None,
    (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) part, cnp.ndarray room not None,
    cnp.ndarray rows not None, cnp.ndarray counted not None,
):
    """out[n, c, o...] = the sum of x[n, c, o*stride - pad + k*dilation] over k, by the divisor."""
    cdef Pooling g
    cdef Py_ssize_t *cells = integers(rows)
    cdef Py_ssize_t strides[3 * MAX_RANK]
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(out)
    cdef void *scratch = cnp.PyArray_DATA(room)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    fill_pooling(&g, strides, x, out, sizes, part)
    g.counted = integers(counted)
    g.counted_end = g.counted + cnp.PyArray_DIM(counted, 1)
    with nogil:
        if single:
            average_any(
                &g, <const float *> source, <float *> target, <float *> scratch, cells
            )
        else:
            average_any(
                &g, <const double *> source, <double *> target, <double *> scratch, cells
            )


def average_backward(
    cnp.ndarray dout not None, cnp.ndarray dx not None, cnp.ndarray sizes not None,
    (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) part, cnp.ndarray room not None,
    cnp.ndarray rows not None, cnp.ndarray counted not None,
):
    """dx[n, c, o*stride - pad + k*dilation] += dout[n, c, o...] by the divisor, inside x."""
    cdef Pooling g
    cdef Py_ssize_t *cells = integers(rows)
    cdef Py_ssize_t strides[3 * MAX_RANK]
    cdef void *source = cnp.PyArray_DATA(dout)
    cdef void *target = cnp.PyArray_DATA(dx)
    cdef void *scratch = cnp.PyArray_DATA(room)
    cdef bint single = cnp.PyArray_TYPE(dx) == cnp.NPY_FLOAT32
    fill_pooling(&g, strides, dx, dout, sizes, part)
    g.counted = integers(counted)
    g.counted_end = g.counted + cnp.PyArray_DIM(counted, 1)
    with nogil:
        if single:
            spread_any(
                &g, <const float *> source, <float *> target, <float *> scratch, cells
            )
        else:
            spread_any(
                &g, <const double *> source, <double *> target, <double *> scratch, cells
            )
