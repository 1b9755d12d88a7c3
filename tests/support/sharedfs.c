/* A file system that imitates one that hosts share, with its faults: what one mount does, the others see late, locks reach no other
 * mount, a file that another one has removed is stale, and every call can be made to fail.
 *
 *     sharedfs DIRECTORY FAULTS MOUNTPOINT [options of FUSE]
 *
 * What is written goes to DIRECTORY. Each line of the file FAULTS that reads `ERROR CALLS TEXT` makes the calls listed (as
 * `write,fsync`, or `*`) on paths that hold TEXT fail with that error (`EIO`, `ESTALE`, `ENOSPC`, `EPERM`). It is read at each call.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char *root, *faults;

static int fault(const char *call, const char *path) {
    char line[512], name[16], calls[128], text[256];
    FILE *file = fopen(faults, "re");
    int found = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%15s %127s %255s", name, calls, text) != 3 || !strstr(path, text)) continue;
        if (strcmp(calls, "*")) {
            char *word, *rest = NULL;
            for (word = strtok_r(calls, ",", &rest); word && strcmp(word, call); word = strtok_r(NULL, ",", &rest));
            if (!word) continue;
        }
        found = !strcmp(name, "ESTALE") ? -ESTALE : !strcmp(name, "ENOSPC") ? -ENOSPC : !strcmp(name, "EPERM") ? -EPERM : -EIO;
    }
    fclose(file);
    return found;
}

static char *full(char *buffer, const char *path) {
    snprintf(buffer, PATH_MAX, "%s%s", root, path);
    return buffer;
}

#define ON(call) \
    char at[PATH_MAX]; \
    int failed = fault(call, path); \
    if (failed) return failed; \
    full(at, path)
#define RESULT(expression) return (expression) < 0 ? -errno : 0

/* Somebody else has removed it: the server does not know the handle any more. */
static int stale(struct fuse_file_info *info) {
    struct stat found;
    if (fstat((int)info->fh, &found)) return -errno;
    return found.st_nlink == 0 ? -ESTALE : 0;
}

static int fs_getattr(const char *path, struct stat *found, struct fuse_file_info *info) {
    ON("getattr");
    if (info) {
        int gone = stale(info);
        if (gone) return gone;
        RESULT(fstat((int)info->fh, found));
    }
    RESULT(lstat(at, found));
}
static int fs_access(const char *path, int mode) { ON("access"); RESULT(access(at, mode)); }
static int fs_mkdir(const char *path, mode_t mode) { ON("mkdir"); RESULT(mkdir(at, mode)); }
static int fs_rmdir(const char *path) { ON("rmdir"); RESULT(rmdir(at)); }
static int fs_unlink(const char *path) { ON("unlink"); RESULT(unlink(at)); }
static int fs_link(const char *path, const char *to) {
    char target[PATH_MAX];
    ON("link");
    RESULT(link(at, full(target, to)));
}
static int fs_rename(const char *path, const char *to, unsigned flags) {
    char target[PATH_MAX];
    ON("rename");
    RESULT(renameat2(AT_FDCWD, at, AT_FDCWD, full(target, to), flags));
}
static int fs_chmod(const char *path, mode_t mode, struct fuse_file_info *info) { (void)info; ON("chmod"); RESULT(chmod(at, mode)); }
static int fs_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info) { (void)info; ON("chown"); RESULT(lchown(at, uid, gid)); }
static int fs_truncate(const char *path, off_t size, struct fuse_file_info *info) {
    ON("truncate");
    if (info) RESULT(ftruncate((int)info->fh, size));
    RESULT(truncate(at, size));
}
static int fs_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info) {
    (void)info;
    ON("utimens");
    RESULT(utimensat(AT_FDCWD, at, times, AT_SYMLINK_NOFOLLOW));
}
static int fs_create(const char *path, mode_t mode, struct fuse_file_info *info) {
    ON("create");
    int fd = open(at, (info->flags & ~O_DIRECT) | O_CREAT | O_CLOEXEC, mode);
    if (fd < 0) return -errno;
    info->fh = (uint64_t)fd;
    return 0;
}
static int fs_open(const char *path, struct fuse_file_info *info) {
    ON("open");
    int fd = open(at, (info->flags & ~O_DIRECT) | O_CLOEXEC);
    if (fd < 0) return -errno;
    info->fh = (uint64_t)fd;
    return 0;
}
static int fs_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *info) {
    ON("read");
    (void)at;
    int gone = stale(info);
    if (gone) return gone;
    ssize_t got = pread((int)info->fh, buffer, size, offset);
    return got < 0 ? -errno : (int)got;
}
static int fs_write(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *info) {
    ON("write");
    (void)at;
    int gone = stale(info);
    if (gone) return gone;
    ssize_t put = pwrite((int)info->fh, buffer, size, offset);
    return put < 0 ? -errno : (int)put;
}
static int fs_fsync(const char *path, int data, struct fuse_file_info *info) {
    ON("fsync");
    (void)at;
    RESULT(data ? fdatasync((int)info->fh) : fsync((int)info->fh));
}
static int fs_fsyncdir(const char *path, int data, struct fuse_file_info *info) { (void)data; (void)info; ON("fsync"); (void)at; return 0; }
static int fs_release(const char *path, struct fuse_file_info *info) { (void)path; RESULT(close((int)info->fh)); }
static int fs_statfs(const char *path, struct statvfs *found) { ON("statfs"); RESULT(statvfs(at, found)); }
static int fs_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                      enum fuse_readdir_flags flags) {
    struct dirent *entry;
    DIR *directory;
    (void)offset; (void)info; (void)flags;
    ON("readdir");
    directory = opendir(at);
    if (!directory) return -errno;
    while ((entry = readdir(directory))) fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(directory);
    return 0;
}
static double seen_after_s = 1.0;
static void *fs_init(struct fuse_conn_info *connection, struct fuse_config *config) {
    (void)connection;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = seen_after_s; /* as actimeo of nfs(5) */
    config->nullpath_ok = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = fs_init, .getattr = fs_getattr, .access = fs_access, .mkdir = fs_mkdir, .rmdir = fs_rmdir, .unlink = fs_unlink,
    .link = fs_link, .rename = fs_rename, .chmod = fs_chmod, .chown = fs_chown, .truncate = fs_truncate, .utimens = fs_utimens,
    .create = fs_create, .open = fs_open, .read = fs_read, .write = fs_write, .fsync = fs_fsync, .fsyncdir = fs_fsyncdir,
    .release = fs_release, .statfs = fs_statfs, .readdir = fs_readdir,
};

int main(int count, char **words) {
    if (count < 4) return 2;
    root = words[1];
    faults = words[2];
    if (getenv("SEEN_AFTER_S")) seen_after_s = atof(getenv("SEEN_AFTER_S"));
    words[2] = words[0];
    return fuse_main(count - 2, words + 2, &operations, NULL);
}
