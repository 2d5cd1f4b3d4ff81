/* A journal of what a process asks of its disk, for power cuts that are not one.
 *
 * Preloaded into the server, it performs each call and appends it to a journal: creations, writes with their bytes, lengths, renames,
 * removals, and where each sync began and ended. `image.rs` reads the journal and builds what a disk may hold after the power went.
 *
 * In: POWER_ROOT, the folder that is watched; POWER_JOURNAL, the file appended to; POWER_DIE, "TEXT=N": the process is killed when it
 * begins the Nth sync of files whose name has the text in it, so all that was written for it is still up to chance. Everything outside
 * the folder passes untouched.
 * A record is a 40-byte head (kind, flags, length of a, length of b, inode, two numbers) and then the bytes of a and b.
 *
 * Invariants: a change and its record are made under one lock, so the journal has the order of the file system; a sync has two
 * records and holds no lock between them, so writes may fall into it; what cannot be journaled (a writable shared mapping) ends the
 * process, for a silent gap would let a test pass that should not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
  K_CREATE = 1, /* a: path, inode */
  K_OPEN,       /* a: path, inode */
  K_WRITE,      /* x: offset, b: bytes */
  K_LENGTH,     /* x: new length */
  K_RESERVE,    /* x: offset, y: length, flags: 1 keeps the length */
  K_SYNC_BEGIN, /* x: number */
  K_SYNC_END,   /* x: number */
  K_RENAME,     /* a: from, b: to */
  K_REMOVE,     /* a: path */
  K_MKDIR,      /* a: path */
  K_RMDIR,      /* a: path */
  K_DIR_BEGIN,  /* a: path, x: number: the sync of a folder */
  K_LINK        /* a: from, b: to */
};

struct head {
  uint16_t kind, flags;
  uint32_t a;
  uint32_t b;
  uint32_t spare;
  uint64_t inode;
  uint64_t x, y;
};

#define FDS 65536
enum { NOT_OURS = 0, OUR_FILE = 1, OUR_DIR = 2 };
static unsigned char ours[FDS];
static char root[PATH_MAX];
static size_t root_size;
static int journal = -1;
static uint64_t syncs;
static char fatal[64];
static long until_fatal;
static dev_t root_device;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name)                                                             \
  ({                                                                           \
    static __typeof__(&name) real_##name;                                      \
    if (!real_##name) real_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    real_##name;                                                               \
  })

static void give_up(const char *why) {
  dprintf(2, "power shim: %s\n", why);
  abort();
}

__attribute__((constructor)) static void start(void) {
  const char *r = getenv("POWER_ROOT"), *j = getenv("POWER_JOURNAL");
  if (!r || !j) return;
  if (strlen(r) >= sizeof root) give_up("POWER_ROOT is too long");
  strcpy(root, r);
  root_size = strlen(root);
  struct stat st;
  if (stat(root, &st)) give_up("POWER_ROOT is not there");
  root_device = st.st_dev;
  const char *die = getenv("POWER_DIE"), *number = die ? strrchr(die, '=') : NULL;
  if (die) {
    if (!number || (size_t)(number - die) >= sizeof fatal) give_up("POWER_DIE is not TEXT=N");
    memcpy(fatal, die, number - die);
    until_fatal = strtol(number + 1, NULL, 10);
  }
  journal = REAL(open)(j, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (journal < 0) give_up("the journal cannot be opened");
}

static int under_root(const char *path) {
  return journal >= 0 && strncmp(path, root, root_size) == 0 && (path[root_size] == '/' || path[root_size] == 0);
}

/* The whole path of (dirfd, path) in out; 0 when it is not under the root. */
static int resolve(int dirfd, const char *path, char *out) {
  if (journal < 0 || !path) return 0;
  if (path[0] == '/' || dirfd == AT_FDCWD) {
    if (path[0] == '/') {
      if (strlen(path) >= PATH_MAX) return 0;
      strcpy(out, path);
    } else {
      char here[PATH_MAX];
      if (!getcwd(here, sizeof here)) return 0;
      if (snprintf(out, PATH_MAX, "%s/%s", here, path) >= PATH_MAX) return 0;
    }
  } else {
    char link[64], dir[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    ssize_t n = readlink(link, dir, sizeof dir - 1);
    if (n < 0) return 0;
    dir[n] = 0;
    if (snprintf(out, PATH_MAX, "%s/%s", dir, path) >= PATH_MAX) return 0;
  }
  return under_root(out);
}

static void note(enum kind kind, int flags, uint64_t inode, uint64_t x, uint64_t y, const void *a, size_t an, const struct iovec *b,
                 int bn, size_t bytes) {
  struct head head = {.kind = kind, .flags = flags, .a = an, .b = bytes, .inode = inode, .x = x, .y = y};
  struct iovec parts[66];
  int n = 0;
  parts[n++] = (struct iovec){&head, sizeof head};
  if (an) parts[n++] = (struct iovec){(void *)a, an};
  size_t left = bytes;
  for (int i = 0; i < bn && left && n < 66; i++) {
    size_t take = b[i].iov_len < left ? b[i].iov_len : left;
    parts[n++] = (struct iovec){b[i].iov_base, take};
    left -= take;
  }
  size_t want = sizeof head + an + bytes;
  ssize_t done = REAL(writev)(journal, parts, n);
  if (done < 0 || (size_t)done != want) give_up("the journal cannot be written");
}

static uint64_t inode_of(int fd) {
  struct stat st;
  return fstat(fd, &st) ? 0 : st.st_ino;
}

static int class_of(int fd) {
  if (fd < 0 || fd >= FDS || ours[fd] == NOT_OURS) return NOT_OURS;
  /* stdio closes descriptors without a call we see, and the number may stand for a socket by now. */
  struct stat st;
  if (fstat(fd, &st) || st.st_dev != root_device || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) ours[fd] = NOT_OURS;
  return ours[fd];
}

static void lock_it(void) { pthread_mutex_lock(&lock); }
static void unlock_it(void) { pthread_mutex_unlock(&lock); }

static int open_noted(int dirfd, const char *path, int flags, mode_t mode) {
  char whole[PATH_MAX];
  if (!resolve(dirfd, path, whole)) {
    int fd = REAL(openat)(dirfd, path, flags, mode);
    if (fd >= 0 && fd < FDS) ours[fd] = NOT_OURS;
    return fd;
  }
  lock_it();
  struct stat st;
  int was = lstat(whole, &st) == 0;
  int fd = REAL(openat)(dirfd, path, flags, mode);
  int saved = errno;
  if (fd >= FDS) give_up("a descriptor is out of range");
  if (fd >= 0 && fstat(fd, &st) == 0) {
    ours[fd] = S_ISDIR(st.st_mode) ? OUR_DIR : OUR_FILE;
    if (S_ISREG(st.st_mode)) {
      note(was ? K_OPEN : K_CREATE, 0, st.st_ino, 0, 0, whole, strlen(whole), NULL, 0, 0);
      if (was && (flags & O_TRUNC)) note(K_LENGTH, 0, st.st_ino, 0, 0, NULL, 0, NULL, 0, 0);
    }
  }
  unlock_it();
  errno = saved;
  return fd;
}

#define MODE(flags)                              \
  mode_t mode = 0;                               \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {       \
    va_list list;                                \
    va_start(list, flags);                       \
    mode = va_arg(list, mode_t);                 \
    va_end(list);                                \
  }

int open(const char *path, int flags, ...) { MODE(flags) return open_noted(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_noted(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_noted(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_noted(dirfd, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return open_noted(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
  if (fd >= 0 && fd < FDS) ours[fd] = NOT_OURS;
  return REAL(close)(fd);
}

static int copied(int from, int to) {
  if (to >= 0 && to < FDS) ours[to] = class_of(from);
  return to;
}
int dup(int fd) { return copied(fd, REAL(dup)(fd)); }
int dup2(int fd, int to) { return copied(fd, REAL(dup2)(fd, to)); }
int dup3(int fd, int to, int flags) { return copied(fd, REAL(dup3)(fd, to, flags)); }
static int fcntl_noted(int fd, int command, void *argument) {
  int result = REAL(fcntl)(fd, command, argument);
  return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}
int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  return fcntl_noted(fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void *argument = va_arg(list, void *);
  va_end(list);
  return fcntl_noted(fd, command, argument);
}

/* offset < 0: at the descriptor's own place. */
static ssize_t write_noted(int fd, const struct iovec *parts, int count, off_t offset) {
  if (count > 64) give_up("a write of more than 64 parts");
  lock_it();
  off_t at = offset;
  if (offset < 0) {
    int flags = REAL(fcntl)(fd, F_GETFL);
    struct stat st;
    at = (flags & O_APPEND) && fstat(fd, &st) == 0 ? st.st_size : lseek(fd, 0, SEEK_CUR);
  }
  ssize_t done = offset < 0 ? REAL(writev)(fd, parts, count) : REAL(pwritev)(fd, parts, count, offset);
  int saved = errno;
  if (done > 0) note(K_WRITE, 0, inode_of(fd), at, 0, NULL, 0, parts, count, done);
  unlock_it();
  errno = saved;
  return done;
}

ssize_t write(int fd, const void *bytes, size_t size) {
  if (class_of(fd) != OUR_FILE) return REAL(write)(fd, bytes, size);
  return write_noted(fd, &(struct iovec){(void *)bytes, size}, 1, -1);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (class_of(fd) != OUR_FILE) return REAL(writev)(fd, parts, count);
  return write_noted(fd, parts, count, -1);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
  if (class_of(fd) != OUR_FILE) return REAL(pwrite)(fd, bytes, size, offset);
  return write_noted(fd, &(struct iovec){(void *)bytes, size}, 1, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) { return pwrite(fd, bytes, size, offset); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  if (class_of(fd) != OUR_FILE) return REAL(pwritev)(fd, parts, count, offset);
  return write_noted(fd, parts, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return pwritev(fd, parts, count, offset); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  if (class_of(fd) != OUR_FILE) return REAL(pwritev2)(fd, parts, count, offset, flags);
  give_up("pwritev2 is not journaled");
  return -1;
}

int ftruncate(int fd, off_t length) {
  if (class_of(fd) != OUR_FILE) return REAL(ftruncate)(fd, length);
  lock_it();
  int result = REAL(ftruncate)(fd, length), saved = errno;
  if (result == 0) note(K_LENGTH, 0, inode_of(fd), length, 0, NULL, 0, NULL, 0, 0);
  unlock_it();
  errno = saved;
  return result;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int truncate(const char *path, off_t length) {
  char whole[PATH_MAX];
  if (resolve(AT_FDCWD, path, whole)) give_up("truncate by name is not journaled");
  return REAL(truncate)(path, length);
}
int truncate64(const char *path, off64_t length) { return truncate(path, length); }

int fallocate(int fd, int mode, off_t offset, off_t length) {
  if (class_of(fd) != OUR_FILE) return REAL(fallocate)(fd, mode, offset, length);
  if (mode & ~FALLOC_FL_KEEP_SIZE) {
    /* Holes only take bytes that were to be thrown away; a file system may refuse them, so this one does. */
    errno = EOPNOTSUPP;
    return -1;
  }
  lock_it();
  int result = REAL(fallocate)(fd, mode, offset, length), saved = errno;
  if (result == 0) note(K_RESERVE, mode != 0, inode_of(fd), offset, length, NULL, 0, NULL, 0, 0);
  unlock_it();
  errno = saved;
  return result;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) {
  if (class_of(fd) != OUR_FILE) return REAL(posix_fallocate)(fd, offset, length);
  return fallocate(fd, 0, offset, length) ? errno : 0;
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

static int sync_noted(int fd, int (*real)(int)) {
  int class = class_of(fd);
  if (class == NOT_OURS) return real(fd);
  lock_it();
  uint64_t number = ++syncs, inode = inode_of(fd);
  if (class == OUR_DIR) {
    char link[64], dir[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, dir, sizeof dir);
    if (n < 0) give_up("a folder has no name");
    note(K_DIR_BEGIN, 0, inode, number, 0, dir, n, NULL, 0, 0);
  } else {
    if (until_fatal) {
      char link[64], file[PATH_MAX];
      snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
      ssize_t n = readlink(link, file, sizeof file - 1);
      file[n < 0 ? 0 : n] = 0;
      if (strstr(file + root_size, fatal) && --until_fatal == 0) kill(getpid(), SIGKILL);
    }
    note(K_SYNC_BEGIN, 0, inode, number, 0, NULL, 0, NULL, 0, 0);
  }
  unlock_it();
  int result = real(fd), saved = errno;
  if (result == 0) {
    lock_it();
    note(K_SYNC_END, 0, inode, number, 0, NULL, 0, NULL, 0, 0);
    unlock_it();
  }
  errno = saved;
  return result;
}
int fsync(int fd) { return sync_noted(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_noted(fd, REAL(fdatasync)); }

static int rename_noted(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
  char a[PATH_MAX], b[PATH_MAX];
  int ours_a = resolve(from_dir, from, a), ours_b = resolve(to_dir, to, b);
  if (!ours_a && !ours_b) return REAL(renameat2)(from_dir, from, to_dir, to, flags);
  if (!ours_a || !ours_b || flags) give_up("a rename into, out of or across the root is not journaled");
  lock_it();
  int result = REAL(renameat2)(from_dir, from, to_dir, to, flags), saved = errno;
  if (result == 0) note(K_RENAME, 0, 0, 0, 0, a, strlen(a), &(struct iovec){b, strlen(b)}, 1, strlen(b));
  unlock_it();
  errno = saved;
  return result;
}
int rename(const char *from, const char *to) { return rename_noted(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int fd, const char *from, int td, const char *to) { return rename_noted(fd, from, td, to, 0); }
int renameat2(int fd, const char *from, int td, const char *to, unsigned flags) { return rename_noted(fd, from, td, to, flags); }

static int remove_noted(int dirfd, const char *path, int flags) {
  char whole[PATH_MAX];
  if (!resolve(dirfd, path, whole)) return REAL(unlinkat)(dirfd, path, flags);
  lock_it();
  int result = REAL(unlinkat)(dirfd, path, flags), saved = errno;
  if (result == 0) note(flags & AT_REMOVEDIR ? K_RMDIR : K_REMOVE, 0, 0, 0, 0, whole, strlen(whole), NULL, 0, 0);
  unlock_it();
  errno = saved;
  return result;
}
int unlink(const char *path) { return remove_noted(AT_FDCWD, path, 0); }
int unlinkat(int dirfd, const char *path, int flags) { return remove_noted(dirfd, path, flags); }
int rmdir(const char *path) { return remove_noted(AT_FDCWD, path, AT_REMOVEDIR); }

static int mkdir_noted(int dirfd, const char *path, mode_t mode) {
  char whole[PATH_MAX];
  if (!resolve(dirfd, path, whole)) return REAL(mkdirat)(dirfd, path, mode);
  lock_it();
  int result = REAL(mkdirat)(dirfd, path, mode), saved = errno;
  if (result == 0) note(K_MKDIR, 0, 0, 0, 0, whole, strlen(whole), NULL, 0, 0);
  unlock_it();
  errno = saved;
  return result;
}
int mkdir(const char *path, mode_t mode) { return mkdir_noted(AT_FDCWD, path, mode); }
int mkdirat(int dirfd, const char *path, mode_t mode) { return mkdir_noted(dirfd, path, mode); }

int link(const char *from, const char *to) {
  char a[PATH_MAX], b[PATH_MAX];
  int ours_a = resolve(AT_FDCWD, from, a), ours_b = resolve(AT_FDCWD, to, b);
  if (!ours_a && !ours_b) return REAL(link)(from, to);
  lock_it();
  int result = REAL(link)(from, to), saved = errno;
  if (result == 0) note(K_LINK, 0, 0, 0, 0, a, strlen(a), &(struct iovec){b, strlen(b)}, 1, strlen(b));
  unlock_it();
  errno = saved;
  return result;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (class_of(fd) == OUR_FILE && (flags & MAP_SHARED) && (protection & PROT_WRITE)) give_up("a writable mapping is not journaled");
  return REAL(mmap)(at, size, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
  return mmap(at, size, protection, flags, fd, offset);
}
