/* Preloaded (ld.so(8), LD_PRELOAD) into a process, this makes a disk refuse what would write to it: a quota, or a file system that
   became read-only, where the kernel at hand cannot be given one. $REFUSING_DISK is a directory; while the file $REFUSING_DISK_WITH
   holds a number, that is what errno is after each call that would write in that directory. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int number(void)
{
    const char *path = getenv("REFUSING_DISK_WITH");
    static int (*real_open)(const char *, int, ...);
    char text[16];
    if (!path)
        return 0;
    if (!real_open)
        real_open = dlsym(RTLD_NEXT, "open");
    int saved = errno, fd = real_open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    errno = saved;
    if (length <= 0)
        return 0;
    text[length] = 0;
    return atoi(text);
}

static int inside(const char *path)
{
    const char *root = getenv("REFUSING_DISK");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static int refused(int fd)
{
    char link[64], path[4096];
    int wanted = number();
    if (!wanted)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return inside(path) ? wanted : 0;
}

#define REFUSE(fd) do { int no = refused(fd); if (no) { errno = no; return -1; } } while (0)
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size)
{ REAL(ssize_t, "write", int, const void *, size_t); REFUSE(fd); return real(fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{ REAL(ssize_t, "pwrite", int, const void *, size_t, off_t); REFUSE(fd); return real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{ REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); REFUSE(fd); return real(fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count)
{ REAL(ssize_t, "writev", int, const struct iovec *, int); REFUSE(fd); return real(fd, parts, count); }

static int opened(const char *name, const char *path, int flags, mode_t mode)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    /* a quota lets files be opened that are there; a read-only file system opens none for writing */
    int no = number();
    if (no && inside(path) && (no == EROFS ? (flags & O_ACCMODE) != O_RDONLY : (flags & O_CREAT) && access(path, F_OK))) {
        errno = no;
        return -1;
    }
    return real(path, flags, mode);
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { MODE return opened("open", path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened("open64", path, flags, mode); }
