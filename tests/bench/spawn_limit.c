/* How fast this machine starts and ends processes: N times /bin/true, two at once. Prints processes per second. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

int main(int argc, char **argv) {
    int total = argc > 1 ? atoi(argv[1]) : 2000, started = 0, running = 0, status;
    char *words[] = {"/bin/true", NULL};
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (started < total || running > 0) {
        while (running < 2 && started < total) {
            pid_t pid;
            if (posix_spawn(&pid, words[0], NULL, NULL, words, environ) != 0) {
                return 1;
            }
            started++;
            running++;
        }
        if (wait(&status) > 0) {
            running--;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.1f\n", total / ((end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) * 1e-9));
    return 0;
}
