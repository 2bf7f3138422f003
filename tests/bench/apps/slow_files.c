/* Makes file operations below some directories slow, and counts them: what a home on a network file system does to an
   interpreter that has this library in LD_PRELOAD.

   SLOW_PATHS=/a:/b       the directories
   SLOW_MICROSECONDS=500  how long each operation takes longer
   SLOW_COUNTS=FILE       counts them there, eight bytes each: open, stat, list, read, link

   An operation is what takes a round trip to a file server: open, stat and lstat (found or not), access and readlink,
   opening a directory and reading it (two), a read that brings data. What the server has told with the open takes none:
   fstat, and the read at the end of a file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OPEN, STAT, LIST, READ, LINK, KINDS };

static const char *paths;
static long microseconds;
static uint64_t own[KINDS], *counts = own;
static unsigned char slow[4096]; /* by descriptor */

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("SLOW_COUNTS"), *time = getenv("SLOW_MICROSECONDS");
    paths = getenv("SLOW_PATHS");
    microseconds = time ? atol(time) : 0;
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    int fd = file ? REAL(open)(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (fd < 0) return;
    if (ftruncate(fd, sizeof own) == 0) {
        void *map = mmap(0, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) counts = map;
    }
    REAL(close)(fd);
}

static int is_slow(const char *path) {
    for (const char *at = paths; at && path && *at;) {
        size_t length = strcspn(at, ":");
        if (length && !strncmp(path, at, length) && (path[length] == '/' || !path[length])) return 1;
        at += length + (at[length] == ':');
    }
    return 0;
}

static void wait_for(int kind) {
    int error = errno;
    __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED);
    struct timespec left = {microseconds / 1000000, microseconds % 1000000 * 1000};
    while (microseconds && nanosleep(&left, &left)) {}
    errno = error;
}

static void operation(int kind, const char *path) {
    if (is_slow(path)) wait_for(kind);
}

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < (int)sizeof slow) slow[fd] = is_slow(path);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        operation(OPEN, path); \
        return opened(REAL(name)(path, flags, mode), path); \
    }
#define OPENS_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        MODE(flags) \
        operation(OPEN, path); \
        return opened(REAL(name)(at, path, flags, mode), path); \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

#define STATS(name, type) \
    int name(const char *restrict path, struct type *restrict status) { \
        operation(STAT, path); \
        return REAL(name)(path, status); \
    }
#define STATS_AT(name, type) \
    int name(int at, const char *restrict path, struct type *restrict status, int flags) { \
        operation(STAT, path); \
        return REAL(name)(at, path, status, flags); \
    }
STATS(stat, stat)
STATS(lstat, stat)
STATS(stat64, stat64)
STATS(lstat64, stat64)
STATS_AT(fstatat, stat)
STATS_AT(fstatat64, stat64)

DIR *opendir(const char *path) {
    operation(LIST, path);
    operation(LIST, path);
    return REAL(opendir)(path);
}

void *dlopen(const char *path, int flags) {
    operation(OPEN, path);
    operation(READ, path);
    return REAL(dlopen)(path, flags);
}

ssize_t read(int fd, void *buffer, size_t size) {
    ssize_t got = REAL(read)(fd, buffer, size);
    if (got > 0 && fd >= 0 && fd < (int)sizeof slow && slow[fd]) wait_for(READ);
    return got;
}

int close(int fd) {
    if (fd >= 0 && fd < (int)sizeof slow) slow[fd] = 0;
    return REAL(close)(fd);
}

int access(const char *path, int mode) {
    operation(LINK, path);
    return REAL(access)(path, mode);
}

ssize_t readlink(const char *restrict path, char *restrict target, size_t size) {
    operation(LINK, path);
    return REAL(readlink)(path, target, size);
}
