/* Makes the N-th call of one kind below a folder fail, once or from then on. Loaded with LD_PRELOAD by sweep.py.
 *
 * A process arms itself with arm(); calls on paths and files outside the folder are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[4096], kind[32];
static int nth, code, persistent, seen;

void arm(const char *folder, const char *call, int number, int error, int for_ever) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(kind, sizeof kind, "%s", call);
    nth = number, code = error, persistent = for_ever, seen = 0;
}

/* How many calls of the armed kind there were. */
int calls_seen(void) { return seen; }

static int fails(const char *call, const char *path) {
    if (!*root || strcmp(call, kind) || strncmp(path, root, strlen(root))) return 0;
    seen++;
    if (seen == nth || (persistent && seen > nth)) {
        errno = code;
        return 1;
    }
    return 0;
}

static int fails_on(const char *call, int fd) {
    char link[64], path[4096];
    if (!*root || strcmp(call, kind)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int open_mode(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; }

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        int mode = open_mode(flags, rest);                           \
        va_end(rest);                                                \
        return fails("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    return fails_on("write", fd) ? -1 : REAL(write)(fd, data, size);
}
int fsync(int fd) { return fails_on("fsync", fd) ? -1 : REAL(fsync)(fd); }
int fchmod(int fd, mode_t mode) { return fails_on("chmod", fd) ? -1 : REAL(fchmod)(fd, mode); }
int chmod(const char *path, mode_t mode) { return fails("chmod", path) ? -1 : REAL(chmod)(path, mode); }
int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
int link(const char *from, const char *to) { return fails("link", to) ? -1 : REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return fails("link", to) ? -1 : REAL(linkat)(a, from, b, to, flags);
}
int rename(const char *from, const char *to) { return fails("rename", to) ? -1 : REAL(rename)(from, to); }
int unlink(const char *path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }
int futimens(int fd, const struct timespec times[2]) { return fails_on("utime", fd) ? -1 : REAL(futimens)(fd, times); }
