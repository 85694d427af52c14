# cython: language_level=3
# The caller guarantees every size (see _columns.py), so indices are neither tested nor wrapped, and
# cdivision saves the test for a divisor of 0: strides are at least 1.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernels of lowering: im2col, and col2im that adds.

A row of the column matrix belongs to one tap (channel c, kernel index k...), a column to one output
position (o...). Along the last axis the positions that fall inside the image are one run, the same
for every row of positions, so a row is always: zeros, a run of the image, zeros.

::

    o:        0 1 | 2 3 4 5 6 | 7            first .. last: the positions that are asked for
    cols row: 0 0 | x x x x x | 0            low .. high:   those inside the image
"""

cimport numpy as cnp
from cython cimport floating
from libc.string cimport memcpy, memset

cnp.import_array()

# Elements from where on a call of memcpy is quicker than a loop.
cdef enum:
    LONG_RUN = 128


# One tap's run along one axis: positions low <= o < high have 0 <= o*stride + offset < size.
cdef struct Run:
    Py_ssize_t low
    Py_ssize_t high


cdef inline Run run_inside(
    Py_ssize_t size, Py_ssize_t stride, Py_ssize_t offset, Py_ssize_t positions
) noexcept nogil:
    cdef Run run
    run.low = 0 if offset >= 0 else (-offset + stride - 1) // stride
    run.high = 0 if offset >= size else (size - 1 - offset) // stride + 1
    if run.high > positions:
        run.high = positions
    if run.low > run.high:
        run.low = run.high
    return run


cdef inline void copy_row(
    const floating *x, Py_ssize_t at, Py_ssize_t step,
    Run run, Py_ssize_t first, Py_ssize_t last, floating *cols,
) noexcept nogil:
    """cols[o - first] = x[at + o*step] for o in the run, else 0, for first <= o < last."""
    cdef Py_ssize_t low = min(max(run.low, first), last)
    cdef Py_ssize_t high = max(min(run.high, last), low)
    cdef Py_ssize_t o
    for o in range(first, low):
        cols[o - first] = 0
    if step == 1 and high - low >= LONG_RUN:
        memcpy(cols + (low - first), x + (at + low), (high - low) * sizeof(floating))
    elif step == 1:
        for o in range(low, high):
            cols[o - first] = x[at + o]
    elif step == 2:  # 2 and 4 as constants, so that the compiler can gather by shuffles
        for o in range(low, high):
            cols[o - first] = x[at + 2 * o]
    elif step == 4:
        for o in range(low, high):
            cols[o - first] = x[at + 4 * o]
    else:
        for o in range(low, high):
            cols[o - first] = x[at + step * o]
    for o in range(high, last):
        cols[o - first] = 0


cdef inline void add_row(
    const floating *cols, Run run, Py_ssize_t first, Py_ssize_t last,
    floating *x, Py_ssize_t at, Py_ssize_t step,
) noexcept nogil:
    """x[at + o*step] += cols[o - first] for o in the run, for first <= o < last."""
    cdef Py_ssize_t low = max(run.low, first)
    cdef Py_ssize_t high = min(run.high, last)
    cdef Py_ssize_t o
    if step == 1:
        for o in range(low, high):
            x[at + o] += cols[o - first]
    else:
        for o in range(low, high):
            x[at + o * step] += cols[o - first]


# --- one axis ---------------------------------------------------------------------------------


cdef void im2col_1d(const Lowering *g, const floating *x, floating *cols) noexcept nogil:
    """cols[n, (c, k), o] = x[n, c, o*stride - pad + k*dilation], 0 outside."""
    cdef Py_ssize_t n, c, k, offset, at
    cdef Run run
    for n in range(g.samples):
        for c in range(g.channels):
            for k in range(g.kernel_size[0]):
                offset = k * g.dilation[0] - g.pad[0]
                run = run_inside(g.in_shape[0], g.stride[0], offset, g.out_shape[0])
                at = n * g.sample_stride + c * g.channel_stride + offset * g.axis_stride[0]
                copy_row(x, at, g.stride[0] * g.axis_stride[0], run, g.begin, g.end, cols)
                cols += g.end - g.begin


cdef void col2im_1d(const Lowering *g, const floating *cols, floating *x) noexcept nogil:
    """x[n, c, o*stride - pad + k*dilation] += cols[n, (c, k), o]."""
    cdef Py_ssize_t n, c, k, offset, at
    cdef Run run
    for n in range(g.samples):
        for c in range(g.channels):
            for k in range(g.kernel_size[0]):
                offset = k * g.dilation[0] - g.pad[0]
                run = run_inside(g.in_shape[0], g.stride[0], offset, g.out_shape[0])
                at = n * g.sample_stride + c * g.channel_stride + offset * g.axis_stride[0]
                add_row(cols, run, g.begin, g.end, x, at, g.stride[0] * g.axis_stride[0])
                cols += g.end - g.begin


# --- two axes ---------------------------------------------------------------------------------


cdef inline bint rows_run_on(const Lowering *g) noexcept nogil:
    """Whether a row of positions and a row of the image are equally long, unit stride, no gaps.

    Then position p of a tap reads cell p + shift, the same shift for all of them.
    """
    return (
        g.stride[0] == 1 and g.stride[1] == 1 and g.out_shape[1] == g.in_shape[1]
        and g.axis_stride[1] == 1 and g.axis_stride[0] == g.in_shape[1]
    )


cdef inline void copy_plane(
    const floating *x, Py_ssize_t shift, Run rows, Run run, Py_ssize_t OW,
    Py_ssize_t begin, Py_ssize_t end, floating *cols,
) noexcept nogil:
    """cols[p - begin] = x[p + shift] for positions p inside, else 0, for begin <= p < end."""
    cdef Py_ssize_t first = max(rows.low * OW + run.low, begin)
    cdef Py_ssize_t last = min((rows.high - 1) * OW + run.high, end)
    cdef Py_ssize_t oh, p
    if rows.low == rows.high or run.low == run.high or first >= last:
        memset(cols, 0, (end - begin) * sizeof(floating))
        return
    memset(cols, 0, (first - begin) * sizeof(floating))
    memcpy(cols + (first - begin), x + (first + shift), (last - first) * sizeof(floating))
    memset(cols + (last - begin), 0, (end - last) * sizeof(floating))
    if run.high - run.low == OW:
        return
    for oh in range(first // OW, (last - 1) // OW + 1):
        for p in range(max(oh * OW, first), min(oh * OW + run.low, last)):
            cols[p - begin] = 0
        for p in range(max(oh * OW + run.high, first), min(oh * OW + OW, last)):
            cols[p - begin] = 0


cdef void im2col_2d(const Lowering *g, const floating *x, floating *cols) noexcept nogil:
    """cols[n, (c, kh, kw), (oh, ow)] = x[n, c, oh*SH - PH + kh*DH, ow*SW - PW + kw*DW], or 0."""
    cdef Py_ssize_t OW = g.out_shape[1]
    cdef Py_ssize_t step = g.stride[1] * g.axis_stride[1]
    cdef bint run_on = rows_run_on(g)
    cdef bint whole = g.begin % OW == 0 and g.end % OW == 0
    cdef Py_ssize_t n, c, kh, kw, oh, ih, first, last, plane, offset_h, offset_w, at
    cdef Run rows, run
    for n in range(g.samples):
        for c in range(g.channels):
            plane = n * g.sample_stride + c * g.channel_stride
            for kh in range(g.kernel_size[0]):
                offset_h = kh * g.dilation[0] - g.pad[0]
                for kw in range(g.kernel_size[1]):
                    offset_w = kw * g.dilation[1] - g.pad[1]
                    run = run_inside(g.in_shape[1], g.stride[1], offset_w, OW)
                    at = plane + offset_w * g.axis_stride[1]
                    if run_on:
                        rows = run_inside(g.in_shape[0], 1, offset_h, g.out_shape[0])
                        at += offset_h * g.axis_stride[0]
                        copy_plane(x, at, rows, run, OW, g.begin, g.end, cols)
                        cols += g.end - g.begin
                        continue
                    if whole:  # the row's ends as constants: 1.2 times as fast on rows of 8
                        for oh in range(g.begin // OW, g.end // OW):
                            ih = oh * g.stride[0] + offset_h
                            if 0 <= ih < g.in_shape[0]:
                                copy_row(x, at + ih * g.axis_stride[0], step, run, 0, OW, cols)
                            else:
                                memset(cols, 0, OW * sizeof(floating))
                            cols += OW
                        continue
                    for oh in range(g.begin // OW, (g.end - 1) // OW + 1):
                        first = max(g.begin - oh * OW, 0)
                        last = min(g.end - oh * OW, OW)
                        ih = oh * g.stride[0] + offset_h
                        if 0 <= ih < g.in_shape[0]:
                            copy_row(x, at + ih * g.axis_stride[0], step, run, first, last, cols)
                        else:
                            memset(cols, 0, (last - first) * sizeof(floating))
                        cols += last - first


cdef void col2im_2d(const Lowering *g, const floating *cols, floating *x) noexcept nogil:
    """x[n, c, oh*SH - PH + kh*DH, ow*SW - PW + kw*DW] += cols[n, (c, kh, kw), (oh, ow)]."""
    cdef Py_ssize_t OW = g.out_shape[1]
    cdef Py_ssize_t step = g.stride[1] * g.axis_stride[1]
    cdef Py_ssize_t n, c, kh, kw, oh, ih, first, last, offset, at
    cdef Run run
    for n in range(g.samples):
        for c in range(g.channels):
            for kh in range(g.kernel_size[0]):
                for kw in range(g.kernel_size[1]):
                    offset = kw * g.dilation[1] - g.pad[1]
                    run = run_inside(g.in_shape[1], g.stride[1], offset, OW)
                    at = n * g.sample_stride + c * g.channel_stride + offset * g.axis_stride[1]
                    for oh in range(g.begin // OW, (g.end - 1) // OW + 1):
                        first = max(g.begin - oh * OW, 0)
                        last = min(g.end - oh * OW, OW)
                        ih = oh * g.stride[0] - g.pad[0] + kh * g.dilation[0]
                        if 0 <= ih < g.in_shape[0]:
                            add_row(cols, run, first, last, x, at + ih * g.axis_stride[0], step)
                        cols += last - first


# --- any number of axes -----------------------------------------------------------------------
# Index tuples are kept as odometers. A "row" is a row of output positions: all axes but the last
# (the outer ones) are fixed, the last one runs.


cdef inline bint advance(
    Py_ssize_t *index, const Py_ssize_t *shape, Py_ssize_t axes
) noexcept nogil:
    """Step to the next index tuple, last axis fastest; false when it came round to zeros."""
    cdef Py_ssize_t axis
    for axis in range(axes - 1, -1, -1):
        index[axis] += 1
        if index[axis] < shape[axis]:
            return True
        index[axis] = 0
    return False


cdef inline void set_row(
    Py_ssize_t *index, Py_ssize_t row, const Py_ssize_t *shape, Py_ssize_t axes
) noexcept nogil:
    """The index tuple of the row-th row."""
    cdef Py_ssize_t axis
    for axis in range(axes - 1, -1, -1):
        index[axis] = row % shape[axis]
        row //= shape[axis]


cdef inline bint add_outer_offset(
    const Lowering *g, const Py_ssize_t *k, const Py_ssize_t *o, Py_ssize_t *at
) noexcept nogil:
    """Move `at` by the outer axes' offset of tap k at row o; false where that is outside."""
    cdef Py_ssize_t axis, i
    for axis in range(g.rank - 1):
        i = o[axis] * g.stride[axis] - g.pad[axis] + k[axis] * g.dilation[axis]
        if i < 0 or i >= g.in_shape[axis]:
            return False
        at[0] += i * g.axis_stride[axis]
    return True


cdef void im2col_nd(const Lowering *g, const floating *x, floating *cols) noexcept nogil:
    """cols[n, (c, k...), (o...)] = x[n, c, o*stride - pad + k*dilation], 0 outside."""
    cdef Py_ssize_t w = g.rank - 1
    cdef Py_ssize_t step = g.stride[w] * g.axis_stride[w]
    cdef Py_ssize_t k[MAX_RANK]
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, first, last, offset, at, position
    cdef Run run
    memset(k, 0, sizeof(k))
    for n in range(g.samples):
        for c in range(g.channels):
            while True:
                offset = k[w] * g.dilation[w] - g.pad[w]
                run = run_inside(g.in_shape[w], g.stride[w], offset, g.out_shape[w])
                set_row(o, g.begin // g.out_shape[w], g.out_shape, w)
                first = g.begin % g.out_shape[w]
                position = g.begin
                while position < g.end:
                    last = min(first + g.end - position, g.out_shape[w])
                    at = n * g.sample_stride + c * g.channel_stride + offset * g.axis_stride[w]
                    if add_outer_offset(g, k, o, &at):
                        copy_row(x, at, step, run, first, last, cols)
                    else:
                        memset(cols, 0, (last - first) * sizeof(floating))
                    cols += last - first
                    position += last - first
                    first = 0
                    advance(o, g.out_shape, w)
                if not advance(k, g.kernel_size, g.rank):
                    break


cdef void col2im_nd(const Lowering *g, const floating *cols, floating *x) noexcept nogil:
    """x[n, c, o*stride - pad + k*dilation] += cols[n, (c, k...), (o...)]."""
    cdef Py_ssize_t w = g.rank - 1
    cdef Py_ssize_t step = g.stride[w] * g.axis_stride[w]
    cdef Py_ssize_t k[MAX_RANK]
    cdef Py_ssize_t o[MAX_RANK]
    cdef Py_ssize_t n, c, first, last, offset, at, position
    cdef Run run
    memset(k, 0, sizeof(k))
    for n in range(g.samples):
        for c in range(g.channels):
            while True:
                offset = k[w] * g.dilation[w] - g.pad[w]
                run = run_inside(g.in_shape[w], g.stride[w], offset, g.out_shape[w])
                set_row(o, g.begin // g.out_shape[w], g.out_shape, w)
                first = g.begin % g.out_shape[w]
                position = g.begin
                while position < g.end:
                    last = min(first + g.end - position, g.out_shape[w])
                    at = n * g.sample_stride + c * g.channel_stride + offset * g.axis_stride[w]
                    if add_outer_offset(g, k, o, &at):
                        add_row(cols, run, first, last, x, at, step)
                    cols += last - first
                    position += last - first
                    first = 0
                    advance(o, g.out_shape, w)
                if not advance(k, g.kernel_size, g.rank):
                    break


# --- by rank, under concrete names --------------------------------------------------------------


cdef inline void im2col_any(const Lowering *g, const floating *x, floating *cols) noexcept nogil:
    if g.rank == 1:
        im2col_1d(g, x, cols)
    elif g.rank == 2:
        im2col_2d(g, x, cols)
    else:
        im2col_nd(g, x, cols)


cdef inline void col2im_any(const Lowering *g, const floating *cols, floating *x) noexcept nogil:
    if g.rank == 1:
        col2im_1d(g, cols, x)
    elif g.rank == 2:
        col2im_2d(g, cols, x)
    else:
        col2im_nd(g, cols, x)


cdef void im2col_f32(const Lowering *sizes, const float *x, float *cols) noexcept nogil:
    im2col_any(sizes, x, cols)


cdef void im2col_f64(const Lowering *sizes, const double *x, double *cols) noexcept nogil:
    im2col_any(sizes, x, cols)


cdef void col2im_f32(const Lowering *sizes, const float *cols, float *x) noexcept nogil:
    col2im_any(sizes, cols, x)


cdef void col2im_f64(const Lowering *sizes, const double *cols, double *x) noexcept nogil:
    col2im_any(sizes, cols, x)


# --- for Python ---------------------------------------------------------------------------------


cdef void fill_lowering(
    Lowering *g, Py_ssize_t *strides, cnp.ndarray x, const Py_ssize_t[:, ::1] sizes,
    Py_ssize_t begin, Py_ssize_t end,
) noexcept:
    """Put the rows of `sizes` and the strides of x, counted in elements, into g."""
    cdef Py_ssize_t axis
    for axis in range(cnp.PyArray_NDIM(x)):
        strides[axis] = cnp.PyArray_STRIDE(x, axis) // cnp.PyArray_ITEMSIZE(x)
    g.samples = cnp.PyArray_DIM(x, 0)
    g.channels = cnp.PyArray_DIM(x, 1)
    g.rank = sizes.shape[1]
    g.in_shape = &sizes[0, 0]
    g.kernel_size = &sizes[1, 0]
    g.stride = &sizes[2, 0]
    g.pad = &sizes[3, 0]
    g.dilation = &sizes[4, 0]
    g.out_shape = &sizes[5, 0]
    g.sample_stride = strides[0]
    g.channel_stride = strides[1]
    g.axis_stride = strides + 2
    g.begin = begin
    g.end = end


def im2col(
    cnp.ndarray x not None, cnp.ndarray cols not None, const Py_ssize_t[:, ::1] sizes not None,
    Py_ssize_t begin, Py_ssize_t end, bint force_nd=False,
):
    """cols[n, (c, k...), j] = x[n, c, o*stride - pad + k*dilation], o the (begin + j)-th position.

    x (N, C, *S) of any strides and cols (N, C*prod(K), end - begin), C-contiguous, of one dtype,
    float32 or float64, aligned, in native byte order; the rows of `sizes` (6, rank) are in_shape,
    kernel_size, stride, pad (before), dilation, out_shape. The caller guarantees all of it.
    `force_nd` takes the loop for any rank also at rank 1 and 2.
    """
    cdef Lowering g
    cdef Py_ssize_t strides[MAX_RANK]
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(cols)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    fill_lowering(&g, strides, x, sizes, begin, end)
    with nogil:
        if single and force_nd:
            im2col_nd(&g, <const float *> source, <float *> target)
        elif single:
            im2col_f32(&g, <const float *> source, <float *> target)
        elif force_nd:
            im2col_nd(&g, <const double *> source, <double *> target)
        else:
            im2col_f64(&g, <const double *> source, <double *> target)


def col2im(
    cnp.ndarray cols not None, cnp.ndarray x not None, const Py_ssize_t[:, ::1] sizes not None,
    Py_ssize_t begin, Py_ssize_t end, bint force_nd=False,
):
    """x[n, c, o*stride - pad + k*dilation] += cols[n, (c, k...), j], o the (begin + j)-th position.

    The adjoint of `im2col`, with the same arguments and guarantees; no elements of x overlap.
    """
    cdef Lowering g
    cdef Py_ssize_t strides[MAX_RANK]
    cdef void *source = cnp.PyArray_DATA(cols)
    cdef void *target = cnp.PyArray_DATA(x)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    fill_lowering(&g, strides, x, sizes, begin, end)
    with nogil:
        if single and force_nd:
            col2im_nd(&g, <const float *> source, <float *> target)
        elif single:
            col2im_f32(&g, <const float *> source, <float *> target)
        elif force_nd:
            col2im_nd(&g, <const double *> source, <double *> target)
        else:
            col2im_f64(&g, <const double *> source, <double *> target)
