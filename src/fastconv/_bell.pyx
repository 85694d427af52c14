# cython: language_level=3
"""A bell that threads await awake, for a moment: to be woken from sleep takes 50 to 100 us."""

cimport cython

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    #if defined(__linux__)
    #include <sched.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #endif

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
    #define FASTCONV_WRITE(count, value) InterlockedExchange64(count, value)
    #define FASTCONV_RAISE(count) InterlockedIncrement64(count)
    #define FASTCONV_PAUSE() YieldProcessor()
    #else
    typedef long long fastconv_count;
    #define FASTCONV_READ(count) __atomic_load_n(count, __ATOMIC_ACQUIRE)
    #define FASTCONV_WRITE(count, value) __atomic_store_n(count, value, __ATOMIC_RELEASE)
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

    /* The calling thread, the processor it is on, and how many helpers it calls, in one number;
       -1 where nothing tells. */
    static long long fastconv_whereabouts(long long helpers) {
    #if defined(__linux__)
        const int processor = sched_getcpu();
        if (processor >= 0 && processor < 1 << 16 && helpers < 1 << 16)
            return (long long)syscall(SYS_gettid) << 32 | helpers << 16 | processor;
    #endif
        return -1;
    }

    /* Have the calling thread on the processors that another may use, but not on that one's own if
       the others are enough for all its helpers. It stays so until it is called again. */
    static void fastconv_leave(long long whereabouts) {
    #if defined(__linux__)
        const int processor = whereabouts & 0xffff, helpers = whereabouts >> 16 & 0xffff;
        cpu_set_t allowed;
        if (whereabouts < 0 || processor >= CPU_SETSIZE) return;
        if (sched_getaffinity((int)(whereabouts >> 32), sizeof allowed, &allowed)) return;
        if (CPU_COUNT(&allowed) > helpers) CPU_CLR(processor, &allowed);
        sched_setaffinity(0, sizeof allowed, &allowed);
    #endif
    }
    """
    ctypedef long long int64_t
    ctypedef long long fastconv_count
    long long FASTCONV_READ(fastconv_count *count) nogil
    void FASTCONV_WRITE(fastconv_count *count, long long value) nogil
    long long FASTCONV_RAISE(fastconv_count *count) nogil
    void FASTCONV_YIELD() nogil
    int fastconv_pause(fastconv_count *count, long long heard, int64_t time) nogil
    long long fastconv_whereabouts(long long helpers) nogil
    void fastconv_leave(long long whereabouts) nogil


@cython.final
@cython.auto_pickle(False)
cdef class Bell:
    """Rings once. Threads that await it let others run on their processor."""

    cdef fastconv_count count

    def ring(self):
        """Let those that listen hear it."""
        FASTCONV_RAISE(&self.count)

    def listen(self, int64_t time):
        """Without the GIL, await that it has rung; say if so. That takes `time` ns at most."""
        cdef bint rung
        with nogil:
            rung = fastconv_pause(&self.count, 0, time)
        return rung


@cython.final
@cython.auto_pickle(False)
cdef class Summons:
    """Calls helpers, again and again, who keep off the caller's processor.

    They do so on Linux, if there are others for all of them. The system may wake a helper, or
    the caller from a wait for the GIL, on the processor where the other one runs. There they take
    turns, of some milliseconds each, though others are idle.
    """

    cdef fastconv_count count
    cdef fastconv_count caller

    def __cinit__(self):
        FASTCONV_WRITE(&self.caller, -1)

    @property
    def rings(self):
        """How often it has rung."""
        return FASTCONV_READ(&self.count)

    def ring(self, long long helpers):
        """Let those that listen hear it, on the caller's own processor too; so many are called."""
        FASTCONV_WRITE(&self.caller, fastconv_whereabouts(helpers))
        FASTCONV_RAISE(&self.count)
        FASTCONV_YIELD()

    def attend(self, long long heard, int64_t time, int64_t grace, long long known, Bell done):
        """Ring `done` once the GIL is released, then listen, and leave the caller's processor.

        Who hears a ring pauses for `grace` before it asks for the GIL: it would fall asleep if it
        came before the caller has released that.
        """
        cdef long long caller
        with nogil:
            if done is not None:
                FASTCONV_RAISE(&done.count)
            if fastconv_pause(&self.count, heard, time):
                caller = FASTCONV_READ(&self.caller)
                if caller != known:
                    fastconv_leave(caller)
                    known = caller
                fastconv_pause(NULL, 0, grace)
        return known

    def leave(self, long long known):
        """Keep this thread off the last caller's processor; return where that was.

        `known` is what this returned before.
        """
        cdef long long caller = FASTCONV_READ(&self.caller)
        if caller != known:
            with nogil:
                fastconv_leave(caller)
        return caller
