/* Multiply-adds as fast as one core does them: chains in registers, none of which waits for another.

   FLOATING is the type of the numbers. A core that starts two multiply-adds a cycle, each of which
   takes four, needs eight chains; those with 32 registers may have four units. */

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 24
#else
#define CHAINS 12
#endif

#define LANES (BYTES / (long)sizeof(FLOATING))

typedef FLOATING vector __attribute__((vector_size(BYTES)));

long flop_per_round(void)
{
    return 2 * CHAINS * LANES;
}

/* Return what depends on every number, or the compiler would leave some out. */
FLOATING run(long rounds, FLOATING factor, FLOATING term)
{
    vector chain[CHAINS], factors = (vector){0} + factor, terms = (vector){0} + term, sums = {0};
    FLOATING sum = 0;
    for (int i = 0; i < CHAINS; i++)
        chain[i] = (vector){0} + (FLOATING)i;
    for (long round = 0; round < rounds; round++)
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++)
            chain[i] = chain[i] * factors + terms;
    for (int i = 0; i < CHAINS; i++)
        sums += chain[i];
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}
