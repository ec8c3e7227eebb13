/* Guest agent: waits for the claim, opens the folder, has the viewer open it, and says how far it is.
 * Speaks docs/formats/claim.md; qemu-guest-agent carries the files. Started by `init` as root; the only program in the
 * guest that ever holds the session's secret. Before the claim it makes nothing unique (no random numbers, no address,
 * no time), because machines may resume from one saved memory state.
 * Static, so that a template without Python or even without libc can use it. */
#define _GNU_SOURCE
#include <grp.h>
#include <linux/landlock.h>
#include <linux/loop.h>
#include <linux/random.h>
#include <net/route.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h> /* BLKRASET too */
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "json.h"
#include "network_checks.h"

#define RUN "/run/myphr"
#define CLAIM RUN "/claim.json"
#define STATUS RUN "/status.json"
#define CLAIMED RUN "/claimed"
#define FOLDER "/data"
#define SESSION RUN "/folder"      /* the 9P mount itself, which only root reaches */
#define IMAGE SESSION "/\001items"  /* all items as one disk image: docs/formats/folder.md */
#define DESK "/usr/lib/myphr/desk"
#define VIEWER_UID 1000
#define VIEWER_GID 1000
#define CLAIM_BYTES_MAX 65536
#define CLAIM_PATIENCE_MS 3000  /* a claim that is still not whole after this long is a broken one */
#define MOUNT_SECONDS_MAX 20    /* a gateway that is away must become an error, not a black screen */
#define CHECK_TIMEOUT_MS 1500   /* the self-check runs beside the opening, never before it */
#define WATCH_SECONDS 5         /* how often the folder is looked at once it is open */
#define WATCH_SECONDS_MAX 15    /* a look that takes longer will never end: the stream is broken */
#define LET_GO_MS 1000          /* a dead 9P mount may not let go at all; a new one is laid over it */
#define READ_AHEAD_SECTORS 1024 /* 512 KiB, the most that one 9P message brings */
#define FOLDER_FLAGS (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME) /* no programs, devices or set-uid files */
#define DESK_CRASHES_MAX 5

static struct {
    char state[16], error[48];
    char isolation[1024];
} status;

static struct {
    char session[72], address[20], secret[128], network[24], gateway[20];
    int port, prefix;
    char order[CLAIM_BYTES_MAX];
} claim;

static int desk = -1;
static pid_t desk_pid, mount_pid, check_pid, watch_pid;
static int check_pipe = -1;
static bool mounted, mounted_once, desk_warm;
static int desk_crashes;
static long long mount_deadline, watch_at, watch_deadline, desk_again_at, claim_seen_at, claimed_at, mount_again_at;

static void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    dprintf(1, "agent: ");
    vdprintf(1, format, args);
    dprintf(1, "\n");
    va_end(args);
}

static void put_status(void) {
    char text[2048], error[64] = "null";
    if (status.error[0]) snprintf(error, sizeof error, "\"%s\"", status.error);
    int n = snprintf(text, sizeof text, "{\"version\": 1, \"state\": \"%s\", \"error\": %s, \"isolation\": [%s]}\n", status.state, error,
                     status.isolation);
    int fd = open(STATUS ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return;
    bool whole = write(fd, text, (size_t)n) == n;
    close(fd);
    if (whole) rename(STATUS ".new", STATUS); /* a reader sees the old or the new one, never half of it */
}

static void set_state(const char *state, const char *error) {
    snprintf(status.state, sizeof status.state, "%s", state);
    snprintf(status.error, sizeof status.error, "%s", error ? error : "");
    put_status();
    if (claimed_at) say("%s%s%s, %lld ms after the claim", state, error ? ": " : "", error ? error : "", milliseconds() - claimed_at);
    else say("%s%s%s", state, error ? ": " : "", error ? error : "");
}

/* -- the claim ------------------------------------------------------------------------------------------------- */
static bool plain_word(const char *text, const char *more) {
    if (!*text) return false;
    for (; *text; text++)
        if (!((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') || (*text >= '0' && *text <= '9') || strchr(more, *text)))
            return false;
    return true;
}

static size_t from_base64(const char *text, unsigned char *out, size_t room) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = 0, value = 0;
    size_t n = 0;
    for (; *text && *text != '='; text++) {
        const char *d = strchr(digits, *text == '-' ? '+' : *text == '_' ? '/' : *text);
        if (!d) return 0;
        value = value << 6 | (unsigned)(d - digits);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            if (n >= room) return n;
            out[n++] = (unsigned char)(value >> bits);
        }
    }
    return n;
}

/* Fresh randomness for machines that all woke from the same memory: without it they would draw the same numbers. */
static void feed_entropy(const unsigned char *bytes, size_t n) {
    struct { struct rand_pool_info info; unsigned char bytes[256]; } feed;
    if (n > sizeof feed.bytes) n = sizeof feed.bytes;
    feed.info.entropy_count = (int)n * 8;
    feed.info.buf_size = (int)n;
    memcpy(feed.info.buf, bytes, n);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    if (ioctl(fd, RNDADDENTROPY, &feed) < 0) say("the kernel did not take the entropy: %s", strerror(errno));
    if (ioctl(fd, RNDRESEEDCRNG) < 0) say("the kernel did not reseed: %s", strerror(errno));
    close(fd);
    explicit_bzero(&feed, sizeof feed);
}

static struct sockaddr internet(const char *address) {
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr out;
    inet_pton(AF_INET, address, &in.sin_addr);
    memcpy(&out, &in, sizeof out);
    return out;
}

static bool network_up(void) {
    struct ifreq r;
    char name[IFNAMSIZ], mask[20];
    memset(&r, 0, sizeof r);
    first_interface(name, sizeof name);
    if (!name[0]) return false;
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct in_addr bits = {.s_addr = htonl(claim.prefix ? ~0u << (32 - claim.prefix) : 0)};
    inet_ntop(AF_INET, &bits, mask, sizeof mask);
    r.ifr_addr = internet(claim.network);
    bool ok = ioctl(fd, SIOCSIFADDR, &r) == 0;
    r.ifr_netmask = internet(mask);
    ok = ok && ioctl(fd, SIOCSIFNETMASK, &r) == 0;
    ok = ok && ioctl(fd, SIOCGIFFLAGS, &r) == 0;
    r.ifr_flags |= IFF_UP | IFF_RUNNING;
    ok = ok && ioctl(fd, SIOCSIFFLAGS, &r) == 0;
    /* A default route, so that the self-check really tries to leave instead of failing inside this guest. */
    struct rtentry route;
    memset(&route, 0, sizeof route);
    route.rt_dst = internet("0.0.0.0");
    route.rt_genmask = internet("0.0.0.0");
    route.rt_gateway = internet(claim.gateway);
    route.rt_flags = RTF_UP | RTF_GATEWAY;
    if (ioctl(fd, SIOCADDRT, &route) < 0 && errno != EEXIST) say("no default route: %s", strerror(errno));
    close(fd);
    return ok;
}

/* Fills `claim`; returns the error code or NULL. */
static const char *read_claim(struct slice whole) {
    struct slice files, network, value, viewer, open_;
    long long number;
    char text[1024];
    unsigned char entropy[256];
    if (!json_get(whole, "version", &value) || !json_integer(value, &number) || number != 1) return "claim-version";
    if (!json_get(whole, "vm_session", &value) || !json_text(value, claim.session, sizeof claim.session) || !plain_word(claim.session, "-_"))
        return "claim-invalid";
    if (!json_get(whole, "files", &files)) return "claim-invalid";
    if (!json_get(files, "address", &value) || !json_text(value, claim.address, sizeof claim.address)) return "claim-invalid";
    if (!json_get(files, "port", &value) || !json_integer(value, &number) || number < 1 || number > 65535) return "claim-invalid";
    claim.port = (int)number;
    /* "/" and "." so that a plain 9P server, whose attach name is a path, can stand in for the gateway in trials */
    if (!json_get(files, "secret", &value) || !json_text(value, claim.secret, sizeof claim.secret) || !plain_word(claim.secret, "-_/."))
        return "claim-invalid";
    if (!json_get(whole, "viewer", &viewer) || viewer.start[0] != '{') return "claim-invalid";
    if (!json_get(whole, "open", &open_) || open_.start[0] != '"') return "claim-invalid";
    snprintf(claim.network, sizeof claim.network, "10.0.2.15");
    claim.prefix = 24;
    if (json_get(whole, "network", &network)) {
        char *slash;
        if (!json_get(network, "address", &value) || !json_text(value, claim.network, sizeof claim.network)) return "claim-invalid";
        if (!(slash = strchr(claim.network, '/'))) return "claim-invalid";
        *slash = 0;
        claim.prefix = atoi(slash + 1);
        if (claim.prefix < 1 || claim.prefix > 30) return "claim-invalid";
    }
    struct in_addr address;
    if (inet_pton(AF_INET, claim.network, &address) != 1 || inet_pton(AF_INET, claim.address, &address) != 1) return "claim-invalid";
    /* localpve's user-mode network has its virtual router at .2; elsewhere the files gateway is the only door to knock on */
    if (strncmp(claim.network, "10.0.2.", 7) == 0) snprintf(claim.gateway, sizeof claim.gateway, "10.0.2.2");
    else snprintf(claim.gateway, sizeof claim.gateway, "%s", claim.address);
    if (json_get(whole, "clock", &value) && json_integer(value, &number) && number > 0) {
        struct timespec now = {.tv_sec = (time_t)number};
        if (clock_settime(CLOCK_REALTIME, &now) < 0) say("the clock was not set: %s", strerror(errno));
    }
    if (json_get(whole, "entropy", &value) && json_text(value, text, sizeof text)) {
        size_t n = from_base64(text, entropy, sizeof entropy);
        if (n) feed_entropy(entropy, n);
        explicit_bzero(text, sizeof text);
        explicit_bzero(entropy, sizeof entropy);
    }
    int n = snprintf(claim.order, sizeof claim.order, "{\"viewer\": %.*s, \"open\": %.*s, \"folder\": \"" FOLDER "\"}",
                     (int)(viewer.end - viewer.start), viewer.start, (int)(open_.end - open_.start), open_.start);
    return n > 0 && (size_t)n < sizeof claim.order ? NULL : "claim-invalid";
}

/* -- the folder ------------------------------------------------------------------------------------------------ */
/* Takes away what was mounted, in a child of its own: a 9P mount whose connection is broken may wait for ever for an
 * answer to its farewell. MNT_FORCE makes what waits in it end when it is killed. */
static void let_go(void) {
    pid_t pid = fork();
    if (pid == 0) {
        umount2(FOLDER, MNT_DETACH); /* results/ goes with it */
        umount2(SESSION, MNT_FORCE | MNT_DETACH);
        _exit(0);
    }
    for (long long end = milliseconds() + LET_GO_MS; pid > 0 && milliseconds() < end; usleep(2000))
        if (waitpid(pid, NULL, WNOHANG) == pid) return;
    if (pid > 0) kill(pid, SIGKILL);
}

/* The items over a block device: names, sizes and contents are asked for once and in large pieces, and kept. Only with
 * direct I/O: else Linux would ask for each page alone, and take a short answer for a file full of zeros. */
static bool mount_image(void) {
    struct loop_config config = {0};
    struct loop_info64 info;
    char device[32];
    int image = open(IMAGE, O_RDONLY | O_CLOEXEC), control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), loop = -1;
    bool ok = image >= 0 && control >= 0;
    if (ok) {
        snprintf(device, sizeof device, "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
        loop = open(device, O_RDONLY | O_CLOEXEC);
        config.fd = (unsigned)image;
        config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
        ok = loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) == 0;
        ok = ok && ioctl(loop, LOOP_GET_STATUS64, &info) == 0 && info.lo_flags & LO_FLAGS_DIRECT_IO;
        ok = ok && ioctl(loop, BLKRASET, READ_AHEAD_SECTORS) == 0;
        ok = ok && mount(device, FOLDER, "erofs", FOLDER_FLAGS | MS_RDONLY, NULL) == 0;
    }
    if (!ok) say("the items have no image, they are read one by one: %s", strerror(errno));
    if (image >= 0) close(image);
    if (control >= 0) close(control);
    if (loop >= 0) close(loop);
    return ok;
}

/* Items from the image; results/ over 9P without a cache, so that what a viewer closed has reached the gateway. Where
 * there is no image (a plain 9P server in trials) all of it is 9P. */
static bool lay_out_folder(void) {
    struct stat there;
    if (!mount_image()) return mount(SESSION, FOLDER, NULL, MS_BIND, NULL) == 0;
    if (stat(FOLDER "/results", &there) < 0) return true;
    return mount(SESSION "/results", FOLDER "/results", NULL, MS_BIND, NULL) == 0;
}

static void start_mount(void) {
    char options[512], program[] = "mount";
    mount_deadline = milliseconds() + MOUNT_SECONDS_MAX * 1000;
    if ((mount_pid = fork()) != 0) return;
    prctl(PR_SET_NAME, program);
    if (mounted_once) let_go();
    mkdir(SESSION, 0700);
    snprintf(options, sizeof options, "trans=tcp,port=%d,version=9p2000.L,msize=524288,access=any,aname=%s,uname=%s", claim.port,
             claim.secret, claim.session);
    if (mount(claim.address, SESSION, "9p", FOLDER_FLAGS, options) == 0 && lay_out_folder()) _exit(0);
    say("the folder did not open: %s", strerror(errno));
    _exit(errno == EACCES || errno == EPERM ? 2 : 1);
}

static void send_order(void) {
    if (desk >= 0 && mounted && desk_warm) {
        if (send(desk, claim.order, strlen(claim.order), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) say("the order did not reach the desk");
        else if (strcmp(status.state, "ready") != 0) set_state("opening", NULL);
    }
}

static void mount_ended(int how) {
    mount_pid = 0;
    if (WIFEXITED(how) && WEXITSTATUS(how) == 0) {
        mounted = true;
        watch_at = milliseconds() + WATCH_SECONDS * 1000;
        if (!mounted_once) {
            mounted_once = true;
            set_state("mounted", NULL);
            send_order();
        } else {
            say("the folder is open again");
            status.error[0] = 0;
            put_status();
        }
        return;
    }
    if (mounted_once) { /* lost and not back yet: keep trying, the desktop stays */
        mount_again_at = milliseconds() + WATCH_SECONDS * 1000;
        return;
    }
    set_state("failed", WIFEXITED(how) && WEXITSTATUS(how) == 2 ? "folder-refused" : "folder-unreachable");
}

/* Looks at the folder in a child, because a dead connection may hang whoever asks. */
static void start_watch(void) {
    watch_deadline = milliseconds() + WATCH_SECONDS_MAX * 1000;
    if ((watch_pid = fork()) != 0) return;
    struct statfs fs;
    _exit(statfs(SESSION, &fs) == 0 ? 0 : 1);
}

static void folder_lost(void) {
    say("the folder is lost, opening it again");
    snprintf(status.error, sizeof status.error, "folder-lost");
    put_status();
    mounted = false;
    start_mount();
}

static void watch_ended(int how) {
    watch_pid = 0;
    watch_at = milliseconds() + WATCH_SECONDS * 1000;
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 0) folder_lost();
}

/* Not even killing ends a question on a broken stream: it is left behind. */
static void watch_hangs(void) {
    kill(watch_pid, SIGKILL);
    watch_pid = 0;
    folder_lost();
}

/* -- the isolation self-check ---------------------------------------------------------------------------------- */
static void start_check(void) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return;
    if ((check_pid = fork()) == 0) {
        static struct knocks knocks;
        char name[IFNAMSIZ], text[1024] = "";
        size_t n = 0;
        first_interface(name, sizeof name);
        standard_knocks(&knocks, claim.network, claim.address);
        knock_all(&knocks, name, CHECK_TIMEOUT_MS);
        for (int i = 0; i < knocks.count; i++) {
            bool seen = false, reached = false;
            for (int j = 0; j < knocks.count; j++)
                if (strcmp(knocks.all[j].check, knocks.all[i].check) == 0) {
                    if (j < i) seen = true;
                    if (knocks.all[j].reached) reached = true;
                }
            if (!seen && n < sizeof text - 64)
                n += (size_t)snprintf(text + n, sizeof text - n, "%s{\"check\": \"%s\", \"blocked\": %s}", n ? ", " : "", knocks.all[i].check,
                                      reached ? "false" : "true");
            if (knocks.all[i].reached) say("isolation: %s reached %s port %d", knocks.all[i].check, knocks.all[i].address, knocks.all[i].port);
        }
        _exit(write(ends[1], text, n) == (ssize_t)n ? 0 : 1);
    }
    close(ends[1]);
    check_pipe = ends[0];
}

static void check_ended(void) {
    char text[sizeof status.isolation];
    check_pid = 0;
    ssize_t n = read(check_pipe, text, sizeof text - 1);
    close(check_pipe);
    check_pipe = -1;
    if (n <= 0) return;
    text[n] = 0;
    snprintf(status.isolation, sizeof status.isolation, "%s", text);
    put_status();
    say("isolation checked, %lld ms after the claim", milliseconds() - claimed_at);
}

/* -- the desk: the unprivileged side, which shows the viewer ----------------------------------------------------- */
#define MAY_READ (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define MAY_ALL ((LANDLOCK_ACCESS_FS_REFER << 1) - 1) /* every right of the second version of the interface (Linux 5.19) */

static bool allow(int rules, const char *path, unsigned long long rights) {
    struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent_fd < 0) return errno == ENOENT; /* not in every template */
    bool ok = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
    close(rule.parent_fd);
    return ok;
}

/* What a viewer may touch (Landlock, kernel Documentation/userspace-api/landlock.rst). Its main point: the kernel shows
 * the session's secret as a mount option in /proc/<any process>/mounts, and a viewer that never learns it cannot carry it
 * into a result file. The folder is mounted below /mnt because a rule on the mount point itself would lie hidden. */
static bool confine(void) {
    static const char *const readable[] = {"/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc", "/var", "/sys", "/run", "/opt"};
    static const char *const writable[] = {"/home/viewer", "/tmp", "/var/tmp", "/dev", "/mnt", "/run/viewer"};
    static const char *const facts[] = {"cpuinfo", "meminfo", "stat", "filesystems", "version", "uptime", "loadavg"};
    struct landlock_ruleset_attr handled = {.handled_access_fs = MAY_ALL};
    char path[64];
    int rules = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
    bool ok = rules >= 0;
    for (size_t i = 0; ok && i < sizeof readable / sizeof *readable; i++) ok = allow(rules, readable[i], MAY_READ);
    for (size_t i = 0; ok && i < sizeof writable / sizeof *writable; i++) ok = allow(rules, writable[i], MAY_ALL);
    for (size_t i = 0; ok && i < sizeof facts / sizeof *facts; i++) {
        snprintf(path, sizeof path, "/proc/%s", facts[i]);
        ok = allow(rules, path, LANDLOCK_ACCESS_FS_READ_FILE);
    }
    ok = ok && allow(rules, "/proc/sys", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR);
    return ok && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

static void start_desk(void) {
    int ends[2];
    desk_again_at = 0;
    desk_warm = false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return;
    if ((desk_pid = fork()) == 0) {
        if (ends[1] == 3) fcntl(3, F_SETFD, 0);
        else dup2(ends[1], 3);
        setsid();
        /* A viewer has no network at all: the folder is mounted for it, the screen is a socket in the file system. */
        if (unshare(CLONE_NEWNET) < 0) _exit(126);
        gid_t groups[] = {VIEWER_GID};
        if (setgroups(1, groups) < 0 || setgid(VIEWER_GID) < 0 || setuid(VIEWER_UID) < 0) _exit(126);
        if (!confine()) { say("the viewer could not be confined: %s", strerror(errno)); _exit(126); }
        umask(022);
        /* What a viewer complains of may hold names of patients: it stays in this machine's memory. */
        int log = open("/run/viewer/desk.log", O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log >= 0) { dup2(log, 1); dup2(log, 2); if (log > 3) close(log); }
        char *const words[] = {DESK, NULL};
        char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/viewer", "USER=viewer", "LANG=C.UTF-8",
                                     "DISPLAY=:0", "XDG_RUNTIME_DIR=/run/viewer", "MYPHR_AGENT_FD=3", NULL};
        if (chdir("/home/viewer") < 0) _exit(126);
        execve(DESK, words, environment);
        _exit(127);
    }
    close(ends[1]);
    desk = ends[0];
}

static void desk_message(void) {
    char text[128];
    ssize_t n = recv(desk, text, sizeof text - 1, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { close(desk); desk = -1; return; }
    text[n] = 0;
    if (strcmp(text, "warm") == 0) {
        desk_warm = true;
        if (!claimed_at) set_state("waiting", NULL);
        send_order();
    } else if (strcmp(text, "ready") == 0 && mounted_once) {
        set_state("ready", NULL);
    } else if (strncmp(text, "failed ", 7) == 0 && plain_word(text + 7, "-")) {
        set_state("failed", text + 7);
    } else say("the desk said something unknown");
}

static void desk_ended(void) {
    desk_pid = 0;
    desk_again_at = milliseconds() + 1000;
    desk_crashes++;
    say("the desk ended (%d)", desk_crashes);
    if (desk_crashes >= DESK_CRASHES_MAX) set_state("failed", "viewer-crashed");
}

/* -- the loop --------------------------------------------------------------------------------------------------- */
static void look_for_claim(void) {
    static char text[CLAIM_BYTES_MAX + 1];
    struct slice whole;
    int fd = open(CLAIM, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) { claim_seen_at = 0; return; }
    size_t bytes = 0;
    for (ssize_t n; bytes < sizeof text && (n = read(fd, text + bytes, sizeof text - bytes)) > 0;) bytes += (size_t)n;
    close(fd);
    if (claimed_at) {
        unlink(CLAIM);
        explicit_bzero(text, sizeof text);
        say("a second claim was refused");
        return;
    }
    if (!desk_warm) return; /* claimed before warm: it waits on the disk until the desktop is up */
    bool complete = bytes <= CLAIM_BYTES_MAX && json_document(text, bytes, &whole);
    if (!complete) {
        if (!claim_seen_at) claim_seen_at = milliseconds();
        if (bytes <= CLAIM_BYTES_MAX && milliseconds() - claim_seen_at < CLAIM_PATIENCE_MS) return; /* still being written */
    }
    unlink(CLAIM);
    claimed_at = milliseconds();
    close(open(CLAIMED, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const char *error = complete ? read_claim(whole) : "claim-invalid";
    explicit_bzero(text, sizeof text);
    if (error) { set_state("failed", error); return; }
    set_state("claimed", NULL);
    if (!network_up()) { set_state("failed", "network-missing"); return; }
    start_mount();
    start_check();
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    mkdir(RUN, 0700);
    if (access(CLAIMED, F_OK) == 0) { /* we crashed in the middle of a session: never serve a second one */
        claimed_at = milliseconds();
        set_state("failed", "agent-restarted");
    }
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    inotify_add_watch(watch, RUN, IN_CLOSE_WRITE | IN_MOVED_TO);
    start_desk();
    for (;;) {
        struct pollfd fds[2] = {{.fd = watch, .events = POLLIN}, {.fd = desk, .events = POLLIN}};
        /* While children work, their end is looked for often; a waiting machine sleeps. */
        poll(fds, 2, mount_pid || check_pid ? 20 : claim_seen_at ? 50 : 500);
        if (fds[0].revents) {
            char events[4096];
            while (read(watch, events, sizeof events) > 0) {}
        }
        if (desk >= 0 && fds[1].revents) desk_message();
        int how;
        pid_t ended;
        while ((ended = waitpid(-1, &how, WNOHANG)) > 0) {
            if (ended == mount_pid) mount_ended(how);
            else if (ended == check_pid) check_ended();
            else if (ended == watch_pid) watch_ended(how);
            else if (ended == desk_pid) desk_ended();
        }
        long long now = milliseconds();
        if (mount_pid && now > mount_deadline) kill(mount_pid, SIGKILL);
        if (mount_again_at && now > mount_again_at && !mount_pid) { mount_again_at = 0; start_mount(); }
        if (mounted && !watch_pid && now > watch_at) start_watch();
        if (watch_pid && now > watch_deadline) watch_hangs();
        if (desk_again_at && now > desk_again_at && desk_crashes < DESK_CRASHES_MAX) start_desk();
        look_for_claim();
    }
}
