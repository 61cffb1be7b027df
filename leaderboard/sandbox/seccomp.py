"""A filter on system calls by ctypes: no sockets, no new processes, no links, no mounts, no debugging (seccomp(2), BPF of Linux 3.5).

What is refused returns EPERM, so that a plugin sees an ordinary ``PermissionError``. The list is one of refusals: what is not named passes,
and the other walls (mounts, Landlock, limits) must hold it.
"""

import ctypes
import errno
import os
import platform
import struct

from xaibench.errors import IsolationError

PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, TSYNC = 38, 1, 1
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NR, ARCH, ARGUMENT_0 = 0, 4, 16
CLONE_THREAD = 0x00010000
X32_BIT = 0x40000000

COMMON = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "memfd_secret": 447,
}
X86_64 = (
    "shmget 29 shmat 30 socket 41 connect 42 accept 43 sendto 44 bind 49 listen 50 fork 57 vfork 58 execve 59 kill 62 semget 64 "
    "msgget 68 link 86 symlink 88 ptrace 101 syslog 103 rt_sigqueueinfo 129 mknod 133 personality 135 pivot_root 155 adjtimex 159 "
    "chroot 161 acct 163 settimeofday 164 mount 165 umount2 166 swapon 167 swapoff 168 reboot 169 sethostname 170 "
    "setdomainname 171 iopl 172 ioperm 173 init_module 175 delete_module 176 quotactl 179 tkill 200 clock_settime 227 mq_open 240 "
    "kexec_load 246 add_key 248 request_key 249 keyctl 250 mknodat 259 linkat 265 symlinkat 266 unshare 272 accept4 288 "
    "rt_tgsigqueueinfo 297 perf_event_open 298 fanotify_init 300 name_to_handle_at 303 open_by_handle_at 304 clock_adjtime 305 "
    "setns 308 process_vm_readv 310 process_vm_writev 311 finit_module 313 memfd_create 319 kexec_file_load 320 bpf 321 "
    "execveat 322 userfaultfd 323"
)
AARCH64 = (
    "mknodat 33 symlinkat 36 linkat 37 umount2 39 mount 40 pivot_root 41 chroot 51 quotactl 60 acct 89 personality 92 unshare 97 "
    "kexec_load 104 init_module 105 delete_module 106 clock_settime 112 syslog 116 ptrace 117 kill 129 tkill 130 "
    "rt_sigqueueinfo 138 reboot 142 sethostname 161 setdomainname 162 settimeofday 170 adjtimex 171 mq_open 180 msgget 186 "
    "semget 190 shmget 194 shmat 196 socket 198 bind 200 listen 201 accept 202 connect 203 sendto 206 add_key 217 request_key 218 "
    "keyctl 219 execve 221 swapon 224 swapoff 225 rt_tgsigqueueinfo 240 perf_event_open 241 accept4 242 fanotify_init 262 "
    "name_to_handle_at 264 open_by_handle_at 265 clock_adjtime 266 setns 268 process_vm_readv 270 process_vm_writev 271 "
    "finit_module 273 memfd_create 279 bpf 280 execveat 281 userfaultfd 282 kexec_file_load 294"
)
OF_OTHERS = {"x86_64": (234, 302), "aarch64": (131, 261)}
"""``tgkill`` and ``prlimit64``: of this process alone, which the C library needs; below L3 the harness may be of the same user."""
MACHINES = {"x86_64": (0xC000003E, X86_64, 56, 317), "aarch64": (0xC00000B7, AARCH64, 220, 277)}
"""Audit number, refused calls, ``clone`` and ``seccomp`` of each machine; on others there is no filter. Tested on x86_64."""
CLONE3 = 435


def denied(listing: str) -> list[int]:
    """Return the numbers of the refused calls."""
    words = listing.split()
    return [int(number) for number in words[1::2]] + list(COMMON.values())


def program(machine: str, process: int) -> bytes:
    """Assemble the filter of a machine for a process."""
    audit, listing, clone, _ = MACHINES[machine]
    lines = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NR)]
    if machine == "x86_64":  # calls by the numbers of another convention
        lines += [(AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, KILL)]
    for number in denied(listing):
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    for number in OF_OTHERS[machine]:
        lines += [(EQUAL, 0, 5, number), (LOAD, 0, 0, ARGUMENT_0), (EQUAL, 2, 0, process), (EQUAL, 1, 0, 0)]
        lines += [(RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    lines += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]  # the C library falls back to clone
    lines += [(EQUAL, 0, 3, clone), (LOAD, 0, 0, ARGUMENT_0), (ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    lines += [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def no_new_privileges() -> None:
    """Forbid this process and its children to gain rights by ``exec``; needed for both locks."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise IsolationError(f"kernel must allow PR_SET_NO_NEW_PRIVS, got {os.strerror(ctypes.get_errno())}; use Linux 3.5 or newer")


def lock_calls() -> None:
    """Put the filter on all threads of this process, for good.

    Raises:
        IsolationError: If the machine has no list or the kernel refuses.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise IsolationError(f"machine must be one of {', '.join(MACHINES)} for a system call filter, got {machine}; use a container")
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    filled = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(MACHINES[machine][3], SECCOMP_SET_MODE_FILTER, TSYNC, ctypes.byref(filled)):
        raise IsolationError(f"kernel must allow seccomp filters, got {os.strerror(ctypes.get_errno())}; use a container")
