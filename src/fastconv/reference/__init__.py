"""Convolution in plain NumPy, in several forms: to be read, to be checked against, to be timed.

Every form computes the same thing. With ``i = o*stride - pad + k*dilation`` on each axis,
and zeros where i leaves the image, a convolution is a sum over the channels c of f's group and the
kernel indices k::

    out[n, f, o...] = b[f] + sum(x[n, c, i...] * w[f, c, k...])

Each of those products joins one element of out, one of x and one of w. Summed into out, they are
the convolution; into x, with dout in out's place, its input gradient, which is the transposed
convolution too; into w, its weight gradient. The forms differ in how they walk over the products:

==================  =================================================================
`reference.loops`   one product at a time: the definition
`reference.shifted` one matrix product for each kernel offset, channels last
`reference.strided` one matrix product over a view of all windows
`reference.adjoint` the two gradients, each as a convolution of other arrays
`reference.pooling` pools: one window at a time, and through im2col
`reference.deformable` deformable convolution: one product at a time
==================  =================================================================

The parameters `stride`, `pad`, `dilation`, `group` and `layout`, and the shapes, are those of
`fastconv.conv_forward`, in any rank. Unlike there, arrays of any numeric type are taken and keep
it: on int64 the results are exact. The gradients returned are all three, always, and `db` also
where the forward call had no bias.
"""

from fastconv.reference.adjoint import conv_dw_conv, conv_dx_rotated
from fastconv.reference.deformable import (
    deform_conv_backward_loops,
    deform_conv_forward_loops,
)
from fastconv.reference.loops import (
    col2im_loops,
    conv_backward_loops,
    conv_forward_loops,
    deconv_backward_loops,
    deconv_forward_loops,
    im2col_loops,
)
from fastconv.reference.pooling import (
    avg_pool_backward_im2col,
    avg_pool_backward_loops,
    avg_pool_forward_im2col,
    avg_pool_forward_loops,
    max_pool_backward_im2col,
    max_pool_backward_loops,
    max_pool_forward_im2col,
    max_pool_forward_loops,
)
from fastconv.reference.shifted import (
    conv_backward_shifted,
    conv_forward_shifted,
    deconv_backward_shifted,
    deconv_forward_shifted,
)
from fastconv.reference.strided import conv_backward_strided, conv_forward_strided

__all__ = [
    "avg_pool_backward_im2col",
    "avg_pool_backward_loops",
    "avg_pool_forward_im2col",
    "avg_pool_forward_loops",
    "col2im_loops",
    "conv_backward_loops",
    "conv_backward_shifted",
    "conv_backward_strided",
    "conv_dw_conv",
    "conv_dx_rotated",
    "conv_forward_loops",
    "conv_forward_shifted",
    "conv_forward_strided",
    "deconv_backward_loops",
    "deconv_backward_shifted",
    "deconv_forward_loops",
    "deconv_forward_shifted",
    "deform_conv_backward_loops",
    "deform_conv_forward_loops",
    "im2col_loops",
    "max_pool_backward_im2col",
    "max_pool_backward_loops",
    "max_pool_forward_im2col",
    "max_pool_forward_loops",
]
