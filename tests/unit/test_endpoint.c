/* Addresses through link_bind and link_connect: what is refused, with which words, and what is in use. */
#include "proto/endpoint.h"
#include "proto/link.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define OK(call) do { err_code rc_ = (call); cr_assert_eq(rc_, ERR_OK, "%s: %s", #call, e.text); } while (0)

typedef struct { char dir[32], ipc[128]; } place;

static place make_place(void)
{
    place p = { .dir = "/tmp/linkXXXXXX" };
    cr_assert(mkdtemp(p.dir));
    snprintf(p.ipc, sizeof p.ipc, "ipc://%s/a.sock", p.dir);
    return p;
}

static void drop_place(const place *p)
{
    unlink(p->ipc + strlen("ipc://"));
    cr_assert_eq(rmdir(p->dir), 0, "something is left in %s", p->dir);
}

static void bind_refused(hub *h, const char *addr, err_code want, const char *word)
{
    link_t *l = (link_t *)1;
    err e = { 0 };
    cr_assert_eq(link_bind(&l, h, LINK_PULL, LINK_DATA, addr, &e), want, "%s: %s", addr, e.text);
    cr_assert_null(l);
    cr_assert(strstr(e.text, word), "\"%s\" does not say \"%s\"", e.text, word);
}

Test(endpoint, tcp_without_keys_binds_loopback_only)
{
    err e = { 0 };
    hub *h;
    OK(hub_open(&h, &e));
    bind_refused(h, "tcp://0.0.0.0:5555", ERR_CONFIG,
                 "refused: tcp://0.0.0.0:5555 is not a loopback address and there are no keys (--key FILE; --insecure listens in the clear)");
    static const char *const bad[] = {
        "tcp://*:5555", "tcp://10.0.0.1:*", "tcp://[::]:5555", "tcp://eth0:5555", "tcp://example.org:80",
        "tcp://127.0.0.1.example.org:80", "tcp://128.0.0.1:5", "tcp://[::ffff:10.0.0.1]:5", "tcp://0x7f.1:5",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) bind_refused(h, bad[i], ERR_CONFIG, "not a loopback address");
    bind_refused(h, "tcp://127.0.0.1;10.0.0.1:5", ERR_CONFIG, "\";\" belongs to no host");
    hub_close(&h);
}

Test(endpoint, every_spelling_of_loopback_binds_and_tells_its_port)
{
    static const char *const good[] = {
        "tcp://127.0.0.1:*", "tcp://127.0.0.1:0", "tcp://localhost:*", "tcp://lo:0", "tcp://127.1.2.3:*", "tcp://[::1]:*",
    };
    err e = { 0 };
    hub *h;
    OK(hub_open(&h, &e));
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        link_t *l;
        err_code rc = link_bind(&l, h, LINK_PULL, LINK_DATA, good[i], &e);
        if (rc && strstr(good[i], "::1")) continue; /* a host without IPv6 */
        cr_assert_eq(rc, ERR_OK, "%s: %s", good[i], e.text);
        cr_assert_gt(atoi(strrchr(link_addr(l), ':') + 1), 0, "%s -> %s", good[i], link_addr(l));
        link_close(&l);
    }
    hub_close(&h);
}

Test(endpoint, nonsense_addresses_are_refused)
{
    static const char *const bad[] = {
        "", "x", "udp://127.0.0.1:5", "pgm://x", "tcp://", "tcp://127.0.0.1", "tcp://:5", "tcp://127.0.0.1:x", "TCP://127.0.0.1:5",
        "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1", "tcp://127.0.0.1:", "ipc://", "inproc://",
    };
    err e = { 0 };
    hub *h;
    OK(hub_open(&h, &e));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) bind_refused(h, bad[i], ERR_CONFIG, *bad[i] ? bad[i] : "\"\"");
    link_t *l;
    cr_assert_eq(link_connect(&l, h, LINK_PUSH, LINK_DATA, "tcp://127.0.0.1:*", &e), ERR_CONFIG);
    cr_assert_eq(link_connect(&l, h, LINK_PUSH, LINK_DATA, "tcp://127.0.0.1:0", &e), ERR_CONFIG);
    hub_close(&h);
}

Test(endpoint, too_long_ipc_path_names_the_limit)
{
    err e = { 0 };
    hub *h;
    OK(hub_open(&h, &e));
    char addr[200] = "ipc:///tmp/";
    memset(addr + strlen(addr), 'p', 103); /* "/tmp/" and 103 are 108 */
    bind_refused(h, addr, ERR_CONFIG, "limit 107");
    char huge[400] = "ipc:///";
    memset(huge + strlen(huge), 'p', 300);
    bind_refused(h, huge, ERR_CONFIG, "limit 255");
    hub_close(&h);
}

Test(endpoint, ipc_path_of_107_bytes_works)
{
    place at = make_place();
    size_t n = strlen(at.dir) + 1;
    snprintf(at.ipc, sizeof at.ipc, "ipc://%s/", at.dir);
    memset(at.ipc + strlen(at.ipc), 'p', ENDPOINT_IPC_MAX - n);
    err e = { 0 };
    hub *h;
    link_t *pull, *push;
    packet p = { 0 };
    message m = msg_init(MSG_DROP);
    m.drop.session = 1;
    OK(hub_open(&h, &e));
    OK(link_bind(&pull, h, LINK_PULL, LINK_DATA, at.ipc, &e));
    OK(link_connect(&push, h, LINK_PUSH, LINK_DATA, at.ipc, &e));
    OK(link_send(push, NULL, &m, NULL, 5000, &e));
    OK(link_recv(pull, &p, 5000, &e));
    packet_done(&p);
    link_close(&push);
    link_close(&pull);
    hub_close(&h);
    drop_place(&at);
}

Test(endpoint, port_in_use_is_said)
{
    err e = { 0 };
    hub *h, *other;
    link_t *a, *b;
    OK(hub_open(&h, &e));
    OK(hub_open(&other, &e));
    OK(link_bind(&a, h, LINK_PULL, LINK_DATA, "tcp://127.0.0.1:*", &e));
    cr_assert_eq(link_bind(&b, other, LINK_PULL, LINK_DATA, link_addr(a), &e), ERR_IO);
    cr_assert(strstr(e.text, "address already in use") && strstr(e.text, link_addr(a)), "%s", e.text);
    link_close(&a);
    OK(link_bind(&a, h, LINK_PULL, LINK_DATA, "inproc://x", &e));
    bind_refused(h, "inproc://x", ERR_IO, "address already in use");
    link_close(&a);
    hub_close(&other);
    hub_close(&h);
}

/* A child that accepts on the path until its pipe closes. */
static pid_t live_listener(const char *path, int *stop)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), p[2];
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    cr_assert(!bind(fd, (struct sockaddr *)&un, sizeof un) && !listen(fd, 1) && !pipe(p));
    pid_t pid = fork();
    if (pid == 0) {
        char c;
        close(p[1]);
        _exit(read(p[0], &c, 1) != 0);
    }
    close(fd);
    close(p[0]);
    *stop = p[1];
    return pid;
}

Test(endpoint, ipc_path_of_a_live_process_is_in_use_and_a_stale_one_is_free)
{
    place at = make_place();
    err e = { 0 };
    hub *h;
    link_t *l;
    OK(hub_open(&h, &e));
    int stop;
    pid_t pid = live_listener(at.ipc + strlen("ipc://"), &stop);
    bind_refused(h, at.ipc, ERR_IO, "address already in use");
    close(stop);
    waitpid(pid, NULL, 0);
    cr_assert_eq(access(at.ipc + strlen("ipc://"), F_OK), 0, "the file must be left over for this test");
    OK(link_bind(&l, h, LINK_PULL, LINK_DATA, at.ipc, &e));
    bind_refused(h, at.ipc, ERR_IO, "address already in use"); /* ourselves count too */
    link_close(&l);
    hub_close(&h);
    drop_place(&at);
}

Test(endpoint, file_that_is_no_socket_is_not_overwritten)
{
    place at = make_place();
    err e = { 0 };
    hub *h;
    OK(hub_open(&h, &e));
    int fd = open(at.ipc + strlen("ipc://"), O_CREAT | O_WRONLY, 0600);
    cr_assert(fd >= 0 && write(fd, "keep", 4) == 4);
    close(fd);
    bind_refused(h, at.ipc, ERR_IO, "not a socket");
    struct stat st;
    cr_assert(!stat(at.ipc + strlen("ipc://"), &st) && st.st_size == 4);
    hub_close(&h);
    drop_place(&at);
}

Test(endpoint, missing_folder_of_an_ipc_path_is_an_error)
{
    err e = { 0 };
    hub *h;
    OK(hub_open(&h, &e));
    bind_refused(h, "ipc:///tmp/no-such-folder-of-ours/a.sock", ERR_IO, "ipc:///tmp/no-such-folder-of-ours/a.sock");
    hub_close(&h);
}
