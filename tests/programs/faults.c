/* A disk that fails on request. For the tests, which compile it and load it into the server and its shims (LD_PRELOAD).
 *
 * AUTOAPPDEV_TEST_FAULTS names a file. While it exists, each of its lines makes some calls fail: `CALLS ERRNO PART`. CALLS is a word of
 * the letters w (write, truncate), a (write after the first byte), s (sync), h (a sync that hangs while the line exists) and o (open for
 * writing, create, rename, remove), ERRNO is a number, and PART is a part of the path of the file in question. All other calls go to the
 * kernel.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Returns the errno with which this call fails, or 0. */
static int verdict(char call, const char *path) {
    const char *name = getenv("AUTOAPPDEV_TEST_FAULTS");
    char text[1024];
    if (name == NULL || path == NULL) return 0;
    long fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    long count = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (count <= 0) return 0;
    text[count] = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char calls[16], part[512];
        int error;
        if (sscanf(line, "%15s %d %511s", calls, &error, part) != 3) continue;
        if (strchr(calls, call) != NULL && strstr(path, part) != NULL) return error;
    }
    return 0;
}

/* Returns the absolute form of a path that begins at the working directory or at an open one. */
static const char *whole(const char *path, char *text, size_t size) {
    char dir[4096];
    long count;
    int end = 0;
    if (path == NULL) return NULL;
    if (sscanf(path, "/proc/self/fd/%*d%n", &end) == 0 && end > 0) {
        char link[64];
        snprintf(link, sizeof link, "%.*s", end, path);
        count = syscall(SYS_readlinkat, AT_FDCWD, link, dir, sizeof dir - 1);
        path += end;
    } else if (path[0] != '/') {
        count = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/cwd", dir, sizeof dir - 1);
        if (strncmp(path, "./", 2) == 0) path += 2;
    } else {
        return path;
    }
    if (count <= 0) return path;
    dir[count] = 0;
    snprintf(text, size, "%s%s%s", dir, path[0] == '/' ? "" : "/", path);
    return text;
}

static int fails(char call, const char *path) {
    char text[8192];
    int before = errno, error = verdict(call, whole(path, text, sizeof text));
    errno = error != 0 ? error : before;
    return error != 0;
}

static int fails_at(char call, int fd) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long count = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = before;
    if (count <= 0) return 0;
    path[count] = 0;
    return fails(call, path);
}

static void hang_at(int fd) {
    while (fails_at('h', fd)) usleep(2000);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t count) {
    return fails_at('w', fd) ? -1 : syscall(SYS_write, fd, bytes, count);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fails_at('w', fd) ? -1 : syscall(SYS_writev, fd, parts, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return fails_at('w', fd) || (at > 0 && fails_at('a', fd)) ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return fails_at('w', fd) || (at > 0 && fails_at('a', fd)) ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}
int ftruncate(int fd, off_t length) {
    return fails_at('w', fd) ? -1 : (int)syscall(SYS_ftruncate, fd, length);
}
int ftruncate64(int fd, off64_t length) {
    return fails_at('w', fd) ? -1 : (int)syscall(SYS_ftruncate, fd, length);
}
int fsync(int fd) {
    hang_at(fd);
    return fails_at('s', fd) ? -1 : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
    hang_at(fd);
    return fails_at('s', fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}
int rename(const char *from, const char *to) {
    return fails('o', to) ? -1 : REAL(rename)(from, to);
}
int unlink(const char *path) {
    return fails('o', path) ? -1 : REAL(unlink)(path);
}
int mkdir(const char *path, mode_t mode) {
    return fails('o', path) ? -1 : REAL(mkdir)(path, mode);
}

static int opened(int dir, const char *path, int flags, mode_t mode) {
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0 && fails('o', path)) return -1;
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

#define OPEN(name, ...)                                                                                                            \
    mode_t mode = 0;                                                                                                               \
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {                                                              \
        va_list rest;                                                                                                              \
        va_start(rest, flags);                                                                                                     \
        mode = va_arg(rest, mode_t);                                                                                               \
        va_end(rest);                                                                                                              \
    }                                                                                                                              \
    return opened(__VA_ARGS__, path, flags, mode);

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD) }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD) }
int openat(int dir, const char *path, int flags, ...) { OPEN(openat, dir) }
int openat64(int dir, const char *path, int flags, ...) { OPEN(openat64, dir) }
