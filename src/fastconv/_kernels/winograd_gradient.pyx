# cython: language_level=3
# The caller guarantees every size (see _engines/winograd_gradient.py), so indices are neither
# tested nor wrapped, and cdivision saves the test for a divisor of 0: sizes are at least 1.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernel of the gradient of weights by tiles of results, in the forms of winograd_gradient.h.

A unit of work is some channels and some filters of a group. It goes over the samples in order, each
in pieces, some rows and columns of tiles; channels and filters are the lanes of vectors. Of each
piece, and each point of the form::

    x -> cells:     [cell][channel]
      -> inputs:    B^T d B  [point][tile][channel]
    dout -> cells:  [cell][filter]
      -> gradients: G g G^T  [point][tile][filter]
         products:  their sums over tiles  [filter][point][channel], of a few at a time
      -> sums:      += A^T p A  [filter][tap][channel]
    dw <-> sums, before the first piece and after the last

Pieces depend on the layer alone, and each adds to dw on its own: so a batch may come in several
calls.
"""

cimport numpy as cnp
from cython cimport floating

from fastconv._kernels.simd cimport (
    ALIGNMENT, FASTCONV_ROWS, FASTCONV_VECTORS, LANES_f32, LANES_f64, aligned, block_begin, copy,
    end_of, lanes_of, set_strides, tile_f32, tile_f64, transpose,
)

cnp.import_array()

cdef extern from "winograd_gradient.h" nogil:
    float peak_f32(const float *, Py_ssize_t, float)
    double peak_f64(const double *, Py_ssize_t, double)
    void transform_cells_of_f32(
        Py_ssize_t, int, const float *, const Py_ssize_t *, const Py_ssize_t *, const float *,
        Py_ssize_t, float *, Py_ssize_t)
    void transform_cells_of_f64(
        Py_ssize_t, int, const double *, const Py_ssize_t *, const Py_ssize_t *, const double *,
        Py_ssize_t, double *, Py_ssize_t)
    void add_taps_f32(
        Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, float *, Py_ssize_t)
    void add_taps_f64(
        Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, double *, Py_ssize_t)

    enum:
        FASTCONV_MOST_POINTS

cdef enum:
    MAX_BLOCKS = 256   # of the filters of a unit

# What `_engines/winograd_gradient.py` writes down as a row of integers, in this order.
cdef struct Sizes:
    Py_ssize_t form           # m and taps of the rows and of the columns, as four digits
    Py_ssize_t row_m          # results of a tile along an axis,
    Py_ssize_t column_m
    Py_ssize_t row_points     # and cells of x that it reads
    Py_ssize_t column_points
    Py_ssize_t channels       # of one group
    Py_ssize_t filters        # of one group
    Py_ssize_t x_height
    Py_ssize_t x_width
    Py_ssize_t height         # of the results
    Py_ssize_t width
    Py_ssize_t top            # rows of zeros before x
    Py_ssize_t left
    Py_ssize_t row_step       # the dilation
    Py_ssize_t column_step
    Py_ssize_t down           # rows of tiles
    Py_ssize_t across         # columns of tiles
    Py_ssize_t bands          # pieces that the rows of tiles are cut into,
    Py_ssize_t stretches      # and the columns
    Py_ssize_t channel_parts  # units that the channels are cut into,
    Py_ssize_t filter_parts   # and the filters
    Py_ssize_t together       # blocks of filters whose products are made together
    Py_ssize_t inputs_step    # numbers from one point to the next, of the transformed x,
    Py_ssize_t gradients_step  # of the transformed dout,
    Py_ssize_t products_step  # and from one filter to the next, of the products
    Py_ssize_t cells_room     # parts of the space: numbers in the cells of x or dout,
    Py_ssize_t inputs_room
    Py_ssize_t gradients_room
    Py_ssize_t products_room

# Channels or filters of a unit.
cdef struct Part:
    Py_ssize_t first          # counted over all groups
    Py_ssize_t size
    Py_ssize_t pitch          # the size, in whole vectors

# Cells of an image, or tiles: rows top .. bottom, columns left .. right.
cdef struct Box:
    Py_ssize_t top
    Py_ssize_t bottom
    Py_ssize_t left
    Py_ssize_t right


cdef inline Py_ssize_t points_of(const Sizes *z) noexcept nogil:
    return z.row_points * z.column_points


cdef inline Py_ssize_t taps_of(const Sizes *z) noexcept nogil:
    return (z.row_points - z.row_m + 1) * (z.column_points - z.column_m + 1)


cdef inline floating peak(const floating *numbers, Py_ssize_t n, floating most) noexcept nogil:
    if floating is float:
        return peak_f32(numbers, n, most)
    else:
        return peak_f64(numbers, n, most)


cdef void copy_cells(
    const Box *box, const Part *part, const floating *x, const floating *x_end,
    const Py_ssize_t *strides, floating *cells, const floating *cells_end,
) noexcept nogil:
    """cells[cell][channel] = those of a box; channels that there are not are 0."""
    cdef Py_ssize_t rows = box.bottom - box.top
    cdef Py_ssize_t columns = box.right - box.left
    cdef Py_ssize_t row, i, _
    cdef const floating *source
    cdef floating *to
    x += part.first * strides[1] + box.top * strides[2] + box.left * strides[3]
    if strides[3] == 1 and (strides[2] == columns or rows == 1):
        transpose(
            part.size, rows * columns, x, strides[1], x_end, cells, part.pitch, cells_end)
        return
    for row in range(rows):
        source = x + row * strides[2]
        to = cells + row * columns * part.pitch
        if strides[3] == 1:
            transpose(part.size, columns, source, strides[1], x_end, to, part.pitch, cells_end)
            continue
        for _ in range(columns):
            if strides[1] == 1:
                copy(to, source, part.size)
            else:
                for i in range(part.size):
                    to[i] = source[i * strides[1]]
            for i in range(part.size, part.pitch):
                to[i] = 0
            source += strides[3]
            to += part.pitch


cdef inline Py_ssize_t start_of(Py_ssize_t tile, Py_ssize_t m, Py_ssize_t step) noexcept nogil:
    """Where a tile begins along an axis; with a dilation, one of each phase follows another."""
    return tile // step * m * step + tile % step


cdef inline void list_places(
    Py_ssize_t first, Py_ssize_t step, Py_ssize_t count, Py_ssize_t low, Py_ssize_t high,
    Py_ssize_t pitch, Py_ssize_t *places,
) noexcept nogil:
    """Where a tile's rows or columns are in cells low .. high; -1 for those outside."""
    cdef Py_ssize_t i, at
    for i in range(count):
        at = first + i * step
        places[i] = (at - low) * pitch if low <= at < high else -1


cdef inline void set_box(
    const Sizes *z, const Box *tiles, bint of_x, Py_ssize_t high, Py_ssize_t wide, Box *box
) noexcept nogil:
    """The cells from the first to the last one that tiles of x or dout, so high and wide, read."""
    cdef Py_ssize_t first = start_of(tiles.top, z.row_m, z.row_step)
    cdef Py_ssize_t last = start_of(tiles.bottom - 1, z.row_m, z.row_step)
    cdef Py_ssize_t before = z.top if of_x else 0
    box.top = max(<Py_ssize_t> 0, first - before)
    box.bottom = min(
        z.x_height if of_x else z.height, last - before + (high - 1) * z.row_step + 1)
    first = start_of(tiles.left, z.column_m, z.column_step)
    last = start_of(tiles.right - 1, z.column_m, z.column_step)
    before = z.left if of_x else 0
    box.left = max(<Py_ssize_t> 0, first - before)
    box.right = min(
        z.x_width if of_x else z.width, last - before + (wide - 1) * z.column_step + 1)


cdef floating transform_piece(
    const Sizes *z, const Box *tiles, bint of_x, const Part *part, const floating *x,
    const floating *x_end, const Py_ssize_t *strides, floating *cells, floating *to,
    Py_ssize_t step, bint look, floating most,
) noexcept nogil:
    """to[point][tile][channel] = the transformed tiles of a sample's piece, of x or of dout.

    Return the largest magnitude so far, if one is asked to `look`.
    """
    cdef Py_ssize_t rows[FASTCONV_MOST_POINTS]
    cdef Py_ssize_t columns[FASTCONV_MOST_POINTS]
    cdef Py_ssize_t vectors = part.pitch // lanes_of(x)
    cdef Py_ssize_t high = z.row_points if of_x else z.row_m
    cdef Py_ssize_t wide = z.column_points if of_x else z.column_m
    cdef Py_ssize_t top = z.top if of_x else 0
    cdef Py_ssize_t left = z.left if of_x else 0
    cdef floating *zeros = cells
    cdef floating *cells_end = cells + z.cells_room
    cdef Py_ssize_t i, j, pitch
    cdef Box box
    set_box(z, tiles, of_x, high, wide, &box)
    pitch = (box.right - box.left) * part.pitch
    for i in range(part.pitch):
        zeros[i] = 0
    cells += part.pitch
    if box.bottom > box.top and box.right > box.left:
        copy_cells(&box, part, x, x_end, strides, cells, cells_end)
        if look:
            most = peak(cells, (box.bottom - box.top) * pitch, most)
    for i in range(tiles.top, tiles.bottom):
        list_places(
            start_of(i, z.row_m, z.row_step) - top, z.row_step, high, box.top, box.bottom, pitch,
            rows)
        for j in range(tiles.left, tiles.right):
            list_places(
                start_of(j, z.column_m, z.column_step) - left, z.column_step, wide, box.left,
                box.right, part.pitch, columns)
            if floating is float:
                transform_cells_of_f32(
                    z.form, of_x, cells, rows, columns, zeros, vectors, to, step)
            else:
                transform_cells_of_f64(
                    z.form, of_x, cells, rows, columns, zeros, vectors, to, step)
            to += part.pitch
    return most


cdef void multiply(
    const Sizes *z, const Part *channels, const Part *filters, Py_ssize_t tiles,
    const floating *inputs, const floating *gradients, floating *products, floating *sums,
) noexcept nogil:
    """sums[filter][tap][channel] += A^T (inputs . gradients) A."""
    cdef Py_ssize_t begins[MAX_BLOCKS + 1]
    cdef Py_ssize_t width = lanes_of(inputs)
    cdef Py_ssize_t vectors = channels.pitch // width
    cdef Py_ssize_t panels = (vectors + FASTCONV_VECTORS - 1) // FASTCONV_VECTORS
    cdef Py_ssize_t blocks = (filters.size + FASTCONV_ROWS - 1) // FASTCONV_ROWS
    cdef Py_ssize_t zero = 0
    cdef Py_ssize_t panel, block, first, end, point, f, v, wide
    cdef floating *at
    for block in range(blocks + 1):
        begins[block] = block_begin(filters.size, blocks, block)
    for panel in range(panels):
        v = block_begin(vectors, panels, panel) * width
        wide = block_begin(vectors, panels, panel + 1) * width - v
        first = 0
        while first < blocks:
            end = min(first + z.together, blocks)
            for point in range(points_of(z)):
                for block in range(first, end):
                    f = begins[block]
                    at = products + (f - begins[first]) * z.products_step + point * wide
                    if floating is float:
                        tile_f32(
                            begins[block + 1] - f, wide // LANES_f32,
                            gradients + point * z.gradients_step + f, &zero, 1, filters.pitch,
                            inputs + point * z.inputs_step + v, NULL, 1, &zero, &tiles,
                            channels.pitch, NULL, 0, NULL, at, z.products_step)
                    else:
                        tile_f64(
                            begins[block + 1] - f, wide // LANES_f64,
                            gradients + point * z.gradients_step + f, &zero, 1, filters.pitch,
                            inputs + point * z.inputs_step + v, NULL, 1, &zero, &tiles,
                            channels.pitch, NULL, 0, NULL, at, z.products_step)
            for f in range(begins[first], begins[end]):
                at = sums + f * taps_of(z) * channels.pitch + v
                if floating is float:
                    add_taps_f32(
                        z.form, products + (f - begins[first]) * z.products_step, wide,
                        wide // LANES_f32, at, channels.pitch)
                else:
                    add_taps_f64(
                        z.form, products + (f - begins[first]) * z.products_step, wide,
                        wide // LANES_f64, at, channels.pitch)
            first = end


cdef inline void set_tiles(const Sizes *z, Py_ssize_t piece, Box *tiles) noexcept nogil:
    """The tiles of a sample's piece."""
    cdef Py_ssize_t band = piece // z.stretches
    cdef Py_ssize_t stretch = piece % z.stretches
    tiles.top = block_begin(z.down, z.bands, band)
    tiles.bottom = block_begin(z.down, z.bands, band + 1)
    tiles.left = block_begin(z.across, z.stretches, stretch)
    tiles.right = block_begin(z.across, z.stretches, stretch + 1)


cdef inline void set_part(
    Py_ssize_t size, Py_ssize_t width, Py_ssize_t parts, Py_ssize_t number, Part *part,
) noexcept nogil:
    """One of nearly equal parts, in whole vectors of a group's channels or filters."""
    cdef Py_ssize_t vectors = (size + width - 1) // width
    part.first = block_begin(vectors, parts, number) * width
    part.size = min(size, block_begin(vectors, parts, number + 1) * width) - part.first
    part.pitch = (part.size + width - 1) // width * width


cdef void gradient_unit(
    const Sizes *z, Py_ssize_t unit, Py_ssize_t begin, Py_ssize_t end, const floating *x,
    const floating *x_end, const Py_ssize_t *x_strides, const floating *dout,
    const floating *dout_end, const Py_ssize_t *dout_strides, floating *dw,
    const floating *dw_end, floating *peaks, floating *space,
) noexcept nogil:
    """Add pieces begin .. end, counted over the batch, to a unit's part of dw."""
    cdef Py_ssize_t channel_part = unit % z.channel_parts
    cdef Py_ssize_t filter_part = unit // z.channel_parts % z.filter_parts
    cdef Py_ssize_t group = unit // z.channel_parts // z.filter_parts
    cdef Py_ssize_t pieces = z.bands * z.stretches
    cdef Py_ssize_t taps = taps_of(z)
    cdef floating *cells = space
    cdef floating *inputs = cells + z.cells_room
    cdef floating *gradients = inputs + z.inputs_room
    cdef floating *products = gradients + z.gradients_room
    cdef floating *sums = products + z.products_room
    cdef floating *line
    cdef Py_ssize_t width = lanes_of(x)
    cdef Py_ssize_t piece, n, f
    cdef Part channels, filters
    cdef Box tiles
    set_part(z.channels, width, z.channel_parts, channel_part, &channels)
    set_part(z.filters, width, z.filter_parts, filter_part, &filters)
    dw += ((group * z.filters + filters.first) * z.channels + channels.first) * taps
    channels.first += group * z.channels
    filters.first += group * z.filters
    for f in range(filters.size):
        line = dw + f * z.channels * taps
        transpose(
            channels.size, taps, line, taps, dw_end,
            sums + f * taps * channels.pitch, channels.pitch,
            sums + (f + 1) * taps * channels.pitch)
    for piece in range(begin, end):
        n = piece // pieces
        set_tiles(z, piece % pieces, &tiles)
        peaks[2 * n] = transform_piece(
            z, &tiles, True, &channels, x + n * x_strides[0], x_end, x_strides, cells, inputs,
            z.inputs_step, filter_part == 0, peaks[2 * n])
        peaks[2 * n + 1] = transform_piece(
            z, &tiles, False, &filters, dout + n * dout_strides[0], dout_end, dout_strides, cells,
            gradients, z.gradients_step, channel_part == 0, peaks[2 * n + 1])
        multiply(
            z, &channels, &filters, (tiles.bottom - tiles.top) * (tiles.right - tiles.left), inputs,
            gradients, products, sums)
    for f in range(filters.size):
        line = dw + f * z.channels * taps
        transpose(
            taps, channels.size, sums + f * taps * channels.pitch, channels.pitch,
            sums + (f + 1) * taps * channels.pitch, line, taps, line + channels.size * taps)


def weight_gradient(
    cnp.ndarray sizes not None, cnp.ndarray x not None, cnp.ndarray dout not None,
    cnp.ndarray dw not None, cnp.ndarray peaks not None, cnp.ndarray space not None,
    Py_ssize_t first_piece, Py_ssize_t end_piece, Py_ssize_t begin, Py_ssize_t end,
):
    """dw += the gradient from pieces of the batch, in units begin .. end.

    dw (F, C/group, KH, KW) is contiguous. peaks (N, 2) grow to the largest magnitudes of x and
    dout.
    """
    cdef const Sizes *z = <const Sizes *> cnp.PyArray_DATA(sizes)
    cdef Py_ssize_t strides[8]
    cdef Py_ssize_t unit
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *source_end = end_of(x)
    cdef void *results = cnp.PyArray_DATA(dout)
    cdef void *results_end = end_of(dout)
    cdef void *target = cnp.PyArray_DATA(dw)
    cdef void *target_end = end_of(dw)
    cdef void *found = cnp.PyArray_DATA(peaks)
    cdef void *room = aligned(space)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    set_strides(x, strides)
    set_strides(dout, strides + 4)
    with nogil:
        for unit in range(begin, end):
            if single:
                gradient_unit(
                    z, unit, first_piece, end_piece,
                    <const float *> source, <const float *> source_end, strides,
                    <const float *> results, <const float *> results_end, strides + 4,
                    <float *> target, <const float *> target_end, <float *> found,
                    <float *> room)
            else:
                gradient_unit(
                    z, unit, first_piece, end_piece,
                    <const double *> source, <const double *> source_end, strides,
                    <const double *> results, <const double *> results_end, strides + 4,
                    <double *> target, <const double *> target_end, <double *> found,
                    <double *> room)


ROWS, VECTORS = FASTCONV_ROWS, FASTCONV_VECTORS  # of a tile of products, in this build
ALIGNED = ALIGNMENT  # bytes; a space is longer by one less than these


def lanes(Py_ssize_t itemsize):
    """Numbers of that size in one vector."""
    return LANES_f32 if itemsize == sizeof(float) else LANES_f64
