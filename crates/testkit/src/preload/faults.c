/* Faults of the system, injected from inside the process: preloaded before the C library. Each
 * does nothing unless its variable names a file. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* --- FAULT_CLOCK: a file of eight bytes, by how many nanoseconds the wall clock is off ------------ */

static const _Atomic int64_t *offset;

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("FAULT_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        offset = at;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, id, now);
    if (result == 0 && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t all = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + atomic_load(offset);
        now->tv_sec = all / 1000000000;
        now->tv_nsec = all % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}

/* --- FAULT_SYNC: while there is a file of this name, nothing can be synced ------------------------ */

/* How much of each file was synced. The kernel may discard what a failed sync did not write: a
 * file that has grown since is cut off there. */
static struct { dev_t dev; ino_t ino; off_t size; } synced[256];
static pthread_mutex_t synced_lock = PTHREAD_MUTEX_INITIALIZER;

static int sync_or_fail(long call, int fd) {
    const char *path = getenv("FAULT_SYNC");
    struct stat file;
    if (!path || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode))
        return (int)syscall(call, fd);
    int fails = access(path, F_OK) == 0;
    int result = fails ? -1 : (int)syscall(call, fd);
    pthread_mutex_lock(&synced_lock);
    for (size_t at = 0; at < sizeof synced / sizeof *synced; at++) {
        int known = synced[at].dev == file.st_dev && synced[at].ino == file.st_ino;
        if (!known && synced[at].ino != 0)
            continue;
        if (result == 0) {
            synced[at].dev = file.st_dev;
            synced[at].ino = file.st_ino;
            synced[at].size = file.st_size;
        } else if (known && file.st_size > synced[at].size) {
            (void)!ftruncate(fd, synced[at].size);
        }
        break;
    }
    pthread_mutex_unlock(&synced_lock);
    if (fails)
        errno = EIO;
    return result;
}

int fsync(int fd) { return sync_or_fail(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_or_fail(SYS_fdatasync, fd); }

/* --- FAULT_HOSTS: lines `name address`; a name whose address is `-` cannot be resolved ------------ */

typedef int resolver(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    static _Atomic(resolver *) real;
    if (!atomic_load(&real))
        atomic_store(&real, (resolver *)dlsym(RTLD_NEXT, "getaddrinfo"));
    const char *path = getenv("FAULT_HOSTS");
    FILE *hosts = path && name ? fopen(path, "re") : NULL;
    char known[256], address[256];
    while (hosts && fscanf(hosts, "%255s %255s", known, address) == 2) {
        if (strcmp(known, name) != 0)
            continue;
        fclose(hosts);
        if (strcmp(address, "-") == 0)
            return EAI_AGAIN;
        return atomic_load(&real)(address, service, hints, found);
    }
    if (hosts)
        fclose(hosts);
    return atomic_load(&real)(name, service, hints, found);
}
