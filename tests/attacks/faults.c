/* A machine that fails on demand, between the real program and libc (LD_PRELOAD). What fails, and how often, stands
 * in a file of 64-bit numbers that the test shares with the program: see faults.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SYNC, WRITE, OPEN, KINDS };

struct control {
    /* How often it still fails (negative: until healed), with which errno, how often it has. */
    struct { int64_t left, error, hits; } kind[KINDS];
    /* Seconds added to the wall clock: always, and in every other second. */
    int64_t clock, wobble;
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR) : -1;
    if (fd < 0) return;
    void *shared = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared != MAP_FAILED) control = shared;
}

static int armed(int kind) {
    return control && __atomic_load_n(&control->kind[kind].left, __ATOMIC_SEQ_CST) != 0;
}

/* Takes one failure, if there is one left. */
static int strikes(int kind) {
    int64_t left = __atomic_load_n(&control->kind[kind].left, __ATOMIC_SEQ_CST);
    while (left > 0)
        if (__atomic_compare_exchange_n(&control->kind[kind].left, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            break;
    if (left == 0) return 0;
    __atomic_add_fetch(&control->kind[kind].hits, 1, __ATOMIC_SEQ_CST);
    errno = (int)control->kind[kind].error;
    return 1;
}

static int is_the_store(const char *path) { return strstr(path, "proxy.db") != 0; }

static int fails(int kind, int fd) {
    if (!armed(kind)) return 0;
    char link[64] = "/proc/self/fd/", path[4096] = "";
    char digits[16];
    int at = 0, number = fd;
    do digits[at++] = (char)('0' + number % 10); while (number /= 10);
    size_t end = strlen(link);
    while (at) link[end++] = digits[--at];
    if (syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1) < 0 || !is_the_store(path)) return 0;
    return strikes(kind);
}

int fsync(int fd) { return fails(SYNC, fd) ? -1 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(SYNC, fd) ? -1 : (int)syscall(SYS_fdatasync, fd); }
ssize_t write(int fd, const void *from, size_t size) { return fails(WRITE, fd) ? -1 : syscall(SYS_write, fd, from, size); }
ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
    return fails(WRITE, fd) ? -1 : syscall(SYS_pwrite64, fd, from, size, at);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) { return pwrite64(fd, from, size, at); }
int ftruncate64(int fd, off_t size) { return fails(WRITE, fd) ? -1 : (int)syscall(SYS_ftruncate, fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    if (armed(OPEN) && is_the_store(path) && strikes(OPEN)) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open64(path, flags, mode);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, id, now);
    if (!failed && id == CLOCK_REALTIME && control)
        now->tv_sec += control->clock + ((now->tv_sec & 1) ? control->wobble : 0);
    return failed;
}
