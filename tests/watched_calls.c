/* Writes a line for every look-up of a name and every connection to another machine into the file that WATCHED_CALLS
 * names. Loaded with LD_PRELOAD by tests/cli/test_network.py. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void tell(const char *call, const char *what) {
    const char *path = getenv("WATCHED_CALLS");
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s\n", call, what ? what : "");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (file < 0) return;
    if (write(file, line, length) < 0) abort();
    close(file);
}

static void tell_address(const char *call, const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!to) return;
    if (to->sa_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)to)->sin_addr, text, sizeof text);
    else if (to->sa_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)to)->sin6_addr, text, sizeof text);
    else return;
    tell(call, text);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    struct in6_addr number;
    if (node && !inet_pton(AF_INET, node, &number) && !inet_pton(AF_INET6, node, &number)) tell("getaddrinfo", node);
    return REAL(getaddrinfo)(node, service, hints, found);
}
struct hostent *gethostbyname(const char *name) {
    tell("gethostbyname", name);
    return REAL(gethostbyname)(name);
}
int gethostbyname_r(const char *name, struct hostent *host, char *buffer, size_t size, struct hostent **found, int *error) {
    tell("gethostbyname_r", name);
    return REAL(gethostbyname_r)(name, host, buffer, size, found, error);
}
int gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *host, char *buffer, size_t size,
                    struct hostent **found, int *error) {
    tell("gethostbyaddr_r", "");
    return REAL(gethostbyaddr_r)(address, length, family, host, buffer, size, found, error);
}
int connect(int fd, const struct sockaddr *to, socklen_t length) {
    tell_address("connect", to);
    return REAL(connect)(fd, to, length);
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    tell_address("sendto", to);
    return REAL(sendto)(fd, data, size, flags, to, length);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    tell_address("sendmsg", message->msg_name);
    return REAL(sendmsg)(fd, message, flags);
}
