# Convolution with filters as lanes, a part of fused.pyx: the rows of a tile are positions, whose
# numbers are read from the scratch one by one.

cdef extern from "fused_lanes.h" nogil:
    enum:
        FASTCONV_LANE_VECTORS
    Py_ssize_t lane_rows_f32(Py_ssize_t)
    void lane_tile_f32(
        Py_ssize_t, Py_ssize_t, const float *, const float *, Py_ssize_t, const Py_ssize_t *,
        Py_ssize_t, int, const float *, float *, const float *, Py_ssize_t, Py_ssize_t)
    void lane_tile_f64(
        Py_ssize_t, Py_ssize_t, const double *, const double *, Py_ssize_t, const Py_ssize_t *,
        Py_ssize_t, int, const double *, double *, const double *, Py_ssize_t, Py_ssize_t)

cdef enum:
    MAX_BAND = 512     # positions whose sums are kept at a time

# Some positions: where their tiles begin in the scratch, and where their results go.
cdef struct Band:
    Py_ssize_t positions
    Py_ssize_t source_runs
    Py_ssize_t target_runs
    fastconv_run sources[MAX_BAND]
    fastconv_run targets[MAX_BAND]
    Py_ssize_t places[MAX_BAND]  # of the results of a tile


cdef inline void lane_tile(
    Py_ssize_t rows, Py_ssize_t vectors, const floating *weights, const floating *x,
    Py_ssize_t step, const Py_ssize_t *offsets, Py_ssize_t taps, bint adds, const floating *bias,
    floating *sums, const floating *out, Py_ssize_t out_step, Py_ssize_t lines,
) noexcept nogil:
    if floating is float:
        lane_tile_f32(
            rows, vectors, weights, x, step, offsets, taps, adds, bias, sums, out, out_step, lines)
    else:
        lane_tile_f64(
            rows, vectors, weights, x, step, offsets, taps, adds, bias, sums, out, out_step, lines)


cdef void list_band(
    Py_ssize_t most, Py_ssize_t rows, Walk *source, Walk *target, Py_ssize_t *left, Band *band,
) noexcept nogil:
    """The next positions, `most` at most, in tiles of no more than `rows` within a row of them."""
    cdef Py_ssize_t step = source.step[source.rank - 1]
    cdef Py_ssize_t target_step = target.step[target.rank - 1]
    cdef Py_ssize_t tiles, i, first, rest
    cdef fastconv_run run, result
    cdef fastconv_run *tile
    cdef fastconv_run *last
    band.positions = 0
    band.source_runs = 0
    band.target_runs = 0
    while band.positions < most and left[0] > 0:
        run = next_run(source, most - band.positions)
        tiles = (run.length + rows - 1) // rows
        for i in range(tiles):
            first = block_begin(run.length, tiles, i)
            tile = band.sources + band.source_runs
            tile.at = run.at + first * step
            tile.length = block_begin(run.length, tiles, i + 1) - first
            tile.column = band.positions + first
            rest = tile.length
            while rest > 0:
                result = next_run(target, rest)
                result.column = tile.column + tile.length - rest
                if rest == tile.length:
                    band.places[band.source_runs] = result.at
                rest -= result.length
                last = band.targets + band.target_runs - 1
                if band.target_runs > 0 and last.at + last.length * target_step == result.at:
                    last.length += result.length
                else:
                    band.targets[band.target_runs] = result
                    band.target_runs += 1
            band.source_runs += 1
        band.positions += run.length
        left[0] -= run.length


cdef void store_band(
    const Band *band, const floating *sums, Py_ssize_t lanes, Py_ssize_t filters, floating *rows,
    Py_ssize_t pitch, floating *out, Py_ssize_t filter_step, Py_ssize_t step,
) noexcept nogil:
    """out[f * filter_step + at + j * step] = sums[column + j][f], for each run.

    Where filters are not neighbours, by way of rows[f][column], `pitch` apart.
    """
    cdef Py_ssize_t f, j, k
    cdef floating *to
    cdef const floating *source
    if filter_step == 1:
        for k in range(band.target_runs):
            to = out + band.targets[k].at
            source = sums + band.targets[k].column * lanes
            for j in range(band.targets[k].length):
                copy(to + j * step, source + j * lanes, filters)
        return
    transpose(
        band.positions, lanes, sums, lanes, sums + band.positions * lanes, rows, pitch,
        <const floating *> rows + lanes * pitch)
    for f in range(filters):
        for k in range(band.target_runs):
            to = out + f * filter_step + band.targets[k].at
            source = rows + f * pitch + band.targets[k].column
            if step == 1:
                copy(to, source, band.targets[k].length)
            else:
                for j in range(band.targets[k].length):
                    to[j * step] = source[j]


cdef inline Py_ssize_t lanes_size(const Sizes *z, Py_ssize_t width) noexcept nogil:
    """Numbers in the packed weights of a group."""
    return (z.filters + width - 1) // width * width * z.channels * z.kernel


cdef void multiply_band(
    const Sizes *z, const Py_ssize_t *kernel, const Band *band, Py_ssize_t step,
    Py_ssize_t vectors, const floating *scratch, const floating *weights, const floating *bias,
    floating *sums, Py_ssize_t filters, const floating *out, Py_ssize_t filter_step,
) noexcept nogil:
    """The sums [position][lane] of some vectors of filters."""
    cdef Py_ssize_t offsets[FASTCONV_TAPS]
    cdef Py_ssize_t lanes = vectors * lanes_of(sums)
    cdef Py_ssize_t taps = z.channels * z.kernel
    cdef Py_ssize_t tap_blocks = tap_blocks_of(z.channels, z.kernel)
    cdef Py_ssize_t tap_block, begin, count, i
    for tap_block in range(tap_blocks):
        begin = block_begin(taps, tap_blocks, tap_block)
        count = block_begin(taps, tap_blocks, tap_block + 1) - begin
        list_offsets(kernel, z.kernel, z.cells, begin, count, offsets)
        for i in range(band.source_runs):
            lane_tile(
                band.sources[i].length, vectors, weights + begin * lanes,
                scratch + band.sources[i].at, step, offsets, count, begin > 0,
                bias if begin + count == taps else <const floating *> NULL,
                sums + band.sources[i].column * lanes, out + band.places[i], filter_step,
                filters if begin + count == taps else 0)


cdef void convolve_lanes(
    const Sizes *z, const Axis *axes, const Py_ssize_t *kernel, const Py_ssize_t *firsts,
    Py_ssize_t *begin, Py_ssize_t *count, Py_ssize_t samples, Py_ssize_t part_begin,
    Py_ssize_t part_end, const floating *x, const Py_ssize_t *x_strides, const floating *weights,
    const floating *bias, floating *out, const Py_ssize_t *out_strides, floating *space,
) noexcept nogil:
    """The results of a box of some samples and of some blocks of filters, for one group.

    ::

        x    -> scratch, of which a row is one segment
        band -> sums [position][lane] -> rows [lane][position] -> out
    """
    cdef Band band
    cdef Walk source, target
    cdef Py_ssize_t width = lanes_of(space)
    cdef Py_ssize_t vectors = (z.filters + width - 1) // width
    cdef Py_ssize_t blocks = filter_blocks(z, width)
    cdef Py_ssize_t taps = z.channels * z.kernel
    cdef Py_ssize_t tile_rows = lane_rows_f32((vectors + blocks - 1) // blocks)  # for both types
    cdef Py_ssize_t last = z.rank - 1
    cdef Py_ssize_t positions = samples
    cdef Py_ssize_t axis, block, first, some
    cdef floating *biases = space + z.scratch_room
    cdef floating *rows = biases + vectors * width
    cdef floating *sums = biases + z.panel_room
    source.rank = 0
    source.at = 0
    target.rank = 0
    target.at = 0
    add_axis(&source, samples, z.channels * z.cells)
    add_axis(&target, samples, out_strides[0])
    for axis in range(z.rank):
        positions *= count[axis]
        target.at += begin[axis] * out_strides[2 + axis]
        add_axis(&source, count[axis], axes[axis].pitch if axis < last else z.hop)
        add_axis(&target, count[axis], out_strides[2 + axis])
    # from here on in cells of the last axis
    begin[last] *= z.hop
    count[last] = axes[last].box - (axes[last].box - count[last]) * z.hop
    fill_scratch(z, axes, firsts, begin, count, x, x_strides, samples, space)
    zero(biases, vectors * width)
    if bias != NULL:
        copy(biases, bias, z.filters)
    while positions > 0:
        list_band(z.columns, tile_rows, &source, &target, &positions, &band)
        for block in range(part_begin, part_end):
            first = block_begin(vectors, blocks, block)
            some = block_begin(vectors, blocks, block + 1) - first
            first *= width
            multiply_band(
                z, kernel, &band, source.step[source.rank - 1], some, <const floating *> space,
                weights + first * taps,
                <const floating *> biases + first if bias != NULL else NULL, sums,
                min(some * width, z.filters - first),
                <const floating *> out + first * out_strides[1], out_strides[1])
            store_band(
                &band, <const floating *> sums, some * width, min(some * width, z.filters - first),
                rows, z.pitch, out + first * out_strides[1], out_strides[1],
                target.step[target.rank - 1])
