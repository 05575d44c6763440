/* One process that behaves as its first argument says, in ways that no shell script can. For the tests, which compile it.
 *
 * Prints `ready` once it behaves so, and then continues without end, or for the given amount.
 *
 *   hop              forks a child that continues and exits, again and again: never the same process for longer than a moment.
 *                    Once another reaper adopts it, it stays for a while as one process, so that a test can see it, and exits
 *   fork-storm N     N workers, each of which forks children that exit at once, and reaps them
 *   vfork-storm N    N workers, each of which vforks children that execute /bin/true, and reaps them
 *   vfork-hang       a child between vfork and exec until a file `go` exists: until then its parent cannot be stopped
 *   bomb DEPTH       a tree that grows to 2^DEPTH processes, all of which ignore TERM
 *   threads N        N threads that compute beside the leading one
 *   mainless         a thread that continues after the leading one has ended, until a file `go` exists
 *   crowd N          N children that wait
 *   zombies N        N children that have ended and are never reaped
 *   burn MS          uses MS milliseconds of CPU time in user mode, and exits
 *   hold MB          fills MB megabytes, and exits
 *   keep MB          fills MB megabytes, and keeps them
 *   terminal         opens a terminal as a program opens a serial port, sends it a byte 3, and hangs it up; the exit code says what failed
 *   other-user       becomes the owner of its file, which must have the set-user-ID bit, until a file `go` exists
 *   deaf PROGRAM..   blocks and ignores every signal that it can, and executes PROGRAM
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0) _exit(99);
}

static void for_ever(void) {
    for (;;) pause();
}

static void hop(void) {
    pid_t reaper = 0;
    say("ready\n");
    for (int hops = 0; hops < 20000; hops++) {
        pid_t before = getpid();
        if (fork() > 0) _exit(0);
        pid_t parent = getppid();
        if (parent == before) continue;
        if (reaper != 0 && parent != reaper) break;
        reaper = parent;
    }
    /* Longer than any test. Each round of the test checks for processes that are still under control. */
    sleep(600);
    _exit(0);
}

static void storm(int workers, int with_vfork) {
    char *argv[] = {"true", NULL};
    for (int n = 0; n < workers; n++) {
        if (fork() != 0) continue;
        for (;;) {
            pid_t child = with_vfork ? vfork() : fork();
            if (child == 0) {
                if (with_vfork) execv("/bin/true", argv);
                _exit(0);
            }
            if (child > 0) waitpid(child, NULL, 0);
        }
    }
    say("ready\n");
    for_ever();
}

static void vfork_hang(void) {
    if (vfork() == 0) {
        /* Printed by the child, because until the parent waits for it, the parent can be stopped like any other process. */
        say("ready\n");
        while (access("go", F_OK) != 0) usleep(1000);
        _exit(0);
    }
    say("released\n");
    for_ever();
}

static void bomb(int depth) {
    signal(SIGTERM, SIG_IGN);
    say("ready\n");
    while (depth-- > 0) fork();
    for_ever();
}

static void *compute(void *unused) {
    (void)unused;
    for (volatile unsigned long n = 0;; n++) {}
    return NULL;
}

static void *work_on(void *unused) {
    (void)unused;
    say("ready\n");
    while (access("go", F_OK) != 0) usleep(1000);
    say("worked on\n");
    exit(5);
}

static void burn(long ms) {
    struct rusage used;
    do {
        for (volatile int n = 0; n < 1000000; n++) {}
        getrusage(RUSAGE_SELF, &used);
    } while (used.ru_utime.tv_sec * 1000 + used.ru_utime.tv_usec / 1000 < ms);
}

static void fill(long megabytes) {
    size_t size = (size_t)megabytes << 20;
    char *memory = malloc(size);
    if (memory == NULL) _exit(98);
    memset(memory, 1, size);
    /* The compiler must not remove the writes. */
    __asm__ volatile("" : : "r"(memory) : "memory");
}

static int terminal(void) {
    char line[8];
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) return 10;
    /* Without O_NOCTTY, as most programs do. */
    int slave = open(ptsname(master), O_RDWR);
    if (slave < 0) return 11;
    /* Once the line has arrived, a signal that the byte before it may cause has arrived too. */
    if (write(master, "\003x\n", 3) != 3) return 12;
    if (read(slave, line, sizeof line) != 2) return 13;
    if (open("/dev/tty", O_RDWR) >= 0 || errno != ENXIO) return 14;
    /* The kernel hangs the terminal up before this returns. */
    if (close(master) != 0) return 15;
    if (read(slave, line, sizeof line) != 0) return 16;
    say("no signal came\n");
    return 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    int number = argc > 2 ? atoi(argv[2]) : 0;
    pthread_t thread;
    if (strcmp(mode, "hop") == 0) hop();
    if (strcmp(mode, "fork-storm") == 0) storm(number, 0);
    if (strcmp(mode, "vfork-storm") == 0) storm(number, 1);
    if (strcmp(mode, "vfork-hang") == 0) vfork_hang();
    if (strcmp(mode, "bomb") == 0) bomb(number);
    if (strcmp(mode, "threads") == 0) {
        while (number-- > 0) pthread_create(&thread, NULL, compute, NULL);
        say("ready\n");
        for_ever();
    }
    if (strcmp(mode, "mainless") == 0) {
        pthread_create(&thread, NULL, work_on, NULL);
        pthread_exit(NULL);
    }
    if (strcmp(mode, "crowd") == 0) {
        while (number-- > 0) {
            if (fork() == 0) for_ever();
        }
        say("ready\n");
        for_ever();
    }
    if (strcmp(mode, "zombies") == 0) {
        while (number-- > 0) {
            siginfo_t info;
            pid_t child = fork();
            if (child == 0) _exit(0);
            waitid(P_PID, child, &info, WEXITED | WNOWAIT);
        }
        say("ready\n");
        for_ever();
    }
    if (strcmp(mode, "burn") == 0) return burn(number), 0;
    if (strcmp(mode, "hold") == 0) return fill(number), 0;
    if (strcmp(mode, "keep") == 0) {
        fill(number);
        say("ready\n");
        for_ever();
    }
    if (strcmp(mode, "terminal") == 0) return terminal();
    if (strcmp(mode, "other-user") == 0) {
        if (setuid(geteuid()) != 0) return 95;
        say("ready\n");
        while (access("go", F_OK) != 0) usleep(5000);
        return 0;
    }
    if (strcmp(mode, "deaf") == 0 && argc > 2) {
        sigset_t all;
        for (int signo = 1; signo < NSIG; signo++) signal(signo, SIG_IGN);
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        execvp(argv[2], argv + 2);
    }
    return 96;
}
