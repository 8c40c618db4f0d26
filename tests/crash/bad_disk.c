/* A disk that fails on request, for the processes this is preloaded into.
 *
 * Every libc call that touches a file below one directory is an operation: it is counted, written
 * down on request, and made to fail when the test has asked for it. All libraries of the daemon come
 * by here (Python, Arrow's C++, delta-rs), as all of them call libc for files. Nothing of pondfs is
 * replaced: it sees what it would see of a disk.
 *
 * The test and the processes share one page of memory (`control`, see bad_disk.py, which has the
 * same layout): the file $BAD_DISK. What is written down goes to $BAD_DISK.trace.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    char root[1024];       /* the directory: operations on it and below count */
    char pattern[512];     /* fnmatch, on the path below root ("." for root itself) */
    char kinds[256];       /* of these, " open read ", fails: */
    uint64_t first, last;  /* the first such operation since arming up to the last, from 1 */
    uint64_t seen, failed; /* how many there were, how many of them failed */
    int32_t error;         /* with this errno; 0: nothing fails */
    int32_t traces;        /* write operations down */
};

static struct control *control;
static char trace_path[PATH_MAX];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("BAD_DISK");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *page = (void *)syscall(SYS_mmap, 0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (page == MAP_FAILED) return;
    snprintf(trace_path, sizeof trace_path, "%s.trace", path);
    control = page;
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

/* What an open file is called; empty when it has no name. */
static void name_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void name_at(int directory, const char *name, char *path)
{
    int fd, end = 0;
    *path = 0;
    if (!name) return;
    if (sscanf(name, "/proc/self/fd/%d%n", &fd, &end) == 1 && !name[end]) {
        name_of(fd, path);
    } else if (*name == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else if (directory != AT_FDCWD) {
        char base[PATH_MAX];
        name_of(directory, base);
        if (*base && snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) *path = 0;
    }
}

/* Note an operation; whether it shall fail, errno being set then. */
static int fails(const char *kind, const char *path)
{
    int before = errno;
    if (!control || !*control->root) return 0;
    size_t length = strlen(control->root);
    if (strncmp(path, control->root, length)) return 0;
    const char *below = path + length;
    if (*below && *below != '/') return 0;
    below = *below ? below + 1 : ".";
    if (control->traces) {
        char line[PATH_MAX + 32];
        int size = snprintf(line, sizeof line, "%s %s\n", kind, below);
        int fd = syscall(SYS_openat, AT_FDCWD, trace_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        syscall(SYS_write, fd, line, size);
        syscall(SYS_close, fd);
    }
    int error = control->error;
    char word[32];
    snprintf(word, sizeof word, " %s ", kind);
    if (!error || !strstr(control->kinds, word) || fnmatch(control->pattern, below, FNM_PATHNAME)) {
        errno = before;
        return 0;
    }
    uint64_t number = __atomic_add_fetch(&control->seen, 1, __ATOMIC_SEQ_CST);
    if (number < control->first || number > control->last) {
        errno = before;
        return 0;
    }
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = error;
    return 1;
}

static int fails_fd(const char *kind, int fd)
{
    char path[PATH_MAX];
    if (!control || !*control->root) return 0;
    int before = errno;
    name_of(fd, path);
    errno = before;
    return fails(kind, path);
}

static int fails_at(const char *kind, int directory, const char *name)
{
    char path[PATH_MAX];
    if (!control || !*control->root) return 0;
    int before = errno;
    name_at(directory, name, path);
    errno = before;
    return fails(kind, path);
}

/* After a failed fsync nobody knows what of a file reached the disk, and the kernel takes its pages
 * for clean: a second fsync succeeds over what is lost. So it is lost here, too, in files that are
 * being made (of older ones, only what was just written would be). */
static void lose(int fd)
{
    char path[PATH_MAX];
    struct stat found;
    name_of(fd, path);
    if (strstr(path, "/_pond/") || syscall(SYS_fstat, fd, &found) || !S_ISREG(found.st_mode)) return;
    syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0L, (long)found.st_size);
}

static int opens(int directory, const char *name, int flags, mode_t mode)
{
    int makes = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
    if (fails_at(makes ? "create" : "open", directory, name)) return -1;
    return syscall(SYS_openat, directory, name, flags, mode);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *name, int flags, ...) { MODE(flags) return opens(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opens(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags) return opens(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags) return opens(at, name, flags, mode); }

DIR *opendir(const char *name) { return fails_at("list", AT_FDCWD, name) ? NULL : REAL(opendir)(name); }
DIR *fdopendir(int fd) { return fails_fd("list", fd) ? NULL : REAL(fdopendir)(fd); }

#define ON_FD(kind, type, name, parameters, ...) \
    type name parameters { return fails_fd(kind, fd) ? -1 : REAL(name)(__VA_ARGS__); }
ON_FD("read", ssize_t, read, (int fd, void *data, size_t size), fd, data, size)
ON_FD("read", ssize_t, pread, (int fd, void *data, size_t size, off_t at), fd, data, size, at)
ON_FD("read", ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), fd, data, size, at)
ON_FD("read", ssize_t, readv, (int fd, const struct iovec *parts, int count), fd, parts, count)
ON_FD("read", ssize_t, preadv, (int fd, const struct iovec *parts, int count, off_t at), fd, parts, count, at)
ON_FD("read", ssize_t, preadv64, (int fd, const struct iovec *parts, int count, off64_t at), fd, parts, count, at)
ON_FD("read", ssize_t, preadv2, (int fd, const struct iovec *parts, int count, off_t at, int flags), fd, parts, count, at, flags)
ON_FD("read", ssize_t, preadv64v2, (int fd, const struct iovec *parts, int count, off64_t at, int flags), fd, parts, count, at, flags)
ON_FD("write", ssize_t, write, (int fd, const void *data, size_t size), fd, data, size)
ON_FD("write", ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), fd, data, size, at)
ON_FD("write", ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, data, size, at)
ON_FD("write", ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), fd, parts, count, at)
ON_FD("write", ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), fd, parts, count, at)
ON_FD("write", ssize_t, pwritev2, (int fd, const struct iovec *parts, int count, off_t at, int flags), fd, parts, count, at, flags)
ON_FD("write", ssize_t, pwritev64v2, (int fd, const struct iovec *parts, int count, off64_t at, int flags), fd, parts, count, at, flags)
ON_FD("write", ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, parts, count)
ON_FD("truncate", int, ftruncate, (int fd, off_t size), fd, size)
ON_FD("truncate", int, ftruncate64, (int fd, off64_t size), fd, size)
ON_FD("truncate", int, fallocate, (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
ON_FD("statvfs", int, fstatvfs, (int fd, struct statvfs *found), fd, found)
ON_FD("statvfs", int, fstatvfs64, (int fd, struct statvfs64 *found), fd, found)
ON_FD("stat", int, fstat, (int fd, struct stat *found), fd, found)
ON_FD("stat", int, fstat64, (int fd, struct stat64 *found), fd, found)

int fsync(int fd)
{
    if (!fails_fd("fsync", fd)) return REAL(fsync)(fd);
    int error = errno;
    lose(fd);
    errno = error;
    return -1;
}

int fdatasync(int fd)
{
    if (!fails_fd("fsync", fd)) return REAL(fdatasync)(fd);
    int error = errno;
    lose(fd);
    errno = error;
    return -1;
}

void *mmap(void *where, size_t size, int access, int flags, int fd, off_t at)
{
    if (!(flags & MAP_ANONYMOUS) && fails_fd("mmap", fd)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, where, size, access, flags, fd, at);
}
void *mmap64(void *where, size_t size, int access, int flags, int fd, off64_t at)
{
    return mmap(where, size, access, flags, fd, at);
}

#define ON_NAME(kind, type, name, parameters, at, path, ...) \
    type name parameters { return fails_at(kind, at, path) ? -1 : REAL(name)(__VA_ARGS__); }
ON_NAME("link", int, link, (const char *from, const char *to), AT_FDCWD, to, from, to)
ON_NAME("link", int, linkat, (int from_at, const char *from, int to_at, const char *to, int flags), to_at, to, from_at, from, to_at, to, flags)
ON_NAME("link", int, symlink, (const char *from, const char *to), AT_FDCWD, to, from, to)
ON_NAME("rename", int, rename, (const char *from, const char *to), AT_FDCWD, to, from, to)
ON_NAME("rename", int, renameat, (int from_at, const char *from, int to_at, const char *to), to_at, to, from_at, from, to_at, to)
ON_NAME("unlink", int, unlink, (const char *path), AT_FDCWD, path, path)
ON_NAME("unlink", int, unlinkat, (int at, const char *path, int flags), at, path, at, path, flags)
ON_NAME("mkdir", int, mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
ON_NAME("mkdir", int, mkdirat, (int at, const char *path, mode_t mode), at, path, at, path, mode)
ON_NAME("truncate", int, truncate, (const char *path, off_t size), AT_FDCWD, path, path, size)
ON_NAME("statvfs", int, statvfs, (const char *path, struct statvfs *found), AT_FDCWD, path, path, found)
ON_NAME("stat", int, stat, (const char *path, struct stat *found), AT_FDCWD, path, path, found)
ON_NAME("stat", int, stat64, (const char *path, struct stat64 *found), AT_FDCWD, path, path, found)
ON_NAME("stat", int, lstat, (const char *path, struct stat *found), AT_FDCWD, path, path, found)
ON_NAME("stat", int, lstat64, (const char *path, struct stat64 *found), AT_FDCWD, path, path, found)
ON_NAME("stat", int, fstatat, (int at, const char *path, struct stat *found, int flags), at, path, at, path, found, flags)
ON_NAME("stat", int, fstatat64, (int at, const char *path, struct stat64 *found, int flags), at, path, at, path, found, flags)
