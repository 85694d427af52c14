# cython: language_level=3
"""What the processor can run. Built once, without any instruction set beyond the default."""

cdef extern from *:
    """
    #if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
    #define FASTCONV_COMPILED_FOR "x86-64-v4"
    #elif defined(__AVX2__) && defined(__FMA__)
    #define FASTCONV_COMPILED_FOR "x86-64-v3"
    #elif defined(__x86_64__) || defined(_M_X64)
    #define FASTCONV_COMPILED_FOR "x86-64"
    #else
    #define FASTCONV_COMPILED_FOR "generic"
    #endif

    #if defined(__x86_64__) && defined(__GNUC__)
    static int fastconv_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    }
    static int fastconv_has_v4(void) {
        return fastconv_has_v3() && __builtin_cpu_supports("avx512f")
            && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
    #else
    static int fastconv_has_v3(void) { return 0; }
    static int fastconv_has_v4(void) { return 0; }
    #endif
    """
    const char *FASTCONV_COMPILED_FOR
    bint fastconv_has_v3() nogil
    bint fastconv_has_v4() nogil

COMPILED_FOR = FASTCONV_COMPILED_FOR.decode("ascii")


def supported():
    """Name the instruction sets beyond the default that the processor and its system offer."""
    return tuple(
        name
        for name, has in (("x86-64-v3", fastconv_has_v3()), ("x86-64-v4", fastconv_has_v4()))
        if has
    )
