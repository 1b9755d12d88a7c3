printf 'the site that has the job has the output of the job\n' > text
found=$(python3 words.py text)
echo "most frequent word: $found" > result.txt
[ "$found" = the ]
