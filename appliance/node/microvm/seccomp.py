"""The system calls that a jail and its stand-ins may make: those of Python, of QEMU and of its file server.

Everything else answers ENOSYS, as a kernel without that call would: programs have a second way for that, and none of
them is a way out. QEMU puts a stricter filter of its own (`-sandbox`) on top.
"""

from __future__ import annotations

ENOSYS = 38
AF_UNIX = 1
# CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET and _NEWTIME (<linux/sched.h>)
NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x80

FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr
    fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lchown lgetxattr link
    linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat
    openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readlink readlinkat readv removexattr rename renameat
    renameat2 rmdir sendfile setxattr stat statfs statx symlink symlinkat sync_file_range syncfs truncate umask unlink
    unlinkat utime utimensat utimes write writev
"""
MEMORY = "brk madvise membarrier memfd_create mincore mmap mprotect mremap msync munmap"
PROCESSES = """
    arch_prctl capget capset execve exit exit_group fork futex get_robust_list getcpu getegid geteuid getgid getgroups
    getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid kill prctl
    prlimit64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam sched_getscheduler
    sched_yield seccomp set_robust_list set_tid_address setpgid setrlimit setsid sysinfo tgkill times tkill uname vfork
    wait4 waitid getrandom
"""
SIGNALS_AND_TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause restart_syscall
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo setitimer sigaltstack signalfd signalfd4 time timer_create timer_delete timer_getoverrun
    timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pipe pipe2 poll ppoll
    pselect6 select
"""
SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg
    sendto setsockopt shutdown
"""


def profile() -> dict:
    """Return the OCI ``linux.seccomp`` of a jail and of a stand-in."""
    names = " ".join((FILES, MEMORY, PROCESSES, SIGNALS_AND_TIME, WAITING, SOCKETS)).split()
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            # Threads and children, but no new namespaces. clone3, whose flags no filter can see, is not there.
            _if("clone", {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": NEW_NAMESPACES, "valueTwo": 0}),
            # The jail shares the pod's network namespace: it gets no way to speak there but its tap.
            *(_if(n, {"index": 0, "op": "SCMP_CMP_EQ", "value": AF_UNIX}) for n in ("socket", "socketpair")),
        ],
    }


def _if(name: str, condition: dict) -> dict:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]}
