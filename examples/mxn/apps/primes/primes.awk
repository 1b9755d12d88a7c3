# How many primes there are below LIMIT, by the sieve of Eratosthenes.
BEGIN {
    for (i = 2; i < LIMIT; i++)
        if (!(i in struck)) {
            count++
            for (j = i * i; j < LIMIT; j += i) struck[j] = 1
        }
    print count
}
