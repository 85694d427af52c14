# `cimport fastconv`: the lowering kernels under names that stay.

from fastconv._im2col cimport Lowering, col2im_f32, col2im_f64, im2col_f32, im2col_f64
