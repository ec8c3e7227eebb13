/* Knocks on doors that must be closed: DNS, echo requests, TCP ports, IPv6 neighbours, all at once with one deadline.
 * "Reached" means that something answered as a peer: a connection was made, a reply came back. A refusal is not.
 * Public addresses are the documentation ranges only (RFC 5737). Included by agent.c (quick) and hostile.c (thorough). */
#ifndef MYPHR_NETWORK_CHECKS_H
#define MYPHR_NETWORK_CHECKS_H
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum knock_kind { KNOCK_TCP, KNOCK_DNS, KNOCK_DNS_TCP, KNOCK_ECHO, KNOCK_ECHO6 };
struct knock {
    const char *check;
    enum knock_kind kind;
    char address[64];
    int port;
    int fd;
    bool done, reached;
    char detail[120];
};
#define KNOCKS_MAX 256
struct knocks { struct knock all[KNOCKS_MAX]; int count; };

static long long milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void knock_add(struct knocks *k, const char *check, enum knock_kind kind, const char *address, int port) {
    if (k->count >= KNOCKS_MAX) return;
    struct knock *one = &k->all[k->count++];
    memset(one, 0, sizeof *one);
    one->check = check;
    one->kind = kind;
    snprintf(one->address, sizeof one->address, "%s", address);
    one->port = port;
    one->fd = -1;
}

/* A question for example.com, type A (RFC 1035, 4.1). */
static const unsigned char dns_question[] = {0x4d, 0x50, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e',
                                             3, 'c', 'o', 'm', 0, 0, 1, 0, 1};

static unsigned short internet_checksum(const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    unsigned long sum = 0;
    for (size_t i = 0; i + 1 < n; i += 2) sum += (unsigned)(p[i] << 8 | p[i + 1]);
    while (sum >> 16) sum = (sum & 0xFFFF) + (sum >> 16);
    return htons((unsigned short)~sum);
}

/* True when the address is answered by QEMU's user-mode network itself, which is part of this machine's own emulation:
 * libslirp gives its virtual addresses the hardware address 52:55 followed by the IPv4 address. */
static bool emulated_address(const char *address) {
    unsigned a[4];
    char line[256], mine[32];
    bool found = false;
    if (sscanf(address, "%u.%u.%u.%u", &a[0], &a[1], &a[2], &a[3]) != 4) return false;
    snprintf(mine, sizeof mine, "52:55:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3]);
    FILE *f = fopen("/proc/net/arp", "r");
    while (f && fgets(line, sizeof line, f)) {
        char ip[64] = "", mac[64] = "";
        if (sscanf(line, "%63s %*s %*s %63s", ip, mac) == 2 && strcmp(ip, address) == 0 && strcasecmp(mac, mine) == 0) found = true;
    }
    if (f) fclose(f);
    return found;
}

static void knock_end(struct knock *k, bool reached, const char *detail) {
    k->done = true;
    k->reached = reached;
    snprintf(k->detail, sizeof k->detail, "%s", detail);
    if (k->fd >= 0) close(k->fd);
    k->fd = -1;
}

static void knock_start(struct knock *k, const char *interface) {
    if (k->kind == KNOCK_ECHO6) {
        struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_scope_id = if_nametoindex(interface)};
        if (inet_pton(AF_INET6, k->address, &to.sin6_addr) != 1) return knock_end(k, false, "not an address");
        k->fd = socket(AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_ICMPV6);
        if (k->fd < 0) return knock_end(k, false, strerror(errno));
        struct icmp6_filter filter;
        ICMP6_FILTER_SETBLOCKALL(&filter);
        ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
        setsockopt(k->fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter);
        int off = 0;
        setsockopt(k->fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, &off, sizeof off);
        struct icmp6_hdr echo = {.icmp6_type = ICMP6_ECHO_REQUEST};
        echo.icmp6_id = htons(0x4d50);
        if (sendto(k->fd, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to) < 0) return knock_end(k, false, strerror(errno));
        return;
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)k->port)};
    if (inet_pton(AF_INET, k->address, &to.sin_addr) != 1) return knock_end(k, false, "not an address");
    int type = k->kind == KNOCK_ECHO ? SOCK_RAW : k->kind == KNOCK_DNS ? SOCK_DGRAM : SOCK_STREAM;
    k->fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, k->kind == KNOCK_ECHO ? IPPROTO_ICMP : 0);
    if (k->fd < 0) return knock_end(k, false, strerror(errno));
    if (k->kind == KNOCK_ECHO) {
        int on = 1;
        setsockopt(k->fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
        struct icmphdr echo = {.type = ICMP_ECHO};
        echo.un.echo.id = htons(0x4d50);
        echo.checksum = internet_checksum(&echo, sizeof echo);
        if (sendto(k->fd, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to) < 0) return knock_end(k, false, strerror(errno));
        return;
    }
    if (connect(k->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        return knock_end(k, false, errno == ECONNREFUSED ? "refused" : strerror(errno));
    if (k->kind == KNOCK_DNS && send(k->fd, dns_question, sizeof dns_question, 0) < 0) knock_end(k, false, strerror(errno));
}

static void knock_event(struct knock *k) {
    unsigned char answer[2048];
    if (k->kind == KNOCK_TCP || k->kind == KNOCK_DNS_TCP) {
        int error = 0;
        socklen_t n = sizeof error;
        getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &error, &n);
        if (error == 0) knock_end(k, true, "connected");
        else knock_end(k, false, error == ECONNREFUSED ? "refused" : strerror(error));
        return;
    }
    if (k->kind == KNOCK_DNS) {
        ssize_t n = recv(k->fd, answer, sizeof answer, 0);
        if (n > 0) knock_end(k, true, "answered");
        else knock_end(k, false, errno == ECONNREFUSED ? "refused" : strerror(errno));
        return;
    }
    if (k->kind == KNOCK_ECHO6) {
        struct sockaddr_in6 from;
        socklen_t from_bytes = sizeof from;
        char text[64] = "";
        ssize_t n = recvfrom(k->fd, answer, sizeof answer, 0, (struct sockaddr *)&from, &from_bytes);
        if (n < 8 || answer[0] != ICMP6_ECHO_REPLY || answer[4] != 0x4d || answer[5] != 0x50) return;
        inet_ntop(AF_INET6, &from.sin6_addr, text, sizeof text);
        knock_end(k, true, text);
        return;
    }
    struct sockaddr_in from;
    socklen_t from_bytes = sizeof from;
    ssize_t n = recvfrom(k->fd, answer, sizeof answer, 0, (struct sockaddr *)&from, &from_bytes);
    if (n < 28) return;
    size_t header = (size_t)(answer[0] & 15) * 4;
    const unsigned char *icmp = answer + header;
    if ((size_t)n < header + 8 || icmp[0] != ICMP_ECHOREPLY || icmp[4] != 0x4d || icmp[5] != 0x50) return;
    char text[64] = "";
    inet_ntop(AF_INET, &from.sin_addr, text, sizeof text);
    size_t address_bytes = strlen(k->address);
    bool broadcast = address_bytes > 4 && strcmp(k->address + address_bytes - 4, ".255") == 0;
    if (!broadcast && strcmp(text, k->address) != 0) return; /* the answer to another knock */
    if (emulated_address(text)) knock_end(k, false, "answered by this machine's own emulated network card, not by a host");
    else knock_end(k, true, text);
}

/* All knocks at once; what has not answered after `timeout_ms` is silent. */
static void knock_all(struct knocks *k, const char *interface, int timeout_ms) {
    long long deadline = milliseconds() + timeout_ms;
    for (int i = 0; i < k->count; i++) knock_start(&k->all[i], interface);
    for (;;) {
        struct pollfd fds[KNOCKS_MAX];
        int which[KNOCKS_MAX], n = 0;
        for (int i = 0; i < k->count; i++) {
            struct knock *one = &k->all[i];
            if (one->done) continue;
            bool stream = one->kind == KNOCK_TCP || one->kind == KNOCK_DNS_TCP;
            fds[n] = (struct pollfd){.fd = one->fd, .events = stream ? POLLOUT : POLLIN};
            which[n++] = i;
        }
        long long left = deadline - milliseconds();
        if (n == 0 || left <= 0) break;
        if (poll(fds, (nfds_t)n, (int)left) <= 0) continue;
        for (int i = 0; i < n; i++)
            if (fds[i].revents) knock_event(&k->all[which[i]]);
    }
    for (int i = 0; i < k->count; i++)
        if (!k->all[i].done) knock_end(&k->all[i], false, "silent");
}

/* The first interface that is not the loopback; empty when there is none. */
static void first_interface(char *name, size_t room) {
    struct if_nameindex *all = if_nameindex();
    name[0] = 0;
    for (int i = 0; all && all[i].if_index; i++)
        if (strcmp(all[i].if_name, "lo") != 0) { snprintf(name, room, "%s", all[i].if_name); break; }
    if (all) if_freenameindex(all);
}

/* "10.0.2." + host: another address of our own /24. */
static void neighbour(char *out, size_t room, const char *mine, int host) {
    const char *dot = strrchr(mine, '.');
    snprintf(out, room, "%.*s.%d", (int)(dot - mine), mine, host);
}

static const int host_ports[] = {22, 25, 53, 80, 111, 443, 445, 564, 2049, 3128, 5432, 5900, 6379, 8000, 8001, 8006};
#define HOST_PORTS ((int)(sizeof host_ports / sizeof host_ports[0]))

/* What every guest tries before it shows anything: see docs/formats/claim.md, "isolation". `files` is the one address
 * that may answer, on its one port, and is therefore never knocked on. */
static void standard_knocks(struct knocks *k, const char *mine, const char *files) {
    static const char *public_addresses[] = {"192.0.2.1", "203.0.113.1"};
    char address[64];
    for (int host = 1; host <= 3; host++) {
        neighbour(address, sizeof address, mine, host);
        if (strcmp(address, files) == 0 || strcmp(address, mine) == 0) continue;
        knock_add(k, "dns", KNOCK_DNS, address, 53);
        knock_add(k, "icmp", KNOCK_ECHO, address, 0);
        for (int i = 0; i < HOST_PORTS; i++) knock_add(k, "host", KNOCK_TCP, address, host_ports[i]);
    }
    for (int i = 0; i < 2; i++) {
        knock_add(k, "dns", KNOCK_DNS, public_addresses[i], 53);
        knock_add(k, "dns", KNOCK_DNS_TCP, public_addresses[i], 53);
        knock_add(k, "public", KNOCK_ECHO, public_addresses[i], 0);
        knock_add(k, "public", KNOCK_TCP, public_addresses[i], 80);
        knock_add(k, "public", KNOCK_TCP, public_addresses[i], 443);
    }
    knock_add(k, "ipv6", KNOCK_ECHO6, "ff02::1", 0);
    knock_add(k, "ipv6", KNOCK_ECHO6, "ff02::2", 0);
    knock_add(k, "ipv6", KNOCK_ECHO6, "fe80::2", 0);
    int own = atoi(strrchr(mine, '.') + 1);
    for (int step = -2; step <= 2; step++) {
        if (step == 0 || own + step < 4 || own + step > 254) continue;
        neighbour(address, sizeof address, mine, own + step);
        if (strcmp(address, files) == 0) continue;
        knock_add(k, "neighbours", KNOCK_ECHO, address, 0);
        knock_add(k, "neighbours", KNOCK_TCP, address, 22);
    }
    neighbour(address, sizeof address, mine, 255);
    knock_add(k, "neighbours", KNOCK_ECHO, address, 0);
}
#endif
