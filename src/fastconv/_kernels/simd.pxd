"""What simd.h has, for both types at once.

The caller guarantees every size.
"""

from cython cimport floating
cimport numpy as cnp

cdef extern from "simd.h" nogil:
    enum:
        FASTCONV_ROWS
        FASTCONV_VECTORS
        LANES_f32
        LANES_f64
    bint all_finite_f32(const float *, Py_ssize_t)
    bint all_finite_f64(const double *, Py_ssize_t)
    void copy_f32(float *, const float *, Py_ssize_t)
    void copy_f64(double *, const double *, Py_ssize_t)
    void transpose_f32(
        Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, const float *, float *, Py_ssize_t,
        const float *)
    void transpose_f64(
        Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, const double *, double *, Py_ssize_t,
        const double *)
    void tile_f32(
        Py_ssize_t, Py_ssize_t, const float *, const Py_ssize_t *, Py_ssize_t, Py_ssize_t,
        const float *, const Py_ssize_t *, Py_ssize_t, const Py_ssize_t *, const Py_ssize_t *,
        Py_ssize_t, const float *, Py_ssize_t, const float *, float *, Py_ssize_t)
    void tile_f64(
        Py_ssize_t, Py_ssize_t, const double *, const Py_ssize_t *, Py_ssize_t, Py_ssize_t,
        const double *, const Py_ssize_t *, Py_ssize_t, const Py_ssize_t *, const Py_ssize_t *,
        Py_ssize_t, const double *, Py_ssize_t, const double *, double *, Py_ssize_t)

cdef enum:
    ALIGNMENT = 64     # bytes


cdef inline Py_ssize_t block_begin(
    Py_ssize_t size, Py_ssize_t blocks, Py_ssize_t block
) noexcept nogil:
    """Where a block begins, of `blocks` nearly equal ones."""
    return size * block // blocks


cdef inline Py_ssize_t lanes_of(const floating *_) noexcept nogil:
    if floating is float:
        return LANES_f32
    else:
        return LANES_f64


cdef inline void copy(floating *to, const floating *source, Py_ssize_t n) noexcept nogil:
    if floating is float:
        copy_f32(to, source, n)
    else:
        copy_f64(to, source, n)


cdef inline bint all_finite(const floating *numbers, Py_ssize_t n) noexcept nogil:
    if floating is float:
        return all_finite_f32(numbers, n)
    else:
        return all_finite_f64(numbers, n)


cdef inline void transpose_vector(
    Py_ssize_t rows, Py_ssize_t columns, const floating *source, Py_ssize_t source_step,
    const floating *source_end, floating *to, Py_ssize_t to_step, const floating *to_end,
) noexcept nogil:
    """`transpose`, for the rows of a vector at most."""
    if floating is float:
        transpose_f32(rows, columns, source, source_step, source_end, to, to_step, to_end)
    else:
        transpose_f64(rows, columns, source, source_step, source_end, to, to_step, to_end)


cdef inline void transpose(
    Py_ssize_t rows, Py_ssize_t columns, const floating *source, Py_ssize_t source_step,
    const floating *source_end, floating *to, Py_ssize_t to_step, const floating *to_end,
) noexcept nogil:
    """to[j * to_step + i] = source[i * source_step + j], any number of rows.

    Up to a vector after each column of `to` is overwritten where that is below `to_end`.
    """
    cdef Py_ssize_t width = lanes_of(to)
    cdef Py_ssize_t rest = rows % width
    cdef Py_ssize_t i = 0
    if source_step < 0:  # then the last row is not the one that the end must be far from
        source_end = NULL
    rows -= rest
    if rest:  # first, since they are those that zeros are written after
        transpose_vector(
            rest, columns, source + rows * source_step, source_step, source_end, to + rows,
            to_step, to_end)
    while i < rows:
        transpose_vector(
            width, columns, source + i * source_step, source_step, source_end, to + i, to_step,
            to_end)
        i += width


cdef inline void set_strides(cnp.ndarray array, Py_ssize_t *strides) noexcept:
    """The strides of an array, in elements."""
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(array)):
        strides[axis] = cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)


cdef inline void *end_of(cnp.ndarray array) noexcept:
    """Where the last of an array's elements in memory ends."""
    cdef char *end = <char *> cnp.PyArray_DATA(array) + cnp.PyArray_ITEMSIZE(array)
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(array)):
        end += max(<Py_ssize_t> 0, cnp.PyArray_STRIDE(array, axis)) * (
            cnp.PyArray_DIM(array, axis) - 1)
    return end


cdef inline void *aligned(cnp.ndarray space) noexcept:
    """The first place in `space` where a vector crosses no line of the cache."""
    cdef size_t place = <size_t> cnp.PyArray_DATA(space)
    return <void *> ((place + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)
