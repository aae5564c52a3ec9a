"""The system calls that a program may not make, as a seccomp filter.

The filter lists forbidden calls, because an interpreter and its libraries use most of the others. Calls that
change the machine, widen the attack surface of the kernel or have effects after the program's end are always forbidden.
With `shared`, the program sees the same processes, network, IPC and files as all others. Then the filter also forbids
calls that reach other processes, open a socket, or use the memory, semaphores and queues of others (System V IPC), and
calls that change properties of a file that Landlock does not control: owner, mode, times, attributes and (in its
versions 1 and 2) length.
"""

from __future__ import annotations

import os
import struct

__all__ = ["filter_instructions"]

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""By machine: its number in the kernel, and its column in the tables below."""

_ABSENT = -1
_ALWAYS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, _ABSENT),
    "iopl": (172, _ABSENT),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "modify_ldt": (154, _ABSENT),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_WHEN_SHARED = {
    "chmod": (90, _ABSENT),
    "chown": (92, _ABSENT),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "futimesat": (261, _ABSENT),
    "ioprio_set": (251, 30),
    "lchown": (94, _ABSENT),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "pidfd_send_signal": (424, 424),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "setsid": (112, 157),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "socket": (41, 198),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "utime": (132, _ABSENT),
    "utimensat": (280, 88),
    "utimes": (235, _ABSENT),
}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_OPEN, _OPENAT, _OPENAT2 = (2, _ABSENT), (257, 56), (437, 437)
_FCNTL, _IOCTL, _PRLIMIT, _KILL, _TGKILL = (72, 25), (16, 29), (302, 261), (62, 129), (234, 131)

_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW flag that clone can be given
_SIGNAL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: they make the kernel send signals
_TERMINAL_INPUT = (0x5412, 0x8901, 0x8902)  # TIOCSTI types into another terminal; FIOSETOWN and SIOCSPGRP as above
_FILE_FLAGS = (0x40086602, 0x40046602, 0x401C5820)  # FS_IOC_SETFLAGS, its 32-bit form, FS_IOC_FSSETXATTR
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_ACCESS_AND_TRUNCATE, _TRUNCATE = 0o1003, 0o1000  # O_ACCMODE | O_TRUNC; O_TRUNC alone empties a file opened for reading

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENT, _ARGUMENT_SIZE = 0, 4, 16, 8
_ALLOWED, _KILLED = 0x7FFF0000, 0x80000000
_NOT_PERMITTED, _NOT_THERE = 0x00050000 | 1, 0x00050000 | 38

_Instruction = tuple[int, int, int, int]


def filter_instructions(*, shared: bool, own_pid: int) -> bytes | None:
    """Return the filter in the kernel's format; None for an unknown kind of machine.

    Args:
        shared: the program shares processes, network, IPC and files with others: forbid sockets (pairs aside), leaving
            the process group, signals to any process but `own_pid`, others' shared memory, and changes to a file that
            need no writing.
        own_pid: the process that the filter is for.
    """
    if os.uname().machine not in _ARCHITECTURES:
        return None
    machine, column = _ARCHITECTURES[os.uname().machine]
    forbidden = _ALWAYS | (_WHEN_SHARED if shared else {})
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILLED),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if column == 0:  # x32, the other numbering of the same machine, would evade the rules
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _NOT_PERMITTED)]
    for numbers in forbidden.values():
        if numbers[column] != _ABSENT:
            code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _NOT_PERMITTED)]
    # A filter cannot read the flags of these calls, which lie in memory. Libraries fall back to the older calls
    # when these do not exist.
    for numbers in (_CLONE3, _OPENAT2):
        code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _NOT_THERE)]
    code += _rule(_CLONE[column], 0, [(_ANY_BIT, _NEW_NAMESPACES)], allow=False)
    code += _rule(_FCNTL[column], 1, [(_EQUAL, value) for value in _SIGNAL_OWNERS], allow=False)
    controls = _TERMINAL_INPUT + (_FILE_FLAGS if shared else ())
    code += _rule(_IOCTL[column], 1, [(_EQUAL, value) for value in controls], allow=False)
    code += _rule(_PRLIMIT[column], 0, [(_EQUAL, 0)], allow=True)
    if shared:
        code += _rule(_KILL[column], 0, [(_EQUAL, own_pid)], allow=True)
        code += _rule(_TGKILL[column], 0, [(_EQUAL, own_pid)], allow=True)
        for call, flags in ((_OPEN, 1), (_OPENAT, 2)):
            if call[column] != _ABSENT:
                code += _rule(call[column], flags, [(_EQUAL, _TRUNCATE)], allow=False, only_bits=_ACCESS_AND_TRUNCATE)
    else:
        code += _rule(_SOCKET[column], 0, [(_EQUAL, family) for family in _FAMILIES], allow=True)
    code.append((_RETURN, 0, 0, _ALLOWED))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _rule(
    number: int, argument: int, tests: list[tuple[int, int]], *, allow: bool, only_bits: int | None = None
) -> list[_Instruction]:
    """Return instructions that decide on one system call by the low half of an argument, and skip other calls.

    The call is allowed (with `allow`) or forbidden (without) when one of the tests holds, else the other way round.
    """
    hit, miss = (_ALLOWED, _NOT_PERMITTED) if allow else (_NOT_PERMITTED, _ALLOWED)
    body: list[_Instruction] = [(_LOAD, 0, 0, _ARGUMENT + _ARGUMENT_SIZE * argument)]
    if only_bits is not None:
        body.append((_AND, 0, 0, only_bits))
    for place, (comparison, value) in enumerate(tests):
        body.append((comparison, len(tests) - place, 0, value))
    body += [(_RETURN, 0, 0, miss), (_RETURN, 0, 0, hit)]
    return [(_EQUAL, 0, len(body), number), *body]
