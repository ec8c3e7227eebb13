/* The desk of the probe template: draws straight on the framebuffer, so that a test can read from the screen alone that
 * the right folder is open and that pointer and keys arrive. The picture is specified, and read back, in
 * myphr/viewers/probe_picture.py. Started by the agent as the viewer user with the agent's socket as descriptor 3. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fb.h>
#include <linux/input.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"
#include "sha256.h"

#define AGENT 3
#define COLUMNS 32
#define ROWS 20 /* of the 20 bands of 40 lines that 800 lines make */
#define PATHS_MAX 20000
#define INPUTS_MAX 8

static unsigned char *screen;
static struct fb_var_screeninfo mode;
static struct fb_fix_screeninfo layout;
static char *paths[PATHS_MAX];
static int paths_count;

static void say(const char *text) { if (send(AGENT, text, strlen(text), MSG_NOSIGNAL) < 0) exit(1); }

static void fill(int x, int y, int w, int h, unsigned rgb) {
    for (int line = y; line < y + h && line < (int)mode.yres; line++) {
        if (line < 0) continue;
        unsigned *row = (unsigned *)(void *)(screen + (size_t)line * layout.line_length);
        for (int column = x < 0 ? 0 : x; column < x + w && column < (int)mode.xres; column++) row[column] = rgb;
    }
}

/* One block of the 32 x 20 grid. */
static void block(int column, int row, unsigned rgb) {
    int x = column * (int)mode.xres / COLUMNS, y = row * (int)mode.yres / ROWS;
    fill(x, y, (column + 1) * (int)mode.xres / COLUMNS - x, (row + 1) * (int)mode.yres / ROWS - y, rgb);
}

static void bits(int row, uint32_t value) {
    for (int i = 0; i < 32; i++) block(i, row, value >> (31 - i) & 1 ? 0xFFFFFF : 0x202020);
}

static void strip(unsigned rgb) { for (int i = 0; i < COLUMNS; i++) block(i, 5, rgb); }

static void bars(void) {
    static const unsigned colours[8] = {0xFFFFFF, 0xFFFF00, 0x00FFFF, 0x00FF00, 0xFF00FF, 0xFF0000, 0x0000FF, 0x000000};
    for (int i = 0; i < COLUMNS; i++) for (int row = 0; row < 5; row++) block(i, row, colours[i / 4]);
}

static void collect(const char *folder, const char *relative, int depth) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, relative);
    DIR *d = depth < 16 ? opendir(path) : NULL;
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        char below[4096];
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (depth == 0 && strcmp(e->d_name, "results") == 0) continue;
        if (snprintf(below, sizeof below, "%s%s%s", relative, *relative ? "/" : "", e->d_name) >= (int)sizeof below) continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, below) >= (int)sizeof path || lstat(path, &st) < 0) continue;
        if (S_ISDIR(st.st_mode)) collect(folder, below, depth + 1);
        else if (S_ISREG(st.st_mode) && paths_count < PATHS_MAX) paths[paths_count++] = strdup(below);
    }
    closedir(d);
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int digest(const char *folder, const char *relative, unsigned char out[32]) {
    static char piece[524288];
    char path[4096];
    struct sha256 s;
    sha256_start(&s);
    snprintf(path, sizeof path, "%s/%s", folder, relative);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;
    while (fd >= 0 && (n = read(fd, piece, sizeof piece)) > 0) sha256_add(&s, piece, (size_t)n);
    if (fd >= 0) close(fd);
    sha256_end(&s, out);
    return fd >= 0 && n == 0 ? 0 : -1;
}

/* What this viewer could do that a viewer must not: for the tests of its confinement. */
static void try_walls(int out) {
    static const char *const forbidden[] = {"/proc/self/mounts", "/proc/self/mountinfo", "/proc/1/mounts", "/run/myphr/status.json",
                                            "/proc/self/environ"};
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        int fd = open(forbidden[i], O_RDONLY | O_CLOEXEC);
        dprintf(out, "read %s: %s\n", forbidden[i], fd >= 0 ? "yes" : "no");
        if (fd >= 0) close(fd);
    }
    int fd = open("/usr/hostile", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    dprintf(out, "write /usr/hostile: %s\n", fd >= 0 ? "yes" : "no");
    if (fd >= 0) close(fd);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(564)};
    inet_pton(AF_INET, "10.0.2.100", &to.sin_addr);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    dprintf(out, "dial the folder itself: %s\n", fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 ? "yes" : "no");
    if (fd >= 0) close(fd);
}

static void open_folder(struct slice order) {
    struct slice value;
    char folder[1024] = "/data", start[1024] = ".", path[2100];
    unsigned char sum[32];
    if (json_get(order, "folder", &value)) json_text(value, folder, sizeof folder);
    if (json_get(order, "open", &value)) json_text(value, start, sizeof start);
    strip(0xFF8000);
    if (strstr(start, "..") || start[0] == '/') { strip(0xC00000); say("failed open-refused"); return; }
    snprintf(path, sizeof path, strcmp(start, ".") == 0 ? "%s" : "%s/%s", folder, start);
    while (paths_count) free(paths[--paths_count]);
    collect(path, "", 0);
    qsort(paths, (size_t)paths_count, sizeof paths[0], by_bytes);
    bits(6, (uint32_t)paths_count);
    if (!paths_count || digest(path, paths[0], sum) < 0) { strip(0xC00000); say("failed folder-empty"); return; }
    for (int row = 0; row < 8; row++)
        bits(8 + row, (uint32_t)sum[4 * row] << 24 | (uint32_t)sum[4 * row + 1] << 16 | (uint32_t)sum[4 * row + 2] << 8 | sum[4 * row + 3]);
    for (int i = 0; i < paths_count; i++) {
        const char *name = strrchr(paths[i], '/');
        if (strcmp(name ? name + 1 : paths[i], "write-result") != 0) continue;
        int fd = open("/data/results/probe-result.txt", O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (fd < 0) { strip(0xC00000); say("failed results-refused"); return; }
        dprintf(fd, "MyPHRMachines probe result\nfiles %d\nfirst ", paths_count);
        for (int j = 0; j < 32; j++) dprintf(fd, "%02x", sum[j]);
        dprintf(fd, "\n");
        try_walls(fd);
        if (close(fd) < 0) { strip(0xC00000); say("failed results-refused"); return; }
    }
    strip(0x008000);
    say("ready");
}

int main(void) {
    int fb = -1, inputs[INPUTS_MAX], inputs_count = 0;
    for (int tries = 0; fb < 0 && tries < 100; tries++) {
        fb = open("/dev/fb0", O_RDWR | O_CLOEXEC);
        if (fb < 0) usleep(50000);
    }
    if (fb < 0 || ioctl(fb, FBIOGET_VSCREENINFO, &mode) < 0 || ioctl(fb, FBIOGET_FSCREENINFO, &layout) < 0 || mode.bits_per_pixel != 32) {
        say("failed screen-missing");
        return 1;
    }
    screen = mmap(NULL, layout.smem_len, PROT_READ | PROT_WRITE, MAP_SHARED, fb, 0);
    if (screen == MAP_FAILED) { say("failed screen-missing"); return 1; }
    for (int i = 0; i < INPUTS_MAX; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0) inputs[inputs_count++] = fd;
    }
    fill(0, 0, (int)mode.xres, (int)mode.yres, 0x303048);
    bars();
    strip(0x000060);
    bits(7, 0);
    say("warm");
    uint32_t keys = 0, buttons = 0;
    int x = 0, y = 0, floor_y = 16 * (int)mode.yres / ROWS, seen_x = -1, seen_y = 0, mark = (int)mode.xres / 50;
    for (;;) {
        struct pollfd fds[1 + INPUTS_MAX] = {{.fd = AGENT, .events = POLLIN}};
        for (int i = 0; i < inputs_count; i++) fds[1 + i] = (struct pollfd){.fd = inputs[i], .events = POLLIN};
        if (poll(fds, (nfds_t)(1 + inputs_count), -1) < 0) continue;
        if (fds[0].revents) {
            static char text[65536];
            struct slice order;
            ssize_t n = recv(AGENT, text, sizeof text, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
            if (n > 0 && json_document(text, (size_t)n, &order)) open_folder(order);
        }
        bool moved = false, counted = false;
        for (int i = 0; i < inputs_count; i++) {
            struct input_event e;
            while (fds[1 + i].revents && read(inputs[i], &e, sizeof e) == sizeof e) {
                if (e.type == EV_ABS && e.code == ABS_X) { x = (int)((long)e.value * (int)mode.xres / 32768); moved = true; }
                else if (e.type == EV_ABS && e.code == ABS_Y) { y = (int)((long)e.value * (int)mode.yres / 32768); moved = true; }
                else if (e.type == EV_REL && e.code == REL_X) { x += e.value; moved = true; }
                else if (e.type == EV_REL && e.code == REL_Y) { y += e.value; moved = true; }
                else if (e.type == EV_KEY && e.value == 1) {
                    if (e.code >= BTN_MISC) buttons++;
                    else keys++;
                    counted = true;
                }
            }
        }
        if (counted) bits(7, (keys & 0xFFFF) << 16 | (buttons & 0xFFFF));
        if (moved) { /* the mark stays in the free lowest fifth, so that it never hides a block */
            int at = y < floor_y ? floor_y : y;
            if (seen_x >= 0) fill(seen_x - mark / 2, seen_y, mark, mark, 0x303048);
            fill(x - mark / 2, at, mark, mark, 0xFF00FF);
            seen_x = x;
            seen_y = at;
        }
    }
}
