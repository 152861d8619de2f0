/* The guest's first process. Knows modules, mounts and the one network card; knows no bed: what differs between beds lies in /overlay.
 *
 * Under emulation every fork and exec costs tens of milliseconds, so this is one static program and not a script. The initramfs is the
 * root of a tmpfs that holds:
 *   /modules/disk|net|cxl  the uncompressed modules of each step, named so that their order is the order of loading
 *   /overlay               the upper layer of the guest's root: the bed's own files, and whatever the guest writes
 * The lower layer is the image, /dev/vda, which all guests share and none can write.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/route.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define INTERFACE "eth0"
#define ADDRESS "10.0.2.15" /* what QEMU's user network forwards to when no address is said */
#define NETMASK "255.255.255.0"
#define WAIT_TENTHS_MS 100000 /* 10 s: how long a device may take to appear */

static void say(const char *format, ...)
{
    struct timespec now;
    va_list arguments;

    clock_gettime(CLOCK_BOOTTIME, &now);
    printf("[%5ld.%06ld] cxlbed-init: ", (long)now.tv_sec, now.tv_nsec / 1000);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

/* Without its root or its network a guest is of no use: say why and stop, so that the console's last line is the reason. */
static void die(const char *what)
{
    say("FAILED: %s: %s", what, strerror(errno));
    for (;;)
        pause();
}

static void must_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *options)
{
    mkdir(target, 0755);
    if (mount(source, target, type, flags, options) != 0)
        die(target);
}

static void load_module(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0 || (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST))
        say("module %s: %s", path, strerror(errno));
    if (file >= 0)
        close(file);
}

static void load_modules(const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);

    if (count < 0)
        die(folder);
    for (int i = 0; i < count; i++) {
        char path[512];

        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            load_module(path);
    }
}

static void wait_for(const char *path)
{
    for (int waited = 0; access(path, F_OK) != 0; waited++) {
        if (waited > WAIT_TENTHS_MS)
            die(path);
        usleep(100);
    }
}

static void set_address(int socket_fd, unsigned long request, const char *address)
{
    struct ifreq interface = {.ifr_name = INTERFACE};
    struct sockaddr_in *in = (struct sockaddr_in *)&interface.ifr_addr;

    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
    if (ioctl(socket_fd, request, &interface) != 0)
        die(INTERFACE);
}

static void raise_interface(int socket_fd, const char *name)
{
    struct ifreq interface = {.ifr_flags = IFF_UP | IFF_RUNNING};

    strncpy(interface.ifr_name, name, sizeof interface.ifr_name - 1);
    if (ioctl(socket_fd, SIOCSIFFLAGS, &interface) != 0)
        die(name);
}

static void bring_up_network(void)
{
    int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    load_modules("/modules/net");
    wait_for("/sys/class/net/" INTERFACE);
    raise_interface(socket_fd, "lo");
    set_address(socket_fd, SIOCSIFADDR, ADDRESS);
    set_address(socket_fd, SIOCSIFNETMASK, NETMASK);
    raise_interface(socket_fd, INTERFACE);
    close(socket_fd);
}

/* Run `step` beside us; what it does in the kernel (loading, probing) needs no memory of ours. */
static pid_t beside(void (*step)(void))
{
    pid_t child = fork();

    if (child == 0) {
        step();
        _exit(0);
    }
    return child;
}

static void bring_up_cxl(void)
{
    load_modules("/modules/cxl");
    say("cxl modules loaded");
}

static void mount_root(void)
{
    load_modules("/modules/disk");
    wait_for(DISK);
    mkdir("/overlay", 0755);
    mkdir("/work", 0755);
    must_mount(DISK, "/image", "ext4", MS_RDONLY, NULL);
    must_mount("overlay", "/guest", "overlay", 0, "lowerdir=/image,upperdir=/overlay,workdir=/work");
}

static void enter_root(void)
{
    mount("/dev", "/guest/dev", NULL, MS_MOVE, NULL);
    mount("/proc", "/guest/proc", NULL, MS_MOVE, NULL);
    mount("/sys", "/guest/sys", NULL, MS_MOVE, NULL);
    if (chdir("/guest") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        die("entering the root");
    must_mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
    must_mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    must_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
    mkdir("/run/sshd", 0755);
}

static void set_hostname(void)
{
    char name[64] = "";
    FILE *file = fopen("/etc/hostname", "re");

    if (file && fgets(name, sizeof name, file))
        sethostname(name, strcspn(name, "\n"));
    if (file)
        fclose(file);
}

static void start_sshd(void)
{
    char *const arguments[] = {"/usr/sbin/sshd", "-D", "-e", NULL};
    char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};

    if (fork() == 0) {
        setsid();
        execve(arguments[0], arguments, environment);
        die(arguments[0]);
    }
}

int main(void)
{
    pid_t network;

    must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
    must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    say("started");
    network = beside(bring_up_network);
    beside(bring_up_cxl);
    mount_root();
    say("root mounted");
    waitpid(network, NULL, 0); /* sshd binds at once, so the address has to be there */
    enter_root();
    set_hostname();
    start_sshd();
    say("sshd started");
    for (;;)
        if (wait(NULL) < 0)
            pause();
}
