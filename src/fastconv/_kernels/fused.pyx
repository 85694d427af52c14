# cython: language_level=3
# The caller guarantees every size (see _engines/plans.py), so indices are neither tested nor
# wrapped, and cdivision saves the test for a divisor of 0: steps and counts are at least 1.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernels of the engine `fused`: convolution as a table of taps.

A tap is one row of the column matrix, and its whole meaning is one offset into a padded copy of the
image, the scratch; the column matrix itself is never made. A unit of work is a group, some samples
or a box of one sample's positions, and some filters::

    x          -> scratch          -> panel             -> tile                    -> out
    any strides   zeros around,       NR positions of      rows of weights times
                  by stride phase     some taps            the panel, in registers

Where filters are the lanes, there is no panel: fused_lanes.pxi.

A sum is taken over blocks of FASTCONV_TAPS taps, in order, whatever the unit and the tile: so a
result's bits depend on nothing else.
"""

cimport numpy as cnp
from cython cimport floating

from fastconv._kernels.simd cimport (
    ALIGNMENT, FASTCONV_ROWS, FASTCONV_VECTORS, LANES_f32, LANES_f64, aligned, all_finite,
    block_begin, copy, end_of, lanes_of, set_strides, tile_f32, tile_f64, transpose,
)

cnp.import_array()

cdef extern from "simd.h" nogil:
    enum:
        FASTCONV_NARROW_ROWS
        FASTCONV_PANEL_TAPS
        FASTCONV_TAPS
        FASTCONV_COLUMNS
    ctypedef struct fastconv_run:
        Py_ssize_t at
        Py_ssize_t length
        Py_ssize_t column
    void fill_panel_f32(
        float *, Py_ssize_t, const float *, const Py_ssize_t *, Py_ssize_t, const fastconv_run *,
        Py_ssize_t, int)
    void fill_panel_f64(
        double *, Py_ssize_t, const double *, const Py_ssize_t *, Py_ssize_t, const fastconv_run *,
        Py_ssize_t, int)
    void dot_f32(
        Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, const float *, const float *,
        const Py_ssize_t *, Py_ssize_t, const Py_ssize_t *, const Py_ssize_t *, Py_ssize_t,
        float *, Py_ssize_t)
    void dot_f64(
        Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, const double *, const double *,
        const Py_ssize_t *, Py_ssize_t, const Py_ssize_t *, const Py_ssize_t *, Py_ssize_t,
        double *, Py_ssize_t)

cdef enum:
    MAX_AXES = 65      # those of an array in NumPy, and the sample's
    MAX_PANELS = 16    # whose positions are known at a time
    LONGEST_PIECE = 2 * FASTCONV_TAPS  # positions of a sample that a gradient is summed over
    DOT_ROWS = 4       # of the largest tile of sums over neighbouring positions
    DOT_TAPS = 6
    DOT_RUNS = 64      # that are summed up at a time,
    DOT_POSITIONS = 4096  # of at most so many positions, to bound the rounding
    # Results of so many filters are written one filter after the other, for a tile's own rows lie
    # on as many pages: 1.1 times as fast on 64 filters of 56x56.
    MANY_FILTERS = 32
    SUM_LANES = 64     # sums that are made beside each other, in every build,
    SUM_FILTERS = 16   # whose biases are summed up by one thread, at least
    SUM_ROW = 64       # and at a time, where they are neighbours
    MAX_LANES = 16     # numbers of a vector
    LINE = 64          # cells that are brought together before they are transposed
    MAX_LINES = 64     # of the scratch, that are filled channel by channel
    LAST_AXIS = 1      # a bit of Phase.shorter

# What `_engines/fused.py` writes down as a row of integers, in this order; then an Axis for each
# spatial axis, then the offset of each kernel index in a channel of the scratch, then the axes'
# `firsts`, then a Phase for each phase of the results, then where each begins, along each axis.
cdef struct Sizes:
    Py_ssize_t rank
    Py_ssize_t batch
    Py_ssize_t groups
    Py_ssize_t channels       # of one group
    Py_ssize_t filters        # of one group
    Py_ssize_t kernel         # taps of one channel, of all phases
    Py_ssize_t phases         # of the results
    Py_ssize_t woven          # phases that neighbours along the last axis belong to, in turn,
    Py_ssize_t ragged         # and those of them that reach its last position
    Py_ssize_t samples        # of a unit
    Py_ssize_t boxes          # that the positions of a sample are cut into
    Py_ssize_t parts          # that the filters are cut into
    Py_ssize_t panels         # that are computed before the next block of taps
    Py_ssize_t columns        # of a panel, whole vectors; where filters are lanes, of a band
    Py_ssize_t copied         # whether there is a scratch; else x itself is one
    Py_ssize_t direct         # whether tiles read the scratch itself, without a panel
    Py_ssize_t cells          # of one channel of the scratch
    Py_ssize_t scratch_room   # parts of the space: numbers in the scratch,
    Py_ssize_t panel_room     # and in the panel
    Py_ssize_t hop            # where filters are lanes: cells from one position to the next, else 0
    Py_ssize_t pitch          # there: from one filter's results to the next one's

cdef struct Axis:
    Py_ssize_t size           # output positions
    Py_ssize_t box            # of a unit
    Py_ssize_t boxes
    Py_ssize_t step           # cells of x from one cell of a segment to the next
    Py_ssize_t x_size
    Py_ssize_t segments       # of the scratch: each kernel index reads one of them
    Py_ssize_t length         # cells of a segment
    Py_ssize_t pitch          # numbers from one cell to the next
    Py_ssize_t first          # where in `firsts` stand the cells of x where its segments begin
    Py_ssize_t stride         # results from one position of a phase to the next

cdef struct Phase:
    Py_ssize_t kernel         # taps of one channel
    Py_ssize_t first          # those of the phases before
    Py_ssize_t shorter        # bits: LAST_AXIS, then the others, whose last position it lacks

# Some positions, as columns of a panel, and where their results go.
cdef struct Panel:
    Py_ssize_t columns
    Py_ssize_t source_runs
    Py_ssize_t target_runs
    fastconv_run sources[FASTCONV_COLUMNS]
    Py_ssize_t places[FASTCONV_COLUMNS]
    fastconv_run targets[FASTCONV_COLUMNS]
    Py_ssize_t edges[FASTCONV_COLUMNS]  # bits, as Phase.shorter: a run that ends with the axis


# --- walks over positions -----------------------------------------------------------------------

cdef struct Walk:
    Py_ssize_t rank
    Py_ssize_t size[MAX_AXES]
    Py_ssize_t step[MAX_AXES]
    Py_ssize_t index[MAX_AXES]
    Py_ssize_t at


cdef inline void push_axis(Walk *w, Py_ssize_t size, Py_ssize_t step) noexcept nogil:
    """Add an inner axis, whatever the others."""
    w.size[w.rank] = size
    w.step[w.rank] = step
    w.index[w.rank] = 0
    w.rank += 1


cdef inline void add_axis(Walk *w, Py_ssize_t size, Py_ssize_t step) noexcept nogil:
    """Add an inner axis, to the last one where the two are one line of neighbours."""
    if size == 1 and w.rank > 0:
        return
    if w.rank > 0 and (w.size[w.rank - 1] == 1 or w.step[w.rank - 1] == size * step):
        w.size[w.rank - 1] *= size
        w.step[w.rank - 1] = step
    else:
        push_axis(w, size, step)


cdef inline void add_axes(
    Walk *a, Walk *b, Py_ssize_t size, Py_ssize_t a_step, Py_ssize_t b_step
) noexcept nogil:
    """Add an inner axis to two walks of the same sizes, which stay the same."""
    cdef Py_ssize_t last = a.rank - 1
    if size == 1 and a.rank > 0:
        return
    if a.rank > 0 and (
        a.size[last] == 1
        or (a.step[last] == size * a_step and b.step[last] == size * b_step)
    ):
        a.size[last] *= size
        a.step[last] = a_step
        b.size[last] *= size
        b.step[last] = b_step
    else:
        push_axis(a, size, a_step)
        push_axis(b, size, b_step)


cdef inline fastconv_run next_run(Walk *w, Py_ssize_t limit) noexcept nogil:
    """Go on by at most `limit` positions, within the innermost axis; return where they are."""
    cdef Py_ssize_t axis = w.rank - 1
    cdef fastconv_run run
    run.at = w.at + w.index[axis] * w.step[axis]
    run.length = min(limit, w.size[axis] - w.index[axis])
    w.index[axis] += run.length
    if w.index[axis] == w.size[axis]:
        w.index[axis] = 0
        axis -= 1
        while axis >= 0:
            w.index[axis] += 1
            w.at += w.step[axis]
            if w.index[axis] < w.size[axis]:
                break
            w.at -= w.size[axis] * w.step[axis]
            w.index[axis] = 0
            axis -= 1
    return run


cdef inline Py_ssize_t line_length(const Walk *w, bint in_line) noexcept nogil:
    """How many neighbours there are next in the innermost axis, DOT_POSITIONS at most."""
    cdef Py_ssize_t left = w.size[w.rank - 1] - w.index[w.rank - 1]
    return min(left, <Py_ssize_t> DOT_POSITIONS) if in_line else 1


cdef inline Py_ssize_t find_box(
    const Axis *axes, Py_ssize_t rank, Py_ssize_t box, Py_ssize_t *begin, Py_ssize_t *count
) noexcept nogil:
    """Where a box of output positions begins, and its sizes, axis by axis; how many it has."""
    cdef Py_ssize_t positions = 1
    cdef Py_ssize_t axis
    for axis in range(rank - 1, -1, -1):
        begin[axis] = (box % axes[axis].boxes) * axes[axis].box
        box //= axes[axis].boxes
        count[axis] = min(axes[axis].box, axes[axis].size - begin[axis])
        positions *= count[axis]
    return positions


# --- the scratch --------------------------------------------------------------------------------

cdef inline void copy_spaced(
    floating *to, const floating *source, Py_ssize_t step, Py_ssize_t n
) noexcept nogil:
    """to[i] = source[i * step]."""
    cdef Py_ssize_t i
    if step == 1:
        copy(to, source, n)
    elif step == 2:
        for i in range(n):
            to[i] = source[2 * i]
    else:
        for i in range(n):
            to[i] = source[i * step]


cdef inline void zero(floating *to, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = 0


cdef inline void find_line(
    const Axis *axis, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t n, Py_ssize_t *low,
    Py_ssize_t *high,
) noexcept nogil:
    """Which of the first n cells of a segment the image has: low .. high."""
    cdef Py_ssize_t place = first + begin * axis.step
    low[0] = 0 if place >= 0 else min(n, (-place + axis.step - 1) // axis.step)
    high[0] = low[0]
    if place < axis.x_size:
        high[0] = max(low[0], min(n, (axis.x_size - place + axis.step - 1) // axis.step))


cdef inline void fill_line(
    floating *to, const floating *source, Py_ssize_t step, Py_ssize_t low, Py_ssize_t high,
    Py_ssize_t n,
) noexcept nogil:
    """Zeros, the image's cells from `source` on, zeros: n in all."""
    zero(to, low)
    copy_spaced(to + low, source, step, high - low)
    zero(to + high, n - high)


cdef void fill_scratch(
    const Sizes *z, const Axis *axes, const Py_ssize_t *firsts, const Py_ssize_t *begin,
    const Py_ssize_t *count, const floating *x, const Py_ssize_t *strides, Py_ssize_t samples,
    floating *scratch,
) noexcept nogil:
    """Copy `samples` samples of one group into the scratch, as far as a box of positions needs.

    ::

        scratch[sample][channel][axis 0: segment, cell] ... [last axis: segment, cell]
        cell i of a segment is cell first + (begin + i) * step of x, or 0 where x has none
    """
    cdef Py_ssize_t last = z.rank - 1
    cdef Py_ssize_t index[MAX_AXES]
    cdef Py_ssize_t needed[MAX_AXES]
    cdef Py_ssize_t row_at[MAX_LINES]
    cdef Py_ssize_t row_x[MAX_LINES]
    cdef bint row_inside[MAX_LINES]
    cdef Py_ssize_t axis, sample, rows, row, channel, cell, place, segment, low, high, n, i
    cdef Py_ssize_t step = axes[last].step * strides[2 + last]
    cdef Py_ssize_t width = lanes_of(scratch)
    # where channels are the neighbours, lines are transposed
    cdef bint by_channels = strides[1] == 1 and z.channels >= 4 and strides[2 + last] != 1
    cdef const floating *source
    cdef floating *to
    cdef floating *rest
    for axis in range(z.rank):
        index[axis] = 0
        needed[axis] = axes[axis].length - axes[axis].box + count[axis]
    n = needed[last]
    axis = 0
    while axis >= 0:
        # some rows of the scratch: where they are, in it and in x
        rows = 0
        while axis >= 0 and rows < MAX_LINES:
            row_inside[rows] = True
            row_at[rows] = 0
            row_x[rows] = 0
            for axis in range(last):
                segment = index[axis] // needed[axis]
                cell = index[axis] - segment * needed[axis]
                place = firsts[axes[axis].first + segment] + (begin[axis] + cell) * axes[axis].step
                row_at[rows] += (segment * axes[axis].length + cell) * axes[axis].pitch
                row_inside[rows] = row_inside[rows] and 0 <= place < axes[axis].x_size
                row_x[rows] += place * strides[2 + axis]
            rows += 1
            axis = last - 1
            while axis >= 0:
                index[axis] += 1
                if index[axis] < axes[axis].segments * needed[axis]:
                    break
                index[axis] = 0
                axis -= 1
        for segment in range(axes[last].segments):
            find_line(&axes[last], firsts[axes[last].first + segment], begin[last], n, &low, &high)
            place = firsts[axes[last].first + segment] + (begin[last] + low) * axes[last].step
            place *= strides[2 + last]
            for sample in range(samples):
                if by_channels:
                    for row in range(rows):
                        to = (
                            scratch + sample * z.channels * z.cells + row_at[row]
                            + segment * axes[last].length)
                        for channel in range(z.channels):
                            zero(to + channel * z.cells, low if row_inside[row] else n)
                            zero(to + channel * z.cells + high, n - high)
                        source = x + sample * strides[0] + row_x[row] + place
                        i = low
                        while i < high and row_inside[row]:
                            rest = to + i + z.channels * z.cells
                            transpose(
                                min(width, high - i), z.channels, source, step,
                                <const floating *> NULL, to + i, z.cells,
                                rest if high - i >= width else <floating *> NULL)
                            source += width * step
                            i += width
                else:
                    for channel in range(z.channels):
                        to = (
                            scratch + (sample * z.channels + channel) * z.cells
                            + segment * axes[last].length)
                        source = x + sample * strides[0] + channel * strides[1] + place
                        for row in range(rows):
                            if row_inside[row]:
                                fill_line(
                                    to + row_at[row], source + row_x[row], step, low, high, n)
                            else:
                                zero(to + row_at[row], n)


# --- the product --------------------------------------------------------------------------------

cdef inline void fill_panel(
    floating *panel, Py_ssize_t width, const floating *source, const Py_ssize_t *offsets,
    Py_ssize_t taps, const fastconv_run *runs, Py_ssize_t count, bint exact,
) noexcept nogil:
    if floating is float:
        fill_panel_f32(panel, width, source, offsets, taps, runs, count, exact)
    else:
        fill_panel_f64(panel, width, source, offsets, taps, runs, count, exact)


cdef inline void tile(
    Py_ssize_t rows, Py_ssize_t vectors, const floating *a, const Py_ssize_t *a_at,
    Py_ssize_t a_row, Py_ssize_t a_step, const floating *b, const Py_ssize_t *places,
    Py_ssize_t segments, const Py_ssize_t *b_at, const Py_ssize_t *runs, Py_ssize_t b_step,
    const floating *start, Py_ssize_t start_pitch, const floating *bias, floating *out,
    Py_ssize_t out_pitch,
) noexcept nogil:
    if floating is float:
        tile_f32(
            rows, vectors, a, a_at, a_row, a_step, b, places, segments, b_at, runs, b_step, start,
            start_pitch, bias, out, out_pitch)
    else:
        tile_f64(
            rows, vectors, a, a_at, a_row, a_step, b, places, segments, b_at, runs, b_step, start,
            start_pitch, bias, out, out_pitch)


cdef inline void dot(
    Py_ssize_t rows, Py_ssize_t taps, const floating *d, Py_ssize_t d_step, const floating *d_end,
    const floating *x, const Py_ssize_t *offsets, Py_ssize_t segments, const Py_ssize_t *d_at,
    const Py_ssize_t *x_at, Py_ssize_t run, floating *sums, Py_ssize_t sums_step,
) noexcept nogil:
    if floating is float:
        dot_f32(
            rows, taps, d, d_step, d_end, x, offsets, segments, d_at, x_at, run, sums, sums_step)
    else:
        dot_f64(
            rows, taps, d, d_step, d_end, x, offsets, segments, d_at, x_at, run, sums, sums_step)


cdef inline Py_ssize_t tap_blocks_of(Py_ssize_t channels, Py_ssize_t kernel) noexcept nogil:
    """Blocks of taps, of about FASTCONV_PANEL_TAPS; one where they fit and the kernel is 1x1."""
    if kernel == 1 and channels <= FASTCONV_TAPS:
        return 1
    return max(
        <Py_ssize_t> 1,
        (channels * kernel + FASTCONV_PANEL_TAPS // 3 * 2 - 1) // FASTCONV_PANEL_TAPS)


cdef inline void list_offsets(
    const Py_ssize_t *kernel, Py_ssize_t taps, Py_ssize_t channel_pitch, Py_ssize_t begin,
    Py_ssize_t count, Py_ssize_t *offsets,
) noexcept nogil:
    """The offsets of some taps, from those of a channel."""
    cdef Py_ssize_t channel = (begin // taps) * channel_pitch
    cdef Py_ssize_t k = begin % taps
    cdef Py_ssize_t j
    for j in range(count):
        offsets[j] = channel + kernel[k]
        k += 1
        if k == taps:
            k = 0
            channel += channel_pitch


cdef inline Py_ssize_t length_of(
    const Panel *panel, Py_ssize_t k, Py_ssize_t shorter
) noexcept nogil:
    """How much of a run of results a phase has."""
    cdef Py_ssize_t lacks = panel.edges[k] & shorter
    return 0 if lacks > LAST_AXIS else panel.targets[k].length - lacks


cdef void store_tile(
    const floating *values, Py_ssize_t pitch, Py_ssize_t rows, const Panel *panel,
    Py_ssize_t shorter, Py_ssize_t row_step, Py_ssize_t step, floating *out,
) noexcept nogil:
    """out[i * row_step + at + j * step] = values[i * pitch + column + j], for each run."""
    cdef Py_ssize_t i, j, k, length
    cdef const floating *source
    cdef floating *to
    cdef Py_ssize_t width = lanes_of(out)
    for k in range(panel.target_runs):
        source = values + panel.targets[k].column
        to = out + panel.targets[k].at
        length = length_of(panel, k, shorter)
        if step == 1:
            for i in range(rows):
                copy(to + i * row_step, source + i * pitch, length)
        elif row_step == 1 and rows <= width:
            transpose(
                rows, length, source, pitch, <const floating *> NULL, to, step,
                <const floating *> NULL)
        else:
            for i in range(rows):
                for j in range(length):
                    to[i * row_step + j * step] = source[i * pitch + j]


cdef void store_woven(
    const Sizes *z, const floating *values, Py_ssize_t pitch, const floating *values_end,
    const Panel *panel, Py_ssize_t shorter, floating *out,
) noexcept nogil:
    """Results of one filter and of phases `pitch` apart, which take turns in a row of `out`."""
    cdef Py_ssize_t k, j, lacks, length
    cdef const floating *source
    cdef floating *to
    for k in range(panel.target_runs):
        lacks = panel.edges[k] & (shorter | LAST_AXIS)
        if lacks > LAST_AXIS:
            continue
        length = panel.targets[k].length
        if z.ragged < z.woven:
            length -= lacks
        source = values + panel.targets[k].column
        to = out + panel.targets[k].at
        transpose(
            z.woven, length, source, pitch, values_end, to, z.woven, <const floating *> NULL)
        if length < panel.targets[k].length:
            for j in range(z.ragged):
                to[length * z.woven + j] = source[j * pitch + length]


cdef inline Py_ssize_t edges_of(
    const Axis *axes, const Py_ssize_t *begin, const Walk *target, Py_ssize_t length
) noexcept nogil:
    """Which axes end with the next `length` positions of a walk with all axes, after the sample."""
    cdef Py_ssize_t last = target.rank - 2
    cdef Py_ssize_t edges = 0
    cdef Py_ssize_t axis
    for axis in range(last):
        if begin[axis] + target.index[1 + axis] == axes[axis].size - 1:
            edges |= <Py_ssize_t> 1 << (1 + axis)
    if begin[last] + target.index[1 + last] + length == axes[last].size:
        edges |= LAST_AXIS
    return edges


cdef void list_panel(
    const Sizes *z, const Axis *axes, const Py_ssize_t *begin, Walk *source, Walk *target,
    Py_ssize_t width, Py_ssize_t *left, Panel *panel,
) noexcept nogil:
    """The next positions, as many as a panel holds."""
    cdef bint in_line = source.step[source.rank - 1] == 1
    cdef Py_ssize_t step = target.step[target.rank - 1]
    cdef Py_ssize_t column, limit, length, edges
    cdef fastconv_run run, result
    cdef fastconv_run *last
    panel.columns = 0
    panel.source_runs = 0
    panel.target_runs = 0
    while panel.columns < z.columns and left[0] > 0:
        limit = width if z.direct else z.columns - panel.columns
        run = next_run(source, limit if in_line else 1)
        run.column = panel.columns
        panel.sources[panel.source_runs] = run
        panel.places[panel.source_runs] = run.at
        panel.source_runs += 1
        panel.columns += width if z.direct else run.length
        left[0] -= run.length
        column = run.column
        while run.length > 0:
            edges = 0
            if z.phases > 1:
                length = target.size[target.rank - 1] - target.index[target.rank - 1]
                edges = edges_of(axes, begin, target, min(length, run.length))
            result = next_run(target, run.length)
            result.column = column
            column += result.length
            run.length -= result.length
            last = panel.targets + panel.target_runs - 1
            if (
                panel.target_runs > 0 and last.at + last.length * step == result.at
                and last.column + last.length == result.column
                and not edges and not panel.edges[panel.target_runs - 1]
            ):
                last.length += result.length
            else:
                panel.targets[panel.target_runs] = result
                panel.edges[panel.target_runs] = edges
                panel.target_runs += 1


cdef void multiply_panels(
    const Sizes *z, const Phase *phase, const Py_ssize_t *kernel, const Panel *panels,
    Py_ssize_t count, Py_ssize_t part_begin, Py_ssize_t part_end, const floating *scratch,
    Py_ssize_t channel_pitch, const floating *weights, const floating *bias, floating *panel,
    floating *sums, bint stores, floating *out, Py_ssize_t row_step, Py_ssize_t out_step,
) noexcept nogil:
    """The sums [tile of filters][panel][filter][column] of one phase; if `stores`, to `out`."""
    cdef Py_ssize_t offsets[FASTCONV_TAPS]
    cdef Py_ssize_t no_offset = 0
    cdef Py_ssize_t width = lanes_of(sums)
    cdef Py_ssize_t taps = z.channels * phase.kernel
    cdef Py_ssize_t blocks = (z.filters + FASTCONV_ROWS - 1) // FASTCONV_ROWS
    cdef Py_ssize_t tap_blocks = tap_blocks_of(z.channels, phase.kernel)
    cdef Py_ssize_t first_filter = block_begin(z.filters, blocks, part_begin)
    cdef Py_ssize_t p, tap_block, together, first_panel, end_panel, tap_begin, tap_count, block, f
    cdef Py_ssize_t rows, vectors, out_pitch
    cdef const floating *sliver
    cdef const floating *start
    cdef floating *to
    cdef bint is_last, is_direct
    for tap_block in range(tap_blocks):
        tap_begin = block_begin(taps, tap_blocks, tap_block)
        tap_count = block_begin(taps, tap_blocks, tap_block + 1) - tap_begin
        is_last = tap_begin + tap_count == taps
        list_offsets(kernel, phase.kernel, channel_pitch, tap_begin, tap_count, offsets)
        # as many panels as fit the room of one with the most taps
        together = max(<Py_ssize_t> 1, FASTCONV_PANEL_TAPS // tap_count)
        first_panel = 0
        while first_panel < count:
            end_panel = min(first_panel + together, count)
            if not z.direct:
                for p in range(first_panel, end_panel):
                    fill_panel(
                        panel + (p - first_panel) * tap_count * z.columns, z.columns, scratch,
                        offsets, tap_count, panels[p].sources, panels[p].source_runs,
                        not z.copied)
            f = first_filter
            for block in range(part_begin, part_end):
                rows = block_begin(z.filters, blocks, block + 1) - f
                sliver = weights + tap_begin * z.filters + f * tap_count
                for p in range(first_panel, end_panel):
                    vectors = (panels[p].columns + width - 1) // width
                    is_direct = (
                        stores and is_last and panels[p].target_runs == 1 and out_step == 1
                        and length_of(&panels[p], 0, phase.shorter) == vectors * width)
                    to = sums + ((f - first_filter) * count + p * rows) * z.columns
                    start = NULL if tap_begin == 0 else to
                    out_pitch = z.columns
                    if is_direct:
                        to = out + panels[p].targets[0].at + f * row_step
                        out_pitch = row_step
                    if z.direct:
                        tile(
                            rows, vectors, sliver, NULL, 0, 0, scratch, panels[p].places,
                            tap_count, offsets, NULL, 0, start, z.columns,
                            bias + f if is_last and bias != NULL else NULL, to, out_pitch)
                    else:
                        tile(
                            rows, vectors, sliver, NULL, 0, 0,
                            panel + (p - first_panel) * tap_count * z.columns, NULL, 1,
                            &no_offset, &tap_count, z.columns, start, z.columns,
                            bias + f if is_last and bias != NULL else NULL, to, out_pitch)
                    if is_last and stores and not is_direct:
                        store_tile(
                            to, z.columns, rows, &panels[p], phase.shorter, row_step, out_step,
                            out + f * row_step)
                f += rows
            first_panel = end_panel


cdef void store_filters(
    const Sizes *z, Py_ssize_t shorter, bint weaves, const Panel *panels, Py_ssize_t count,
    Py_ssize_t part_begin, Py_ssize_t part_end, const floating *sums, Py_ssize_t phase_pitch,
    floating *out, Py_ssize_t row_step, Py_ssize_t out_step,
) noexcept nogil:
    """Write sums to `out`, one filter after the other."""
    cdef Py_ssize_t blocks = (z.filters + FASTCONV_ROWS - 1) // FASTCONV_ROWS
    cdef Py_ssize_t f = block_begin(z.filters, blocks, part_begin)
    cdef Py_ssize_t block, rows, i, p
    cdef const floating *sums_end = sums + z.woven * phase_pitch
    for block in range(part_begin, part_end):
        rows = block_begin(z.filters, blocks, block + 1) - f
        for i in range(rows):
            for p in range(count):
                if weaves:
                    store_woven(
                        z, sums + (p * rows + i) * z.columns, phase_pitch, sums_end, &panels[p],
                        shorter, out + (f + i) * row_step)
                else:
                    store_tile(
                        sums + (p * rows + i) * z.columns, z.columns, 1, &panels[p], shorter,
                        row_step, out_step, out + (f + i) * row_step)
        f += rows
        sums += rows * count * z.columns


cdef inline Py_ssize_t filter_blocks(const Sizes *z, Py_ssize_t width) noexcept nogil:
    """Blocks of filters, of a tile each: of rows, or where filters are lanes, of vectors."""
    cdef Py_ssize_t rows = FASTCONV_LANE_VECTORS * width if z.hop else <Py_ssize_t> FASTCONV_ROWS
    return (z.filters + rows - 1) // rows


include "fused_lanes.pxi"


cdef void convolve_unit(
    const Sizes *z, Py_ssize_t unit, const floating *x, const Py_ssize_t *x_strides,
    const floating *weights, const floating *bias, floating *out, const Py_ssize_t *out_strides,
    floating *space,
) noexcept nogil:
    cdef const Axis *axes = <const Axis *> (z + 1)
    cdef const Py_ssize_t *kernel = <const Py_ssize_t *> (axes + z.rank)
    cdef const Py_ssize_t *firsts = kernel + z.kernel
    cdef const Phase *phases = <const Phase *> (
        firsts + axes[z.rank - 1].first + axes[z.rank - 1].segments)
    cdef const Py_ssize_t *results = <const Py_ssize_t *> (phases + z.phases)
    cdef floating *panel = space + z.scratch_room
    cdef floating *sums = panel + z.panel_room
    cdef Py_ssize_t begin[MAX_AXES]
    cdef Py_ssize_t count[MAX_AXES]
    cdef Panel panels[MAX_PANELS]
    cdef Walk source, target
    cdef Py_ssize_t width = lanes_of(space)
    cdef Py_ssize_t blocks = filter_blocks(z, width)
    cdef Py_ssize_t row_step = out_strides[1]
    cdef Py_ssize_t last = z.rank - 1
    cdef Py_ssize_t part, box, group, axis, positions, left, listed, channel_pitch, samples
    cdef Py_ssize_t group_size = z.channels * z.filters  # weights of a group and kernel index
    cdef Py_ssize_t part_begin, part_end, together, first, i, at, phase_pitch, step
    cdef const floating *image
    cdef const floating *scratch
    cdef bint by_rows, weaves

    part = unit % z.parts
    unit //= z.parts
    box = unit % z.boxes
    unit //= z.boxes
    samples = (z.batch + z.samples - 1) // z.samples
    group = unit // samples
    unit = (unit % samples) * z.samples  # its first sample
    samples = min(z.samples, z.batch - unit)
    part_begin = blocks * part // z.parts
    part_end = blocks * (part + 1) // z.parts
    phase_pitch = block_begin(z.filters, blocks, part_end) - block_begin(
        z.filters, blocks, part_begin)
    phase_pitch *= z.panels * z.columns
    image = x + unit * x_strides[0] + group * z.channels * x_strides[1]
    out += unit * out_strides[0] + group * z.filters * out_strides[1]
    if bias != NULL:
        bias += group * z.filters

    positions = samples * find_box(axes, z.rank, box, begin, count)
    scratch = image
    channel_pitch = x_strides[1]
    if z.hop:
        convolve_lanes(
            z, axes, kernel, firsts, begin, count, samples, part_begin, part_end, image, x_strides,
            weights + group * lanes_size(z, width), bias, out, out_strides, space)
        return
    if z.copied:
        fill_scratch(z, axes, firsts, begin, count, image, x_strides, samples, space)
        scratch = space
        channel_pitch = z.cells
    weaves = z.woven > 1 and out_strides[2 + last] == 1
    by_rows = weaves or (row_step != 1 and z.panels > 1 and z.filters >= MANY_FILTERS)
    together = z.woven if weaves else 1
    first = 0
    while first < z.phases:
        source.rank = 0
        source.at = 0
        target.rank = 0
        target.at = 0
        at = 0
        add_axis(&source, samples, z.channels * z.cells if z.copied else x_strides[0])
        add_axis(&target, samples, out_strides[0])
        for axis in range(z.rank):
            step = out_strides[2 + axis] * axes[axis].stride
            target.at += begin[axis] * step
            if z.phases > 1:
                push_axis(&target, count[axis], step)
            else:
                add_axis(&target, count[axis], step)
            if z.copied:
                add_axis(&source, count[axis], axes[axis].pitch)
            else:
                add_axis(&source, count[axis], x_strides[2 + axis])
                source.at += begin[axis] * x_strides[2 + axis]
            at += results[first * z.rank + axis] * out_strides[2 + axis]
        left = positions
        while left > 0:
            listed = 0
            while listed < z.panels and left > 0:
                list_panel(z, axes, begin, &source, &target, width, &left, &panels[listed])
                listed += 1
            for i in range(first, first + together):
                multiply_panels(
                    z, &phases[i], kernel + phases[i].first, panels, listed, part_begin, part_end,
                    scratch, channel_pitch, weights + group_size * (
                        z.groups * phases[i].first + group * phases[i].kernel),
                    bias, panel, sums + (i - first) * phase_pitch, not by_rows, out + at, row_step,
                    target.step[target.rank - 1])
            if by_rows:
                store_filters(
                    z, phases[first].shorter, weaves, panels, listed, part_begin, part_end, sums,
                    phase_pitch, out + at, row_step, target.step[target.rank - 1])
        first += together


# --- weights ------------------------------------------------------------------------------------

cdef bint pack_block(
    const floating *w, const Py_ssize_t *strides, const Py_ssize_t *kernel, const floating *end,
    const Sizes *z, Py_ssize_t f, Py_ssize_t rows, Py_ssize_t pitch, floating *packed,
) noexcept nogil:
    """packed[block of taps][f .. f + rows][tap][row] = w, for one group; whether all are finite.

    strides are those of filters and channels, `kernel` the offset of each kernel index. Where
    filters are lanes, taps are one block, and rows followed by zeros: `pitch` numbers a tap.
    """
    cdef Py_ssize_t taps = z.kernel
    cdef Py_ssize_t total = z.channels * taps
    cdef Py_ssize_t tap_blocks = 1 if z.hop else tap_blocks_of(z.channels, taps)
    cdef Py_ssize_t tap_block, tap_begin, tap_count, r, i, k, run
    cdef bint in_line = True  # kernel indices are neighbours, in order
    cdef bint finite = True
    cdef const floating *source
    cdef floating *to
    cdef floating *to_end
    for k in range(taps):
        in_line = in_line and kernel[k] == k
    if in_line and strides[1] == taps:  # and so are channels
        taps = total
    for tap_block in range(tap_blocks):
        tap_begin = block_begin(total, tap_blocks, tap_block)
        tap_count = block_begin(total, tap_blocks, tap_block + 1) - tap_begin
        to = packed + tap_begin * z.filters + f * tap_count
        to_end = to + tap_count * pitch
        r = tap_begin
        while r < tap_begin + tap_count:
            k = r % taps
            run = min(taps - k, tap_begin + tap_count - r)
            source = w + f * strides[0] + (r // taps) * strides[1]
            if in_line and strides[0] != 1:
                transpose(rows, run, source + k, strides[0], end, to, pitch, to_end)
                to += run * pitch
                r += run
            else:
                source += k if in_line else kernel[k]
                for i in range(rows):
                    to[i] = source[i * strides[0]]
                zero(to + rows, pitch - rows)
                to += pitch
                r += 1
        finite = finite and all_finite(to_end - tap_count * pitch, tap_count * pitch)
    return finite


# --- the gradient of the bias -------------------------------------------------------------------

cdef inline Py_ssize_t add_run(
    floating *lanes, Py_ssize_t lane, const floating *source, Py_ssize_t step, Py_ssize_t length
) noexcept nogil:
    """Add some numbers to the lanes, in turn, the first to `lane`; return whose turn is next."""
    cdef Py_ssize_t i, some
    while length > 0:
        if step == 1 and lane == 0 and length >= SUM_LANES:
            some = SUM_LANES
            for i in range(SUM_LANES):
                lanes[i] += source[i]
        else:
            some = min(length, SUM_LANES - lane)
            for i in range(some):
                lanes[lane + i] += source[i * step]
            lane = (lane + some) % SUM_LANES
        source += some * step
        length -= some
    return lane


cdef floating sum_filter(
    const floating *dout, Py_ssize_t segments, const Py_ssize_t *at, const Py_ssize_t *lengths,
    Py_ssize_t step,
) noexcept nogil:
    """The sum over a piece of positions, of which the i-th goes to lane i % SUM_LANES."""
    cdef floating lanes[SUM_LANES]
    cdef Py_ssize_t lane = 0
    cdef Py_ssize_t half = SUM_LANES // 2
    cdef Py_ssize_t segment, i
    zero(&lanes[0], SUM_LANES)
    for segment in range(segments):
        lane = add_run(&lanes[0], lane, dout + at[segment], step, lengths[segment])
    while half > 0:
        for i in range(half):
            lanes[i] += lanes[i + half]
        half //= 2
    return lanes[0]


cdef void sum_filters(
    const floating *dout, Py_ssize_t segments, const Py_ssize_t *at, const Py_ssize_t *lengths,
    Py_ssize_t step, Py_ssize_t filters, floating *totals,
) noexcept nogil:
    """The same for some neighbouring filters, added to their totals."""
    cdef floating lanes[SUM_LANES * SUM_ROW]
    cdef Py_ssize_t position = 0
    cdef Py_ssize_t half = SUM_LANES * SUM_ROW // 2
    cdef Py_ssize_t segment, i, f, _
    cdef floating *sums
    cdef const floating *source
    zero(&lanes[0], SUM_LANES * SUM_ROW)
    for segment in range(segments):
        source = dout + at[segment]
        for _ in range(lengths[segment]):
            sums = &lanes[0] + position % SUM_LANES * SUM_ROW
            for f in range(filters):
                sums[f] += source[f]
            source += step
            position += 1
    while half >= SUM_ROW:
        for i in range(half):
            lanes[i] += lanes[i + half]
        half //= 2
    for f in range(filters):
        totals[f] += lanes[f]


cdef void sum_units(
    const floating *dout, const Py_ssize_t *strides, const Py_ssize_t *sizes, Py_ssize_t rank,
    Py_ssize_t piece, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first_sample,
    Py_ssize_t end_sample, floating *db,
) noexcept nogil:
    """db, from a unit of SUM_FILTERS to another, += the sums over some samples, piece by piece."""
    cdef Walk walk
    cdef fastconv_run run
    cdef Py_ssize_t at[LONGEST_PIECE]
    cdef Py_ssize_t lengths[LONGEST_PIECE]
    cdef Py_ssize_t positions = sizes[2]
    cdef Py_ssize_t n, f, axis, left, some, segments, step, filters
    cdef bint by_filters
    walk.rank = 0
    walk.at = 0
    push_axis(&walk, sizes[2], strides[2])
    for axis in range(3, rank):
        positions *= sizes[axis]
        add_axis(&walk, sizes[axis], strides[axis])
    step = walk.step[walk.rank - 1]
    by_filters = strides[1] == 1 and step != 1
    begin *= SUM_FILTERS
    end = min(end * SUM_FILTERS, sizes[1])
    for n in range(first_sample, end_sample):
        f = begin
        while f < end:
            filters = min(<Py_ssize_t> SUM_ROW, end - f) if by_filters else 1
            left = positions
            while left > 0:
                some = min(piece, left)
                left -= some
                segments = 0
                while some > 0:
                    run = next_run(&walk, some)
                    at[segments] = n * strides[0] + f * strides[1] + run.at
                    lengths[segments] = run.length
                    some -= run.length
                    segments += 1
                if by_filters:
                    sum_filters(dout, segments, at, lengths, step, filters, db + f)
                else:
                    db[f] += sum_filter(dout, segments, at, lengths, step)
            f += filters


# --- the gradient of the weights ----------------------------------------------------------------

include "fused_gradient.pxi"


# --- what Python calls --------------------------------------------------------------------------

cdef inline void *place_of(const Sizes *z, cnp.ndarray packed) noexcept:
    """Where packed weights begin: those that are lanes, at a line of the cache."""
    return aligned(packed) if z.hop else cnp.PyArray_DATA(packed)


cdef void convolve_units(
    const Sizes *z, cnp.ndarray x, void *packed, cnp.ndarray bias, cnp.ndarray out, void *space,
    Py_ssize_t begin, Py_ssize_t end,
) noexcept:
    """Compute units begin .. end."""
    cdef Py_ssize_t strides[2 * MAX_AXES]
    cdef Py_ssize_t unit
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(out)
    cdef void *added = NULL if bias is None else cnp.PyArray_DATA(bias)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    set_strides(x, strides)
    set_strides(out, strides + MAX_AXES)
    with nogil:
        for unit in range(begin, end):
            if single:
                convolve_unit(
                    z, unit, <const float *> source, strides, <const float *> packed,
                    <const float *> added, <float *> target, strides + MAX_AXES, <float *> space)
            else:
                convolve_unit(
                    z, unit, <const double *> source, strides, <const double *> packed,
                    <const double *> added, <double *> target, strides + MAX_AXES,
                    <double *> space)


cdef bint pack_blocks(
    const Sizes *z, cnp.ndarray w, const Py_ssize_t *places, void *packed, bint transposed,
    Py_ssize_t begin, Py_ssize_t end,
) noexcept:
    """Pack blocks begin .. end of filters; whether their weights are finite."""
    cdef Py_ssize_t strides[2]
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(w)
    cdef Py_ssize_t group_step = cnp.PyArray_DIM(w, 0) // z.groups * (
        cnp.PyArray_STRIDE(w, 0) // item)
    cdef void *source = cnp.PyArray_DATA(w)
    cdef bint single = cnp.PyArray_TYPE(w) == cnp.NPY_FLOAT32
    cdef bint finite = True
    cdef Py_ssize_t width = LANES_f32 if single else LANES_f64
    cdef Py_ssize_t blocks = filter_blocks(z, width)
    cdef Py_ssize_t size = z.filters * z.channels * z.kernel
    cdef void *w_end = end_of(w)
    cdef Py_ssize_t unit, f, rows, pitch, group, vectors
    strides[0] = cnp.PyArray_STRIDE(w, 0) // item
    strides[1] = cnp.PyArray_STRIDE(w, 1) // item
    if transposed:
        strides[0], strides[1] = strides[1], strides[0]
    if z.hop:
        size = lanes_size(z, width)
    with nogil:
        for unit in range(begin, end):
            group = unit // blocks
            f = block_begin(z.filters, blocks, unit % blocks)
            rows = block_begin(z.filters, blocks, unit % blocks + 1) - f
            pitch = rows
            if z.hop:
                vectors = (z.filters + width - 1) // width
                f = block_begin(vectors, blocks, unit % blocks) * width
                pitch = block_begin(vectors, blocks, unit % blocks + 1) * width - f
                rows = min(pitch, z.filters - f)
            if single:
                finite &= pack_block(
                    <const float *> source + group * group_step, strides, places,
                    <const float *> w_end, z, f, rows, pitch, <float *> packed + group * size)
            else:
                finite &= pack_block(
                    <const double *> source + group * group_step, strides, places,
                    <const double *> w_end, z, f, rows, pitch, <double *> packed + group * size)
    return finite


def pack(
    cnp.ndarray sizes not None, cnp.ndarray w not None, cnp.ndarray offsets not None,
    cnp.ndarray packed not None, bint transposed, Py_ssize_t begin, Py_ssize_t end,
):
    """Bring blocks begin .. end of the filters of w (F, C/group, *K) to the order of the tiles.

    `offsets` has the place of each kernel index that is a tap. With `transposed` the channels are
    the filters and the other way round. Returns whether all these weights are finite.
    """
    return pack_blocks(
        <const Sizes *> cnp.PyArray_DATA(sizes), w, <const Py_ssize_t *> cnp.PyArray_DATA(offsets),
        place_of(<const Sizes *> cnp.PyArray_DATA(sizes), packed), transposed, begin, end)


def convolve(
    cnp.ndarray sizes not None, cnp.ndarray x not None, cnp.ndarray weights not None,
    cnp.ndarray bias, cnp.ndarray out not None, cnp.ndarray space not None,
    Py_ssize_t begin, Py_ssize_t end,
):
    """Compute units begin .. end of out (N, F, *O) from x (N, C, *S) and packed weights."""
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    convolve_units(
        z, x, place_of(z, weights), bias, out, aligned(space), begin, end)


def convolve_at_once(
    cnp.ndarray sizes not None, cnp.ndarray x not None, cnp.ndarray w not None,
    cnp.ndarray offsets not None, cnp.ndarray bias, cnp.ndarray out not None,
    cnp.ndarray space not None, Py_ssize_t blocks, Py_ssize_t units, Py_ssize_t weights,
):
    """Pack w (F, C/group, *K), and compute out: `blocks` and `units` are all of them.

    The last `weights` numbers of the space are for the packed ones.
    """
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    cdef char *packed = <char *> cnp.PyArray_DATA(space) + (
        cnp.PyArray_SIZE(space) - weights) * cnp.PyArray_ITEMSIZE(space)
    pack_blocks(z, w, <const Py_ssize_t *> cnp.PyArray_DATA(offsets), packed, False, 0, blocks)
    convolve_units(z, x, packed, bias, out, aligned(space), 0, units)


def weight_gradient(
    cnp.ndarray sizes not None, bint dots, cnp.ndarray x not None, cnp.ndarray dout not None,
    cnp.ndarray dw not None, cnp.ndarray db, cnp.ndarray space not None, Py_ssize_t first_block,
    Py_ssize_t end_block, Py_ssize_t begin, Py_ssize_t end,
):
    """Add to units begin .. end of a contiguous dw (F, C/group, *K) from x and dout (N, F, *O).

    That is from blocks first_block .. end_block of samples and positions; blocks must come in
    order. With `dots` the sizes are `Sizes`, else `GradientSizes`. To a contiguous db (F,), if
    there is one, dout is added too, for which a block must have whole samples, and no scratch.
    """
    cdef void *z = cnp.PyArray_DATA(sizes)
    cdef Py_ssize_t strides[2 * MAX_AXES]
    cdef Py_ssize_t unit
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *gradient = cnp.PyArray_DATA(dout)
    cdef void *target = cnp.PyArray_DATA(dw)
    cdef void *sums = NULL if db is None else cnp.PyArray_DATA(db)
    cdef void *room = aligned(space)
    cdef void *x_end = end_of(x)
    cdef void *dout_end = end_of(dout)
    cdef void *dw_end = end_of(dw)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    set_strides(x, strides)
    set_strides(dout, strides + MAX_AXES)
    with nogil:
        for unit in range(begin, end):
            if dots and single:
                gradient_dots(
                    <const Sizes *> z, unit, first_block, end_block, <const float *> source,
                    strides, <const float *> gradient, <const float *> dout_end,
                    strides + MAX_AXES, <float *> target, <float *> room)
            elif dots:
                gradient_dots(
                    <const Sizes *> z, unit, first_block, end_block, <const double *> source,
                    strides, <const double *> gradient, <const double *> dout_end,
                    strides + MAX_AXES, <double *> target, <double *> room)
            elif single:
                gradient_unit(
                    <const GradientSizes *> z, unit, first_block, end_block,
                    <const float *> source, <const float *> x_end, strides,
                    <const float *> gradient, <const float *> dout_end, strides + MAX_AXES,
                    <float *> target, <const float *> dw_end, <float *> sums, <float *> room)
            else:
                gradient_unit(
                    <const GradientSizes *> z, unit, first_block, end_block,
                    <const double *> source, <const double *> x_end, strides,
                    <const double *> gradient, <const double *> dout_end, strides + MAX_AXES,
                    <double *> target, <const double *> dw_end, <double *> sums, <double *> room)


def bias_gradient(
    cnp.ndarray dout not None, cnp.ndarray db not None, Py_ssize_t piece, Py_ssize_t first_sample,
    Py_ssize_t end_sample, Py_ssize_t begin, Py_ssize_t end,
):
    """Add to filters from begin to end, counted in SUM_UNITs, of a contiguous db (F,).

    That is the sum over the positions of some samples of dout (N, F, *O), which must come in order,
    and of which `piece` are added up at a time.
    """
    cdef Py_ssize_t strides[MAX_AXES]
    cdef Py_ssize_t sizes[MAX_AXES]
    cdef Py_ssize_t rank = cnp.PyArray_NDIM(dout)
    cdef Py_ssize_t axis
    cdef void *source = cnp.PyArray_DATA(dout)
    cdef void *target = cnp.PyArray_DATA(db)
    cdef bint single = cnp.PyArray_TYPE(dout) == cnp.NPY_FLOAT32
    set_strides(dout, strides)
    for axis in range(rank):
        sizes[axis] = cnp.PyArray_DIM(dout, axis)
    with nogil:
        if single:
            sum_units(
                <const float *> source, strides, sizes, rank, piece, begin, end, first_sample,
                end_sample, <float *> target)
        else:
            sum_units(
                <const double *> source, strides, sizes, rank, piece, begin, end, first_sample,
                end_sample, <double *> target)


# Of this build: rows and vectors of a tile, rows of one that is four vectors wide, taps of a panel.
ROWS, VECTORS, NARROW_ROWS = FASTCONV_ROWS, FASTCONV_VECTORS, FASTCONV_NARROW_ROWS
TAPS = FASTCONV_TAPS
# Where filters are lanes: vectors of a tile, and positions whose sums are kept, at most.
LANE_VECTORS, BAND = FASTCONV_LANE_VECTORS, MAX_BAND
SUM_UNIT = SUM_FILTERS  # filters whose biases are summed up together
# Positions that a gradient is summed over at a time, at most, and what those of the bias are a
# multiple of.
PIECE, PIECE_STEP = LONGEST_PIECE, SUM_LANES
ALIGNED = ALIGNMENT  # bytes; a space is longer by one less than these


def lanes(Py_ssize_t itemsize):
    """Numbers of that size in one vector."""
    return LANES_f32 if itemsize == sizeof(float) else LANES_f64
