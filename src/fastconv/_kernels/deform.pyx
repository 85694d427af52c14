# cython: language_level=3
# The caller guarantees every size (see _sampling.py), so indices are neither tested nor wrapped,
# and cdivision saves the test for a divisor of 0: there is at least one output position.
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernels of deformable convolution: columns sampled at offsets, and their gradients.

A tap k of an offset group samples the image at one point for each output position, the same point
in every channel of the group. The points of a block of positions are found once, then used for
channel after channel::

    row      x00 ----- x01      point at (row + bottom, column + right),
      |       |    .    |       value = top * (left*x00 + right*x01)
    row + 1  x10 ----- x11            + bottom * (left*x10 + right*x11)

with ``top = 1 - bottom`` and ``left = 1 - right``. Nearly all points lie like this one, with four
pixels that count. The rest, here called edges, have fewer: at the image's border, outside, on whole
coordinates, NaN. The loop over a block takes them along without effect (a weight of 0 on four
pixels of the image), and a loop over the edges alone then gives them their values, so that a pixel
whose weight is 0 has none: 0 times infinity is NaN.
"""

cimport numpy as cnp
from cython cimport floating
from libc.math cimport NAN, floor, isnan

cnp.import_array()

# Positions whose points are held at once; they and what is summed for them stay in first-level
# cache.
cdef enum:
    BLOCK = 128

# Every size of one call; strides count elements, from one sample to the next. Inside a sample all
# arrays are contiguous.
cdef struct Sampling:
    Py_ssize_t samples
    Py_ssize_t groups            # of channels, each with offsets and masks of its own
    Py_ssize_t channels          # of one group
    const Py_ssize_t *in_shape
    const Py_ssize_t *kernel_size
    const Py_ssize_t *stride
    const Py_ssize_t *pad
    const Py_ssize_t *dilation
    const Py_ssize_t *out_shape
    Py_ssize_t begin             # column j is output position begin + j
    Py_ssize_t end
    Py_ssize_t x_stride
    Py_ssize_t offset_stride
    Py_ssize_t mask_stride
    Py_ssize_t cols_stride
    Py_ssize_t dx_stride
    Py_ssize_t doffset_stride
    Py_ssize_t dmask_stride

# A point without four pixels that count.
cdef struct Edge:
    Py_ssize_t position          # in the block
    bint missing                 # a coordinate is NaN
    Py_ssize_t corners           # pixels inside the image, of any weight
    Py_ssize_t at[4]             # where they are in the plane
    double weight[4]
    double by_y[4]               # the weight's derivatives
    double by_x[4]
    double sum_y                 # gradients, summed over the channels
    double sum_x
    double sum_mask


cdef inline void fill_edge(
    Edge *edge, Py_ssize_t position, const Sampling *g, double row, double column,
    double *wy, double *wx,
) noexcept nogil:
    """The corners of the point at (row + wy[1], column + wx[1]), whole row and column."""
    cdef Py_ssize_t H = g.in_shape[0]
    cdef Py_ssize_t W = g.in_shape[1]
    cdef Py_ssize_t ih, iw, down, along
    edge.position = position
    edge.missing = False
    edge.corners = 0
    edge.sum_y = edge.sum_x = edge.sum_mask = 0
    if not (row >= -1 and row < H and column >= -1 and column < W):
        return
    if (row == -1 and wy[1] == 0) or (column == -1 and wx[1] == 0):
        return
    for down in range(2):
        for along in range(2):
            ih = <Py_ssize_t> row + down
            iw = <Py_ssize_t> column + along
            if 0 <= ih < H and 0 <= iw < W:
                edge.at[edge.corners] = ih * W + iw
                edge.weight[edge.corners] = wy[down] * wx[along]
                edge.by_y[edge.corners] = wx[along] if down else -wx[along]
                edge.by_x[edge.corners] = wy[down] if along else -wy[down]
                edge.corners += 1


cdef inline Py_ssize_t find_points(
    const Sampling *g, const floating *offset, Py_ssize_t k, Py_ssize_t first, Py_ssize_t count,
    Py_ssize_t *at, floating *top, floating *bottom, floating *left, floating *right, Edge *edges,
) noexcept nogil:
    """Find the points of tap k at `count` positions from `first` on; returns how many are edges.

    Whole and broken part of a coordinate are kept apart, so that neither loses digits to the other
    (nor does a weight, which is taken from the nearer cell), and a whole part becomes an integer
    only once it is known to lie in the image.
    """
    cdef Py_ssize_t H = g.in_shape[0]
    cdef Py_ssize_t W = g.in_shape[1]
    cdef Py_ssize_t OW = g.out_shape[1]
    cdef Py_ssize_t positions = g.out_shape[0] * OW
    cdef const floating *offset_y = offset + 2 * k * positions + first
    cdef const floating *offset_x = offset_y + positions
    cdef Py_ssize_t start_h = (k // g.kernel_size[1]) * g.dilation[0] - g.pad[0]
    cdef Py_ssize_t start_w = (k % g.kernel_size[1]) * g.dilation[1] - g.pad[1]
    cdef Py_ssize_t oh = first // OW
    cdef Py_ssize_t ow = first % OW
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t j
    cdef double y, x, row, column
    cdef double wy[2]
    cdef double wx[2]
    for j in range(count):
        y = floor(offset_y[j])
        x = floor(offset_x[j])
        row = <double> (oh * g.stride[0] + start_h) + y
        column = <double> (ow * g.stride[1] + start_w) + x
        wy[1] = <floating> (offset_y[j] - y)
        wx[1] = <floating> (offset_x[j] - x)
        wy[0] = <floating> (y + 1 - offset_y[j])
        wx[0] = <floating> (x + 1 - offset_x[j])
        if (
            row >= 0 and row < H - 1 and column >= 0 and column < W - 1
            and wy[0] > 0 and wy[1] > 0 and wx[0] > 0 and wx[1] > 0
        ):
            at[j] = <Py_ssize_t> row * W + <Py_ssize_t> column
            top[j] = wy[0]
            bottom[j] = wy[1]
            left[j] = wx[0]
            right[j] = wx[1]
        else:
            at[j] = 0
            top[j] = bottom[j] = left[j] = right[j] = 0
            fill_edge(&edges[found], j, g, row, column, wy, wx)
            edges[found].missing = isnan(offset_y[j]) or isnan(offset_x[j])
            found += 1
        ow += 1
        if ow == OW:
            ow = 0
            oh += 1
    return found


cdef inline void take_factors(
    const floating *mask, Py_ssize_t at, Py_ssize_t count, floating *factors
) noexcept nogil:
    """The mask from `at` on, or ones, times which any number is itself, to the bit."""
    cdef Py_ssize_t j
    for j in range(count):
        factors[j] = 1 if mask == NULL else mask[at + j]


cdef inline floating edge_value(const Edge *edge, const floating *plane) noexcept nogil:
    """The value at the point, of the pixels that have a weight."""
    cdef floating value = 0
    cdef bint empty = True
    cdef Py_ssize_t i
    if edge.missing:
        return NAN
    for i in range(edge.corners):
        if edge.weight[i] != 0:
            if empty:  # not added to 0, which would lose the sign of a -0
                value = <floating> edge.weight[i] * plane[edge.at[i]]
            else:
                value += <floating> edge.weight[i] * plane[edge.at[i]]
            empty = False
    return value


cdef inline void edge_gradients(
    Edge *edge, floating d, floating masked, const floating *plane
) noexcept nogil:
    """Add what a channel gives whose column has the gradient d, or `masked` before the mask."""
    cdef double value = 0
    cdef double by_y = 0
    cdef double by_x = 0
    cdef double pixel
    cdef Py_ssize_t i
    if edge.missing:
        edge.sum_y = edge.sum_x = edge.sum_mask = NAN
    if edge.corners == 0:
        return
    for i in range(edge.corners):
        pixel = plane[edge.at[i]]
        if edge.weight[i] != 0:
            value += edge.weight[i] * pixel
        if edge.by_y[i] != 0:
            by_y += edge.by_y[i] * pixel
        if edge.by_x[i] != 0:
            by_x += edge.by_x[i] * pixel
    edge.sum_y += masked * by_y
    edge.sum_x += masked * by_x
    edge.sum_mask += d * value


# --- columns ----------------------------------------------------------------------------------


cdef inline void sample_block(
    const Sampling *g, const floating *x, const floating *offset, const floating *mask,
    Py_ssize_t k, Py_ssize_t first, Py_ssize_t count, floating *cols,
) noexcept nogil:
    """cols[c, k, j] = mask[k, j] * value of channel c at point j, of one offset group."""
    cdef Py_ssize_t at[BLOCK]
    cdef floating top[BLOCK]
    cdef floating bottom[BLOCK]
    cdef floating left[BLOCK]
    cdef floating right[BLOCK]
    cdef floating factors[BLOCK]
    cdef floating values[BLOCK]
    cdef Edge edges[BLOCK]
    cdef Py_ssize_t W = g.in_shape[1]
    cdef Py_ssize_t taps = g.kernel_size[0] * g.kernel_size[1]
    cdef Py_ssize_t row = taps * (g.end - g.begin)
    cdef Py_ssize_t found = find_points(
        g, offset, k, first, count, at, top, bottom, left, right, edges
    )
    cdef Py_ssize_t _c, j
    cols += k * (g.end - g.begin) + (first - g.begin)
    take_factors(mask, k * g.out_shape[0] * g.out_shape[1] + first, count, factors)
    for _c in range(g.channels):
        if found < count:
            for j in range(count):
                values[j] = (
                    top[j] * (left[j] * x[at[j]] + right[j] * x[at[j] + 1])
                    + bottom[j] * (left[j] * x[at[j] + W] + right[j] * x[at[j] + W + 1])
                )
        for j in range(found):
            values[edges[j].position] = edge_value(&edges[j], x)
        for j in range(count):
            cols[j] = factors[j] * values[j]
        x += g.in_shape[0] * W
        cols += row


cdef void sample_any(
    const Sampling *g, const floating *x, const floating *offset, const floating *mask,
    floating *cols,
) noexcept nogil:
    cdef Py_ssize_t taps = g.kernel_size[0] * g.kernel_size[1]
    cdef Py_ssize_t positions = g.out_shape[0] * g.out_shape[1]
    cdef Py_ssize_t image = g.channels * g.in_shape[0] * g.in_shape[1]
    cdef Py_ssize_t n, group, k, first, points
    cdef const floating *masks = NULL
    for n in range(g.samples):
        for group in range(g.groups):
            points = group * taps * positions
            if mask != NULL:
                masks = mask + n * g.mask_stride + points
            for k in range(taps):
                first = g.begin
                while first < g.end:
                    sample_block(
                        g,
                        x + n * g.x_stride + group * image,
                        offset + n * g.offset_stride + 2 * points,
                        masks,
                        k, first, min(g.end - first, <Py_ssize_t> BLOCK),
                        cols + n * g.cols_stride + group * g.channels * taps * (g.end - g.begin),
                    )
                    first += BLOCK


# --- gradients --------------------------------------------------------------------------------


cdef inline void scatter_block(
    const Sampling *g, const floating *cols, const floating *x, const floating *offset,
    const floating *mask, Py_ssize_t k, Py_ssize_t first, Py_ssize_t count,
    floating *dx, floating *doffset, floating *dmask,
) noexcept nogil:
    """Add what one tap of one offset group gives to the gradients that are not NULL."""
    cdef Py_ssize_t at[BLOCK]
    cdef floating top[BLOCK]
    cdef floating bottom[BLOCK]
    cdef floating left[BLOCK]
    cdef floating right[BLOCK]
    cdef floating factors[BLOCK]
    cdef floating masked[BLOCK]
    cdef floating sum_y[BLOCK]
    cdef floating sum_x[BLOCK]
    cdef floating sum_mask[BLOCK]
    cdef Edge edges[BLOCK]
    cdef Py_ssize_t W = g.in_shape[1]
    cdef Py_ssize_t taps = g.kernel_size[0] * g.kernel_size[1]
    cdef Py_ssize_t positions = g.out_shape[0] * g.out_shape[1]
    cdef Py_ssize_t row = taps * (g.end - g.begin)
    cdef Py_ssize_t found = find_points(
        g, offset, k, first, count, at, top, bottom, left, right, edges
    )
    cdef bint sums = doffset != NULL or dmask != NULL
    cdef Py_ssize_t _c, i, j, p
    cdef floating upper, lower, a, b
    cols += k * (g.end - g.begin) + (first - g.begin)
    take_factors(mask, k * positions + first, count, factors)
    for j in range(count):
        sum_y[j] = sum_x[j] = sum_mask[j] = 0
    for _c in range(g.channels):
        for j in range(count):
            masked[j] = factors[j] * cols[j]
        if sums:
            if found < count:
                for j in range(count):
                    p = at[j]
                    upper = left[j] * x[p] + right[j] * x[p + 1]
                    lower = left[j] * x[p + W] + right[j] * x[p + W + 1]
                    a = x[p + 1] - x[p]
                    b = x[p + W + 1] - x[p + W]
                    sum_y[j] += masked[j] * (lower - upper)
                    sum_x[j] += masked[j] * (top[j] * a + bottom[j] * b)
                    sum_mask[j] += cols[j] * (top[j] * upper + bottom[j] * lower)
            for j in range(found):
                i = edges[j].position
                edge_gradients(&edges[j], cols[i], masked[i], x)
            x += g.in_shape[0] * W
        if dx != NULL:
            if found < count:
                for j in range(count):
                    if top[j] != 0:
                        p = at[j]
                        a = top[j] * masked[j]
                        b = bottom[j] * masked[j]
                        dx[p] += left[j] * a
                        dx[p + 1] += right[j] * a
                        dx[p + W] += left[j] * b
                        dx[p + W + 1] += right[j] * b
            for j in range(found):
                for i in range(edges[j].corners):
                    if edges[j].weight[i] != 0:
                        a = <floating> edges[j].weight[i] * masked[edges[j].position]
                        dx[edges[j].at[i]] += a
            dx += g.in_shape[0] * W
        cols += row
    for j in range(found):
        i = edges[j].position
        sum_y[i] = <floating> edges[j].sum_y
        sum_x[i] = <floating> edges[j].sum_x
        sum_mask[i] = <floating> edges[j].sum_mask
    if doffset != NULL:
        doffset += 2 * k * positions + first
        for j in range(count):
            doffset[j] += sum_y[j]
            doffset[positions + j] += sum_x[j]
    if dmask != NULL:
        dmask += k * positions + first
        for j in range(count):
            dmask[j] += sum_mask[j]


cdef void scatter_any(
    const Sampling *g, const floating *cols, const floating *x, const floating *offset,
    const floating *mask, floating *dx, floating *doffset, floating *dmask,
) noexcept nogil:
    cdef Py_ssize_t taps = g.kernel_size[0] * g.kernel_size[1]
    cdef Py_ssize_t positions = g.out_shape[0] * g.out_shape[1]
    cdef Py_ssize_t image = g.channels * g.in_shape[0] * g.in_shape[1]
    cdef Py_ssize_t n, group, k, first, points
    cdef const floating *masks = NULL
    for n in range(g.samples):
        for group in range(g.groups):
            points = group * taps * positions
            if mask != NULL:
                masks = mask + n * g.mask_stride + points
            for k in range(taps):
                first = g.begin
                while first < g.end:
                    scatter_block(
                        g,
                        cols + n * g.cols_stride + group * g.channels * taps * (g.end - g.begin),
                        x + n * g.x_stride + group * image,
                        offset + n * g.offset_stride + 2 * points,
                        masks,
                        k, first, min(g.end - first, <Py_ssize_t> BLOCK),
                        NULL if dx == NULL else dx + n * g.dx_stride + group * image,
                        NULL if doffset == NULL
                        else doffset + n * g.doffset_stride + 2 * points,
                        NULL if dmask == NULL else dmask + n * g.dmask_stride + points,
                    )
                    first += BLOCK


# --- for Python ---------------------------------------------------------------------------------


cdef inline void *data(cnp.ndarray array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(array)


cdef inline Py_ssize_t sample_stride(cnp.ndarray array) noexcept:
    """Elements from one sample to the next."""
    return 0 if array is None else cnp.PyArray_STRIDE(array, 0) // cnp.PyArray_ITEMSIZE(array)


cdef Sampling sampling_of(
    cnp.ndarray x, cnp.ndarray offset, cnp.ndarray mask, cnp.ndarray cols,
    cnp.ndarray sizes, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t groups,
) noexcept:
    cdef Sampling g
    cdef const Py_ssize_t *table = <const Py_ssize_t *> cnp.PyArray_DATA(sizes)
    g.samples = cnp.PyArray_DIM(x, 0)
    g.groups = groups
    g.channels = cnp.PyArray_DIM(x, 1) // groups
    g.in_shape = table
    g.kernel_size = table + 2
    g.stride = table + 4
    g.pad = table + 6
    g.dilation = table + 8
    g.out_shape = table + 10
    g.begin = begin
    g.end = end
    g.x_stride = sample_stride(x)
    g.offset_stride = sample_stride(offset)
    g.mask_stride = sample_stride(mask)
    g.cols_stride = sample_stride(cols)
    g.dx_stride = g.doffset_stride = g.dmask_stride = 0
    return g


def sample(
    cnp.ndarray x not None, cnp.ndarray offset not None, cnp.ndarray mask,
    cnp.ndarray cols not None,
    cnp.ndarray sizes not None, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t groups,
):
    """cols[n, (c, k), j] = mask[n, k, o] * (x[n, c] at the point of k and o), o the (begin + j)-th.

    x (N, C, H, W), offset (N, groups*2*K, OH, OW), mask (N, groups*K, OH, OW) or None, cols
    (N, C*K, end - begin) with ``K = KH*KW``: of one dtype, float32 or float64, aligned, in native
    byte order, each sample contiguous; the rows of `sizes` (6, 2) are in_shape, kernel_size,
    stride, pad (before), dilation, out_shape; C divides by `groups`. The caller guarantees all
    of it.
    """
    cdef Sampling g = sampling_of(x, offset, mask, cols, sizes, begin, end, groups)
    cdef void *source = data(x)
    cdef void *points = data(offset)
    cdef void *masks = data(mask)
    cdef void *target = data(cols)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    with nogil:
        if single:
            sample_any(
                &g, <const float *> source, <const float *> points, <const float *> masks,
                <float *> target,
            )
        else:
            sample_any(
                &g, <const double *> source, <const double *> points, <const double *> masks,
                <double *> target,
            )


def scatter(
    cnp.ndarray cols not None, cnp.ndarray x not None, cnp.ndarray offset not None,
    cnp.ndarray mask, cnp.ndarray dx, cnp.ndarray doffset, cnp.ndarray dmask,
    cnp.ndarray sizes not None, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t groups,
):
    """Add to dx, doffset and dmask, each of them unless it is None, the gradients from cols.

    The adjoint of `sample` in x, and its derivatives by offset and mask, with the same arguments
    and guarantees; dx, doffset and dmask are like x, offset and mask.
    """
    cdef Sampling g = sampling_of(x, offset, mask, cols, sizes, begin, end, groups)
    cdef void *gradient = data(cols)
    cdef void *source = data(x)
    cdef void *points = data(offset)
    cdef void *masks = data(mask)
    cdef void *images = data(dx)
    cdef void *moves = data(doffset)
    cdef void *scales = data(dmask)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    g.dx_stride = sample_stride(dx)
    g.doffset_stride = sample_stride(doffset)
    g.dmask_stride = sample_stride(dmask)
    with nogil:
        if single:
            scatter_any(
                &g, <const float *> gradient, <const float *> source, <const float *> points,
                <const float *> masks, <float *> images, <float *> moves, <float *> scales,
            )
        else:
            scatter_any(
                &g, <const double *> gradient, <const double *> source, <const double *> points,
                <const double *> masks, <double *> images, <double *> moves, <double *> scales,
            )
