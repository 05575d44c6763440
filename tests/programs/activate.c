/* Opens sockets and executes another program, which finds them as a service manager would pass them (sd_listen_fds(3)). For the tests.
 *
 *   activate [tcp | unix=PATH:MODE | bound | fresh | fresh-unix]... -- PROGRAM ARGS...
 *
 * The last three do not listen; the fresh ones are not even bound.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    _exit(99);
}

static int on_loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    return fd;
}

static int on_path(char *path) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char *mode = strrchr(path, ':');
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    *mode++ = 0;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (chmod(path, strtol(mode, NULL, 8)) < 0) die("chmod");
    return fd;
}

int main(int argc, char **argv) {
    char number[16];
    int count = 0, at = 1;
    /* The numbers from 3 on are for the sockets. Inherited descriptors there are closed. */
    for (int fd = 3; fd < 16; fd++) close(fd);
    for (; at < argc && strcmp(argv[at], "--"); at++) {
        int is_fresh = !strncmp(argv[at], "fresh", 5), listens = !is_fresh && strcmp(argv[at], "bound");
        int fd = is_fresh ? socket(strcmp(argv[at], "fresh") ? AF_UNIX : AF_INET, SOCK_STREAM, 0)
                          : strncmp(argv[at], "unix=", 5) ? on_loopback() : on_path(argv[at] + 5);
        if (fd != 3 + count || (listens && listen(fd, 16) < 0)) die("listen");
        count++;
    }
    if (at + 1 >= argc) return 99;
    snprintf(number, sizeof number, "%d", count);
    setenv("LISTEN_FDS", number, 1);
    snprintf(number, sizeof number, "%d", (int)getpid());
    setenv("LISTEN_PID", number, 1);
    execv(argv[at + 1], argv + at + 1);
    die("exec");
}
