{ echo "#!/bin/sh"; echo "exec awk -v LIMIT=\"\$1\" -f $(pwd)/primes.awk"; } > primes && chmod +x primes
