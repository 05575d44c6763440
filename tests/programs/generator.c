/* Prints a stream that is the same, byte for byte, for the same arguments. For the tests, which compile it and run it twice: by itself
 * for the expected output, and as a pipeline for the output that is kept.
 *
 *   any SEED LINES GO    lines with all kinds of contents, on standard output and standard error, written in pieces of any length: a
 *                        piece can end anywhere in a line. The last line of each stream has no newline. Each quarter waits for its
 *                        own file: GO.0, GO.1, GO.2, and the last one for GO
 *   numbered LINES GO    numbered lines of 100 bytes, 20 in a write: one write every 4 ms until a file GO exists, for which the last
 *                        tenth waits; then as fast as they are read
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES (1 << 20)
#define LONG_LINE_BYTES 200000

static uint64_t state;

/* xorshift64*: returns any number below `limit`. */
static uint64_t below(uint64_t limit) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 0x2545F4914F6CDD1DULL >> 33) % limit;
}

static void write_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t count = write(fd, bytes, len);
        if (count < 0) {
            perror("write");
            exit(99);
        }
        bytes += count;
        len -= (size_t)count;
    }
}

static char buffers[2][BUFFER_BYTES];
static size_t lens[2];

/* Writes in pieces whose lengths are independent of the lines. */
static void flush_stream(int n) {
    size_t at = 0;
    while (at < lens[n]) {
        size_t piece = 1 + (size_t)below(below(4) == 0 ? 100 : 65536);
        if (piece > lens[n] - at) piece = lens[n] - at;
        write_all(n + 1, buffers[n] + at, piece);
        at += piece;
    }
    lens[n] = 0;
}

static void put(int n, const void *bytes, size_t len) {
    memcpy(buffers[n] + lens[n], bytes, len);
    lens[n] += len;
}

/* Waits until a file of this name exists. */
static void await_file(const char *name) {
    while (access(name, F_OK) != 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void any(uint64_t seed, uint64_t lines, const char *go) {
    static char line[LONG_LINE_BYTES];
    int has_line[2] = {0, 0};
    for (uint64_t number = 0; number < lines; number++) {
        /* From the line's own seed, so that the lengths of the pieces have no influence. */
        uint64_t cutting = state;
        state = (seed + number) * 0x9E3779B97F4A7C15ULL | 1;
        for (int i = 0; i < 4; i++) below(2);
        int n = below(4) == 0;
        size_t len = 0;
        switch (below(64)) {
        case 0: /* any bytes at all */
            len = (size_t)below(300);
            for (size_t i = 0; i < len; i++) {
                char byte = (char)below(256);
                line[i] = byte == '\n' ? 0 : byte;
            }
            break;
        case 1: /* a progress bar */
            for (int i = 0; i <= 10; i++) len += (size_t)sprintf(line + len, "\r%3d %%", i * 10);
            break;
        case 2: /* colours, and characters of several bytes */
            len = (size_t)sprintf(line, "\033[1;31mgr\303\266\303\237er \342\230\203 \360\237\222\241\033[0m");
            break;
        case 3: /* incomplete characters */
            len = (size_t)sprintf(line, "\303\342\230\360\237\222");
            break;
        case 4:
            break;
        case 5:
            if (below(200) == 0) {
                len = 60000 + (size_t)below(LONG_LINE_BYTES - 60000);
                memset(line, 'x', len);
                break;
            }
            /* fall through */
        default:
            len = (size_t)sprintf(line, "%08llu of a build that says %llu things", (unsigned long long)number,
                                  (unsigned long long)below(1000000));
        }
        state = cutting;
        /* Before each line, so that the last one has no newline. */
        if (has_line[n]) put(n, "\n", 1);
        has_line[n] = 1;
        put(n, line, len);
        if (lens[n] > BUFFER_BYTES - LONG_LINE_BYTES - 1) flush_stream(n);
        if (number % (lines / 4) == 0 && number / (lines / 4) < 4) {
            char name[256];
            uint64_t quarter = number / (lines / 4);
            snprintf(name, sizeof name, quarter < 3 ? "%s.%llu" : "%s", go, (unsigned long long)quarter);
            await_file(name);
        }
    }
    flush_stream(0);
    flush_stream(1);
}

static void numbered(uint64_t lines, const char *go) {
    static char buffer[20 * 100 + 1];
    size_t len = 0;
    for (uint64_t number = 1; number <= lines; number++) {
        len += (size_t)sprintf(buffer + len, "line %08llu %85s\n", (unsigned long long)number, ".");
        if (number % 20 != 0 && number != lines) continue;
        write_all(1, buffer, len);
        len = 0;
        while (access(go, F_OK) != 0) {
            nanosleep(&(struct timespec){.tv_nsec = 4000000}, NULL);
            if (number < lines - lines / 10) break;
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "any") == 0) {
        state = strtoull(argv[2], NULL, 10) | 1;
        any(state, strtoull(argv[3], NULL, 10), argv[4]);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "numbered") == 0) {
        numbered(strtoull(argv[2], NULL, 10), argv[3]);
        return 0;
    }
    fprintf(stderr, "usage: generator any SEED LINES GO | numbered LINES GO\n");
    return 2;
}
