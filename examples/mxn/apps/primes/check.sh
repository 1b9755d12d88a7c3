found=$(./primes 10000)
echo "primes below 10000: $found" > result.txt
[ "$found" = 1229 ]
