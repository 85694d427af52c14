# cython: language_level=3
# The caller guarantees every size (see _engines/planes.py), so indices are neither tested nor
# wrapped, and cdivision saves the test for a divisor of 0: steps and counts are at least 1.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernels of the engine `depthwise`: each channel with filters of its own.

There is no product of matrices here, only planes: a unit of work copies a box of one plane after
the other into a scratch with its padding, and slides the filter over it::

    x          -> scratch               -> registers                -> out
    any strides   zeros around,            14 rows of results,
                  last axis by phase       a vector wide

All images have three axes here, the first of which may be of one cell. Result cells are taken by
phase, as the gradient of a strided convolution needs it: cell ``turn * phases + phase``, and each
phase has taps of its own. A convolution has one phase.
"""

cimport numpy as cnp
from cython cimport floating

from fastconv._kernels.simd cimport (
    ALIGNMENT, LANES_f32, LANES_f64, aligned, all_finite_f32, all_finite_f64, end_of, lanes_of,
    transpose,
)

cnp.import_array()

cdef extern from "depthwise.h" nogil:
    enum:
        DEPTHWISE_ROWS
        DEPTHWISE_SUMS
    void copy_rows_f32(
        float *, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *)
    void copy_rows_f64(
        double *, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *)
    void split_rows_f32(
        float *, float *, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
        const float *)
    void split_rows_f64(
        double *, double *, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
        const double *)
    void prefetch_rows_f32(const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void prefetch_rows_f64(const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void merge_rows_f32(
        float *, Py_ssize_t, const float *, const float *, Py_ssize_t, Py_ssize_t)
    void merge_rows_f64(
        double *, Py_ssize_t, const double *, const double *, Py_ssize_t, Py_ssize_t)
    void slide_f32(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t,
        const Py_ssize_t *, const float *, float *, Py_ssize_t, Py_ssize_t, const float *)
    void slide_f64(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, const double *, Py_ssize_t,
        const Py_ssize_t *, const double *, double *, Py_ssize_t, Py_ssize_t, const double *)
    void sum_f32(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t,
        Py_ssize_t, const Py_ssize_t *, Py_ssize_t, Py_ssize_t, float *)
    void sum_f64(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, const double *, Py_ssize_t,
        Py_ssize_t, const Py_ssize_t *, Py_ssize_t, Py_ssize_t, double *)
    void add_lanes_f32(float *, const float *, Py_ssize_t)
    void add_lanes_f64(double *, const double *, Py_ssize_t)

cdef enum:
    AXES = 3
    MAX_PHASES = 4     # the largest stride
    SUM_STRETCH = 64  # rows whose products one register adds up, to bound the rounding
    PREFETCHED = 4096  # cells of a tile's rows that are prefetched whole
    PENDING = 128     # vectors that wait for their lanes to be added up

# What `_engines/planes.py` writes down as a row of integers, in this order; then what the places
# in it refer to. A column is a list of taps along axis 1, which lie `height` rows of the scratch
# one after the other.

cdef struct Axis:
    Py_ssize_t index          # of the spatial axis in the arrays, -1 for one they do not have
    Py_ssize_t size           # cells of the result
    Py_ssize_t phases
    Py_ssize_t turns          # cells of the first phase
    Py_ssize_t box            # turns of a unit
    Py_ssize_t boxes

# How the cells of an image that a box of results needs lie in the scratch: cell i of axis 0 or 1 is
# the image's cell first + begin * step + i, cell i of a segment of axis 2 its first + (begin + i) *
# step.
cdef struct Frame:
    Py_ssize_t size[AXES]     # cells of the image
    Py_ssize_t step[AXES]     # from a turn to the next
    Py_ssize_t first[2]
    Py_ssize_t needed[AXES]   # cells for one turn; in axis 2 those of a segment
    Py_ssize_t rows           # of the scratch for each cell of axis 0
    Py_ssize_t segments
    Py_ssize_t length         # cells of a segment
    Py_ssize_t pitch          # numbers from a row to the next
    Py_ssize_t plane
    Py_ssize_t firsts         # where these stand

cdef struct Sizes:
    Py_ssize_t batch
    Py_ssize_t groups
    Py_ssize_t sources        # planes of an image that a group has,
    Py_ssize_t results        # and of a result
    Py_ssize_t taps           # of a filter
    Py_ssize_t together       # groups whose planes are in the scratch together
    Py_ssize_t block          # groups of a unit
    Py_ssize_t blocks
    Py_ssize_t boxes
    Py_ssize_t line           # whether neighbouring vectors take the place of rows
    Py_ssize_t places         # of the weights of all columns: how many,
    Py_ssize_t places_at      # and where these stand
    Py_ssize_t shapes_at      # the Shape of each phase
    Py_ssize_t shift          # of the scratch, so that vectors of its rows lie well
    Py_ssize_t image_room     # parts of the space: numbers in the scratch,
    Py_ssize_t other_room     # in that of dout for a gradient of weights,
    Py_ssize_t weights_room   # and in the weights
    Axis axes[AXES]
    Frame image
    Frame other               # dout, in a gradient of weights

cdef struct Shape:
    Py_ssize_t height
    Py_ssize_t step           # rows of the scratch from one row of results to the next,
    Py_ssize_t pitch          # in units of so many rows
    Py_ssize_t columns
    Py_ssize_t offsets        # where the columns' places in the scratch stand
    Py_ssize_t first          # of the weights

# Where a unit is: its box of results, from turn `begin` on.
cdef struct Box:
    Py_ssize_t begin[AXES]
    Py_ssize_t count[AXES]

# Where the cells lie that a box needs of an image, found once a unit, for it takes as long as a
# small plane.
cdef struct Cells:
    Py_ssize_t place[AXES]    # the first cell; in axis 2 for a segment that begins at 0
    Py_ssize_t needed[AXES]
    Py_ssize_t low[2]         # which of those needed the image has: low .. high
    Py_ssize_t high[2]
    Py_ssize_t left           # and those of the first segment of axis 2
    Py_ssize_t right


# --- both types -----------------------------------------------------------------------------------

cdef inline void copy_rows(
    floating *to, Py_ssize_t pitch, const floating *source, Py_ssize_t step, Py_ssize_t rows,
    Py_ssize_t n, const floating *end,
) noexcept nogil:
    if floating is float:
        copy_rows_f32(to, pitch, source, step, rows, n, end)
    else:
        copy_rows_f64(to, pitch, source, step, rows, n, end)


cdef inline void split_rows(
    floating *even, floating *odd, Py_ssize_t pitch, const floating *source, Py_ssize_t step,
    Py_ssize_t rows, Py_ssize_t n, const floating *end,
) noexcept nogil:
    if floating is float:
        split_rows_f32(even, odd, pitch, source, step, rows, n, end)
    else:
        split_rows_f64(even, odd, pitch, source, step, rows, n, end)


cdef inline void merge_rows(
    floating *to, Py_ssize_t step, const floating *even, const floating *odd, Py_ssize_t rows,
    Py_ssize_t n,
) noexcept nogil:
    if floating is float:
        merge_rows_f32(to, step, even, odd, rows, n)
    else:
        merge_rows_f64(to, step, even, odd, rows, n)


cdef inline void prefetch_rows(
    const floating *rows, Py_ssize_t step, Py_ssize_t count, Py_ssize_t n
) noexcept nogil:
    if floating is float:
        prefetch_rows_f32(rows, step, count, n)
    else:
        prefetch_rows_f64(rows, step, count, n)


cdef inline void slide(
    Py_ssize_t height, Py_ssize_t step, Py_ssize_t rows, const floating *source, Py_ssize_t pitch,
    const floating *weights, Py_ssize_t columns, const Py_ssize_t *offsets, const floating *bias,
    floating *out, Py_ssize_t out_pitch, Py_ssize_t n, const floating *limit,
) noexcept nogil:
    if floating is float:
        slide_f32(
            height, step, rows, source, pitch, weights, columns, offsets, bias, out, out_pitch, n,
            limit)
    else:
        slide_f64(
            height, step, rows, source, pitch, weights, columns, offsets, bias, out, out_pitch, n,
            limit)


cdef inline void sum_columns(
    Py_ssize_t height, Py_ssize_t step, Py_ssize_t columns, const floating *x, Py_ssize_t pitch,
    const floating *d, Py_ssize_t d_pitch, Py_ssize_t rows, const Py_ssize_t *offsets,
    Py_ssize_t first, Py_ssize_t end, floating *sums,
) noexcept nogil:
    if floating is float:
        sum_f32(height, step, columns, x, pitch, d, d_pitch, rows, offsets, first, end, sums)
    else:
        sum_f64(height, step, columns, x, pitch, d, d_pitch, rows, offsets, first, end, sums)


cdef inline void add_lanes(floating *to, const floating *sums, Py_ssize_t n) noexcept nogil:
    if floating is float:
        add_lanes_f32(to, sums, n)
    else:
        add_lanes_f64(to, sums, n)


cdef inline void zero(floating *to, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = 0


# --- the scratch ----------------------------------------------------------------------------------

cdef inline Py_ssize_t rounded_up(Py_ssize_t number, Py_ssize_t by) noexcept nogil:
    """The quotient; a division takes as long as some rows of a small plane."""
    return number if by == 1 else (number + by - 1) // by


cdef inline void find_inside(
    Py_ssize_t first, Py_ssize_t step, Py_ssize_t size, Py_ssize_t n, Py_ssize_t *low,
    Py_ssize_t *high,
) noexcept nogil:
    """Which of the cells first + i * step, i < n, the image has: low .. high."""
    low[0] = 0 if first >= 0 else min(n, rounded_up(-first, step))
    high[0] = low[0]
    if first < size:
        high[0] = max(low[0], min(n, rounded_up(size - first, step)))


cdef Cells find_cells(const Frame *f, const Py_ssize_t *firsts, const Box *box) noexcept nogil:
    """What of an image a box needs."""
    cdef Cells c
    cdef Py_ssize_t axis
    for axis in range(AXES):
        c.place[axis] = box.begin[axis] * f.step[axis]
    for axis in range(2):
        c.place[axis] += f.first[axis]
        c.needed[axis] = (box.count[axis] - 1) * f.step[axis] + f.needed[axis]
        find_inside(c.place[axis], 1, f.size[axis], c.needed[axis], &c.low[axis], &c.high[axis])
    c.needed[2] = f.needed[2] + box.count[2] - 1
    find_segment(f, firsts, &c, 0, &c.left, &c.right)
    return c


cdef inline void find_segment(
    const Frame *f, const Py_ssize_t *firsts, const Cells *c, Py_ssize_t segment,
    Py_ssize_t *left, Py_ssize_t *right,
) noexcept nogil:
    """Which of the cells needed of a segment the image has: left .. right."""
    find_inside(firsts[segment] + c.place[2], f.step[2], f.size[2], c.needed[2], left, right)


cdef void clear_around(
    const Frame *f, const Py_ssize_t *firsts, const Cells *c, floating *plane
) noexcept nogil:
    """Zero the cells of a plane of the scratch that the image does not have."""
    cdef Py_ssize_t i, _, segment, left, right
    cdef floating *row
    for i in range(c.needed[0]):
        row = plane + i * f.rows * f.pitch
        if not c.low[0] <= i < c.high[0]:
            zero(row, c.needed[1] * f.pitch)
            continue
        zero(row, c.low[1] * f.pitch)
        zero(row + c.high[1] * f.pitch, (c.needed[1] - c.high[1]) * f.pitch)
        for segment in range(f.segments):
            find_segment(f, firsts, c, segment, &left, &right)
            row = plane + (i * f.rows + c.low[1]) * f.pitch + segment * f.length
            for _ in range(c.low[1], c.high[1]):
                zero(row, left)
                zero(row + right, f.length - right)
                row += f.pitch


cdef void fill_spaced(
    const Frame *f, const Py_ssize_t *firsts, const Cells *c, const floating *source,
    const Py_ssize_t *strides, floating *to,
) noexcept nogil:
    """Rows of the scratch from an image whose rows have any strides."""
    cdef Py_ssize_t row, segment, left, right, i
    cdef Py_ssize_t step = f.step[2] * strides[4]
    cdef const floating *cells
    for segment in range(f.segments):
        find_segment(f, firsts, c, segment, &left, &right)
        for row in range(c.high[1] - c.low[1]):
            cells = source + row * strides[3] + (firsts[segment] + c.place[2]) * strides[4]
            for i in range(left, right):
                to[row * f.pitch + segment * f.length + i] = cells[i * step]


cdef void fill_channels(
    const Frame *f, const Py_ssize_t *firsts, const Cells *c, const floating *source,
    const Py_ssize_t *strides, Py_ssize_t planes, floating *to,
) noexcept nogil:
    """Rows of some planes of the scratch from an image whose channels are neighbours."""
    cdef Py_ssize_t row, segment, left, right, i
    cdef Py_ssize_t width = lanes_of(to)
    cdef Py_ssize_t step = f.step[2] * strides[4]
    cdef const floating *cells
    cdef floating *target
    for row in range(c.high[1] - c.low[1]):
        for segment in range(f.segments):
            find_segment(f, firsts, c, segment, &left, &right)
            cells = source + row * strides[3] + (firsts[segment] + c.place[2]) * strides[4]
            i = left
            while i < right:
                target = to + row * f.pitch + segment * f.length + i
                transpose(
                    min(width, right - i), planes, cells + i * step, step, <const floating *> NULL,
                    target, f.plane,
                    target + planes * f.plane if right - i >= width else <floating *> NULL)
                i += width


cdef void fill_pairs(
    const Frame *f, const Py_ssize_t *firsts, const Cells *c, const floating *source,
    Py_ssize_t source_step, const floating *end, floating *to,
) noexcept nogil:
    """Rows of the scratch in two segments, of every second cell each, that lie one cell apart."""
    cdef Py_ssize_t left[2]
    cdef Py_ssize_t right[2]
    cdef Py_ssize_t segment, row, i, both, last
    cdef Py_ssize_t rows = c.high[1] - c.low[1]
    for segment in range(2):
        find_segment(f, firsts, c, segment, &left[segment], &right[segment])
    both = max(left[0], left[1])
    last = max(both, min(right[0], right[1]))
    source += firsts[0] + c.place[2]
    if both < last:
        split_rows(
            to + both, to + f.length + both, f.pitch, source + 2 * both, source_step, rows,
            last - both, end)
    for segment in range(2):
        for row in range(rows):
            for i in range(left[segment], min(both, right[segment])):
                to[row * f.pitch + segment * f.length + i] = (
                    source[row * source_step + segment + 2 * i])
            for i in range(last, right[segment]):
                to[row * f.pitch + segment * f.length + i] = (
                    source[row * source_step + segment + 2 * i])


cdef inline void fill(
    const Frame *f, const Py_ssize_t *firsts, const Cells *c, const floating *x,
    const floating *end, const Py_ssize_t *strides, Py_ssize_t channel_step, Py_ssize_t planes,
    bint fresh, floating *scratch,
) noexcept nogil:
    """Copy what a box of results needs of some planes of an image, with zeros around.

    ::

        scratch[plane][cell of axis 0][cell of axis 1][segment][cell]

    The zeros are still there if not `fresh`. Up to a vector's numbers after the last one may be
    overwritten.
    """
    cdef Py_ssize_t plane, i
    cdef bint plain = strides[4] == 1 and f.segments == 1 and f.step[2] == 1
    cdef bint pairs = (
        strides[4] == 1 and f.segments == 2 and f.step[2] == 2 and firsts[1] == firsts[0] + 1)
    cdef bint by_channels = planes >= 4 and channel_step == 1 and strides[4] != 1
    cdef const floating *source
    cdef floating *to
    if fresh:
        for plane in range(planes):
            clear_around(f, firsts, c, scratch + plane * f.plane)
        zero(scratch + planes * f.plane, lanes_of(scratch))
    for plane in range(1 if by_channels else planes):
        for i in range(c.low[0], c.high[0]):
            source = (
                x + plane * channel_step + (c.place[0] + i) * strides[2]
                + (c.place[1] + c.low[1]) * strides[3])
            to = scratch + plane * f.plane + (i * f.rows + c.low[1]) * f.pitch
            if plain and c.left < c.right:
                copy_rows(
                    to + c.left, f.pitch, source + firsts[0] + c.place[2] + c.left, strides[3],
                    c.high[1] - c.low[1], c.right - c.left, end)
            elif pairs:
                fill_pairs(f, firsts, c, source, strides[3], end, to)
            elif by_channels:
                fill_channels(f, firsts, c, source, strides, planes, to)
            elif not plain:
                fill_spaced(f, firsts, c, source, strides, to)


# --- results --------------------------------------------------------------------------------------

# Where the results of a group go: `out` is those of the first turn of phase 0 of the image, whose
# strides are `steps`; from `end` on nothing may be written, NULL if rows are all that may be.
cdef struct Place:
    Py_ssize_t steps[AXES]
    Py_ssize_t channel_step
    bint direct               # whether rows of results can be written as they are

cdef inline Py_ssize_t height_below(Py_ssize_t rows) noexcept nogil:
    """Rows of the highest tile there is for so many."""
    if rows >= 14 and DEPTHWISE_ROWS >= 14:
        return 14
    return 7 if rows >= 7 else 4 if rows >= 4 else 2 if rows >= 2 else 1


cdef inline Py_ssize_t turns_of(
    const Axis *axis, Py_ssize_t phase, Py_ssize_t begin, Py_ssize_t count
) noexcept nogil:
    """How many of `count` turns from `begin` on a phase has."""
    return min(count, rounded_up(axis.size - phase, axis.phases) - begin)


cdef inline const Shape *shape_of(
    const Sizes *z, Py_ssize_t first, Py_ssize_t second, Py_ssize_t third
) noexcept nogil:
    """The shape of the phases of three axes."""
    cdef const Shape *shapes = <const Shape *> (<const Py_ssize_t *> z + z.shapes_at)
    return shapes + (first * z.axes[1].phases + second) * z.axes[2].phases + third


cdef void put_tile(
    const Sizes *z, const Place *place, const floating *results, Py_ssize_t rows,
    Py_ssize_t planes, const Py_ssize_t *counts, Py_ssize_t row_count, Py_ssize_t row_step,
    floating *out,
) noexcept nogil:
    """Write a tile of results[phase][plane][row][a vector] where it belongs.

    counts[phase] cells of a row are left, of which each of the tile's rows takes `row_count`.
    """
    cdef Py_ssize_t width = lanes_of(out)
    cdef Py_ssize_t phases = z.axes[2].phases
    cdef Py_ssize_t pitch = DEPTHWISE_ROWS * width  # from a plane to the next
    cdef Py_ssize_t step = place.steps[2]
    cdef Py_ssize_t plane, row, phase, n, i
    cdef const floating *source
    cdef floating *to
    if planes == 1 and phases == 2 and step == 1 and row_count == 0:
        n = min(width, counts[0]) + min(width, counts[1])
        merge_rows(out, row_step, results, results + pitch, rows, n)
        return
    for row in range(rows):
        if planes > 1 and place.channel_step == 1:
            for phase in range(phases):
                n = min(width, counts[phase] - row * row_count)
                to = out + row * row_step + phase * step
                if n > 0:
                    transpose(
                        planes, n, results + phase * planes * pitch + row * width, pitch,
                        results + phases * planes * pitch, to, phases * step,
                        to + max(0, (n - 1) * phases * step) + width if planes == width
                        else <floating *> NULL)
            continue
        for plane in range(planes):
            source = results + plane * pitch + row * width
            to = out + plane * place.channel_step + row * row_step
            for phase in range(phases):
                n = min(width, counts[phase] - row * row_count)
                for i in range(n):
                    to[(i * phases + phase) * step] = source[phase * planes * pitch + i]


cdef inline void slide_tile(
    const Sizes *z, const Shape *shapes, const Place *place, const floating *scratch,
    const floating *weights, const floating *bias, Py_ssize_t planes, Py_ssize_t rows,
    Py_ssize_t pitch, const Py_ssize_t *counts, Py_ssize_t row_count, Py_ssize_t row_step,
    floating *results, floating *out, const floating *limit,
) noexcept nogil:
    """Compute some rows of a vector each, and write them."""
    cdef const Py_ssize_t *tables = <const Py_ssize_t *> z
    cdef Py_ssize_t width = lanes_of(out)
    cdef Py_ssize_t phases = z.axes[2].phases
    cdef Py_ssize_t plane, phase
    cdef const Shape *shape = shapes
    if place.direct:
        slide(
            shape.height, shape.step, rows, scratch,
            pitch if pitch else shape.pitch * z.image.pitch,
            weights + shape.first, shape.columns, tables + shape.offsets, bias, out, row_step,
            min(width, counts[0]), limit)
        return
    for phase in range(phases):
        shape = shapes + phase
        for plane in range(planes):
            slide(
                shape.height, shape.step, rows, scratch + plane * z.sources * z.image.plane,
                pitch if pitch else shape.pitch * z.image.pitch,
                weights + plane * z.places + shape.first, shape.columns, tables + shape.offsets,
                bias + plane * z.results if bias else bias,
                results + (phase * planes + plane) * DEPTHWISE_ROWS * width, width, width,
                <const floating *> NULL)
    put_tile(z, place, results, rows, planes, counts, row_count, row_step, out)


cdef void slide_rows(
    const Sizes *z, const Shape *shapes, const Box *box, const Place *place, Py_ssize_t second,
    const floating *scratch, const floating *weights, const floating *bias, Py_ssize_t planes,
    floating *results, floating *out, const floating *limit,
) noexcept nogil:
    """Compute the box's cells of one phase of axes 0 and 1, for one turn of axis 0."""
    cdef Py_ssize_t width = lanes_of(out)
    cdef Py_ssize_t turns = turns_of(&z.axes[1], second, box.begin[1], box.count[1])
    cdef Py_ssize_t phases = z.axes[2].phases
    cdef Py_ssize_t column_step = phases * place.steps[2]
    cdef Py_ssize_t row_step = z.axes[1].phases * place.steps[1]
    cdef Py_ssize_t counts[MAX_PHASES]
    cdef Py_ssize_t left[MAX_PHASES]
    cdef Py_ssize_t phase, at, first_column, column, rows, count, ahead
    for phase in range(phases):
        counts[phase] = turns_of(&z.axes[2], phase, box.begin[2], box.count[2])
    count = counts[0]
    if count >= width:
        limit = NULL  # vectors end where their row does
    at = 0
    if z.line and turns > 0:  # neighbouring vectors are the rows
        while at + width <= count:
            rows = height_below((count - at) // width)
            for phase in range(phases):
                left[phase] = counts[phase] - at
            slide_tile(
                z, shapes, place, scratch + at, weights, bias, planes, rows, width, left, width,
                width * column_step, results, out + at * column_step, limit)
            at += rows * width
        if at == count:
            return
    # Have the next rows of results in cache before they are written, or of long ones the next
    # cells: 1.3 to 1.6 times as fast on 112x112 layers whose arrays come from memory.
    ahead = -1
    if phases * count * height_below(turns) <= PREFETCHED and place.steps[2] == 1 and planes == 1:
        ahead = 0
    elif place.direct:
        ahead = 8 * width
    first_column = at
    at = 0
    while at < turns:
        rows = height_below(turns - at)
        if ahead == 0:
            prefetch_rows(out + (at + rows) * row_step, row_step, rows, phases * count)
        column = first_column
        while column < count:
            if column + width > count:  # over again what the last vector has of the one before
                column = max(0, count - width)
            for phase in range(phases):
                left[phase] = counts[phase] - column
            slide_tile(
                z, shapes, place, scratch + at * z.image.step[1] * z.image.pitch + column, weights,
                bias, planes, rows, 0, left, 0, row_step, results,
                out + at * row_step + column * column_step, limit)
            if ahead > 0:
                prefetch_rows(out + at * row_step + column + ahead, row_step, rows, 1)
            column += width
        at += rows


cdef void slide_box(
    const Sizes *z, const Box *box, const Place *place, const floating *scratch,
    const floating *weights, const floating *bias, Py_ssize_t planes, floating *results,
    floating *out, const floating *end,
) noexcept nogil:
    """Compute a box of one result of some groups.

    `out` is where the first group's result has its first cell, `end` where that of the unit's last
    group ends, if rows of results follow each other so far; NULL if they do not.
    """
    cdef const floating *limit
    cdef Py_ssize_t first, second, turn, axis
    cdef floating *slab
    for axis in range(AXES):
        out += box.begin[axis] * z.axes[axis].phases * place.steps[axis]
    for first in range(z.axes[0].phases):
        for turn in range(turns_of(&z.axes[0], first, box.begin[0], box.count[0])):
            for second in range(z.axes[1].phases):
                slab = (
                    out + (turn * z.axes[0].phases + first) * place.steps[0]
                    + second * place.steps[1])
                limit = end
                if end and z.axes[1].boxes > 1:
                    limit = slab + box.count[1] * place.steps[1]
                elif end and z.axes[0].boxes > 1:
                    limit = slab + (box.count[0] - turn) * place.steps[0]
                slide_rows(
                    z, shape_of(z, first, second, 0), box, place, second,
                    scratch + turn * z.image.step[0] * z.image.rows * z.image.pitch, weights, bias,
                    planes, results, slab, limit if end else <const floating *> slab)


cdef inline void find_box(const Sizes *z, Py_ssize_t number, Box *box) noexcept nogil:
    cdef Py_ssize_t axis
    for axis in range(AXES - 1, -1, -1):
        box.begin[axis] = number % z.axes[axis].boxes * z.axes[axis].box
        number //= z.axes[axis].boxes
        box.count[axis] = min(z.axes[axis].box, z.axes[axis].turns - box.begin[axis])


cdef void convolve_unit(
    const Sizes *z, Py_ssize_t unit, const floating *x, const floating *x_end,
    const Py_ssize_t *strides, const floating *w, const floating *b, floating *out,
    const Py_ssize_t *out_strides, bint packed, floating *space,
) noexcept nogil:
    """A unit: some groups of one sample, in a box of results."""
    cdef const Py_ssize_t *tables = <const Py_ssize_t *> z
    cdef const Py_ssize_t *places = tables + z.places_at
    cdef floating *weights = space + z.image_room
    cdef floating *results = weights + z.weights_room
    cdef Py_ssize_t sample, group, last, planes, result, axis, i, plane
    cdef const floating *filters
    cdef const floating *end = NULL
    cdef Place place
    cdef Box box
    cdef Cells cells
    cdef bint fresh = True
    find_box(z, unit % z.boxes, &box)
    cells = find_cells(&z.image, tables + z.image.firsts, &box)
    unit //= z.boxes
    group = unit % z.blocks * z.block
    last = min(z.groups, group + z.block)
    sample = unit // z.blocks
    for axis in range(AXES):
        place.steps[axis] = out_strides[2 + axis]
    place.channel_step = z.results * out_strides[1]
    place.direct = z.together == 1 and z.axes[2].phases == 1 and out_strides[4] == 1
    x += sample * strides[0]
    out += sample * out_strides[0]
    if packed and z.axes[0].phases * z.axes[1].phases == 1 and z.axes[2].boxes == 1:
        end = out + last * z.results * out_strides[1]
    while group < last:
        planes = min(z.together, last - group)
        fill(
            &z.image, tables + z.image.firsts, &cells, x + group * z.sources * strides[1], x_end,
            strides, strides[1], planes * z.sources, fresh, space + z.shift)
        fresh = False
        for result in range(z.results):
            for plane in range(planes):
                filters = w + ((group + plane) * z.results * z.sources + result) * z.taps
                for i in range(z.places):
                    weights[plane * z.places + i] = filters[places[i]]
            slide_box(
                z, &box, &place, space + z.shift, weights,
                b + group * z.results + result if b else b, planes, results,
                out + (group * z.results + result) * out_strides[1], end)
        group += planes


# --- the gradient of weights ----------------------------------------------------------------------

cdef inline Py_ssize_t columns_below(Py_ssize_t columns, Py_ssize_t height) noexcept nogil:
    """Columns of the largest tile of sums there is for so many."""
    cdef Py_ssize_t most = 8
    while most > 1 and (most > columns or most * height > DEPTHWISE_SUMS):
        most = most // 2 if most > 4 else most - 1
    return most


cdef void sum_plane(
    const Sizes *z, const Shape *shape, const Box *box, const floating *x, const floating *d,
    Py_ssize_t d_slice, Py_ssize_t d_pitch, floating *sums,
) noexcept nogil:
    """sums[place][a vector] = the sums of a box of a plane, in lanes of neighbouring positions."""
    cdef const Py_ssize_t *offsets = <const Py_ssize_t *> z + shape.offsets
    cdef Py_ssize_t width = lanes_of(x)
    cdef Py_ssize_t vectors = box.count[2] // width
    cdef Py_ssize_t slices, column, row, rows, step, pitch, j, columns, begin, end, x_row, d_row
    cdef const floating *images
    cdef const floating *gradients
    zero(sums, z.places * width)
    for slices in range(box.count[0]):
        column = 0
        while column < box.count[2]:
            rows, step, pitch = box.count[1], shape.step, shape.pitch * z.image.pitch
            x_row, d_row = z.image.step[1] * z.image.pitch, d_pitch
            begin, end = 0, min(width, box.count[2] - column)
            images = x + slices * z.image.step[0] * z.image.rows * z.image.pitch + column
            gradients = d + slices * d_slice + column
            if z.line and column == 0 and vectors > 0:  # neighbouring vectors are the rows
                rows, pitch, x_row, d_row = vectors, width, width, width
                column += (vectors - 1) * width
            elif end < width <= box.count[2]:  # over again what is not counted
                begin, end = width - end, width
                images -= begin
                gradients -= begin
            row = 0
            while row < rows:
                j = 0
                while j < shape.columns:
                    columns = columns_below(shape.columns - j, shape.height)
                    sum_columns(
                        shape.height, step, columns, images + row * x_row, pitch,
                        gradients + row * d_row, d_row, min(rows - row, <Py_ssize_t> SUM_STRETCH),
                        offsets + j, begin, end, sums + j * shape.height * width)
                    j += columns
                row += SUM_STRETCH
            column += width


cdef void add_sums(
    const Sizes *z, floating *sums, Py_ssize_t planes, const Py_ssize_t *filters,
    floating *totals, floating *dw,
) noexcept nogil:
    """Add the lanes of the sums of some planes, and the totals to the filters that they are of."""
    cdef const Py_ssize_t *places = <const Py_ssize_t *> z + z.places_at
    cdef Py_ssize_t width = lanes_of(sums)
    cdef Py_ssize_t count = planes * z.places
    cdef Py_ssize_t whole = (count + width - 1) // width * width
    cdef Py_ssize_t plane, i
    zero(sums + count * width, (whole - count) * width)
    zero(totals, whole)
    add_lanes(totals, sums, whole)
    for plane in range(planes):
        for i in range(z.places):
            dw[filters[plane] * z.taps + places[i]] += totals[plane * z.places + i]


cdef void gradient_unit(
    const Sizes *z, Py_ssize_t unit, Py_ssize_t first_pass, Py_ssize_t end_pass, const floating *x,
    const floating *x_end, const Py_ssize_t *strides, const floating *dout,
    const floating *dout_end, const Py_ssize_t *dout_strides, floating *dw, floating *space,
) noexcept nogil:
    """Add to the gradient of some groups' filters from boxes of some samples, one after another."""
    cdef const Py_ssize_t *tables = <const Py_ssize_t *> z
    cdef floating *gradients = space + z.image_room
    cdef floating *sums = gradients + z.other_room
    cdef Py_ssize_t width = lanes_of(x)
    cdef Py_ssize_t group = unit * z.block
    cdef Py_ssize_t last = min(z.groups, group + z.block)
    cdef Py_ssize_t waiting = max(1, <Py_ssize_t> PENDING // z.places)
    cdef floating *totals = sums + (waiting * z.places + width) * width
    cdef Py_ssize_t filters[PENDING]
    cdef Py_ssize_t step, sample, first, planes, plane, result, pending, axis, d_slice, d_pitch
    cdef Py_ssize_t d_plane, reach
    cdef const floating *images
    cdef const floating *source
    cdef Box box
    cdef Cells cells, others
    cdef bint fresh, in_place
    for step in range(first_pass, end_pass):
        find_box(z, step % z.boxes, &box)
        cells = find_cells(&z.image, tables + z.image.firsts, &box)
        others = find_cells(&z.other, tables + z.other.firsts, &box)
        sample = step // z.boxes
        fresh = True
        pending = 0
        first = group
        while first < last:
            planes = min(z.together, last - first)
            fill(
                &z.image, tables + z.image.firsts, &cells,
                x + sample * strides[0] + first * strides[1], x_end, strides, strides[1], planes,
                fresh, space + z.shift)
            fresh = False
            for result in range(z.results):
                source = (
                    dout + sample * dout_strides[0]
                    + (first * z.results + result) * dout_strides[1])
                d_plane = z.results * dout_strides[1]
                reach = width
                for axis in range(2):
                    reach += (box.begin[axis] + box.count[axis] - 1) * dout_strides[2 + axis]
                in_place = dout_strides[4] == 1 and (
                    box.count[2] >= width
                    or (dout_end and dout_end - (source + (planes - 1) * d_plane)
                        >= reach + box.begin[2]))
                d_slice, d_pitch = dout_strides[2], dout_strides[3]
                if in_place:
                    for axis in range(AXES):
                        source += box.begin[axis] * dout_strides[2 + axis]
                else:
                    fill(
                        &z.other, tables + z.other.firsts, &others, source, dout_end, dout_strides,
                        d_plane, planes, False, gradients)
                    source = gradients
                    d_plane, d_pitch = z.other.plane, z.other.pitch
                    d_slice = z.other.rows * z.other.pitch
                for plane in range(planes):
                    images = space + z.shift + plane * z.image.plane
                    sum_plane(
                        z, shape_of(z, 0, 0, 0), &box, images, source + plane * d_plane, d_slice,
                        d_pitch, sums + pending * z.places * width)
                    filters[pending] = (first + plane) * z.results + result
                    pending += 1
                    if pending == waiting:
                        add_sums(z, sums, pending, filters, totals, dw)
                        pending = 0
            first += planes
        if pending:
            add_sums(z, sums, pending, filters, totals, dw)


# --- what Python calls ----------------------------------------------------------------------------

cdef void set_strides(const Sizes *z, cnp.ndarray array, Py_ssize_t *strides) noexcept:
    """The strides of an image (N, C, *S), in elements, for the sample, the channel and our axes."""
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(array)
    cdef Py_ssize_t axis, index
    strides[0] = cnp.PyArray_STRIDE(array, 0) // item
    strides[1] = cnp.PyArray_STRIDE(array, 1) // item
    for axis in range(AXES):
        index = z.axes[axis].index + 2
        strides[2 + axis] = 0
        if index >= 2:
            strides[2 + axis] = cnp.PyArray_STRIDE(array, <int> index) // item
        if axis == 2 and (index < 2 or cnp.PyArray_DIM(array, <int> index) == 1):
            strides[2 + axis] = 1


def convolve(
    cnp.ndarray sizes not None, cnp.ndarray x not None, cnp.ndarray w not None, cnp.ndarray bias,
    cnp.ndarray out not None, cnp.ndarray space not None, Py_ssize_t begin, Py_ssize_t end,
):
    """Compute units begin .. end of out (N, F, *O) from x (N, C, *S) and contiguous w."""
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    cdef Py_ssize_t strides[2 + AXES]
    cdef Py_ssize_t out_strides[2 + AXES]
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *source_end = end_of(x)
    cdef void *weights = cnp.PyArray_DATA(w)
    cdef void *added = NULL if bias is None else cnp.PyArray_DATA(bias)
    cdef void *target = cnp.PyArray_DATA(out)
    cdef void *room = aligned(space)
    cdef bint packed = cnp.PyArray_CHKFLAGS(out, cnp.NPY_ARRAY_C_CONTIGUOUS)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    cdef Py_ssize_t unit
    set_strides(z, x, strides)
    set_strides(z, out, out_strides)
    with nogil:
        for unit in range(begin, end):
            if single:
                convolve_unit(
                    z, unit, <const float *> source, <const float *> source_end, strides,
                    <const float *> weights, <const float *> added, <float *> target, out_strides,
                    packed, <float *> room)
            else:
                convolve_unit(
                    z, unit, <const double *> source, <const double *> source_end, strides,
                    <const double *> weights, <const double *> added, <double *> target,
                    out_strides, packed, <double *> room)


def weight_gradient(
    cnp.ndarray sizes not None, cnp.ndarray x not None, cnp.ndarray dout not None,
    cnp.ndarray dw not None, cnp.ndarray space not None, Py_ssize_t first_pass,
    Py_ssize_t end_pass, Py_ssize_t begin, Py_ssize_t end,
):
    """Add to units begin .. end of contiguous dw from x (N, C, *S) and dout (N, F, *O).

    That is from passes first_pass .. end_pass, boxes of samples; they must come in order.
    """
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    cdef Py_ssize_t strides[2 + AXES]
    cdef Py_ssize_t dout_strides[2 + AXES]
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *source_end = end_of(x)
    cdef void *gradient = cnp.PyArray_DATA(dout)
    cdef void *gradient_end = end_of(dout)
    cdef void *target = cnp.PyArray_DATA(dw)
    cdef void *room = aligned(space)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    cdef Py_ssize_t unit
    set_strides(z, x, strides)
    set_strides(z, dout, dout_strides)
    with nogil:
        for unit in range(begin, end):
            if single:
                gradient_unit(
                    z, unit, first_pass, end_pass, <const float *> source,
                    <const float *> source_end, strides, <const float *> gradient,
                    <const float *> gradient_end, dout_strides, <float *> target, <float *> room)
            else:
                gradient_unit(
                    z, unit, first_pass, end_pass, <const double *> source,
                    <const double *> source_end, strides, <const double *> gradient,
                    <const double *> gradient_end, dout_strides, <double *> target,
                    <double *> room)


def all_finite(cnp.ndarray array not None):
    """Whether all numbers of a contiguous array are finite."""
    cdef Py_ssize_t n = cnp.PyArray_SIZE(array)
    if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32:
        return all_finite_f32(<const float *> cnp.PyArray_DATA(array), n)
    return all_finite_f64(<const double *> cnp.PyArray_DATA(array), n)


# Of this build: the rows of its highest tile.
ROWS = DEPTHWISE_ROWS
ALIGNED = ALIGNMENT  # bytes; a space is longer by one less than these


def lanes(Py_ssize_t itemsize):
    """Numbers of that size in one vector."""
    return LANES_f32 if itemsize == sizeof(float) else LANES_f64
