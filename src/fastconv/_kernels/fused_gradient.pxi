# The gradient of the weights, a part of fused.pyx: tiles of channels or filters as lanes, and sums
# over neighbouring positions.

# What `_engines/fused.py` writes down for it, in this order; then an Axis for each spatial axis and
# the other tables as for `Sizes`.
cdef struct GradientSizes:
    Py_ssize_t rank
    Py_ssize_t batch
    Py_ssize_t groups
    Py_ssize_t channels       # of one group
    Py_ssize_t filters        # of one group
    Py_ssize_t kernel         # kernel indices that are not lanes
    Py_ssize_t merged         # indices of the last axis that go with the channels; or 0
    Py_ssize_t by_filters     # whether filters are the lanes, and channels the rows of tiles
    Py_ssize_t samples        # of a block
    Py_ssize_t boxes          # that the positions of a sample are cut into
    Py_ssize_t filter_parts   # that the filters are cut into
    Py_ssize_t other_parts    # that other lanes, or the kernel indices, are
    Py_ssize_t columns        # lanes of a tile, whole vectors
    Py_ssize_t rows           # of a tile of filters, at most
    Py_ssize_t row_blocks     # by filters: tiles, one below the other, of a kernel index
    Py_ssize_t hop            # cells of the last axis from one position to the next
    Py_ssize_t piece          # positions of a sample that a tile sums up,
    Py_ssize_t by_lines       # or at most so many, which are whole lines, or equal parts of one
    Py_ssize_t together       # tiles of filters, and kernel indices of each, whose sums are kept
    Py_ssize_t indices
    Py_ssize_t cells          # of a sample in the scratch
    Py_ssize_t image_room     # parts of the space: numbers in the scratch of x,
    Py_ssize_t gradient_room  # and in that of dout; 0 if dout is read where it is


cdef void fill_channels(
    const GradientSizes *z, const Axis *axes, const Py_ssize_t *firsts, const Py_ssize_t *begin,
    const Py_ssize_t *count, const floating *x, const floating *x_end, const Py_ssize_t *strides,
    Py_ssize_t channels, Py_ssize_t pitch, floating *scratch,
) noexcept nogil:
    """Copy some channels of a sample into the scratch [cell][channel], cells `pitch` apart."""
    cdef Py_ssize_t last = z.rank - 1
    cdef Py_ssize_t index[MAX_AXES]
    cdef Py_ssize_t needed[MAX_AXES]
    cdef Py_ssize_t axis, at, x_at, cell, place, segment, low, high, n, i, c, first, length, rows
    cdef Py_ssize_t row
    cdef Py_ssize_t step = axes[last].step * strides[2 + last]
    cdef Py_ssize_t width = lanes_of(scratch)
    cdef floating lines[MAX_LANES * LINE]
    cdef bint inside
    cdef const floating *source
    cdef floating *to
    for axis in range(z.rank):
        index[axis] = 0
        needed[axis] = axes[axis].length - axes[axis].box + count[axis]
    needed[last] = axes[last].length - (axes[last].box - count[last]) * z.hop
    axis = 0
    while axis >= 0:
        inside = True
        at = 0
        x_at = 0
        for axis in range(last):
            segment = index[axis] // needed[axis]
            cell = index[axis] - segment * needed[axis]
            at += (segment * axes[axis].length + cell) * axes[axis].pitch
            place = firsts[axes[axis].first + segment] + (begin[axis] + cell) * axes[axis].step
            inside = inside and 0 <= place < axes[axis].x_size
            x_at += place * strides[2 + axis]
        n = needed[last]
        first = firsts[axes[last].first]
        find_line(&axes[last], first, begin[last] * z.hop, n, &low, &high)
        if not inside or high <= low:
            low = n
            high = n
        to = scratch + at * pitch
        place = first + (begin[last] * z.hop + low) * axes[last].step
        source = x + x_at + place * strides[2 + last]
        for i in range(low):
            zero(to + i * pitch, channels)
        to += low * pitch
        if step == 1 and high > low:
            transpose(
                channels, high - low, source, strides[1], x_end, to, pitch,
                scratch + z.image_room)
        elif strides[1] == 1:
            for i in range(high - low):
                copy(to + i * pitch, source + i * step, channels)
        else:
            i = 0
            while i < high - low:
                length = min(<Py_ssize_t> LINE, high - low - i)
                c = 0
                while c < channels:
                    rows = min(width, channels - c)
                    for row in range(rows):
                        copy_spaced(
                            lines + row * LINE, source + (c + row) * strides[1] + i * step, step,
                            length)
                    transpose(
                        rows, length, <const floating *> lines, LINE,
                        <const floating *> lines + MAX_LANES * LINE, to + i * pitch + c, pitch,
                        <const floating *> NULL)
                    c += width
                i += LINE
        for i in range(high - low, n - low):
            zero(to + i * pitch, channels)
        axis = last - 1
        while axis >= 0:
            index[axis] += 1
            if index[axis] < axes[axis].segments * needed[axis]:
                break
            index[axis] = 0
            axis -= 1


cdef void fill_filters(
    const floating *dout, const floating *end, Py_ssize_t filter_step, Walk *walk,
    Py_ssize_t positions, Py_ssize_t rows, floating *to, Py_ssize_t pitch,
) noexcept nogil:
    """to[position][row] = dout[row][position], for the filters of one tile, then zeros."""
    cdef Py_ssize_t axis = walk.rank - 1
    cdef Py_ssize_t step = walk.step[axis]
    cdef Py_ssize_t i, j
    cdef const floating *source
    cdef const floating *to_end = to + positions * pitch
    cdef fastconv_run run
    if rows < pitch:
        zero(to, positions * pitch)
    while positions > 0:
        run = next_run(walk, positions)
        source = dout + run.at
        if step == 1:
            transpose(rows, run.length, source, filter_step, end, to, pitch, to_end)
        elif filter_step == 1:
            for j in range(run.length):
                copy(to + j * pitch, source + j * step, rows)
        else:
            for j in range(run.length):
                for i in range(rows):
                    to[j * pitch + i] = source[i * filter_step + j * step]
        to += run.length * pitch
        positions -= run.length


# What the sums that are kept are of.
cdef struct Tiles:
    Py_ssize_t block      # of filters,
    Py_ssize_t end_block
    Py_ssize_t index      # of the kernel's,
    Py_ssize_t end_index
    Py_ssize_t lane       # and lanes in use
    Py_ssize_t lanes


cdef void exchange_sums(
    const GradientSizes *z, const Tiles *t, Py_ssize_t rows, floating *sums, floating *dw,
    const floating *dw_end, bint finish,
) noexcept nogil:
    """The sums [kernel index][row][lane] of a tile = dw, or the reverse.

    dw is contiguous, and may be read up to dw_end.
    """
    cdef Py_ssize_t tile = rows * z.columns
    cdef Py_ssize_t taps = z.kernel * max(z.merged, <Py_ssize_t> 1)  # of one channel
    cdef Py_ssize_t indices = t.end_index - t.index
    cdef Py_ssize_t i, j, k
    cdef const floating *sums_end = sums + indices * tile
    cdef const floating *end = NULL
    cdef floating *row
    cdef floating *place
    if t.lanes < z.columns and not finish:
        zero(sums, indices * tile)  # for whole vectors
    for i in range(rows):
        row = sums + i * z.columns
        place = dw + (i * z.channels + t.lane) * taps + t.index
        if indices == taps:
            end = place + t.lanes * taps
        if z.merged:  # lanes are (kernel index, channel)
            for j in range(t.lanes):
                place = dw + (i * z.channels + (t.lane + j) % z.channels) * taps
                place += (t.lane + j) // z.channels + t.index * z.merged
                for k in range(indices):
                    if finish:
                        place[k * z.merged] = row[k * tile + j]
                    else:
                        row[k * tile + j] = place[k * z.merged]
        elif taps == 1 and finish:
            copy(place, <const floating *> row, t.lanes)
        elif taps == 1:
            copy(row, <const floating *> place, t.lanes)
        elif finish:
            transpose(
                indices, t.lanes, <const floating *> row, tile, sums_end, place, taps, end)
        else:
            transpose(
                t.lanes, indices, <const floating *> place, taps, dw_end, row, tile, sums_end)


cdef void exchange_tiles(
    const GradientSizes *z, const Tiles *t, floating *sums, floating *dw, const floating *dw_end,
    bint finish,
) noexcept nogil:
    """The sums [tile][kernel index][row][lane] = dw, or the reverse."""
    cdef Py_ssize_t blocks = (z.filters + z.rows - 1) // z.rows
    cdef Py_ssize_t taps = z.kernel * z.channels * max(z.merged, <Py_ssize_t> 1)
    cdef Py_ssize_t b, f, rows
    for b in range(t.block, t.end_block):
        f = block_begin(z.filters, blocks, b)
        rows = block_begin(z.filters, blocks, b + 1) - f
        exchange_sums(z, t, rows, sums, dw + f * taps, dw_end, finish)
        sums += (t.end_index - t.index) * rows * z.columns


cdef void exchange_filters(
    const GradientSizes *z, const Tiles *t, floating *sums, floating *dw, const floating *dw_end,
    bint finish,
) noexcept nogil:
    """The sums [kernel index][channel][lane] = dw, or the reverse, where filters are the lanes."""
    cdef Py_ssize_t together = max(z.merged, <Py_ssize_t> 1)
    cdef Py_ssize_t taps = z.kernel * together  # of one channel
    cdef Py_ssize_t indices = (t.end_index - t.index) * together
    cdef Py_ssize_t step = z.channels * z.columns
    cdef const floating *sums_end = sums + indices * step
    cdef Py_ssize_t _
    dw += t.lane * z.channels * taps + t.index * together
    for _ in range(z.channels):
        if finish:
            transpose(
                indices, t.lanes, <const floating *> sums, step, sums_end, dw, z.channels * taps,
                <const floating *> NULL)
        else:
            transpose(
                t.lanes, indices, <const floating *> dw, z.channels * taps, dw_end, sums, step,
                sums_end)
        dw += taps
        sums += z.columns


cdef inline Py_ssize_t filter_of(const GradientSizes *z, Py_ssize_t b) noexcept nogil:
    """The first filter of a block."""
    if z.by_filters:
        return min(b * z.columns, z.filters)
    return block_begin(z.filters, (z.filters + z.rows - 1) // z.rows, b)


cdef inline Py_ssize_t piece_length(const Walk *lines, Py_ssize_t most) noexcept nogil:
    """Some whole lines, or equal parts of one."""
    cdef Py_ssize_t size = lines.size[lines.rank - 1]
    cdef Py_ssize_t parts = (size + most - 1) // most
    return most // size * size if parts == 1 else (size + parts - 1) // parts


cdef void add_products(
    const GradientSizes *z, const Axis *axes, const Py_ssize_t *kernel, const Py_ssize_t *count,
    const Tiles *t, Py_ssize_t samples, Py_ssize_t positions, const floating *cells,
    Py_ssize_t pitch, const floating *gradient, const Py_ssize_t *strides, const floating *packed,
    floating *sums, floating *db,
) noexcept nogil:
    """sums[tile][kernel index][filter][lane] += dout times x, piece by piece of the positions.

    db += dout, while first- or second-level cache has it, if there is a db.
    """
    cdef Walk images, gradients, lines
    cdef Py_ssize_t x_at[LONGEST_PIECE]
    cdef Py_ssize_t d_at[LONGEST_PIECE]
    cdef Py_ssize_t runs[LONGEST_PIECE]
    cdef fastconv_run run
    cdef Py_ssize_t width = lanes_of(sums)
    cdef Py_ssize_t vectors = (t.lanes + width - 1) // width
    cdef Py_ssize_t blocks = (z.filters + z.rows - 1) // z.rows
    cdef Py_ssize_t depth = z.channels * max(z.merged, <Py_ssize_t> 1)
    cdef Py_ssize_t axis, sample, first, left, length, segments, b, f, rows, i, k, step, d_step
    cdef const floating *source
    cdef floating *to
    images.rank = 0
    gradients.rank = 0
    lines.rank = 0
    for axis in range(z.rank):
        step = axes[axis].pitch if axis < z.rank - 1 else z.hop
        add_axis(&lines, count[axis], step)
        add_axes(&images, &gradients, count[axis], step, strides[2 + axis])
    step = images.step[images.rank - 1] * pitch
    d_step = gradients.step[gradients.rank - 1]
    length = piece_length(&lines, z.piece) if z.by_lines else z.piece
    for sample in range(samples):
        images.at = sample * z.cells
        gradients.at = sample * strides[0]
        first = 0
        while first < positions:
            left = min(length, positions - first)
            segments = 0
            while left > 0:
                x_at[segments] = next_run(&images, left).at * pitch
                run = next_run(&gradients, left)
                d_at[segments] = run.at
                if z.by_filters:
                    d_at[segments] = (min(length, positions - first) - left) * z.columns
                runs[segments] = run.length
                segments += 1
                left -= run.length
            to = sums
            for k in range(t.index, t.end_index if z.by_filters else t.index):
                for b in range(z.row_blocks):
                    f = block_begin(depth, z.row_blocks, b)
                    rows = block_begin(depth, z.row_blocks, b + 1) - f
                    tile(
                        rows, vectors, cells + kernel[k] * pitch + f, x_at, 1, step,
                        packed + (sample * positions + first) * z.columns, NULL, segments, d_at,
                        runs, z.columns, to, z.columns, NULL, to, z.columns)
                    to += rows * z.columns
            for b in range(t.block, t.end_block):
                f = block_begin(z.filters, blocks, b)
                rows = block_begin(z.filters, blocks, b + 1) - f
                source = gradient + f * strides[1]
                if z.gradient_room:
                    source = packed + f * samples * positions
                    source += (sample * positions + first) * rows
                for k in range(t.index, t.end_index):
                    tile(
                        rows, vectors, source, NULL if z.gradient_room else d_at, strides[1],
                        d_step, cells + kernel[k] * pitch, NULL, segments, x_at, runs, step, to,
                        z.columns, NULL, to, z.columns)
                    to += rows * z.columns
                if db != NULL:
                    for i in range(rows):
                        db[f + i] += sum_filter(
                            source + i * strides[1], segments, d_at, runs, d_step)
            first += length


cdef void gradient_unit(
    const GradientSizes *z, Py_ssize_t unit, Py_ssize_t first_block, Py_ssize_t end_block,
    const floating *x, const floating *x_end, const Py_ssize_t *x_strides, const floating *dout,
    const floating *dout_end, const Py_ssize_t *dout_strides, floating *dw, const floating *dw_end,
    floating *db, floating *space,
) noexcept nogil:
    """dw of some filters and lanes of one group += the sums over some blocks of positions.

    With their first lanes and kernel index, db += the sums of dout, if there is a db.

    Of each block::

        x     -> scratch [block of lanes][sample][cell][lane]
        dout  -> [tile of filters][position][filter], where that pays
        dw    -> sums [tile][kernel index][filter][lane], of some tiles at a time -> dw
    """
    cdef const Axis *axes = <const Axis *> (z + 1)
    cdef const Py_ssize_t *kernel = <const Py_ssize_t *> (axes + z.rank)
    cdef const Py_ssize_t *firsts = kernel + z.kernel
    cdef Py_ssize_t begin[MAX_AXES]
    cdef Py_ssize_t count[MAX_AXES]
    cdef Walk walk
    cdef Tiles t
    cdef Py_ssize_t lanes = z.merged * z.channels if z.merged else z.channels
    cdef Py_ssize_t rows_of = z.columns if z.by_filters else z.rows
    cdef Py_ssize_t filter_blocks = (z.filters + rows_of - 1) // rows_of
    cdef Py_ssize_t lane_blocks = (
        z.kernel if z.by_filters else (lanes + z.columns - 1) // z.columns)
    cdef Py_ssize_t taps = z.kernel * z.channels * max(z.merged, <Py_ssize_t> 1)
    cdef bint whole = z.merged or z.by_filters  # a cell has all channels
    cdef Py_ssize_t pitch = z.channels if whole else z.columns
    cdef Py_ssize_t f_begin, f_end, l_begin, l_end, part, step, axis, lane, sample, samples, f, rows
    cdef Py_ssize_t i, b
    cdef Py_ssize_t positions, first_filter, block_room
    cdef floating *packed = space + z.image_room
    cdef floating *sums = packed + z.gradient_room
    cdef floating *place
    cdef const floating *image
    cdef const floating *gradient
    cdef const floating *cells

    part = unit % z.other_parts
    unit //= z.other_parts
    l_begin = lane_blocks * part // z.other_parts
    l_end = lane_blocks * (part + 1) // z.other_parts
    part = unit % z.filter_parts
    unit //= z.filter_parts  # the group
    f_begin = filter_blocks * part // z.filter_parts
    f_end = filter_blocks * (part + 1) // z.filter_parts
    first_filter = filter_of(z, f_begin)
    x += unit * z.channels * x_strides[1]
    dout += unit * z.filters * dout_strides[1]
    dw += unit * z.filters * taps
    if db != NULL:
        db += unit * z.filters
    for step in range(first_block, end_block):
        sample = step // z.boxes * z.samples
        samples = min(z.samples, z.batch - sample)
        positions = find_box(axes, z.rank, step % z.boxes, begin, count)
        block_room = samples * z.cells * pitch
        image = x + sample * x_strides[0]
        gradient = dout + sample * dout_strides[0]
        for axis in range(z.rank):
            gradient += begin[axis] * dout_strides[2 + axis]
        for i in range(samples):
            for lane in range(1 if whole else l_end - l_begin):
                b = 0 if whole else (l_begin + lane) * z.columns
                fill_channels(
                    z, axes, firsts, begin, count, image + i * x_strides[0] + b * x_strides[1],
                    x_end, x_strides, z.channels if whole else min(z.columns, z.channels - b),
                    pitch, space + lane * block_room + i * z.cells * pitch)
        if z.gradient_room:
            place = packed
            for b in range(f_begin, f_end):
                f = filter_of(z, b)
                rows = filter_of(z, b + 1) - f
                walk.rank = 0
                walk.at = f * dout_strides[1]
                add_axis(&walk, samples, dout_strides[0])
                for axis in range(z.rank):
                    add_axis(&walk, count[axis], dout_strides[2 + axis])
                fill_filters(
                    gradient, dout_end, dout_strides[1], &walk, samples * positions, rows, place,
                    z.columns if z.by_filters else rows)
                place += samples * positions * (z.columns if z.by_filters else rows)
        if z.by_filters:
            for b in range(f_begin, f_end):
                t.lane = filter_of(z, b)
                t.lanes = filter_of(z, b + 1) - t.lane
                t.index = l_begin
                t.block = 0
                t.end_block = 0
                while t.index < l_end:
                    t.end_index = min(t.index + z.indices, l_end)
                    exchange_filters(z, &t, sums, dw, dw_end, False)
                    add_products(
                        z, axes, kernel, count, &t, samples, positions, space, pitch, gradient,
                        dout_strides, packed + (b - f_begin) * samples * positions * z.columns,
                        sums, NULL)
                    exchange_filters(z, &t, sums, dw, dw_end, True)
                    t.index = t.end_index
            continue
        for lane in range(l_begin, l_end):
            cells = space + (lane * z.columns if z.merged else (lane - l_begin) * block_room)
            t.lane = lane * z.columns
            t.lanes = min(z.columns, lanes - t.lane)
            t.block = f_begin
            t.index = 0
            while t.block < f_end:
                t.end_block = min(t.block + z.together, f_end)
                t.end_index = min(t.index + z.indices, z.kernel)
                exchange_tiles(z, &t, sums, dw, dw_end, False)
                add_products(
                    z, axes, kernel, count, &t, samples, positions, cells, pitch, gradient,
                    dout_strides, packed - first_filter * samples * positions, sums,
                    db if t.lane == 0 and t.index == 0 else NULL)
                exchange_tiles(z, &t, sums, dw, dw_end, True)
                t.index = t.end_index % z.kernel
                if t.index == 0:
                    t.block = t.end_block


# --- the same, for groups of few filters and channels -------------------------------------------

cdef void copy_gradients(
    const floating *dout, const Py_ssize_t *strides, const Py_ssize_t *begin,
    const Py_ssize_t *count, Py_ssize_t rank, Py_ssize_t samples, Py_ssize_t filters,
    Py_ssize_t positions, floating *to,
) noexcept nogil:
    """to[filter][position] = dout at the positions of a box."""
    cdef Walk walk
    cdef fastconv_run run
    cdef Py_ssize_t f, axis, left
    for f in range(filters):
        walk.rank = 0
        walk.at = f * strides[1]
        add_axis(&walk, samples, strides[0])
        for axis in range(rank):
            walk.at += begin[axis] * strides[2 + axis]
            add_axis(&walk, count[axis], strides[2 + axis])
        left = positions
        while left > 0:
            run = next_run(&walk, left)
            copy_spaced(to, dout + run.at, walk.step[walk.rank - 1], run.length)
            to += run.length
            left -= run.length


cdef void gradient_dots(
    const Sizes *z, Py_ssize_t unit, Py_ssize_t first_block, Py_ssize_t end_block,
    const floating *x, const Py_ssize_t *x_strides, const floating *dout,
    const floating *dout_end, const Py_ssize_t *dout_strides, floating *dw, floating *space,
) noexcept nogil:
    """dw of some filters of one group += the sums over some blocks of positions.

    Neighbouring positions are the lanes: x comes from the scratch of the forward pass, dout from
    where it is, or from a copy where its rows are not contiguous.
    """
    cdef const Axis *axes = <const Axis *> (z + 1)
    cdef const Py_ssize_t *kernel = <const Py_ssize_t *> (axes + z.rank)
    cdef const Py_ssize_t *firsts = kernel + z.kernel
    cdef floating *copied = space + z.scratch_room
    cdef Py_ssize_t begin[MAX_AXES]
    cdef Py_ssize_t count[MAX_AXES]
    cdef Py_ssize_t x_at[DOT_RUNS]
    cdef Py_ssize_t d_at[DOT_RUNS]
    cdef Py_ssize_t offsets[DOT_TAPS]
    cdef Walk images, gradients
    cdef Py_ssize_t taps = z.channels * z.kernel
    cdef Py_ssize_t last = z.rank - 1
    cdef Py_ssize_t part, first_filter, filters, sample, samples, step, rest, axis, positions, done
    cdef Py_ssize_t segments, length, f, rows, t, tap_count, tap_blocks, tap_block, i, j
    cdef Py_ssize_t per_sample, d_step
    cdef bint in_place = z.panel_room == 0
    cdef bint in_line
    cdef const floating *source

    part = unit % z.parts
    unit //= z.parts  # the group
    first_filter = block_begin(z.filters, z.parts, part)
    filters = block_begin(z.filters, z.parts, part + 1) - first_filter
    x += unit * z.channels * x_strides[1]
    dout += (unit * z.filters + first_filter) * dout_strides[1]
    dw += (unit * z.filters + first_filter) * taps
    tap_blocks = (taps + DOT_TAPS - 1) // DOT_TAPS
    for step in range(first_block, end_block):
        sample = step // z.boxes * z.samples
        samples = min(z.samples, z.batch - sample)
        per_sample = find_box(axes, z.rank, step % z.boxes, begin, count)
        positions = samples * per_sample
        fill_scratch(
            z, axes, firsts, begin, count, x + sample * x_strides[0], x_strides, samples, space)
        source = dout
        d_step = dout_strides[1]
        if not in_place:
            copy_gradients(
                dout + sample * dout_strides[0], dout_strides, begin, count, z.rank, samples,
                filters, positions, copied)
            source = copied
            d_step = positions
        for i in range(samples):
            images.rank = 0
            images.at = i * z.channels * z.cells
            gradients.rank = 0
            gradients.at = (sample + i) * dout_strides[0] if in_place else i * per_sample
            rest = per_sample
            for axis in range(z.rank):
                rest //= count[axis]
                if in_place:
                    gradients.at += begin[axis] * dout_strides[2 + axis]
                if axes[axis].size > 1 or (axis == last and images.rank == 0):
                    push_axis(&images, count[axis], axes[axis].pitch)
                    push_axis(
                        &gradients, count[axis], dout_strides[2 + axis] if in_place else rest)
            in_line = images.step[images.rank - 1] == 1
            done = 0
            while done < per_sample:
                # some rows of positions, equally long
                segments = 0
                length = line_length(&images, in_line)
                while (
                    segments < DOT_RUNS and done < per_sample
                    and line_length(&images, in_line) == length
                    and (segments == 0 or (segments + 1) * length <= DOT_POSITIONS)
                ):
                    x_at[segments] = next_run(&images, length).at
                    d_at[segments] = next_run(&gradients, length).at
                    segments += 1
                    done += length
                f = 0
                while f < filters:
                    rows = min(<Py_ssize_t> DOT_ROWS, filters - f)
                    for tap_block in range(tap_blocks):
                        t = block_begin(taps, tap_blocks, tap_block)
                        tap_count = block_begin(taps, tap_blocks, tap_block + 1) - t
                        for j in range(tap_count):
                            offsets[j] = (
                                (t + j) // z.kernel * z.cells + kernel[(t + j) % z.kernel])
                        dot(
                            rows, tap_count, source + f * d_step, d_step,
                            dout_end if in_place else source + filters * positions, space, offsets,
                            segments, d_at, x_at, length, dw + f * taps + t, taps)
                    f += rows
