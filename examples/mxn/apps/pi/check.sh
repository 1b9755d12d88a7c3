found=$(./pi)
echo "pi = $found" > result.txt
[ "$found" = 3.141592654 ]
