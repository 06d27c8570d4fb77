"""What a process that works on untrusted bytes gives up for good, as far as the kernel lets it.

Landlock takes away the file system, but for the folders that Python's libraries are in; seccomp takes away the
network, other programs and processes, and opening files to write; limits take away core dumps, which would hold what
a file holds. All of it is for Linux on x86-64 and arm64. What is missing elsewhere is left out and reported.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

EPERM, ENOSYS = 1, 38
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_DENIED = """
    socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
    execve 59 221, execveat 322 281, fork 57 -, vfork 58 -, ptrace 101 117, kill 62 129, tkill 200 130,
    rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, process_vm_readv 310 270, process_vm_writev 311 271,
    pidfd_open 434 434, pidfd_send_signal 424 424, pidfd_getfd 438 438, process_madvise 440 440, kcmp 312 272,
    io_uring_setup 425 425, bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, open_by_handle_at 304 265,
    keyctl 250 219, add_key 248 217, request_key 249 218, unshare 272 97, setns 308 268, chroot 161 51,
    mount 165 40, umount2 166 39, pivot_root 155 41, open_tree 428 428, move_mount 429 429, fsopen 430 430,
    init_module 175 105, finit_module 313 273, kexec_load 246 104, shmget 29 194, msgget 68 186, mq_open 240 180,
    creat 85 -, truncate 76 45, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276,
    mkdir 83 -, mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, mknod 133 -,
    mknodat 259 33, chmod 90 -, fchmodat 268 53, fchmodat2 452 452, chown 92 -, lchown 94 -, fchownat 260 54,
    setxattr 188 5, lsetxattr 189 6, utimensat 280 88
"""
"""System calls that are refused, with their numbers on x86-64 and arm64."""
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine → its name for seccomp, and its column of the numbers."""
_SYSCALLS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "open": (2, None),
    "openat": (257, 56),
    "prlimit64": (302, 261),
    "tgkill": (234, 131),
    "seccomp": (317, 277),
}
_TO_WRITE = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD = 0x10000
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # version of Landlock → how many rights on files it knows
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What holds for a process.

    Attributes:
        files: whether it can read no files but those of Python's libraries, and write none (Landlock).
        network: whether it can open no socket (seccomp).
        processes: whether it can start no program and touch no other process (seccomp).
        core_dumps: whether a crash writes no copy of its memory to disk.
    """

    files: bool = False
    network: bool = False
    processes: bool = False
    core_dumps: bool = False

    def to_json(self) -> dict[str, bool]:
        """Return the fields as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, bool]) -> "Confinement":
        """Return the confinement whose `to_json` gave these values."""
        return cls(**{name: bool(values.get(name)) for name in cls.__dataclass_fields__})


def confine(readable: Iterable[str]) -> Confinement:
    """Confine this process, which has one thread, for the rest of its life.

    Args:
        readable: folders that stay readable, beside those that Python and its libraries were loaded from.
    """
    if sys.platform != "linux":
        return Confinement()
    with suppress(OSError):  # if memory runs out, this process is to be ended, and not the one that asked
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    folders = {*readable, *_library_folders()}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    no_dumps = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return Confinement(core_dumps=no_dumps)
    files, calls = _restrict_files(libc, folders), _restrict_calls(libc)
    return Confinement(files=files, network=calls, processes=calls, core_dumps=no_dumps)


def _library_folders() -> set[str]:
    """Return the folders that modules and shared libraries are loaded from, now and with the first file of a format."""
    linked = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *linked, "/etc/ld.so.cache"}
    with suppress(OSError):
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        folders |= {str(Path(line[line.index("/") :]).parent) for line in mapped if ".so" in line and "/" in line}
    return folders - {"", "/"}


def _restrict_files(libc: ctypes.CDLL, folders: Collection[str]) -> bool:
    """Forbid all but reading what is in the folders; return whether the kernel does so."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS[max(v for v in _FILE_RIGHTS if v <= version)]) - 1
    tcp, scopes = 3 if version >= 4 else 0, 3 if version >= 6 else 0  # bind and connect; abstract sockets and signals
    attributes = struct.pack("3Q", rights, tcp, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return False
    for folder in folders:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ_FILE | _READ_FOLDER if Path(folder).is_dir() else _READ_FILE
            libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, descriptor), 0)
            os.close(descriptor)
    done: bool = libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return done


def _restrict_calls(libc: ctypes.CDLL) -> bool:
    """Forbid system calls of all threads; return whether the kernel does so."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        return False
    program = b"".join(_filter(*_ARCHITECTURES[machine]))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    set_filter, every_thread, as_fast_as_before = 1, 1, 4  # old kernels slow down what is confined, against Spectre
    number = _SYSCALLS["seccomp"][_ARCHITECTURES[machine][1]]
    done: bool = libc.syscall(number, set_filter, every_thread | as_fast_as_before, header) == 0
    return done


def _filter(architecture: int, column: int) -> Iterable[bytes]:
    """Yield the instructions of a filter: struct sock_filter of linux/filter.h, 8 bytes each."""
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse, absent, allow = 0x00050000 | EPERM, 0x00050000 | ENOSYS, 0x7FFF0000
    number_at, architecture_at, arguments_at = 0, 4, 16

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    def answer(name: str, *steps: bytes) -> bytes:
        """Run steps, which leave the filter, if the call is the one of this name."""
        number = _SYSCALLS[name][column]
        return b"" if number is None else step(equal, number, 0, len(steps)) + b"".join(steps)

    def decide(argument: int, code: int, value: int, if_true: int, if_false: int) -> tuple[bytes, ...]:
        test = (step(load, arguments_at + 8 * argument), step(code, value, 0, 1))
        return (*test, step(end, if_true), step(end, if_false))

    yield step(load, architecture_at) + step(equal, architecture, 1, 0) + step(end, refuse)
    yield step(load, number_at) + step(at_least, 0x40000000, 0, 1) + step(end, refuse)  # x86-64's other table of calls
    yield answer("open", *decide(1, any_bit, _TO_WRITE, refuse, allow))
    yield answer("openat", *decide(2, any_bit, _TO_WRITE, refuse, allow))
    yield answer("clone", *decide(0, any_bit, _CLONE_THREAD, allow, refuse))
    yield answer("tgkill", *decide(0, equal, os.getpid(), allow, refuse))  # what abort() does to its own process
    yield answer("prlimit64", *decide(0, equal, 0, allow, refuse))
    yield answer("clone3", step(end, absent))  # its flags are in memory, where no filter can look; libc uses clone then
    yield answer("openat2", step(end, absent))
    for line in _DENIED.replace("\n", " ").split(","):
        number = line.split()[1:][column]
        if number != "-":
            yield step(equal, int(number), 0, 1) + step(end, refuse)
    yield step(end, allow)
