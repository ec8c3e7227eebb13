/* Hostile program: does inside a real guest, as root, what an attacker would. One JSON line per check on standard output:
 * {"check": ..., "reached": true|false, "detail": ...}. "reached" must be false everywhere but in "own-folder", which is
 * the control that the program works at all. 9P2000.L as in diod's protocol.md. Run by the agent's exec in tests:
 *   hostile [--mine A] [--files A:P] [--session ID] [--secret S] [--other-secret S] [--target A:P]... [--node A]... [--guest A]... [--no-flood] [--no-network] [--no-gateway] [--no-folder]
 *           [--patience SECONDS] [--flood-seconds SECONDS]
 * Refusals of the gateway get slower; --patience is how long to wait for one, so that it is heard and not only missed.
 * The session's own secret is for the checks of the folder's walls: they need an open door. */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "network_checks.h"

#define LIST_MAX 64
#define REPLY_SECONDS 3
#define FLOOD_CONNECTIONS 32
#define FLOOD_SECONDS 2
#define FOLDER_SECONDS 20

static const char *mine = "10.0.2.15", *vm_session = "hostile", *secret, *other_secret;
static char files_address[64] = "10.0.2.100";
static int files_port = 564, patience_seconds = REPLY_SECONDS, flood_seconds = FLOOD_SECONDS;

static void line(const char *check, bool reached, const char *format, ...) {
    char detail[512], clean[600];
    size_t n = 0;
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    for (const char *p = detail; *p && n + 2 < sizeof clean; p++) {
        if (*p == '"' || *p == '\\') clean[n++] = '\\';
        clean[n++] = (unsigned char)*p < 32 || (unsigned char)*p > 126 ? '?' : *p;
    }
    clean[n] = 0;
    printf("{\"check\": \"%s\", \"reached\": %s, \"detail\": \"%s\"}\n", check, reached ? "true" : "false", clean);
    fflush(stdout);
}

/* -- 9P, as little as needed --------------------------------------------------------------------------------------- */
enum { RLERROR = 7, TLOPEN = 12, TLCREATE = 14, TSYMLINK = 16, TRENAME = 20, TREADLINK = 22, TLINK = 70, TMKDIR = 72,
       TRENAMEAT = 74, TUNLINKAT = 76, TVERSION = 100, TATTACH = 104, TWALK = 110, TREAD = 116, TWRITE = 118, TCLUNK = 120 };
#define NOFID 0xFFFFFFFFu

struct message { unsigned char bytes[16384]; size_t n; };

static void put(struct message *m, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) m->bytes[m->n++] = (unsigned char)(value >> (8 * i));
}
static void put_bytes(struct message *m, const char *text, size_t n) {
    put(m, n, 2);
    memcpy(m->bytes + m->n, text, n);
    m->n += n;
}
static void put_text(struct message *m, const char *text) { put_bytes(m, text, strlen(text)); }
static void begin(struct message *m, int type, int tag) {
    m->n = 4;
    put(m, (uint64_t)type, 1);
    put(m, (uint64_t)tag, 2);
}
static uint32_t get(const unsigned char *p, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint32_t)p[i] << (8 * i);
    return value;
}

static int dial(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)files_port)};
    struct timeval patience = {.tv_sec = REPLY_SECONDS};
    inet_pton(AF_INET, files_address, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) { close(fd); return -1; }
    return fd;
}

static bool receive(int fd, unsigned char *to, size_t n) {
    for (ssize_t got; n; n -= (size_t)got, to += got)
        if ((got = recv(fd, to, n, 0)) <= 0) return false;
    return true;
}

/* Sends m, reads the reply into m. Returns its type, or 0 when the connection closed or stayed silent. */
static int ask(int fd, struct message *m) {
    for (int i = 0; i < 4; i++) m->bytes[i] = (unsigned char)(m->n >> (8 * i));
    if (send(fd, m->bytes, m->n, MSG_NOSIGNAL) != (ssize_t)m->n) return 0;
    if (!receive(fd, m->bytes, 7)) return 0;
    m->n = get(m->bytes, 4);
    if (m->n < 7 || m->n > sizeof m->bytes || !receive(fd, m->bytes + 7, m->n - 7)) return 0;
    return m->bytes[4];
}

static const char *outcome(int type, const struct message *m) {
    static char text[96];
    if (type == 0) return "connection closed or silent";
    if (type == RLERROR) { snprintf(text, sizeof text, "refused: %s", strerror((int)get(m->bytes + 7, 4))); return text; }
    snprintf(text, sizeof text, "answered with type %d", type);
    return text;
}

static bool greet(int fd, struct message *m) {
    begin(m, TVERSION, 0xFFFF);
    put(m, 8192, 4);
    put_text(m, "9P2000.L");
    return ask(fd, m) == TVERSION + 1;
}

static int attach(int fd, struct message *m, uint32_t fid, const char *aname, const char *uname) {
    begin(m, TATTACH, 1);
    put(m, fid, 4);
    put(m, NOFID, 4);
    put_text(m, uname);
    put_text(m, aname);
    put(m, 0, 4);
    return ask(fd, m);
}

static void try_attach(const char *check, const char *aname, const char *uname) {
    struct timeval patience = {.tv_sec = patience_seconds};
    struct message m;
    for (int tries = 0; tries < 3; tries++) { /* a connection that was just dropped comes back within a second */
        int fd = dial();
        if (fd < 0) { line(check, false, "no connection: %s", strerror(errno)); return; }
        if (greet(fd, &m)) {
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
            int type = attach(fd, &m, 0, aname, uname);
            line(check, type == TATTACH + 1, "%s", outcome(type, &m));
            close(fd);
            return;
        }
        close(fd);
        usleep(500000);
    }
    line(check, false, "no greeting");
}

static void gateway_checks(void) {
    static char long_secret[9000];
    struct message m;
    char nearly[200];
    memset(long_secret, 'A', sizeof long_secret - 1);
    /* every third refusal on one connection is a closed door instead of an answer: see docs/formats/folder.md */
    try_attach("gateway-no-secret", "", vm_session);
    try_attach("gateway-wrong-secret", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", vm_session);
    try_attach("gateway-root", "/", "root");
    if (other_secret) try_attach("gateway-other-session", other_secret, vm_session);
    if (secret && strlen(secret) > 4 && strlen(secret) < sizeof nearly) {
        snprintf(nearly, sizeof nearly, "%s", secret);
        size_t at = strlen(nearly) / 2; /* not the last character, whose lowest bits may say nothing */
        nearly[at] = nearly[at] == 'A' ? 'B' : 'A';
        try_attach("gateway-nearly-right-secret", nearly, vm_session);
        nearly[strlen(nearly) - 2] = 0;
        try_attach("gateway-cut-secret", nearly, vm_session);
    }
    /* everything that reads, without attaching first */
    static const int types[] = {TWALK, TLOPEN, TREAD, TREADLINK};
    for (int i = 0; i < 4; i++) {
        int fd = dial();
        if (fd < 0 || !greet(fd, &m)) { line("gateway-without-attach", false, "no greeting"); if (fd >= 0) close(fd); continue; }
        begin(&m, types[i], 1);
        put(&m, 0, 4);
        if (types[i] == TWALK) { put(&m, 1, 4); put(&m, 0, 2); }
        if (types[i] == TLOPEN) put(&m, 0, 4);
        if (types[i] == TREAD) { put(&m, 0, 8); put(&m, 4096, 4); }
        int type = ask(fd, &m);
        line("gateway-without-attach", type != 0 && type != RLERROR, "%s", outcome(type, &m));
        close(fd);
    }
    int fd = dial();
    if (fd >= 0) { /* a message longer than agreed */
        unsigned char head[7] = {0xFF, 0xFF, 0xFF, 0x7F, TVERSION, 0xFF, 0xFF};
        unsigned char answer[16];
        bool sent = send(fd, head, sizeof head, MSG_NOSIGNAL) == sizeof head && send(fd, long_secret, sizeof long_secret, MSG_NOSIGNAL) > 0;
        ssize_t n = recv(fd, answer, sizeof answer, 0);
        line("gateway-too-long", n > 4 && answer[4] != RLERROR, "%s, %zd bytes back", sent ? "sent" : "cut off", n);
        close(fd);
    }
}

/* -- the folder's walls ---------------------------------------------------------------------------------------------- */
static int walk(int fd, struct message *m, uint32_t from, uint32_t to, const char *const *names, const size_t *sizes, int count) {
    begin(m, TWALK, 1);
    put(m, from, 4);
    put(m, to, 4);
    put(m, (uint64_t)count, 2);
    for (int i = 0; i < count; i++) put_bytes(m, names[i], sizes ? sizes[i] : strlen(names[i]));
    return ask(fd, m);
}

static int change(int fd, struct message *m, int type, uint32_t fid, const char *name) {
    begin(m, type, 1);
    put(m, fid, 4);
    switch (type) {
    case TLCREATE: put_text(m, name); put(m, 0102, 4); put(m, 0644, 4); put(m, 0, 4); break;
    case TMKDIR: put_text(m, name); put(m, 0755, 4); put(m, 0, 4); break;
    case TSYMLINK: put_text(m, name); put_text(m, "/etc/passwd"); put(m, 0, 4); break;
    case TUNLINKAT: put_text(m, name); put(m, 0, 4); break;
    case TLINK: put(m, fid, 4); put_text(m, name); break;
    default: break;
    }
    return ask(fd, m);
}

static void wall_checks(void) {
    static const char *const up[][4] = {
        {"..", 0}, {"..", "..", 0}, {"../..", 0}, {"../../etc/passwd", 0}, {"results", "..", "..", 0}, {"results", "../../etc", 0},
        {"/", 0}, {"/etc", 0}, {"/etc/passwd", 0}, {"results/../..", 0}, {"", 0}, {".", 0}, {"..%2f", 0}, {"....//", 0}, {"proc", "self", 0},
        {"\xff\xfe", 0}, {".\\..", 0}};
    struct message m;
    unsigned char root_qid[13];
    int fd = dial();
    if (fd < 0 || !greet(fd, &m) || attach(fd, &m, 0, secret, vm_session) != TATTACH + 1) {
        line("walls", false, "own secret was not taken: nothing could be tried");
        line("walls-control", false, "own secret refused");
        if (fd >= 0) close(fd);
        return;
    }
    line("walls-control", false, "attached with the session's own secret"); /* says that the tries below are real */
    memcpy(root_qid, m.bytes + 7, 13);
    for (size_t i = 0; i < sizeof up / sizeof *up; i++) {
        int count = 0;
        char tried[128] = "";
        while (count < 4 && up[i][count]) {
            size_t n = strlen(tried);
            snprintf(tried + n, sizeof tried - n, "[%s]", up[i][count++]);
        }
        int type = walk(fd, &m, 0, (uint32_t)(10 + i), up[i], NULL, count);
        bool whole = type == TWALK + 1 && (int)get(m.bytes + 7, 2) == count && count > 0;
        /* ".." of the root is the root itself (Plan 9 manual, walk(5)): that is no way out */
        bool at_root = whole && memcmp(m.bytes + 9 + 13 * (count - 1), root_qid, 13) == 0;
        line("path-traversal", whole && !at_root, "%s %s", tried, at_root ? "stays in the folder" : outcome(type, &m));
    }
    const char *nul[] = {"results\0/../..\0"};
    size_t nul_size[] = {14};
    int type = walk(fd, &m, 0, 40, nul, nul_size, 1);
    line("path-traversal", type == TWALK + 1 && get(m.bytes + 7, 2) == 1, "[name with NUL] %s", outcome(type, &m));
    static const struct { int type; const char *what; } writes[] = {
        {TLCREATE, "create a file beside the items"}, {TMKDIR, "make a folder beside the items"}, {TSYMLINK, "make a link beside the items"}};
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
        walk(fd, &m, 0, (uint32_t)(60 + i), NULL, NULL, 0);
        type = change(fd, &m, writes[i].type, (uint32_t)(60 + i), "hostile");
        line("write-outside-results", type == writes[i].type + 1, "%s: %s", writes[i].what, outcome(type, &m));
    }
    const char *results[] = {"results"};
    if (walk(fd, &m, 0, 80, results, NULL, 1) == TWALK + 1 && get(m.bytes + 7, 2) == 1) {
        static const char *const names[] = {"../hostile", "..", ".", "", "a/b", "/etc/hostile", "../../../../etc/hostile"};
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            walk(fd, &m, 80, (uint32_t)(81 + i), NULL, NULL, 0);
            type = change(fd, &m, TLCREATE, (uint32_t)(81 + i), names[i]);
            line("results-escape", type == TLCREATE + 1, "create [%s] in results: %s", names[i], outcome(type, &m));
        }
        walk(fd, &m, 80, 100, NULL, NULL, 0);
        type = change(fd, &m, TSYMLINK, 100, "link");
        line("results-escape", type == TSYMLINK + 1, "link to /etc/passwd in results: %s", outcome(type, &m));
        begin(&m, TRENAME, 1); /* the folder itself, to another place */
        put(&m, 80, 4);
        put(&m, 0, 4);
        put_text(&m, "../moved");
        type = ask(fd, &m);
        line("results-escape", type == TRENAME + 1, "rename results to ../moved: %s", outcome(type, &m));
        const char *names2[] = {"results"};
        walk(fd, &m, 0, 101, names2, NULL, 0);
        type = change(fd, &m, TUNLINKAT, 0, "results");
        line("results-escape", type == TUNLINKAT + 1, "remove results: %s", outcome(type, &m));
    }
    close(fd);
}

/* The items themselves must not change, whoever asks: through the kernel's own mount, as root. */
static void item_checks(void) {
    DIR *d = opendir("/data");
    char path[600] = "";
    struct stat st;
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "/data/%.255s", e->d_name);
        if (e->d_name[0] != '.' && stat(path, &st) == 0 && S_ISREG(st.st_mode)) break;
        path[0] = 0;
    }
    if (d) closedir(d);
    if (!path[0]) return;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    line("change-item", fd >= 0 && write(fd, "x", 1) == 1, "write: %s", fd >= 0 ? "opened" : strerror(errno));
    if (fd >= 0) close(fd);
    line("change-item", truncate(path, 0) == 0, "truncate: %s", strerror(errno));
    line("change-item", rename(path, "/data/results/moved") == 0, "move: %s", strerror(errno));
    line("change-item", unlink(path) == 0, "remove: %s", strerror(errno));
}

static void flood(void) {
    static char garbage[65536];
    int fds[FLOOD_CONNECTIONS], open_count = 0;
    long long sent = 0, received = 0, deadline = 0;
    srand(1);
    for (size_t i = 0; i < sizeof garbage; i++) garbage[i] = (char)rand();
    for (int i = 0; i < FLOOD_CONNECTIONS; i++) {
        fds[i] = dial();
        if (fds[i] < 0) continue;
        open_count++;
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    deadline = milliseconds() + flood_seconds * 1000; /* from here: the dialling may have taken its time */
    while (milliseconds() < deadline) {
        bool any = false;
        for (int i = 0; i < FLOOD_CONNECTIONS; i++) {
            if (fds[i] < 0) continue;
            char back[512];
            ssize_t n = send(fds[i], garbage, sizeof garbage, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n > 0) { sent += n; any = true; }
            else if (n < 0 && errno != EAGAIN) { close(fds[i]); fds[i] = -1; continue; }
            n = recv(fds[i], back, sizeof back, MSG_DONTWAIT);
            if (n > 0) received += n;
            else if (n == 0) { close(fds[i]); fds[i] = -1; }
        }
        if (!any) usleep(10000);
    }
    for (int i = 0; i < FLOOD_CONNECTIONS; i++) if (fds[i] >= 0) close(fds[i]);
    /* an error message back is fine; a stream of data would not be */
    line("flood", received > 4096, "%d connections, %lld bytes sent, %lld back", open_count, sent, received);
}

static void own_folder(const char *check) {
    struct stat st;
    DIR *d = opendir("/data");
    int count = 0;
    for (struct dirent *e; d && (e = readdir(d));) if (e->d_name[0] != '.' && stat("/data", &st) == 0) count++;
    if (d) closedir(d);
    line(check, d != NULL && count > 0, "%d names", count);
}

/* A dead connection hangs whoever touches the folder, even against a signal: never this program. */
static void guarded(void (*work)(void), const char *check) {
    int how = 0;
    long long deadline = milliseconds() + FOLDER_SECONDS * 1000;
    pid_t child = fork(), ended;
    if (child == 0) { work(); _exit(0); }
    while ((ended = waitpid(child, &how, WNOHANG)) == 0 && milliseconds() < deadline) usleep(20000);
    if (ended == 0) kill(child, SIGKILL);
    if (ended == 0 || !WIFEXITED(how)) line(check, false, "the folder did not answer within %d s", FOLDER_SECONDS);
}

static void control(void) { own_folder("own-folder"); }

static bool split(const char *text, char *address, size_t room, int *port) {
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= room) return false;
    snprintf(address, room, "%.*s", (int)(colon - text), text);
    *port = atoi(colon + 1);
    return *port > 0;
}

int main(int count, char **words) {
    static struct knocks knocks;
    char name[IFNAMSIZ], address[64];
    bool with_flood = true, with_network = true, with_gateway = true, with_folder = true;
    int port;
    signal(SIGPIPE, SIG_IGN);
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *value = i + 1 < count ? words[i + 1] : "";
        if (strcmp(word, "--no-flood") == 0) { with_flood = false; continue; }
        if (strcmp(word, "--no-network") == 0) { with_network = false; continue; }
        if (strcmp(word, "--no-gateway") == 0) { with_gateway = false; continue; }
        if (strcmp(word, "--no-folder") == 0) { with_folder = false; continue; }
        i++;
        if (strcmp(word, "--mine") == 0) mine = value;
        else if (strcmp(word, "--session") == 0) vm_session = value;
        else if (strcmp(word, "--patience") == 0) patience_seconds = atoi(value);
        else if (strcmp(word, "--flood-seconds") == 0) flood_seconds = atoi(value);
        else if (strcmp(word, "--secret") == 0) secret = value;
        else if (strcmp(word, "--other-secret") == 0) other_secret = value;
        else if (strcmp(word, "--files") == 0 && split(value, files_address, sizeof files_address, &files_port)) continue;
        else if (strcmp(word, "--target") == 0 && split(value, address, sizeof address, &port)) knock_add(&knocks, "target", KNOCK_TCP, address, port);
        else if (strcmp(word, "--node") == 0) {
            static const int ports[] = {22, 85, 111, 3128, 5900, 5901, 8006};
            knock_add(&knocks, "node", KNOCK_ECHO, value, 0);
            for (int p = 0; p < 7; p++) knock_add(&knocks, "node", KNOCK_TCP, value, ports[p]);
        } else if (strcmp(word, "--guest") == 0) {
            knock_add(&knocks, "guest", KNOCK_ECHO, value, 0);
            knock_add(&knocks, "guest", KNOCK_TCP, value, 22);
            knock_add(&knocks, "guest", KNOCK_TCP, value, 564);
        } else { fprintf(stderr, "unknown: %s\n", word); return 2; }
    }
    if (with_folder) guarded(control, "own-folder");
    first_interface(name, sizeof name);
    if (with_network) standard_knocks(&knocks, mine, files_address);
    knock_all(&knocks, name, 3000);
    for (int i = 0; i < knocks.count; i++) {
        struct knock *k = &knocks.all[i];
        line(k->check, k->reached, k->port ? "%s port %d: %s" : "%s%.0d: %s", k->address, k->port, k->detail);
    }
    if (with_gateway) gateway_checks();
    if (secret) wall_checks();
    if (with_folder) guarded(item_checks, "change-item");
    if (with_flood) flood();
    if (with_folder) guarded(control, "own-folder");
    return 0;
}
