# The lowering kernels, for other Cython code (`cimport fastconv` gives the same names).
#
# They check nothing and allocate nothing: the caller fills a Lowering whose sizes agree, and owns
# the memory that they name. The public functions in lowering.py do both.

cdef extern from *:
    """
    #define FASTCONV_MAX_RANK 64
    """
    enum: MAX_RANK "FASTCONV_MAX_RANK"

# Every size of one lowering; sizes and strides count elements, never bytes.
#
#   x     rank + 2 axes (samples, channels, *in_shape), addressed as
#         x[n*sample_stride + c*channel_stride + sum(i[a] * axis_stride[a])]
#   cols  C-contiguous (samples, channels * prod(kernel_size), end - begin)
#
# Column j of cols is output position begin + j, positions counted in row-major order over
# out_shape; begin = 0 and end = prod(out_shape) give the whole column matrix, and begin < end. Each
# pointer is to `rank` values, 1 <= rank < MAX_RANK. For col2im no two elements of x share memory.
ctypedef struct Lowering:
    Py_ssize_t samples
    Py_ssize_t channels
    Py_ssize_t rank
    const Py_ssize_t *in_shape
    const Py_ssize_t *kernel_size
    const Py_ssize_t *stride
    const Py_ssize_t *pad            # before the first cell; what is after the last has no use
    const Py_ssize_t *dilation
    const Py_ssize_t *out_shape
    Py_ssize_t sample_stride
    Py_ssize_t channel_stride
    const Py_ssize_t *axis_stride
    Py_ssize_t begin
    Py_ssize_t end

# cols[n, (c, k...), (o...)] = x[n, c, o*stride - pad + k*dilation], 0 outside
cdef void im2col_f32(const Lowering *sizes, const float *x, float *cols) noexcept nogil
cdef void im2col_f64(const Lowering *sizes, const double *x, double *cols) noexcept nogil

# x[n, c, o*stride - pad + k*dilation] += cols[n, (c, k...), (o...)], ascending in (k..., o...)
cdef void col2im_f32(const Lowering *sizes, const float *cols, float *x) noexcept nogil
cdef void col2im_f64(const Lowering *sizes, const double *cols, double *x) noexcept nogil
