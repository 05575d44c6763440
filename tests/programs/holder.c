/* A process of any user that blocks or slows down the readers of its arguments or its environment. For the tests, which compile it. It
 * reports on standard output when it is ready, runs for 90 seconds, and exits with 1 at once if the kernel does not allow it.
 *
 *   stuck DEVICE DIR   holds the lock of its memory for as long as it runs: mounts a file system at DIR in its own user namespace, through
 *                      DEVICE, a FUSE device. One thread reads memory of a file there and gets no response. The other waits for the lock
 *                      to map something, and every reader waits behind it. Prints the pid of the process
 *   apart DEVICE DIR EMPTY TARGET ERROR
 *                      sees an overlay of such a file system and the directory EMPTY at TARGET. A lookup of a file there fails with the
 *                      error of this number or, if it is 0, gets no response. Prints its pid
 *   big MB             claims MB megabytes that do not exist as its environment. Prints its pid
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SECONDS = 90 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void write_to(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    if (file < 0 || write(file, text, strlen(text)) < 0) fail(path);
    close(file);
}

static char *page;

static void *touch(void *unused) {
    char byte;
    int memory = open("/proc/self/mem", O_RDONLY);
    if (memory < 0 || pread(memory, &byte, 1, (off_t)(uintptr_t)page) < 0) perror("/proc/self/mem");
    return unused;
}

static void hold(const char *dir, int go) {
    char path[4096], byte;
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof path, "%s/file", dir);
    int file = open(path, O_RDONLY);
    if (file < 0) fail(path);
    page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
    if (page == MAP_FAILED) fail("mmap");
    pthread_create(&thread, NULL, touch, NULL);
    if (read(go, &byte, 1) != 1) exit(1);
    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pause();
}

static void end(int unused) {
    (void)unused;
    _exit(1);
}

static void apart(const char *dir, const char *empty, const char *target) {
    char options[8300];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(options, sizeof options, "lowerdir=%s:%s", dir, empty);
    if (mount("test", target, "overlay", 0, options)) fail("mount");
    printf("%d\n", (int)getpid());
    fflush(stdout);
    pause();
}

static void serve(const char *device, const char *dir, const char *empty, const char *target, int error) {
    static char request[1 << 17];
    char text[128];
    int ends[2], uid = (int)getuid(), gid = (int)getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) fail("unshare");
    write_to("/proc/self/setgroups", "deny");
    snprintf(text, sizeof text, "0 %d 1", uid);
    write_to("/proc/self/uid_map", text);
    snprintf(text, sizeof text, "0 %d 1", gid);
    write_to("/proc/self/gid_map", text);
    int fuse = open(device, O_RDWR);
    if (fuse < 0) fail(device);
    snprintf(text, sizeof text, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
    if (mount("test", dir, "fuse", 0, text)) fail("mount");
    if (pipe(ends)) fail("pipe");
    signal(SIGCHLD, end);
    pid_t holder = fork();
    if (holder < 0) fail("fork");
    if (holder == 0) {
        close(fuse);
        close(ends[1]);
        if (target != NULL) apart(dir, empty, target);
        else hold(dir, ends[0]);
        exit(0);
    }
    for (;;) {
        if (read(fuse, request, sizeof request) < 0) {
            if (errno == EINTR || errno == ENOENT) continue;
            fail("read");
        }
        struct fuse_in_header *in = (void *)request;
        struct fuse_attr folder = {.ino = 1, .mode = 0040755, .nlink = 2};
        struct fuse_attr plain = {.ino = 2, .mode = 0100644, .nlink = 1, .size = 4096, .blocks = 8};
        struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 4096, .max_background = 16};
        struct fuse_entry_out entry = {.nodeid = 2, .attr = plain, .entry_valid = 1000, .attr_valid = 1000};
        struct fuse_attr_out attr = {.attr = in->nodeid == 1 ? folder : plain, .attr_valid = 1000};
        struct fuse_open_out opened = {0};
        struct fuse_statfs_out room = {.st = {.bsize = 4096, .namelen = 255}};
        struct fuse_out_header out = {.unique = in->unique};
        struct iovec parts[2] = {{&out, sizeof out}, {NULL, 0}};
        switch (in->opcode) {
        case FUSE_INIT: parts[1] = (struct iovec){&init, sizeof init}; break;
        case FUSE_LOOKUP:
            if (target != NULL && error == 0) continue;
            if (target != NULL) {
                out.error = -error;
                break;
            }
            parts[1] = (struct iovec){&entry, sizeof entry}; break;
        case FUSE_GETATTR: parts[1] = (struct iovec){&attr, sizeof attr}; break;
        case FUSE_STATFS: parts[1] = (struct iovec){&room, sizeof room}; break;
        case FUSE_OPENDIR:
        case FUSE_OPEN: parts[1] = (struct iovec){&opened, sizeof opened}; break;
        case FUSE_READ:
            /* Gets no response. */
            if (write(ends[1], "x", 1) != 1) fail("write");
            printf("%d\n", (int)holder);
            fflush(stdout);
            continue;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT: continue;
        default: out.error = -ENOSYS;
        }
        out.len = (uint32_t)(sizeof out + parts[1].iov_len);
        if (writev(fuse, parts, 2) < 0) perror("writev");
    }
}

static void big(size_t bytes) {
    char *memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    /* One page of zeros backs all of it. */
    madvise(memory, bytes, MADV_HUGEPAGE);
    char stat[4096] = {0};
    unsigned long long fields[64] = {0};
    FILE *file = fopen("/proc/self/stat", "r");
    if (file == NULL || fread(stat, 1, sizeof stat - 1, file) == 0) fail("/proc/self/stat");
    int number = 3;
    for (char *word = strtok(strrchr(stat, ')') + 2, " "); word != NULL && number < 64; word = strtok(NULL, " "))
        fields[number++] = strtoull(word, NULL, 10);
    struct prctl_mm_map map = {
        .start_code = fields[26], .end_code = fields[27], .start_stack = fields[28], .start_data = fields[45],
        .end_data = fields[46], .start_brk = fields[47], .brk = (uint64_t)(uintptr_t)sbrk(0), .arg_start = fields[48],
        .arg_end = fields[49], .env_start = (uint64_t)(uintptr_t)memory,
        .env_end = (uint64_t)(uintptr_t)memory + bytes, .exe_fd = (uint32_t)-1,
    };
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, (unsigned long)&map, sizeof map, 0)) fail("prctl");
    printf("%d\n", (int)getpid());
    fflush(stdout);
    for (;;) pause();
}

int main(int count, char **args) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(SECONDS);
    if (count == 4 && strcmp(args[1], "stuck") == 0) serve(args[2], args[3], NULL, NULL, 0);
    if (count == 7 && strcmp(args[1], "apart") == 0) serve(args[2], args[3], args[4], args[5], atoi(args[6]));
    if (count == 3 && strcmp(args[1], "big") == 0) big((size_t)atol(args[2]) << 20);
    return 2;
}
