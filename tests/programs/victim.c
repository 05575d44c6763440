/* The pipeline of the torture test (tests/torture/). It does what its arguments say until it is ended, and keeps a tally that outlives it,
 * so that its recorded output can be compared with what it printed.
 *
 *   every=USEC    a line `line N` on standard output, and after each eighth one `oops N` on standard error, with this pause (2000)
 *   burst=N       the first N lines without any pause
 *   kids=N        N children that sleep
 *   setsid        another one, in its own session
 *   daemon        a double-forked one in its own session, which has a child itself
 *   deaf          the children ignore TERM
 *   bare          one that has executed this program again with an empty environment
 *   hold=MB       fills MB megabytes, so that its end takes a while
 *   forks=USEC    a child that starts, exits, and is reaped, again and again, with this pause
 *   term=ignore   TERM is ignored; term=N: it exits with code N; term=late: it takes 60 ms to exit, with code 0
 *   exit=CODE     the code with which it exits after USR1 (0)
 *   after=MS      it exits with that code by itself after this time
 *   last=N        before it exits in any of these ways it writes N more lines without any pause
 *
 * The tally is the file `tally.<run>`: three numbers of eight bytes, which are 1 once it is ready, the lines written, and the oopses
 * written. The file is mapped, so the numbers are in it whatever kills the process.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Longer than any torture test. A process that escapes ends after this time. */
#define LIFE_S 1800

static int exit_code, term_code;

/* The exit code plus 1, or 0 until an end is requested. */
static volatile sig_atomic_t ending;

static void on_usr1(int signo) {
    (void)signo;
    ending = exit_code + 1;
}

static void on_term(int signo) {
    (void)signo;
    ending = term_code + 1;
}

static void on_term_late(int signo) {
    struct timespec pause = {0, 60 * 1000 * 1000};
    (void)signo;
    nanosleep(&pause, NULL);
    ending = 1;
}

static void sleep_on(void) {
    alarm(LIFE_S);
    for (;;) pause();
}

static void say(int fd, const char *word, uint64_t number) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %llu\n", word, (unsigned long long)number);
    if (write(fd, line, length) != length) _exit(99);
}

static long after(const char *word, const char *name, long otherwise) {
    size_t length = strlen(name);
    return strncmp(word, name, length) == 0 ? atol(word + length) : otherwise;
}

int main(int argc, char **argv) {
    char name[64];
    const char *run = getenv("AUTOAPPDEV_RUN_ID");
    long every = 2000, burst = 0, last_words = 0, kids = 0, forks = 0, hold = 0, lifetime_ms = 0;
    int with_setsid = 0, with_daemon = 0, is_deaf = 0, with_bare = 0;
    if (argc == 2 && strcmp(argv[1], "sleep") == 0) sleep_on();
    alarm(LIFE_S);
    for (int n = 1; n < argc; n++) {
        every = after(argv[n], "every=", every);
        burst = after(argv[n], "burst=", burst);
        last_words = after(argv[n], "last=", last_words);
        kids = after(argv[n], "kids=", kids);
        forks = after(argv[n], "forks=", forks);
        hold = after(argv[n], "hold=", hold);
        lifetime_ms = after(argv[n], "after=", lifetime_ms);
        exit_code = (int)after(argv[n], "exit=", exit_code);
        with_setsid |= strcmp(argv[n], "setsid") == 0;
        with_daemon |= strcmp(argv[n], "daemon") == 0;
        is_deaf |= strcmp(argv[n], "deaf") == 0;
        with_bare |= strcmp(argv[n], "bare") == 0;
    }
    snprintf(name, sizeof name, "tally.%s", run ? run : "none");
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, 24) != 0) return 98;
    volatile uint64_t *tally = mmap(NULL, 24, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (tally == MAP_FAILED) return 97;
    close(fd);

    if (is_deaf) signal(SIGTERM, SIG_IGN);
    for (long n = 0; n < kids; n++) {
        if (fork() == 0) sleep_on();
    }
    if (with_setsid && fork() == 0) {
        setsid();
        sleep_on();
    }
    if (with_daemon) {
        pid_t first = fork();
        if (first == 0) {
            setsid();
            if (fork() > 0) _exit(0);
            fork();
            sleep_on();
        }
        waitpid(first, NULL, 0);
    }
    if (with_bare && fork() == 0) {
        char *args[] = {"victim", "sleep", NULL}, *none[] = {NULL};
        execve("/proc/self/exe", args, none);
        _exit(96);
    }
    if (is_deaf) signal(SIGTERM, SIG_DFL);

    signal(SIGUSR1, on_usr1);
    for (int n = 1; n < argc; n++) {
        if (strncmp(argv[n], "term=", 5) != 0) continue;
        const char *how = argv[n] + 5;
        term_code = atoi(how);
        signal(SIGTERM, strcmp(how, "ignore") == 0 ? SIG_IGN : strcmp(how, "late") == 0 ? on_term_late : on_term);
    }
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    if (hold > 0) {
        char *all = malloc((size_t)hold << 20);
        if (all == NULL) return 95;
        memset(all, 1, (size_t)hold << 20);
        /* Reads the memory, so that the compiler does not remove it. */
        tally[2] = all[hold] - 1;
    }
    tally[0] = 1;
    for (uint64_t line = 0;; line++) {
        say(1, "line", line);
        tally[1] = line + 1;
        if (line % 8 == 7) {
            say(2, "oops", line / 8);
            tally[2] = line / 8 + 1;
        }
        if (ending) {
            if (last_words-- <= 0) _exit(ending - 1);
            continue;
        }
        if (forks > 0) {
            pid_t child = fork();
            if (child == 0) _exit(0);
            waitpid(child, NULL, 0);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        long lived_ms = (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000;
        if (lifetime_ms > 0 && lived_ms >= lifetime_ms) ending = exit_code + 1;
        if ((long)line >= burst && !ending) usleep(forks > 0 ? forks : every);
    }
}
