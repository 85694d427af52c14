# cython: language_level=3
"""A bell that threads await awake, for a moment: to be woken from sleep takes 50 to 100 us."""

cimport cython

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    #if defined(_WIN32)
    #include <windows.h>
    #define FASTCONV_YIELD() SwitchToThread()
    #else
    #include <sched.h>
    #define FASTCONV_YIELD() sched_yield()
    #endif

    #if defined(_MSC_VER)
    typedef volatile long long fastconv_count;
    #define FASTCONV_READ(count) InterlockedOr64(count, 0)
    #define FASTCONV_RAISE(count) InterlockedIncrement64(count)
    #define FASTCONV_PAUSE() YieldProcessor()
    #else
    typedef long long fastconv_count;
    #define FASTCONV_READ(count) __atomic_load_n(count, __ATOMIC_ACQUIRE)
    #define FASTCONV_RAISE(count) __atomic_add_fetch(count, 1, __ATOMIC_RELEASE)
    #if defined(__x86_64__) || defined(__i386__)
    #define FASTCONV_PAUSE() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define FASTCONV_PAUSE() __asm__ volatile("isb")
    #else
    #define FASTCONV_PAUSE() ((void)0)
    #endif
    #endif

    static int64_t fastconv_now(void) {
        struct timespec now;
        timespec_get(&now, TIME_UTC);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }

    /* Pause for so many nanoseconds, or until the count, where there is one, is not `heard` any
       more; say whether it is not. A clock that is set back ends it too. */
    static int fastconv_pause(fastconv_count *count, long long heard, int64_t time) {
        const int64_t begin = fastconv_now();
        int64_t taken = 0;
        while (taken >= 0 && taken < time) {
            if (count) {
                if (FASTCONV_READ(count) != heard) return 1;
                FASTCONV_YIELD();
            }
            for (int pause = 0; pause < 8; pause++) FASTCONV_PAUSE();
            taken = fastconv_now() - begin;
        }
        return 0;
    }
    """
    ctypedef long long int64_t
    ctypedef long long fastconv_count
    long long FASTCONV_READ(fastconv_count *count) nogil
    long long FASTCONV_RAISE(fastconv_count *count) nogil
    int fastconv_pause(fastconv_count *count, long long heard, int64_t time) nogil


@cython.final
@cython.auto_pickle(False)
cdef class Bell:
    """Counts its rings. Threads that await one let others run on their processor."""

    cdef fastconv_count count

    @property
    def rings(self):
        """How often it has rung."""
        return FASTCONV_READ(&self.count)

    def ring(self):
        """Let those that listen hear it."""
        FASTCONV_RAISE(&self.count)

    def listen(self, long long heard, int64_t time, int64_t grace):
        """Without the GIL, await that there are other than `heard` rings; say if so.

        It takes `time` nanoseconds at most. Who heard a ring pauses for `grace` more before it asks
        for the GIL: it would fall asleep if it came before the ringer has released that.
        """
        cdef bint rung
        with nogil:
            rung = fastconv_pause(&self.count, heard, time)
            if rung:
                fastconv_pause(NULL, 0, grace)
        return rung
