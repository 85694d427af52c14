# cython: language_level=3
# The caller guarantees every size (see _engines/winograd.py), so indices are neither tested nor
# wrapped, and cdivision saves the test for a divisor of 0: steps and counts are at least 1.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernels of the engine `winograd`: convolution by tiles, in the forms of winograd.h.

A unit of work is a group, some filters, and some tiles, in the order of samples, rows and columns;
tiles are the lanes of vectors. For each block of channels, and each point of the form::

    x -> scratch: the rows that a row of tiles reads
      -> lines:   B^T d
      -> inputs:  B^T d B        [panel][point][channel][tile]
    w -> taps:                   [channel][tap][filter]
      -> weights: G g G^T        [point][block of filters][channel][filter]
         sums:    their products [panel][block of filters][point][filter][tile]
      -> results: A^T s A + bias [filter][row][cell]
      -> out

A channel of x gives as many channels of this convolution as it has folds: with a stride, its
phases, or in place of those of the rows, all rows of the kernel. Each has its own taps; where these
are fewer than the form has, the rest are zeros.

Sums are added up over blocks of channels that depend on the layer alone, and no tile meets another:
so a result's bits do not depend on the unit.
"""

cimport numpy as cnp
from cython cimport floating

from fastconv._kernels.simd cimport (
    ALIGNMENT, FASTCONV_ROWS, FASTCONV_VECTORS, LANES_f32, LANES_f64, aligned, block_begin, copy,
    end_of, lanes_of, set_strides, tile_f32, tile_f64, transpose,
)

cnp.import_array()

cdef extern from "winograd.h" nogil:
    void pick_f32(float *, const float *, Py_ssize_t, Py_ssize_t)
    void fetch_f32(const float *, Py_ssize_t, int)
    void pick_f64(double *, const double *, Py_ssize_t, Py_ssize_t)
    void fetch_f64(const double *, Py_ssize_t, int)
    void clear_f32(float *, Py_ssize_t)
    void clear_f64(double *, Py_ssize_t)
    float peak_f32(const float *, Py_ssize_t, float)
    double peak_f64(const double *, Py_ssize_t, double)
    void transform_lines_f32(
        Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, float *, Py_ssize_t, float *)
    void transform_lines_f64(
        Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, double *, Py_ssize_t, double *)
    void transform_tiles_f32(Py_ssize_t, const float *, Py_ssize_t, float *, Py_ssize_t)
    void transform_tiles_f64(Py_ssize_t, const double *, Py_ssize_t, double *, Py_ssize_t)
    void transform_block_f32(
        Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, int, float *, Py_ssize_t)
    void transform_block_f64(
        Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, int, double *, Py_ssize_t)
    void transform_results_f32(
        Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, float, float *, Py_ssize_t)
    void transform_results_f64(
        Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, double, double *, Py_ssize_t)

cdef enum:
    MAX_TILES = 256    # of a unit
    MAX_LANES = 16
    AHEAD = 2          # channels, or rows of one, that are brought to the cache beforehand
    LINE = 64          # bytes of a line of cache

# What `_engines/winograd.py` writes down as a row of integers, in this order.
cdef struct Sizes:
    Py_ssize_t form           # m and taps of the rows and of the columns, as four digits
    Py_ssize_t row_m          # results of a tile along an axis,
    Py_ssize_t column_m
    Py_ssize_t row_points     # and cells that it reads
    Py_ssize_t column_points
    Py_ssize_t kernel_height  # taps of w, before they are folded
    Py_ssize_t kernel_width
    Py_ssize_t row_step       # the stride
    Py_ssize_t column_step
    Py_ssize_t row_folds      # channels that one of x gives along an axis, a tap apart
    Py_ssize_t column_folds
    Py_ssize_t batch
    Py_ssize_t groups
    Py_ssize_t channels       # of one group, each fold one
    Py_ssize_t filters        # of one group
    Py_ssize_t x_height
    Py_ssize_t x_width
    Py_ssize_t height         # of the result
    Py_ssize_t width
    Py_ssize_t top            # rows of zeros before x; less than 0 where rows of x are left out
    Py_ssize_t left
    Py_ssize_t depths         # blocks that the channels are cut into
    Py_ssize_t blocks         # that the filters are cut into, each the rows of a tile of products
    Py_ssize_t together       # blocks whose weights are used together
    Py_ssize_t turns          # so many there are of these
    Py_ssize_t parts          # that the turns are cut into, for units of their own
    Py_ssize_t tiles          # of a unit, whole vectors
    Py_ssize_t units          # that the tiles of the batch are cut into
    Py_ssize_t panel          # tiles that are multiplied together, whole vectors
    Py_ssize_t line           # numbers from one transformed line of x to the next,
    Py_ssize_t inputs_step    # and from one point to the next, of the transformed x of a panel,
    Py_ssize_t sums_step      # of the sums of a block,
    Py_ssize_t weights_step   # and of the weights that are used together
    Py_ssize_t scratch_room   # parts of the space: numbers in the scratch of a channel,
    Py_ssize_t lines_room     # in its lines,
    Py_ssize_t first_room     # in those of a vector of channels, or in results
    Py_ssize_t inputs_room    # in the transformed x,
    Py_ssize_t sums_room
    Py_ssize_t taps_room      # in the taps of a block of filters,
    Py_ssize_t channel_room   # in those of a channel whose kernel is unlike the form's,
    Py_ssize_t weights_room   # and in the transformed weights; 0 where these are packed beforehand

# Neighbouring tiles of a unit, in one row.
cdef struct Run:
    Py_ssize_t sample
    Py_ssize_t row
    Py_ssize_t column
    Py_ssize_t length
    Py_ssize_t at             # the first one's place in the unit
    Py_ssize_t cells          # of a row of the result

# Cells of the result that are to be brought to the cache, and how far this has got.
cdef struct Ahead:
    const Run *runs
    Py_ssize_t count
    Py_ssize_t filter
    Py_ssize_t end_filter
    Py_ssize_t run
    Py_ssize_t row
    Py_ssize_t at             # from the first cell of the result to the next one,
    Py_ssize_t end            # and to the end of its row in its run
    Py_ssize_t lines          # of cache, at a time


cdef inline void clear(floating *to, Py_ssize_t n) noexcept nogil:
    if floating is float:
        clear_f32(to, n)
    else:
        clear_f64(to, n)


cdef inline void fetch(const floating *numbers, Py_ssize_t n, bint writes) noexcept nogil:
    if floating is float:
        fetch_f32(numbers, n, writes)
    else:
        fetch_f64(numbers, n, writes)


cdef inline void pick(
    floating *to, const floating *source, Py_ssize_t step, Py_ssize_t n
) noexcept nogil:
    if floating is float:
        pick_f32(to, source, step, n)
    else:
        pick_f64(to, source, step, n)


cdef inline floating peak(const floating *numbers, Py_ssize_t n, floating most) noexcept nogil:
    if floating is float:
        return peak_f32(numbers, n, most)
    else:
        return peak_f64(numbers, n, most)


cdef inline Py_ssize_t points_of(const Sizes *z) noexcept nogil:
    return z.row_points * z.column_points


# --- x ------------------------------------------------------------------------------------------

cdef Py_ssize_t list_runs(
    const Sizes *z, Py_ssize_t begin, Py_ssize_t end, Run *runs
) noexcept nogil:
    """List tiles begin .. end, counted over the batch."""
    cdef Py_ssize_t across = (z.width + z.column_m - 1) // z.column_m
    cdef Py_ssize_t down = (z.height + z.row_m - 1) // z.row_m
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t tile = begin
    while tile < end:
        runs[count].at = tile - begin
        runs[count].column = tile % across
        runs[count].row = tile // across % down
        runs[count].sample = tile // (across * down)
        runs[count].length = min(across - runs[count].column, end - tile)
        runs[count].cells = min(
            runs[count].length * z.column_m, z.width - runs[count].column * z.column_m)
        tile += runs[count].length
        count += 1
    return count


cdef Py_ssize_t list_spans(
    const Sizes *z, const Run *runs, Py_ssize_t count, const Py_ssize_t *strides, Run *spans
) noexcept nogil:
    """List runs again, as one those whose cells are neighbours in the result too."""
    cdef bint joins = (
        z.row_m == 1 and z.width % z.column_m == 0 and strides[2] == z.width * strides[3])
    cdef Py_ssize_t spans_count = 0
    cdef Py_ssize_t r
    for r in range(count):
        if joins and r and runs[r].sample == runs[r - 1].sample:
            spans[spans_count - 1].cells += runs[r].cells
        else:
            spans[spans_count] = runs[r]
            spans_count += 1
    return spans_count


cdef inline Py_ssize_t cells_of(const Sizes *z, const Run *run) noexcept nogil:
    """Cells that the tiles of a run read from one row."""
    return (run.length - 1) * z.column_m + z.column_points


cdef void fill_scratch(
    const Sizes *z, const Run *run, Py_ssize_t pitch, const floating *x, const floating *x_end,
    const Py_ssize_t *strides, Py_ssize_t channels, Py_ssize_t ahead, floating *scratch,
) noexcept nogil:
    """scratch[channel][row][cell] = what the tiles of a run read, with zeros around the image."""
    cdef Py_ssize_t cells = cells_of(z, run)
    cdef Py_ssize_t first = run.column * z.column_m - z.left
    cdef Py_ssize_t low = min(cells, max(<Py_ssize_t> 0, -first))
    cdef Py_ssize_t high = max(low, min(cells, z.x_width - first))
    cdef Py_ssize_t row, y, channel, i
    cdef const floating *source
    cdef floating *to
    x += run.sample * strides[0] + (first + low) * strides[3]
    for row in range(z.row_points):
        y = run.row * z.row_m - z.top + row
        to = scratch + row * pitch
        if not 0 <= y < z.x_height or low == high:
            for channel in range(channels):
                clear(to + channel * z.scratch_room, pitch)
            continue
        for channel in range(channels):
            clear(to + channel * z.scratch_room, low)
            clear(to + channel * z.scratch_room + high, pitch - high)
        source = x + y * strides[2]
        to += low
        if strides[3] == 1:
            for channel in range(channels):
                copy(to + channel * z.scratch_room, source + channel * strides[1], high - low)
                if ahead:
                    fetch(source + (channel + ahead) * strides[1], high - low, False)
        elif strides[1] == 1:
            transpose(
                high - low, channels, source, strides[3], x_end, to, z.scratch_room,
                scratch + channels * z.scratch_room)
        else:
            for channel in range(channels):
                for i in range(high - low):
                    to[channel * z.scratch_room + i] = source[
                        channel * strides[1] + i * strides[3]]


cdef inline Py_ssize_t steps_up(Py_ssize_t cells, Py_ssize_t step) noexcept nogil:
    """Steps that it takes to get so far at least; 0 if that is behind."""
    return (max(<Py_ssize_t> 0, cells) + step - 1) // step


cdef void fill_fold(
    const Sizes *z, const Run *run, Py_ssize_t pitch, const floating *x, const Py_ssize_t *strides,
    Py_ssize_t channel, floating *scratch,
) noexcept nogil:
    """`fill_scratch`, for one of the channels that x, which is that of the group, is folded to."""
    cdef Py_ssize_t fold = channel % (z.row_folds * z.column_folds)
    cdef Py_ssize_t cells = cells_of(z, run)
    cdef Py_ssize_t top = run.row * z.row_m * z.row_step + fold // z.column_folds - z.top
    cdef Py_ssize_t first = (
        run.column * z.column_m * z.column_step + fold % z.column_folds - z.left)
    cdef Py_ssize_t low = min(cells, steps_up(-first, z.column_step))
    cdef Py_ssize_t high = max(low, min(cells, steps_up(z.x_width - first, z.column_step)))
    cdef Py_ssize_t step = z.column_step * strides[3]
    cdef Py_ssize_t row, y
    x += run.sample * strides[0] + channel // (z.row_folds * z.column_folds) * strides[1]
    x += (first + low * z.column_step) * strides[3]
    for row in range(z.row_points):
        y = top + row * z.row_step
        if not 0 <= y < z.x_height or low == high:
            clear(scratch, pitch)
        else:
            clear(scratch, low)
            if 0 <= y + AHEAD * z.row_step < z.x_height:
                fetch(x + (y + AHEAD * z.row_step) * strides[2], (high - low) * step, False)
            pick(scratch + low, x + y * strides[2], step, high - low)
            clear(scratch + high, pitch - high)
        scratch += pitch


cdef void transform_channel(
    const Sizes *z, Py_ssize_t tiles, const floating *lines, floating *inputs
) noexcept nogil:
    """inputs[panel][point][tile] = B^T d B for one channel."""
    cdef Py_ssize_t panel_step = points_of(z) * z.inputs_step
    cdef Py_ssize_t tile = 0
    cdef floating *to
    while tile < tiles:
        to = inputs + tile // z.panel * panel_step + tile % z.panel
        if floating is float:
            transform_tiles_f32(z.form, lines + tile * z.column_m, z.line, to, z.inputs_step)
        else:
            transform_tiles_f64(z.form, lines + tile * z.column_m, z.line, to, z.inputs_step)
        tile += lanes_of(lines)


cdef inline void transform_run(
    const Sizes *z, const Run *run, Py_ssize_t pitch, const floating *scratch, floating *lines,
    floating *peaks,
) noexcept nogil:
    """lines = B^T d for the tiles of a run."""
    if floating is float:
        transform_lines_f32(
            z.form, scratch, pitch, pitch, lines + run.at * z.column_m, z.line, peaks)
    else:
        transform_lines_f64(
            z.form, scratch, pitch, pitch, lines + run.at * z.column_m, z.line, peaks)


cdef void clear_lines(const Sizes *z, Py_ssize_t tiles, floating *lines) noexcept nogil:
    """Lanes without tiles: subnormal numbers left in memory would take their time."""
    cdef Py_ssize_t width = lanes_of(lines)
    cdef Py_ssize_t line
    for line in range(z.lines_room // z.line):
        clear(
            lines + line * z.line + tiles * z.column_m,
            ((tiles + width - 1) // width * width - tiles) * z.column_m)


cdef void transform_folded_images(
    const Sizes *z, const Run *runs, Py_ssize_t count, Py_ssize_t tiles, const floating *x,
    const Py_ssize_t *strides, Py_ssize_t first, Py_ssize_t channels, floating *space,
    floating *inputs, floating *peaks,
) noexcept nogil:
    """`transform_images`, where a channel of x gives several.

    If each row of the kernel has one, a row of results finds most of its rows of x transformed for
    the row before, in the channel of the kernel's row that is a stride further down.
    """
    cdef Py_ssize_t width = lanes_of(x)
    cdef Py_ssize_t apart = z.row_step * z.column_folds  # from that channel to this one
    cdef bint keeps = z.row_step < z.row_folds
    cdef Py_ssize_t slots = apart + 1 if keeps else 1
    cdef Py_ssize_t channel, r, pitch, line, shift
    cdef floating *all_lines = space + z.scratch_room
    cdef floating *lines
    cdef const floating *taken
    cdef bint shares
    for channel in range(slots):
        clear_lines(z, tiles, all_lines + channel * z.lines_room)
    for channel in range(first + channels - 1, first - 1, -1):
        lines = all_lines + channel % slots * z.lines_room
        taken = all_lines + (channel + apart) % slots * z.lines_room
        shares = (
            keeps and channel + apart < first + channels
            and channel // z.column_folds % z.row_folds + z.row_step < z.row_folds)
        for r in range(count):
            if (
                shares and r and runs[r - 1].sample == runs[r].sample
                and runs[r - 1].column <= runs[r].column
                and runs[r - 1].column + runs[r - 1].length >= runs[r].column + runs[r].length
            ):
                shift = runs[r].column - runs[r - 1].column + runs[r - 1].at
                for line in range(z.lines_room // z.line):
                    copy(
                        lines + line * z.line + runs[r].at * z.column_m,
                        taken + line * z.line + shift * z.column_m, runs[r].length * z.column_m)
            else:
                pitch = (cells_of(z, runs + r) + width - 1) // width * width
                fill_fold(z, runs + r, pitch, x, strides, channel, space)
                transform_run(
                    z, runs + r, pitch, space, lines,
                    peaks + (runs[r].sample - runs[0].sample) * width)
        transform_channel(z, tiles, lines, inputs + (channel - first) * z.panel)


cdef void transform_images(
    const Sizes *z, const Run *runs, Py_ssize_t count, Py_ssize_t tiles, const floating *x,
    const floating *x_end, const Py_ssize_t *strides, Py_ssize_t first, Py_ssize_t channels,
    floating *space, floating *inputs, floating *peaks,
) noexcept nogil:
    """inputs[panel][point][channel][tile] = B^T d B for the tiles of a unit.

    x is that of the group, of which channels from `first` on are taken. `peaks` takes the largest
    magnitudes in the samples of the unit, a vector each.
    """
    cdef Py_ssize_t width = lanes_of(x)
    # channels are read together where they are the neighbours
    cdef Py_ssize_t most = width if strides[1] == 1 and strides[3] != 1 else 1
    cdef floating *lines = space + width * z.scratch_room
    cdef Py_ssize_t begin = 0
    cdef Py_ssize_t end, r, pitch, channel
    for channel in range(min(most, channels)):
        clear_lines(z, tiles, lines + channel * z.lines_room)
    while begin < channels:
        end = min(begin + most, channels)
        for r in range(count):
            pitch = (cells_of(z, runs + r) + width - 1) // width * width
            fill_scratch(
                z, runs + r, pitch, x + (first + begin) * strides[1], x_end, strides,
                end - begin, AHEAD if end + AHEAD <= channels else 0, space)
            for channel in range(end - begin):
                transform_run(
                    z, runs + r, pitch, space + channel * z.scratch_room,
                    lines + channel * z.lines_room,
                    peaks + (runs[r].sample - runs[0].sample) * width)
        for channel in range(begin, end):
            transform_channel(
                z, tiles, lines + (channel - begin) * z.lines_room, inputs + channel * z.panel)
        begin = end


# --- weights ------------------------------------------------------------------------------------

cdef void gather_taps(
    const Sizes *z, Py_ssize_t fold, Py_ssize_t rows, Py_ssize_t row_taps, Py_ssize_t column_taps,
    const floating *w, const Py_ssize_t *strides, floating *taps,
) noexcept nogil:
    """taps[tap][filter] = those of one of the folds, and zeros where the kernel has none.

    w is that of a channel.
    """
    cdef Py_ssize_t i, j, f, row, column
    cdef const floating *source
    for i in range(row_taps):
        row = i * z.row_folds + fold // z.column_folds
        for j in range(column_taps):
            column = j * z.column_folds + fold % z.column_folds
            if row >= z.kernel_height or column >= z.kernel_width:
                for f in range(rows):
                    taps[f] = 0
            else:
                source = w + row * strides[2] + column * strides[3]
                if strides[0] == 1:
                    for f in range(rows):
                        taps[f] = source[f]
                else:
                    for f in range(rows):
                        taps[f] = source[f * strides[0]]
            taps += rows


cdef floating transform_weights(
    const Sizes *z, Py_ssize_t channel, Py_ssize_t channels, Py_ssize_t block,
    Py_ssize_t end_block, const floating *w, const floating *w_end, const Py_ssize_t *strides,
    floating *taps, floating *to, floating most,
) noexcept nogil:
    """to[point][block][channel][filter] = G g G^T; return the largest magnitude so far.

    w is that of the group, of which channels from `channel` on are taken; strides are those of
    filters, channels, and the kernel's two axes.
    """
    cdef Py_ssize_t first = block_begin(z.filters, z.blocks, block)
    cdef Py_ssize_t row_taps = z.row_points - z.row_m + 1
    cdef Py_ssize_t column_taps = z.column_points - z.column_m + 1
    cdef Py_ssize_t all_taps = row_taps * column_taps
    cdef Py_ssize_t folds = z.row_folds * z.column_folds
    cdef Py_ssize_t kernel = z.kernel_height * z.kernel_width
    # neighbours, in order or turned by half a turn
    cdef Py_ssize_t turned = (strides[3] if z.kernel_width > 1 else strides[2]) < 0
    cdef Py_ssize_t step = -1 if turned else 1
    cdef bint in_line = (
        (z.kernel_width == 1 or strides[3] == step)
        and (z.kernel_height == 1 or strides[2] == step * z.kernel_width))
    cdef bint whole = (
        in_line and folds == 1 and z.kernel_height == row_taps and z.kernel_width == column_taps)
    cdef floating *one = taps + z.taps_room
    cdef Py_ssize_t f, rows, c, one_channel
    cdef Py_ssize_t[4] one_strides
    cdef const floating *source
    if not in_line:
        turned = 0
    while block < end_block:
        f = block_begin(z.filters, z.blocks, block)
        rows = block_begin(z.filters, z.blocks, block + 1) - f
        source = w + f * strides[0] - (kernel - 1) * turned
        if whole and strides[1] == all_taps:
            transpose(
                rows, all_taps * channels, source + channel * strides[1], strides[0], w_end, taps,
                rows, taps + z.taps_room)
        elif whole:
            for c in range(channels):
                transpose(
                    rows, all_taps, source + (channel + c) * strides[1], strides[0], w_end,
                    taps + c * all_taps * rows, rows, taps + z.taps_room)
        elif in_line:
            one_strides[:] = [1, 0, step * z.kernel_width * rows, step * rows]
            one_channel = -1
            for c in range(channel, channel + channels):
                if c // folds != one_channel:
                    one_channel = c // folds
                    transpose(
                        rows, kernel, source + one_channel * strides[1], strides[0], w_end, one,
                        rows, one + z.channel_room)
                gather_taps(
                    z, c % folds, rows, row_taps, column_taps,
                    one + turned * (kernel - 1) * rows, one_strides,
                    taps + (c - channel) * all_taps * rows)
        else:
            for c in range(channel, channel + channels):
                gather_taps(
                    z, c % folds, rows, row_taps, column_taps, source + c // folds * strides[1],
                    strides, taps + (c - channel) * all_taps * rows)
        most = peak(taps, all_taps * channels * rows, most)
        if floating is float:
            transform_block_f32(
                z.form, taps, rows, channels, turned * whole, to + (f - first) * channels,
                z.weights_step)
        else:
            transform_block_f64(
                z.form, taps, rows, channels, turned * whole, to + (f - first) * channels,
                z.weights_step)
        block += 1
    return most


# --- products -----------------------------------------------------------------------------------

cdef inline Py_ssize_t end_row_of(const Sizes *z, const Run *run) noexcept nogil:
    return min((run.row + 1) * z.row_m, z.height)


cdef inline void look_at(const Sizes *z, Ahead *ahead, const Py_ssize_t *strides) noexcept nogil:
    cdef const Run *run = ahead.runs + ahead.run
    ahead.at = (
        run.sample * strides[0] + ahead.filter * strides[1] + ahead.row * strides[2]
        + run.column * z.column_m)
    ahead.end = ahead.at + run.cells


cdef void look_ahead(
    const Sizes *z, const Run *runs, Py_ssize_t count, Py_ssize_t block, Py_ssize_t end_block,
    Py_ssize_t times, const floating *out, const Py_ssize_t *strides, Ahead *ahead,
) noexcept nogil:
    """Begin with what some blocks of filters write, in so many `times`."""
    cdef Py_ssize_t size = sizeof(floating)
    cdef Py_ssize_t lines = 0
    cdef Py_ssize_t r
    for r in range(count):
        lines += (end_row_of(z, runs + r) - runs[r].row * z.row_m) * (
            runs[r].cells * size // LINE + 1)
    ahead.runs = runs
    ahead.count = count
    ahead.filter = block_begin(z.filters, z.blocks, block)
    ahead.end_filter = block_begin(z.filters, z.blocks, end_block)
    ahead.run = 0
    ahead.row = runs[0].row * z.row_m
    ahead.lines = (lines * (ahead.end_filter - ahead.filter) + times - 1) // times
    look_at(z, ahead, strides)


cdef inline void fetch_ahead(
    const Sizes *z, Ahead *ahead, const floating *out, const Py_ssize_t *strides
) noexcept nogil:
    """Have some lines of cache brought, fewer than the processor waits for."""
    cdef Py_ssize_t step = LINE // sizeof(floating)
    cdef Py_ssize_t lines = ahead.lines
    cdef Py_ssize_t at = ahead.at
    while lines > 0 and ahead.filter < ahead.end_filter:
        while lines > 0 and at < ahead.end:
            fetch(out + at, 1, True)
            at += step
            lines -= 1
        if at >= ahead.end:
            ahead.row += 1
            if ahead.row == end_row_of(z, ahead.runs + ahead.run):
                ahead.run += 1
                if ahead.run == ahead.count:
                    ahead.run = 0
                    ahead.filter += 1
                ahead.row = ahead.runs[ahead.run].row * z.row_m
            look_at(z, ahead, strides)
            at = ahead.at
    ahead.at = at


cdef void multiply(
    const Sizes *z, Py_ssize_t channels, Py_ssize_t block, Py_ssize_t end_block, Py_ssize_t tiles,
    const floating *weights, const floating *inputs, floating *sums, Py_ssize_t blocks, bint add,
    Ahead *ahead, const floating *out, const Py_ssize_t *strides,
) noexcept nogil:
    """sums[panel][block][point][filter][tile] = U . V over the channels, or += that.

    `sums` begin with `block`; there are `blocks` of a panel. What is to be written next of `out` is
    brought to the cache meanwhile: all at once it would have to be waited for.
    """
    cdef Py_ssize_t width = lanes_of(inputs)
    cdef Py_ssize_t points = points_of(z)
    cdef Py_ssize_t first = block_begin(z.filters, z.blocks, block)
    cdef Py_ssize_t zero = 0
    cdef Py_ssize_t panels = (tiles + z.panel - 1) // z.panel
    cdef Py_ssize_t point, panel, vectors, i, f, rows
    cdef const floating *u
    cdef const floating *v
    cdef floating *to
    for point in range(points):
        for panel in range(panels):
            vectors = (min(z.panel, tiles - panel * z.panel) + width - 1) // width
            v = inputs + (panel * points + point) * z.inputs_step
            f = 0
            for i in range(block, end_block):
                rows = block_begin(z.filters, z.blocks, i + 1) - first - f
                u = weights + point * z.weights_step + f * channels
                to = sums + ((panel * blocks + i - block) * points + point) * z.sums_step
                if floating is float:
                    tile_f32(
                        rows, vectors, u, NULL, 0, 0, v, NULL, 1, &zero, &channels, z.panel,
                        to if add else NULL, z.panel, NULL, to, z.panel)
                else:
                    tile_f64(
                        rows, vectors, u, NULL, 0, 0, v, NULL, 1, &zero, &channels, z.panel,
                        to if add else NULL, z.panel, NULL, to, z.panel)
                fetch_ahead(z, ahead, out, strides)
                f += rows


cdef void store_run(
    const Sizes *z, const Run *run, Py_ssize_t rows, const floating *results, Py_ssize_t pitch,
    Py_ssize_t line, floating *out, const Py_ssize_t *strides,
) noexcept nogil:
    """Write the results [filter][row][cell] of a run's tiles, as far as the image goes."""
    cdef Py_ssize_t y, f, i
    cdef const floating *source
    cdef floating *to
    out += run.sample * strides[0] + run.column * z.column_m * strides[3]
    for y in range(run.row * z.row_m, end_row_of(z, run)):
        source = results + (y - run.row * z.row_m) * line + run.at * z.column_m
        to = out + y * strides[2]
        if strides[3] == 1:
            for f in range(rows):
                copy(to + f * strides[1], source + f * pitch, run.cells)
        elif strides[1] == 1:
            transpose(rows, run.cells, source, pitch, results + rows * pitch, to, strides[3], NULL)
        else:
            for f in range(rows):
                for i in range(run.cells):
                    to[f * strides[1] + i * strides[3]] = source[f * pitch + i]


cdef void store_results(
    const Sizes *z, const Run *runs, Py_ssize_t count, Py_ssize_t tiles, Py_ssize_t block,
    Py_ssize_t end_block, const floating *sums, Py_ssize_t blocks, const floating *bias,
    floating *results, floating *out, const Py_ssize_t *strides,
) noexcept nogil:
    """out = A^T s A + bias; `sums` as in `multiply`, bias and out those of the group."""
    cdef Py_ssize_t width = lanes_of(sums)
    cdef Py_ssize_t points = points_of(z)
    cdef Py_ssize_t line = z.tiles * z.column_m
    cdef Py_ssize_t pitch = line * z.row_m
    cdef bint by_blocks = strides[1] == 1 and strides[3] != 1  # filters are the neighbours
    # blocks whose filters are written together: those of a vector
    cdef Py_ssize_t most = max(<Py_ssize_t> 1, width * z.blocks // z.filters) if by_blocks else 1
    cdef Py_ssize_t panels = (tiles + z.panel - 1) // z.panel
    cdef Py_ssize_t first, rows, f, end, end_f, i, panel, tile, vectors, r
    cdef const floating *source
    cdef floating *to
    cdef floating added
    while block < end_block:
        end = min(block + most, end_block)
        first = f = block_begin(z.filters, z.blocks, block)
        rows = block_begin(z.filters, z.blocks, end) - first
        while block < end:
            end_f = block_begin(z.filters, z.blocks, block + 1)
            for i in range(end_f - f):
                added = 0 if bias == NULL else bias[f]
                for panel in range(panels):
                    tile = panel * z.panel
                    vectors = (min(z.panel, tiles - tile) + width - 1) // width
                    source = sums + panel * blocks * points * z.sums_step + i * z.panel
                    to = results + ((f - first) * pitch if by_blocks else 0) + tile * z.column_m
                    if floating is float:
                        transform_results_f32(
                            z.form, source, z.sums_step, vectors, added, to, line)
                    else:
                        transform_results_f64(
                            z.form, source, z.sums_step, vectors, added, to, line)
                if not by_blocks:
                    for r in range(count):
                        store_run(
                            z, runs + r, 1, results, pitch, line, out + f * strides[1], strides)
                f += 1
            sums += points * z.sums_step
            block += 1
        if by_blocks:
            for r in range(count):
                store_run(
                    z, runs + r, rows, results, pitch, line, out + first * strides[1], strides)


cdef void convolve_unit(
    const Sizes *z, Py_ssize_t unit, const floating *x, const floating *x_end,
    const Py_ssize_t *x_strides, const floating *w, const floating *w_end,
    const Py_ssize_t *w_strides, const floating *packed, const floating *bias, floating *out,
    const Py_ssize_t *out_strides, floating *peaks, floating *space,
) noexcept nogil:
    """Compute one unit; peaks[sample] and peaks[batch], the weights', grow to what was met."""
    cdef Run runs[MAX_TILES]
    cdef Run spans[MAX_TILES]
    cdef floating found[MAX_TILES * MAX_LANES]
    cdef Py_ssize_t width = lanes_of(x)
    cdef Py_ssize_t points = points_of(z)
    cdef Py_ssize_t total = (
        (z.width + z.column_m - 1) // z.column_m
        * ((z.height + z.row_m - 1) // z.row_m) * z.batch)
    cdef floating *inputs = space + z.first_room
    cdef floating *sums = inputs + z.inputs_room
    cdef floating *taps = sums + z.sums_room
    cdef floating *weights = taps + z.taps_room + z.channel_room
    cdef floating *at
    cdef const floating *u
    cdef Py_ssize_t part, group, begin, end, count, depth, channel, channels, turn, first_turn
    cdef Py_ssize_t end_turn, block, end_block, blocks, i, spans_count, panels
    cdef Ahead ahead = [NULL, 0, 0, 0, 0, 0, 0, 0, 0]
    begin = unit % z.units * z.tiles
    end = min(begin + z.tiles, total)
    part = unit // z.units % z.parts
    group = unit // z.units // z.parts
    count = list_runs(z, begin, end, runs)
    spans_count = list_spans(z, runs, count, out_strides, spans)
    clear(found, (runs[count - 1].sample - runs[0].sample + 1) * width)
    x += group * (z.channels // (z.row_folds * z.column_folds)) * x_strides[1]
    w += group * w_strides[0]
    out += group * z.filters * out_strides[1]
    if bias != NULL:
        bias += group * z.filters
    panels = (end - begin + z.panel - 1) // z.panel
    first_turn = block_begin(z.turns, z.parts, part)
    end_turn = block_begin(z.turns, z.parts, part + 1)
    blocks = z.together
    if z.depths > 1:
        blocks *= end_turn - first_turn
    for depth in range(z.depths):
        channel = block_begin(z.channels, z.depths, depth)
        channels = block_begin(z.channels, z.depths, depth + 1) - channel
        if z.row_folds * z.column_folds > 1:
            transform_folded_images(
                z, runs, count, end - begin, x, x_strides, channel, channels, space, inputs, found)
        else:
            transform_images(
                z, runs, count, end - begin, x, x_end, x_strides, channel, channels, space, inputs,
                found)
        for turn in range(first_turn, end_turn):
            block = turn * z.together
            end_block = min(block + z.together, z.blocks)
            if packed == NULL:
                u = weights
                peaks[z.batch] = transform_weights(
                    z, channel, channels, block, end_block, w, w_end, w_strides + 1, taps, weights,
                    peaks[z.batch])
            else:
                u = packed + (
                    ((group * z.depths + depth) * z.turns + turn) * points * z.weights_step)
            at = sums
            if z.depths > 1:
                at += (turn - first_turn) * z.together * points * z.sums_step
            if depth + 1 == z.depths and out_strides[3] == 1:
                look_ahead(
                    z, spans, spans_count, block, end_block, points * panels * (end_block - block),
                    out, out_strides, &ahead)
            multiply(
                z, channels, block, end_block, end - begin, u, inputs, at, blocks, depth > 0,
                &ahead, out, out_strides)
            if depth + 1 == z.depths:
                store_results(
                    z, spans, spans_count, end - begin, block, end_block, at, blocks, bias, space,
                    out, out_strides)
    for i in range(runs[count - 1].sample - runs[0].sample + 1):
        at = peaks + runs[0].sample + i
        at[0] = peak(found + i * width, width, at[0])


# --- what Python calls --------------------------------------------------------------------------

cdef void pack_unit(
    const Sizes *z, Py_ssize_t unit, const floating *w, const floating *w_end,
    const Py_ssize_t *strides, floating *packed, floating *peaks, floating *taps,
) noexcept nogil:
    cdef Py_ssize_t block = unit % z.turns * z.together
    cdef Py_ssize_t depth = unit // z.turns % z.depths
    cdef Py_ssize_t group = unit // z.turns // z.depths
    cdef Py_ssize_t channel = block_begin(z.channels, z.depths, depth)
    cdef Py_ssize_t channels = block_begin(z.channels, z.depths, depth + 1) - channel
    peaks[z.batch] = transform_weights(
        z, channel, channels, block, min(block + z.together, z.blocks), w + group * strides[0],
        w_end, strides + 1, taps, packed + unit * points_of(z) * z.weights_step,
        peaks[z.batch])


def largest(cnp.ndarray numbers not None):
    """The largest magnitude in a contiguous array; NaN if there is one."""
    cdef Py_ssize_t n = cnp.PyArray_SIZE(numbers)
    cdef void *start = cnp.PyArray_DATA(numbers)
    cdef bint single = cnp.PyArray_TYPE(numbers) == cnp.NPY_FLOAT32
    cdef double most
    with nogil:
        if single:
            most = peak_f32(<const float *> start, n, 0)
        else:
            most = peak_f64(<const double *> start, n, 0)
    return most


def pack(
    cnp.ndarray sizes not None, cnp.ndarray w not None, cnp.ndarray packed not None,
    cnp.ndarray peaks not None, cnp.ndarray space not None, Py_ssize_t begin, Py_ssize_t end,
):
    """Transform units begin .. end of w (group, F/group, C/group, KH, KW): a few blocks of filters.

    The last of `peaks` grows to the largest magnitude in them.
    """
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    cdef Py_ssize_t strides[5]
    cdef Py_ssize_t unit
    cdef void *source = cnp.PyArray_DATA(w)
    cdef void *end_of_w = end_of(w)
    cdef void *to = cnp.PyArray_DATA(packed)
    cdef void *found = cnp.PyArray_DATA(peaks)
    cdef void *room = aligned(space)
    cdef bint single = cnp.PyArray_TYPE(w) == cnp.NPY_FLOAT32
    set_strides(w, strides)
    with nogil:
        for unit in range(begin, end):
            if single:
                pack_unit(
                    z, unit, <const float *> source, <const float *> end_of_w, strides,
                    <float *> to, <float *> found, <float *> room)
            else:
                pack_unit(
                    z, unit, <const double *> source, <const double *> end_of_w, strides,
                    <double *> to, <double *> found, <double *> room)


def convolve(
    cnp.ndarray sizes not None, cnp.ndarray x not None, cnp.ndarray w not None,
    cnp.ndarray packed, cnp.ndarray bias, cnp.ndarray out not None, cnp.ndarray peaks not None,
    cnp.ndarray space not None, Py_ssize_t begin, Py_ssize_t end,
):
    """Compute units begin .. end of out (N, F, OH, OW) from x (N, C, H, W) and the weights.

    These are w (group, F/group, C/group, KH, KW) itself where they are not packed. peaks (N + 1,)
    grow to the largest magnitudes in each sample and, the last, in w.
    """
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    cdef Py_ssize_t strides[13]
    cdef Py_ssize_t unit
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *source_end = end_of(x)
    cdef void *taps = cnp.PyArray_DATA(w)
    cdef void *taps_end = end_of(w)
    cdef void *weights = NULL if packed is None else cnp.PyArray_DATA(packed)
    cdef void *added = NULL if bias is None else cnp.PyArray_DATA(bias)
    cdef void *target = cnp.PyArray_DATA(out)
    cdef void *found = cnp.PyArray_DATA(peaks)
    cdef void *room = aligned(space)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    set_strides(x, strides)
    set_strides(w, strides + 4)
    set_strides(out, strides + 9)
    with nogil:
        for unit in range(begin, end):
            if single:
                convolve_unit(
                    z, unit, <const float *> source, <const float *> source_end, strides,
                    <const float *> taps, <const float *> taps_end, strides + 4,
                    <const float *> weights, <const float *> added, <float *> target,
                    strides + 9, <float *> found, <float *> room)
            else:
                convolve_unit(
                    z, unit, <const double *> source, <const double *> source_end, strides,
                    <const double *> taps, <const double *> taps_end, strides + 4,
                    <const double *> weights, <const double *> added, <double *> target,
                    strides + 9, <double *> found, <double *> room)


# Of this build: rows and vectors of a tile of products. Eight rows lie in whole vectors.
ROWS, VECTORS = min(8, FASTCONV_ROWS), FASTCONV_VECTORS
TILES = MAX_TILES  # of a unit, at most
ALIGNED = ALIGNMENT  # bytes; a space is longer by one less than these


def lanes(Py_ssize_t itemsize):
    """Numbers of that size in one vector."""
    return LANES_f32 if itemsize == sizeof(float) else LANES_f64
