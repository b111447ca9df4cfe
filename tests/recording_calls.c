/* Records the file operations of a process and its children below a folder, in order. Loaded with LD_PRELOAD by
 * tests/power_loss.py, which reads the records.
 *
 * RECORD_TO names the file of records, RECORD_ROOT the folder. A record is one line: the call, numbers, and paths, with
 * tabs in between; after a `write` follow the bytes. Bytes written to stdout are a record too: what they say has been
 * acknowledged. With RECORD_NO_EXCHANGE, renameat2 is refused, as on file systems that cannot exchange names. With
 * RECORD_STOP, the process is killed after that many records. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void record(const char *line, const void *data, size_t size) {
    int saved = errno;
    const char *to = getenv("RECORD_TO");
    long fd = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_APPEND | O_CREAT, 0600);
    struct iovec parts[2] = {{(void *)line, strlen(line)}, {(void *)data, size}};
    if (fd < 0 || syscall(SYS_writev, fd, parts, 2) != (long)(strlen(line) + size)) abort();
    syscall(SYS_close, fd);
    static int count;
    const char *stop = getenv("RECORD_STOP");
    if (stop && ++count == atoi(stop)) syscall(SYS_exit_group, 137);
    errno = saved;
}

static int inside(const char *path) {
    const char *root = getenv("RECORD_ROOT");
    return getenv("RECORD_TO") && root && !strncmp(path, root, strlen(root)) && strchr("/", path[strlen(root)]);
}

/* The absolute path of a name in a folder; "" if there is none. */
static const char *full(char *buffer, int folder, const char *path) {
    char link[64], base[PATH_MAX];
    if (*path == '/') return path;
    if (folder == AT_FDCWD)
        strcpy(link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length < 0) return "";
    base[length] = 0;
    snprintf(buffer, 2 * PATH_MAX, "%s/%s", base, path);
    return buffer;
}

static int held(char *path, int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static unsigned long inode_of(const char *path) {
    struct stat status;
    return lstat(path, &status) ? 0 : status.st_ino;
}

static void on_path(const char *call, const char *path) {
    char line[3 * PATH_MAX];
    if (!inside(path)) return;
    snprintf(line, sizeof line, "%s\t%lu\t%s\n", call, inode_of(path), path);
    record(line, "", 0);
}

static void on_paths(const char *call, const char *from, const char *to) {
    char line[5 * PATH_MAX];
    if (!inside(from) && !inside(to)) return;
    snprintf(line, sizeof line, "%s\t%s\t%s\n", call, from, to);
    record(line, "", 0);
}

static void on_fd(const char *call, int fd, long long number, long long size, const void *data) {
    char path[PATH_MAX], line[256];
    struct stat status;
    int acknowledges = fd == 1 && !strcmp(call, "write") && getenv("RECORD_TO");
    if (!acknowledges && !held(path, fd)) return;
    if (acknowledges)
        snprintf(line, sizeof line, "acknowledge\n"), size = 0;
    else if (fstat(fd, &status))
        return;
    else
        snprintf(line, sizeof line, "%s\t%lu\t%lld\t%lld\n", call, status.st_ino, number, size);
    record(line, data, data ? size : 0);
}

static int opened(int fd, const char *path, int flags, int existed) {
    if (fd < 0 || !inside(path)) return fd;
    if (!existed)
        on_path("create", path);
    else if (flags & O_TRUNC)
        on_fd("truncate", fd, 0, 0, NULL);
    return fd;
}

#define OPEN(name)                                                                                              \
    int name(const char *path, int flags, ...) {                                                                \
        char buffer[2 * PATH_MAX];                                                                              \
        va_list rest;                                                                                           \
        va_start(rest, flags);                                                                                  \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;                                       \
        va_end(rest);                                                                                           \
        const char *whole = flags & O_CREAT ? full(buffer, AT_FDCWD, path) : path;                              \
        int existed = !(flags & O_CREAT) || inode_of(whole);                                                    \
        return opened(REAL(name)(path, flags, mode), whole, flags, existed);                                    \
    }
OPEN(open)
OPEN(open64)

#define WROTE(call)                                                                                             \
    off_t begin = lseek(fd, 0, SEEK_CUR);                                                                       \
    ssize_t count = call;                                                                                       \
    if (count > 0) on_fd("write", fd, begin < 0 ? 0 : lseek(fd, 0, SEEK_CUR) - count, count, data);             \
    return count;
ssize_t write(int fd, const void *data, size_t size) { WROTE(REAL(write)(fd, data, size)) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    ssize_t count = REAL(pwrite)(fd, data, size, at);
    if (count > 0) on_fd("write", fd, at, count, data);
    return count;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t sum = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return sum ? sum : done;
        sum += done;
    }
    return sum;
}

/* What copies inside the kernel is refused: Python then reads and writes. */
#define REFUSED { errno = EINVAL; return -1; }
ssize_t sendfile(int out, int in, off_t *at, size_t size) REFUSED
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) REFUSED
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) REFUSED
int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request == 0x40049409) { errno = EOPNOTSUPP; return -1; } /* FICLONE */
    return syscall(SYS_ioctl, fd, request, argument);
}

#define DONE(call, note) int result = call; if (!result) note; return result;
int ftruncate(int fd, off_t size) { DONE(REAL(ftruncate)(fd, size), on_fd("truncate", fd, size, 0, NULL)) }
int ftruncate64(int fd, off64_t size) { DONE(REAL(ftruncate64)(fd, size), on_fd("truncate", fd, size, 0, NULL)) }
int fsync(int fd) { DONE(REAL(fsync)(fd), on_fd("sync", fd, 0, 0, NULL)) }
int fdatasync(int fd) { DONE(REAL(fdatasync)(fd), on_fd("sync", fd, 0, 0, NULL)) }
int futimens(int fd, const struct timespec times[2]) {
    DONE(REAL(futimens)(fd, times), on_fd("time", fd, times ? times[1].tv_sec : 0, 0, NULL))
}

#define PATHS(call, note)                                                                                       \
    char one[2 * PATH_MAX], two[2 * PATH_MAX];                                                                  \
    const char *from = full(one, from_folder, old), *to = full(two, to_folder, new);                            \
    int done = call;                                                                                            \
    if (!done) on_paths(note, from, to);                                                                        \
    return done;
int renameat(int from_folder, const char *old, int to_folder, const char *new) {
    PATHS(REAL(renameat)(from_folder, old, to_folder, new), "rename")
}
int rename(const char *old, const char *new) {
    int from_folder = AT_FDCWD, to_folder = AT_FDCWD;
    PATHS(REAL(rename)(old, new), "rename")
}
int renameat2(int from_folder, const char *old, int to_folder, const char *new, unsigned flags) {
    if (getenv("RECORD_NO_EXCHANGE")) { errno = EINVAL; return -1; }
    PATHS(REAL(renameat2)(from_folder, old, to_folder, new, flags), flags == 2 ? "exchange" : "rename")
}
int linkat(int from_folder, const char *old, int to_folder, const char *new, int flags) {
    PATHS(REAL(linkat)(from_folder, old, to_folder, new, flags), "link")
}
int link(const char *old, const char *new) {
    int from_folder = AT_FDCWD, to_folder = AT_FDCWD;
    PATHS(REAL(link)(old, new), "link")
}
static int symlinked(int done, const char *target, const char *path) {
    char line[5 * PATH_MAX];
    if (done || !inside(path)) return done;
    snprintf(line, sizeof line, "symlink\t%lu\t%s\t%s\n", inode_of(path), target, path);
    record(line, "", 0);
    return done;
}
int symlinkat(const char *target, int folder, const char *path) {
    char buffer[2 * PATH_MAX];
    return symlinked(REAL(symlinkat)(target, folder, path), target, full(buffer, folder, path));
}
int symlink(const char *target, const char *path) {
    char buffer[2 * PATH_MAX];
    return symlinked(REAL(symlink)(target, path), target, full(buffer, AT_FDCWD, path));
}
int unlinkat(int folder, const char *path, int flags) {
    char buffer[2 * PATH_MAX];
    const char *whole = full(buffer, folder, path);
    DONE(REAL(unlinkat)(folder, path, flags), on_path("unlink", whole))
}
int unlink(const char *path) {
    char buffer[2 * PATH_MAX];
    const char *whole = full(buffer, AT_FDCWD, path);
    DONE(REAL(unlink)(path), on_path("unlink", whole))
}
int rmdir(const char *path) {
    char buffer[2 * PATH_MAX];
    const char *whole = full(buffer, AT_FDCWD, path);
    DONE(REAL(rmdir)(path), on_path("unlink", whole))
}
int mkdirat(int folder, const char *path, mode_t mode) {
    char buffer[2 * PATH_MAX];
    const char *whole = full(buffer, folder, path);
    DONE(REAL(mkdirat)(folder, path, mode), on_path("mkdir", whole))
}
int mkdir(const char *path, mode_t mode) {
    char buffer[2 * PATH_MAX];
    const char *whole = full(buffer, AT_FDCWD, path);
    DONE(REAL(mkdir)(path, mode), on_path("mkdir", whole))
}
