${CC:-cc} -O2 -o pi pi.c
